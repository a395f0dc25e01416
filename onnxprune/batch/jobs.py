"""From a recipe to jobs: one for each model and each of its settings, with a place for its results and an identity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxprune.batch.content import ContentDigests
from onnxprune.batch.recipe import Recipe, match_names
from onnxprune.batch.sources import SUFFIX, Source, drop_duplicates, fetch, find
from onnxprune.errors import OnnxPruneError
from onnxprune.plain_settings import describe, drop_paths, is_remote, list_input_paths
from onnxprune.version import __version__

MODELS, FETCHED = "models", "sources"  # folders for what a run writes, and for what it downloads
LONGEST = 80  # characters of a file name that say what the settings are


@dataclass(frozen=True)
class Spec:
    """A model and what to do with it, as the recipe has it. Relative paths start at `base`."""

    model: str
    name: str
    settings: Mapping[str, Any]
    base: Path

    @cached_property
    def place(self) -> str:
        """The model's short name and one for the settings; nothing else in the output folder has it."""
        settings = ".".join(f"{k}-{_short(v)}" for k, v in drop_paths(self.settings).items())
        readable = re.sub(r"[^\w.,=+-]+", "_", settings)[:LONGEST] or "defaults"
        return f"{self.name}/{readable}.{_digest(_canonical(self.settings))[:8]}"

    @property
    def output(self) -> str:
        """Where the pruned model goes, from the output folder."""
        return f"{MODELS}/{self.place}{SUFFIX}"

    @property
    def words(self) -> str:
        return describe(self.settings)


@dataclass(frozen=True)
class ReadyJob:
    """A job that is ready to run anywhere that sees the same files: paths are absolute but for `output`."""

    id: str
    place: str
    given: str
    model: str
    folder: str
    output: str
    settings: Mapping[str, Any]


def make_specs(recipe: Recipe) -> list[Spec]:
    """All jobs of a recipe, model by model. Raises OnnxPruneError for what it asks in vain."""
    sources = _sources(recipe)
    for o in recipe.overrides:
        if not any(match_names(o.match, (s.given, s.name)) for s in sources):
            raise OnnxPruneError(f"{recipe.where(*o.key)}override.match {o.match} fits no model; correct or remove it")
    return [
        Spec(s.given, s.name, settings, recipe.base)
        for s in sources
        for settings in recipe.combinations(s.given, s.name)
    ]


def _sources(recipe: Recipe) -> list[Source]:
    sources = list[Source]()
    for pattern in recipe.models:
        try:
            sources += find(pattern, recipe.base)
        except OnnxPruneError as e:
            raise OnnxPruneError(f"{recipe.where('models')}{e}") from e
    sources = drop_duplicates(sources, recipe.base)
    for glob in recipe.skip:
        if not any(match_names([glob], (s.given, s.name)) for s in sources):
            raise OnnxPruneError(f"{recipe.where('skip')}skip '{glob}' fits no model; correct or remove it")
    kept = [s for s in sources if not match_names(recipe.skip, (s.given, s.name))]
    if not kept:
        raise OnnxPruneError(f"{recipe.where('skip')}skip leaves no model")
    return kept


def prepare(spec: Spec, folder: Path, contents: ContentDigests) -> ReadyJob:
    """Find out what is in the files of a job, and so who it is. Raises OnnxPruneError and OSError for what cannot be read.

    The identity is a hash of the model's content and name, the data's content, the settings and the version of onnxprune.
    """
    model = _local(spec.model, spec.base, folder, contents)
    settings = dict(spec.settings)
    data = list[str]()
    for name, path in list_input_paths(spec.settings):
        there = _local(path, spec.base, folder, contents)
        data.append(f"{name}={contents.data(there)}")
        if name in settings and name not in ("preprocess", "metric"):
            settings[name] = str(there)
    if "preprocess" in settings:
        settings["preprocess"] = [_absolute(p, spec.base) if p.endswith(".toml") else p for p in settings["preprocess"]]
    if "metric" in settings:  # the path with the name of a function, which says what is done
        data.append(f"function={settings['metric'].rpartition(':')[2]}")
    for name in {"cache", "timings", "metric"} & settings.keys():
        settings[name] = _absolute(settings[name], spec.base)
    parts = [__version__, spec.name, contents.model(model), *data, _canonical(drop_paths(spec.settings))]
    return ReadyJob(
        id=_digest("\n".join(parts))[:32],
        place=spec.place,
        given=spec.model,
        model=str(model),
        folder=str(folder.absolute()),
        output=spec.output,
        settings=settings,
    )


def identify_unreadable(spec: Spec, why: str) -> str:
    """The identity of a job whose files cannot be read."""
    return _digest(f"{__version__}\n{spec.place}\n{why}")[:32]


def _local(path: str, base: Path, folder: Path, contents: ContentDigests) -> Path:
    """The file or folder, downloaded where it is an address."""
    if is_remote(path):
        return fetch(path, folder.absolute() / FETCHED, contents.refers)
    return Path(_absolute(path, base))


def _absolute(path: str, base: Path) -> str:
    return str((base / path).absolute())


def find_settings(recipe: Recipe, model: Path) -> dict[str, Any]:
    """The one combination of settings that a recipe has for a model. Raises OnnxPruneError where it has several."""
    combinations = recipe.combinations(str(model), model.name.removesuffix(SUFFIX))
    if len(combinations) != 1:
        listed = "; ".join(describe(s) for s in combinations[:3]) + ("; .." if len(combinations) > 3 else "")
        raise OnnxPruneError(
            f"{recipe.path}: {len(combinations)} combinations of settings fit {model} ({listed}); 'onnxprune batch' runs them all"
        )
    return combinations[0]


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
