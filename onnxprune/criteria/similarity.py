"""Redundancy: a channel is unimportant when others of the group are like it.

These look at the producers (role out) alone, laid side by side where there are several: two channels are alike only
when every producer makes them alike. Both of two equal channels score low: removing both loses what they share.
"""

import numpy as np

from onnxprune.criteria.pairwise import (
    Transform,
    center_columns,
    clear_diagonal,
    iterate_chunks,
    iterate_gram_tiles,
    squares,
)
from onnxprune.criteria.registry import Rows, Scores, criterion

ROUNDING = 16 * float(np.finfo(np.float64).eps)


@criterion("fpgm", roles=("out",))
def fpgm(rows: Rows) -> Scores:
    """s_c = sum_j ||w_c - w_j||_2

    The channels nearest to the geometric median of their group are replaceable by the others.
    Distances come from inner products of centered rows: absolute error about 1e-8 of the largest norm.
    Source: He et al. 2019, Filter Pruning via Geometric Median, arXiv 1811.00250, sec. 3
    """
    s = np.zeros(rows.n)
    own = squares(rows, center_columns)
    for part, tile in iterate_gram_tiles(rows, center_columns):
        tile *= -2.0
        tile += own[part, None]
        tile += own
        clear_diagonal(part, tile)
        tile[tile < ROUNDING * (own[part, None] + own)] = 0.0  # equal rows, up to the rounding of their inner products
        s[part] = np.sqrt(tile, out=tile).sum(axis=1)
    return s


@criterion("cosine", roles=("out",))
def cosine(rows: Rows) -> Scores:
    """s_c = 1 - max_{j != c} |cos(w_c, w_j)|

    The maximum, as one near copy suffices to stand in for a channel; a mean over n channels hides it as n grows.
    A zero row is 0 times any other and scores 0; a lone channel scores 1.
    Source: Ayinde, Inanc and Zurada 2019, Redundant feature pruning, doi 10.1016/j.neunet.2019.04.021
    """
    return _unlikeness(rows, lambda chunk: chunk)


@criterion("pearson", roles=("out",))
def pearson(rows: Rows) -> Scores:
    """s_c = 1 - max_{j != c} |corr(w_c, w_j)|, corr = cosine of the rows less their means

    The maximum, as the paper drops one of each most correlated pair. A constant row correlates with none and
    scores 1, unless it is zero: then 0, as for cosine. Rows of one entry have no correlation at all: use cosine.
    Source: Singh et al. 2020, Leveraging Filter Correlations, arXiv 1811.10559, sec. 3
    """
    width = sum(block.shape[1] for block in rows.blocks)
    means = sum((c.sum(axis=1) for c in iterate_chunks(rows, lambda chunk: chunk)), np.zeros(rows.n)) / width
    return _unlikeness(rows, lambda chunk: np.subtract(chunk, means[:, None]))


def _unlikeness(rows: Rows, transform: Transform) -> Scores:
    """1 - max |cosine| of the transformed rows; 0 for rows that were zero before."""
    s = np.zeros(rows.n)
    raw = np.sqrt(squares(rows, lambda chunk: chunk))
    own = np.sqrt(squares(rows, transform))
    # what is left of a constant row after centring is rounding: it has no direction
    inverse = np.divide(1.0, own, out=np.zeros(rows.n), where=own > 1e-10 * raw)
    for part, tile in iterate_gram_tiles(rows, transform):
        np.abs(tile, out=tile)
        tile *= inverse[part, None]
        tile *= inverse
        clear_diagonal(part, tile)
        s[part] = 1.0 - np.minimum(tile.max(axis=1), 1.0)
    return np.where(raw > 0, s, 0.0)
