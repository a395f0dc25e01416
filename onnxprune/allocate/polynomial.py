"""Polynomials with whole coefficients: sizes of axes and sums of products of them, before the unknowns are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxPruneError

Monomial = tuple[int, ...]  # the unknowns that are multiplied, sorted; one stands twice for its square
CAP = 1 << 32  # i + CAP * most stands for the unknown i, or for `most` where it is larger
Ints = npt.NDArray[np.int64]
Values = npt.NDArray[Any]  # int64, or float64


class Poly:
    """A polynomial; adds and multiplies with others and with ints, so that `math.prod` and `sum` work on shapes of them."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = {m: c for m, c in terms.items() if c}

    def __add__(self, other: Poly | int) -> Poly:
        out = defaultdict(int, self.terms)
        for m, c in _terms(other).items():
            out[m] += c
        return Poly(out)

    def __mul__(self, other: Poly | int) -> Poly:
        out: dict[Monomial, int] = defaultdict(int)
        theirs = _terms(other)
        for m, c in self.terms.items():
            for n, d in theirs.items():
                out[tuple(sorted(m + n))] += c * d
        return Poly(out)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Poly:
        return self * -1

    def __sub__(self, other: Poly | int) -> Poly:
        return self + -other

    def __rsub__(self, other: int) -> Poly:
        return -self + other

    def __floordiv__(self, divisor: int) -> Poly:
        """The exact quotient. Raises ArithmeticError where there is none."""
        if any(c % divisor for c in self.terms.values()):
            raise ArithmeticError(f"{divisor} does not divide a polynomial")
        return Poly({m: c // divisor for m, c in self.terms.items()})

    def at_most(self, most: int) -> Poly:
        """One unknown, or `most` where it is larger. Raises ArithmeticError for other polynomials."""
        ((monomial, factor),) = self.terms.items() if len(self.terms) == 1 else (((), 0),)
        if len(monomial) != 1 or factor != 1:
            raise ArithmeticError("only a single unknown can be cut")
        return Poly({(monomial[0] + CAP * most,): 1})


def _terms(x: Poly | int) -> Mapping[Monomial, int]:
    return x.terms if isinstance(x, Poly) else {(): x}


class Compiled:
    """A polynomial in `unknowns` unknowns as arrays, to be evaluated at many points."""

    def __init__(self, poly: Poly | int, unknowns: int) -> None:
        terms = _terms(poly)
        degree = max(map(len, terms), default=0)
        if max(terms.values(), default=0) > np.iinfo(np.int64).max:
            raise OnnxPruneError(
                "the model's shapes come to more multiply-accumulates than can be counted; correct them"
            )
        self.coefficients: Ints = np.array([*terms.values()], np.int64)
        padded = [m + (unknowns,) * (degree - len(m)) for m in terms]  # one more unknown, which is always 1
        factors: Ints = np.array(padded, np.int64).reshape(len(padded), degree).T.copy()
        self.factors, most = factors % CAP, factors // CAP
        self.most: Ints | None = np.where(most, most, np.iinfo(np.int64).max) if most.any() else None

    def __call__(self, at: Values) -> Values:
        """The values at the points `at [.., unknowns]`, of their type."""
        one = np.ones((*at.shape[:-1], 1), at.dtype)
        points = np.concatenate([at, one], -1)
        terms = np.ones((*at.shape[:-1], len(self.coefficients)), at.dtype)
        for i, unknowns in enumerate(self.factors):
            taken = points.take(unknowns, -1)
            terms *= taken if self.most is None else np.minimum(taken, self.most[i].astype(at.dtype))
        values: Values = terms @ self.coefficients
        return values
