"""The groups that may lose channels, the order of their channels, and the plan for given counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxprune.allocate.align import find_multiples
from onnxprune.allocate.polynomial import Ints
from onnxprune.errors import OnnxPruneError
from onnxprune.experts import Expert, count_used, find_experts
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis, Group
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.progress import Progress
from onnxprune.scoring import score_group
from onnxprune.settings import Options
from onnxprune.signals import StatisticKey
from onnxprune.targets import TARGETS
from onnxprune.units import Unit, find_lost_weights, find_units

Counts = Ints  # how many channels each group of an analysis keeps, in its order
Bools = npt.NDArray[np.bool_]
At = int | np.integer | Ints
UNIT_GOES = "its block is removed"
Branch = Unit | Expert  # what can be removed beside channels, and measured alone
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
    free: Mapping[str, Ints] = field(default_factory=dict)  # channels that cost nothing, which go whatever is asked
    units: Sequence[Unit] = ()  # that go whatever the groups keep

    def without(self, removed: Sequence[Branch]) -> Candidates:
        """The same where these units go: groups that only they have lose nothing more, and experts are channels that go first."""
        units, free = [u for u in removed if isinstance(u, Unit)], dict(self.free)
        for expert in (e for e in removed if isinstance(e, Expert)):
            free[expert.group] = np.union1d(free.get(expert.group, ()), [expert.index]).astype(np.int64)
        lost = find_lost_weights(self.analysis, units)
        gone = {g.name: UNIT_GOES for g in self.groups if lost.issuperset(m.tensor for m in g.members)}
        left = [g for g in self.groups if g.name not in gone]
        return replace(self, groups=left, why_not={**self.why_not, **gone}, units=units, free=free)

    @property
    def sizes(self) -> Ints:
        return self.analysis.sizes

    @cached_property
    def full_sizes(self) -> Ints:
        """The number of channels of each group before the first step."""
        return np.array([self.full.get(g.name, g.size) for g in self.analysis.groups], np.int64)

    @cached_property
    def least(self) -> Ints:
        """The least number of channels that each group keeps."""
        used = count_used(self.analysis)  # a token uses that many experts
        few = np.array([used.get(g.name, 1) for g in self.analysis.groups], np.int64)
        capped = np.maximum(few, self.full_sizes - count_removed(self.full_sizes, self.options.max_ratio))
        stays = [g.name in self.why_not for g in self.analysis.groups]
        least: Ints = np.where(stays, self.sizes, np.minimum(self.sizes, capped))
        return least

    @cached_property
    def most(self) -> Ints:
        """The number of channels of each group when only free ones are removed."""
        free = [len(self.free.get(g.name, ())) for g in self.analysis.groups]
        most: Ints = np.maximum(self.least, self.sizes - free)
        return most

    @cached_property
    def is_aligned(self) -> Bools:
        return np.array([g.name in self.aligned for g in self.analysis.groups], np.bool_)

    @cached_property
    def multiples(self) -> Ints:
        """The numbers that counts are multiples of."""
        by = self.options.round_to
        return np.array([math.lcm(by, self.aligned.get(g.name, 1)) for g in self.analysis.groups], np.int64)

    @cached_property
    def _ranked(self) -> dict[str, Ints]:
        """The channels of each candidate, the best first; those that are free come last."""
        ranked = {}
        for name, scores in self.scores.items():
            is_free = np.isin(np.arange(len(scores)), self.free.get(name, ()))
            ranked[name] = np.lexsort((-scores, is_free))
        return ranked

    def keep(self, g: Group, count: int) -> tuple[int, ...]:
        """The best `count` channels of a group, in their order."""
        return tuple(range(count) if count == g.size else np.sort(self._ranked[g.name][:count]).tolist())

    def leaving(self, g: Group) -> Ints:
        """The channels of a group in the order in which they go."""
        return self._ranked[g.name][::-1]

    def counts(self, chosen: Mapping[str, int]) -> Counts:
        """Counts of which some are chosen, and the other groups are whole."""
        return change(self.sizes, [self.analysis.at_of[name] for name in chosen], [*chosen.values()])

    def settled(self, counts: Counts, at: int | slice = slice(None)) -> Counts:
        """Counts after the cap and the rounding, of all groups; or any number of counts of the group `at`."""
        by, least = self.multiples[at], self.least[at]
        counts = np.maximum(np.minimum(counts, self.most[at]), least)
        up = -(-counts // by) * by
        # A ratio says of each group what to keep; a budget finds it, and cheap groups would gain where narrow ones lose half.
        if self.options.budget is None:
            near = np.maximum(by, (2 * counts + by) // (2 * by) * by)
            up = np.where(self.is_aligned[at] & (near >= least), near, up)
        settled: Counts = np.minimum(self.sizes[at], up)
        return settled

    @property
    def smallest(self) -> Counts:
        """The least that the groups may keep."""
        return self.settled(self.least)

    def larger(self, counts: Counts) -> Counts:
        """The next counts that groups may keep; the same where they are whole."""
        steps = np.where(self.is_aligned, self.multiples, 1)
        return self.settled(np.minimum(self.sizes, counts + steps))

    def plan(self, counts: Counts, why_whole: Callable[[Group], str], notes: Mapping[str, str] | None = None) -> Plan:
        """The best channels of each group; `why_whole` says why a group that could lose some keeps all, `notes` more of some."""
        choices = {}
        settled = self.settled(counts)
        for at, g in enumerate(self.analysis.groups):
            if g.name in self.why_not:
                choices[g.name] = Choice(g.size, tuple(range(g.size)), self.why_not[g.name])
            else:
                count = int(settled[at])
                note = self._explain(g, int(counts[at]), count) or (why_whole(g) if count == g.size else "")
                note = "; ".join(filter(None, (note, (notes or {}).get(g.name, ""))))
                choices[g.name] = Choice(g.size, self.keep(g, count), note)
        return Plan(compute_fingerprint(self.analysis.model), choices, units=tuple(u.name for u in self.units))

    def _explain(self, g: Group, asked: int, count: int) -> str:
        """Explain how the cap and the rounding changed a count."""
        at = self.analysis.at_of[g.name]
        least, most, by = int(self.least[at]), int(self.most[at]), int(self.multiples[at])
        if count % self.relaxed.get(g.name, 1):
            return f"the budget leaves no room for target {self.options.target} (multiples of {self.relaxed[g.name]})"
        notes = []
        if asked < least and least > 1:
            notes.append(f"max-ratio {self.options.max_ratio:g} keeps {least} instead of {asked}")
        if count != (capped := max(min(asked, most), least)):
            aligned = self.aligned.get(g.name, 1) > 1
            why = f"target {self.options.target} (multiples of {by})" if aligned else f"round-to {by}"
            spare = f", {count - most} of them free" if count > most else ""
            notes.append(f"{why} keeps {count} instead of {capped}{spare}")
        return "; ".join(notes)


def select_candidates(
    a: Analysis,
    options: Options,
    statistics: Mapping[StatisticKey, np.ndarray] | None = None,
    progress: Progress | None = None,
    first: Candidates | None = None,
    free: Mapping[str, Ints] = MappingProxyType({}),
) -> Candidates:
    """Score the groups that the options let lose channels; `statistics` are those of `list_needed_statistics`.

    The channels of `free`, by group, go first.

    `first` has the candidates of the model from which steps of pruning made this one: the same groups, smaller by now.
    """
    why_not = first.why_not if first else list_left_out(a, options)
    if first:  # a group of a single channel ties others together: what comes of them has another name
        why_not = {**why_not, **{g.name: RENAMED for g in a.groups if g.name not in first.full}}
    own = first.own if first else _own_ratios(a, options)
    chosen = [g for g in a.groups if g.name not in why_not]
    scores: dict[str, np.ndarray] = {}
    for i, g in enumerate(chosen):
        scores[g.name] = score_group(a, g, options.criterion or "l2", options.reduce, options.seed, statistics)
        if g.name in free:
            scores[g.name][free[g.name]] = min(0.0, scores[g.name].min())
        if progress:
            progress(i + 1, len(chosen))
    full = first.full if first else {g.name: g.size for g in a.groups}
    if first:
        return Candidates(a, options, chosen, why_not, scores, own, full, first.aligned, first.relaxed)
    aligned = (
        find_multiples(a, TARGETS[options.target], options.has_fine_steps, options.has_measured_steps)
        if options.target
        else {}
    )
    if options.budget is None and options.limit is None:  # a group of one block has a ratio to meet all the same
        aligned = {name: by for name, by in aligned.items() if 2 * by <= full[name]}
    if options.only_free:  # whatever is fast: it is asked for size
        aligned = {}
    return Candidates(a, options, chosen, why_not, scores, own, full, aligned, free=free)


def change(counts: Counts, at: At | Sequence[int], to: At | Sequence[int]) -> Counts:
    """The same counts but for one or some of them."""
    changed = counts.copy()
    changed[at] = to
    return changed


def count_removed(n: Ints | int, ratio: Array | float) -> Ints:
    """The number of channels of n that a ratio removes."""
    gone: Ints = np.floor(n * ratio + 1e-9).astype(np.int64)
    return gone


def match_groups(a: Analysis, globs: Iterable[str], what: str) -> dict[str, str]:
    """Group name -> the first glob that matches it. A glob that matches nothing is an error."""
    out: dict[str, str] = {}
    globs = list(globs)
    names = {g.name: _names(a, g) for g in a.groups} if globs else {}
    for glob in globs:
        hits = [g for g, ns in names.items() if glob in ns or any(fnmatchcase(n, glob) for n in ns)]
        units: list[Branch] = [] if hits else [*find_units(a), *find_experts(a)]
        if not hits and not any(fnmatchcase(u.name, glob) for u in units):
            raise OnnxPruneError(f"--{what} '{glob}' matches no group, node or initializer; see 'onnxprune inspect'")
        for g in hits:
            out.setdefault(g, glob)
    return out


def _names(a: Analysis, g: Group) -> set[str]:
    nodes = a.flat.proto.graph.node
    names = {g.name}
    for m in g.members:
        names.add(m.tensor)
        if m.use[1] >= 0:
            names.add(nodes[m.use[1]].name)
    return names | {n for m in g.members for n in a.readers.get(m.tensor, ())}


def list_left_out(a: Analysis, options: Options) -> dict[str, str]:
    """The groups that --include and --exclude leave whole, and why."""
    out = {g: f"excluded by '{glob}'" for g, glob in match_groups(a, options.exclude, "exclude").items()}
    if options.include:
        inside = match_groups(a, options.include, "include")
        out |= {g.name: "not among --include" for g in a.groups if g.name not in inside and g.name not in out}
    return out


def _own_ratios(a: Analysis, options: Options) -> dict[str, float]:
    """A later glob overrules an earlier one."""
    own: dict[str, float] = {}
    for glob, r in options.group_ratio.items():
        own |= dict.fromkeys(match_groups(a, [glob], "group-ratio"), r)
    return own
