"""What activations are like, channel by channel: gathered inside ONNX Runtime, so that small vectors leave it.

A statistic of a tensor's axis of n positions is a vector [n]. Every row of axis 0 (a sample, as a rule) counts alike: the
mean over all rows of the mean over a row's positions. A new one is a line in STATISTICS. A few need whole feature maps; those
leave the graph for so few samples that it does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxprune.axes import first
from onnxprune.calibration import probes
from onnxprune.calibration.data import Batches
from onnxprune.calibration.probes import Build, Net, Patches, Probe
from onnxprune.calibration.run import count, open_session, run_as
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.progress import Progress
from onnxprune.signals import StatisticKey, samples_of

MEMORY_BYTES = 1 << 30  # of activations that one pass may keep from being freed


class Mean:
    """The mean of the rows, in float64."""

    def __init__(self) -> None:
        self.sum: Array | float = 0.0
        self.rows = 0

    def add(self, x: Array) -> None:
        self.sum = self.sum + x.sum(axis=0, dtype=np.float64)
        self.rows += len(x)

    def result(self) -> Array:
        return np.asarray(self.sum / max(self.rows, 1))


class Summed(Mean):
    """The mean of rows whose sum comes out of the graph, with their number below it."""

    def add(self, x: Array) -> None:
        self.sum = self.sum + x[:-1].astype(np.float64)
        self.rows += round(float(x[-1, 0]))


class Zeros(Mean):
    """What is left of 1."""

    def result(self) -> Array:
        return 1.0 - super().result()


class Greatest:
    """The largest of the rows."""

    def __init__(self) -> None:
        self.so_far: Array | float = -np.inf

    def add(self, x: Array) -> None:
        self.so_far = np.maximum(self.so_far, x.max(axis=0, initial=-np.inf))

    def result(self) -> Array:
        return np.asarray(self.so_far, np.float64)


class Least(Greatest):
    """The smallest of the rows."""

    def add(self, x: Array) -> None:
        super().add(-x)

    def result(self) -> Array:
        return -super().result()


class AllRows:
    """The rows themselves, [samples, n]."""

    def __init__(self) -> None:
        self.parts: list[Array] = []

    def add(self, x: Array) -> None:
        self.parts.append(x)

    def result(self) -> Array:
        return np.concatenate(self.parts)


class Rank(Mean):
    """The rank of each feature map [N, n, H, W], in the mean."""

    def add(self, x: Array) -> None:
        super().add(np.linalg.matrix_rank(x))


class Independence(Mean):
    """How much the nuclear norm of [n, positions] falls when a row goes, in the mean over the samples."""

    def add(self, x: Array) -> None:
        super().add(np.stack([nuclear_fall(sample.astype(np.float64)) for sample in x]))


Fold = type[Mean] | type[Greatest] | type[AllRows]


@dataclass(frozen=True)
class Statistic:
    """How one is gathered: the nodes that make [N, ..] of a batch, and what the batches' rows become.

    `vector` says that the rows are [n], whatever the shape in the graph. `samples` is how many are enough.
    """

    build: Build
    fold: Fold
    vector: bool = True
    samples: int | None = None


FEW = 64
NODES = 160  # of a quadrature
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
    """What was wanted, how many samples it is from, and where they came from."""

    found: Mapping[StatisticKey, Array]
    samples: int
    source: str

    def __getitem__(self, want: StatisticKey) -> Array:
        return self.found[want]

    def __iter__(self) -> Iterator[StatisticKey]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def gather(
    analysis: Analysis,
    batches: Batches,
    wants: Iterable[StatisticKey],
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Statistics:
    """Run the model over the batches and gather the statistics that are wanted, in one pass where memory allows.

    The tensors are activations of floats and of known rank, outside bodies and local functions.
    Raises OnnxPruneError where the model does not run on the data, or there are none.
    """
    found: dict[StatisticKey, Array] = {}
    samples = 0
    passes = _passes(analysis, list(dict.fromkeys(wants)), count(batches.first()))
    for i, (enough, chunk) in enumerate(passes):
        some = batches if enough is None else batches.limit(enough)
        values, seen = _one_pass(analysis, some, chunk, _share(progress, i, len(passes)), threads)
        found |= values
        samples = max(samples, seen)
    return Statistics(found, samples, batches.source)


def _share(progress: Progress | None, index: int, of: int) -> Progress:
    """Progress of one pass as a part of all."""
    return lambda done, total: progress(done + index * total, total * of) if progress else None


def _one_pass(
    analysis: Analysis, batches: Batches, wants: Sequence[StatisticKey], progress: Progress, threads: int | None
) -> tuple[dict[StatisticKey, Array], int]:
    net = Net(analysis.model)
    names = {want: STATISTICS[want[2]].build(_probe(analysis, net, want)) for want in wants}
    for name in names.values():
        net.output(name)
    session = open_session(replace(analysis.model, proto=net.proto), "original", threads)
    folds = {want: STATISTICS[want[2]].fold() for want in wants}
    samples = 0
    for feeds in batches:
        outputs = run_as("original", session, feeds)
        for want, name in names.items():
            folds[want].add(_rows(outputs[name], want))
        samples += count(feeds)
        progress(samples, batches.samples or 0)
    found = {want: fold.result() for want, fold in folds.items()}
    counted = {samples_of(want): np.array(fold.rows) for want, fold in folds.items() if isinstance(fold, Summed)}
    return found | counted, samples


def _rows(x: Array, want: StatisticKey) -> Array:
    """A batch's values with the samples on axis 0, of which there is one where that axis holds the channels."""
    if not STATISTICS[want[2]].vector:
        return x
    return x.reshape(len(x), -1) if want[1] else x.reshape(1, -1)


