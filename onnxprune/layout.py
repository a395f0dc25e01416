"""The solver of layouts: terms that change while rules run. Only rules (ops/) and coupling see them.

A `Dim` stands for a term (see axes.py), much like a type in type inference. Rules *tie* axes (`unify`), *refine* them (`split`,
`factor`) or `freeze` them. A Var that meets a structure is bound to it, so every axis that shares the Var sees the refinement:
`find` gives the term that a Dim stands for by now. When all rules have run, `AxisTerms` makes immutable terms of them.
No graph makes a term deep: a level doubles the size, or adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from onnxprune.axes import PLAIN, Axis, Fixed, Prod, Reason, Size, Sum, Var, div

VAR, FIXED, PROD, SUM = "var", "fixed", "prod", "sum"


class LayoutError(Exception):
    """Two layouts that cannot be reconciled; the operator that asked for it is frozen with this text as its reason."""


class Dim:
    """One term. Mutable only by binding: a Var becomes a reference to another term, or Fixed."""

    __slots__ = ("kind", "parts", "reason", "ref", "size")

    def __init__(self, kind: str, size: Size, parts: tuple[Dim, ...] = (), reason: Reason = PLAIN) -> None:
        self.kind, self.size, self.parts, self.reason = kind, size, parts, reason
        self.ref: Dim | None = None

    def __repr__(self) -> str:
        return repr(AxisTerms().of(self))

    def __str__(self) -> str:
        return str(AxisTerms().of(self))


def var(size: int) -> Dim:
    return Dim(VAR, size)


def fixed(size: Size, reason: Reason = PLAIN) -> Dim:
    return Dim(FIXED, size, (), reason)


def fresh(size: Size, reason: Reason = PLAIN) -> Dim:
    """A new axis: a Var where channels can be told apart (static, more than one), else Fixed."""
    return var(size) if isinstance(size, int) and size > 1 else fixed(size, reason)


def find(d: Dim) -> Dim:
    """The term that `d` stands for now, with its own parts resolved one level and in canonical form."""
    root = d
    while root.ref is not None:
        root = root.ref
    while d.ref is not None and d.ref is not root:
        d.ref, d = root, d.ref
    if root.kind in (PROD, SUM) and any(_stale(p, root.kind) for p in root.parts):
        new = prod(*root.parts) if root.kind == PROD else concat(*root.parts)
        new = _root(new)
        if new is not root:
            if new.kind == root.kind:
                root.parts = new.parts
            else:
                root.ref = new
                return new
    return root


def _root(d: Dim) -> Dim:
    while d.ref is not None:
        d = d.ref
    return d


def _stale(p: Dim, kind: str) -> bool:
    return p.ref is not None or p.kind == kind or (kind == PROD and p.kind == FIXED and p.size == 1)


def _bind(d: Dim, to: Dim) -> None:
    if d is not to:
        d.ref = to
        d.parts = ()


def prod(*factors: Dim) -> Dim:
    """Row-major product, outermost factor first; nested products are flattened, adjacent frozen factors multiplied."""
    flat: list[Dim] = []
    size: Size = 1
    for f in factors:
        f = find(f)
        size = size * f.size
        for g in f.parts if f.kind == PROD else (f,):
            g = find(g)
            if g.kind == FIXED and g.size == 1:
                continue
            if g.kind == FIXED and flat and flat[-1].kind == FIXED:
                flat[-1] = fixed(flat[-1].size * g.size, _stronger(flat[-1].reason, g.reason))
            else:
                flat.append(g)
    if len(flat) == 1:
        return flat[0]
    return Dim(PROD, size, tuple(flat)) if flat else fixed(1)


def concat(*parts: Dim) -> Dim:
    """Parts end to end; nested sums are flattened, adjacent frozen parts joined."""
    flat: list[Dim] = []
    size: Size = 0
    for p in parts:
        p = find(p)
        size = size + p.size
        for q in p.parts if p.kind == SUM else (p,):
            q = find(q)
            if q.size == 0:
                continue
            if q.kind == FIXED and flat and flat[-1].kind == FIXED:
                flat[-1] = fixed(flat[-1].size + q.size, _stronger(flat[-1].reason, q.reason))
            else:
                flat.append(q)
    if len(flat) == 1:
        return flat[0]
    return Dim(SUM, size, tuple(flat)) if flat else fixed(0)


def _stronger(a: Reason, b: Reason) -> Reason:
    return b if a.structural else a


def freeze(d: Dim, reason: Reason) -> None:
    """Nobody may remove a position of `d` any more."""
    todo = [d]
    while todo:
        t = find(todo.pop())
        todo.extend(t.parts)
        if t.kind == FIXED:
            t.reason = _stronger(t.reason, reason)
        else:
            t.kind, t.parts, t.reason = FIXED, (), reason


def unify(a: Dim, b: Dim) -> None:
    """Say that two axes hold the same channels, position by position.

    Raises LayoutError where the sizes differ. Factorisations that do not nest are frozen.
    """
    todo = [(a, b)]
    while todo:
        x, y = (find(t) for t in todo.pop())
        if x is y:
            continue
        if x.size != y.size:
            raise LayoutError(f"axes of sizes {x.size} and {y.size} cannot hold the same channels")
        if x.kind == VAR or y.kind == VAR:
            _assign(*((x, y) if x.kind == VAR else (y, x)))
        elif x.kind == FIXED or y.kind == FIXED:
            f, other = (x, y) if x.kind == FIXED else (y, x)
            freeze(other, f.reason)
            f.reason = _stronger(f.reason, find(other).reason)
        elif x.kind == SUM or y.kind == SUM:
            todo.extend(_cut_alike(x, y))
            _join(x, y)
        else:
            todo.extend(_align(x, y))
            _join(x, y)


def alike(a: Dim, b: Dim) -> bool:
    """Do two axes hold the same channels, position by position, as far as is known?"""
    todo = [(a, b)]
    while todo:
        x, y = (find(t) for t in todo.pop())
        if x is y:
            continue
        if x.kind == VAR or x.kind != y.kind or x.size != y.size or len(x.parts) != len(y.parts):
            return False
        todo.extend(zip(x.parts, y.parts, strict=True))
    return True


def _join(x: Dim, y: Dim) -> None:
    """Make two structures one, whose parts are being tied; not where one would then contain itself."""
    x, y = find(x), find(y)
    if x is not y and not _contains(y, x):
        _bind(x, y)


def _contains(t: Dim, inner: Dim) -> bool:
    """Does the term `inner` occur inside `t`?"""
    todo, seen = list(t.parts), set()
    while todo:
        p = _root(todo.pop())
        if p is inner:
            return True
        if id(p) not in seen:
            seen.add(id(p))
            todo.extend(p.parts)
    return False


def _assign(v: Dim, t: Dim) -> None:
    """Bind Var `v` to `t`. Where `t` contains `v`, all of it is frozen: a layout cannot contain itself."""
    if _contains(t, v):
        freeze(t, Reason("a layout that would contain itself"))
    else:
        _bind(v, t)


def _cut_alike(x: Dim, y: Dim) -> Iterator[tuple[Dim, Dim]]:
    """Cut two sums (or a sum and a product) at each other's boundaries."""
    xs, ys = ([*reversed(t.parts)] if t.kind == SUM else [t] for t in (x, y))
    pairs = []
    try:
        while xs:
            p, q = find(xs.pop()), find(ys.pop())
            if p.size != q.size:
                n, m = p.size, q.size
                if not isinstance(n, int) or not isinstance(m, int):
                    raise LayoutError("a dynamic size inside a concatenation")
                if n > m:
                    p, rest = split(p, m)
                    xs.append(rest)
                else:
                    q, rest = split(q, n)
                    ys.append(rest)
            pairs.append((p, q))
    except LayoutError as e:
        for t in (x, y):
            freeze(t, Reason(str(e)))
        return
    yield from pairs


