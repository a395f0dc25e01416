"""Which groups may lose channels, in which order each would lose them, and the plan that counts make of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import overload

import numpy as np

from onnxprune.allocate.align import find_multiples
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import Analysis, Group
from onnxprune.plans import Choice, Plan, fingerprint
from onnxprune.progress import Progress
from onnxprune.scoring import score_group
from onnxprune.settings import Options
from onnxprune.signals import StatisticKey
from onnxprune.targets import TARGETS

Counts = Mapping[str, int]  # group -> how many channels it keeps
RENAMED = "an earlier step joined it with another group"


@dataclass(frozen=True)
class Candidates:
    """The groups that may lose channels, with the scores that say which go first."""

    analysis: Analysis
    options: Options
    groups: Sequence[Group]
    why_not: Mapping[str, str]  # the groups that stay whole, and why
    scores: Mapping[str, np.ndarray]
    own: Mapping[str, float]  # the ratios of groups that have one of their own
    full: Mapping[str, int]  # how many channels each group had before the first step
    aligned: Mapping[str, int] = field(default_factory=dict)  # the multiples that the target is fast with
    relaxed: Mapping[str, int] = field(default_factory=dict)  # those that the budget leaves no room for

    def keep(self, g: Group, count: int) -> tuple[int, ...]:
        """The best `count` channels of a group, in their order."""
        order = np.lexsort((np.arange(g.size), -self.scores[g.name]))
        return tuple(int(i) for i in np.sort(order[:count]))

    def keeps(self, counts: Counts) -> dict[str, Kept]:
        return {g.name: Kept(self, g, counts[g.name]) for g in self.groups}

    def least(self, g: Group) -> int:
        """How many channels a group keeps whatever is asked of it."""
        full = self.full[g.name]
        return min(g.size, max(1, full - removed(full, self.options.max_ratio)))

    def settle(self, g: Group, count: int) -> tuple[int, str]:
        """A count after the cap and the rounding, and what those changed in words."""
        notes = []
        if count < self.least(g):
            most = f"max-ratio {self.options.max_ratio:g} keeps {self.least(g)} instead of {count}"
            notes.append(most if self.least(g) > 1 else "")
            count = self.least(g)
        by, why = self.multiple(g)
        up = -(-count // by) * by
        # A ratio says of each group what to keep; a budget finds it, and cheap groups would gain where narrow ones lose half.
        nearest = g.name in self.aligned and self.options.budget is None
        near = max(by, (2 * count + by) // (2 * by) * by) if nearest else up
        rounded = min(g.size, near if near >= self.least(g) else up)
        if rounded != count:
            notes.append(f"{why} keeps {rounded} instead of {count}")
        return rounded, "; ".join(filter(None, notes))

    def larger(self, g: Group, count: int) -> int:
        """The next count that a group may keep; the same where it is whole."""
        step = self.multiple(g)[0] if g.name in self.aligned else 1
        return self.settle(g, min(g.size, count + step))[0]

    def multiple(self, g: Group) -> tuple[int, str]:
        """The number that a group's count is a multiple of, and the option that asks for it."""
        by, aligned = self.options.round_to, self.aligned.get(g.name, 1)
        if aligned == 1:
            return by, f"round-to {by}"
        both = math.lcm(by, aligned)
        return both, f"target {self.options.target} (multiples of {both})"

    def settled(self, counts: Counts) -> dict[str, int]:
        return {g.name: self.settle(g, counts[g.name])[0] for g in self.groups}

    def plan(self, counts: Counts, why_whole: Callable[[Group], str], notes: Mapping[str, str] | None = None) -> Plan:
        """The best channels of each group; `why_whole` says why a group that could lose some keeps all, `notes` more of some."""
        choices = {}
        for g in self.analysis.groups:
            if g.name in self.why_not:
                choices[g.name] = Choice(g.size, tuple(range(g.size)), self.why_not[g.name])
            else:
                count, note = self.settle(g, counts[g.name])
                if count % self.relaxed.get(g.name, 1):
                    note = f"the budget leaves no room for target {self.options.target} (multiples of {self.relaxed[g.name]})"
                note = note or (why_whole(g) if count == g.size else "")
                note = "; ".join(filter(None, (note, (notes or {}).get(g.name, ""))))
                choices[g.name] = Choice(g.size, self.keep(g, count), note)
        return Plan(fingerprint(self.analysis.model), choices)


