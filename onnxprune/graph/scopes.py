"""Shapes and values where a flat model enters and leaves a body: what the markers of graph/flat.py hand on."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.axes import Size, pair, size_of
from onnxprune.graph.facts import Facts
from onnxprune.graph.flat import CLOSE, FLAT, IF, LOOP, OPENERS, get_flat_id
from onnxprune.graph.trace import Trace
from onnxprune.graph.view import read_attribute


def read_scan_axes(node: NodeProto, name: str, count: int) -> list[int]:
    axes = read_attribute(node, name)
    return [int(a) for a in axes] if isinstance(axes, list) else [0] * count


def count_carried(node: NodeProto) -> int:
    """The number of values that a Loop or Scan (written out flat) carries from one step to the next.

    Loop: [iteration, cond, states][cond, states, scans] -> [states, scans]; Scan: [states, inputs][states, scans].
    """
    if node.op_type == LOOP:
        return len(node.input) - 3 - len(node.output)
    return len(node.input) - len(node.output) - count_scan_inputs(node)


def count_scan_inputs(node: NodeProto) -> int:
    count = read_attribute(node, "num_scan_inputs", 0)
    return count if isinstance(count, int) else 0


def is_dead(trace: Facts, opener: NodeProto) -> bool:
    """Does this IfOpen start a branch that is never taken, because its condition is a constant?"""
    cond = _cond(trace, opener)
    return cond is not None and cond != (read_attribute(opener, "branch") == "then_branch")


def _cond(trace: Facts, opener: NodeProto) -> bool | None:
    value = trace.value(opener.input[0]) if OPENERS.get(opener.op_type) == IF else None
    return bool(value.ravel()[0]) if value is not None and value.size == 1 else None


def trace_scope(trace: Trace, node: NodeProto) -> None:
    """Learn what a marker, or the operator that owns the body, makes."""
    if node.domain == FLAT:
        if node.op_type == CLOSE:
            for a, b in zip(node.input, node.output, strict=True):
                _hand_on(trace, a, b)
        elif OPENERS.get(node.op_type) == IF:
            trace.taken[get_flat_id(node) or 0] = _cond(trace, node)
        elif node.op_type in OPENERS:
            _open(trace, node)
    elif node.op_type == IF:
        _merge(trace, node)
    else:
        _leave(trace, node)


def _hand_on(trace: Trace, a: str, b: str) -> None:
    trace.set(b, trace.dtype(a), trace.shape(a))
    values = trace.values(a)
    if values is not None:
        trace.put(b, values, a in trace.from_shapes)


def _open(trace: Trace, node: NodeProto) -> None:
    loop, outs = OPENERS[node.op_type] == LOOP, list(node.output)
    states = len(node.input) - count_scan_inputs(node)
    ident = get_flat_id(node) or 0
    if loop:
        trace.set(outs[0], TensorProto.INT64, ())
        trace.set(outs[1], TensorProto.BOOL, ())
        _assume_true(trace, node, outs[1])
        trips = trace.values(node.input[0]) if node.input[0] else None
        trace.trips[ident] = (int(trips[0].ravel()[0]), int(trips[1].ravel()[0])) if trips else None
    for a, b in list(zip(node.input, outs, strict=True))[2 * loop : states]:
        trace.set_partial(b, trace.dtype(a), _varied(trace.shape(a), trace.varying.get(b, set())))
    axes = read_scan_axes(node, "scan_input_axes", count_scan_inputs(node))
    for a, b, axis in zip(node.input[states:], outs[states:], axes, strict=True) if not loop else ():
        shape = trace.shape(a)
        if shape:
            at = axis % len(shape)
            trace.trips[ident] = pair(shape[at])
            trace.set(b, trace.dtype(a), shape[:at] + shape[at + 1 :])
        else:
            trace.set(b, trace.dtype(a), None)


def _assume_true(trace: Trace, node: NodeProto, name: str) -> None:
    """A condition that is true before the first step is taken to be true in the body; `_trips` asks whether it stays so."""
    cond = trace.value(node.input[1]) if node.input[1] else np.array(True)
    if cond is not None and cond.all():
        trace.seed(name, np.array(True))


def _varied(shape: tuple[Size, ...] | None, axes: set[int] | None) -> list[Size | None] | None:
    if shape is None or axes is None:
        return None
    return [None if i in axes else s for i, s in enumerate(shape)]


def _merge(trace: Trace, node: NodeProto) -> None:
    """An If makes what the branch that is taken makes; sizes in which the branches differ are known when it runs."""
    n = len(node.output)
    then = trace.taken.get(get_flat_id(node) or 0)
    for i, name in enumerate(node.output):
        a, b = node.input[i], node.input[n + i]
        if then is not None:
            _hand_on(trace, a if then else b, name)
        else:
            trace.set_partial(name, trace.dtype(a), _common(trace.shape(a), trace.shape(b)))


def _common(a: tuple[Size, ...] | None, b: tuple[Size, ...] | None) -> list[Size | None] | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return [x if x == y else None for x, y in zip(a, b, strict=True)]


def _leave(trace: Trace, node: NodeProto) -> None:
    """The results of a Loop or Scan: the carried values, then the stacked outputs of the steps."""
    n, ins = count_carried(node), list(node.input)
    loop = node.op_type == LOOP
    starts = ins[2 : 2 + n] if loop else ins[:n]
    ends = ins[len(ins) - len(node.output) :]
    for start, end, name in zip(starts, ends, node.output, strict=False):
        a, b = trace.shape(start), trace.shape(end)
        same = _common(a, b)
        if a is not None and b is not None:
            changed = None if same is None else {i for i, s in enumerate(same) if s is None}
            if changed is None or changed:
                before = trace.varying.get(start, set())
                trace.varying[start] = None if changed is None or before is None else before | changed
        trace.set_partial(name, trace.dtype(end), same)
    trips = _trips(trace, node, ins[2 + n] if loop else None)
    axes = read_scan_axes(node, "scan_output_axes", len(ends) - n)
    for end, name, axis in zip(ends[n:], node.output[n:], axes, strict=True):
        shape = trace.shape(end)
        stacked: list[Size | None] | None = None if shape is None else [*shape]
        if stacked is not None:
            stacked.insert(axis % (len(stacked) + 1), trips)
        trace.set_partial(name, trace.dtype(end), stacked)


def _trips(trace: Trace, node: NodeProto, cond: str | None) -> Size | None:
    """The number of runs of the body, if known: the given count, if nothing in the body ends it sooner."""
    trips = trace.trips.get(get_flat_id(node) or 0)
    if cond is not None:
        stays = trace.value(cond)
        if stays is None or not stays.all():
            return None
    return None if trips is None else size_of(*trips)
