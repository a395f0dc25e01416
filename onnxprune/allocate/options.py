"""What a user may ask of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxprune.allocate.steps import SCHEDULES, steps_for
from onnxprune.criteria import NORMALIZERS
from onnxprune.errors import OnnxPruneError
from onnxprune.repair import METHODS

MOST_STEPS = 1000
SCOPES = ("local", "global", "isomorphic")
BUDGETS = ("macs", "params", "bytes")
LIMITS = ("latency", "max_error", "min_agreement")
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

    Instead of those, `latency` is the fraction of the time that may be taken, `max_error` how far outputs may move
    (relative L2) and `min_agreement` how often the same class must be preferred: the largest model that is so fast, or the
    smallest that is so good, is found by bisection on the multiply-accumulates. With `steps` channels go bit by bit, and
    those that are left are scored again each time; `schedule` says how much is gone after which step. `repair` is the method
    (see `repair.repair`) by which the layers that stay take over from what went.

    What is None depends on whether there are calibration data: `resolved` says how.
    """

    ratio: float = 0.5
    criterion: str | None = None
    reduce: str | None = None
    scope: str = "local"
    normalize: str = "mean"
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
    latency: float | None = None
    max_error: float | None = None
    min_agreement: float | None = None
    steps: int | None = None
    schedule: str | None = None
    repair: str | None = None

    @property
    def budget(self) -> tuple[str, float] | None:
        """What is counted, and the fraction of it that may stay."""
        return next(((kind, f) for kind in BUDGETS if (f := getattr(self, kind)) is not None), None)

    @property
    def limit(self) -> tuple[str, float] | None:
        """What is measured, and the value that it may have."""
        return next(((kind, f) for kind in LIMITS if (f := getattr(self, kind)) is not None), None)

    @property
    def asked(self) -> str:
        """The budget or the limit as it was typed; a plan may have to be within other ones on the way."""
        kind, value = self.budget or self.limit or ("ratio", self.ratio)
        return f"--{kind.replace('_', '-')} {value:g}"

    @property
    def measures(self) -> bool:
        """Does the allocation measure errors where it has calibration data?"""
        return (self.budget or self.limit) is not None and self.allocation in (None, *MEASURED)

    def resolved(self, calibrated: bool) -> Options:
        """The same with all that was left open settled: with calibration data, the best combination known."""
        repair = self.repair or ("lstsq" if calibrated else "none")
        allocation = self.allocation or ("search" if calibrated and self.measures else None)
        searched = allocation == "search" and self.budget is not None and repair != "none"
        steps = self.steps or (steps_for(self.budget[1]) if searched and self.budget else 1)
        return replace(
            self,
            criterion=self.criterion or ("obs" if calibrated else "l2"),
            repair=repair,
            allocation=allocation,
            steps=steps,
            schedule=self.schedule or ("geometric" if searched and self.steps is None else "linear"),
        )

    def check(self) -> None:
        """Raise OnnxPruneError for what cannot be."""
        given = [(f"group-ratio '{glob}'", r) for glob, r in self.group_ratio.items()]
        for name, r in (("ratio", self.ratio), ("max-ratio", self.max_ratio), *given):
            if not 0.0 <= r <= 1.0:
                top = "below 1" if name == "ratio" else "1"
                raise OnnxPruneError(f"{name} is {r:g}; it is the fraction of channels to remove, from 0 to {top}")
        if self.ratio == 1.0 and self.max_ratio == 1.0:
            raise OnnxPruneError("ratio 1 would remove every channel; choose a fraction below 1")
        for name, value, names in (
            ("scope", self.scope, SCOPES),
            ("normalize", self.normalize, NORMALIZERS),
            ("schedule", self.schedule or "linear", tuple(SCHEDULES)),
            ("repair", self.repair or "none", METHODS),
            ("allocation", self.allocation or ALLOCATIONS[0], ALLOCATIONS),
        ):
            if value not in names:
                raise OnnxPruneError(f"unknown {name} '{value}'; choose one of {', '.join(names)}")
        if self.round_to < 1:
            raise OnnxPruneError(f"round-to is {self.round_to}; channel counts are kept at multiples of N >= 1")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise OnnxPruneError(f"steps is {self.steps}; pruning takes 1 to {MOST_STEPS:,}")
        if self.seed < 0:
            raise OnnxPruneError(f"seed is {self.seed}; it is a whole number, 0 or more")
        self._check_budget()

    def _check_budget(self) -> None:
        given = {kind: f for kind in (*BUDGETS, *LIMITS) if (f := getattr(self, kind)) is not None}
        names = [kind.replace("_", "-") for kind in given]
        if len(given) > 1:
            raise OnnxPruneError(f"{' and '.join(names)}: give one, the others follow from it")
        for name, (kind, f) in zip(names, given.items(), strict=True):
            if kind == "max_error":
                if not f >= 0:
                    raise OnnxPruneError(f"max-error is {f:g}; it is a relative L2 error, 0 or more")
            elif not 0.0 < f <= 1.0:
                what = "of samples with the same class" if kind == "min_agreement" else "to keep"
                raise OnnxPruneError(f"{name} is {f:g}; it is the fraction {what}, above 0 and up to 1")
        if self.allocation is not None and not given:
            raise OnnxPruneError(
                f"allocation '{self.allocation}' shares out a budget; give one of {', '.join(BUDGETS)}, or a limit"
            )


__all__ = ["ALLOCATIONS", "BUDGETS", "LIMITS", "MEASURED", "SCOPES", "Options"]
