"""The statistics of gradients: per sample the derivative by a mask on each channel, and what gradients say of each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from onnxprune.calibration.array_store import Memory
from onnxprune.calibration.data import Batches, Stored
from onnxprune.calibration.sessions import Feeds, count
from onnxprune.calibration.statistics import StatisticSizes
from onnxprune.errors import OnnxPruneError
from onnxprune.gradients import require_torch, trainable_weights
from onnxprune.graph.model import Model
from onnxprune.graph.unsettled import find_unsettled
from onnxprune.graph.view import Names
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis
from onnxprune.measure.pull import compare_labels, draw_gradients
from onnxprune.measure.watched import list_judged
from onnxprune.progress import Progress
from onnxprune.signals import CURVATURE, OF_LABELS, OF_WEIGHTS, SENSITIVITY, SLOPE, StatisticKey, find_reading_edges

COPIES = 3  # of all that a batch makes: values, those that are kept for the pass backward, gradients
Edges = Mapping[tuple[str, int], Sequence[str]]  # the values that stand for what consumers read of an axis
Outputs = Mapping[str, Array]


def gather_masks(
    analysis: Analysis,
    batches: Batches,
    wants: Iterable[StatisticKey],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    memory: Memory | None = None,
) -> dict[StatisticKey, Array]:
    """Run forward and backward over the batches: masks [samples, n]; curvatures, sensitivities, squared slopes [n].

    Raises OnnxPruneError without torch, for operators that have no torch form, and where no output is of floats.
    """
    require_torch()
    wants = list(dict.fromkeys(wants))
    labeled = [want for want in wants if want[2] in OF_LABELS]
    drawn = [want for want in wants if want[2] not in OF_LABELS]
    passes = _GradientRuns.of(analysis, wants)
    batches, done = _cut(analysis, batches, memory or Memory()), 0
    for at, (feeds, labels) in enumerate(batches.pairs()):
        rng, samples = np.random.default_rng([seed, at]), count(feeds)
        draw = _Drawing(samples, passes.tokens, rng)
        if drawn:
            passes.run(feeds, drawn, draw)
        if labeled:
            passes.run(feeds, labeled, draw if labels is None else _Comparing(labels, passes.tokens, draw))
        done += samples
        if progress:
            progress(done, batches.samples or 0)
    return {want: passes.result(want, done) for want in wants}


@dataclass(frozen=True)
class _Drawing:
    """The gradient of a loss that is drawn."""

    samples: int
    tokens: int | None
    rng: np.random.Generator

    def __call__(self, outputs: Outputs) -> Outputs:
        gradients = draw_gradients(outputs, self.samples, self.tokens, self.rng)
        if not gradients:
            raise OnnxPruneError(f"the outputs {sorted(outputs)} are no floats, so they have no gradients")
        return gradients


@dataclass(frozen=True)
class _Comparing:
    """The gradient of the cross-entropy with labels; where these are no classes, of what is drawn."""

    labels: Array
    tokens: int | None
    otherwise: _Drawing

    def __call__(self, outputs: Outputs) -> Outputs:
        return compare_labels(outputs, self.labels, self.tokens) or self.otherwise(outputs)


@dataclass
class _GradientRuns:
    """A model that runs forward and backward, and what its batches have given so far."""

    module: Any
    outputs: Sequence[str]
    tokens: int | None
    edges: Edges
    arrays: dict[StatisticKey, list[Array]] = field(default_factory=dict)
    summed: dict[tuple[str, str], Array] = field(default_factory=dict)  # over all samples, weight by weight

    @staticmethod
    def of(a: Analysis, wants: Sequence[StatisticKey]) -> _GradientRuns:
        from onnxprune.gradients import Module

        axes = {(tensor, axis) for tensor, axis, statistic in wants if statistic not in OF_WEIGHTS}
        weights = [tensor for tensor, _, statistic in wants if statistic in OF_WEIGHTS]
        model, edges = _with_edges(a, axes)
        module = Module(model, trainable=list(dict.fromkeys([*trainable_weights(model), *weights])))
        return _GradientRuns(module, list_judged(a), find_vocabulary_size(a.flat.proto), edges)

    def run(self, feeds: Feeds, wants: Sequence[StatisticKey], pull: Callable[[Outputs], Outputs]) -> None:
        """Add what one pass over a batch says of the statistics."""
        from onnxprune.gradients import measure_masks

        axes = {want: self.edges[want[:2]] for want in wants if want[2] not in OF_WEIGHTS}
        values = [(edge, axis) for (_, axis, _), edges in axes.items() for edge in edges]
        weights = list(dict.fromkeys(tensor for tensor, _, statistic in wants if statistic in OF_WEIGHTS))
        masks = measure_masks(self.module, feeds, values, weights, self.outputs, pull)
        rows = iter(masks.values)
        for want, edges in axes.items():
            whole = np.asarray(np.sum([next(rows) for _ in edges], axis=0, dtype=np.float64))
            self.arrays.setdefault(want, []).append(_by_sample(whole, count(feeds)))
        for want in (want for want in wants if want[2] == CURVATURE):
            squared = masks.weights[want[0]].astype(np.float64) ** 2
            self.arrays.setdefault(want, []).append(_sum_rows(squared, want[1]))
        for statistic, arrays in ((SENSITIVITY, masks.weights), (SLOPE, masks.slopes)):
            for tensor in dict.fromkeys(tensor for tensor, _, of in wants if of == statistic):
                before = self.summed.get((tensor, statistic), 0.0)
                self.summed[tensor, statistic] = before + arrays[tensor].astype(np.float64)

    def result(self, want: StatisticKey, samples: int) -> Array:
        """Masks sample by sample; curvatures and slopes of the mean loss; sensitivities as shares of those of all weights."""
        tensor, axis, statistic = want
        if statistic == SENSITIVITY:
            whole = sum(float(np.abs(x).sum()) for (_, of), x in self.summed.items() if of == SENSITIVITY)
            return _sum_rows(np.abs(self.summed[tensor, SENSITIVITY]) / (whole or 1.0), axis)
        if statistic == SLOPE:
            return _sum_rows((self.summed[tensor, SLOPE] / samples) ** 2, axis)
        if want[2] == CURVATURE:
            return np.asarray(np.sum(self.arrays[want], axis=0) / samples)
        return np.concatenate(self.arrays[want])


def _sum_rows(array: Array, axis: int) -> Array:
    """The sum over all axes but one."""
    summed: Array = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).sum(1)
    return summed


def _by_sample(rows: Array, samples: int) -> Array:
    """[samples, n] of rows that are places of samples, one sample after the other."""
    if len(rows) > samples and len(rows) % samples == 0:
        summed: Array = rows.reshape(samples, -1, rows.shape[-1]).sum(1)
        return summed
    return rows


def _with_edges(a: Analysis, axes: set[tuple[str, int]]) -> tuple[Model, Edges]:
    """The model with a value of its own for what each consumer reads of these axes: only what it makes of it counts there.

    Where nobody consumes the channels, or a body does, the activation stands for itself.
    """
    proto = ModelProto()
    proto.CopyFrom(a.model.proto)
    names, edges = Names([*a.outside, *a.model.weights, *a.made_by]), dict[tuple[str, int], list[str]]()
    copies: dict[tuple[str, str], str] = {}
    readers = find_reading_edges(a, a.groups)
    for tensor, axis in sorted(axes):
        nodes = [a.flat.proto.graph.node[at].output[0] for at in readers.get((tensor, axis), ())]
        if all(out in a.made_by and tensor in a.made_by[out].input for out in nodes):
            for out in nodes:
                copies.setdefault((tensor, out), names.claim(f"{tensor}_read", f"{tensor}_read"))
            edges[tensor, axis] = [copies[tensor, out] for out in nodes]
        edges[tensor, axis] = edges.get((tensor, axis)) or [tensor]
    _insert(proto, copies)
    return replace(a.model, proto=proto), edges


def _insert(proto: ModelProto, copies: Mapping[tuple[str, str], str]) -> None:
    """Have the node that makes `out` read a copy of a tensor instead, for each (tensor, out)."""
    by_node: dict[str, dict[str, str]] = {}
    for (tensor, out), name in copies.items():
        by_node.setdefault(out, {})[tensor] = name
    nodes = [*proto.graph.node]
    del proto.graph.node[:]
    for node in nodes:
        renamed = by_node.get(node.output[0], {}) if node.output else {}
        proto.graph.node.extend(helper.make_node("Identity", [tensor], [name]) for tensor, name in renamed.items())
        added = proto.graph.node.add()
        added.CopyFrom(node)
        added.input[:] = [renamed.get(name, name) for name in node.input]


def _cut(a: Analysis, batches: Batches, memory: Memory) -> Batches:
    """Smaller batches, where all that one makes would not find room."""
    if not isinstance(batches, Stored) or batches.static:
        return batches
    guessed, sizes = find_unsettled(a.coupling.live, a.coupling.trace), StatisticSizes(a, 1, 0)
    outputs = {
        name for node in a.flat.proto.graph.node for name in node.output if name and a.coupling.trace.shape(name)
    }
    one = sum(sizes.watched(name) for name in outputs - guessed)
    return replace(batches, step=max(1, min(batches.step, memory.working // max(COPIES * one, 1))))
