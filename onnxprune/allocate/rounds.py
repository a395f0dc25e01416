"""Pruning and training in turns: what each round is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnxprune.allocate.cost import make_cost
from onnxprune.allocate.schedule import plan_shares
from onnxprune.allocate.selection import list_left_out
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.save import count_saved_bytes
from onnxprune.groups import Analysis
from onnxprune.settings import Options


@dataclass(frozen=True)
class Rounds:
    """So many rounds that lead from an original to what the options ask for, as their schedule has it.

    Raises OnnxPruneError for options that cannot be divided: limits are found by bisection, and a cap is on all that a group loses.
    """

    original: Analysis
    options: Options
    number: int

    def __post_init__(self) -> None:
        o = self.options
        asked = (
            o.limit is not None
            or any(o.group_ratio.values())
            or o.max_ratio < 1
            or o.only_free
            or o.threshold is not None
        )
        if self.number > 1 and asked:
            raise OnnxPruneError(
                "iterative prunes in rounds to a ratio or a budget that all groups share; leave out limits, --threshold, "
                "--group-ratio and --max-ratio"
            )

    @property
    def fractions(self) -> list[float]:
        """What is left of the original after each round."""
        o = self.options
        rest = o.budget[1] if o.budget else 1 - o.removed
        return [1 - (1 - rest) * share for share in plan_shares(self.number, o.schedule or "linear", rest)]

    def ask(self) -> Iterator[tuple[int, float, float]]:
        """The number of each round, what is to be left after it, and what was to be left before."""
        before = 1.0
        for at, fraction in enumerate(self.fractions):
            yield at, fraction, before
            before = fraction

    def options_of(self, a: Analysis, fraction: float, before: float) -> Options:
        """What to ask of a model that rounds before made, so that a fraction of the original is left."""
        o = self.options
        left = fraction / before
        if o.budget is None:
            return replace(self._of_groups(a), ratio=1 - left)
        kind = o.budget[0]
        whole, now = self._count(self.original, kind), self._count(a, kind)
        if whole and now:
            left = fraction * whole / now
        return replace(self._of_groups(a), **{kind: min(left, 1.0)})  # type: ignore[arg-type]

    def _of_groups(self, a: Analysis) -> Options:
        """The same groups stay whole as in the original; one that pruning joined with another has a name of its own."""
        if a is self.original:
            return self.options
        out = list_left_out(self.original, self.options)
        names = tuple(g.name for g in a.groups if g.name in out or g.name not in self.original.by_name)
        return replace(self.options, include=(), exclude=names)

    def _count(self, a: Analysis, kind: str) -> float | None:
        if kind == "bytes":
            return count_saved_bytes(a.model)
        cost = None if kind == "latency" else make_cost(a, kind)
        return None if cost is None else cost.whole
