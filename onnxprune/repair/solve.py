"""Damped least squares on rows: min |T - (others + shift + scale (X W + b))|^2 + damping |W - W0|^2, behind an activation.

Products are float32, sums of them and the solution float64. Groups come first: X [g, n, K], W [g, K, O], b [g, O], T [g, n, O].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.cholesky import Cholesky
from onnxprune.repair.support import Choose, Nearest, fit_on, settle
from onnxprune.repair.tails import Tail

BLOCK_ROWS = 1 << 14
STEPS = 3  # more of them fit the layers better, and the network's outputs no better
MOMENTUM = 0.7
SCORE_STEPS, SCORE_WORK = 60, 1 << 37  # steps for scores of tokens, and multiply-adds that those may take
DAMPINGS = 1e-4 * 6.0 ** np.arange(7)  # relative to the mean of the Gram matrix's diagonal
SLACK = 0.03  # the least damping whose error there is within so much of the least
STRIDE = 2  # only one of two dampings is tried at first
BLOCKS, HELD = 32, 4  # of the rows, in so many blocks, every fourth block is held back while a damping is chosen
JUDGED_ROWS = 1 << 11  # of those held back, for the old and the new weights of an output to be compared by them alone
ROUNDING = 1e-6  # a relative error of an output that is none
NO_EFFECT = 1e-8  # a scale below which an output is taken to be dead


@dataclass
class FitRows:
    """The inputs of a layer, x [g, n, K], and its targets, each [g, n, O]. `solve` changes them.

    `damping` is a guess at what is best, relative to the mean of the Gram matrix's diagonal, and taken as it is where it `is_sure`;
    `steps` are those that an activation behind the layer gets, `precision` is that of the systems to solve.
    """

    x: Array
    target: Array
    others: Array | None
    damping: float = 0.0
    is_sure: bool = False
    steps: int = STEPS
    precision: type[np.floating[Any]] = np.float64


@dataclass
class Solution:
    """Weights [g, K, O] and bias [g, O], and the share of the output (before and after) that is wrong: |error| / |output|."""

    w: Array
    b: Array | None
    before: float
    after: float
    damping: float = 0.0  # relative to the mean of the Gram matrix's diagonal
    condition: float = 1.0  # of the damped Gram matrix, in the 1-norm


def multiply_rows(x: Array, y: Array) -> Array:
    """x' y, [g, K, O], in float64 sums of float32 blocks; x' x, where both are the same, costs half."""
    out = np.zeros((x.shape[0], x.shape[2], y.shape[2]))
    for at in range(0, x.shape[1], BLOCK_ROWS):
        part = x[:, at : at + BLOCK_ROWS]
        out += part.transpose(0, 2, 1) @ (part if y is x else y[:, at : at + BLOCK_ROWS])
    return out


def _spread(gram: Array, inputs: int) -> Array:
    """The mean of the diagonal of x' x, [g, 1, 1], from that matrix or x x'; 1 where it is 0."""
    energy = np.trace(gram, axis1=1, axis2=2) / inputs
    return np.asarray(np.where(energy > 0, energy, 1.0)[:, None, None])


def _gram(x: Array) -> Array:
    """x' x, or x x' where there are fewer rows than inputs."""
    turned = np.ascontiguousarray(x.transpose(0, 2, 1)) if x.shape[1] < x.shape[2] else x
    return multiply_rows(turned, turned)


class Equations:
    """z = X W for many z, damped towards W0: what is solved for is how far W is from it.

    With fewer rows than inputs, the matrix to invert is of the rows. `gram` is from `_gram`; it is large, so it is not kept.
    """

    def __init__(self, x: Array, w0: Array, gram: Array) -> None:
        self.x, self.w0 = x, w0
        self.has_many = x.shape[1] >= x.shape[2]
        self.unit = _spread(gram, x.shape[2])  # of dampings
        self.start = gram @ w0 if self.has_many else x @ w0.astype(np.float32)

    def factorize(self, gram: Array, damping: float, precision: type[np.floating[Any]]) -> Cholesky | None:
        return _factorize(_damped(gram, damping * self.unit).astype(precision, copy=False))

    def subtract_start(self, z: Array, right: Array | None = None) -> Array:
        """The right side for `z`, of which x' z may be known."""
        if self.has_many:
            z = multiply_rows(self.x, z) if right is None else right
        return np.asarray(z - self.start)

    def solve(self, factor: Cholesky | None, right: Array) -> Array:
        """The weights; not finite where what is read is not."""
        if factor is None:
            return np.full_like(self.w0, np.nan)
        solution = factor.solve(right)
        if not self.has_many:
            solution = self.x.transpose(0, 2, 1) @ solution.astype(np.float32, copy=False)
        return np.asarray(self.w0 + solution)


