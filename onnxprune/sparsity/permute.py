"""The order of input channels under which N:M sparsity keeps most.

N:M sparsity keeps the n largest of every m consecutive columns in each row. Columns may be put in any order first, and the order
decides which of them compete (Pool and Yu 2021, Channel Permutations for N:M Sparsity). The search takes one column out of
every group and hands all of them out again at once: a group that is left with m - 1 columns, whose n-th largest values are t [R],
keeps sum(max(t, x)) with the column x [R], up to a constant of its own. So one step is an assignment problem
on a matrix [groups, columns taken out], see `compute_gains`; `assign_columns` solves it, on noise that fades (simulated
annealing), and `search` takes as many steps as the size of the problem allows. No clock is read: the same scores and seed give
the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LEVELS = 256  # a code is one byte
RANK = 4  # of the approximation of max(t, x) that finds moves
FINEST = 127  # features are whole numbers up to it, and weighted ones up to twice that, so that 512 products of them
ROWS = 512 // RANK  # sum up without rounding in float32: the order does not depend on the linear algebra library
SAMPLE = 1 << 16  # scores that the levels are taken from
TRADERS = 1024  # groups that take part in a step, at most
WORK = 1 << 33  # maxima that a step compares, at most: beyond that, rows are drawn
STEPS, LEAST, MOST = 80, 500, 3000  # for each group, besides, and at most
FREE, FEWEST = 1 << 19, 24  # maxima that a step compares at no cost, and the steps there are at any cost
NOISE, COLD = 0.3, 0.2  # at the start, in spreads of the gains; and the last share of the steps, which has none
LOOKS = 16  # steps whose gains say what their spread is
FEW = 16  # groups below which the noise starts again
DEPTH, ROUNDS = 8, 32  # of a search for cycles, and how many of those in a trade
CHUNK = 1 << 20  # elements that are handled at once where there are many


def find_best_order(
    scores: Sequence[Array], n: int, m: int, *, seed: int = 0, sizes: Sequence[int] | None = None
) -> npt.NDArray[np.int64]:
    """The order [K] of columns (new position -> old column) found to keep most of the scores; the identity where none keeps more.

    scores: one array [rows, K] of finite, non-negative numbers for each weight that reads these channels, its rows the
    filters (and kernel positions). What is kept of each adds up. Where K is no multiple of m, the last group is shorter.
    sizes: columns stay inside consecutive blocks of so many. Raises ValueError.
    """
    columns = _checked(scores, n, m)
    if sizes is not None and (min(sizes, default=1) < 0 or sum(sizes) != columns):
        raise ValueError(f"blocks {list(sizes)} do not sum to the scores' {columns} columns")
    order = np.arange(columns)
    for start, inner in _independent([columns] if sizes is None else sizes, m):
        stop = start + sum(inner)
        part = [s[:, start:stop] for s in scores]
        if stop - start <= m or n == m or not any(s.any() for s in part):
            continue
        order_of_part = search(part, n, m, np.repeat(np.arange(len(inner)), inner), np.random.default_rng(seed))
        if _total(part, n, m, order_of_part) > _total(part, n, m, None):
            order[start:stop] = start + order_of_part
    return order


def measure_kept(scores: Sequence[Array], n: int, m: int, order: Array | None = None) -> float:
    """The share of all scores (arrays [rows, K]) that N:M sparsity keeps, in [0, 1]; 1 where all are 0."""
    _checked(scores, n, m)
    whole = sum(float(s.sum(dtype=np.float64)) for s in scores)
    return _total(scores, n, m, order) / whole if whole else 1.0


def _checked(scores: Sequence[Array], n: int, m: int) -> int:
    """K. Raises ValueError."""
    if not 1 <= n <= m:
        raise ValueError(f"pattern {n}:{m}: it keeps n of m, so 1 <= n <= m")
    columns = {s.shape[1] if s.ndim == 2 else -1 for s in scores}
    if len(columns) != 1 or columns == {-1}:
        raise ValueError(f"scores must be matrices of as many columns each, not {[s.shape for s in scores]}")
    for s in scores:
        if s.size and not (s.min() >= 0 and np.isfinite(s.max())):
            raise ValueError("scores must be finite and not negative")
    return int(columns.pop())


def _independent(sizes: Sequence[int], m: int) -> Iterator[tuple[int, list[int]]]:
    """Runs of blocks that share no group with others: where each begins, and the sizes of its blocks."""
    start, inner = 0, list[int]()
    for size in sizes:
        inner.append(size)
        if sum(inner) % m == 0:
            yield start, inner
            start, inner = start + sum(inner), []
    if inner:
        yield start, inner


def _total(scores: Sequence[Array], n: int, m: int, order: Array | None) -> float:
    """The sum of what is kept."""
    total = 0.0
    for s in scores:
        columns = s.shape[1]
        step = max(1, CHUNK // max(1, columns))
        for at in range(0, s.shape[0], step):
            part = s[at : at + step] if order is None else s[at : at + step][:, order]
            groups = np.pad(part, ((0, 0), (0, -columns % m))).reshape(-1, m)
            total += float(np.partition(groups, m - n, axis=1)[:, m - n :].sum(dtype=np.float64))
    return total


@dataclass
class Coded:
    """Scores [K, R] as codes of one byte that grow with them, each score relative to the mean of its row.

    max(t, x) of two levels is, but for terms of t or x alone, minus the product of their features: the leading eigenvectors
    of the matrix of maxima with the means of its rows and columns taken out. Those terms are the same in every assignment.
    """

    codes: Array  # uint8 [K, R]; columns of 0 are added where K is no multiple of m
    scale: Array  # [R], the means of the rows
    value: Array  # [levels], the mean score of each code
    features: Array  # float32 [levels, RANK], whole numbers


def encode_scores(scores: Sequence[Array], m: int, rng: np.random.Generator) -> Coded:
    """Of all rows that have scores, or of as many as a step can take in."""
    columns = scores[0].shape[1]
    groups = -(-columns // m)
    scales = [s.mean(axis=1, dtype=np.float64) for s in scores]
    rows = [np.flatnonzero(scale) for scale in scales]
    part = min(1.0, WORK / min(groups, TRADERS) ** 2 / sum(map(len, rows)))
    rows = [np.sort(rng.choice(r, int(np.ceil(part * len(r))), replace=False)) for r in rows]
    scales = [scale[r] for scale, r in zip(scales, rows, strict=True)]
    edges, value, share = _levels(_sample(scores, rows, scales, rng))
    codes = np.zeros((groups * m, sum(map(len, rows))), np.uint8)
    to = 0
    for s, r, scale in zip(scores, rows, scales, strict=True):
        step = max(1, CHUNK // columns)
        for at in range(0, len(r), step):
            relative = s[r[at : at + step]] / scale[at : at + step, None]
            codes[:columns, to : to + len(relative)] = np.searchsorted(edges, relative, side="right").T
            to += len(relative)
    return Coded(codes, np.concatenate(scales), value, _features(value, share))


def _sample(scores: Sequence[Array], rows: Sequence[Array], scales: Sequence[Array], rng: np.random.Generator) -> Array:
    """Scores, relative to the mean of their row, drawn from all of them, in ascending order."""
    whole = sum(map(len, rows))
    drawn = []
    for s, r, scale in zip(scores, rows, scales, strict=True):
        at = rng.integers(0, max(1, len(r)), SAMPLE * len(r) // whole)
        drawn.append(s[r[at], rng.integers(0, s.shape[1], len(at))] / scale[at])
    return np.sort(np.concatenate(drawn))


def _levels(sample: Array) -> tuple[Array, Array, Array]:
    """The bounds of the levels, and the mean and share of the scores in each; few scores are in the highest."""
    mass = 1 / len(sample) + sample / sample.sum()
    at = np.searchsorted(np.cumsum(mass), np.arange(1, LEVELS) * (2 / LEVELS))
    edges = np.unique(sample[np.minimum(at, len(sample) - 1)])
    code = np.searchsorted(edges, sample, side="right")
    count = np.bincount(code, minlength=len(edges) + 1)
    value = np.bincount(code, sample, len(count)) / np.maximum(count, 1)
    return edges, value, count / len(sample)


def _features(value: Array, share: Array) -> Array:
    """The features of each level, in whole numbers."""
    maxima = np.maximum.outer(value, value)
    mean = maxima @ share
    root = np.sqrt(share)
    strength, vectors = np.linalg.eigh(np.outer(root, root) * (mean[:, None] + mean - mean @ share - maxima))
    lead = np.sqrt(np.maximum(strength[: -RANK - 1 : -1], 0))
    table = np.zeros((len(value), RANK))
    table[:, : len(lead)] = vectors[:, : -RANK - 1 : -1] * lead / np.where(root > 0, root, np.inf)[:, None]
    unit = FINEST / (np.abs(table).max() or 1.0)
    return np.asarray(np.rint(table * unit).astype(np.float32))


class Search:
    """An order that changes, step by step, and what it keeps more than at the start."""

    def __init__(self, c: Coded, n: int, label: Array, m: int, rng: np.random.Generator) -> None:
        self.c, self.n, self.rng, self.kept = c, n, rng, 0.0
        self.order = np.arange(len(c.codes)).reshape(-1, m)
        added = len(c.codes) - len(label)
        self.width = np.full(len(self.order), m)
        self.width[-1] -= added  # what was added stays where it is: at the end of the last group
        self.label = None if label[0] == label[-1] else np.append(label, np.zeros(added, label.dtype))
        self.spreads: list[float] = []

    def step(self, heat: float) -> None:
        """Take a random column out of each group, and hand them all out again."""
        who = self._traders()
        out, at = self._take_out(who), np.arange(len(who))
        rest, x = _nth(self.c.codes, self.order[who, 1:], self.n), self.c.codes[out]
        gain = compute_gains(self.c, rest, x)
        if len(self.spreads) < LOOKS:
            self.spreads.append(_spread(gain))
        if heat:
            noise = np.float32(heat * sum(self.spreads) / len(self.spreads))
            gain += noise * self.rng.standard_normal(gain.shape, np.float32)
        if self.label is not None:
            gain[self.label[out][:, None] != self.label[out]] = -np.inf
        taken = assign_columns(gain)
        self.order[who, 0] = out[taken]
        moved = np.flatnonzero(taken != at)
        self.kept += _more(self.c, rest[moved], x[taken[moved]], x[moved])

    def _traders(self) -> Array:
        groups = len(self.order)
        return np.arange(groups) if groups <= TRADERS else self.rng.choice(groups, TRADERS, replace=False)

    def _take_out(self, who: Array) -> Array:
        """A column of each of those groups, which now stands first there."""
        slot = self.rng.integers(0, self.width[who])
        out = self.order[who, slot]
        self.order[who, slot] = self.order[who, 0]
        self.order[who, 0] = out
        return out


def _more(c: Coded, rest: Array, new: Array, old: Array) -> float:
    """The gain of groups from new columns over the old ones; all codes [G, R]."""
    more, step = 0.0, max(1, CHUNK // max(1, len(rest)))
    for at in range(0, len(c.scale), step):
        rows = slice(at, at + step)
        after, before = (c.value.take(np.maximum(rest[:, rows], x[:, rows])) for x in (new, old))
        more += float((after - before).sum(axis=0) @ c.scale[rows])
    return more


def _spread(gain: Array) -> float:
    """The median distance of gains from what the means of their rows and columns say: outliers don't count."""
    wide = gain.astype(np.float64)
    wide += wide.mean() - wide.mean(axis=0) - wide.mean(axis=1, keepdims=True)
    return float(np.median(np.abs(wide)))


