"""The growing pool of values a random graph is made of, and the table of productions that grow it.

A production draws values from the pool, adds nodes to the net, and adds what it made to the pool. One that finds nothing
that suits raises `Skip`; nodes that it left behind are dead and go when the graph is finished.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases.base import SIZES, Draw, Net
from onnx import FunctionProto

from onnxprune.axes import Size, pair, size_of

MAX_ELEMENTS = 12_000
WIDTHS = (2, 3, 4, 5, 6, 8, 9, 12)
Shape = tuple[Size, ...]


class Skip(Exception):
    """Nothing in the pool suits a production."""


class Dice(Draw):
    """The draws of the cases, from a seed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.drawn: list[object] = [0]

    def int(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def pick(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def perm(self, n: int) -> list[int]:
        return self.rng.sample(range(n), n)


class Value(str):
    """A float tensor's name, which knows its sizes (a pair where they differ between the two feeds) and its channels' axis."""

    shape: Shape
    axis: int

    def __new__(cls, name: str, shape: Sequence[Size], axis: int) -> Value:
        v = super().__new__(cls, name)
        v.shape, v.axis = tuple(shape), axis
        return v

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> Size:
        return self.shape[self.axis]


def each(f: Callable[..., int], *sizes: Size) -> Size:
    """f at both feeds."""
    return size_of(*(f(*s) for s in zip(*map(pair, sizes), strict=True)))


def total(shape: Sequence[Size]) -> Size:
    return each(lambda *s: math.prod(s), *shape) if shape else 1


def static(size: Size, least: int = 1) -> bool:
    return isinstance(size, int) and size >= least


def divisors(n: int) -> list[int]:
    """The divisors of n between 1 and n."""
    return [d for d in range(2, n) if n % d == 0]


class Pool:
    """A net under construction with the values that it offers."""

    def __init__(self, net: Net, dice: Dice) -> None:
        self.net, self.dice = net, dice
        net.rng = np.random.default_rng(dice.rng.getrandbits(32))
        self.values: list[Value] = []
        self.weights: list[tuple[str, tuple[int, ...]]] = []
        self.functions: Sequence[FunctionProto] = ()
        self.tolerance: float | None = None

    # values

    def draw(self, ok: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value that suits, newer ones first. Raises Skip."""
        fits = [v for v in self.values if ok(v)]
        if not fits:
            raise Skip
        return self.dice.rng.choices(fits, range(1, len(fits) + 1))[0]

    def with_channels(self, *ranks: int, least: int = 2) -> Value:
        return self.draw(lambda v: (not ranks or v.rank in ranks) and static(v.channels, least))

    def axis(self, v: Value, least: int = 2) -> int:
        """A static axis, most often the one of the channels. Raises Skip."""
        fits = [a for a, s in enumerate(v.shape) if static(s, least)]
        if not fits:
            raise Skip
        return v.axis if v.axis in fits and self.dice.chance(0.75) else self.dice.pick(*fits)

    def make(self, op: str, ins: Sequence[str], shape: Sequence[Size], axis: int, /, **attrs: Any) -> Value:
        """One node and its result, which is not offered to others."""
        if max(pair(total(shape))) > MAX_ELEMENTS or min(map(min, map(pair, shape)), default=1) < 1:
            raise Skip
        return Value(self.net.op(op, *ins, **attrs), shape, axis)

    def like(self, op: str, v: Value, /, *more: str, **attrs: Any) -> Value:
        """One node that keeps the shape of its first input."""
        return self.make(op, [v, *more], v.shape, v.axis, **attrs)

    def add(self, v: Value) -> Value:
        self.values.append(v)
        return v

    def input(self, *dims: int | str, ids: int = 0, axis: int = 1) -> Value:
        name = self.net.input(self.net.name("input"), *dims, ids=ids)
        return Value(name, [size_of(*SIZES[d]) if isinstance(d, str) else d for d in dims], min(axis, len(dims) - 1))

    # shapes, written out

    def reshape(self, v: Value, shape: Sequence[Size], axis: int, source: Value | None = None) -> Value:
        """Reshape, its target written in one of the ways that exporters know; sizes are read from `source`."""
        entries = self._entries(v, shape, source or v)
        if all(isinstance(e, int) for e in entries):
            target = self.net.const(entries)
        else:
            parts = [e if isinstance(e, str) else self.net.const([e]) for e in entries]
            target = self.net.op("Concat", *parts, axis=0)
        return self.make("Reshape", [v, target], shape, axis)

    def _entries(self, v: Value, shape: Sequence[Size], source: Value) -> list[int | str]:
        """One entry an axis: a literal, a 0, one -1, or a vector of one that is computed from sizes."""
        dice, out = self.dice, []
        hidden = [
            a for a, s in enumerate(shape)
            if not isinstance(s, int) and not self._sources(source, s) and v.shape[a : a + 1] != (s,)
        ]  # fmt: skip
        if len(hidden) > 1 or 0 in shape:
            raise Skip
        infer = hidden[0] if hidden else dice.pick(*range(len(shape))) if shape and dice.chance(0.4) else -1
        for a, s in enumerate(shape):
            copied = a < v.rank and v.shape[a] == s
            if a == infer:
                out.append(-1)
            elif copied and dice.chance(0.4):
                out.append(0)
            elif isinstance(s, int) and not dice.chance(0.15):
                out.append(s)
            else:
                out.append(self.read(source, s) if self._sources(source, s) else 0 if copied else s)
        return out

    def _sources(self, v: Value, s: Size) -> list[tuple[int, ...]]:
        """The axes, or pairs of axes, of `v` whose sizes multiply to s."""
        one = [(a,) for a in range(v.rank) if v.shape[a] == s]
        two = [(a, b) for a in range(v.rank) for b in range(a) if total((v.shape[a], v.shape[b])) == s]
        return one or two

    def read(self, v: Value, s: Size) -> str:
        """A size as a vector of one, computed from the shape of `v`."""
        axes = self.dice.pick(*self._sources(v, s))
        sizes = [self.net.size(v, a) for a in axes]
        return sizes[0] if len(sizes) == 1 else self.net.op("Mul", *sizes)


@dataclass(frozen=True)
class Entry:
    """One registered production."""

    grow: Callable[[Pool], None]
    weight: float
    since: int
    until: int
    ms: bool


PRODUCTIONS: list[Entry] = []


def production(
    weight: float = 1, since: int = 7, until: int = 99, ms: bool = False
) -> Callable[[Callable[[Pool], None]], Callable[[Pool], None]]:
    """Register a production for the opset versions [since, until]; `ms`: only where com.microsoft is imported."""

    def register(grow: Callable[[Pool], None]) -> Callable[[Pool], None]:
        PRODUCTIONS.append(Entry(grow, weight, since, until, ms))
        return grow

    return register


def grow(pool: Pool, steps: int) -> None:
    """Apply random productions until `steps` of them had something to do."""
    fits = [
        e for e in PRODUCTIONS if e.since <= pool.net.opset <= e.until and (not e.ms or pool.net.ms)
    ]  # fmt: skip
    done = tries = 0
    while done < steps and tries < 8 * steps:
        tries += 1
        (entry,) = pool.dice.rng.choices(fits, [e.weight for e in fits])
        try:
            entry.grow(pool)
            done += 1
        except Skip:
            pass
