"""Counts from error curves: the least sum of errors within a budget, and tolerances that all groups share.

Costs are products of groups' sizes (a layer's inputs times its outputs), so the cost of one more channel depends on the
others. Dynamic programming needs a sum: each group's channels are priced at widths half way between what there is and what
the last round found, and the nominal budget is moved until the exact count fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.allocate.budget import Budget, Family
from onnxprune.allocate.selection import Candidates, Counts, change
from onnxprune.graph.weights import Array
from onnxprune.groups import Group

ROUNDS = 4  # of prices; they settle in two or three
HALVINGS = 14
UNITS = 1500  # that the nominal budget is divided into
CHOICES = 64  # different counts that are considered for a group


def choose_by_tolerance(c: Candidates, curves: Mapping[str, Array]) -> Family:
    """Every group loses as many channels as it can at one tolerated error, which grows with the ratio."""
    finite = np.concatenate([np.empty(0), *(curve[1:-1] for curve in curves.values())])
    low, high = (np.log(finite.min()), np.log(finite.max())) if finite.size else (0.0, 1.0)

    def counts(ratio: float) -> Counts:
        tolerance = np.exp(low + ratio * (high - low)) if ratio > 0 else 0.0
        return c.counts({g.name: max(1, int(np.argmax(curves[g.name] <= tolerance))) for g in c.groups})

    return counts


def choose_cheapest(
    c: Candidates, curves: Mapping[str, Array], budget: Budget, fixed: Mapping[str, int] | None = None
) -> Counts | None:
    """Counts with the least sum of errors within the budget; `fixed` sets some groups'. None where nothing fits."""
    fixed = fixed or {}
    choices = {g.name: [fixed[g.name]] if g.name in fixed else list_allowed(c, g) for g in c.groups}
    best: Counts | None = None
    for _ in range(ROUNDS):
        prices = _prices(c, budget, c.sizes if best is None else best)
        better = _within(c, choices, curves, prices, budget)
        if better is None or (best is not None and np.array_equal(better, best)):
            break
        best = better
    return None if best is None else _use_up(c, choices, curves, budget, best)


def _use_up(
    c: Candidates, choices: Mapping[str, Sequence[int]], curves: Mapping[str, Array], budget: Budget, counts: Counts
) -> Counts:
    """Give groups their next count while one fits, the one that takes most error away first: prices are only nearly true."""
    at_of, larger, gains = c.analysis.at_of, counts.copy(), np.zeros(len(counts))
    todo = [*choices]  # the groups whose next count is to be found
    while True:
        for name in todo:
            at, now = at_of[name], counts[at_of[name]]
            larger[at] = next((k for k in choices[name] if k > now), now)
            gains[at] = curves[name][now] - curves[name][larger[at]]
        order = np.argsort(-gains, kind="stable")
        tries = (change(counts, at, larger[at]) for at in order if larger[at] > counts[at])
        more = next((t for t in tries if budget.fits(t)), None)
        if more is None:
            return counts
        todo = [c.analysis.groups[at].name for at in np.flatnonzero(more > counts)]
        counts = more


def list_allowed(c: Candidates, g: Group) -> list[int]:
    """The counts that a group may keep, rising; of many, CHOICES spread evenly."""
    at = c.analysis.at_of[g.name]
    counts: list[int] = np.unique(c.settled(np.arange(c.least[at], g.size + 1), at)).tolist()
    if len(counts) <= CHOICES:
        return counts
    return [counts[i] for i in np.unique(np.linspace(0, len(counts) - 1, CHOICES).round().astype(int))]


def _prices(c: Candidates, budget: Budget, last: Counts) -> dict[str, float]:
    """The cost of one channel of each group, at widths half way between the full ones and the last solution."""
    widths = (c.sizes + last) / 2
    columns = [c.analysis.at_of[g.name] for g in c.groups]
    more = np.tile(widths, (len(columns), 1))
    more[np.arange(len(columns)), columns] += 1
    # A predicted time may fall a little where a group grows; nobody is paid for that.
    prices = np.maximum(budget.cost.at(more) - budget.cost.at(widths), 0).tolist()
    return dict(zip((g.name for g in c.groups), prices, strict=True))


def _within(
    c: Candidates,
    choices: Mapping[str, Sequence[int]],
    curves: Mapping[str, Array],
    prices: Mapping[str, float],
    budget: Budget,
) -> Counts | None:
    """The least sum of errors at these prices, with the largest nominal budget whose solution fits exactly."""
    low = sum(prices[g.name] * choices[g.name][0] for g in c.groups)
    high = sum(prices[g.name] * choices[g.name][-1] for g in c.groups)
    for nominal in (high, low):
        best = _fitting(c, solve_counts(choices, curves, prices, nominal), budget)
        if best is not None:
            break
    if best is None or nominal == high:
        return best
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        better = _fitting(c, solve_counts(choices, curves, prices, middle), budget)
        best = best if better is None else better
        low, high = (low, middle) if better is None else (middle, high)
    return best


def _fitting(c: Candidates, chosen: Mapping[str, int] | None, budget: Budget) -> Counts | None:
    """Counts that were chosen, if they fit."""
    counts = None if chosen is None else c.counts(chosen)
    return counts if counts is not None and budget.fits(counts) else None


def solve_counts(
    choices: Mapping[str, Sequence[int]], curves: Mapping[str, Array], prices: Mapping[str, float], nominal: float
) -> dict[str, int] | None:
    """One count for each group: the least sum of errors whose prices sum to at most `nominal`; None where there is none.

    The knapsack problem of many choices, by dynamic programming over the money left, in UNITS.
    """
    floor = {name: prices[name] * counts[0] for name, counts in choices.items()}
    unit = max(nominal - sum(floor.values()), 0.0) / UNITS
    best = np.zeros(UNITS + 1)  # the least error for at most so many units
    picked: list[Array] = []
    for name, counts in choices.items():
        extra = [prices[name] * n - floor[name] for n in counts]
        weights = [round(e / unit) if unit else (0 if not e else UNITS + 1) for e in extra]
        options = np.full((len(counts), UNITS + 1), np.inf)
        for i, (n, w) in enumerate(zip(counts, weights, strict=True)):
            if w <= UNITS:
                options[i, w:] = best[: UNITS + 1 - w] + curves[name][n]
        picked.append(options.argmin(0))
        best = options.min(0)
    if sum(floor.values()) > nominal * (1 + 1e-9) or not np.isfinite(best[-1]):
        return None
    left, out = UNITS, {}
    for name, pick in zip(reversed([*choices]), reversed(picked), strict=True):
        n = choices[name][int(pick[left])]
        out[name] = n
        left -= round((prices[name] * n - floor[name]) / unit) if unit else 0
    return {name: out[name] for name in choices}
