"""A ratio becomes counts: of each group's own channels, or of all channels ranked together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocate.polynomial import Ints
from onnxprune.allocate.selection import Candidates, Counts, count_removed
from onnxprune.criteria import normalize
from onnxprune.graph.weights import Array
from onnxprune.groups import Group
from onnxprune.scoring import count_distinct_channels


def count_by_ratio(c: Candidates, scope: str, share: float = 1.0) -> Callable[[float], Counts]:
    """The counts of the groups as a function of the removed fraction of channels, before the cap and the rounding.

    Groups that --group-ratio names have their own. Of all that goes a `share` is due by now.
    """
    own = np.array([c.own.get(g.name, np.nan) for g in c.analysis.groups], np.float64)

    def ratios(ratio: float) -> Array:
        own_or_all: Array = np.where(np.isnan(own), ratio, own) * share
        return own_or_all

    if scope == "local":
        return lambda ratio: c.sizes - _due(c.full_sizes, c.sizes, ratios(ratio))
    pools = _pools(c, scope)

    def counts(ratio: float) -> Counts:
        left, wanted = c.sizes.copy(), ratios(ratio)
        for pool in pools:
            due = int(_due(pool.full, pool.size, wanted[pool.first]))
            left -= np.bincount(pool.order[:due], minlength=len(left))
        return left

    return counts


def count_by_threshold(c: Candidates, threshold: float) -> Counts:
    """What each group keeps where the channels go whose scores are below a threshold, before the cap and the rounding.

    Groups that --group-ratio names have their own ratios.
    """
    left = count_by_ratio(c, "local")(0.0)
    for name in c.scores.keys() - c.own.keys():
        at = c.analysis.at_of[name]
        left[at] = np.count_nonzero(c.scores[name] >= threshold)
    return left


def count_by_redundancy(c: Candidates) -> Callable[[float], Counts]:
    """Groups keep channels in proportion to how many of them are distinct: the most redundant ones are pruned first.

    A group of n channels, N of them distinct, has the redundancy 1 - N / n. Pruning the group with the largest one again and
    again leaves all pruned groups at one redundancy, which is to keep N t of their channels, with one t for all.
    Source: Wang, Li and Wang 2021, Structural Redundancy Reduction, arXiv 2104.03438, with N kept as it is at first
    """
    distinct = c.sizes.astype(np.float64)
    for g in c.groups:
        distinct[c.analysis.at_of[g.name]] = count_distinct_channels(c.analysis, g)
    most = float((c.sizes / distinct).max(initial=1.0))

    def counts(ratio: float) -> Counts:
        kept: Counts = np.minimum(c.sizes, np.floor(distinct * (most * (1 - ratio)) + 1e-9).astype(np.int64))
        return kept

    return counts


def _due(full: Ints | int, now: Ints | int, ratio: Array | float) -> Ints:
    """The number of channels still to remove for a ratio of the full number."""
    due: Ints = np.maximum(0, count_removed(full, ratio) - full + now)
    return due


@dataclass(frozen=True)
class _Pool:
    """Groups whose channels compete with each other."""

    first: int  # one of the groups
    full: int  # how many channels they had before the first step
    size: int  # how many they have
    order: Ints  # the groups of the channels that may go, in the order in which they go


def _pools(c: Candidates, scope: str) -> list[_Pool]:
    comparable = normalize(dict(c.scores), c.options.normalize)
    pools: dict[object, list[Group]] = defaultdict(list)
    for g in c.groups:
        pools[(g.name if g.name in c.own else None, make_shape_key(g) if scope == "isomorphic" else None)].append(g)
    return [_pool(c, pool, [comparable[g.name] for g in pool]) for pool in pools.values()]


def _pool(c: Candidates, groups: Sequence[Group], scores: Sequence[Array]) -> _Pool:
    """Rank all channels together; what one group may lose is capped, the rest is taken from the others."""
    at = np.array([c.analysis.at_of[g.name] for g in groups])
    order = np.repeat(at, c.sizes[at])[np.argsort(np.concatenate(scores), kind="stable")]
    by_group = np.argsort(order, kind="stable")
    place = np.empty_like(order)  # of each channel among those of its group
    place[by_group] = np.concatenate([np.arange(n) for n in c.sizes[at]])
    may_go = place < (c.sizes - c.least)[order]
    return _Pool(int(at[0]), int(c.full_sizes[at].sum()), int(c.sizes[at].sum()), order[may_go])


def make_shape_key(g: Group) -> tuple[object, ...]:
    """The key of isomorphic groups: their kind, their size, and the roles and axes of their members."""
    return (g.kind, g.size, tuple(sorted((m.role, m.axis) for m in g.members)))
