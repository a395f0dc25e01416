"""Reports as plain data, and back: one way for all of them, by the fields of their types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Any, TypeVar, cast

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Convert a report, a list of reports, or a part to JSON data: dictionaries by the names of the fields.

    A field whose default is None is left out where it is None; all others are always there.
    """
    if is_dataclass(value):
        values = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: to_json(x) for f, x in values if x is not None or not may_be_missing(f)}
    if isinstance(value, Mapping):
        return {str(k): to_json(x) for k, x in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(x) for x in value]
    return str(value) if isinstance(value, PurePath) else value


def may_be_missing(field: Field[Any]) -> bool:
    """Is the field left out of the JSON where there is nothing to say?"""
    return field.default is None


def render_json(value: Any) -> str:
    """The JSON of a report, as commands print it."""
    return json.dumps(to_json(value), indent=2, default=str) + "\n"


def from_json(kind: type[T], data: Any) -> T:
    """The report that was written as `data`; keys that its type does not have are passed over.

    Raises ValueError where the data are no such report, or of another format.
    """
    adapter = _adapter(cast(Any, kind))  # which mypy does not take for hashable
    return cast(T, adapter.validate_python(data))


def make_json_schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a type of reports: objects have the keys of their fields and no others."""
    schema: dict[str, Any] = _adapter(kind).json_schema(mode="serialization")
    for part in (schema, *schema.get("$defs", {}).values()):
        if known := part.get("properties"):
            part["additionalProperties"] = False
            part["required"] = [name for name, of in known.items() if of.get("default", 0) is not None]
            for of in known.values():  # what pydantic makes of the names, and of how Python fills the fields in
                of.pop("title", None)
                of.pop("default", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # takes a while to import, and few commands need it

    return TypeAdapter(kind)
