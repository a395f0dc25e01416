"""What a setting is: described once, by the field of the dataclass that holds it.

    macs: float | None = setting(None, "Keep at most this fraction of the multiply-accumulates.", metavar="F", bounds=KEPT)

The command line, its help and completion, recipes, the checks of values, the JSON Schema and the page of settings are all made
from such fields. Nothing heavy is imported here: `onnxprune --help` reads the table.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, get_type_hints

from onnxprune.errors import OnnxPruneError

LARGE = 1 << 63  # no whole number is that large
SHOWN = 200  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """What a value must be: in words, as a test, and as JSON Schema."""

    words: str
    fits: Callable[[Any], bool]
    schema: Mapping[str, Any]


def _is_number(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and (not _is_integer_type(x) or _is_integer(x))


def _is_integer_type(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _is_integer(x: Any) -> bool:
    return _is_integer_type(x) and abs(x) < LARGE


def _is_path(x: Any) -> bool:
    return isinstance(x, str) and x != ""


def _is_function(x: Any) -> bool:
    file, _, name = x.rpartition(":") if isinstance(x, str) else ("", "", "")
    return file != "" and name.isidentifier()


def _are_texts(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(isinstance(t, str) for t in x)


def _are_ratios(x: Any) -> bool:
    return isinstance(x, Mapping) and all(map(_is_number, x.values()))


_TEXT = {"type": "string"}
NUMBER = Kind("a number", _is_number, {"type": "number"})
INTEGER = Kind("a whole number", _is_integer, {"type": "integer"})
TEXT = Kind("a text in quotes", lambda x: isinstance(x, str), _TEXT)
FLAG = Kind("true or false", lambda x: isinstance(x, bool), {"type": "boolean"})
TEXTS = Kind('a list of texts, as in ["a", "b*"]', _are_texts, {"type": "array", "items": _TEXT})
RATIOS = Kind(
    'a table of globs and ratios, as in {"layer4*" = 0.25}',
    _are_ratios,
    {"type": "object", "additionalProperties": {"type": "number"}},
)
SIZE = Kind("a size such as '800MB' or '3GB'", lambda x: isinstance(x, int | str), {"type": ["integer", "string"]})
INPUTS = Kind("the path or address of an .npz file or a folder of data", _is_path, _TEXT)
PLACE = Kind("the path of a file", _is_path, _TEXT)
FUNCTION = Kind('a Python file and a function in it, as in "metrics.py:top1"', _is_function, _TEXT)

_OF_TYPE = {
    float: NUMBER, float | None: NUMBER, int: INTEGER, int | None: INTEGER, str: TEXT, str | None: TEXT, bool: FLAG,
    Sequence[str]: TEXTS, Mapping[str, float]: RATIOS,
}  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may have; `words` end the message `NAME is VALUE; ..`."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # is `low` itself too low?

    def hold(self, x: float) -> bool:
        return self.low <= x <= self.high and not (self.above and x == self.low)

    @property
    def schema(self) -> dict[str, Any]:
        low = {"exclusiveMinimum" if self.above else "minimum": self.low} if self.low > -math.inf else {}
        return low | ({"maximum": self.high} if self.high < math.inf else {})


@dataclass(frozen=True)
class Use:
    """How one command has a setting, where it differs from the others; what is empty is the setting's own."""

    name: str = ""
    help: str = ""
    panel: str | None = None
    default: Any = ...  # ... is the setting's own; None: the setting is off unless it is given


