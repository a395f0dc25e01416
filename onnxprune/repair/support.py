"""Least squares where only some weights of a layer may be other than zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.repair.store import Array

# From the Gram matrix of what a layer reads [g, K, K] and its weights [g, K, O]: which of them stay, and what they become.
Choose = Callable[[Array, Array], tuple[Array, Array]]

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