class Kept(Sequence[int]):
    """The channels that a group keeps at a count. Most costs ask for their number alone, so they are ranked when they are read."""

    __slots__ = ("_c", "_group", "_indices", "_size")

    def __init__(self, c: Candidates, group: Group, size: int) -> None:
        self._c, self._group, self._size = c, group, size
        self._indices: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if self._indices is None:
            self._indices = self._c.keep(self._group, self._size)
        return self._indices[index]


def candidates(
    a: Analysis,
    options: Options,
    statistics: Mapping[StatisticKey, np.ndarray] | None = None,
    progress: Progress | None = None,
    first: Candidates | None = None,
) -> Candidates:
    """Score the groups that the options let lose channels; `statistics` are those of `scoring.needed`.

    `first` has the candidates of the model from which steps of pruning made this one: the same groups, smaller by now.
    """
    why_not = first.why_not if first else _left_out(a, options)
    if first:  # a group of a single channel ties others together: what comes of them has another name
        why_not = {**why_not, **{g.name: RENAMED for g in a.groups if g.name not in first.full}}
    own = first.own if first else _own_ratios(a, options)
    chosen = [g for g in a.groups if g.name not in why_not]
    scores: dict[str, np.ndarray] = {}
    for i, g in enumerate(chosen):
        scores[g.name] = score_group(a, g, options.criterion or "l2", options.reduce, options.seed, statistics)
        if progress:
            progress(i + 1, len(chosen))
    full = first.full if first else {g.name: g.size for g in a.groups}
    if first:
        return Candidates(a, options, chosen, why_not, scores, own, full, first.aligned, first.relaxed)
    aligned = find_multiples(a, TARGETS[options.target], options.has_fine_steps) if options.target else {}
    if options.budget is None and options.limit is None:  # a group of one block has a ratio to meet all the same
        aligned = {name: by for name, by in aligned.items() if 2 * by <= full[name]}
    return Candidates(a, options, chosen, why_not, scores, own, full, aligned)


def removed(n: int, ratio: float) -> int:
    """How many of n channels a ratio removes."""
    return int(np.floor(n * ratio + 1e-9))


def matching(a: Analysis, globs: Iterable[str], what: str) -> dict[str, str]:
    """Group name -> the first glob that matches it. A glob that matches nothing is an error."""
    out: dict[str, str] = {}
    globs = list(globs)
    names = {g.name: _names(a, g) for g in a.groups} if globs else {}
    for glob in globs:
        hits = [g for g, ns in names.items() if glob in ns or any(fnmatchcase(n, glob) for n in ns)]
        if not hits:
            raise OnnxPruneError(f"--{what} '{glob}' matches no group, node or initializer; see 'onnxprune inspect'")
        for g in hits:
            out.setdefault(g, glob)
    return out


def _names(a: Analysis, g: Group) -> set[str]:
    nodes = a.flat.proto.graph.node
    found = {g.name}
    for m in g.members:
        found.add(m.tensor)
        if m.use[1] >= 0:
            found.add(nodes[m.use[1]].name)
    return found | {n for m in g.members for n in a.readers.get(m.tensor, ())}


def _left_out(a: Analysis, options: Options) -> dict[str, str]:
    out = {g: f"excluded by '{glob}'" for g, glob in matching(a, options.exclude, "exclude").items()}
    if options.include:
        inside = matching(a, options.include, "include")
        out |= {g.name: "not among --include" for g in a.groups if g.name not in inside and g.name not in out}
    return out


def _own_ratios(a: Analysis, options: Options) -> dict[str, float]:
    """A later glob overrules an earlier one."""
    own: dict[str, float] = {}
    for glob, r in options.group_ratio.items():
        own |= dict.fromkeys(matching(a, [glob], "group-ratio"), r)
    return own
