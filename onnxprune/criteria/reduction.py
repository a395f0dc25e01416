"""How the scores of a group's members become one score a channel.

With m members, s_i the criterion's score of member i alone, and s(A) its score of the members A side by side, as
one matrix [n, sum of k]:

    sides    geometric mean of s(A) over the roles present, A = all the members of one role (default)
    joint    s(all the members): for an Lp norm the group norm of DepGraph (Fang et al. 2023, arXiv 2301.12900), which
             ranks as Torch-Pruning's `mean` and `sum` of p-th powers do
    sum      s_1 + .. + s_m
    mean     (s_1 + .. + s_m) / m
    max      max(s_1, .., s_m)
    product  (s_1 * .. * s_m) ** (1/m): the root keeps the order and cannot underflow with many members
    first    s_1, the group's first member of the criterion's roles: the filter norm of Li et al. 2017

Width: an Lp norm grows with k, so in sum, mean, max and joint a wide member (a Conv's k = I * 9) outweighs a narrow
one (a norm's k = 1). In sides, the width of a side is a factor common to all channels and leaves their order alone;
within a side, entries count equally, so wide producers outweigh narrow ones, as they do in the channel's variance.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxprune.criteria.registry import Scores

Members = Sequence[Any]  # Slices, or Signals
Evaluate = Callable[[Any], Scores]


def _each(members: Members, s: Evaluate) -> list[Scores]:
    return [s([m]) for m in members]


def _geometric(parts: Sequence[Scores]) -> Scores:
    total = np.ones_like(parts[0])
    for part in parts:
        total *= part if len(parts) == 1 else part ** (1.0 / len(parts))
    return total


def _sides(members: Members, s: Evaluate) -> Scores:
    roles = dict.fromkeys(m.role for m in members)
    return _geometric([s([m for m in members if m.role == role]) for role in roles])


def _sum(members: Members, s: Evaluate) -> Scores:
    total = s(members[:1])
    for part in _each(members[1:], s):
        total = total + part
    return total


_REDUCES: dict[str, Callable[[Members, Evaluate], Scores]] = {
    "sides": _sides,
    "joint": lambda members, s: s(members),
    "sum": _sum,
    "mean": lambda members, s: _sum(members, s) / len(members),
    "max": lambda members, s: np.maximum.reduce(_each(members, s)),
    "product": lambda members, s: _geometric(_each(members, s)),
    "first": lambda members, s: s(members[:1]),
}

REDUCES = tuple(_REDUCES)
"""The names that `reduce` takes."""


def combine(members: Members, reduction: str, s: Evaluate) -> Scores:
    """One score a channel [n] from the members of a group; `s` scores members laid side by side."""
    return _REDUCES[reduction](members, s)
