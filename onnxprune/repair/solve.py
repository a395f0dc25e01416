"""Damped least squares on rows: min |act(T) - act(others + shift + scale * X W)|^2 + damping |W - W0|^2.

Products are float32, sums of them and the solution float64. Groups come first: X [g, n, K], W [g, K, O], T [g, n, O].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxprune.repair.store import Array
from onnxprune.repair.tails import Tail

BLOCK_ROWS = 1 << 14
STEPS = 3  # more of them fit the layers better, and the network's outputs no better
MOMENTUM = 0.7
WORST = 1e13  # a condition number beyond which float64 leaves too few digits
LEAST = 1e-4  # damping, relative to the mean of the Gram matrix's diagonal
FEW_ROWS = 0.03  # and at least so many times the inputs a row


@dataclass
class Rows:
    """What a layer reads, x [g, n, K] (with a column of ones for a bias), and what there should be, each [g, n, O]."""

    x: Array
    target: Array
    others: Array | None


@dataclass
class Solution:
    """Weights [g, K, O], and the share of the output (before and after) that is wrong: |error| / |output|."""

    w: Array
    before: float
    after: float
    damping: float
    condition: float


def products(x: Array, y: Array) -> Array:
    """x' y, [g, K, O], in float64 sums of float32 blocks; x' x, where both are the same, costs half."""
    out = np.zeros((x.shape[0], x.shape[2], y.shape[2]))
    for at in range(0, x.shape[1], BLOCK_ROWS):
        part = x[:, at : at + BLOCK_ROWS]
        out += part.transpose(0, 2, 1) @ (part if y is x else y[:, at : at + BLOCK_ROWS])
    return out


def inverse(gram: Array, rows: int, bias: bool) -> tuple[Array, Array, float, float]:
    """(G + D)^-1, the damping D [g, K], how much of the mean diagonal that is, and the condition number.

    The column of ones is not damped. Damping grows until the matrix can be inverted to some digits.
    """
    count = gram.shape[-1] - bias
    diagonal = np.einsum("gkk->gk", gram)
    mean = diagonal[:, :count].mean(axis=1, keepdims=True)
    damping = max(LEAST, FEW_ROWS * count / rows)
    while True:
        d = np.repeat(damping * np.where(mean > 0, mean, 1.0), gram.shape[-1], axis=1)
        if bias:
            d[:, -1] = 1e-12 * rows
        full = gram + d[:, :, None] * np.eye(gram.shape[-1])
        found = np.linalg.inv(full)
        condition = float((np.abs(full).sum(axis=1).max(axis=1) * np.abs(found).sum(axis=1).max(axis=1)).max())
        if condition < WORST or damping >= 1:
            return found, d, damping, condition
        damping *= 10


def solve(rows: Rows, w0: Array, tail: Tail, bias: bool) -> Solution:
    """The weights for these rows; each output keeps `w0` [g, K, O] where that is the better."""
    scale, fixed, undo = _affine(rows, w0, tail)
    alive = undo != 0
    gram_inverse, d, damping, condition = inverse(products(rows.x, rows.x), rows.x.shape[1], bias)
    prior = d[:, :, None] * w0

    def fit(z: Array) -> Array:
        w = gram_inverse @ (products(rows.x, ((z - fixed) * undo).astype(np.float32)) + prior)
        return np.asarray(np.where(alive, w, w0))

    def made(w: Array) -> Array:
        return np.asarray(fixed.astype(np.float32) + rows.x @ (w * scale).astype(np.float32))

    w = last = fit(rows.target)
    for _ in range(STEPS if tail.cuts else 0):
        p = made(w + MOMENTUM * (w - last))
        z = np.where(rows.target <= tail.low, np.minimum(p, tail.low), rows.target)
        z = np.where(rows.target >= tail.high, np.maximum(p, tail.high), z)
        w, last = fit(z), w
    return _better(rows, tail, w0, w, made(w0), made(w), damping, condition)


def moments(rows: Rows, w0: Array, tail: Tail, bias: bool, spread: bool) -> Solution:
    """No new directions: each output keeps its weights, and gets the mean (and with `spread` the deviation) it should have.

    Without a bias there is no mean to set, and the deviation is taken about zero.
    """
    scale, fixed, undo = _affine(rows, w0, tail)
    want = (rows.target - fixed) * undo
    have = rows.x @ w0.astype(np.float32)
    middle = [np.mean(v, axis=1, keepdims=True, dtype=np.float64) * bias for v in (want, have)]
    factor = np.ones_like(middle[0])
    if spread:
        sizes = [
            np.sqrt(np.mean(np.square(v - m), axis=1, keepdims=True)) for v, m in zip((want, have), middle, strict=True)
        ]
        factor = np.where(sizes[1] > 1e-6 * sizes[0], sizes[0] / np.maximum(sizes[1], 1e-30), 1.0)
    w = w0 * np.where(undo != 0, factor, 1.0)
    if bias:
        w[:, -1:] += np.where(undo != 0, middle[0] - factor * middle[1], 0)
    made = [(fixed + scale * (rows.x @ v.astype(np.float32))).astype(np.float32) for v in (w0, w)]
    return _better(rows, tail, w0, w, made[0], made[1], 0.0, 1.0)


def _affine(rows: Rows, w0: Array, tail: Tail) -> tuple[Array, Array, Array]:
    """scale [g, 1, O], what is added to it [g, n or 1, O], and 1 / scale, 0 where an output has no effect."""
    groups, _, outputs = w0.shape
    scale, shift = (np.reshape(v, (groups, 1, outputs)) for v in (tail.scale, tail.shift))
    fixed = shift if rows.others is None else rows.others + shift.astype(np.float32)
    alive = np.abs(scale) > 1e-8
    return scale, fixed, np.where(alive, 1 / np.where(alive, scale, 1), 0)


def _better(
    rows: Rows, tail: Tail, w0: Array, w: Array, before: Array, after: Array, damping: float, condition: float
) -> Solution:
    want = tail.act(rows.target)
    energy = float(np.square(want, dtype=np.float64).sum()) or 1.0
    errors = [np.square(tail.act(p) - want, dtype=np.float64).sum(axis=1, keepdims=True) for p in (before, after)]
    better = errors[1] < errors[0]  # False where either is not finite
    best = np.where(better, w, w0)
    left = np.where(better, errors[1], errors[0])
    return Solution(best, (errors[0].sum() / energy) ** 0.5, (left.sum() / energy) ** 0.5, damping, condition)


Fit = Callable[[Rows, Array, Tail, bool], Solution]
FITS: dict[str, Fit] = {
    "bias": lambda rows, w0, tail, bias: moments(rows, w0, tail, bias, False),
    "affine": lambda rows, w0, tail, bias: moments(rows, w0, tail, bias, True),
    "lstsq": solve,
    "obs": solve,
}
