"""Productions: Reshape, Transpose and their kin, and shapes that the graph computes."""

from __future__ import annotations

from fuzzing.linear import dense, maybe_relu, project
from fuzzing.pool import WIDTHS, Pool, Skip, Value, divisors, production, static, total
from fuzzing.weights import weight
from onnxprune.axes import Size, pair, size_of


def cut(p: Pool, v: Value, axis: int, outer: int) -> Value:
    """One axis seen as (outer, inner)."""
    n = v.shape[axis]
    assert isinstance(n, int)
    shape = (*v.shape[:axis], outer, n // outer, *v.shape[axis + 1 :])
    return p.reshape(v, shape, v.axis + (axis < v.axis))


def merge(p: Pool, v: Value, axis: int) -> Value:
    """`axis` and the next one seen as one."""
    shape = (*v.shape[:axis], total(v.shape[axis : axis + 2]), *v.shape[axis + 2 :])
    return p.reshape(v, shape, v.axis - (axis < v.axis))


def permute(p: Pool, v: Value, perm: list[int]) -> Value:
    return p.make("Transpose", [v], [v.shape[a] for a in perm], perm.index(v.axis), perm=perm)


@production(4)
def transpose(p: Pool) -> None:
    v = p.draw(lambda v: 2 <= v.rank <= 5)
    kinds = {4: [[0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 1, 3]], 3: [[0, 2, 1], [1, 0, 2]]}
    p.add(permute(p, v, p.dice.pick(*kinds.get(v.rank, []), p.dice.perm(v.rank))))


@production(4)
def heads(p: Pool) -> None:
    """An axis cut into two, each with a parameter of its own."""
    v = p.draw(lambda v: v.rank < 5 and any(static(n, 4) for n in v.shape))
    a = p.axis(v, 4)
    n = v.shape[a]
    assert isinstance(n, int)
    if not divisors(n):
        raise Skip
    y = cut(p, v, a, p.dice.pick(*divisors(n)))
    for b in (a, a + 1):
        if p.dice.chance(0.4):
            m = y.shape[b]
            assert isinstance(m, int)
            y = p.like(p.dice.pick("Add", "Mul"), y, weight(p, m, *[1] * (y.rank - b - 1)))
    p.add(Value(y, y.shape, p.dice.pick(a, a + 1)))


@production(4)
def merged(p: Pool) -> None:
    v = p.draw(lambda v: v.rank > 2)
    p.add(merge(p, v, p.dice.int(0, v.rank - 2)))


@production(2)
def flatten(p: Pool) -> None:
    """[N, ..] -> [N, c s], by Flatten or Reshape."""
    v = p.draw(lambda v: v.rank > 2 and all(static(n) for n in v.shape[1:]))
    shape = (v.shape[0], total(v.shape[1:]))
    if p.dice.flag():
        p.add(p.make("Flatten", [v], shape, 1, **({} if p.dice.flag() else {"axis": 1})))
    else:
        p.add(p.reshape(v, shape, 1))


@production(1)
def reshaped_at_will(p: Pool) -> None:
    """Static axes regrouped without regard for what they mean."""
    v = p.draw(lambda v: v.rank > 1 and sum(static(n, 2) for n in v.shape) > 1)
    k = next(a for a in range(v.rank) if all(static(n) for n in v.shape[a:]) or a == v.rank - 1)
    n, shape = total(v.shape[k:]), list(v.shape[:k])
    if not isinstance(n, int):
        raise Skip
    while divisors(n) and len(shape) < 4 and p.dice.chance(0.7):
        d = p.dice.pick(*divisors(n))
        shape.append(d)
        n //= d
    p.add(p.reshape(v, [*shape, n], p.dice.int(0, len(shape))))


@production(3)
def channel_shuffle(p: Pool) -> None:
    v = p.draw(lambda v: v.rank < 5 and static(v.channels, 4) and bool(divisors(v.channels)))  # type: ignore[arg-type]
    n, a = v.channels, v.axis
    assert isinstance(n, int)
    y = cut(p, v, a, p.dice.pick(*divisors(n)))
    perm = [*range(y.rank)]
    perm[a], perm[a + 1] = a + 1, a
    p.add(merge(p, permute(p, y, perm), a))


@production(2)
def tokens_of_a_picture(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 4 and v.axis == 1)
    y = merge(p, v, 2)
    p.add(permute(p, y, [0, 2, 1]))


@production(1)
def picture_again(p: Pool) -> None:
    """Channels last, a product, channels first."""
    v = p.draw(lambda v: v.rank == 4 and static(v.shape[1], 2))
    y = dense(p, permute(p, Value(v, v.shape, 1), [0, 2, 3, 1]), p.dice.pick(*WIDTHS))
    p.add(permute(p, maybe_relu(p, y), [0, 3, 1, 2]))


@production(2)
def squeeze(p: Pool) -> None:
    v = p.draw(lambda v: 1 in v.shape and v.rank > 2)
    a = p.dice.pick(*[a for a, n in enumerate(v.shape) if n == 1])
    shape = (*v.shape[:a], *v.shape[a + 1 :])
    y = p.net.squeeze(v, p.dice.pick(a, a - v.rank) if p.net.opset >= 11 else a)
    p.add(Value(y, shape, min(v.axis - (a < v.axis), len(shape) - 1)))


@production(2)
def unsqueeze(p: Pool) -> None:
    v = p.draw(lambda v: v.rank < 4)
    a = p.dice.int(0, v.rank)
    y = p.net.unsqueeze(v, p.dice.pick(a, a - v.rank - 1) if p.net.opset >= 11 else a)
    p.add(Value(y, (*v.shape[:a], 1, *v.shape[a:]), v.axis + (a <= v.axis)))


@production(1, since=13)
def depth_to_space(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 4 and static(v.shape[1], 4) and v.shape[1] % 4 == 0)  # type: ignore[operator]
    n, c, h, w = v.shape
    assert isinstance(c, int)
    size: tuple[Size, ...] = (n, c // 4, total((h, 2)), total((w, 2)))
    p.add(p.make("DepthToSpace", [v], size, 1, blocksize=2, mode=p.dice.pick("DCR", "CRD")))


@production(1, since=13)
def space_to_depth(p: Pool) -> None:
    def even(n: Size) -> bool:
        return all(k % 2 == 0 for k in pair(n))

    v = p.draw(lambda v: v.rank == 4 and static(v.shape[1]) and even(v.shape[2]) and even(v.shape[3]))
    n, c, h, w = v.shape
    half = [size_of(*(n // 2 for n in pair(s))) for s in (h, w)]
    p.add(p.make("SpaceToDepth", [v], (n, total((c, 4)), *half), 1, blocksize=2))


@production(2, since=8)
def expand(p: Pool) -> None:
    """Copies along a new axis, kept apart or merged (grouped queries)."""
    v = p.draw(lambda v: v.rank < 5)
    a, n = p.dice.int(0, v.rank), p.dice.pick(2, 3)
    y = Value(p.net.unsqueeze(v, a), (*v.shape[:a], 1, *v.shape[a:]), v.axis + (a <= v.axis))
    shape = (*v.shape[:a], n, *v.shape[a:])
    target: list[str] = []
    for b, s in enumerate(shape):
        target.append(p.net.const([n if b == a else 1]) if p.dice.flag() or b == a else p.read(y, s))
    y = p.make("Expand", [y, p.net.op("Concat", *target, axis=0)], shape, y.axis)
    if p.dice.flag():
        b = p.dice.pick(*[b for b in (a - 1, a) if 0 <= b < y.rank - 1])
        y = merge(p, y, b)
    p.add(y)


@production(1)
def tile(p: Pool) -> None:
    v = p.draw()
    a, n = p.dice.int(0, v.rank - 1), p.dice.pick(2, 3)
    reps = [n if b == a else 1 for b in range(v.rank)]
    p.add(p.make("Tile", [v, p.net.const(reps)], [total((s, r)) for s, r in zip(v.shape, reps, strict=True)], v.axis))


@production(1, since=9)
def constant_of_shape(p: Pool) -> None:
    """Ones as large as a tensor, or as some of its axes, which scale it."""
    v = p.draw()
    parts = [p.read(v, s) if p.dice.flag() else p.net.const([1]) for s in v.shape]
    ones = p.net.op("ConstantOfShape", p.net.op("Concat", *parts, axis=0), value=p.net.filled(0.7))
    p.add(p.make(p.dice.pick("Mul", "Add"), [v, ones], v.shape, v.axis))


@production(1)
def scaled_by_a_size(p: Pool) -> None:
    v = p.draw()
    s = p.net.to_float(p.read(v, p.dice.pick(*v.shape)))
    if p.dice.flag():
        s = p.net.op("Sqrt", s)
    p.add(p.like("Div", v, s) if p.dice.flag() else p.like("Tanh", p.like("Mul", v, s)))


@production(1)
def reshaped_like_itself(p: Pool) -> None:
    """A detour through another shape, and back to the one that Shape reads."""
    v = p.draw(lambda v: v.rank > 1)
    y = merge(p, v, p.dice.int(0, v.rank - 2))
    p.add(p.make("Reshape", [p.like("Relu", y), p.net.op("Shape", v)], v.shape, v.axis))


@production(1)
def other_width(p: Pool) -> None:
    v = p.with_channels()
    p.add(project(p, v, p.dice.pick(*WIDTHS)))
