"""A ratio becomes counts: of each group's own channels, or of all channels ranked together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from onnxprune.allocate.selection import Candidates, Counts, removed
from onnxprune.criteria import normalize
from onnxprune.groups import Group


def counts_at(c: Candidates, ratio: float, scope: str, share: float = 1.0) -> Counts:
    """What each candidate keeps when a fraction `ratio` of the channels has gone, before the cap and the rounding.

    Groups that --group-ratio names have their own. Of all that goes a `share` is due by now.
    """
    ratios = {g.name: c.own.get(g.name, ratio) * share for g in c.groups}
    if scope == "local":
        return {g.name: g.size - _due(c, [g], ratios[g.name]) for g in c.groups}
    return _pooled(c, ratios, scope)


def _due(c: Candidates, groups: Sequence[Group], ratio: float) -> int:
    """How many more channels of some groups go for a ratio of their full sizes to be gone."""
    full = sum(c.full[g.name] for g in groups)
    return max(0, removed(full, ratio) - full + sum(g.size for g in groups))


def _pooled(c: Candidates, ratios: dict[str, float], scope: str) -> Counts:
    """Rank all channels of a pool together; what one group may lose is capped, the rest is taken from the others."""
    pools: dict[object, list[Group]] = defaultdict(list)
    for g in c.groups:
        pools[(g.name if g.name in c.own else None, shape_of(g) if scope == "isomorphic" else None)].append(g)
    comparable = normalize(dict(c.scores), c.options.normalize)
    counts: dict[str, int] = {}
    for pool in pools.values():
        left = {g.name: g.size for g in pool}
        budget = _due(c, pool, ratios[pool[0].name])
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