def _align(x: Dim, y: Dim) -> Iterator[tuple[Dim, Dim]]:
    """Pair the factors of two products, innermost first, refining either side so that they nest."""
    xs, ys = [*x.parts], [*y.parts]
    while xs and ys:
        f, g = find(xs.pop()), find(ys.pop())
        if f.kind == VAR and f.size == 1 and g.size != 1:  # a lone channel owns everything: it has no partner
            freeze(f, Reason("a single channel tied to a frozen factor"))
            ys.append(g)
            continue
        if g.kind == VAR and g.size == 1 and f.size != 1:
            freeze(g, Reason("a single channel tied to a frozen factor"))
            xs.append(f)
            continue
        if f.size == g.size:
            yield f, g
            continue
        try:
            (outer_f, inner_f), (outer_g, inner_g) = (factor(t, _common(f.size, g.size)) for t in (f, g))
            xs.extend([outer_f] if find(outer_f).size != 1 else [])
            ys.extend([outer_g] if find(outer_g).size != 1 else [])
            yield inner_f, inner_g
        except LayoutError:
            why = Reason(f"factorisations {x} and {y} do not nest")
            for t in (f, g, *xs, *ys):
                freeze(t, why)
            return
    for t in (*xs, *ys):
        freeze(t, Reason("a single channel tied to a frozen factor"))


