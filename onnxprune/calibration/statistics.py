"""Statistics of activations per channel, computed inside ONNX Runtime, so that only small vectors leave it.

A statistic of a tensor's axis of n positions is a vector [n]. Every row of axis 0 (a sample, as a rule) counts alike: the
mean over all rows of the mean over a row's positions. A new one is a line in STATISTICS. A few need whole feature maps; those
leave the graph for so few samples that it does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnxprune.axes import first
from onnxprune.calibration import probes
from onnxprune.calibration.array_store import Memory, StoredArrays
from onnxprune.calibration.data import Batches
from onnxprune.calibration.folds import AllRows, Greatest, Independence, Least, Mean, Rank, Summed, Zeros
from onnxprune.calibration.probes import Build, Net, Patches, Probe
from onnxprune.calibration.sessions import count, open_session, run_as, trim_pool
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.progress import Progress
from onnxprune.signals import PATCH, StatisticKey, name_sample_count

Fold = type[Mean] | type[Greatest] | type[AllRows]


@dataclass(frozen=True)
class Statistic:
    """The computation of one statistic: the nodes that make [N, ..] of a batch, and the reduction over the batches.

    `vector` says that the rows are [n], whatever the shape in the graph. `samples` is how many are enough.
    """

    build: Build
    fold: Fold
    vector: bool = True
    samples: int | None = None


FEW = 64
STATISTICS = {
    "mean": Statistic(probes.mean, Mean),
    "mean_abs": Statistic(probes.mean_abs, Mean),
    "mean_sq": Statistic(probes.mean_sq, Mean),
    "zeros": Statistic(probes.nonzero, Zeros),
    "max": Statistic(probes.greatest, Greatest),
    "min": Statistic(probes.least, Least),
    "pooled": Statistic(probes.mean, AllRows),
    "gram": Statistic(probes.gram, Summed, vector=False),
    "patch_mean": Statistic(probes.patch_mean, Mean),
    "patch_gram": Statistic(probes.patch_gram, Summed, vector=False),
    "rank": Statistic(probes.maps, Rank, vector=False, samples=FEW),
    "independence": Statistic(probes.flattened, Independence, vector=False, samples=FEW),
}
"""By name; all give [n] but `pooled`, [samples, n], and `gram`, [n, n].

Those of patches are asked for by the output of a convolution without groups. They are of what it reads at some of its places: the K
kernel positions of each input channel side by side, [n K].
"""


@dataclass(frozen=True)
class Statistics(Mapping[StatisticKey, Array]):
    """The requested statistics, the number of samples behind them, and the source of the data."""

    arrays: Mapping[StatisticKey, Array]
    samples: int
    source: str

    def __getitem__(self, want: StatisticKey) -> Array:
        return self.arrays[want]

    def __iter__(self) -> Iterator[StatisticKey]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def gather(
    analysis: Analysis,
    batches: Batches,
    wants: Iterable[StatisticKey],
    *,
    progress: Progress | None = None,
    threads: int | None = None,
    memory: Memory | None = None,
) -> Statistics:
    """Run the model over the batches and gather the statistics that are wanted, in one pass where `memory` allows.

    The tensors are activations of floats and of known rank, outside bodies and local functions.
    Raises OnnxPruneError where the model does not run on the data, or there are none.
    """
    memory, wants = memory or Memory(), list(dict.fromkeys(wants))
    arrays = StoredArrays[StatisticKey](memory)
    samples = 0
    passes = _passes(analysis, wants, batches, memory.working)
    for i, (enough, chunk) in enumerate(passes):
        some = batches if enough is None else batches.limit(enough)
        trim_pool()  # Gram matrices are the largest outputs that there are, and fit into no place that others left
        session, names = _open(analysis, chunk, wants, threads)
        samples = max(samples, _run(session, some, names, arrays, _share(progress, i, len(passes))))
        del session  # before there is another one: it holds the weights
    trim_pool()
    return Statistics(arrays, samples, batches.source)


def _share(progress: Progress | None, index: int, of: int) -> Progress:
    """Progress of one pass as a part of all."""
    return lambda done, total: progress(done + index * total, total * of) if progress else None


def _open(
    analysis: Analysis, chunk: Sequence[StatisticKey], wants: Sequence[StatisticKey], threads: int | None
) -> tuple[Any, dict[StatisticKey, str]]:
    """A session for one pass, and its output for each statistic of the chunk.

    A tensor that is watched is not fused away, and what is fused is rounded differently. So all tensors have a second reader that
    any pass watches: how many passes there are then changes no result.
    """
    net = Net(analysis.model)
    names = {want: STATISTICS[want[2]].build(_probe(analysis, net, want)) for want in chunk}
    seen = {_watched(analysis, want) for want in chunk}
    others = dict.fromkeys(x for want in wants if (x := _watched(analysis, want)) not in seen)
    for name in dict.fromkeys([*names.values(), *(net.op.Shape(x) for x in others)]):
        net.output(name)
    return open_session(replace(analysis.model, proto=net.proto), "original", threads), names


def _run(
    session: Any,
    batches: Batches,
    names: Mapping[StatisticKey, str],
    arrays: StoredArrays[StatisticKey],
    progress: Progress,
) -> int:
    """Gather the statistics of one pass; how many samples it saw."""
    folds = {want: STATISTICS[want[2]].fold() for want in names}
    samples = 0
    for feeds in batches:
        outputs = run_as("original", session, feeds)
        for want, name in names.items():
            folds[want].add(_rows(outputs[name], want))
        del outputs  # before the next ones are made: Gram matrices are large
        samples += count(feeds)
        progress(samples, batches.samples or 0)
    for want in names:
        fold = folds.pop(want)
        arrays[want] = fold.result()
        if isinstance(fold, Summed):
            arrays[name_sample_count(want)] = np.array(fold.rows)
    return samples


def _rows(x: Array, want: StatisticKey) -> Array:
    """A batch's values with the samples on axis 0, of which there is one where that axis holds the channels."""
    if not STATISTICS[want[2]].vector:
        return x
    return x.reshape(len(x), -1) if want[1] else x.reshape(1, -1)


