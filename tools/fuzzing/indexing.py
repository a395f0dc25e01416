"""Productions: cutting, joining, growing and looking up."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from fuzzing.linear import project
from fuzzing.pool import Pool, Skip, Value, each, production, static
from fuzzing.weights import weight
from onnxprune.axes import Size, pair


def resized(v: Value, axis: int, n: int) -> tuple[Size, ...]:
    return (*v.shape[:axis], n, *v.shape[axis + 1 :])


def slices(p: Pool, v: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
    """x[start:end:step] along one axis, in any way of counting."""
    n = v.shape[axis]
    assert isinstance(n, int)
    size = len(range(n)[slice(start, end if end >= 0 or step > 0 else None, step)])
    shape = resized(v, axis, size)
    if p.net.opset < 10:
        if step != 1:
            raise Skip
        return p.make("Slice", [v], shape, v.axis, axes=[axis], starts=[start], ends=[end])
    if step > 0:
        start = start - n if start and p.dice.chance(0.3) else start
        end = p.dice.pick(n, 2**31 - 1, 2**63 - 1) if end == n else end - n if p.dice.chance(0.3) else end
    else:
        end = -(2**31) if end < 0 else end
    axis = axis - v.rank if p.dice.chance(0.3) else axis
    more = [p.net.const([step])] if step != 1 or p.dice.chance(0.3) else []
    ins = [v, p.net.const([start]), p.net.const([end]), p.net.const([axis]), *more]
    return p.make("Slice", ins, shape, v.axis)


@production(3)
def slice_(p: Pool) -> None:
    v = p.draw(lambda v: any(static(n, 3) for n in v.shape))
    a = p.axis(v, 3)
    n = v.shape[a]
    assert isinstance(n, int)
    form = p.dice.pick("part", "part", "step", "back")
    if form == "part":
        s = p.dice.int(0, n - 2)
        p.add(slices(p, v, a, s, p.dice.int(s + 1, n)))
    elif form == "step":
        p.add(slices(p, v, a, p.dice.int(0, 1), n, p.dice.pick(2, 3)))
    else:
        p.add(slices(p, v, a, n - 1, -1, p.dice.pick(-1, -1, -2)))


@production(3)
def split(p: Pool) -> None:
    """Two or three parts, with a gate, changed places, or left apart."""
    v = p.draw(lambda v: any(static(n, 4) for n in v.shape))
    a = p.axis(v, 4)
    n = v.shape[a]
    assert isinstance(n, int)
    parts = p.dice.pick(2, 2, 3)
    equal = n % parts == 0 and p.dice.flag()
    cuts = sorted(p.dice.rng.sample(range(1, n), parts - 1))
    sizes = [n // parts] * parts if equal else [int(k) for k in np.diff([0, *cuts, n])]
    axis = a - v.rank if p.net.opset >= 11 and p.dice.chance(0.3) else a
    if equal and p.dice.flag():
        names = p.net.ops("Split", v, outs=parts, axis=axis, num_outputs=parts if p.net.opset >= 18 else None)
    elif p.net.opset >= 13:
        names = p.net.ops("Split", v, p.net.const(sizes), outs=parts, axis=axis)
    else:
        names = p.net.ops("Split", v, outs=parts, axis=axis, split=sizes)
    out = [Value(name, resized(v, a, k), v.axis) for name, k in zip(names, sizes, strict=True)]
    form = p.dice.pick("gate", "swap", "apart")
    if form == "gate" and equal:
        p.add(p.like("Mul", out[0], p.like("Sigmoid", out[1])))
    elif form == "swap":
        p.add(p.make("Concat", out[::-1], v.shape, v.axis, axis=a))
    else:
        for y in out:
            p.add(y)


@production(2)
def gather(p: Pool) -> None:
    """Constant indices: part, permutation, repeated, negative, a scalar, a table of them."""
    v = p.draw(lambda v: any(static(n, 2) for n in v.shape))
    a = p.axis(v)
    n = v.shape[a]
    assert isinstance(n, int)
    axis = p.dice.pick(a, a - v.rank)
    form = p.dice.pick("some", "permutation", "any", "one", "table", "same")
    if form == "one":
        if v.rank < 3:
            raise Skip
        shape = (*v.shape[:a], *v.shape[a + 1 :])
        at = min(v.axis - (a < v.axis), len(shape) - 1)
        p.add(p.make("Gather", [v, p.net.const(p.dice.int(-n, n - 1))], shape, at, axis=axis))
        return
    index = {
        "some": lambda: sorted(p.dice.rng.sample(range(n), p.dice.int(1, n))),
        "permutation": lambda: p.dice.perm(n),
        "any": lambda: [p.dice.int(-n, n - 1) for _ in range(p.dice.int(1, n + 2))],
        "table": lambda: np.arange(n).reshape(2, -1) if n % 2 == 0 else np.array([p.dice.perm(n), p.dice.perm(n)]),
        "same": lambda: list(range(n)),
    }[form]()
    kind = p.dice.pick(np.int64, np.int32)
    shape = (*v.shape[:a], *np.shape(index), *v.shape[a + 1 :])
    if len(shape) > 5:
        raise Skip
    p.add(
        p.make("Gather", [v, p.net.const(index, kind)], shape, v.axis + (np.ndim(index) == 2 and a < v.axis), axis=axis)
    )


@production(2)
def pad(p: Pool) -> None:
    """Zeros (or another constant, or reflections) around an axis."""
    v = p.draw(lambda v: any(static(n, 2) for n in v.shape))
    a, before, after = p.axis(v), p.dice.pick(0, 1, 2, 4), p.dice.pick(0, 1, 3)
    n = v.shape[a]
    assert isinstance(n, int)
    pads = [0] * (2 * v.rank)
    pads[a], pads[v.rank + a] = before, after
    mode = "constant" if a == v.axis or p.dice.flag() else p.dice.pick("edge", "reflect")
    if mode == "reflect" and max(before, after) >= n:
        raise Skip
    shape = resized(v, a, n + before + after)
    if p.net.opset < 11:
        p.add(p.make("Pad", [v], shape, v.axis, pads=pads, mode=mode))
        return
    value = [p.net.real(0.5)] if mode == "constant" and p.dice.chance(0.2) else []
    p.add(p.make("Pad", [v, p.net.const(pads), *value], shape, v.axis, mode=mode))


@production(5)
def concat(p: Pool) -> None:
    """With another tensor, itself, or a parameter."""
    v = p.draw(lambda v: any(static(n, 1) for n in v.shape))
    a = p.axis(v, 1)
    mates = [
        w for w in p.values
        if w.rank == v.rank and all(b == a or m == n for b, (m, n) in enumerate(zip(w.shape, v.shape, strict=True)))
        and static(w.shape[a])
    ]  # fmt: skip
    parts = [v, *p.dice.rng.sample(mates, min(len(mates), p.dice.pick(1, 1, 2)))]
    p.dice.rng.shuffle(parts)
    sizes = [w.shape[a] for w in parts]
    n = sum(s for s in sizes if isinstance(s, int))
    if n > 48:
        raise Skip
    axis = a - v.rank if p.net.opset >= 11 and p.dice.chance(0.3) else a
    p.add(p.make("Concat", parts, resized(v, a, n), v.axis, axis=axis))


@production(1)
def stack(p: Pool) -> None:
    """Two tensors of one shape along a new axis."""
    v = p.draw(lambda v: v.rank < 4)
    w = p.draw(lambda w: w.shape == v.shape)
    a = p.dice.int(0, v.rank)
    parts = [p.net.unsqueeze(x, a) for x in (v, w)]
    p.add(p.make("Concat", parts, (*v.shape[:a], 2, *v.shape[a:]), v.axis + (a <= v.axis), axis=a))


@production(1, since=11)
def one_token_added(p: Pool) -> None:
    """A learned row in front of an axis (a class token), for a batch that is read when the model runs."""
    v = p.draw(lambda v: v.rank == 3 and static(v.shape[2]) and v.axis == 2)
    n, t, c = v.shape
    assert isinstance(c, int)
    target = p.net.op("Concat", p.read(v, n), p.net.const([1, c]), axis=0)
    token = p.net.op("Expand", weight(p, 1, 1, c), target)
    p.add(p.make("Concat", [token, v], (n, each(lambda k: k + 1, t), c), 2, axis=1))


@production(1, since=13)
def by_element(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 3 and all(static(n) for n in v.shape) and static(v.shape[1], 2))
    n, t, c = (int(s) for s in v.shape)
    table = p.net.rng.permuted(np.tile(np.arange(t)[None, :, None], (n, 1, c)), axis=1)[:, : max(1, t - 1)]
    at = p.net.const(table)
    if p.dice.flag():
        p.add(p.make("GatherElements", [v, at], table.shape, v.axis, axis=1))
    else:
        more = {"reduction": "add"} if p.net.opset >= 16 and p.dice.flag() else {}
        p.add(p.make("ScatterElements", [v, at, weight(p, *table.shape)], v.shape, v.axis, axis=1, **more))


@production(1, since=13)
def by_tuple(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (2, 3) and all(static(n) for n in v.shape) and static(v.shape[0], 2))
    rows = p.dice.rng.sample(range(int(v.shape[0])), 2)
    at = p.net.const([[r] for r in rows])
    rest = [int(n) for n in v.shape[1:]]
    if p.dice.flag():
        p.add(p.make("GatherND", [v, at], (2, *rest), v.axis))
    else:
        p.add(p.make("ScatterND", [v, at, weight(p, 2, *rest)], v.shape, v.axis))


@production(1, since=11)
def cumulative_sum(p: Pool) -> None:
    v = p.draw(lambda v: v.rank > 1)
    a = p.dice.int(0, v.rank - 1)
    attrs = {"reverse": p.dice.int(0, 1), "exclusive": p.dice.int(0, 1)}
    p.add(p.like("Tanh", p.like("CumSum", v, p.net.const(p.dice.pick(a, a - v.rank)), **attrs)))


@production(1, since=14)
def triangle(p: Pool) -> None:
    v = p.draw(lambda v: v.rank > 1)
    k = [p.net.const(p.dice.int(-1, 1))] if p.dice.flag() else []
    p.add(p.like("Trilu", v, *k, upper=p.dice.int(0, 1)))


@production(1, since=11)
def top_k(p: Pool) -> None:
    v = p.draw(lambda v: any(static(n, 2) for n in v.shape))
    a = p.axis(v)
    n = v.shape[a]
    assert isinstance(n, int)
    k = p.dice.int(1, n)
    values, index = p.net.ops("TopK", v, p.net.const([k]), outs=2, axis=p.dice.pick(a, a - v.rank))
    shape = resized(v, a, k)
    p.add(Value(values, shape, v.axis))
    if p.dice.flag():
        p.add(Value(p.net.to_float(index), shape, v.axis))


@production(1, since=13)
def arg_max(p: Pool) -> None:
    v = p.draw(lambda v: v.rank > 1)
    a = p.dice.int(0, v.rank - 1)
    y = p.net.op(p.dice.pick("ArgMax", "ArgMin"), v, axis=a, keepdims=1)
    y = p.net.to_float(y)
    p.add(p.like("Add", v, p.net.op("Mul", y, p.net.real(0.1))))


@production(1, since=11)
def look_up_by_the_data(p: Pool) -> None:
    """An embedding of ArgMax's indices, or a one-hot vector of them."""
    v = p.draw(lambda v: v.rank in (2, 3) and static(v.shape[-1], 2))
    n = int(v.shape[-1])
    ids = p.net.op("ArgMax", v, axis=v.rank - 1, keepdims=0)
    if p.dice.flag():
        c = p.dice.pick(3, 4, 6)
        p.add(p.make("Gather", [weight(p, n, c), ids], (*v.shape[:-1], c), v.rank - 1, axis=0))
    else:
        hot = p.net.op("OneHot", ids, p.net.const(n), p.net.const([0, 1], np.float32), axis=-1)
        p.add(p.like("Mul", v, hot))


