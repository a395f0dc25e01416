"""Choice and update of the remaining weights of a layer, from the weights alone or from the layer's inputs.

A method gets a pattern, the damped Gram matrix H = X^T X of what the layer reads [g, K, K] and its weights w [g, K, O], whose K
inputs come kernel position by kernel position, K = (P I). It returns which stay, and the weights with the others zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Protocol

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.support import Choose, fit_on
from onnxprune.sparsity.patterns import NofM, Pattern, Shape

Masked = tuple[Array, Array]  # which weights stay, and what they become


class Keeps(Protocol):
    """A pattern as methods use it."""

    def keep(self, scores: Array) -> Array:
        """A mask of the remaining weights: bool [B, O, I, P]."""


Method = Callable[[Keeps, int, Array, Array], Masked]
DAMPING = 0.01  # of the mean of the Gram matrix's diagonal, as in SparseGPT
BLOCK = 128  # columns after which all later ones are brought up to date
SETS = 70  # of weights to drop from one group that are tried; with more, each weight is judged alone


def to_scores(x: Array, positions: int) -> Array:
    """[g, (P I), O] as scores [B, O, I, P]."""
    g, k, o = x.shape
    return x.reshape(g, positions, k // positions, o).transpose(0, 3, 2, 1)


def to_layer(x: Array) -> Array:
    """[B, O, I, P] as [g, (P I), O]."""
    b, o, i, p = x.shape
    return x.transpose(0, 3, 2, 1).reshape(b, p * i, o)


def magnitude(pattern: Keeps, positions: int, _: Array, w: Array) -> Masked:
    """s = |w|

    Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv 2104.08378
    """
    keep = to_layer(pattern.keep(to_scores(np.abs(w), positions)))
    return keep, w * keep


def wanda(pattern: Keeps, positions: int, gram: Array, w: Array) -> Masked:
    """s_ij = |w_ij| |x_j|_2; an output for which |w| alone does better goes by that.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, arXiv 2306.11695, eq. 1
    """
    norms = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))[:, :, None]
    keep = to_layer(pattern.keep(to_scores(np.abs(w) * norms, positions)))
    return _better(gram, w, (keep, w * keep), magnitude(pattern, positions, gram, w), pattern)


def sparsegpt(pattern: Keeps, positions: int, gram: Array, w: Array) -> Masked:
    """Column after column by Optimal Brain Surgeon: what goes is made up for by the columns that are still to come.

    Of each group those go whose absence costs least, w_S^T ([H^-1]_SS)^-1 w_S for the set S, H of the columns from there on. Other
    patterns than N:M are chosen at once, by w_i^2 / [H^-1]_ii.
    Source: Frantar and Alistarh 2023, SparseGPT, arXiv 2301.00774, algorithm 1; for sets: Kurtic et al. 2022, arXiv 2203.07259
    """
    size = gram.shape[1]
    spread = np.trace(gram, axis1=1, axis2=2)[:, None, None] / size
    inverse = np.linalg.inv(gram + DAMPING * np.where(spread > 0, spread, 1) * np.eye(size))
    if isinstance(pattern, NofM):
        results = [_surgeon(pattern, positions, inv, x.T.copy()) for inv, x in zip(inverse, w, strict=True)]
        keep, new = (np.stack([f[i].T for f in results]) for i in (0, 1))
        new = fit_on(keep, gram, gram @ w, new)  # columns that came before what went take their share too
        return _better(gram, w, (keep, new), wanda(pattern, positions, gram, w), pattern)
    cost = np.square(w) / np.diagonal(inverse, axis1=1, axis2=2)[:, :, None]
    keep = to_layer(pattern.keep(to_scores(cost, positions)))
    return keep, fit_on(keep, gram, gram @ w, w)


def _better(gram: Array, w: Array, one: Masked, other: Masked, pattern: Keeps) -> Masked:
    """For each output the one that is closer to what `w` makes, where a pattern leaves outputs to themselves."""
    if not isinstance(pattern, NofM):
        return one
    costs = [np.einsum("gko,gko->go", d, gram @ d) for d in (one[1] - w, other[1] - w)]
    first = (costs[0] <= costs[1])[:, None]
    return np.where(first, one[0], other[0]), np.where(first, one[1], other[1])


def _surgeon(pattern: NofM, positions: int, inverse: Array, w: Array) -> Masked:
    """One matrix w [O, K], changed in place; `inverse` is that of H [K, K].

    With inverse = U^T U, U upper triangular, that of the columns from j on, once the ones before are settled, is
    U[j:, j:]^T U[j:, j:].
    """
    upper = np.linalg.cholesky(inverse).T
    keep = np.ones(w.shape, bool)
    for block in _blocks(_groups(w.shape[1] // positions, positions, pattern.m)):
        first, last = block[0][0], block[-1][1]
        errors = np.zeros((len(w), last - first))
        for start, stop in block:
            square = upper[start:stop, start:stop]
            keep[:, start:stop] = _cheapest(pattern.n, square.T @ square, w[:, start:stop])
            for j in range(start, stop):
                error = np.where(keep[:, j], 0.0, w[:, j]) / upper[j, j]
                w[:, j:last] -= np.outer(error, upper[j, j:last])
                errors[:, j - first] = error
        w[:, last:] -= errors @ upper[first:last, last:]
    return keep, w * keep


def _groups(inputs: int, positions: int, m: int) -> list[tuple[int, int]]:
    """The columns that are decided together: every m inputs of a kernel position, and what is left over."""
    return [(p * inputs + i, p * inputs + min(i + m, inputs)) for p in range(positions) for i in range(0, inputs, m)]


def _blocks(groups: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    out: list[list[tuple[int, int]]] = [[]]
    for group in groups:
        if out[-1] and group[1] - out[-1][0][0] > BLOCK:
            out.append([])
        out[-1].append(group)
    return out


def _cheapest(n: int, inverse: Array, w: Array) -> Array:
    """For each row of w [O, m] the n weights that stay, so that the others cost least; `inverse` [m, m] is the group's."""
    m = w.shape[1]
    if m <= n:
        return np.ones(w.shape, bool)
    if comb(m, n) > SETS:
        cost = np.square(w) / np.diagonal(inverse)
        keep = np.zeros(w.shape, bool)
        np.put_along_axis(keep, np.argsort(-cost, axis=1, kind="stable")[:, :n], True, axis=1)
        return keep
    sets = np.array(list(combinations(range(m), m - n)))
    costs = [np.einsum("os,st,ot->o", w[:, s], np.linalg.inv(inverse[np.ix_(s, s)]), w[:, s]) for s in sets]
    gone = sets[np.argmin(costs, axis=0)]
    keep = np.ones(w.shape, bool)
    np.put_along_axis(keep, gone, False, axis=1)
    return keep


METHODS: dict[str, Method] = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt}


@dataclass(frozen=True)
class _Whole:
    """A pattern of a whole weight w [B, O, I, P], for a fit that takes its outputs in other batches (groups of a convolution)."""

    pattern: Pattern
    shape: Shape

    def keep(self, scores: Array) -> Array:
        return self.pattern.keep(scores.reshape(self.shape)).reshape(scores.shape)


def make_chooser(method: str, pattern: Pattern, shape: Shape) -> Choose:
    """A method as the fitting of a layer calls it."""
    whole = pattern if isinstance(pattern, NofM) else _Whole(pattern, shape)
    return lambda gram, w: METHODS[method](whole, shape[3], gram, w)
