"""What all reports share: the number of their format, and numbers before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT: Literal[1] = 1
Settings = dict[str, Any]  # what was set, by name: the table of settings says what there is


def added() -> Any:
    """A key that earlier reports of this format lack: it is always written, and None where one of those is read."""
    return field(default_factory=lambda: None, kw_only=True)


@dataclass(frozen=True)
class Report:
    """A report of its own; `format` says which keys it has and what they mean, see `report/CHANGELOG.md`.

    A field whose default is None is left out of the JSON where it is None; all others are always there.
    """

    format: Literal[1] = field(default=FORMAT, kw_only=True)


@dataclass(frozen=True)
class Counts:
    """Whole numbers of the original and of the candidate; None where they are unknown."""

    before: int | None
    after: int | None


@dataclass(frozen=True)
class Shares:
    """Fractions in [0, 1] of the original and of the candidate; None where there is nothing to take them of."""

    before: float | None
    after: float | None


@dataclass(frozen=True)
class Stop:
    """A node on the route, or a weight that several nodes read, or the graph input or output where the route ends."""

    operator: str  # of a node; else 'weight', 'graph input' or 'graph output'
    name: str