def _common(a: Size, b: Size) -> Size:
    """The largest rows that both sizes divide into. Raises LayoutError where those are single positions."""
    if div(a, b) is not None or div(b, a) is not None:
        return b if div(a, b) is not None else a
    if not isinstance(a, int) or not isinstance(b, int) or math.gcd(a, b) == 1:
        raise LayoutError("no common rows")
    return math.gcd(a, b)


def split(d: Dim, k: int) -> tuple[Dim, Dim]:
    """Cut an axis after its first k positions; refines what it cuts through. Raises LayoutError on dynamic sizes."""
    d = find(d)
    n = d.size
    if not isinstance(n, int):
        raise LayoutError("a cut through an axis of dynamic size")
    if not 0 <= k <= n:
        raise LayoutError(f"a cut at {k} of an axis of {n}")
    if k in (0, n):
        empty = fixed(0)
        return (empty, d) if k == 0 else (d, empty)
    if d.kind == VAR:
        left, right = var(k), var(n - k)
        _bind(d, Dim(SUM, n, (left, right)))
        return left, right
    if d.kind == FIXED:
        return fixed(k, d.reason), fixed(n - k, d.reason)
    if d.kind == SUM:
        return _split_sum(d, k)
    return _split_prod(d, k)


def _split_sum(d: Dim, k: int) -> tuple[Dim, Dim]:
    parts, seen = list(d.parts), 0
    for i, p in enumerate(parts):
        size = find(p).size
        assert isinstance(size, int)
        if seen + size > k:
            left, right = split(p, k - seen)
            return concat(*parts[:i], left), concat(right, *parts[i + 1 :])
        seen += size
    raise AssertionError("unreachable: k lies inside")


def _split_prod(d: Dim, k: int) -> tuple[Dim, Dim]:
    head, rest = d.parts[0], prod(*d.parts[1:])
    inner = find(rest).size
    if not isinstance(inner, int):
        raise LayoutError("a cut through a product with a dynamic factor")
    rows, extra = divmod(k, inner)
    if not extra:
        top, bottom = split(head, rows)
        return prod(top, rest), prod(bottom, rest)
    top, below = split(head, rows)
    unit, bottom = split(below, 1)
    left, right = split(rest, extra)
    parts = [prod(top, rest)] if rows else []
    tail = [prod(bottom, rest)] if find(bottom).size else []
    return concat(*parts, prod(unit, left)), concat(prod(unit, right), *tail)


def factor(d: Dim, inner: Size) -> tuple[Dim, Dim]:
    """See an axis as (outer, inner) with the given inner size, row-major; refines it. Raises LayoutError where it cannot."""
    d = find(d)
    outer = div(d.size, inner)
    if outer is None:
        raise LayoutError(f"an axis of {d.size} does not divide into rows of {inner}")
    if outer == 1:
        return fixed(1), d
    if inner == 1:
        return d, fixed(1)
    if d.kind == FIXED:
        return fixed(outer, d.reason), fixed(inner, d.reason)
    if d.kind == VAR:
        assert isinstance(outer, int) and isinstance(inner, int)
        o, i = var(outer), var(inner)
        _bind(d, Dim(PROD, d.size, (o, i)))
        return o, i
    return _factor_prod(d, inner) if d.kind == PROD else _factor_sum(d, inner)


def _factor_prod(d: Dim, inner: Size) -> tuple[Dim, Dim]:
    outside, inside = [*d.parts], []
    while inner != 1:
        f = find(outside.pop())
        left = div(inner, f.size)
        if left is not None:
            inside.append(f)
            inner = left
            continue
        if not isinstance(inner, int) and any(map(leaves, inside)):
            # only the samples say that the dynamic axis divides so: in another run the cut may go through the channels
            raise LayoutError("part of a dynamic axis is laid together with channels")
        o, i = factor(f, inner)
        outside.append(o)
        inside.append(i)
        break
    return prod(*outside), prod(*reversed(inside))


