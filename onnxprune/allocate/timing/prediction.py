"""The time that a plan leaves of a model, predicted: the sum over its layers, fitted to whole runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnxprune.allocate.cost import KeepOf, Sizes
from onnxprune.allocate.polynomial import Compiled, Ints, Values
from onnxprune.allocate.selection import Candidates
from onnxprune.allocate.timing.fit import LayerFit, Terms, fit_layers, fit_nonnegative
from onnxprune.allocate.timing.matching import UNKNOWN
from onnxprune.allocate.timing.samples import Samples, measure_samples
from onnxprune.allocate.timing.timing_table import TimingTable
from onnxprune.calibration.sessions import Feeds
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis
from onnxprune.plans import Plan
from onnxprune.progress import Progress
from onnxprune.units import Unit

FOLDS = 4
MOST_KNOWN = 1 << 18  # times of layers that are kept
Alike = Sequence[Mapping[int, Terms]]  # the layers of each class, by one of their nodes


@dataclass(frozen=True)
class _Prediction:
    """Seconds of the original as a function of what its groups keep."""

    sizes: Ints
    layers: Sequence[tuple[Terms, LayerFit]]
    slope: float  # of whole runs, by the sum of the layers
    offset: float
    known: dict[tuple[int, ...], float] = field(default_factory=dict)  # by layer and its counts

    def at(self, counts: Values) -> Array:
        """Seconds at the points `counts [points, groups]`."""
        total = np.zeros(len(counts))
        for terms, fit in self.layers:
            total += fit.at(terms, counts, self.sizes)
        return self.slope * total + self.offset

    def at_one(self, counts: Values) -> float:
        """The same at one point [groups]; layers whose counts were asked for before are not worked out again."""
        total, point = 0.0, counts[None].astype(np.float64)
        for i, (terms, fit) in enumerate(self.layers):
            key = (i, *counts[list(terms.groups)].tolist())
            if key not in self.known:
                if len(self.known) > MOST_KNOWN:
                    self.known.clear()
                self.known[key] = float(fit.at(terms, point, self.sizes)[0])
            total += self.known[key]
        return self.slope * total + self.offset


@dataclass(frozen=True)
class TimeCost:
    """Seconds of a run as a function of what the groups of a model keep; as `Cost` has it for what can be counted.

    `analysis` may be of what earlier steps left of the original; groups that it does not have stay as they are, at `start`.
    """

    analysis: Analysis
    prediction: _Prediction
    names: Sequence[str]  # of the original's groups
    start: Ints
    whole: float  # seconds of the original, measured
    error: float  # of a prediction, relative: the median over samples that it was not learned from

    @cached_property
    def _both(self) -> tuple[list[int], list[int]]:
        """Where the groups that are left are among the original's, and among those of the analysis."""
        left = [(i, self.analysis.at_of[n]) for i, n in enumerate(self.names) if n in self.analysis.at_of]
        return [i for i, _ in left], [at for _, at in left]

    def _of_original(self, counts: Values) -> Values:
        """The same counts of the original's groups."""
        theirs, ours = self._both
        full = np.tile(self.start.astype(counts.dtype), (*counts.shape[:-1], 1))
        full[..., theirs] = counts[..., ours]
        return full

    def at(self, counts: Values) -> Values:
        """Seconds where the groups keep `counts [.., groups]` channels, [..]."""
        full = self._of_original(counts).astype(np.float64)
        return self.prediction.at(full.reshape(-1, full.shape[-1])).reshape(counts.shape[:-1])

    def exact(self, keep_of: KeepOf) -> Callable[[Ints], float]:
        """The same as a function of `counts [groups]`; which channels stay does not matter."""
        return lambda counts: self.prediction.at_one(self._of_original(counts))

    def of_plan(self, plan: Plan) -> float:
        return self.prediction.at_one(self.after(plan, self.analysis).start)

    def without(self, units: Sequence[Unit]) -> TimeCost:
        """The same for a model without these units: their layers take no time."""
        gone = {i for u in units for i in u.goes}
        layers = [(terms, fit) for terms, fit in self.prediction.layers if gone.isdisjoint(terms.nodes)]
        return replace(self, prediction=replace(self.prediction, layers=layers, known={}))

    def after(self, done: Plan, analysis: Analysis) -> TimeCost:
        """The same for what a plan left of the original."""
        left = [
            len(done.groups[n].keep) if n in done.groups else int(s)
            for n, s in zip(self.names, self.start, strict=True)
        ]
        return replace(self, analysis=analysis, start=np.array(left, np.int64))


