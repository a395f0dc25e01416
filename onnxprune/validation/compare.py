"""Run two models side by side in ONNX Runtime on the same inputs, and compare what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from onnxprune.calibration.data import Batches, draw_data
from onnxprune.calibration.inputs import list_input_specs
from onnxprune.calibration.reunion import join, split_samples
from onnxprune.calibration.sessions import Feeds, Source, count, find_runnable_inputs, get_proto, open_session, run_as
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.graph.weights import Array, is_float
from onnxprune.measure import ErrorSums, Metric, find_class_scores, measure_agreement, predict_classes
from onnxprune.report.degraded import explain_degraded
from onnxprune.report.types import (
    Counts,
    ErrorReport,
    FedInput,
    Latency,
    MetricReport,
    NonFinite,
    NotComparable,
    OutputMismatch,
    OutputReport,
    Shares,
)
from onnxprune.validation.latency import measure_latency, take_one_sample
from onnxprune.validation.memory import measure_peak_memory


@dataclass(frozen=True)
class Result(ErrorReport):
    """The measurements of `validate`: the differences, which are reproducible, and the time and memory on this machine."""

    batches: Batches = field(repr=False, compare=False)  # what was fed
    latency: Latency | None = field(default=None, compare=False)
    peak_memory: Counts | None = field(default=None, compare=False)  # bytes

    @property
    def error(self) -> ErrorReport:
        """The differences alone, as reports have them."""
        return ErrorReport(**{f.name: getattr(self, f.name) for f in fields(ErrorReport)})


def validate(
    original: Source,
    candidate: Source,
    *,
    data: Batches | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    threads: int | None = None,
    timed: bool = False,
    profile: bool = False,
    metric: Metric | None = None,
) -> Result:
    """Feed both models the same batches (`data`, or one random batch of `seed`) and compare each output.

    outputs          float outputs: `metrics.compare`; others: `mismatch`, the fraction of unequal elements;
                     NotComparable where the two do not go together (shape, kind)
    overall          `metrics.compare` over the elements of all float outputs together
    top1_agreement   on `class_output`, the first output that looks like class scores (`find_class_scores`)
    metric           the user's own measure of all outputs, with the labels
    accuracy         fraction of `data.labels` hit on `class_output`, before and after; None without labels;
                     `accuracy_drop` is the one less the other
    inputs           dtype and shape fed in the first batch; `dynamic_sizes` names the dynamic axes' sizes
    nonfinite        NaN and infinite elements of the float outputs of the reference and the candidate
    latency          with `timed`: seconds of a run, see `measure_latency`
    peak_memory      with `profile`: bytes, see `memory`

    `sizes` fixes dynamic axes of random inputs; those left are tried at several sizes until the
    original runs. A model beyond 2 GB, or with external data, is given as a path.

    Raises OnnxPruneError where a model does not load or run, or their inputs or outputs differ in name.
    """
    if data is not None and sizes:
        raise OnnxPruneError("sizes are for random inputs; data come with their own, so leave one of the two out")
    before = open_session(original, "original", threads)
    names = _names(before)
    proto = get_proto(original, "original")
    comparison = _Comparison(find_vocabulary_size(proto), metric)
    one: Mapping[str, Any] = {}
    if data is None:
        specs = list_input_specs(proto)
        guess = find_runnable_inputs(before, specs, seed, sizes)
        data = draw_data(guess, specs, seed)
        one = take_one_sample(before, data) if timed or profile else one
        del before  # with a single batch, one of two large models after the other is in memory
        after = _open_candidate(candidate, names, threads)
        comparison.add(guess.feeds, guess.outputs, run_as("candidate", after, guess.feeds))
    else:
        after = _open_candidate(candidate, names, threads)
        for feeds in data:
            comparison.add(feeds, run_as("original", before, feeds), run_as("candidate", after, feeds))
        one = take_one_sample(before, data) if timed or profile else one
        del before
    del after  # so that they take no memory while others are timed
    error = comparison.result(data)
    peaks = Counts(*(measure_peak_memory(model, one, threads) for model in (original, candidate))) if profile else None
    latency = measure_latency(original, candidate, one, threads) if timed else None
    return Result(**vars(error), batches=data, latency=latency, peak_memory=peaks)


def _names(session: Any) -> tuple[set[str], list[str]]:
    """Of the inputs, and of the outputs in their order."""
    return {i.name for i in session.get_inputs()}, [o.name for o in session.get_outputs()]


def _open_candidate(candidate: Source, names: tuple[set[str], list[str]], threads: int | None) -> Any:
    """A session of the candidate. Raises OnnxPruneError where it lacks names of the original."""
    session = open_session(candidate, "candidate", threads)
    (wanted, outputs), (inputs, available) = names, _names(session)
    lost = [name for name in outputs if name not in available]
    if wanted != inputs or lost:
        what = f"outputs {lost} of the original are missing" if lost else "its inputs are not the original's"
        raise OnnxPruneError(
            f"candidate: {what} (inputs {sorted(wanted)}, now {sorted(inputs)}); give two versions of one model"
        )
    return session


# Comparing


class _Output:
    """The error sums of one output."""

    def __init__(self) -> None:
        self.sums = ErrorSums()
        self.floats = False
        self.error: str | None = None

    def add(self, r: Any, c: Any, overall: ErrorSums) -> None:
        self.error = self.error or _incomparable(r, c)
        if self.error:
            return
        self.floats = is_float(r.dtype)
        for sums in (self.sums, overall):
            sums.add(r, c)

    def result(self) -> OutputReport:
        if self.error:
            return NotComparable(self.error)
        return self.sums.result() if self.floats else OutputMismatch(self.sums.mismatch)


def _incomparable(r: Any, c: Any) -> str | None:
    if not isinstance(r, np.ndarray) or not isinstance(c, np.ndarray):
        return "not a tensor (a sequence, a map or an empty optional), so not compared"
    if r.shape != c.shape:
        return f"shape {list(r.shape)} of the original became {list(c.shape)}"
    if is_float(r.dtype) != is_float(c.dtype):
        return f"type {r.dtype.name} of the original became {c.dtype.name}"
    return None


class _Comparison:
    """The error sums of all outputs."""

    def __init__(self, tokens: int | None, metric: Metric | None = None) -> None:
        self.tokens, self.metric = tokens, metric
        self.shown: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
        self.outputs: dict[str, _Output] = {}
        self.overall = ErrorSums()
        self.class_output: str | None = None
        self.feeds: Feeds = {}
        self.samples, self.counts = 0, list[int]()
        self.before: list[Array] = []
        self.after: list[Array] = []

    def add(self, feeds: Feeds, reference: dict[str, Any], candidate: dict[str, Any]) -> None:
        self.feeds = self.feeds or feeds
        self.counts.append(count(feeds))
        self.samples += self.counts[-1]
        names = [self.class_output] if self.outputs else list(reference)  # the first batch chooses
        for name, r in reference.items():
            self.outputs.setdefault(name, _Output()).add(r, candidate[name], self.overall)
        if self.metric:
            for seen, outputs in zip(self.shown, (reference, candidate), strict=True):
                seen.append({name: outputs[name] for name in reference})
        t = self.tokens
        scored = (
            (n, find_class_scores(reference[n], t), find_class_scores(candidate[n], t)) for n in names if n is not None
        )
        same = ((n, r, c) for n, r, c in scored if r is not None and c is not None and r.shape == c.shape)
        self.class_output, r, c = next(same, (None, None, None))
        if r is not None and c is not None:
            self.before.append(predict_classes(r))
            self.after.append(predict_classes(c))

    def result(self, data: Batches) -> ErrorReport:
        scored = self.class_output is not None
        before, after = (np.concatenate(p) if scored else None for p in (self.before, self.after))
        accuracy = _accuracy(before, after, data.labels, self.metric is not None)
        overall = self.overall.result()
        report = ErrorReport(
            **vars(overall),
            outputs={name: output.result() for name, output in self.outputs.items()},
            overall=overall,
            top1_agreement=None if before is None or after is None else measure_agreement(before, after),
            class_output=self.class_output,
            accuracy=accuracy,
            accuracy_drop=_drop(accuracy),
            inputs={name: FedInput(x.dtype.name, list(x.shape)) for name, x in self.feeds.items()},
            dynamic_sizes=dict(data.sizes),
            samples=self.samples if data.samples is None else data.samples,
            dropped=data.dropped,
            data=data.source,
            nonfinite=NonFinite(overall.nonfinite_reference, overall.nonfinite_candidate),
            metric=self._measure(data),
        )
        return replace(report, degraded=bool(explain_degraded(report)))

    def _measure(self, data: Batches) -> MetricReport | None:
        if self.metric is None:
            return None
        read = data.read_labels()
        labels = None if read is None else join(read)
        return MetricReport(self.metric.name, *(self.metric.measure(self._join(seen), labels) for seen in self.shown))

    def _join(self, seen: list[dict[str, Any]]) -> dict[str, Array]:
        shown = {n: split_samples([[x[n] for x in seen]], [self.counts]) for n in seen[0]}
        return {n: join(split[0]) for n, split in shown.items() if split is not None}


def _drop(accuracy: Shares | None) -> float | None:
    if accuracy is None or accuracy.before is None or accuracy.after is None:
        return None
    return accuracy.before - accuracy.after


def _accuracy(before: Array | None, after: Array | None, labels: Array | None, measured: bool) -> Shares | None:
    """None without labels, and where they are no classes of the rows, for a metric that has `measured` them."""
    fit = labels is not None and before is not None and before.shape == labels.shape and labels.dtype.kind in "iu"
    if labels is None or (measured and not fit):
        return None
    if before is None or after is None or not fit:
        rows = (
            "no output looks like class scores [N, C]" if before is None else f"there are {before.size} rows of scores"
        )
        raise OnnxPruneError(
            f"the data hold {labels.size} labels ({labels.dtype.name}), but {rows}; give an integer for each, leave the "
            "labels out to compare outputs only, or give a --metric that takes them"
        )
    return Shares(measure_agreement(before, labels), measure_agreement(after, labels))