def _factor_sum(d: Dim, inner: Size) -> tuple[Dim, Dim]:
    if not isinstance(inner, int) or not isinstance(d.size, int):
        raise LayoutError("a concatenation with a dynamic part")
    outers: list[Dim] = []
    inners: list[Dim] = []
    run: list[Dim] = []
    for p in _whole(d):
        run.append(p)
        size = find(concat(*run)).size
        assert isinstance(size, int)
        if size % inner:
            continue
        if len(run) == 1 and size > inner:
            cut = [factor(run[0], inner)]
        else:
            cut = [_lone(row, inner) for row in _rows(concat(*run), inner)]
        outers.extend(o for o, _ in cut)
        inners.extend(i for _, i in cut)
        run = []
    for i in inners[1:]:
        unify(inners[0], i)
    return concat(*outers), find(inners[0])


def _rows(d: Dim, size: int) -> list[Dim]:
    """The rows of a concatenation. Rows that begin or end inside rows of another length are frozen."""
    rows, rest = [], d
    while find(rest).size:
        row, rest = split(rest, size)
        rows.append(find(row))
    if len(rows) > 1 and any(len(_heads(row)) > 1 for row in rows):
        freeze(d, Reason(f"rows of {size} that cut across the rows of {d}"))
    return rows


def _whole(d: Dim) -> list[Dim]:
    """The parts of a sum, those that share one row put together: (r a) + (r b) + c is (r (a + b)) + c."""
    out: list[Dim] = []
    for p in map(find, d.parts if d.kind == SUM else (d,)):
        head = find(p.parts[0]) if p.kind == PROD else None
        if out and head is not None and head.size == 1 and out[-1].kind == PROD and find(out[-1].parts[0]) is head:
            p = prod(head, concat(prod(*out.pop().parts[1:]), prod(*p.parts[1:])))
        out.append(p)
    return out


def _heads(row: Dim) -> set[Dim]:
    """The outermost factors of the products that a row consists of."""
    return {find(find(p).parts[0]) for p in (row.parts if row.kind == SUM else (row,)) if find(p).kind == PROD}


def _lone(row: Dim, size: int) -> tuple[Dim, Dim]:
    """See one row as (r, inner) with a channel of its own, as if an axis had been factored first and then cut."""
    row = concat(*_whole(row))
    heads = _heads(row)
    if row.kind == PROD and find(row.parts[0]).size == 1:
        return find(row.parts[0]), prod(*row.parts[1:])
    if row.kind in (PROD, FIXED) or any(h.size != 1 for h in heads) or len(heads) > 1:
        return fixed(1), row
    r, inner = var(1), var(size)
    unify(row, prod(r, inner))
    return find(r), find(inner)


def pick(d: Dim, indices: np.ndarray) -> Dim:
    """The layout of `d[indices]`; refines `d` so that each run of consecutive indices is a part of its own."""
    d = find(d)
    if d.kind == FIXED:
        return fixed(len(indices), d.reason)
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    runs = [(int(r[0]), int(r[-1]) + 1) for r in np.split(indices, cuts) if len(r)]
    bounds = sorted({b for r in runs for b in r})
    pieces: dict[int, Dim] = {}
    at, rest = 0, d
    for b in bounds:
        piece, rest = split(rest, b - at)
        pieces[at] = piece
        at = b
    order = np.array([*pieces])

    def between(lo: int, hi: int) -> list[Dim]:
        return [pieces[int(s)] for s in order[np.searchsorted(order, lo) : np.searchsorted(order, hi)]]

    return concat(*(p for lo, hi in runs for p in between(lo, hi)))


def leaves(d: Dim) -> list[Dim]:
    """The Vars of a term, each once, in order of first appearance."""
    seen: dict[int, Dim] = {}
    todo = [d]
    while todo:
        t = find(todo.pop())
        if t.kind == VAR:
            seen.setdefault(id(t), t)
        todo.extend(reversed(t.parts))
    return list(seen.values())


def is_frozen(d: Dim) -> bool:
    return find(d).kind == FIXED or not leaves(d)


class AxisTerms:
    """The immutable terms of a coupling, each made once: what Dims stand for when nothing is tied or frozen any more."""

    def __init__(self) -> None:
        self._of: dict[Dim, Axis] = {}
        self._made: dict[object, Axis] = {}

    def of(self, d: Dim) -> Axis:
        """The term that `d` stands for."""
        d = find(d)
        if d not in self._of:
            self._of[d] = self._make(d)
        return self._of[d]

    def _make(self, d: Dim) -> Axis:
        if d.kind == VAR:
            assert isinstance(d.size, int)
            return Var(d.size)
        if d.kind == FIXED:
            return self._made.setdefault((d.size, d.reason), Fixed(d.size, d.reason))
        parts = tuple(self.of(p) for p in d.parts)
        kind = Prod if d.kind == PROD else Sum
        return self._made.setdefault((kind, parts), kind(d.size, parts))
