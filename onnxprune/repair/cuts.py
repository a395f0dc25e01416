"""Cheap repair of one small cut after another: from what each layer reads, gathered once, as Gram matrices.

The layers that read what a cut touches are fitted to the original's outputs on the original's inputs, as `obs` does, but
no data are run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.graph.flat import nest
from onnxprune.graph.io import Model
from onnxprune.groups import Analysis
from onnxprune.plans import Plan, keep_of
from onnxprune.repair.layers import LAYERS, Change, Convolution, Layer, Product, Site, Transposed
from onnxprune.repair.network import Network, called
from onnxprune.repair.rows import picked
from onnxprune.repair.store import Array
from onnxprune.repair.tasks import tasks
from onnxprune.signals import Want
from onnxprune.surgery import apply_flat

Moments = tuple[Array, Array]
DAMPING = 1e-3  # of the mean of the Gram matrix's diagonal


def cut(analysis: Analysis, plan: Plan, statistics: Mapping[Want, Array]) -> Model:
    """The model that a plan makes, with those layers fitted whose inputs have `gram` and `mean` among the statistics."""
    keep = keep_of(plan, analysis)
    flat = apply_flat(analysis, keep)
    net = Network(analysis, keep, analysis.flat, called(flat, analysis.model))
    changes = [c for task in tasks(net, "obs", {}) for c in _fitted(net, task.layer, statistics)]
    return nest(net.written(flat, changes), analysis.model)


def _fitted(net: Network, layer: Layer, statistics: Mapping[Want, Array]) -> list[Change]:
    """The changes of one layer: none where what it reads is not known."""
    if not isinstance(layer, Convolution | Product) or isinstance(layer, Transposed) or layer.w.shape[0] > 1:
        return []
    whole = net.original_site(layer.site.index)
    known = _moments(net, layer, whole, statistics)
    slot = layer.slot if isinstance(layer, Product) else 1
    if known is None or whole.consts[slot] is None or _made(whole).w.shape[0] > 1:  # a group may have lost the others
        return []
    gram, mean = known
    if not np.isfinite(gram).all():
        return []
    if layer.b is not None:
        gram = gram - np.outer(mean, mean)
    rows, columns = _places(net, layer, whole, slot)
    w, matrix = _matrix(whole, slot, whole.const(slot))[:, columns], gram[np.ix_(rows, rows)]
    damping = DAMPING * (np.trace(matrix) / len(rows) or 1.0)
    new = np.linalg.solve(matrix + damping * np.eye(len(rows)), gram[rows] @ w + damping * w[rows])
    bias = None if layer.b is None else layer.b + (mean @ w - mean[rows] @ new)
    return layer.changes(new[None], bias)


def _moments(
    net: Network, layer: Convolution | Product, whole: Site, statistics: Mapping[Want, Array]
) -> Moments | None:
    """Gram matrix and mean of the rows that the original's layer reads, in its order: kernel positions before channels."""
    if not isinstance(layer, Convolution) or np.prod(layer.kernel) == 1:
        rank = len(net.analysis.coupling.layouts.get(layer.x) or ())
        axis = 1 if isinstance(layer, Convolution) else layer.axis % rank
        gram, mean = (statistics.get((layer.x, axis, name)) for name in ("gram", "mean"))
        return None if gram is None or mean is None else (gram, mean)
    gram, mean = (statistics.get((whole.node.output[0], 1, f"patch_{name}")) for name in ("gram", "mean"))
    if gram is None or mean is None:
        return None
    order = np.arange(len(mean)).reshape(-1, int(np.prod(layer.kernel))).T.ravel()
    return gram[np.ix_(order, order)], mean[order]


def _places(net: Network, layer: Convolution | Product, whole: Site, slot: int) -> tuple[Array, Array]:
    """The rows and columns of the original's matrix that the pruned layer has: its elements are numbered, cut and packed."""
    weight = whole.const(slot)
    numbers = np.arange(weight.size, dtype=np.float64).reshape(weight.shape)
    kept = picked(numbers, net.stays_of(layer.site.index, slot))
    every, mine = (
        np.rint(_matrix(s, slot, n) / _scale(layer)).astype(np.int64) for s, n in ((whole, numbers), (layer.site, kept))
    )
    row_of, column_of = np.empty((2, weight.size), np.int64)
    row_of[every], column_of[every] = np.indices(every.shape)
    return row_of[mine[:, 0]], column_of[mine[0]]


def _matrix(site: Site, slot: int, weight: Array) -> Array:
    """The matrix of a layer with such weights, [K, O]."""
    consts = [*site.consts[:slot], weight, *site.consts[slot + 1 :]]
    packed: Array = _made(replace(site, consts=consts)).w[0]
    return packed


def _made(site: Site) -> Layer:
    return LAYERS[site.node.op_type](site, None)


def _scale(layer: Layer) -> float:
    return layer.scale if isinstance(layer, Product) else 1.0