def _probe(analysis: Analysis, net: Net, want: StatisticKey) -> Probe:
    tensor, axis, statistic = want
    if statistic.startswith(PATCH):
        node = analysis.made_by[tensor]
        return replace(_probe(analysis, net, (node.input[0], axis, "mean")), patches=_patches(analysis, node))
    shape, elem = analysis.coupling.trace.shape(tensor), analysis.coupling.trace.dtype(tensor)
    if shape is None or not elem or not is_float(dtype_of(elem)):
        raise OnnxPruneError(f"activation '{tensor}' is no tensor of floats of known rank; exclude its group")
    return Probe(net, tensor, shape, axis, elem)


def _patches(analysis: Analysis, node: onnx.NodeProto) -> Patches:
    x, w = (analysis.coupling.trace.shape(name) or () for name in node.input[:2])
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Patches(attrs, tuple(first(s) for s in w[2:]), tuple(first(s) for s in x[2:]))


def _watched(analysis: Analysis, want: StatisticKey) -> str:
    """The activation that is looked at: of patches, what the convolution reads."""
    tensor, _, statistic = want
    return str(analysis.made_by[tensor].input[0]) if statistic.startswith(PATCH) else tensor


def _passes(
    analysis: Analysis, wants: Sequence[StatisticKey], batches: Batches, room: int
) -> list[tuple[int | None, list[StatisticKey]]]:
    """The wants cut into passes, and how many samples are enough for each."""
    by_samples: dict[int | None, list[StatisticKey]] = {}
    for want in wants:
        by_samples.setdefault(STATISTICS[want[2]].samples, []).append(want)
    sizes = StatisticSizes(analysis, count(batches.first()), batches.samples or 0)
    return [(n, chunk) for n, some in by_samples.items() for chunk in _chunks(sizes, some, room)]


def _chunks(sizes: StatisticSizes, wants: Sequence[StatisticKey], room: int) -> list[list[StatisticKey]]:
    """Wants that one pass has room for: what it probes may be kept alive until its end."""
    out: list[list[StatisticKey]] = [[]]
    watched, left = set[str](), room
    for want in wants:
        size = sizes.gathered(want) + (0 if want[0] in watched else sizes.watched(want[0]))
        if size > left and out[-1]:
            out.append([])
            watched, left = set(), room
            size = sizes.gathered(want) + sizes.watched(want[0])
        out[-1].append(want)
        watched.add(want[0])
        left -= size
    return out


@dataclass(frozen=True)
class StatisticSizes:
    """The memory of statistics while they are computed, in bytes, for batches of `batch` samples of `samples`."""

    analysis: Analysis
    batch: int
    samples: int

    def watched(self, tensor: str) -> int:
        """Bytes of an activation of a batch, dynamic axes at the first of the trace's sample sizes."""
        samples, *others = self.analysis.coupling.trace.shape(tensor) or (1,)
        return 4 * (samples if isinstance(samples, int) else self.batch) * math.prod(first(s) for s in others)

    def gathered(self, want: StatisticKey) -> int:
        """Bytes of what comes out of a batch in float32, and of the float64 numbers that it is added to."""
        n, statistic = self.width(want), STATISTICS[want[2]]
        if statistic.fold is Summed:
            return (4 + 8) * n * n
        return (8 * n if statistic.fold is not AllRows else 8 * self.samples * n) if statistic.vector else 0

    def width(self, want: StatisticKey) -> int:
        """Count the positions of the axis; for patches, times the kernel positions."""
        tensor, axis, statistic = want
        if not statistic.startswith(PATCH):
            return first((self.analysis.coupling.trace.shape(tensor) or (1,) * (axis + 1))[axis])
        _, *inputs = self.analysis.coupling.trace.shape(self.analysis.made_by[tensor].input[1]) or (1,)
        return math.prod(first(s) for s in inputs)
