"""Scores and a ratio become a plan: how many channels each group keeps, and which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from onnxprune.criteria import NORMALISERS, normalise
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import Analysis, Group
from onnxprune.plans import Choice, Plan, fingerprint
from onnxprune.scoring import score_group

SCOPES = ("local", "global", "isomorphic")


@dataclass(frozen=True)
class Options:
    """What a user may ask of a plan.

    `ratio` is the fraction to remove: of each group's channels (local), of all channels ranked together (global), or of
    the channels of groups of one shape (isomorphic). `max_ratio` caps what one group loses. `round_to` keeps counts at
    multiples of N. Globs match group names and the names of the initializers and nodes of a group.
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


def make_plan(a: Analysis, options: Options, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Score the chosen groups, rank their channels within the scope, and say what stays of each."""
    options.check()
    why_not = _left_out(a, options)
    chosen = [g for g in a.groups if g.name not in why_not]
    scores: dict[str, np.ndarray] = {}
    for i, g in enumerate(chosen):
        scores[g.name] = score_group(a, g, options.criterion, options.reduce, options.seed)
        if progress:
            progress(i + 1, len(chosen))
    ratios = _ratios(a, chosen, options)
    counts = _local(chosen, ratios) if options.scope == "local" else _pooled(chosen, scores, ratios, options)
    choices: dict[str, Choice] = {}
    for g in a.groups:
        if g.name in why_not:
            choices[g.name] = Choice(g.size, tuple(range(g.size)), why_not[g.name])
        else:
            choices[g.name] = _choose(g, scores[g.name], counts[g.name], options)
    return Plan(fingerprint(a.model), choices)


def _names(a: Analysis, g: Group) -> set[str]:
    nodes = a.flat.proto.graph.node
    found = {g.name}
    for m in g.members:
        found.add(m.tensor)
        if m.use[1] >= 0:
            found.add(nodes[m.use[1]].name)
    return found | {n for m in g.members for n in a.readers.get(m.tensor, ())}


def _matching(a: Analysis, globs: Sequence[str], what: str) -> dict[str, str]:
    """Group name -> the first glob that matches it. A glob that matches nothing is an error."""
    out: dict[str, str] = {}
    names = {g.name: _names(a, g) for g in a.groups} if globs else {}
    for glob in globs:
        hits = [g for g, ns in names.items() if glob in ns or any(fnmatchcase(n, glob) for n in ns)]
        if not hits:
            raise OnnxPruneError(f"--{what} '{glob}' matches no group, node or initializer; see 'onnxprune inspect'")
        for g in hits:
            out.setdefault(g, glob)
    return out


def _left_out(a: Analysis, options: Options) -> dict[str, str]:
    out = {g: f"excluded by '{glob}'" for g, glob in _matching(a, options.exclude, "exclude").items()}
    if options.include:
        inside = _matching(a, options.include, "include")
        out |= {g.name: "not among --include" for g in a.groups if g.name not in inside and g.name not in out}
    return out


def _ratios(a: Analysis, groups: Sequence[Group], options: Options) -> dict[str, float]:
    ratios = {g.name: options.ratio for g in groups}
    for glob, r in options.group_ratio.items():
        for name in _matching(a, [glob], "group-ratio"):
            if name in ratios:
                ratios[name] = r
    return ratios


def _removed(n: int, ratio: float) -> int:
    return int(np.floor(n * ratio + 1e-9))


def _local(groups: Sequence[Group], ratios: Mapping[str, float]) -> dict[str, int]:
    return {g.name: g.size - _removed(g.size, ratios[g.name]) for g in groups}


def _pooled(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratios: Mapping[str, float], options: Options
) -> dict[str, int]:
    """Rank all channels of a pool together; what one group may lose is capped, the rest is taken from the others."""
    pools: dict[object, list[Group]] = defaultdict(list)
    for g in groups:
        own = g.name if ratios[g.name] != options.ratio else None
        pools[(own, shape_of(g) if options.scope == "isomorphic" else None)].append(g)
    comparable = normalise(dict(scores), options.normalise)
    counts: dict[str, int] = {}
    for pool in pools.values():
        left = {g.name: g.size for g in pool}
        floor = {g.name: max(1, g.size - _removed(g.size, options.max_ratio)) for g in pool}
        budget = _removed(sum(left.values()), ratios[pool[0].name])
        names = np.concatenate([np.full(g.size, i) for i, g in enumerate(pool)])
        order = np.argsort(np.concatenate([comparable[g.name] for g in pool]), kind="stable")
        for i in order:
            name = pool[names[i]].name
            if budget and left[name] > floor[name]:
                left[name] -= 1
                budget -= 1
        counts |= left
    return counts


def shape_of(g: Group) -> tuple[object, ...]:
    """What makes two groups isomorphic: their kind, their size, and the roles and axes of their members."""
    return (g.kind, g.size, tuple(sorted((m.role, m.axis) for m in g.members)))


def _choose(g: Group, score: np.ndarray, count: int, options: Options) -> Choice:
    """The best `count` channels, after the cap and the rounding; the remark says what those changed."""
    notes = []
    least = g.size - _removed(g.size, options.max_ratio)
    if count < max(least, 1):
        notes.append(f"max-ratio {options.max_ratio:g} keeps {max(least, 1)} instead of {count}" if least > 1 else "")
        count = max(least, 1)
    if options.round_to > 1:
        rounded = min(g.size, -(-count // options.round_to) * options.round_to)
        if rounded != count:
            notes.append(f"round-to {options.round_to} keeps {rounded} instead of {count}")
            count = rounded
    order = np.lexsort((np.arange(g.size), -score))
    keep = tuple(int(i) for i in np.sort(order[:count]))
    if count == g.size and not any(notes):
        ratio = options.ratio
        notes = [
            f"ratio {ratio:g} of {g.size} channels removes none"
            if options.scope == "local"
            else f"its channels rank above the others ({options.scope} scope)"
        ]
    return Choice(g.size, keep, "; ".join(n for n in notes if n))


__all__ = ["SCOPES", "Options", "make_plan"]
