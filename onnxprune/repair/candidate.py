"""Repair a candidate of unknown making: pruned, masked or rewritten by any tool, from an original that is at hand.

It walks through the samples in lockstep with the original, as a model does that a plan was applied to. No plan says here what
stands for what: `pairing` tells it of the values, `channels` of their channels, as soon as the network before them is repaired.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.axes import Axis
from onnxprune.calibration.array_store import Array, Memory
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis
from onnxprune.measure import list_judged
from onnxprune.progress import Progress
from onnxprune.repair.channel_matching import ALIKE, match_channels
from onnxprune.repair.linear_layers import Change, FitLayer
from onnxprune.repair.lockstep import Lockstep
from onnxprune.repair.network import Network, restore_calls
from onnxprune.repair.pairing import Pairing
from onnxprune.repair.sampling import Feeds
from onnxprune.repair.solve import FitRows
from onnxprune.repair.support import Choose
from onnxprune.repair.tails import Tail, make_empty_tail
from onnxprune.repair.tasks import FitTask, find_layers, find_tailed_layers
from onnxprune.report.types import RepairReport

LEAST_MATCHED = 0.5  # of the layers, for a model to be taken for a version of the original
MOST_INPUTS = 1 << 13  # of a layer with zeros that stay: the Gram matrix of all its inputs is needed for that
INSIDE = "its sums are no tensors of the graph"
UNTOLD = f"it is unknown which of the original's channels it makes: none move with them (correlation below {ALIKE:g})"
TOO_MANY = f"its zeros must be kept, which takes too much memory with more than {MOST_INPUTS:,} inputs"
INFINITE = "it reads or makes numbers that are not finite"


def repair_candidate(
    original: Analysis,
    candidate: Analysis,
    batches: Iterable[Feeds],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    memory: Memory | None = None,
) -> tuple[Model, RepairReport]:
    """Fit the candidate's layers to the original by least squares (see `repair`, method lstsq), one after the other.

    Weights of zero stay zero, and a layer keeps the weights that it has where no others are better. The error of the outputs is
    never raised: where all layers would raise it, fewer of the first ones are changed. What samples become takes `memory`.
    Raises OnnxPruneError where fewer than half of the layers have a counterpart in the original, and where a model does not run.
    """
    start = time.perf_counter()
    with _prepare(original, candidate, batches, memory or Memory()) as pair:
        pair.run(np.random.default_rng(seed), progress or (lambda *_: None))
        model = pair.result()
    pair.report.seconds = time.perf_counter() - start
    return model, pair.report


def _prepare(original: Analysis, candidate: Analysis, batches: Iterable[Feeds], memory: Memory) -> Lockstep:
    """Both networks, and the layers of the candidate that have a counterpart."""
    whole, part = (restore_calls(a.flat, a.model) for a in (original, candidate))
    feeds = [v.name for v in part.proto.graph.input]
    net = Network(candidate, {}, whole, part, changed=feeds)
    pairing = Pairing(net, Network(original, {}, whole, whole))
    report = RepairReport("lstsq", 0, None, None)
    tasks = _match(net, pairing, report.left_out)
    names = {n: its for t in tasks for n in t.original_stop() if (its := pairing.counterpart(n))}
    choose = {(net.output_of(t.index), t.layer.slot): _keep_zeros(t.layer) for t in tasks if not t.layer.w.all()}
    return CandidateLockstep(
        net,
        candidate.flat,
        tasks,
        _judged(original, net, pairing, names),
        report,
        batches,
        choose=choose,
        names=names,
        memory=memory,
    )


def _judged(original: Analysis, net: Network, pairing: Pairing, names: dict[str, str]) -> list[str]:
    """The tensors that the models are compared by, as the candidate calls them; `names` learns of them."""
    floats = (n for n in sorted(net.live) if pairing.candidate.is_float(n))
    its = {pairing.counterpart(n): n for n in (*floats, *net.outputs)}  # an output stands for itself
    wanted = list_judged(original)
    if not all(name in its for name in wanted):
        return list(net.outputs)
    names.update({its[name]: name for name in wanted})
    return [its[name] for name in wanted]


def _match(net: Network, pairing: Pairing, left_out: dict[str, str]) -> list[FitTask]:
    """The layers that can be fitted; `left_out` hears of the others. Raises OnnxPruneError where too few have a counterpart."""
    layers = find_layers(net, left_out, settled=True)
    left_out |= {name: INSIDE for _, name, layer in layers if _is_inside(layer)}
    left_out |= {name: TOO_MANY for _, name, layer in layers if layer.w.shape[1] > MOST_INPUTS and not layer.w.all()}
    fitted = [f for f in layers if f[1] not in left_out and (f[2].mixes or not f[2].w.all())]
    tasks, alone = [], 0
    for (index, name, layer), tail in find_tailed_layers(net, fitted):
        why = {t.target: pairing.explain(t.target, layer) for t in (tail, make_empty_tail(layer))}
        fine = next((t for t in (tail, make_empty_tail(layer)) if not why[t.target]), None)
        alone += pairing.counterpart(tail.target) is None
        if fine is None:
            left_out[name] = why[tail.target]
            continue
        op = net.nodes[index].op_type
        tasks.append(FitTask(index, name, op, layer, _spare_dead(layer, fine), unmatched=True))
    total = len(tasks) + alone
    if total and len(tasks) < LEAST_MATCHED * total:
        raise OnnxPruneError(
            f"candidate: {len(tasks)} of its {total} layers have a counterpart in the original, by name or by what they "
            "read; give a version of the original"
        )
    return tasks


def _is_inside(layer: FitLayer) -> bool:
    """Are its sums of integers, or in the midst of a node that does more?"""
    return layer.hidden and (layer.code is not None or layer.y not in layer.site.node.output)


def _keep_zeros(layer: FitLayer) -> Choose:
    keep, w = layer.w != 0, layer.w
    return lambda _, __: (keep, w)


def _spare_dead(layer: FitLayer, tail: Tail) -> Tail:
    """An output of zeros alone stays one: no bias is given to a channel that is masked."""
    dead = ~layer.w.any(axis=1)
    if layer.b is not None:
        dead &= layer.b == 0
    return replace(tail, scale=np.where(dead.ravel(), 0.0, tail.scale))


@dataclass
class CandidateLockstep(Lockstep):
    """The same for a candidate: which channels of the original a layer makes is told by what it makes before it is fitted."""

    _channels: dict[Axis, Array] = field(default_factory=dict)  # by the axis of the candidate's value

    def fit(self, task: FitTask, rows: FitRows, began: float) -> list[Change]:
        if not (np.isfinite(rows.x).all() and np.isfinite(rows.target).all()):
            self.report.left_out[task.name] = INFINITE
            return []
        kept = self._find_channels(task, rows) if rows.x.shape[1] else np.arange(task.layer.outputs)
        if kept is None:
            self.report.left_out[task.name] = UNTOLD
            return []
        groups, _, outputs = task.layer.w.shape
        rows.target = rows.target[0][:, kept].reshape(-1, groups, outputs).transpose(1, 0, 2)
        changes = super().fit(task, rows, began)
        return changes if changes and self.report.layers[-1].after < self.report.layers[-1].before else []

    def _find_channels(self, task: FitTask, rows: FitRows) -> Array | None:
        """The original's channels that a layer makes; values of one layout have the same ones."""
        layout = self.net.analysis.coupling.layouts.get(task.tail.target) or ()
        axis = layout[task.layer.axis % len(layout)] if layout else None
        if axis is None or axis not in self._channels:
            channels = match_channels(_made(task, rows), rows.target[0])
            if channels is None or axis is None:
                return channels
            self._channels[axis] = channels
        return self._channels[axis]


def _made(task: FitTask, rows: FitRows) -> Array:
    """The candidate's outputs for the rows before any repair, [n, channels]."""
    layer, tail = task.layer, task.tail
    groups, _, width = layer.w.shape
    scale, shift = (v.reshape(groups, 1, width).astype(np.float32) for v in (tail.scale, tail.shift))
    sums = layer.compute_product(rows.x) * scale + shift
    sums = sums if rows.others is None else sums + rows.others
    return np.asarray(sums.transpose(1, 0, 2).reshape(sums.shape[1], -1))
