"""Bodies of If, Loop and Scan, laid out flat (see graph/flat.py); and operators that select or draw positions."""

from __future__ import annotations

from onnxprune.axes import Size
from onnxprune.graph.flat import CALL_CLOSE, CALL_OPEN, CLOSE, FLAT, get_flat_id
from onnxprune.graph.scopes import count_carried, count_scan_inputs, read_scan_axes
from onnxprune.layout import Dim, LayoutError, find
from onnxprune.ops.registry import Axes, Op, couple


@couple("If", "Loop", "Scan")
def bodies(op: Op) -> list[Axes | None]:
    """Layouts go into the bodies and come out: branches agree, and so do the steps of a loop."""
    if get_flat_id(op.node) is None:
        raise LayoutError(f"{op.type} keeps its body as it is")
    if op.type == "If":
        return _branches(op)
    return _steps(op)


@couple("SequenceMap")
def sequence_map(op: Op) -> list[Axes | None]:
    """The body is kept as it is; what it reads and makes is frozen."""
    raise LayoutError(f"{op.type} keeps its body as it is")


def _branches(op: Op) -> list[Axes | None]:
    n = len(op.node.output)
    then = op.trace.taken.get(get_flat_id(op.node) or 0)
    if then is not None:
        start = 0 if then else n
        return [_known(op, start + i) for i in range(n)]
    return [_agree(op, i, n + i, j=i) for i in range(n)]


def _steps(op: Op) -> list[Axes | None]:
    """[body's inputs][body's outputs] -> what is carried, then what every step makes, stacked along an axis of steps."""
    n, skip = count_carried(op.node), 2 if op.type == "Loop" else 0
    ends = len(op.node.input) - len(op.node.output)
    out = [_agree(op, skip + i, ends + i, j=i) for i in range(n)]
    axes = read_scan_axes(op.node, "scan_output_axes", len(op.node.output) - n)
    for j, axis in enumerate(axes, n):
        axes_of_step = _known(op, ends + j)
        if axes_of_step is not None:
            at = axis % (len(axes_of_step) + 1)
            axes_of_step = [
                *axes_of_step[:at],
                op.plain(op.out_shape(j)[at], f"the steps of {op.type}"),
                *axes_of_step[at:],
            ]
        out.append(axes_of_step)
    return out


def _known(op: Op, i: int) -> Axes | None:
    return op.x(i) if op.layouts[i] is not None else None


def _agree(op: Op, a: int, b: int, j: int) -> Axes | None:
    """Two values of which output j is one or the other."""
    x, y = _known(op, a), _known(op, b)
    if x is None or y is None or len(x) != len(y):
        for d in (*(x or ()), *(y or ())):
            op.freeze(d, f"{op.type} gives it to a value of unknown shape")
        return None
    return [_either(op, d, e, size) for d, e, size in zip(x, y, op.out_shape(j), strict=True)]


def _either(op: Op, d: Dim, e: Dim, size: Size) -> Dim:
    if find(d).size == find(e).size == size:
        return op.tie(d, e)
    for t in (d, e):
        op.freeze(t, f"{op.type} makes it of another size elsewhere")
    return op.plain(size)


@couple("LoopOpen", "ScanOpen", domain=FLAT)
def enter(op: Op) -> list[Axes | None]:
    """A body starts: carried values keep their layouts, a scanned axis is frozen and goes."""
    skip = 2 if op.type == "LoopOpen" else 0
    out: list[Axes | None] = [[] for _ in range(skip)]
    states = len(op.node.input) - count_scan_inputs(op.node)
    for i in range(skip, states):
        out.append(_start(op, i))
    axes = read_scan_axes(op.node, "scan_input_axes", count_scan_inputs(op.node))
    for i, axis in enumerate(axes, states) if not skip else ():
        x = op.x(i)
        at = axis % len(x)
        op.freeze(x[at], "the steps of Scan")
        out.append([d for a, d in enumerate(x) if a != at])
    return out


def _start(op: Op, i: int) -> Axes | None:
    """The first value of what a loop carries; axes whose size changes from step to step are frozen."""
    x = _known(op, i)
    shape = op.trace.shape(op.node.output[i])
    if x is None or shape is None or len(shape) != len(x):
        for d in x or ():
            op.freeze(d, "a loop carries it with a changing shape")
        return None
    for d, size in zip(x, shape, strict=True):
        if find(d).size != size:
            op.freeze(d, "a loop carries it with a changing size")
    return [d if find(d).size == size else op.plain(size) for d, size in zip(x, shape, strict=True)]


@couple(CLOSE, domain=FLAT)
def leave(op: Op) -> list[Axes | None]:
    """A body ends: its outputs go on as they are."""
    return [_known(op, i) for i in range(len(op.node.input))]


@couple("IfOpen", CALL_OPEN, CALL_CLOSE, domain=FLAT)
def nothing(op: Op) -> list[Axes | None]:
    """A branch or an inlined call starts or ends."""
    return []


@couple("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike", random=True)
@couple("NonMaxSuppression", "Unique", "Compress")
def opaque(op: Op) -> list[Axes | None]:
    """The result counts, selects or draws positions: all axes are frozen."""
    raise LayoutError(f"{op.type} counts, selects or draws positions")
