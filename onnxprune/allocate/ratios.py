"""A ratio becomes counts: of each group's own channels, or of all channels ranked together."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from onnxprune.allocate.selection import Candidates, Counts, matching, removed
from onnxprune.criteria import normalise
from onnxprune.groups import Group


def counts_at(c: Candidates, ratio: float, scope: str) -> Counts:
    """What each candidate keeps when a fraction `ratio` of the channels goes, before the cap and the rounding.

    Groups that --group-ratio names have their own.
    """
    ratios = {g.name: ratio for g in c.groups} | _own(c)
    if scope == "local":
        return {g.name: g.size - removed(g.size, ratios[g.name]) for g in c.groups}
    return _pooled(c, ratios, scope)


def _own(c: Candidates) -> dict[str, float]:
    """The ratios of the groups that have one of their own; a later glob overrules an earlier one."""
    own: dict[str, float] = {}
    for glob, r in c.options.group_ratio.items():
        own |= {name: r for name in matching(c.analysis, [glob], "group-ratio") if name in c.scores}
    return own


def _pooled(c: Candidates, ratios: dict[str, float], scope: str) -> Counts:
    """Rank all channels of a pool together; what one group may lose is capped, the rest is taken from the others."""
    pools: dict[object, list[Group]] = defaultdict(list)
    own = _own(c)
    for g in c.groups:
        pools[(g.name if g.name in own else None, shape_of(g) if scope == "isomorphic" else None)].append(g)
    comparable = normalise(dict(c.scores), c.options.normalise)
    counts: dict[str, int] = {}
    for pool in pools.values():
        left = {g.name: g.size for g in pool}
        budget = removed(sum(left.values()), ratios[pool[0].name])
        names = np.concatenate([np.full(g.size, i) for i, g in enumerate(pool)])
        order = np.argsort(np.concatenate([comparable[g.name] for g in pool]), kind="stable")
        for i in order:
            g = pool[names[i]]
            if budget and left[g.name] > c.least(g):
                left[g.name] -= 1
                budget -= 1
        counts |= left
    return counts


def shape_of(g: Group) -> tuple[object, ...]:
    """What makes two groups isomorphic: their kind, their size, and the roles and axes of their members."""
    return (g.kind, g.size, tuple(sorted((m.role, m.axis) for m in g.members)))
