"""What a user may ask of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.criteria import NORMALISERS
from onnxprune.errors import OnnxPruneError

SCOPES = ("local", "global", "isomorphic")
BUDGETS = ("macs", "params", "bytes")
ALLOCATIONS = ("uniform", "global", "sensitivity", "search", "netadapt")
MEASURED = ("sensitivity", "search", "netadapt")  # they need calibration data


@dataclass(frozen=True)
class Options:
    """What a user may ask of a plan.

    `ratio` is the fraction to remove: of each group's channels (local), of all channels ranked together (global), or of
    the channels of groups of one shape (isomorphic). `macs`, `params` or `bytes` instead is the fraction of those to keep;
    how much each group loses is then found, the way that `allocation` says (see `budget.py`, `search.py`). `max_ratio`
    caps what one group loses. `round_to` keeps counts at multiples of N. Globs match group names and the names of the
    initializers and nodes of a group.
    """

    ratio: float = 0.5
    criterion: str = "l2"
    reduce: str | None = None
    scope: str = "local"
    normalise: str = "mean"
    round_to: int = 1
    max_ratio: float = 1.0
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    group_ratio: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    allocation: str | None = None

    @property
    def budget(self) -> tuple[str, float] | None:
        """What is counted, and the fraction of it that may stay."""
        return next(((kind, f) for kind in BUDGETS if (f := getattr(self, kind)) is not None), None)

    @property
    def measures(self) -> bool:
        """Does the allocation measure errors where it has calibration data?"""
        return self.budget is not None and self.allocation in (None, *MEASURED)

    def check(self) -> None:
        """Raise OnnxPruneError for what cannot be."""
        given = [(f"group-ratio '{glob}'", r) for glob, r in self.group_ratio.items()]
        for name, r in (("ratio", self.ratio), ("max-ratio", self.max_ratio), *given):
            if not 0.0 <= r <= 1.0:
                raise OnnxPruneError(f"{name} is {r:g}; it is the fraction of channels to remove, from 0 to 1")
        if self.ratio == 1.0 and self.max_ratio == 1.0:
            raise OnnxPruneError("ratio 1 would remove every channel; choose a fraction below 1")
        if self.scope not in SCOPES:
            raise OnnxPruneError(f"unknown scope '{self.scope}'; choose one of {', '.join(SCOPES)}")
        if self.normalise not in NORMALISERS:
            raise OnnxPruneError(f"unknown normalise '{self.normalise}'; choose one of {', '.join(NORMALISERS)}")
        if self.round_to < 1:
            raise OnnxPruneError(f"round-to is {self.round_to}; channel counts are kept at multiples of N >= 1")
        self._check_budget()

    def _check_budget(self) -> None:
        given = {kind: f for kind in BUDGETS if (f := getattr(self, kind)) is not None}
        if len(given) > 1:
            raise OnnxPruneError(f"{' and '.join(given)}: give one budget, the others follow from it")
        for kind, f in given.items():
            if not 0.0 < f <= 1.0:
                raise OnnxPruneError(f"{kind} is {f:g}; it is the fraction of them to keep, above 0 and up to 1")
        if self.allocation is not None and self.allocation not in ALLOCATIONS:
            raise OnnxPruneError(f"unknown allocation '{self.allocation}'; choose one of {', '.join(ALLOCATIONS)}")
        if self.allocation is not None and not given:
            raise OnnxPruneError(
                f"allocation '{self.allocation}' shares out a budget; give one of {', '.join(BUDGETS)}"
            )


__all__ = ["ALLOCATIONS", "BUDGETS", "MEASURED", "SCOPES", "Options"]
