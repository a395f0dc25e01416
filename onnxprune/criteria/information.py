"""What a channel tells: entropy, correlation with others, mutual information with what the network decides, rank."""

import numpy as np

from onnxprune.criteria.registry import Array, Scores, Signal, activation_criterion

BINS = 32


@activation_criterion("entropy", statistics=("pooled",))
def entropy(s: Signal) -> Scores:
    """s_c = -sum_i p_ci log p_ci, p_c the histogram of the samples' mean a_c

    The 32 bins span the range of all the channels, so that one that hardly moves falls into one bin and scores 0.
    Source: Luo and Wu 2017, An Entropy-based Pruning Method for CNN Compression, arXiv 1706.05791, sec. 3.2
    """
    pooled = s["pooled"].mean(axis=2)
    low, high = pooled.min(), pooled.max()
    bins = np.minimum((pooled - low) * (BINS / ((high - low) or 1.0)), BINS - 1).astype(np.int64)
    return np.array([_entropy(np.bincount(b)) for b in bins.T])


@activation_criterion("correlation", statistics=("mean", "gram"))
def correlation(s: Signal) -> Scores:
    """s_c = 1 - max_{d != c} |corr(a_c, a_d)|

    A channel that another one follows over all samples and positions can be spared; one that never varies scores 0.
    Source: Suau et al. 2020, Filter Distillation for Network Compression (PFA), arXiv 1807.10585, sec. 3
    """
    mean, (n, k) = s["mean"].ravel(), s["mean"].shape
    covariance = s["gram"] - np.outer(mean, mean)
    alive = np.diag(covariance) > 1e-6 * np.diag(s["gram"])
    scale = np.divide(1.0, np.sqrt(np.abs(np.diag(covariance))), out=np.zeros(n * k), where=alive)
    corr = np.abs(covariance * np.outer(scale, scale)).reshape(n, k, n, k)
    matched = np.einsum("ckdk->ckd", corr).mean(axis=1)  # feature by feature of two heads
    np.fill_diagonal(matched, 0.0)
    lonely: Scores = 1.0 - np.minimum(matched.max(axis=1, initial=0.0), 1.0)
    return np.where(alive.reshape(n, k).any(axis=1), lonely, 0.0)


@activation_criterion("mutual_info", statistics=("pooled", "classes"))
def mutual_info(s: Signal) -> Scores:
    """s_c = I(mean a_c of a sample; the class that the network itself predicts for it)

    In nats, from bins of equal counts, square root of the samples of them but at most 32. No labels are used.
    Source: Ganesh et al. 2021, MINT, arXiv 2003.08472, sec. 3, with the predicted class for the next layer's filters
    """
    pooled = s["pooled"].mean(axis=2)
    classes = np.unique(s["classes"].argmax(axis=1), return_inverse=True)[1]
    bins = min(BINS, max(2, int(np.sqrt(len(pooled)))))
    return np.array([_shared(_equal_bins(column, bins), classes) for column in pooled.T])


@activation_criterion("hrank", statistics=("rank",))
def hrank(s: Signal) -> Scores:
    """s_c = mean over samples of rank(the feature map of channel c)

    Source: Lin et al. 2020, HRank: Filter Pruning using High-Rank Feature Map, arXiv 2002.10179, eq. 4
    """
    return np.asarray(s["rank"].mean(axis=1))


@activation_criterion("chip", statistics=("independence",))
def chip(s: Signal) -> Scores:
    """s_c = mean over samples of |A|_* - |A with channel c's maps zeroed|_*, A [n, positions]

    The nuclear norm |A|_* falls little where the other channels' maps span what channel c's map holds.
    Source: Sui et al. 2021, CHIP: CHannel Independence-based Pruning, arXiv 2110.13981, eq. 3
    """
    return np.asarray(np.maximum(s["independence"].sum(axis=1), 0.0))  # a norm never grows: what is below 0 is rounding


def _entropy(counts: Array) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0


def _equal_bins(x: Scores, bins: int) -> Array:
    """The bin of each value, equal values in one bin."""
    edges = np.quantile(x, np.arange(1, bins) / bins)
    return np.searchsorted(edges, x, side="left")


def _shared(a: Array, b: Array) -> float:
    """I(a; b) = H(a) + H(b) - H(a, b), at least 0."""
    joint = a * (b.max() + 1) + b
    return max(0.0, _entropy(np.bincount(a)) + _entropy(np.bincount(b)) - _entropy(np.bincount(joint)))
