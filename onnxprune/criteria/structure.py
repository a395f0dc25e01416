"""The structure of a group's filters as a whole: which stand for others, which hold its energy, which share information.

These look at the producers (role out) alone, side by side, as the criteria of `similarity.py` do.
"""

from collections.abc import Iterator

import numpy as np

from onnxprune.criteria.pairwise import center_columns, iterate_gram_tiles, squares
from onnxprune.criteria.registry import Array, Rows, Scores, criterion

ENERGY = 0.95  # of the centered filters, that the leading components hold
ROUNDING = 1e-12  # of the squared norms, that centering leaves of equal filters
ALIKE = 1e-7  # of the largest distance, within which two distances are the same
ROUNDS = 100  # of k-means, at the most: it converges in far fewer
MOST_ENTRIES = 1024  # of each filter that histograms look at
BINS = 8
NEAR = 1.0  # between filters of length 1 that are joined: an angle of 60 degrees
CELLS = 1 << 22  # of joint histograms at a time


@criterion("kmeans", roles=("out",))
def kmeans(rows: Rows) -> Scores:
    """s_c = the halvings that c survives + 1 / (1 + d_c / mean d), d_c the distance to its center in the last one

    A halving parts n channels into ceil(n / 2) clusters and keeps the one nearest to each center; the next one parts
    those. So half of the channels, a quarter, .. are those that k-means chooses, whatever the ratio. Centers start at
    the channel farthest from the mean, then always the one farthest from all centers: no seed.
    Source: Li, Xu and Zhu 2018, Filter Level Pruning Based on Similar Feature Extraction, IEICE Trans. Inf. Syst. E101-D(4)
    """
    gram, norms = gram_of_centered(rows), squares(rows, lambda chunk: chunk)
    scores, left = np.zeros(rows.n), np.arange(rows.n)
    for survived in range(rows.n):
        if len(left) < 2 or not gram.any():
            break
        nearest, distances = _halve(gram[np.ix_(left, left)], norms[left])
        scores[left] = survived + 1 / (1 + distances / (distances.mean() or 1.0))
        scores[left[nearest]] += 1.0
        left = left[np.sort(nearest)]
    return scores


def _halve(gram: Scores, norms: Scores) -> tuple[Array, Scores]:
    """The channel nearest to each of half as many centers, and each channel's distance to its own center.

    Both channels of a pair are equally near: the one of the larger norm is chosen.
    """
    count = -(-len(gram) // 2)
    own = np.diag(gram)
    cluster = _start(gram, count)
    for _ in range(ROUNDS):
        moved = _to_centers(gram, own, cluster, count).argmin(axis=1)
        if np.array_equal(moved, cluster):
            break
        cluster = moved
    squared = _to_centers(gram, own, cluster, count)[np.arange(len(gram)), cluster]
    squared[squared < ROUNDING * own.max()] = 0.0
    distances = np.sqrt(squared)
    nearest = []
    for members in _members(cluster, count):
        near = members[distances[members] <= distances[members].min() + ALIKE * distances.max()]
        nearest.append(near[norms[near].argmax()])
    return np.array(nearest), distances


def _members(cluster: Array, count: int) -> Iterator[Array]:
    """The members of each cluster that has any."""
    parts = (np.flatnonzero(cluster == k) for k in range(count))
    return (members for members in parts if len(members))


def _start(gram: Scores, count: int) -> Array:
    """Clusters around channels that are far from each other."""
    own = np.diag(gram)
    chosen = [int(own.argmax())]
    distances = own + own[chosen[0]] - 2 * gram[chosen[0]]
    while len(chosen) < count:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, own + own[chosen[-1]] - 2 * gram[chosen[-1]])
    return np.asarray((own[chosen] - 2 * gram[:, chosen]).argmin(axis=1))


def _to_centers(gram: Scores, own: Scores, cluster: Array, count: int) -> Scores:
    """Squared distances [n, count] to the means of the clusters, from inner products alone; of empty ones infinity."""
    share = np.zeros((len(gram), count))
    share[np.arange(len(gram)), cluster] = 1.0
    sizes = share.sum(axis=0)
    share /= np.maximum(sizes, 1.0)
    products = gram @ share
    squared: Scores = own[:, None] - 2 * products + (share * products).sum(axis=0)
    squared[:, sizes == 0] = np.inf
    return squared


@criterion("pca", roles=("out",))
def pca(rows: Rows) -> Scores:
    """s_c = sqrt(sum_i<=r l_i u_ci^2), l_i, u_i the eigenvalues and vectors of the Gram matrix of the filters less their mean

    What the filter adds to the energy in the r principal components that hold 95 % of it; the squares of the scores
    sum up to that energy.
    Source: Levin, Leen and Moody 1993, Fast Pruning Using Principal Components (NIPS 6); Garg et al. 2020, arXiv 1812.06224
    """
    values, vectors = np.linalg.eigh(gram_of_centered(rows))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    total = np.cumsum(values)
    rank = int(np.searchsorted(total, ENERGY * total[-1])) + 1
    return np.asarray(np.sqrt((vectors[:, :rank] ** 2) @ values[:rank]))


