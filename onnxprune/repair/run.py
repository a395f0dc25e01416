"""Repair a pruned model: the layers that stay take over what the removed channels did, one after the other.

Original and pruned network walk through the calibration samples in lockstep, from one layer to the next. Each layer is fitted on
what the network before it, pruned and repaired, makes of the samples, towards what the original makes of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from onnxprune.calibration.run import count, first
from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.graph.flat import nest
from onnxprune.graph.model import Model
from onnxprune.graph.save import full_proto
from onnxprune.groups import Analysis
from onnxprune.measure import ErrorSums, judged, showing
from onnxprune.plans import Plan, keep_of
from onnxprune.progress import Progress
from onnxprune.repair.layers import Change
from onnxprune.repair.merge import merged
from onnxprune.repair.network import Network, called
from onnxprune.repair.rows import Feeds, gather
from onnxprune.repair.segments import Walk, open_session, run
from onnxprune.repair.solve import FITS, FitRows, chosen
from onnxprune.repair.store import ArrayStore
from onnxprune.repair.support import Choose
from onnxprune.repair.tasks import FitTask, tasks
from onnxprune.report.types import LayerRepair, RepairReport
from onnxprune.surgery import apply_flat

METHODS = ("none", "merge", *FITS)


def repair(
    analysis: Analysis,
    plan: Plan,
    batches: Iterable[Feeds],
    method: str = "lstsq",
    *,
    samples: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    thin: SparsityRequest | None = None,
    share: float = 1.0,
) -> tuple[Model, RepairReport]:
    """Apply a plan, and let the layers that stay take over what the removed channels did.

    none    the plan alone, with its error
    merge   what consumed a removed channel takes the most similar one that stays (see merge.py); chosen without data
    bias    each output gets back the mean that it had (Nagel et al. 2019, Data-Free Quantization, arXiv 1906.04721, sec. 4.2)
    affine  mean and deviation (Singh and Shrivastava 2019, BN statistics; He and Yin 2021, arXiv 2105.03193)
    lstsq   least squares against the original's outputs, on inputs as the pruned network makes them
            (He et al. 2017, Channel Pruning, arXiv 1707.06168, eq. 2), behind the activation that follows
    obs     least squares on the original's inputs: Optimal Brain Surgeon's update, blockwise (Hassibi and Stork 1993; Kurtic et al.
            2022, arXiv 2203.07259, eq. 5)

    A `share` of the rows that a layer needs is taken, where the result is only a step on the way. `thin` makes layers sparse on the
    way, each as soon as what it reads is as it will be.

    `batches` can be iterated more than once; `samples` takes the first batches only, until there are so many. The error of the
    outputs on them is never raised: where all layers would raise it, fewer of the first ones are changed.
    Raises OnnxPruneError for an unknown method, and where the model does not run.
    """
    if method not in METHODS:
        raise OnnxPruneError(f"repair '{method}' is unknown; there are {', '.join(METHODS)}")
    start = time.perf_counter()
    with _Repair(analysis, plan, batches, method, samples, threads, thin or SparsityRequest(), share) as r:
        r.lockstep(np.random.default_rng(seed), progress or (lambda *_: None))
        model = r.result()
    r.report.seconds = time.perf_counter() - start
    return model, r.report


@dataclass(frozen=True)
class SparsityRequest:
    """Weights that are to become sparse, by the first output that the node has, and the input, and how those of each are chosen.

    `plain` is the model that the result is compared with: sparse too, but not repaired.
    """

    choose: Mapping[tuple[str, int], Choose] = field(default_factory=dict)
    plain: Model | None = None


@dataclass
class _Repair:
    analysis: Analysis
    plan: Plan
    batches: Iterable[Feeds]
    method: str
    samples: int | None
    threads: int | None
    thin: SparsityRequest
    share: float
    changes: list[list[Change]] = field(default_factory=list)

    def __post_init__(self) -> None:
        keep = keep_of(self.plan, self.analysis)
        self.flat = apply_flat(self.analysis, keep)
        original = called(self.analysis.flat, self.analysis.model)
        pruned = called(self.flat, self.analysis.model)
        self.net = Network(self.analysis, keep, original, pruned, self.thin.choose)
        self.report = RepairReport(self.method, 0, None, None)
        fits = self.method in FITS or self.thin.choose
        self.tasks = tasks(self.net, self.method, self.report.left_out) if fits else []
        fitted = [(t.index, t.layer.slot) for t in self.tasks]
        if self.thin.plain is not None:  # what cannot be fitted is sparse from the start: later layers make up for it
            self.net.thin(self.net.thinned.difference(fitted), self.thin.plain)
        self.judged = judged(self.analysis)
        self.before, self.after, self.plain = ArrayStore(), ArrayStore(), ArrayStore()

    def __enter__(self) -> _Repair:
        return self

    def __exit__(self, *_: object) -> None:
        for store in (self.before, self.after, self.plain):
            store.close()

    def lockstep(self, rng: np.random.Generator, progress: Progress) -> None:
        """Fit each layer, then compare the outputs."""
        names = self._read()
        for change in self._merged():
            self.changes.append(change)
            self.net.apply(change)
        batches = len(self.plain)
        original = Walk(self.net.original, [*(t.original_stop() for t in self.tasks), self.judged], names, batches)
        pruned = Walk(self.net.model, [*(t.pruned_stop() for t in self.tasks), self.judged], names, batches)
        for at in range(len(self.tasks) + 1):
            progress(at, len(self.tasks) + 1)
            began = time.perf_counter()
            pairs = zip(
                original.run(at, self.before, self.threads), pruned.run(at, self.after, self.threads), strict=True
            )
            if at == len(self.tasks):
                self._compare(pairs)
                return
            rows = gather(self.tasks[at], self.net, pairs, batches, rng, self.share)
            self.changes.append(self._fit(self.tasks[at], rows, began))
            self.net.apply(self.changes[-1])

    def _merged(self) -> list[list[Change]]:
        return merged(self.net, self.plan) if self.method == "merge" else []

    def _read(self) -> list[str]:
        """Take the samples in, and run the pruned network as it is without repair; the inputs' names."""
        plain = self.thin.plain or self.net.model
        session = open_session(showing(full_proto(plain), self.judged), "pruned", self.threads)
        names: list[str] = []
        for batch, feeds in enumerate(first(self.batches, self.samples)):
            names = list(feeds)
            self.report.samples += count(feeds)
            for store in (self.before, self.after):
                store.put_all(batch, feeds)
            self.plain.put_all(batch, {n: x for n, x in run(session, feeds).items() if n in self.judged})
        if not names:
            raise DataError("there are no samples to repair the model with")
        return names

    def _fit(self, task: FitTask, rows: FitRows, began: float) -> list[Change]:
        layer = task.layer
        index = task.index
        output = self.net.output_of(index)
        choose = self.thin.choose.get((output, layer.slot))
        if choose and not (np.isfinite(rows.x).all() and np.isfinite(rows.target).all()):
            self.report.left_out[task.name] = "it reads or makes numbers that are not finite"
            return []
        if not rows.x.shape[1]:
            self.report.left_out[task.name] = "no sample reaches it"
            return []
        fit = FITS.get(self.method, chosen)
        found = fit(rows, layer.w, layer.b, task.tail, choose, self.net.nearest(layer))
        self.report.layers.append(
            LayerRepair(
                task.name, task.op, found.before, found.after, rows.x.shape[1], found.damping, found.condition,
                time.perf_counter() - began, output, layer.slot,
            )
        )  # fmt: skip
        return layer.changes(found.w, found.b)

    def _compare(self, pairs: Iterable[tuple[Feeds, Feeds]]) -> None:
        errors = ErrorSums(), ErrorSums()
        for batch, (original, repaired) in enumerate(pairs):
            for name, want in original.items():
                errors[0].add(want, self.plain.get(name, batch))
                errors[1].add(want, repaired[name])
        self.report.error_before, self.report.error_after = (e.value for e in errors)
        self.report.kept = len(self.changes)

    def result(self) -> Model:
        """The model with as many of the changes as do not raise the error."""
        report = self.report
        assert report.error_before is not None and report.error_after is not None
        while report.kept and not self.thin.choose and not report.error_after <= report.error_before:
            report.kept //= 2
            report.error_after = self._error(full_proto(self._model()))
        if not report.kept:
            report.error_after = report.error_before
        return self._model()

    def _model(self) -> Model:
        """The changes, which name nodes of the network that was walked, in the flat model."""
        changes = [c for some in self.changes[: self.report.kept] for c in some]
        return nest(self.net.written(self.flat, changes), self.analysis.model)

    def _error(self, model: ModelProto) -> float:
        protos = full_proto(self.net.original), model
        sessions = [open_session(showing(m, self.judged), "repaired", self.threads) for m in protos]
        error = ErrorSums()
        for feeds in first(self.batches, self.samples):
            want, got = (run(s, feeds) for s in sessions)
            for name in want:
                error.add(want[name], got[name])
        return error.value