class Ridge:
    """The weights for many z, with one damping."""

    def __init__(
        self,
        x: Array,
        w0: Array,
        damping: float,
        gram: Array | None = None,
        precision: type[np.floating[Any]] = np.float64,
    ) -> None:
        gram = _gram(x) if gram is None else gram
        self.equations, self.damping = Equations(x, w0, gram), damping
        self.d = damping * self.equations.unit
        self.factor = self.equations.factorize(gram, damping, precision)
        self.condition = float(self.factor.estimate_condition().max()) if self.factor else math.nan

    def fit(self, z: Array, right: Array | None = None) -> Array:
        """The weights for `z`, of which x' z may be known; not finite where what is read is not."""
        return self.equations.solve(self.factor, self.equations.subtract_start(z, right))


class Sparse:
    """The same where some weights are to be zero; which, is chosen here, from the weights `w` that could be anything."""

    def __init__(self, x: Array, w: Array, damping: float, choose: Choose) -> None:
        self.x, self.gram = x, multiply_rows(x, x)
        self.d = damping * _spread(self.gram, x.shape[2])
        self.gram += self.d * np.eye(self.gram.shape[1])
        self.keep, self.w = choose(self.gram, w)

    def fit(self, z: Array, right: Array | None = None) -> Array:
        right = multiply_rows(self.x, z) if right is None else right
        return fit_on(self.keep, self.gram, right + self.d * self.w, self.w)


def make_ridges(x: Array, z: Array, w0: Array, gram: Array, right: Array | None = None) -> Callable[[float], Array]:
    """The solution of `Ridge` for one z as a function of the damping, in float32; `gram` is from `_gram`, `right` is x' z."""
    equations = Equations(x, w0, gram)
    right = equations.subtract_start(z, right)
    return lambda damping: equations.solve(equations.factorize(gram, damping, np.float32), right)


def _factorize(matrix: Array) -> Cholesky | None:
    """None where it is not finite, or to rounding not positive."""
    try:
        return Cholesky(matrix) if np.isfinite(matrix).all() else None
    except np.linalg.LinAlgError:
        return None


def _damped(gram: Array, d: Array) -> Array:
    """The matrix with d [g, 1, 1] added to its diagonal."""
    out = gram.copy()
    np.einsum("gkk->gk", out)[...] += d[:, :, 0]
    return out


