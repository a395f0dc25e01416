"""What a repair did: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class LayerRepair:
    """One layer. Errors are |pruned - original| / |original| at its output, behind the activation that follows it."""

    name: str
    op: str
    before: float
    after: float
    rows: int
    damping: float  # relative to the mean of the Gram matrix's diagonal
    condition: float
    seconds: float
    output: str = ""  # the first one that the node has
    slot: int = 1  # which of its inputs has the weights


@dataclass
class RepairReport:
    """`error_before` and `error_after` are of the network's outputs on the calibration data, |pruned - original| / |original|.

    `kept` says how many of the layers, in their order, have their new weights: all, unless that would raise the error.
    """

    method: str
    samples: int
    layers: list[LayerRepair] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # layer -> why
    kept: int = 0
    error_before: float | None = None
    error_after: float | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
