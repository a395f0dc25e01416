"""Confidence bounds on a share, from the share of a sample."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
HALVINGS = 40


def compute_lower_bound(hits: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The least share of which `hits` or more of `of` independent draws are not too good to be true.

    Returns:
        p with P(X >= hits) = 1 - confidence for X binomial of p, one-sided; 0 without hits.
    Source: Clopper and Pearson 1934, The Use of Confidence or Fiducial Limits, Biometrika 26.
    """
    low, high = 0.0, hits / of
    more = np.arange(of, hits - 1, -1, dtype=np.float64)  # so many hits, of which each has `ways`
    ways = np.concatenate([[0.0], np.cumsum(np.log(more[:-1]) - np.log(of - more[:-1] + 1))])
    for _ in range(HALVINGS if hits else 0):
        middle = (low + high) / 2
        logs = ways + more * np.log(middle) + (of - more) * np.log1p(-middle)
        likely = np.exp(logs).sum() > 1 - confidence
        low, high = (low, middle) if likely else (middle, high)
    return low
