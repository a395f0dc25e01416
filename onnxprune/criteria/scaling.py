"""Make the scores of different groups comparable, for one ranking over the whole model."""

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.criteria.registry import Array, Scores
from onnxprune.errors import OnnxPruneError


def _unit(s: Scores) -> Scores:
    """s / max|s|: what follows neither overflows nor underflows; zeros stay zeros."""
    top = np.abs(s).max()
    return s / top if top > 0 else s


def _none(s: Scores) -> Scores:
    return s.copy()


def _mean(s: Scores) -> Scores:
    u = _unit(s)
    return u / (np.abs(u).mean() or 1.0)


def _max(s: Scores) -> Scores:
    return _unit(s)


def _sum(s: Scores) -> Scores:
    u = _unit(s)
    return u / (np.abs(u).sum() or 1.0)


def _standardize(s: Scores) -> Scores:
    # a constant's computed deviation may be a rounding error above 0
    if s.min() == s.max():
        return np.zeros_like(s)
    u = _unit(s)
    standard: Scores = (u - u.mean()) / u.std()
    return standard


def _lamp(s: Scores) -> Scores:
    if s.min() < 0:
        raise OnnxPruneError(f"lamp needs scores of at least 0, found {s.min():g}; use standardize")
    u = np.sort(_unit(s))
    tails = np.cumsum((u * u)[::-1])[::-1]
    sums = tails[np.searchsorted(u, _unit(s), side="left")]
    return np.divide(_unit(s) ** 2, sums, out=np.zeros_like(s), where=sums > 0)


_NORMALIZERS: dict[str, Callable[[Scores], Scores]] = {
    "none": _none,
    "mean": _mean,
    "max": _max,
    "sum": _sum,
    "standardize": _standardize,
    "lamp": _lamp,
}

NORMALIZERS = tuple(_NORMALIZERS)
"""The names that `normalize` takes."""


def normalize(scores: Mapping[str, Array], method: str) -> dict[str, Scores]:
    """Rescale each group's scores [n]; the order within a group never changes, zero scores give no NaN.

    none         s_c
    mean         s_c / mean_j |s_j|                       (constant: 1)
    max          s_c / max_j |s_j|                        (constant: 1)
    sum          s_c / sum_j |s_j|                        (constant: 1/n)
    standardize  (s_c - mean(s)) / std(s)                 (constant: 0)
    lamp         s_c^2 / sum of s_j^2 over s_j >= s_c     (constant: 1/n)

    A group of zeros gives zeros. The largest score gets 1 under lamp if it is alone; equal scores share one value,
    where the paper breaks ties by position, so that no group depends on the order of its channels.
    Source: lamp: Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning, arXiv 2010.07611,
    with channels' scores for weights.

    Raises OnnxPruneError for an unknown `method`, scores that are not finite, and negative scores under lamp.
    """
    if method not in _NORMALIZERS:
        raise OnnxPruneError(f"unknown normalization '{method}'; choose one of {', '.join(NORMALIZERS)}")
    return {name: _apply(name, np.asarray(s, dtype=np.float64), _NORMALIZERS[method]) for name, s in scores.items()}


def _apply(name: str, s: Scores, rescale: Callable[[Scores], Scores]) -> Scores:
    if not np.isfinite(s).all():
        raise OnnxPruneError(f"group '{name}': NaN or infinite scores cannot be normalized")
    return rescale(s) if s.size else s.copy()
