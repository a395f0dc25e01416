"""Repair a pruned model: the layers that stay take over what the removed channels did, one after the other.

Original and pruned network walk through the calibration samples in lockstep, from one layer to the next. Each layer is fitted on
what the network before it, pruned and repaired, makes of the samples, towards what the original makes of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.edit import Editor
from onnxprune.graph.flat import nest
from onnxprune.graph.io import Model, full_proto
from onnxprune.groups import Analysis
from onnxprune.plans import Plan, keep_of
from onnxprune.repair.layers import LAYERS, Change, Layer, Unfit
from onnxprune.repair.network import Network, called, put
from onnxprune.repair.report import LayerRepair, RepairReport
from onnxprune.repair.segments import Walk
from onnxprune.repair.solve import Rows, Solution, solve
from onnxprune.repair.store import Array, Store
from onnxprune.repair.tails import Tail, follow
from onnxprune.surgery import apply_flat
from onnxprune.validation.compare import open_session, run
from onnxprune.validation.metrics import ErrorSums, is_float

ROWS_PER_INPUT = 64  # rows for each number that a layer's output is a sum of
LEAST_ROWS = 1 << 15
ROWS_BYTES = 256 << 20
Feeds = Mapping[str, Array]
Progress = Callable[[int, int], None]


@dataclass
class Task:
    """A layer to fit, what follows it, and the tensors that this needs."""

    name: str
    op: str
    layer: Layer
    tail: Tail

    @property
    def pruned_stop(self) -> set[str]:
        return {self.layer.x, *self.tail.others}


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
) -> tuple[Model, RepairReport]:
    """Apply a plan, and let the layers that stay take over what the removed channels did.

    `samples` takes only the first batches, until there are so many. Raises OnnxPruneError where the model does not run.
    """
    start = time.perf_counter()
    keep = keep_of(plan, analysis)
    flat = apply_flat(analysis, keep)
    feeds = list(_first(batches, samples))
    report = RepairReport(method, sum(map(_count, feeds)))
    net = Network(analysis, keep, called(flat, analysis.model))
    plain = open_session(full_proto(net.model), "pruned", threads)
    tasks = list(_tasks(net, report))
    changes: list[list[Change]] = []
    with Store() as before, Store() as after:
        original = Walk(
            called(analysis.flat, analysis.model),
            [*({t.tail.target} for t in tasks), set(net.outputs)], list(feeds[0]), len(feeds),
        )  # fmt: skip
        pruned = Walk(net.model, [*(t.pruned_stop for t in tasks), set(net.outputs)], list(feeds[0]), len(feeds))
        for store in (before, after):
            for batch, feed in enumerate(feeds):
                for name, array in feed.items():
                    store.put(name, batch, array)
        rng = np.random.default_rng(seed)
        for at, task in enumerate(tasks):
            if progress:
                progress(at, len(tasks))
            began = time.perf_counter()
            pairs = zip(original.run(at, before, threads), pruned.run(at, after, threads), strict=True)
            rows = _rows(task, net, pairs, len(feeds), rng)
            changes.append(_fit(task, rows, report, began))
            net.apply(changes[-1])
        pairs = zip(original.run(len(tasks), before, threads), pruned.run(len(tasks), after, threads), strict=True)
        report.error_before, report.error_after = _errors(pairs, plain, feeds)
    report.kept = len(changes)
    if not report.error_after <= report.error_before:
        report.kept = 0
    out = Editor(flat)
    _write(out, net, changes[: report.kept])
    report.seconds = time.perf_counter() - start
    return nest(out.finish(), analysis.model), report


def _first(batches: Iterable[Feeds], samples: int | None) -> Iterator[Feeds]:
    seen = 0
    for feeds in batches:
        if samples is not None and seen >= samples:
            return
        seen += _count(feeds)
        yield feeds


def _count(feeds: Feeds) -> int:
    return next((x.shape[0] for x in feeds.values() if x.ndim), 1)


def _tasks(net: Network, report: RepairReport) -> Iterator[Task]:
    """The layers whose inputs changed, in order, each with what follows it; `report` hears of those that cannot be fitted."""
    found: list[tuple[int, str, Layer]] = []
    for index, node in enumerate(net.nodes):
        if node.domain not in ("", "ai.onnx") or node.op_type not in LAYERS or not net.touched.intersection(node.input):
            continue
        name = node.name or node.output[0]
        try:
            layer = _layer(net, index)
            found.append((index, name, layer))
        except Unfit as why:
            report.left_out[name] = str(why)
    last = _last_layers(net, {index: at for at, (index, _, _) in enumerate(found)})
    for at, (index, name, layer) in enumerate(found):
        tail = follow(layer, net, lambda other, at=at: last[other] < at)  # type: ignore[misc]
        yield Task(name, net.nodes[index].op_type, layer, tail)


def _layer(net: Network, index: int) -> Layer:
    node = net.nodes[index]
    after = net.only_reader(node.output[0])
    layer = LAYERS[node.op_type](net.site(index), None if after is None else net.site(after))
    for change in layer.changes(layer.w, layer.b):
        net.check(change)
    return layer


def _last_layers(net: Network, layers: Mapping[int, int]) -> dict[str, int]:
    """For each value the last of the layers that it depends on, -1 for none."""
    last: dict[str, int] = {}
    for index, node in enumerate(net.nodes):
        inputs = max((last.get(name, -1) for name in node.input), default=-1)
        last.update(dict.fromkeys(node.output, max(inputs, layers.get(index, -1))))
    return {**dict.fromkeys(net.live, -1), **last}


def _rows(
    task: Task, net: Network, pairs: Iterable[tuple[Feeds, Feeds]], batches: int, rng: np.random.Generator
) -> Rows:
    """Rows sampled from each batch, at places drawn for each batch anew."""
    layer, tail = task.layer, task.tail
    groups, inputs, _ = layer.w.shape
    most = ROWS_BYTES // (4 * groups * (inputs + 1))
    want = min(max(LEAST_ROWS, ROWS_PER_INPUT * inputs), most)
    stays = net.stays(tail.target)
    parts: list[tuple[Array, Array, Array | None]] = []
    for original, pruned in pairs:
        target, channels = original[tail.target], None
        for axis, positions in stays:
            if axis == layer.axis % target.ndim:
                channels = positions
            else:
                target = np.take(target, positions, axis)
        shape = list(target.shape)
        shape[layer.axis] = groups * layer.w.shape[2]
        count, each = layer.places(shape)
        at = np.sort(rng.permutation(count)[: max(1, round(want / batches / each))])
        x = layer.rows(pruned[layer.x], shape, at).astype(np.float32, copy=False)
        if layer.b is not None:
            x = np.concatenate([x, np.ones((*x.shape[:2], 1), np.float32)], axis=2)
        others = [layer.made(pruned[name], at).astype(np.float32, copy=False) for name in tail.others]
        total = sum(others[1:], start=others[0]) if others else None
        parts.append((x, layer.made(target, at, channels).astype(np.float32, copy=False), total))
    x, y = (np.concatenate([p[i] for p in parts], axis=1) for i in (0, 1))
    return Rows(x, y, np.concatenate([p[2] for p in parts], axis=1) if tail.others else None)


def _fit(task: Task, rows: Rows, report: RepairReport, began: float) -> list[Change]:
    layer = task.layer
    w0 = layer.w if layer.b is None else np.concatenate([layer.w, layer.b[:, None]], axis=1)
    found: Solution = solve(rows, w0, task.tail, layer.b is not None)
    w, b = (found.w, None) if layer.b is None else (found.w[:, :-1], found.w[:, -1])
    seconds = time.perf_counter() - began
    report.layers.append(
        LayerRepair(
            task.name, task.op, found.before, found.after, rows.x.shape[1], found.damping, found.condition, seconds
        )
    )
    return layer.changes(w, b)


def _errors(pairs: Iterable[tuple[Feeds, Feeds]], plain: object, feeds: Sequence[Feeds]) -> tuple[float, float]:
    """The outputs' relative error without and with the repair."""
    sums = ErrorSums(), ErrorSums()
    for (original, repaired), feed in zip(pairs, feeds, strict=True):
        unrepaired = run(plain, feed)
        for name, want in original.items():
            if is_float(want.dtype):
                for total, got in zip(sums, (unrepaired[name], repaired[name]), strict=True):
                    total.add(want, got)
    before, after = (_error(total) for total in sums)
    return before, after


def _error(sums: ErrorSums) -> float:
    """Infinite where a value is not finite that was so in the original."""
    error = sums.result()["relative_l2"]
    return float("inf") if error is None or sums.nonfinite_candidate > sums.nonfinite_reference else float(error)


def _write(editor: Editor, net: Network, changes: Sequence[Sequence[Change]]) -> None:
    """The changes, which name nodes of the network that was walked, in the flat model."""
    at = {n.output[0]: i for i, n in enumerate(editor.nodes) if n.output}
    for change in (c for some in changes for c in some):
        index = at[net.nodes[change.node].output[0]]
        put(editor, Change(index, change.slot, change.array), net.is_shared(change))
