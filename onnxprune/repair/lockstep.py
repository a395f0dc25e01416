"""Original and candidate walk through the calibration samples in lockstep, and each layer is fitted on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnxprune.calibration.array_store import ArrayStore, Memory, StoredArrays, StoredBatches
from onnxprune.calibration.sessions import count, take_batches
from onnxprune.errors import DataError
from onnxprune.graph.flat import nest
from onnxprune.graph.model import Model
from onnxprune.measure import ErrorSums, show_tensors
from onnxprune.progress import Progress
from onnxprune.repair.chains import Chain
from onnxprune.repair.linear_layers import Change
from onnxprune.repair.network import Network
from onnxprune.repair.producers import ChainWatch, adjust
from onnxprune.repair.sampling import Feeds, gather
from onnxprune.repair.segments import Walk, open_session, run
from onnxprune.repair.solve import FITS, FitRows, fit_chosen
from onnxprune.repair.support import Choose
from onnxprune.repair.tasks import FitTask
from onnxprune.report.types import LayerRepair, RepairReport
from onnxprune.surgery import skip_identities

FindStart = Callable[[Collection[str]], Sequence[Feeds] | None]
FEW_STEPS = 1  # behind an activation, where the result is only a step on the way


@dataclass
class Lockstep:
    """A network whose layers are fitted one after the other, and the original that it is compared with.

    `changes` were made before, and stand over `flat`, the model that all of them are written into. `choose` says by the first
    output of a node, and its input, how the weights are chosen that stay; `plain` is what the result is compared with, where
    that is not the network as it begins. Unless `all_stay`, later changes are dropped where the error would rise.
    A layer is fitted on a `share` of the rows that it needs. Where the result `is_step`, one on the way, nothing is compared,
    and all changes stay. The original calls a tensor by the name in `names`, or by the same. Layers before `chains` change with the
    one behind them.
    """

    net: Network
    flat: Model
    tasks: Sequence[FitTask]
    judged: Sequence[str]
    report: RepairReport
    batches: Iterable[Feeds]
    samples: int | None = None
    threads: int | None = None
    share: float = 1.0
    is_step: bool = False
    choose: Mapping[tuple[str, int], Choose] = field(default_factory=dict)
    plain: Model | None = None
    all_stay: bool = False
    changes: list[list[Change]] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)
    chains: Mapping[int, Chain] = field(default_factory=dict)  # by the task whose layer reads what a chain makes
    skipped: Sequence[str] = ()  # values that an Identity makes in the place of a unit, which the result needs no more
    memory: Memory = field(default_factory=Memory)  # for what the samples become on the way, and for the fitted weights
    dampings: dict[str, float] = field(
        default_factory=dict
    )  # of all rows, from other tries, by the output of a layer's node
    find_start: FindStart | None = (
        None  # for a step of a plan of units alone: values from which tensors can be made anew
    )

    def __post_init__(self) -> None:
        self._before, self._after, self._plain = (ArrayStore(self.memory) for _ in range(3))
        self._fitted = StoredArrays[int](self.memory)
        self._batches = 0

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: object) -> None:
        for store in (self._before, self._after, self._plain):
            store.close()

    def run(self, rng: np.random.Generator, progress: Progress) -> None:
        """Fit each layer, then compare the outputs."""
        inputs = self._read()
        for some in self.changes:
            self.net.apply(some)
        batches = self._batches
        last = [] if self.is_step else [set(self.judged)]
        seen = [*(t.original_stop() for t in self.tasks), *last]
        original = Walk(self.net.original, [set(map(self._name, stop)) for stop in seen], inputs, batches)
        stops: list[set[str]] = [*(t.pruned_stop() for t in self.tasks), *last]
        for at, chain in self.chains.items():  # what it reads is there as long as it may be run again
            stops[at] |= {*chain.reads, chain.x}
            stops[at + 1] |= {*chain.reads}
        pruned = Walk(self.net.model, stops, inputs, batches)
        for at in range(len(seen)):
            progress(at, len(seen))
            began = time.perf_counter()
            originals = self._renamed(seen[at], original.run(at, self._before, self.threads))
            pairs: Iterable[tuple[Feeds, Feeds]] = zip(
                originals, pruned.run(at, self._after, self.threads), strict=True
            )
            if at == len(self.tasks):
                self._compare(pairs)
                return
            watch = ChainWatch(self.chains[at], self.tasks[at], self.net, batches) if at in self.chains else None
            pairs = watch.watch(pairs) if watch else pairs
            with self.tasks[at].loaded(self.net):
                rows = gather(self.tasks[at], self.net, pairs, batches, rng, self.share)
                if self.is_step:
                    rows.steps, rows.precision = FEW_STEPS, np.float32
                rows.damping, rows.is_sure = self._guess_damping(self.tasks[at], rows.x.shape[1])
                self.changes.append(list(map(self._stored, self.fit(self.tasks[at], rows, began))))
            self.net.apply(self.changes[-1])
            if watch and self.changes[-1]:
                self._adjust(watch, pruned)

    def _guess_damping(self, task: FitTask, rows: int) -> tuple[float, bool]:
        """The damping that was best for a layer in another try, which is taken as it is; else the last layer's, as a guess.

        What is damped is the sum over all rows: with more of them the same damping is a smaller share of it.
        """
        known = self.dampings.get(self.net.output_of(task.index))
        if known is not None:
            return known / rows, True
        return self.report.layers[-1].damping if self.report.layers else 0.0, False

    def _adjust(self, watch: ChainWatch, walk: Walk) -> None:
        """Let the layers before a chain change with the one behind it, which has been fitted."""
        changes, left = adjust(watch, walk)
        if changes:
            self.changes[-1] += map(self._stored, changes)
            self.net.apply(changes)
            walk.run_again(watch.chain.run, watch.chain.reads, watch.chain.x, self._after)
            self.report.layers[-1].after *= left**0.5

    def _name(self, tensor: str) -> str:
        """The original's name for a tensor."""
        return self.names.get(tensor, tensor)

    def _renamed(self, tensors: Iterable[str], batches: Iterable[Feeds]) -> Iterator[Feeds]:
        """The original's tensors under the network's names."""
        for values in batches:
            yield {n: values[self._name(n)] for n in tensors if self._name(n) in values}

    def _read(self) -> list[str]:
        """Take the samples in, and run the pruned network as it is without repair where that is asked for; the inputs' names."""
        plain = self.plain or self.net.model
        session = None if self.is_step else open_session(show_tensors(plain, self.judged), "pruned", self.threads)
        names: list[str] = []
        for batch, feeds in enumerate(take_batches(self._begin(), self.samples)):
            names = list(feeds)
            self.report.samples += count(feeds)
            for store in (self._before, self._after):
                store.put_all(batch, feeds)
            self._batches = batch + 1
            if session is not None:
                self._plain.put_all(batch, {n: x for n, x in run(session, feeds).items() if n in self.judged})
        if not names:
            raise DataError("there are no samples to repair the model with")
        return names

    def _begin(self) -> Iterable[Feeds]:
        """The samples, or what they become before the first layer to fit and the first unit that is gone."""
        if self.find_start is None or not self.is_step or not self.tasks:
            return self.batches
        outputs = [self._name(n) for n in self.net.nodes[self.tasks[0].index].output if n]
        return self.find_start([*outputs, *self.skipped]) or self.batches

    def fit(self, task: FitTask, rows: FitRows, began: float) -> list[Change]:
        """The changes that make a layer what the rows want; none where it cannot be fitted."""
        layer = task.layer
        index = task.index
        output = self.net.output_of(index)
        choose = self.choose.get((output, layer.slot))
        if choose and not (np.isfinite(rows.x).all() and np.isfinite(rows.target).all()):
            self.report.left_out[task.name] = "it reads or makes numbers that are not finite"
            return []
        if not rows.x.shape[1]:
            self.report.left_out[task.name] = "no sample reaches it"
            return []
        fit = FITS.get(self.report.method, fit_chosen)
        solution = fit(rows, layer.w, layer.b, task.tail, choose, self.net.nearest(layer))
        if self.is_step:
            self.dampings[output] = solution.damping * rows.x.shape[1]
        self.report.layers.append(
            LayerRepair(
                task.name, task.op, solution.before, solution.after, rows.x.shape[1], solution.damping, solution.condition,
                time.perf_counter() - began, output, layer.slot,
            )
        )  # fmt: skip
        return layer.list_changes(solution.w, solution.b)

    def _stored(self, change: Change) -> Change:
        """The same, whose weights may wait in a file."""
        at = len(self._fitted)
        self._fitted[at] = change.array
        return replace(change, array=self._fitted[at])

    def _compare(self, pairs: Iterable[tuple[Feeds, Feeds]]) -> None:
        errors = ErrorSums(), ErrorSums()
        for batch, (original, repaired) in enumerate(pairs):
            for name, want in original.items():
                errors[0].add(want, self._plain.get(name, batch))
                errors[1].add(want, repaired[name])
        self.report.error_before, self.report.error_after = (e.value for e in errors)
        self.report.kept = len(self.changes)

    def result(self) -> Model:
        """The model with as many of the changes as do not raise the error."""
        report = self.report
        if self.is_step:
            report.kept = len(self.changes)
            return self._model()
        assert report.error_before is not None and report.error_after is not None
        while report.kept and not self.all_stay and not report.error_after <= report.error_before:
            report.kept //= 2
            report.error_after = self._error(self._model())
        if not report.kept:
            report.error_after = report.error_before
        return self._model()

    def _model(self) -> Model:
        """The changes, which name nodes of the network that was walked, in the flat model."""
        changes = [c for some in self.changes[: self.report.kept] for c in some]
        return skip_identities(nest(self.net.written(self.flat, changes), self.net.analysis.model), self.skipped)

    def _error(self, model: Model) -> float:
        error = ErrorSums()
        for want, got in zip(self._wanted, self._outputs(model, self.judged), strict=True):
            for name in self.judged:
                error.add(want[self._name(name)], got[name])
        return error.value

    @cached_property
    def _wanted(self) -> StoredBatches:
        """The original's outputs for the samples."""
        batches = StoredBatches(self.memory)
        for outputs in self._outputs(self.net.original, [*map(self._name, self.judged)]):
            batches.append(outputs)
        return batches

    def _outputs(self, model: Model, names: Sequence[str]) -> Iterator[Feeds]:
        session = open_session(show_tensors(model, names), "repaired", self.threads)
        for feeds in take_batches(self.batches, self.samples):
            yield run(session, feeds)