class CenteredRows:
    """The rows with their means taken out, where there is a bias to hold them, and what `Tail` does to a layer's output."""

    def __init__(self, rows: FitRows, w0: Array, b0: Array | None, tail: Tail) -> None:
        groups, _, outputs = w0.shape
        self.x, self.target, self.tail, self.has_bias = rows.x, rows.target, tail, b0 is not None
        self.steps, self.precision = rows.steps, rows.precision
        self.mean = rows.x.mean(axis=1, keepdims=True, dtype=np.float64) * self.has_bias
        self.x -= self.mean.astype(np.float32)
        self.b0 = b0
        self.start(w0)
        self.held_out = np.arange(self.x.shape[1]) * BLOCKS // self.x.shape[1] % HELD == HELD - 1
        self.right: Array | None = None  # x' z of the target, where it was made
        scale, shift = (np.reshape(v, (groups, 1, outputs)) for v in (tail.scale, tail.shift))
        self.fixed = (shift if rows.others is None else rows.others + shift).astype(np.float32)
        self.alive = np.abs(scale) > NO_EFFECT
        self.scale = scale
        self.undo = np.where(self.alive, 1 / np.where(self.alive, scale, 1), 0).astype(np.float32)

    def start(self, w0: Array) -> None:
        """Take these weights, and the bias that there is, for what the layer has."""
        self.w0, self.c0 = w0, (0 if self.b0 is None else self.b0[:, None]) + self.mean @ w0

    def linearize_target(self, target: Array) -> tuple[Array, Array]:
        """The target of the layer itself, without its mean; and the mean [g, 1, O]."""
        z = (target - self.fixed) * self.undo
        c = z.mean(axis=1, keepdims=True, dtype=np.float64) * self.has_bias
        return z - c.astype(np.float32), c

    def choose_ridge(self, guess: float = 0.0) -> Ridge:
        """Least squares with the damping that is best on blocks of rows that were not fitted; neighbors are often of one sample."""
        held_out = self.held_out
        if not held_out.any() or not np.isfinite(self.mean).all():
            return self.damped_by(float(DAMPINGS[-1]))
        (z, c), x, rest = self.linearize_target(self.target), self.x[:, ~held_out], self.x[:, held_out]
        gram, many = _gram(x), x.shape[1] >= x.shape[2]
        right = multiply_rows(x, z[:, ~held_out]) if many else None
        find, fixed = make_ridges(x, z[:, ~held_out], self.w0, gram, right), self._fixed(held_out)
        want = self.tail.act(self.target[:, held_out])

        def measure(damping: float) -> float:
            outputs = self._make(rest, fixed, find(damping), c)
            error = float(np.square(self.tail.act(outputs) - want, dtype=np.float64).sum())
            return error if np.isfinite(error) else np.inf

        damping = choose_damping(measure, guess)
        if right is None:
            return self.damped_by(damping)
        self.right = right + multiply_rows(rest, z[:, held_out])
        return self.damped_by(damping, gram + multiply_rows(rest, rest))

    def damped_by(self, damping: float, gram: Array | None = None) -> Ridge:
        """Least squares with a damping that is known."""
        return Ridge(self.x, self.w0, damping, gram, self.precision)

    def _fixed(self, rows: Array | slice) -> Array:
        """The values added to some rows, or to all of them."""
        return self.fixed if self.fixed.shape[1] == 1 else self.fixed[:, rows]

    def compute_outputs(self, w: Array, c: Array) -> Array:
        """The network's values before the activation, with these weights."""
        return self._make(self.x, self.fixed, w, c)

    def _make(self, x: Array, fixed: Array, w: Array, c: Array) -> Array:
        out = x @ (w * self.scale).astype(np.float32)
        out += fixed
        out += (c * self.scale).astype(np.float32)
        return np.asarray(out)

    def choose_weights(self, w: Array, c: Array, damping: float = 0.0, condition: float = 1.0) -> Solution:
        """For each output the weights it had, or these, whichever are closer to the target behind the activation."""
        rows = self.held_out if self.held_out.sum() >= JUDGED_ROWS else slice(None)
        x, fixed, want = self.x[:, rows], self._fixed(rows), self.tail.act(self.target[:, rows])
        energy = float(np.square(want, dtype=np.float64).sum()) or 1.0
        before, after = (
            np.square(self.tail.act(self._make(x, fixed, *of)) - want, dtype=np.float64).sum(axis=1, keepdims=True)
            for of in ((self.w0, self.c0), (w, c))
        )
        wrong = before > ROUNDING**2 * np.square(want, dtype=np.float64).sum(axis=1, keepdims=True)
        better = (after < before) & wrong & self.alive  # False where any is not finite
        if self.tail.scored:  # one softmax of all outputs: all of them or none
            better = np.full_like(better, bool(after.sum() < before.sum()))
        w, c = np.where(better, w, self.w0), np.where(better, c, self.c0)
        b = (c - self.mean @ w)[:, 0] if self.has_bias else None
        errors = [float(e.sum() / energy) ** 0.5 for e in (before, np.where(better, after, before))]
        return Solution(w, b, errors[0], errors[1], damping, condition)


def choose_damping(measure: Callable[[float], float], guess: float = 0.0) -> float:
    """The least damping whose error is within SLACK of the least, by every other one, and the one below that.

    They are tried from the one next to a guess on, downwards and upwards until the error has risen.
    """
    errors = np.full(len(DAMPINGS), np.inf)
    start = int(np.searchsorted(DAMPINGS[:-1], guess * (1 - SLACK))) // STRIDE * STRIDE
    for some in (range(start, -1, -STRIDE), range(start + STRIDE, len(DAMPINGS), STRIDE)):
        for i in some:
            errors[i] = measure(float(DAMPINGS[i]))
            if errors[i] > (1 + SLACK) * errors.min():
                break
    enough = (1 + SLACK) * errors.min()
    best = int(np.argmax(errors <= enough))
    if best > 0 and measure(float(DAMPINGS[best - 1])) <= enough:
        best -= 1
    return float(DAMPINGS[best])


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def solve(
    rows: FitRows, w0: Array, b0: Array | None, tail: Tail, choose: Choose | None = None, nearest: Nearest | None = None
) -> Solution:
    """The weights for these rows; with `choose`, those among them that may stay; with `nearest`, as they can be stored.

    Where an activation follows, only what it lets through is fitted, in a few steps of majorisation: a target that it cuts off
    may be anything on the far side of the cut, so it becomes what the layer makes already, if that is there. Scores of tokens
    are fitted to the tokens' probabilities, KL(original || repaired), by more such steps: the Hessian by the scores is at most
    1/2 (Böhning 1992, Multinomial logistic regression algorithm, eq. 3), so each step is least squares again. A
    classifier of images keeps to least squares: on a ResNet-20 its probabilities were fitted no better (one run each).
    """
    f = CenteredRows(rows, w0, b0, tail)
    ridge = f.damped_by(rows.damping) if rows.is_sure else f.choose_ridge(rows.damping)
    w, c = _stepped(f, ridge)
    if choose is not None:
        sparse = Sparse(f.x, w, ridge.damping, choose)
        f.start(sparse.w)
        w, c = _stepped(f, sparse)
    if nearest is not None:
        w = settle(multiply_rows(f.x, f.x) + ridge.d * np.eye(f.x.shape[2]), w, nearest)
    return f.choose_weights(w, c, ridge.damping, ridge.condition)