def learn_time_cost(
    c: Candidates, feeds: Feeds, table: TimingTable, threads: int, seed: int, progress: Progress
) -> TimeCost:
    """Learn how long a model takes from samples of its plans.

    Args:
        c: The original's groups; the samples have counts that they may have.
        feeds: The batch that is timed.
        table: What is known already.
        threads: Of ONNX Runtime.
        seed: Of the samples.
        progress: Called with the samples done and in all.

    Raises:
        OnnxPruneError: The model or a sample does not run.
    """
    samples = measure_samples(c, feeds, table, threads, seed, progress)
    shapes, every = Sizes(c.analysis), range(len(c.analysis.flat.proto.graph.node))
    members = samples.members.items()
    terms = {layer: _terms_of(shapes, every if layer == UNKNOWN else nodes) for layer, nodes in members}
    terms |= {layer: replace(terms[layer], nodes=frozenset(nodes)) for layer, nodes in members if layer != UNKNOWN}
    sizes = np.array([g.size for g in c.analysis.groups], np.int64)
    classes: dict[object, list[int]] = defaultdict(list)
    for layer, t in terms.items():
        classes[_class_of(c.analysis, samples.members[layer], t, sizes)].append(layer)
    alike = [{layer: terms[layer] for layer in layers} for layers in classes.values()]
    names = [g.name for g in c.analysis.groups]
    prediction, error = _predict(samples, alike, sizes), _cross_validate(samples, alike, sizes)
    return TimeCost(c.analysis, prediction, names, sizes, float(samples.whole[0]), error)


def _cross_validate(samples: Samples, alike: Alike, sizes: Ints) -> float:
    """The median relative error over samples, each predicted from others."""
    errors = list[float]()
    for fold in range(FOLDS):
        out = np.arange(len(samples.whole)) % FOLDS == fold
        guess = _predict(samples.only(~out), alike, sizes).at(samples.counts[out])
        errors.extend(np.abs(guess / samples.whole[out] - 1).tolist())
    return float(np.median(errors))


def _predict(samples: Samples, alike: Alike, sizes: Ints) -> _Prediction:
    layers = list[tuple[Terms, LayerFit]]()
    for terms in alike:
        fit = fit_layers([(t, samples.layers[layer]) for layer, t in terms.items()], samples.counts, sizes)
        layers.extend((t, fit) for t in terms.values())
    raw = _Prediction(sizes, layers, 1.0, 0.0)
    columns = np.stack([raw.at(samples.counts), np.ones(len(samples.whole))], 1)
    slope, offset = fit_nonnegative(columns, samples.whole, 1 / samples.whole)
    return replace(raw, slope=float(slope), offset=float(offset))


def _terms_of(sizes: Sizes, nodes: Iterable[int]) -> Terms:
    n = len(sizes.analysis.groups)
    compiled = [Compiled(sum(parts), n) for parts in zip(*(sizes.of_node(i) for i in nodes), strict=True)]
    macs, read, written = compiled or [Compiled(0, n)] * 3
    groups = sorted({int(g) for f in (macs, read, written) for g in f.factors.ravel() if g < n})
    return Terms(macs, read, written, tuple(groups))


def _class_of(a: Analysis, nodes: Sequence[int], terms: Terms, sizes: Ints) -> tuple[object, ...]:
    """The key of like layers: operators, and sizes before and after pruning each of their groups."""
    probes = np.tile(sizes, (len(terms.groups) + 1, 1))
    for row, g in enumerate(terms.groups):
        probes[row + 1, g] //= 2
    seen = [tuple(f(probes).tolist()) for f in (terms.macs, terms.read, terms.written)]
    operators = tuple(a.flat.proto.graph.node[i].op_type for i in nodes)
    return operators, tuple(int(sizes[g]) for g in terms.groups), *seen