@production(1, since=10)
def reverse_sequence(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (2, 3) and static(v.shape[0]) and static(v.shape[1]))
    n, t = int(v.shape[0]), int(v.shape[1])
    lengths = [p.dice.int(1, t) for _ in range(n)]
    p.add(p.like("ReverseSequence", v, p.net.const(lengths), batch_axis=0, time_axis=1))


@production(1, since=9)
def where(p: Pool) -> None:
    """A choice between two tensors, by a mask that is data, a constant, or one of a channel."""
    v = p.with_channels()
    c, a = v.channels, v.axis
    assert isinstance(c, int)
    other = p.dice.pick(
        lambda: project(p, v, c), lambda: p.net.real(0.3), lambda: weight(p, c, *[1] * (v.rank - a - 1))
    )()
    if isinstance(other, Value) and other.shape != v.shape:
        raise Skip
    if p.dice.flag():
        mask = p.net.op("Greater", v, p.net.real(0.1))
    else:
        flags = p.net.rng.integers(0, 2, (c, *[1] * (v.rank - a - 1))).astype(bool)
        mask = p.net.init(p.net.name("mask"), flags)
    p.add(p.make("Where", p.dice.pick([mask, v, other], [mask, other, v]), v.shape, v.axis))


@production(1, since=13)
def positions(p: Pool) -> None:
    """A table of positions, read by Range over as many rows as there are tokens, added to them."""
    v = p.draw(lambda v: v.rank == 3 and static(v.shape[2]) and v.axis == 2)
    c, rows = v.shape[2], 400 if p.dice.chance(0.95) else max(pair(v.shape[1]))
    assert isinstance(c, int)
    end = p.net.squeeze(p.read(v, v.shape[1]), 0)
    ids = p.net.op("Range", p.net.const(0), end, p.net.const(1))
    if p.dice.flag():
        table = p.net.op("Gather", weight(p, rows, c), ids, axis=0)
    else:
        zero, one = p.net.const([0]), p.net.unsqueeze(end, 0)
        table = p.net.op("Slice", weight(p, rows, c), zero, one, p.net.const([0]))
    p.add(p.like("Add", v, table))


