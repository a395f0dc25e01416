"""Settings as plain data: a recipe's, those of `run_pass`, those typed on the command line. Checked here, then made into objects.

Their names are those of `onnxprune prune`, with _ for -; what each may be stands in the table (`onnxprune.settings`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.calibration import read_preprocess
from onnxprune.errors import OnnxPruneError
from onnxprune.quantize import check_quantization
from onnxprune.settings import HOMES, Options, RunSettings, Sparsity, Training, find_command_settings
from onnxprune.settings.data import is_own
from onnxprune.settings.options import AMOUNTS
from onnxprune.settings.table import FUNCTION, INPUTS, PLACE, show_value
from onnxprune.sparsity.resolve import resolve_sparsity
from onnxprune.training import check_request

Settings = Mapping[str, Any]

COMMAND = "prune"  # whose settings a recipe has


def check(name: str, value: Any, base: Path, command: str = COMMAND) -> None:
    """Raise OnnxPruneError where there is no such setting, or it cannot have this value. Relative paths start at `base`."""
    table = find_command_settings(command)
    if name not in table:
        raise OnnxPruneError(f"there is no setting '{name}'; {suggest_near(name, table)}")
    table[name].check_value(value, name)
    if name == "preprocess":
        read_preprocess(_locate(value, base))
    if name == "ratio" and value == 1:
        Options(ratio=value).check()
    if table[name].kind is INPUTS and not (is_remote(value) or is_own(value)) and not (base / value).exists():
        raise OnnxPruneError(f"{name} is {show_value(value)}; there is no {base / value}")


def suggest_near(name: str, known: Mapping[str, object]) -> str:
    """Suggest the known name closest to `name`."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{matches[0]}'?" if matches else f"there are {', '.join(known)}"


def check_all(settings: Settings, command: str = COMMAND) -> None:
    """Raise OnnxPruneError where settings that are right one by one do not go together."""
    built = build(settings, command)
    built[Options].check()
    check_quantization(built[RunSettings], built.get(Sparsity))
    check_request(built[Training], "calib" in settings)
    if sparsity := built.get(Sparsity):
        resolve_sparsity(sparsity, "calib" in settings)


def build(settings: Settings, command: str = COMMAND) -> dict[type, Any]:
    """The objects that hold these settings: Options, RunSettings, and Sparsity where there is a pattern.

    Raises OnnxPruneError for a setting of Sparsity without a pattern.
    """
    table = find_command_settings(command)
    values: dict[type, dict[str, Any]] = {home: {} for home in HOMES}
    for name, value in settings.items():
        values[table[name].home][table[name].field] = value
    if command == COMMAND and "pattern" not in values[Sparsity]:
        if values[Sparsity]:
            pattern = next(name for name, s in table.items() if (s.home, s.field) == (Sparsity, "pattern"))
            first = next(name for name in settings if table[name].home is Sparsity)
            raise OnnxPruneError(f"{first} says how '{pattern}' does it; give both, or neither")
        del values[Sparsity]
    elif "seed" in settings and command == COMMAND:
        values[Sparsity]["seed"] = settings["seed"]
    return {home: home(**given) for home, given in values.items()}


def merge(lower: Settings, upper: Settings) -> dict[str, Any]:
    """The settings of `lower` where `upper` has none; how much goes is one thing, by whatever name."""
    decided = any(a in upper for a in AMOUNTS)
    return {k: v for k, v in lower.items() if not (decided and k in AMOUNTS)} | dict(upper)


def make_arguments(settings: Settings, base: Path, command: str = COMMAND) -> dict[str, Any]:
    """The arguments for `onnxprune.prune` (or `sparsify`); relative paths start at `base`."""
    located = dict(settings)
    for name, known in find_command_settings(command).items():
        if known.kind in (INPUTS, PLACE, FUNCTION) and _is_place(located.get(name)):
            located[name] = base / located[name]
    if located.get("preprocess"):
        located["preprocess"] = read_preprocess(_locate(located["preprocess"], base))
    built = build(located, command)
    run = {
        name: value
        for name, value in located.items()
        if find_command_settings(command)[name].home in (RunSettings, Training)
    }
    if command == "sparsify":
        return {"options": built[Sparsity], **run}
    sparse = {"sparsity": built.get(Sparsity)} if command == COMMAND else {}
    return {"options": built[Options], **sparse, **run}


def _locate(parts: Sequence[str], base: Path) -> list[str]:
    return [str(base / p) if p.endswith(".toml") else p for p in parts]


def list_input_paths(settings: Settings) -> Iterator[tuple[str, str]]:
    """The settings whose value is a path and whose meaning is what lies there: name and path."""
    table = find_command_settings(COMMAND)
    inputs = {name: settings[name] for name, s in table.items() if s.kind is INPUTS and name in settings}
    yield from ((name, path) for name, path in inputs.items() if not is_own(path))
    yield from ((n, settings[n].rpartition(":")[0]) for n, s in table.items() if s.kind is FUNCTION and n in settings)
    yield from (("preprocess", p) for p in settings.get("preprocess", ()) if p.endswith(".toml"))


def drop_paths(settings: Settings) -> dict[str, Any]:
    """The settings that say what to do, in the order of the table; without those that are paths."""
    table = find_command_settings(COMMAND)
    paths = (INPUTS, PLACE, FUNCTION)
    return {k: settings[k] for k, s in table.items() if k in settings and (s.kind not in paths or is_own(settings[k]))}


def describe(settings: Settings) -> str:
    """Settings for people: `criterion=l2 macs=0.5`."""
    return " ".join(f"{k}={_word(v)}" for k, v in {**drop_paths(settings), **settings}.items()) or "defaults"


def _is_place(value: Any) -> bool:
    return isinstance(value, str | Path) and not is_own(value)


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}:{_word(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_remote(path: str) -> bool:
    """Is it an address (s3://.., https://..) rather than a path?"""
    return "://" in path


def make_settings_schema(command: str = COMMAND) -> dict[str, Any]:
    """JSON Schema of the settings of a command, as a table of a recipe has them."""
    properties = {name: s.schema for name, s in find_command_settings(command).items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}