@criterion("kernel_info", roles=("out",))
def kernel_info(rows: Rows) -> Scores:
    """s_c = H(w_c) - max_{j != c} I(w_c; w_j), H and I of histograms of the filters' weights

    In nats: what no single other filter says of it. The bins, square root of the entries of them but at most 8, are
    equally wide between a filter's least and largest weight. Of wide filters 1,024 entries count, equally spaced.
    Source: Ganesh et al. 2021, MINT, arXiv 2003.08472, with the weights of the other filters for the next layer's
    """
    columns = _some_columns(rows)
    bins = min(BINS, max(2, int(np.sqrt(columns.shape[1]))))
    n, k = columns.shape
    low, high = columns.min(axis=1, keepdims=True), columns.max(axis=1, keepdims=True)
    width = np.where(high > low, high - low, 1.0)
    bin_of = np.minimum((columns - low) / width * bins, bins - 1).astype(np.int64)
    cells = (bin_of[:, None, :] == np.arange(bins)[:, None]).astype(np.float32).reshape(n * bins, k)
    own = _entropies(cells.sum(axis=1, dtype=np.float64).reshape(n, bins) / k)
    shared = np.zeros(n)
    step = max(1, CELLS // (n * bins * bins))
    for start in range(0, n, step):
        part = np.arange(start, min(start + step, n))
        joint = cells[start * bins : (part[-1] + 1) * bins] @ cells.T
        joint = joint.reshape(len(part), bins, n, bins).transpose(0, 2, 1, 3).reshape(len(part), n, -1)
        both = own[part, None] + own - _entropies(joint.astype(np.float64) / k)
        both[part - start, part] = 0.0
        shared[part] = both.max(axis=1)
    left = own - shared
    left[left < ROUNDING] = 0.0
    return left


def _entropies(p: Scores) -> Scores:
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))


def _some_columns(rows: Rows) -> Scores:
    """Up to MOST_ENTRIES of the entries of each channel, [n, k] float64, equally spaced over all of them."""
    width = sum(block.shape[1] for block in rows.blocks)
    wanted = np.arange(width) if width <= MOST_ENTRIES else np.arange(MOST_ENTRIES) * width // MOST_ENTRIES
    parts, start = [], 0
    for block in rows.blocks:
        here = wanted[(wanted >= start) & (wanted < start + block.shape[1])] - start
        parts.append(block[:, here].astype(np.float64))
        start += block.shape[1]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def count_distinct(rows: Rows) -> float:
    """How many of a layer's filters are distinct: the mean of quotient space size and covering number, from 1 to n.

    Filters of length 1 that are at most NEAR apart are joined in a graph. The quotient space has one point for each
    connected component; the covering number is that of filters, chosen greedily, of which each other one is a neighbor.
    Source: Wang, Li and Wang 2021, Structural Redundancy Reduction, arXiv 2104.03438; both in equal parts
    """
    norms = np.sqrt(squares(rows, lambda chunk: chunk))
    inverse = np.divide(1.0, norms, out=np.zeros(rows.n), where=norms > 0)
    gram = np.concatenate([tile for _, tile in iterate_gram_tiles(rows, lambda chunk: chunk)])
    alike = gram * inverse[:, None] * inverse >= 1 - NEAR * NEAR / 2  # the square of the distance is 2 - 2 cos
    alike |= np.outer(norms == 0, norms == 0)
    np.fill_diagonal(alike, True)
    return (_count_components(alike) + _count_cover(alike)) / 2


def _count_components(alike: Array) -> int:
    left, count = np.ones(len(alike), bool), 0
    while left.any():
        reached = np.zeros(len(alike), bool)
        new = np.zeros(len(alike), bool)
        new[left.argmax()] = True
        while new.any():
            reached |= new
            new = alike[new].any(axis=0) & ~reached
        left &= ~reached
        count += 1
    return count


def _count_cover(alike: Array) -> int:
    """How many filters it takes until each other one is a neighbor of one of them, the one with most new neighbors first."""
    left, count = np.ones(len(alike), bool), 0
    while left.any():
        left &= ~alike[int((alike & left).sum(axis=1).argmax())]
        count += 1
    return count


def gram_of_centered(rows: Rows) -> Scores:
    """Inner products [n, n] of the filters less their mean; what only rounding leaves of equal filters is 0."""
    gram = np.concatenate([tile for _, tile in iterate_gram_tiles(rows, center_columns)])
    raw = squares(rows, lambda chunk: chunk)
    if np.diag(gram).max() <= ROUNDING * raw.max():
        return np.zeros_like(gram)
    return gram
