"""Reductions of a graph's output rows over the batches: their mean, their maximum, or all rows."""

from __future__ import annotations

import numpy as np

from onnxprune.graph.weights import Array

NODES = 160  # of a quadrature


class Mean:
    """The mean of the rows, in float64. Results are asked for once."""

    def __init__(self) -> None:
        self.sum: Array | float = 0.0
        self.rows = 0

    def add(self, x: Array) -> None:
        self.sum = self.sum + x.sum(axis=0, dtype=np.float64)
        self.rows += len(x)

    def result(self) -> Array:
        return np.asarray(self.sum / max(self.rows, 1))


class Summed(Mean):
    """The mean of rows whose sum comes out of the graph, with their number below it. It is large, so it is never copied."""

    def add(self, x: Array) -> None:
        if isinstance(self.sum, float):
            self.sum = np.zeros_like(x[:-1], np.float64)
        self.sum += x[:-1]
        self.rows += round(float(x[-1, 0]))

    def result(self) -> Array:
        total = np.asarray(self.sum)
        total /= max(self.rows, 1)
        return total


class Zeros(Mean):
    """The complement to 1."""

    def result(self) -> Array:
        return 1.0 - super().result()


class Greatest:
    """The largest of the rows."""

    def __init__(self) -> None:
        self.so_far: Array | float = -np.inf

    def add(self, x: Array) -> None:
        self.so_far = np.maximum(self.so_far, x.max(axis=0, initial=-np.inf))

    def result(self) -> Array:
        return np.asarray(self.so_far, np.float64)


class Least(Greatest):
    """The smallest of the rows."""

    def add(self, x: Array) -> None:
        super().add(-x)

    def result(self) -> Array:
        return -super().result()


class AllRows:
    """The rows themselves, [samples, n]."""

    def __init__(self) -> None:
        self.parts: list[Array] = []

    def add(self, x: Array) -> None:
        self.parts.append(x)

    def result(self) -> Array:
        return np.concatenate(self.parts)


class Rank(Mean):
    """The rank of each feature map [N, n, H, W], in the mean."""

    def add(self, x: Array) -> None:
        super().add(np.linalg.matrix_rank(x))


class Independence(Mean):
    """The decrease of the nuclear norm of [n, positions] when a row is removed, averaged over the samples."""

    def add(self, x: Array) -> None:
        super().add(np.stack([nuclear_fall(sample.astype(np.float64)) for sample in x]))


def nuclear_fall(a: Array) -> Array:
    """|A|_* - |A without row c|_* for each row c of A [n, m], in O(n^2) a row.

    With A A^T = U diag(d) U^T, removing row c is a rank-one downdate, and the sum of the roots of d falls by
    1/pi int sqrt(t) phi'(t) / phi(t) dt, phi(t) = sum_i U_ci^2 t / (d_i + t), by the trapezoidal rule in log t.
    """
    d, u = np.linalg.eigh(a @ a.T)
    top = d[-1]
    if top <= 0.0:
        return np.zeros(len(a))
    d = np.where(d > 1e-14 * top, d / top, 0.0)[:, None]
    log_t = np.linspace(np.log(1e-20), np.log(1e14), NODES)
    t, weight = np.exp(log_t), u * u
    phi, slope = weight @ (t / (d + t)), weight @ (d * t / (d + t) ** 2)  # phi, and t phi'
    fall = (np.sqrt(t) * slope / np.maximum(phi, 1e-300)).sum(axis=1)
    return np.asarray(fall * (log_t[1] - log_t[0]) * np.sqrt(top) / np.pi)
