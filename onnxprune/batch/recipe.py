"""Recipes: which models to prune, and in which ways; TOML, checked key by key.

    models = ["zoo/", "more/*.onnx", "s3://bucket/net.onnx"]
    skip = ["*broken*"]

    [settings]              # of every job
    samples = 500

    [matrix]                # each key a list; a job for every combination
    macs = [0.7, 0.5]
    criterion = ["l2", "obs"]

    [[override]]            # of the models that match, over all else
    match = "*resnet*"
    calib = "cifar.npz"

What a later one sets stands: settings, matrix, overrides in their order. Paths start at the recipe's folder.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

from onnxprune.batch.toml_lines import Key, find_line, find_lines
from onnxprune.errors import OnnxPruneError
from onnxprune.plain_settings import COMMAND, check, check_all, describe, make_settings_schema, merge, suggest_near
from onnxprune.settings import BatchSettings, find_command_settings
from onnxprune.settings.batch import read_batch_settings
from onnxprune.settings.table import TEXT, TEXTS, Kind, find_class_settings, show_value

Matrix = Mapping[str, list[Any]]

SETTINGS = find_command_settings(COMMAND)

MOST = 100_000  # combinations for a model


@dataclass(frozen=True)
class Override:
    """Settings, and lists of settings, of the models that one of the globs `match` fits."""

    match: list[str]
    settings: Mapping[str, Any]
    matrix: Matrix
    key: Key = ()


@dataclass(frozen=True)
class Recipe:
    """The models to prune and their settings. Relative paths start at `base`."""

    models: list[str]
    base: Path
    skip: list[str] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)
    matrix: Matrix = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)
    output: str | None = None
    run: BatchSettings = field(default_factory=BatchSettings)
    path: Path | None = None
    lines: Mapping[Key, int] = field(default_factory=dict)

    def where(self, *key: str | int) -> str:
        """The recipe and the line of a key, for messages."""
        return f"{self.path}:{find_line(key, dict(self.lines))}: " if self.path else ""

    def combinations(self, *names: str) -> list[dict[str, Any]]:
        """The settings for a model, known by these names (its path, its short name), each different one once.

        Raises OnnxPruneError where they do not go together.
        """
        overrides = [o for o in self.overrides if match_names(o.match, names)]
        matrix = dict(self.matrix)
        last: dict[str, Any] = {}
        for o in overrides:
            matrix, last = {**matrix, **o.matrix}, merge(last, o.settings)
        count = math.prod(map(len, matrix.values()))
        if count > MOST:
            raise OnnxPruneError(
                f"{self.where('matrix')}the matrix has {count:,} combinations for {names[0]}, at most {MOST:,} can be run; "
                "make its lists shorter, or several recipes"
            )
        combinations = dict[Hashable, dict[str, Any]]()
        for combination in _product(matrix):
            settings = merge(merge(self.settings, combination), last)
            if "calib" not in settings:
                for name in ("samples", "text_length", "start_token"):  # they say how much of calib to use, or to write
                    settings.pop(name, None)
            try:
                check_all(settings)
            except OnnxPruneError as e:
                raise OnnxPruneError(f"{self.path or 'settings'}: {names[0]} with {describe(settings)}: {e}") from e
            combinations.setdefault(_hashable(settings), settings)
        return list(combinations.values())


def match_names(globs: list[str], names: tuple[str, ...]) -> bool:
    """Does one of the globs fit one of the names, or the last part of one?"""
    every = {part for n in names for part in (n, n.rpartition("/")[2])}
    return any(fnmatch(n, g) for n in every for g in globs)


def _hashable(value: Any) -> Hashable:
    """A hashable form of settings; equal settings have equal forms."""
    if isinstance(value, dict):
        return frozenset((k, _hashable(v)) for k, v in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _product(matrix: Matrix) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*matrix.values()):
        combination: dict[str, Any] = {}
        for name, value in zip(matrix, values, strict=True):
            combination |= {name: value} if name in SETTINGS else value
        yield combination


# Reading


_OPEN = Kind("a table", lambda x: isinstance(x, dict), {"type": "object"})
_TOP: dict[str, Kind] = {
    "models": TEXTS,
    "skip": TEXTS,
    "output": TEXT,
    **{name: s.kind for name, s in find_class_settings(BatchSettings).items()},
    "settings": _OPEN,
    "matrix": _OPEN,
    "override": Kind(
        "tables, each begun with [[override]]",
        lambda x: isinstance(x, list) and all(map(_OPEN.fits, x)),
        {"type": "array", "items": {"type": "object"}},
    ),
}


def read(path: Path) -> Recipe:
    """Read and check a recipe. Raises OnnxPruneError with file, line, key and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as e:
        raise OnnxPruneError(f"{path}: {e.strerror}; give the path of a recipe") from e
    except UnicodeDecodeError as e:
        raise OnnxPruneError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start}); a recipe is a TOML file") from e
    except (ValueError, RecursionError) as e:  # a number of too many digits; lists too deep
        raise OnnxPruneError(f"{path}: not TOML: {e}; see https://toml.io") from e
    return _RecipeReader(path, find_lines(text)).read_recipe(data)


