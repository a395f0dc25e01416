"""Least squares where only some weights of a layer may be other than zero, or only some numbers can be stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.calibration.array_store import Array

# From the Gram matrix of what a layer reads [g, K, K] and its weights [g, K, O]: which of them stay, and what they become.
Choose = Callable[[Array, Array], tuple[Array, Array]]
# The weights nearest to others that a file can hold, where it holds integers.
Nearest = Callable[[Array], Array]

SETTLES = 4  # rounds in which weights stop at the limits of what can be stored
ROUNDS = 200  # of conjugate gradients; ill-conditioned layers stop there
TOLERANCE = 1e-10  # of the squared residual, relative to where it began


def fit_on(keep: Array, gram: Array, rhs: Array, w: Array) -> Array:
    """For each output the w, zero where `keep` is False, that solves gram w = rhs on the rest; starting from `w`.

    gram [g, K, K], positive definite; keep, rhs, w [g, K, O]. Conjugate gradients for all outputs at once, each on its own
    support, preconditioned by the diagonal: products of whole matrices instead of a factorisation for each output.
    """
    w = w * keep
    scale = keep / np.maximum(np.diagonal(gram, axis1=1, axis2=2)[:, :, None], 1e-300)
    residual = (rhs - gram @ w) * keep
    step = z = residual * scale
    energy = np.einsum("gko,gko->go", residual, z)
    enough = TOLERANCE * energy
    for _ in range(ROUNDS):
        if not (energy > enough).any():
            break
        moved = (gram @ step) * keep
        curve = np.einsum("gko,gko->go", step, moved)
        ratio = np.where(curve > 0, energy / np.where(curve > 0, curve, 1), 0)[:, None]
        w = w + ratio * step
        residual = residual - ratio * moved
        z = residual * scale
        before, energy = energy, np.einsum("gko,gko->go", residual, z)
        step = z + np.where(before > 0, energy / np.where(before > 0, before, 1), 0)[:, None] * step
    return np.asarray(w)


def settle(gram: Array, w: Array, nearest: Nearest) -> Array:
    """Of the weights that can be stored, those that make nearly what `w` makes; what is zero stays zero.

    Weights beyond the limits stop there, and the rest is fitted again: min (v - w)' gram (v - w).
    """
    low, high = (nearest(np.full_like(w, limit)) for limit in (-np.inf, np.inf))
    new, free = w, w != 0
    for _ in range(SETTLES):
        beyond = free & ((new < low) | (new > high))
        if not beyond.any():
            break
        free &= ~beyond
        fixed = np.where(free, 0, np.clip(new, low, high))
        new = fixed + fit_on(free, gram, gram @ (w - fixed), new - fixed)
    return nearest(new)
