"""Rows for a task, sampled from what both networks make of each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.linear_layers import FitLayer
from onnxprune.repair.network import Network, pick_positions
from onnxprune.repair.solve import FitRows
from onnxprune.repair.tasks import FitTask

ROWS_PER_INPUT = 128  # rows for each number that an output is a sum of
LEAST_ROWS, ENOUGH_ROWS = 1 << 12, 1 << 15
LEAST_PER_INPUT, FEW_PER_INPUT = 16, 1  # where those are not enough; the second where only some are taken
ROWS_BYTES = 256 << 20
Feeds = Mapping[str, Array]
Draw = Callable[[int, int], Array]


def gather(
    task: FitTask,
    net: Network,
    pairs: Iterable[tuple[Feeds, Feeds]],
    batches: int,
    rng: np.random.Generator,
    share: float = 1.0,
) -> FitRows:
    """About as many rows as the layer needs, or a share of them, at places drawn for each batch anew."""
    want = _wanted(task.layer, share) / batches

    def draw(count: int, each: int) -> Array:
        return np.sort(rng.permutation(count)[: max(1, round(want / each))])

    take = _computed if task.source is not None else take_seen
    parts = [take(task, net, original, pruned, draw) for original, pruned in pairs]
    x, target = (np.concatenate([p[i] for p in parts], axis=1) for i in (0, 1))
    others = np.concatenate([sum(p[2][1:], start=p[2][0]) for p in parts], axis=1) if task.tail.others else None
    return FitRows(x, target, others)


def _wanted(layer: FitLayer, share: float) -> int:
    groups, inputs, outputs = layer.w.shape
    most = ROWS_BYTES // (4 * groups * (inputs + outputs))
    least = LEAST_PER_INPUT if share == 1 else FEW_PER_INPUT
    want = max(min(max(ROWS_PER_INPUT * inputs, LEAST_ROWS), ENOUGH_ROWS) * share, least * inputs)
    return int(min(want, most))


def take_seen(
    task: FitTask, net: Network, original: Feeds, pruned: Feeds, draw: Draw
) -> tuple[Array, Array, list[Array]]:
    """The target is a tensor of the original."""
    layer, target = task.layer, original[task.tail.target]
    stays = net.stays(task.tail.target)
    channels = stays.pop(layer.axis % target.ndim, None)
    target = pick_positions(target, stays)
    shape = list(target.shape)
    shape[layer.axis] = layer.outputs
    at = draw(*layer.count_places(shape))
    read = pick_positions(original[layer.x], net.stays(layer.x)) if task.taught else pruned[layer.x]
    others = [_float(layer.take_outputs(pruned[name], at)) for name in task.tail.others]
    wanted = layer.in_one().take_outputs(target, at) if task.unmatched else layer.take_outputs(target, at, channels)
    return _float(layer.take_rows(read, shape, at)), _float(wanted), others


def _computed(
    task: FitTask, net: Network, original: Feeds, pruned: Feeds, draw: Draw
) -> tuple[Array, Array, list[Array]]:
    """The target is what the original's layer makes of the original's input."""
    layer, source = task.layer, task.source
    assert source is not None
    x, shape = original[source.x], original[source.y].shape
    at = draw(*source.count_places(shape))
    rows = _float(source.take_rows(source.site.read(x), shape, at))
    sums = source.compute_product(rows)
    target = np.stack([sums[p.group][:, p.columns] for p in task.parts])
    for name in task.tail.others:
        channels = net.stays(name).get(layer.axis % len(shape))
        target = target + _float(layer.take_outputs(original[name], at, channels))
    others = [_float(layer.take_outputs(pruned[name], at)) for name in task.tail.others]
    if task.taught:
        rows = np.stack([rows[p.group][:, p.rows] for p in task.parts])
    else:
        rows = _float(layer.take_rows(layer.site.read(pruned[layer.x]), shape, at))
    return rows, target, others


def _float(x: Array) -> Array:
    return x.astype(np.float32, copy=False)
