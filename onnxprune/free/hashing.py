"""Weights that are nearly equal become equal.

The density of a layer's weights has peaks, where many weights lie close together. Between two valleys all weights take the
value of the peak.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnxprune.graph.weights import Array

POINTS = 1 << 14  # of the grid on which the density is computed, at the most
PER_WIDTH = 8  # points of the grid for each bandwidth
TAIL = 4  # bandwidths beyond which a Gaussian is nothing


def hash_array(array: Array, bandwidth: float) -> Array:
    """The same array with each weight at the peak of the density that is uphill of it; zeros stay zeros, sizes stay sizes.

    Args:
        array: the weights of one layer, any shape, floats. Arrays with values that are not finite, or that are all the same,
            stay as they are.
        bandwidth: of the Gaussian kernel, in standard deviations of the weights; above 0.

    Source: Yvinec et al. 2021, RED, arXiv 2105.14797; the density is that of a grid of 8 points for a bandwidth.
    """
    wide = array.astype(np.float64)
    spread = float(wide.std()) if np.isfinite(wide).all() else 0.0
    if not spread > 0:
        return array
    low, high, width = wide.min(), wide.max(), bandwidth * spread
    points = int(np.clip(np.ceil((high - low) / width * PER_WIDTH), 2, POINTS))
    step = (high - low) / points
    at = np.minimum(((wide - low) / step).astype(np.int64), points - 1)
    density = _smooth(np.bincount(at.ravel(), minlength=points).astype(np.float64), width / step)
    peaks = _peaks(density)
    valleys = np.array([a + int(density[a:b].argmin()) for a, b in pairwise(peaks)], np.int64)
    values = low + (peaks + 0.5) * step
    hashed = values[np.searchsorted(valleys, at, side="right")]
    return np.where(wide == 0, 0.0, hashed).astype(array.dtype)


def _smooth(counts: Array, width: float) -> Array:
    """The counts convolved with a Gaussian of a standard deviation of `width` points."""
    reach = max(1, int(np.ceil(TAIL * width)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-9)) ** 2)
    smooth: Array = np.convolve(counts, kernel)[reach : reach + len(counts)]
    return smooth


def _peaks(density: Array) -> Array:
    """Where the density is larger than before and not smaller than behind."""
    before = np.concatenate([[-np.inf], density[:-1]])
    behind = np.concatenate([density[1:], [-np.inf]])
    return np.flatnonzero((density > before) & (density >= behind))
