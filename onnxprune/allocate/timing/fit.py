"""Seconds of a layer as a function of its channel counts.

A layer takes time for its multiply-accumulates, for what it reads and what it writes, and for being called: a sum with weights that
are not negative. ONNX Runtime's blocked convolutions work on whole blocks of channels (of 8 or 16, by the processor), and lay out
anew what does not come in whole blocks; so the terms count channels rounded up to blocks, and those that are no whole blocks once
more. Which block it is, the measurements tell. What the sum does not explain is carried over from the nearest measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocate.polynomial import Compiled, Values
from onnxprune.graph.weights import Array

BLOCKS = (1, 8, 16, 32)
BETTER = 0.9  # a larger block has to leave so much less unexplained
NEAR = 0.15  # measurements whose counts differ by more, as a share of the group, tell little of each other
FEW = 6  # groups, of a layer for which measurements are ever near
LEAST_SECONDS = 5e-7


@dataclass(frozen=True)
class Terms:
    """The terms of a layer's time, as polynomials in the counts of all groups: MACs, elements read, elements written."""

    macs: Compiled
    read: Compiled
    written: Compiled
    groups: tuple[int, ...]  # those that its sizes depend on
    nodes: frozenset[int] = frozenset()  # of the model, that it does the work of

    def at(self, counts: Values, block: int) -> Array:
        """The terms at the points `counts [points, groups]`, [points, terms]."""
        whole = np.ceil(counts / block) * block
        terms: list[Array] = [f(whole) for f in (self.macs, self.read, self.written)]
        terms += [self.macs(counts), self.written(counts), np.ones(len(counts))]
        if block > 1:
            part, none = np.where(counts % block != 0, counts, 0.0), np.zeros_like(counts)
            terms += [f(part) - f(none) for f in (self.read, self.written)]
        stacked: Array = np.stack(terms, 1)
        return stacked


@dataclass(frozen=True)
class LayerFit:
    """The time of layers that are alike."""

    block: int
    weights: Array  # of the terms
    places: Array  # [measurements, groups]: the shares that the groups kept
    left: Array  # [measurements]: the seconds that the terms do not explain

    def at(self, terms: Terms, counts: Values, sizes: Values) -> Array:
        """Seconds at the points `counts [points, groups]`."""
        seconds = terms.at(counts, self.block) @ self.weights
        if 0 < len(terms.groups) <= FEW:
            place = counts[:, terms.groups] / sizes[list(terms.groups)]
            far = ((place[:, None] - self.places) ** 2).sum(-1)
            near = (far + 1e-4) ** -1.5
            seconds = seconds + (near * self.left).sum(1) / (near.sum(1) + NEAR**-3)
        floored: Array = np.maximum(seconds, 0.0)
        return floored


def fit_layers(layers: Sequence[tuple[Terms, Array]], counts: Values, sizes: Values) -> LayerFit:
    """The fit of layers that are alike, with the block that explains most.

    Args:
        layers: Of each its terms, and its seconds at the points, [points].
        counts: The points, [points, groups].
        sizes: All channels, [groups].
    """
    best = _fit(layers, counts, sizes, BLOCKS[0])
    for block in BLOCKS[1:]:
        other = _fit(layers, counts, sizes, block)
        best = other if np.abs(other.left).sum() < BETTER * np.abs(best.left).sum() else best
    return best


def _fit(layers: Sequence[tuple[Terms, Array]], counts: Values, sizes: Values, block: int) -> LayerFit:
    terms = np.concatenate([t.at(counts, block) for t, _ in layers])
    seconds = np.concatenate([s for _, s in layers])
    places = np.concatenate([counts[:, t.groups] / sizes[list(t.groups)] for t, _ in layers])
    weights = fit_nonnegative(terms, seconds, 1 / np.sqrt(np.maximum(seconds, LEAST_SECONDS)))
    return LayerFit(block, weights, places, seconds - terms @ weights)


def fit_nonnegative(terms: Array, wanted: Array, trust: Array) -> Array:
    """Weights of terms that sum to what is wanted, none of them negative: least squares, negative ones left out one by one."""
    scale = np.abs(terms).max(0)
    scale[scale == 0] = 1.0
    columns = list(range(terms.shape[1]))
    weights = np.zeros(terms.shape[1])
    while columns:
        solution = np.linalg.lstsq(terms[:, columns] / scale[columns] * trust[:, None], wanted * trust, rcond=None)[0]
        if solution.min() >= 0:
            weights[columns] = solution / scale[columns]
            break
        columns.pop(int(solution.argmin()))
    return weights