class _RecipeReader:
    """Checks the parts of a recipe, and says on which line something is wrong."""

    def __init__(self, path: Path, lines: dict[Key, int]) -> None:
        self.path, self.base, self.lines = path, path.parent, lines

    def fail(self, key: Key, why: str) -> NoReturn:
        raise OnnxPruneError(f"{self.path}:{find_line(key, self.lines)}: {why}")

    def read_recipe(self, data: dict[str, Any]) -> Recipe:
        for name, value in data.items():
            if name not in _TOP:
                hint = (
                    f"put it under [settings]: {name} = {show_value(value)}"
                    if name in SETTINGS
                    else suggest_near(name, _TOP)
                )
                self.fail((name,), f"there is no key '{name}' at the top of a recipe; {hint}")
            if not _TOP[name].fits(value):
                self.fail((name,), f"{name} is {show_value(value)}; expected {_TOP[name].words}")
        if not data.get("models"):
            self.fail(("models",), 'models is missing; expected a list of paths, globs or folders: models = ["zoo/"]')
        return Recipe(
            models=data["models"],
            base=self.base,
            skip=data.get("skip", []),
            settings=self.check_settings(("settings",), data.get("settings", {})),
            matrix=self.check_matrix(("matrix",), data.get("matrix", {})),
            overrides=[self.read_override(("override", i), o) for i, o in enumerate(data.get("override", []))],
            output=data.get("output"),
            run=self.read_run(data),
            path=self.path,
            lines=self.lines,
        )

    def read_run(self, data: dict[str, Any]) -> BatchSettings:
        for name in data.keys() & find_class_settings(BatchSettings).keys():
            try:
                read_batch_settings({name: data[name]})
            except OnnxPruneError as e:
                text = str(e)
                self.fail((name,), text if text.startswith(f"{name} is ") else f"{name}: {text}")
        return read_batch_settings(data)

    def check_settings(self, key: Key, data: dict[str, Any]) -> dict[str, Any]:
        for name, value in data.items():
            self.check_setting((*key, name), name, value)
        return data

    def check_setting(self, key: Key, name: str, value: Any) -> None:
        try:
            check(name, value, self.base)
        except OnnxPruneError as e:
            self.fail(key, f"{'.'.join(str(k) for k in key if isinstance(k, str))}: {e}")

    def check_matrix(self, key: Key, data: Any) -> dict[str, list[Any]]:
        if not isinstance(data, dict):
            self.fail(key, f"matrix is {show_value(data)}; expected a table of lists")
        for name, values in data.items():
            where = (*key, name)
            if not isinstance(values, list) or not values:
                self.fail(where, f"matrix.{name} is {show_value(values)}; expected a list of at least one value")
            for value in values:
                if name in SETTINGS:
                    self.check_setting(where, name, value)
                elif isinstance(value, dict):
                    for inner, one in value.items():
                        self.check_setting((*where, inner), inner, one)
                else:
                    hint = "or a list of tables of settings, as in [{ratio = 0.3}, {macs = 0.5}]"
                    self.fail(
                        where,
                        f"matrix.{name}: there is no setting '{name}'; {suggest_near(name, SETTINGS)}, {hint}",
                    )
        return data

    def read_override(self, key: Key, data: dict[str, Any]) -> Override:
        match = data.get("match")
        globs = [match] if isinstance(match, str) else match
        if not globs or not TEXTS.fits(globs):
            self.fail((*key, "match"), f"override.match is {show_value(match)}; expected a glob, or a list of globs")
        rest = {k: v for k, v in data.items() if k not in ("match", "matrix")}
        matrix = self.check_matrix((*key, "matrix"), data.get("matrix", {}))
        return Override(globs, self.check_settings(key, rest), matrix, (*key, "match"))


# Schema


def make_recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    settings = {"$ref": "#/$defs/settings"}
    matrix = {name: {"type": "array", "items": s.schema, "minItems": 1} for name, s in SETTINGS.items()}
    tables = {"type": "array", "items": settings, "minItems": 1}
    match = {"match": {"anyOf": [TEXT.schema, TEXTS.schema]}}
    override = {**make_settings_schema()["properties"], **match, "matrix": {"$ref": "#/$defs/matrix"}}
    properties = {name: dict(kind.schema) for name, kind in _TOP.items()} | make_settings_schema("batch")["properties"]
    properties |= {"settings": settings, "matrix": {"$ref": "#/$defs/matrix"}}
    properties["override"] = {
        "type": "array",
        "items": {"type": "object", "properties": override, "required": ["match"], "additionalProperties": False},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of onnxprune batch",
        "type": "object",
        "properties": properties,
        "required": ["models"],
        "additionalProperties": False,
        "$defs": {
            "settings": make_settings_schema(),
            "matrix": {"type": "object", "properties": matrix, "additionalProperties": tables},
        },
    }
