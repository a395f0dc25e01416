"""Polynomials with whole coefficients: sizes of axes and sums of products of them, before the unknowns are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Monomial = tuple[int, ...]  # the unknowns that are multiplied, sorted; one stands twice for its square
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


def _terms(x: Poly | int) -> Mapping[Monomial, int]:
    return x.terms if isinstance(x, Poly) else {(): x}


class Compiled:
    """A polynomial in `unknowns` unknowns as arrays, to be evaluated at many points."""

    def __init__(self, poly: Poly | int, unknowns: int) -> None:
        terms = _terms(poly)
        degree = max(map(len, terms), default=0)
        self.coefficients: Ints = np.array([*terms.values()], np.int64)
        padded = [m + (unknowns,) * (degree - len(m)) for m in terms]  # one more unknown, which is always 1
        self.factors: Ints = np.array(padded, np.int64).reshape(len(padded), degree)

    def __call__(self, at: Values) -> Values:
        """The values at the points `at [.., unknowns]`, of their type."""
        one = np.ones((*at.shape[:-1], 1), at.dtype)
        values: Values = np.concatenate([at, one], -1)[..., self.factors].prod(-1) @ self.coefficients
        return values