@production(1, since=11)
def embedding(p: Pool) -> None:
    """Rows of a table by another input's ids; the table may be the output's weight too."""
    rows, c = p.dice.pick(5, 7), p.dice.pick(4, 6, 8)
    ids = p.input("N", "T", ids=rows)
    table = weight(p, rows, c)
    e = p.add(p.make("Gather", [table, ids], (*ids.shape, c), 2, axis=0))
    if p.dice.flag():
        w = p.net.op("Transpose", table, perm=[1, 0])
        p.add(p.make("MatMul", [p.like("Relu", e), w], (*ids.shape, rows), 2))


@production(1, until=21)
def noise(p: Pool) -> None:
    """Random numbers, times zero."""
    v = p.draw()
    like = p.net.op(p.dice.pick("RandomNormalLike", "RandomUniformLike"), v)
    p.add(p.like("Add", v, p.net.op("Mul", like, p.net.real(0.0))))


@production(1, since=13)
def selected(p: Pool) -> None:
    """Compress by a constant condition."""
    v = p.draw(lambda v: any(static(n, 2) for n in v.shape))
    a = p.axis(v)
    flags = [True, *(p.dice.flag() for _ in range(int(v.shape[a]) - 1))]
    keep = p.net.const(flags, np.bool_)
    p.add(p.make("Compress", [v, keep], resized(v, a, sum(flags)), v.axis, axis=a))


@production(1, since=13)
def through_other_types(p: Pool) -> None:
    v = p.draw()
    to = p.dice.pick(TensorProto.DOUBLE, TensorProto.DOUBLE, TensorProto.FLOAT16)
    if to == TensorProto.FLOAT16:
        p.tolerance = 2e-2
    p.add(p.like("Cast", Value(p.net.op("Cast", v, to=to), v.shape, v.axis), to=TensorProto.FLOAT))
