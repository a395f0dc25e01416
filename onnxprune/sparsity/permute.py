"""Placeholder until the search is merged."""

import numpy as np


def best_order(scores, n, m, *, sizes=None, seed=0):
    return np.arange(scores[0].shape[1])


def kept(scores, n, m, order=None):
    return 0.0
