"""Cheap repair of one small cut after another: from what each layer reads, gathered once, as Gram matrices.

The layers that read what a cut touches are fitted to the original's outputs on the original's inputs, as `obs` does, but
no data are run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.criteria.reconstruction import shrink
from onnxprune.graph.flat import nest
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis
from onnxprune.plans import Plan, read_keep, read_units
from onnxprune.repair.convolutions import Convolution, Transposed
from onnxprune.repair.kinds import make_layer
from onnxprune.repair.linear_layers import Change, FitLayer, Unfit
from onnxprune.repair.network import Network, restore_calls
from onnxprune.repair.products import MatrixProduct
from onnxprune.repair.tasks import find_tasks, match_parts
from onnxprune.signals import PATCH, StatisticKey, name_sample_count
from onnxprune.surgery import apply_flat

Moments = tuple[Array, Array, int]
DAMPING = 1e-3  # of the mean of the Gram matrix's diagonal


def cut(analysis: Analysis, plan: Plan, statistics: Mapping[StatisticKey, Array]) -> Model:
    """The model that a plan makes, with those layers fitted whose inputs have `gram` and `mean` among the statistics."""
    keep = read_keep(plan, analysis)
    flat = apply_flat(analysis, keep, read_units(plan, analysis))
    net = Network(analysis, keep, analysis.flat, restore_calls(flat, analysis.model))
    changes = list[Change]()
    for task in find_tasks(net, "obs", {}):
        with task.loaded(net) as layer:
            changes += _fitted(net, layer, statistics)
    return nest(net.written(flat, changes), analysis.model)


def _fitted(net: Network, layer: FitLayer, statistics: Mapping[StatisticKey, Array]) -> list[Change]:
    """The changes of one layer: none where what it reads is not known."""
    if not isinstance(layer, Convolution | MatrixProduct) or isinstance(layer, Transposed) or layer.w.shape[0] > 1:
        return []
    try:
        whole = make_layer(net.original_site(layer.site.index))
    except Unfit:
        return []
    if whole.w.shape[0] > 1:  # the only group that stays may have lost the others
        return []
    known = _moments(net, layer, whole, statistics)
    if known is None or not np.isfinite(known[0]).all():
        return []
    gram, mean, samples = known
    if layer.b is not None:
        gram = gram - np.outer(mean, mean)
    gram = shrink(gram, samples)
    (part,) = match_parts(net, layer, whole)
    rows, w = part.rows, whole.w[0][:, part.columns]
    matrix = gram[np.ix_(rows, rows)]
    damping = DAMPING * (np.trace(matrix) / len(rows) or 1.0)
    new = np.linalg.solve(matrix + damping * np.eye(len(rows)), gram[rows] @ w + damping * w[rows])
    bias = None if layer.b is None else layer.b + (mean @ w - mean[rows] @ new)
    return layer.list_changes(new[None], bias)


def _moments(
    net: Network, layer: FitLayer, whole: FitLayer, statistics: Mapping[StatisticKey, Array]
) -> Moments | None:
    """Gram matrix and mean of the rows that the original's layer reads, and the number of samples.

    The rows are in the layer's order: kernel positions before channels.
    """
    kernel = math.prod(layer.kernel) if isinstance(layer, Convolution) else 1
    if kernel == 1:
        axis = layer.x_axis % max(len(net.analysis.coupling.layouts.get(layer.x) or ()), 1)
        key, name = (layer.x, axis), ""
    else:
        key, name = (whole.y, 1), PATCH
    gram, mean = (statistics.get((*key, f"{name}{kind}")) for kind in ("gram", "mean"))
    if gram is None or mean is None:
        return None
    samples = int(statistics.get(name_sample_count((*key, f"{name}gram")), 0))
    if kernel == 1:  # a copy of a large matrix takes long
        return gram, mean, samples
    order = np.arange(len(mean)).reshape(-1, kernel).T.ravel()
    return gram[np.ix_(order, order)], mean[order], samples