def search(scores: Sequence[Array], n: int, m: int, label: Array, rng: np.random.Generator) -> Array:
    """The best order [K] that was met; a column stays among the places of its label (ascending)."""
    c = encode_scores(scores, m, rng)
    s = Search(c, n, label, m, rng)
    best, most = s.order.copy(), 0.0
    for heat in _heats(*c.codes[::m].shape):
        before, kept_before = s.order.copy(), s.kept
        s.step(float(heat))
        if s.kept > most:
            best, most = s.order.copy(), s.kept
        elif not heat and s.kept < kept_before:
            s.order, s.kept = before, kept_before
    return np.asarray(np.sort(best, axis=1).ravel()[: len(label)])


def _heats(groups: int, rows: int) -> Array:
    """The noise of each step. A small problem is heated several times, and more, so that its optimum is met."""
    steps, times = _steps(groups, rows), max(1, FEW // groups)
    return np.asarray(NOISE * times * np.maximum(0, 1 - np.arange(steps) * times / steps % 1 / (1 - COLD)))


def _steps(groups: int, rows: int) -> int:
    """Fewer where each costs more, so that the time grows with the root of the work."""
    traders = min(groups, TRADERS)
    slower = 1 + traders**2 * (rows + 300) / FREE
    return int(max(FEWEST, min(MOST, LEAST + STEPS * groups) / np.sqrt(slower)) * groups / traders)


def _nth(codes: Array, columns: Array, n: int) -> Array:
    """The n-th largest codes [G, R] of columns [G, m - 1 >= n]."""
    top: list[Array] = []
    for column in columns.T:
        x = codes[column]
        for i, t in enumerate(top):
            top[i], x = np.maximum(t, x), np.minimum(t, x)
        if len(top) < n:
            top.append(x)
    return top[-1]


def compute_gains(c: Coded, rest: Array, x: Array) -> Array:
    """The gain of each group [G] from each column [G], up to a constant for each of both: codes [G, R] -> [G, G]."""
    matrix = np.zeros((len(rest), len(x)), np.float32)
    weight = (2 / c.scale.max(initial=0) * c.scale).astype(np.float32)[:, None]
    for at in range(0, len(c.scale), ROWS):
        t, f = (c.features.take(codes[:, at : at + ROWS], axis=0) for codes in (rest, x))
        matrix -= t.reshape(len(t), -1) @ np.rint(f * weight[at : at + ROWS]).reshape(len(f), -1).T
    return matrix


def assign_columns(gain: Array) -> Array:
    """The assignment of columns to groups: taken [G], such that the sum of gain[i, taken[i]] is (nearly) the largest.

    Everybody starts with their own. Bellman and Ford's search for chains of gifts that gain, from everywhere at once, runs for a
    few steps; each has at most one giver then, so that the cycles among them share nobody, and all of them are carried out.
    """
    at = np.arange(len(gain))
    taken = at
    gain = gain - gain[at, at][:, None]
    least = 1e-6 * np.abs(gain, where=np.isfinite(gain), out=np.zeros_like(gain)).max()
    for _ in range(ROUNDS):
        giver = _givers(gain, least)
        on = giver
        for _ in range(len(at).bit_length()):
            on = on[on]  # after as many gifts as there are groups, whatever is reached lies on a cycle
        move = at.copy()
        move[on] = giver[on]
        if (move == at).all():
            break
        taken = taken[move]
        gain = gain.take(move, axis=1)
        gain -= gain[at, at][:, None]
    return taken


def _givers(gain: Array, least: float) -> Array:
    """From whom each gets a column on the best chain of up to DEPTH gifts that ends there; from themselves where there is none."""
    at = np.arange(len(gain))
    giver, sums = at, np.zeros(len(gain), gain.dtype)
    for _ in range(DEPTH):
        chains = gain + sums
        best = chains.argmax(axis=1)
        gains = chains[at, best]
        better = gains > sums + least
        if not better.any():
            break
        giver, sums = np.where(better, best, giver), np.where(better, gains, sums)
    return giver