@dataclass(frozen=True)
class Setting:
    """One setting: the field `field` of `home`, and all that is to be known of it.

    `choices` are all values that there are; `suggests` and `check` name a function `module:name`, imported when needed, that
    lists values for completion, and that raises OnnxPruneError for a wrong value. `uses` has the commands that take it.
    `negative` is the name of the command line's flag that sets it to false.
    """

    home: type
    field: str
    annotation: Any
    default: Any
    kind: Kind
    help: str
    panel: str
    metavar: str
    choices: Sequence[str]
    suggests: str
    check: str
    bounds: Bounds | None
    uses: Mapping[str, Use]
    negative: str

    def name(self, command: str) -> str:
        """Its name for a command, and in Python: with _ for -."""
        return self.uses[command].name or self.field

    def help_for(self, command: str) -> str:
        return self.uses[command].help or self.help

    def panel_for(self, command: str) -> str:
        panel = self.uses[command].panel
        return self.panel if panel is None else panel

    def default_for(self, command: str) -> Any:
        default = self.uses[command].default
        return self.default if default is ... else default

    def suggestions(self, begun: str) -> list[str]:
        """The values that begin with what was typed."""
        names = import_name(self.suggests)() if self.suggests else self.choices
        return [name for name in names if name.startswith(begun)]

    def check_value(self, value: Any, name: str = "") -> None:
        """Raise OnnxPruneError where it cannot have this value; `name` is what the user calls it."""
        label = name or self.field
        if _is_integer_type(value):  # a number that is far too large is out of bounds, rather than no whole number
            self._check_bounds(to_option(label), value)
            if not _is_integer(value):
                raise OnnxPruneError(f"{label} is {show_value(value)}; expected a number below 2^63")
        if not self.kind.fits(value):
            raise OnnxPruneError(f"{label} is {show_value(value)}; expected {self.kind.words}")
        if self.choices and value not in self.choices:
            raise OnnxPruneError(f"unknown {label} '{value}'; choose one of {', '.join(self.choices)}")
        for key, x in value.items() if isinstance(value, Mapping) else [("", value)]:
            self._check_bounds(f"{to_option(label)} '{key}'" if key else to_option(label), x)
        if self.check:
            import_name(self.check)(value)

    def _check_bounds(self, label: str, x: float) -> None:
        if self.bounds and not self.bounds.hold(x):
            number = show_value(x) if isinstance(x, int) else f"{x:g}"  # a whole number may be too large for a float
            raise OnnxPruneError(f"{label} is {number}; {self.bounds.words}")

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of its values in a recipe."""
        schema: dict[str, Any] = {"description": self.help, **self.kind.schema}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.bounds and "items" not in schema and "additionalProperties" not in schema:
            schema |= self.bounds.schema
        if self.default is not None and self.default != () and self.default != {}:
            schema["default"] = self.default
        return schema


def setting(
    default: Any,
    help: str,
    *,
    on: str | Mapping[str, Use] = "prune",
    panel: str = "",
    metavar: str = "",
    kind: Kind | None = None,
    choices: Sequence[str] = (),
    suggests: str = "",
    check: str = "",
    bounds: Bounds | None = None,
    negative: str = "",
) -> Any:
    """The field of a dataclass that is a setting, see `Setting`; `on` names its commands, or has a `Use` for each."""
    uses = {name: Use() for name in on.split()} if isinstance(on, str) else on
    known = {
        "default": default, "kind": kind, "help": help, "panel": panel, "metavar": metavar or "|".join(choices),
        "choices": choices, "suggests": suggests, "check": check, "bounds": bounds, "uses": uses, "negative": negative,
    }  # fmt: skip
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"setting": known})
    return field(default=default, metadata={"setting": known})


_KNOWN: dict[type, Mapping[str, Setting]] = {}


def find_class_settings(home: type) -> Mapping[str, Setting]:
    """The settings that are fields of a dataclass, by field."""
    if home not in _KNOWN:
        _KNOWN[home] = _read_fields(home)
    return _KNOWN[home]


def _read_fields(home: type) -> Mapping[str, Setting]:
    types = get_type_hints(home)
    settings = {}
    for f in fields(home):
        if known := dict(f.metadata.get("setting", {})):
            kind = known.pop("kind") or _OF_TYPE[types[f.name]]
            settings[f.name] = Setting(home, f.name, types[f.name], kind=kind, **known)
    return settings


def check_fields(values: Any, free: Collection[Kind] = ()) -> None:
    """Raise OnnxPruneError where a field of a dataclass of settings has a value that it cannot have.

    None is left open; fields of the kinds `free` may have any value in Python.
    """
    for name, known in find_class_settings(type(values)).items():
        if known.kind not in free and (value := getattr(values, name)) is not None:
            known.check_value(value)


def import_name(reference: str) -> Any:
    """What `module:name` stands for."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def to_option(name: str) -> str:
    """A name as the command line has it."""
    return name.replace("_", "-")


def show_value(value: Any) -> str:
    """A value as it would stand in a recipe."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} .."
