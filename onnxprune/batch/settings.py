"""What may be set for a job: the one table of settings, and what `prune` makes of them.

The names are those of `onnxprune prune`'s options: the fields of `Options`, which are read from there, and what else `prune`
takes, which `_MORE` lists. A new option is a field of `Options`, or one line in `_MORE` and one in `arguments`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from onnxprune.allocate import BUDGETS, LIMITS, Options
from onnxprune.calibration import read_preprocess
from onnxprune.convert import CASTS
from onnxprune.criteria import REDUCES, resolve
from onnxprune.errors import OnnxPruneError
from onnxprune.sparsity import Sparsity

Settings = Mapping[str, Any]

LARGE = 1 << 63  # no whole number is that large
SHOWN = 200  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """What a value must be: in words, and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _number(x: Any) -> bool:
    return isinstance(x, float) or _integer(x)


def _integer(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and abs(x) < LARGE


def _texts(x: Any) -> bool:
    return isinstance(x, list) and all(isinstance(t, str) for t in x)


NUMBER = Kind("a number", _number)
INTEGER = Kind("a whole number", _integer)
TEXT = Kind("a text in quotes", lambda x: isinstance(x, str))
FLAG = Kind("true or false", lambda x: isinstance(x, bool))
TEXTS = Kind('a list of texts, as in ["a", "b*"]', _texts)
RATIOS = Kind(
    'a table of globs and ratios, as in {"layer4*" = 0.25}',
    lambda x: isinstance(x, dict) and all(map(_number, x.values())),
)
INPUTS = Kind("the path or address of an .npz file or a folder of data", lambda x: isinstance(x, str) and x != "")
PLACE = Kind("the path of a file", lambda x: isinstance(x, str) and x != "")

_OF_TYPE = {
    float: NUMBER, float | None: NUMBER, int: INTEGER, int | None: INTEGER, str: TEXT, str | None: TEXT,
    Sequence[str]: TEXTS, Mapping[str, float]: RATIOS,
}  # fmt: skip
OPTIONS = {name: _OF_TYPE[kind] for name, kind in get_type_hints(Options).items()}
_MORE = {
    "calib": INPUTS, "samples": INTEGER, "data": INPUTS, "preprocess": TEXTS, "cache": PLACE, "check": FLAG, "profile": FLAG,
    "then_sparsify": TEXT, "permute": FLAG, "layers": TEXT, "cast": TEXT,
}  # fmt: skip
_SPARSE = ("permute", "layers")  # how `then_sparsify` does it
SETTINGS: dict[str, Kind] = {**OPTIONS, **_MORE}
AMOUNTS = ("ratio", *BUDGETS, *LIMITS)  # how much goes: one of them


def check(name: str, value: Any, base: Path) -> None:
    """Raise OnnxPruneError where there is no such setting, or it cannot have this value."""
    if name not in SETTINGS:
        raise OnnxPruneError(f"there is no setting '{name}'; {near(name, SETTINGS)}")
    kind = SETTINGS[name]
    if not kind.fits(value):
        raise OnnxPruneError(f"{name} is {shown(value)}; expected {kind.words}")
    if name in OPTIONS:
        _options({"macs": 1.0, name: value} if name == "allocation" else {name: value}).check()
    if name == "criterion":
        resolve(value)
    elif name == "reduce" and value not in REDUCES:
        raise OnnxPruneError(f"unknown reduce '{value}'; choose one of {', '.join(REDUCES)}")
    elif name == "cast" and value not in CASTS:
        raise OnnxPruneError(f"cast is {shown(value)}; there is {', '.join(CASTS)}")
    elif name in ("then_sparsify", "layers"):
        Sparsity(**{"pattern" if name == "then_sparsify" else name: value}).check()
    elif name == "samples" and value < 1:
        raise OnnxPruneError(f"samples is {value}; expected a whole number, 1 or more")
    elif name == "preprocess":
        read_preprocess(_located(value, base))
    elif kind is INPUTS and not remote(value) and not (base / value).exists():
        raise OnnxPruneError(f"{name} is {shown(value)}; there is no {base / value}")


def near(name: str, known: Mapping[str, object]) -> str:
    """What somebody who wrote `name` may have meant."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{found[0]}'?" if found else f"there are {', '.join(known)}"


def check_all(settings: Settings) -> None:
    """Raise OnnxPruneError where settings that are right one by one do not go together."""
    if "ratio" in settings and (other := [a for a in AMOUNTS[1:] if a in settings]):
        raise OnnxPruneError(f"ratio and {other[0].replace('_', '-')}: give one, each says how much goes")
    if missing := [name for name in _SPARSE if name in settings and "then_sparsify" not in settings]:
        raise OnnxPruneError(f"{missing[0]} says how 'then_sparsify' does it; give both, or neither")
    _options(settings).check()
    if sparsity := _sparsity(settings):
        sparsity.resolved("calib" in settings)


def over(lower: Settings, upper: Settings) -> dict[str, Any]:
    """The settings of `lower` where `upper` has none; how much goes is one thing, by whatever name."""
    said = any(a in upper for a in AMOUNTS)
    return {k: v for k, v in lower.items() if not (said and k in AMOUNTS)} | dict(upper)


def arguments(settings: Settings, base: Path) -> dict[str, Any]:
    """What `onnxprune.prune` is to be called with; relative paths start at `base`."""
    said = {k: v for k, v in settings.items() if k not in OPTIONS and k not in ("then_sparsify", *_SPARSE)}
    for name in said.keys() & {"calib", "data", "cache"}:
        said[name] = base / said[name]
    if "preprocess" in said:
        said["preprocess"] = read_preprocess(_located(said["preprocess"], base))
    if sparsity := _sparsity(settings):
        said["sparsity"] = sparsity
    return {"options": _options(settings), "seed": settings.get("seed", 0), **said}


def _options(settings: Settings) -> Options:
    return Options(**{k: v for k, v in settings.items() if k in OPTIONS})


def _sparsity(settings: Settings) -> Sparsity | None:
    if "then_sparsify" not in settings:
        return None
    how = {k: settings[k] for k in _SPARSE if k in settings}
    return Sparsity(pattern=settings["then_sparsify"], seed=settings.get("seed", 0), **how)


def _located(parts: Sequence[str], base: Path) -> list[str]:
    return [str(base / p) if p.endswith(".toml") else p for p in parts]


def inputs(settings: Settings) -> Iterator[tuple[str, str]]:
    """The settings whose value is a path and whose meaning is what lies there: name and path."""
    yield from ((name, settings[name]) for name, kind in SETTINGS.items() if kind is INPUTS and name in settings)
    yield from (("preprocess", p) for p in settings.get("preprocess", ()) if p.endswith(".toml"))


def plain(settings: Settings) -> dict[str, Any]:
    """The settings that say what to do, in the order of the table; without those that are paths."""
    return {k: settings[k] for k, kind in SETTINGS.items() if k in settings and kind not in (INPUTS, PLACE)}


def words(settings: Settings) -> str:
    """Settings for people: `criterion=l2 macs=0.5`."""
    return " ".join(f"{k}={_word(v)}" for k, v in {**plain(settings), **settings}.items()) or "defaults"


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}:{_word(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    """A value as it would stand in a recipe."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} .."


def remote(path: str) -> bool:
    """Is it an address (s3://.., https://..) rather than a path?"""
    return "://" in path
