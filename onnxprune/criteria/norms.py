"""Magnitude: norms of a channel's weights.

Why the default reduce is `sides`, the geometric mean of what produces, what consumes and what scales a channel: with
white inputs, removing channel c changes its consumers' results by ||w_out[c]||^2 * ||w_in[c]||^2 in expectation. A
channel that nobody reads (zero columns in the consumers) or that nothing feeds (zero filter) contributes nothing, at
most a constant that the consumers' biases can take over, and scores exactly 0: below every live channel. A sum ranks a
large random filter high though nobody reads it. `reduce="joint"` is what Torch-Pruning does, `"first"` the filter
alone, as in the papers. Biases and running statistics take no part: they are constants, not signals.
"""

from collections.abc import Iterator

import numpy as np

from onnxprune.criteria.registry import Array, Rows, Scores, criterion
from onnxprune.errors import OnnxPruneError

WEIGHTS = ("out", "in", "scale")
_CHUNK_ENTRIES = 1 << 22


@criterion("l0", roles=WEIGHTS)
def l0(rows: Rows) -> Scores:
    """s_c = |{i : w_ci != 0}|

    The count of non-zeros, for weights that are already sparse. Roles out, in, scale; see this module for `sides`.
    Source: Hoefler et al. 2021, Sparsity in Deep Learning, arXiv 2102.00554 (the L0 "norm")
    """
    s = np.zeros(rows.n)
    for block in rows.blocks:
        for part in _row_chunks(block):
            s[part] += np.count_nonzero(block[part], axis=1)
    return s


@criterion("l1", roles=WEIGHTS)
def l1(rows: Rows) -> Scores:
    """s_c = sum_i |w_ci|

    Roles out, in, scale; default reduce `sides`: a channel that is dead on either side scores 0. See this module.
    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710, sec. 3.1
    """
    return norm(rows, 1.0)


@criterion("l2", roles=WEIGHTS)
def l2(rows: Rows) -> Scores:
    """s_c = sqrt(sum_i w_ci^2)

    Roles out, in, scale; default reduce `sides`: a channel that is dead on either side scores 0. See this module.
    Source: He et al. 2018, Soft Filter Pruning, arXiv 1808.06866, sec. 3 (P = 2)
    """
    return norm(rows, 2.0)


@criterion("linf", roles=WEIGHTS)
def linf(rows: Rows) -> Scores:
    """s_c = max_i |w_ci|

    Roles out, in, scale; default reduce `sides`: a channel that is dead on either side scores 0. See this module.
    Source: He et al. 2018, Soft Filter Pruning, arXiv 1808.06866, sec. 3 (P to infinity)
    """
    s = np.zeros(rows.n)
    for block in rows.blocks:
        np.maximum(s, np.maximum(block.max(axis=1), -block.min(axis=1)), out=s)
    return s


@criterion("lp:P", roles=WEIGHTS, short=r"l(\d+(?:\.\d+)?)")
def lp(rows: Rows) -> Scores:
    """s_c = (sum_i |w_ci|^P)^(1/P), written lp:P or lP: lp:3, l3, l0.5

    Any P >= 0.1 (a quasi-norm below 1). Roles and reduce as for l2.
    Source: He et al. 2018, Soft Filter Pruning, arXiv 1808.06866, sec. 3
    """
    if rows.p < 0.1:
        raise OnnxPruneError(f"criterion 'lp:{rows.p:g}': P below 0.1 overflows in the root 1/P; use l0 instead")
    return norm(rows, rows.p)


def norm(rows: Rows, p: float) -> Scores:
    """The Lp norm of each row, [n]; relative to the row's largest entry, so that no power over- or underflows."""
    if p == 2.0 and all(b.dtype.itemsize <= 4 for b in rows.blocks):  # squares of float32 fit float64
        squares = [np.einsum("ij,ij->i", b, b, dtype=np.float64, casting="safe") for b in rows.blocks]
        return np.asarray(np.sqrt(np.add.reduce(squares)))
    top = linf(rows)
    inverse = np.where(top > 0, top, 1.0)
    total = np.zeros(rows.n)
    for block in rows.blocks:
        for part in _row_chunks(block):
            total[part] += _power(np.abs(block[part].astype(np.float64)) / inverse[part, None], p).sum(axis=1)
    return top * total ** (1.0 / p)


def _power(a: Scores, p: float) -> Scores:
    if p == 1.0:
        return a
    return a * a if p == 2.0 else a**p


def _row_chunks(block: Array) -> Iterator[slice]:
    step = max(1, _CHUNK_ENTRIES // block.shape[1])
    return (slice(start, start + step) for start in range(0, block.shape[0], step))
