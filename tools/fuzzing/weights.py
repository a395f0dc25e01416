"""Parameters in the ways that files hold them: plain, shared, and behind operators that compute them from others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import numpy_helper

from fuzzing.pool import Pool, Skip, divisors

Spelling = Callable[[Pool, tuple[int, ...]], str]


def weight(p: Pool, *shape: int, scale: float | None = None) -> str:
    """A float parameter of the given shape: usually an initializer, else one of SPELLINGS."""
    if p.dice.chance(0.7) or not shape:
        return plain(p, shape, scale)
    for _ in range(3):
        try:
            return p.dice.pick(*SPELLINGS)(p, shape)
        except Skip:
            pass
    return plain(p, shape, scale)


def plain(p: Pool, shape: tuple[int, ...], scale: float | None = None) -> str:
    """An initializer whose products neither vanish nor explode, whichever axis they run along."""
    fan = float(np.prod(shape)) / max(shape) if len(shape) > 1 else 1.0
    name = p.net.weight(p.net.name("w"), *shape, scale=fan**-0.5 if scale is None else scale)
    p.weights.append((name, shape))
    return name


def positive(p: Pool, *shape: int) -> str:
    """A scale or a variance, away from zero."""
    return p.net.init(p.net.name("s"), p.net.rng.uniform(0.5, 1.5, shape).astype(p.net.dtype))


def shared(p: Pool, shape: tuple[int, ...]) -> str:
    """A parameter that another node reads already."""
    names = [n for n, s in p.weights if s == shape]
    if not names:
        raise Skip
    return str(p.dice.pick(*names))


def other_way_round(p: Pool, shape: tuple[int, ...]) -> str:
    """A parameter that another node reads along its other axes."""
    options = [(n, s) for n, s in p.weights if len(s) > 1 and sorted(s) == sorted(shape)]
    if not options:
        raise Skip
    name, old = p.dice.pick(*options)
    perm, left = [], list(range(len(old)))
    for size in shape:
        axis = next(a for a in left if old[a] == size)
        left.remove(axis)
        perm.append(axis)
    return p.net.op("Transpose", name, perm=perm)


def transposed(p: Pool, shape: tuple[int, ...]) -> str:
    perm = p.dice.perm(len(shape))
    return p.net.op("Transpose", plain(p, tuple(shape[perm.index(a)] for a in range(len(shape)))), perm=perm)


def cast(p: Pool, shape: tuple[int, ...]) -> str:
    kind = p.dice.pick(np.float64, np.float16)
    value = (p.net.rng.standard_normal(shape) * 0.4).astype(kind)
    return p.net.to_float(p.net.init(p.net.name("w"), value))


def reshaped(p: Pool, shape: tuple[int, ...]) -> str:
    """Kept flat, with an axis cut in two, or with two axes merged."""
    form = p.dice.pick("flat", "cut", "merge", "one")
    if form == "flat":
        old: tuple[int, ...] = (int(np.prod(shape)),)
    elif form == "one":
        old = (1, *shape)
    elif form == "merge":
        if len(shape) < 2:
            raise Skip
        a = p.dice.int(0, len(shape) - 2)
        old = (*shape[:a], shape[a] * shape[a + 1], *shape[a + 2 :])
    else:
        a = p.dice.int(0, len(shape) - 1)
        if not divisors(shape[a]):
            raise Skip
        d = p.dice.pick(*divisors(shape[a]))
        old = (*shape[:a], d, shape[a] // d, *shape[a + 1 :])
    target = list(shape)
    if p.dice.chance(0.4):
        target[p.dice.int(0, len(shape) - 1)] = -1
    return p.net.op("Reshape", plain(p, old), p.net.const(target))


def identity(p: Pool, shape: tuple[int, ...]) -> str:
    return p.net.op("Identity", plain(p, shape))


def constant(p: Pool, shape: tuple[int, ...]) -> str:
    value = (p.net.rng.standard_normal(shape) * 0.4).astype(p.net.dtype)
    return p.net.op("Constant", value=numpy_helper.from_array(value))


def scaled(p: Pool, shape: tuple[int, ...]) -> str:
    """A direction times a length for each row, or a sum with something of rank one."""
    w = plain(p, shape)
    axis = p.dice.int(0, len(shape) - 1)
    column = [n if a == axis else 1 for a, n in enumerate(shape)]
    return p.net.op(p.dice.pick("Mul", "Add", "Div"), w, positive(p, *column))


def joined(p: Pool, shape: tuple[int, ...]) -> str:
    axis = p.dice.int(0, len(shape) - 1)
    if shape[axis] < 2:
        raise Skip
    k = p.dice.int(1, shape[axis] - 1)
    parts = [(*shape[:axis], n, *shape[axis + 1 :]) for n in (k, shape[axis] - k)]
    return p.net.op("Concat", *(plain(p, s) for s in parts), axis=axis)


def sliced(p: Pool, shape: tuple[int, ...]) -> str:
    axis, before, after = p.dice.int(0, len(shape) - 1), p.dice.int(0, 2), p.dice.int(0, 2)
    n = shape[axis]
    w = plain(p, (*shape[:axis], before + n + after, *shape[axis + 1 :]))
    if p.net.opset < 10:
        return p.net.op("Slice", w, axes=[axis], starts=[before], ends=[before + n])
    return p.net.op("Slice", w, p.net.const([before]), p.net.const([before + n]), p.net.const([axis]))


def split(p: Pool, shape: tuple[int, ...]) -> str:
    """One of two outputs of a Split: the other is offered as a parameter too."""
    axis = p.dice.int(0, len(shape) - 1)
    sizes = [shape[axis], p.dice.pick(shape[axis], p.dice.int(1, 4))]
    w = plain(p, (*shape[:axis], sum(sizes), *shape[axis + 1 :]))
    if p.net.opset < 13:
        a, b = p.net.ops("Split", w, outs=2, axis=axis, split=sizes)
    else:
        a, b = p.net.ops("Split", w, p.net.const(sizes), outs=2, axis=axis)
    p.weights.append((b, (*shape[:axis], sizes[1], *shape[axis + 1 :])))
    return a


def unsqueezed(p: Pool, shape: tuple[int, ...]) -> str:
    """An axis of one that comes or goes."""
    ones = [a for a, n in enumerate(shape) if n == 1]
    if ones and len(shape) > 1:
        a = p.dice.pick(*ones)
        return p.net.unsqueeze(plain(p, shape[:a] + shape[a + 1 :]), a)
    a = p.dice.int(0, len(shape))
    return p.net.squeeze(plain(p, (*shape[:a], 1, *shape[a:])), a)


def quantized(p: Pool, shape: tuple[int, ...]) -> str:
    """8-bit integers with one scale, or one for each slice along an axis."""
    if p.net.opset < 10:
        raise Skip
    q = p.net.init(p.net.name("q"), p.net.rng.integers(-60, 60, shape).astype(np.int8))
    axis = p.dice.int(0, len(shape) - 1)
    if p.net.opset < 13 or p.dice.chance(0.4):
        return p.net.op("DequantizeLinear", q, p.net.real(0.01), p.net.const(0, np.int8))
    scale = p.net.init(p.net.name("qs"), p.net.rng.uniform(0.005, 0.02, shape[axis]).astype(np.float32))
    zero = [p.net.init(p.net.name("qz"), np.zeros(shape[axis], np.int8))] if p.dice.chance(0.6) else []
    return p.net.op("DequantizeLinear", q, scale, *zero, axis=axis if p.dice.flag() else axis - len(shape))


def normalized(p: Pool, shape: tuple[int, ...]) -> str:
    """Weight standardisation: each filter less its mean."""
    if len(shape) < 2:
        raise Skip
    w = plain(p, shape)
    return p.net.op("Sub", w, p.net.mean(w, list(range(1, len(shape)))))


def low_rank(p: Pool, shape: tuple[int, ...]) -> str:
    """A matrix plus a product of two thin ones, or that product alone."""
    if len(shape) != 2:
        raise Skip
    r = p.dice.pick(1, 2, 3)
    y = p.net.op("MatMul", plain(p, (shape[0], r)), plain(p, (r, shape[1])))
    return p.net.op("Add", plain(p, shape), y) if p.dice.flag() else y


def gathered(p: Pool, shape: tuple[int, ...]) -> str:
    """Rows of a table, by constant indices."""
    axis = p.dice.int(0, len(shape) - 1)
    rows = shape[axis] + p.dice.int(0, 2)
    index = p.dice.rng.sample(range(rows), shape[axis])
    return p.net.op("Gather", plain(p, (*shape[:axis], rows, *shape[axis + 1 :])), p.net.const(index), axis=axis)


SPELLINGS: list[Spelling] = [
    shared, shared, shared, other_way_round, other_way_round, transposed, cast, reshaped, reshaped, identity, constant, scaled,
    joined, sliced, split, unsqueezed, quantized, quantized, normalized, gathered, low_rank,
]  # fmt: skip
