"""Axes: which channels own each position. Immutable terms, as coupling hands them out once every rule has run.

    Var      n positions, each its own channel                printed `a`
    Fixed    n positions that nobody may remove (frozen)      printed `49`
    Prod     row-major product of factors, outermost first    printed `(h d)`
    Sum      parts laid end to end                            printed `a + b`

A position of a Prod belongs to a channel of each of its Var factors and goes away when any of them does.
One coupling makes each term once (`Terms` in layout.py), and terms are compared by identity: the same Var, the same channels.

A size is an int, or `Dynamic` where it depends on the inputs: what it is at two sample input shapes (see graph/trace.py).
A dynamic size only ever belongs to a Fixed term, and to what contains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType

import numpy as np

MOST = 12  # parts of a sum that are printed


@dataclass(frozen=True)
class Reason:
    """Why positions are frozen: a sentence, and the node and operator that said so ('' for graph inputs and outputs)."""

    text: str
    node: str = ""
    op: str = ""
    structural: bool = False  # a spatial, kernel or token axis: nothing that anyone would prune


PLAIN = Reason("not a channel axis", structural=True)


@dataclass(frozen=True)
class Dynamic:
    """A size that depends on the sizes of the inputs: what it is at two samples of them, which differ."""

    first: int
    second: int

    def __add__(self, other: Size) -> Size:
        return size_of(*(a + b for a, b in zip(pair(self), pair(other), strict=True)))

    def __mul__(self, other: Size) -> Size:
        return size_of(*(a * b for a, b in zip(pair(self), pair(other), strict=True)))

    __radd__, __rmul__ = __add__, __mul__

    def __repr__(self) -> str:
        return "?"


Size = int | Dynamic


def size_of(at_first: int, at_second: int) -> Size:
    return at_first if at_first == at_second else Dynamic(at_first, at_second)


def pair(size: Size) -> tuple[int, int]:
    """The size at both samples."""
    return (size, size) if isinstance(size, int) else (size.first, size.second)


def first(size: Size) -> int:
    """The size at the first sample, whose batch is 1."""
    return size if isinstance(size, int) else size.first


def div(a: Size, b: Size) -> Size | None:
    """Exact quotient, or None where b does not divide a."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    (a0, a1), (b0, b1) = pair(a), pair(b)
    if not b0 or not b1 or a0 % b0 or a1 % b1:
        return None
    return size_of(a0 // b0, a1 // b1)


Keep = Mapping["Var", np.ndarray]  # the indices of the channels that stay, in their new order
NAMELESS: Mapping[Var, str] = MappingProxyType({})


class Axis:
    """One term."""

    size: Size
    parts: tuple[Axis, ...] = ()

    @property
    def length(self) -> int:
        """The size, which must be static."""
        assert isinstance(self.size, int), f"{self} is dynamic"
        return self.size

    @cached_property
    def leaves(self) -> tuple[Var, ...]:
        """The Vars, each once, in order of first appearance."""
        return tuple(dict.fromkeys(v for p in self.parts for v in p.leaves))

    @cached_property
    def reasons(self) -> frozenset[Reason]:
        """Why some of it is frozen."""
        return frozenset(r for p in self.parts for r in p.reasons)

    @property
    def owned(self) -> bool:
        """Does every position belong to a channel?"""
        raise NotImplementedError

    @property
    def reason(self) -> Reason | None:
        """The most telling reason among those of positions that no channel owns; None where every position has an owner."""
        best: Reason | None = None
        todo = [] if self.owned else [self]
        while todo:
            axis = todo.pop()
            if isinstance(axis, Fixed) and (best is None or best.structural):
                best = axis.why
            todo.extend(p for p in axis.parts if not p.owned)
        return best

    def at_length(self, length: int, keep: Keep) -> Axis | None:
        """The axis as it is in a run, for that plan; None where it is unknown how long its dynamic parts are."""
        return self if isinstance(self.size, int) else None

    def moves(self, keep: Keep) -> bool:
        """Does a plan remove or move any position?"""
        return any(v in keep for v in self.leaves)

    def kept(self, keep: Keep) -> np.ndarray:
        """The old positions that stay, in their new order; int64. The axis must be static."""
        raise NotImplementedError

    def size_after(self, keep: Keep) -> Size:
        """The size once the channels that `keep` drops are gone."""
        return self.size_where(lambda v: len(keep[v]) if v in keep else v.size)

    def size_where(self, size: Callable[[Var], int]) -> Size:
        """The size that the axis has where its Vars have the sizes that `size` gives."""
        raise NotImplementedError

    def owner(self, v: Var) -> np.ndarray:
        """For each position the index of the channel of `v` that owns it, or -1; int64 [n]. The axis must be static."""
        raise NotImplementedError

    def show(self, names: Mapping[Var, str] = NAMELESS) -> str:
        """The einops-like form: `(h d)`, `a + b`, `(c 49)`; dynamic sizes print as `?`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.show()

    def __str__(self) -> str:
        """With sizes in place of channels, as messages show it."""
        return self.show({v: str(v.size) for v in self.leaves})


@dataclass(frozen=True, eq=False, repr=False)
class Var(Axis):
    """n positions, each its own channel."""

    size: int

    @cached_property
    def leaves(self) -> tuple[Var, ...]:
        return (self,)

    @property
    def owned(self) -> bool:
        return True

    def kept(self, keep: Keep) -> np.ndarray:
        return keep[self] if self in keep else np.arange(self.size)

    def size_where(self, size: Callable[[Var], int]) -> Size:
        return size(self)

    def owner(self, v: Var) -> np.ndarray:
        return np.arange(self.size) if self is v else np.full(self.size, -1)

    def show(self, names: Mapping[Var, str] = NAMELESS) -> str:
        return names.get(self, f"v{self.size}")


@dataclass(frozen=True, eq=False, repr=False)
class Fixed(Axis):
    """Positions that nobody may remove."""

    size: Size
    why: Reason

    @cached_property
    def reasons(self) -> frozenset[Reason]:
        return frozenset([self.why])

    @property
    def owned(self) -> bool:
        return False

    def kept(self, keep: Keep) -> np.ndarray:
        return np.arange(self.length)

    def size_where(self, size: Callable[[Var], int]) -> Size:
        return self.size

    def owner(self, v: Var) -> np.ndarray:
        return np.full(self.length, -1)

    def show(self, names: Mapping[Var, str] = NAMELESS) -> str:
        return str(self.size)


@dataclass(frozen=True, eq=False, repr=False)
class Prod(Axis):
    """The row-major product of its parts, outermost first."""

    size: Size
    parts: tuple[Axis, ...]

    @property
    def owned(self) -> bool:
        return any(p.owned for p in self.parts)

    def at_length(self, length: int, keep: Keep) -> Axis | None:
        dynamic = [p for p in self.parts if not isinstance(p.size, int)]
        if not dynamic:
            return self
        if len(dynamic) > 1 or dynamic[0].moves(keep):
            return None
        static = math.prod(p.size for p in self.parts if isinstance(p.size, int))
        parts = (p if isinstance(p.size, int) else Fixed(length // static, PLAIN) for p in self.parts)
        return Prod(length, tuple(parts))

    def kept(self, keep: Keep) -> np.ndarray:
        out = np.zeros(1, np.int64)
        for p in self.parts:
            out = (out[:, None] * p.length + p.kept(keep)).ravel()
        return out

    def size_where(self, size: Callable[[Var], int]) -> Size:
        return math.prod(p.size_where(size) for p in self.parts)

    def owner(self, v: Var) -> np.ndarray:
        out, *others = (p.owner(v) for p in self.parts)
        for o in others:
            out = np.maximum(out[:, None], o).ravel()
        return out

    def show(self, names: Mapping[Var, str] = NAMELESS) -> str:
        factors = (f"({p.show(names)})" if isinstance(p, Sum) else p.show(names) for p in self.parts)
        return "(" + " ".join(factors) + ")"


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Axis):
    """Its parts end to end."""

    size: Size
    parts: tuple[Axis, ...]

    @property
    def owned(self) -> bool:
        return all(p.owned for p in self.parts)

    def kept(self, keep: Keep) -> np.ndarray:
        starts = accumulate((p.length for p in self.parts), initial=0)
        return np.concatenate([p.kept(keep) + at for p, at in zip(self.parts, starts, strict=False)])

    def size_where(self, size: Callable[[Var], int]) -> Size:
        return sum(p.size_where(size) for p in self.parts)

    def owner(self, v: Var) -> np.ndarray:
        return np.concatenate([p.owner(v) for p in self.parts])

    def show(self, names: Mapping[Var, str] = NAMELESS) -> str:
        shown = [p.show(names) for p in self.parts]
        if len(shown) > MOST:
            shown[MOST - 2 : -1] = [f"… {len(shown) - MOST + 1} more …"]
        return " + ".join(shown)


Layout = tuple[Axis, ...]  # the axes of a tensor