def _stepped(f: CenteredRows, ridge: Ridge | Sparse) -> tuple[Array, Array]:
    """Least squares, then the steps of majorisation that what follows the layer asks for."""

    def fit(target: Array, right: Array | None = None) -> tuple[Array, Array]:
        z, c = f.linearize_target(target)
        return ridge.fit(z, right), c

    (w, c) = last = fit(f.target, f.right)
    for at in range(_steps(f, f.tail)):
        momentum = at / (at + 3) if f.tail.scored else MOMENTUM
        p = f.compute_outputs(*(new + momentum * (new - old) for new, old in zip((w, c), last, strict=True)))
        (w, c), last = fit(_wanted(f.target, p, f.tail)), (w, c)
    return w, c


def _steps(f: CenteredRows, tail: Tail) -> int:
    if tail.scored:
        work = 2 * f.x.size * f.target.shape[2]  # of one step
        return int(min(SCORE_STEPS, SCORE_WORK // work))
    return f.steps if tail.cuts else 0


def _wanted(target: Array, outputs: Array, tail: Tail) -> Array:
    """The next target of the fit, given the current `outputs` of the layer."""
    if tail.scored:
        return np.asarray(outputs + 2 * (softmax(target) - softmax(outputs)))
    z = np.where(target <= tail.low, np.minimum(outputs, tail.low), target)
    return np.where(target >= tail.high, np.maximum(outputs, tail.high), z)


def compute_moments(
    rows: FitRows, w0: Array, b0: Array | None, tail: Tail, choose: Choose | None, nearest: Nearest | None, spread: bool
) -> Solution:
    """No new directions: each output keeps its weights, and gets the mean (and with `spread` the deviation) it should have.

    Without a bias there is no mean to set, and the deviation is taken about zero.
    """
    f = CenteredRows(rows, w0, b0, tail)
    if choose is not None:
        w0 = Sparse(f.x, w0, DAMPINGS[-1], choose).w
        f.start(w0)
    want, c = f.linearize_target(f.target)
    factor = np.ones_like(c)
    if spread:
        sizes = [np.sqrt(np.square(v, dtype=np.float64).mean(axis=1, keepdims=True)) for v in (want, f.x @ w0)]
        factor = np.where(sizes[1] > 1e-6 * sizes[0], sizes[0] / np.maximum(sizes[1], 1e-30), 1.0)
    return f.choose_weights(_stored(w0 * factor, nearest), c)


def _stored(w: Array, nearest: Nearest | None) -> Array:
    return w if nearest is None else nearest(w)


def fit_chosen(
    rows: FitRows, w0: Array, b0: Array | None, tail: Tail, choose: Choose | None = None, nearest: Nearest | None = None
) -> Solution:
    """Only the weights that stay, as they are chosen; the error is that of what the layer itself makes."""
    assert choose is not None  # the caller has no such layers otherwise
    x = rows.x
    w = _stored(Sparse(x, w0, DAMPINGS[-1], choose).w, nearest)
    change, energy = ((x @ v).astype(np.float64) for v in (w - w0, w0))
    error = float(np.sqrt(np.square(change).sum() / (np.square(energy).sum() or 1.0)))
    return Solution(w, b0, error, error)


Fit = Callable[[FitRows, Array, "Array | None", Tail, "Choose | None", "Nearest | None"], Solution]
FITS: dict[str, Fit] = {
    "bias": partial(compute_moments, spread=False),
    "affine": partial(compute_moments, spread=True),
    "lstsq": solve,
    "obs": solve,
}