def _probe(analysis: Analysis, net: Net, want: StatisticKey) -> Probe:
    tensor, axis, statistic = want
    if statistic.startswith("patch"):
        node = next(n for n in net.proto.graph.node if tensor in n.output)
        return replace(_probe(analysis, net, (node.input[0], axis, "mean")), patches=_patches(analysis, node))
    shape, elem = analysis.coupling.trace.shape(tensor), analysis.coupling.trace.dtype(tensor)
    if shape is None or not elem or not is_float(dtype_of(elem)):
        raise OnnxPruneError(f"activation '{tensor}' is no tensor of floats of known rank; exclude its group")
    return Probe(net, tensor, shape, axis, elem)


def _patches(analysis: Analysis, node: onnx.NodeProto) -> Patches:
    x, w = (analysis.coupling.trace.shape(name) or () for name in node.input[:2])
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Patches(attrs, tuple(first(s) for s in w[2:]), tuple(first(s) for s in x[2:]))


def _passes(
    analysis: Analysis, wants: Sequence[StatisticKey], batch: int
) -> list[tuple[int | None, list[StatisticKey]]]:
    """The wants cut into passes, and how many samples are enough for each."""
    by_samples: dict[int | None, list[StatisticKey]] = {}
    for want in wants:
        by_samples.setdefault(STATISTICS[want[2]].samples, []).append(want)
    return [(n, chunk) for n, some in by_samples.items() for chunk in _chunks(analysis, some, batch)]


def _chunks(analysis: Analysis, wants: Sequence[StatisticKey], batch: int) -> list[list[StatisticKey]]:
    """Wants that one pass has memory for: what it probes may be kept alive until its end."""
    out: list[list[StatisticKey]] = [[]]
    held, left = set[str](), MEMORY_BYTES
    for want in wants:
        size = 0 if want[0] in held else _bytes(analysis, want[0], batch)
        if size > left and out[-1]:
            out.append([])
            held, left = set(), MEMORY_BYTES
            size = _bytes(analysis, want[0], batch)
        out[-1].append(want)
        held.add(want[0])
        left -= size
    return out


def _bytes(analysis: Analysis, tensor: str, batch: int) -> int:
    """Bytes of an activation, dynamic axes at the first of the trace's sample sizes."""
    samples, *others = analysis.coupling.trace.shape(tensor) or (1,)
    return 4 * (samples if isinstance(samples, int) else batch) * math.prod(first(s) for s in others)


def nuclear_fall(a: Array) -> Array:
    """|A|_* - |A without row c|_* for each row c of A [n, m], in O(n^2) a row.

    With A A^T = U diag(d) U^T, removing row c is a rank-one downdate, and the sum of the roots of d falls by
    1/pi int sqrt(t) phi'(t) / phi(t) dt, phi(t) = sum_i U_ci^2 t / (d_i + t), by the trapezoidal rule in log t.
    """
    d, u = np.linalg.eigh(a @ a.T)
    top = d[-1]
    if top <= 0.0:
        return np.zeros(len(a))
    d = np.where(d > 1e-14 * top, d / top, 0.0)[:, None]
    log_t = np.linspace(np.log(1e-20), np.log(1e14), NODES)
    t, weight = np.exp(log_t), u * u
    phi, slope = weight @ (t / (d + t)), weight @ (d * t / (d + t) ** 2)  # phi, and t phi'
    fall = (np.sqrt(t) * slope / np.maximum(phi, 1e-300)).sum(axis=1)
    return np.asarray(fall * (log_t[1] - log_t[0]) * np.sqrt(top) / np.pi)
