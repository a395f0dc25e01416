"""What the network does with a channel, from first and second moments of the activations that carry it.

a_c are channel c's values on one activation over all calibration samples and positions (an activation is, where there is
one, a consumer's input); W_c are the weights of the consumer that reads it. Where a channel has several positions (the
features of a head, the pixels of a flattened map), norms run over all of them, other formulas take their mean.
"""

import numpy as np

from onnxprune.criteria.registry import Scores, Signal, activation_criterion


@activation_criterion("mean_abs", statistics=("mean_abs",))
def mean_abs(s: Signal) -> Scores:
    """s_c = mean |a_c|

    Source: Molchanov et al. 2017, Pruning CNNs for Resource Efficient Inference, arXiv 1611.06440, sec. 2.2 (activation)
    """
    return np.asarray(s["mean_abs"].mean(axis=1))


@activation_criterion("apoz", statistics=("zeros",))
def apoz(s: Signal) -> Scores:
    """s_c = 1 - APoZ_c, the share of a_c that is not zero

    The average percentage of zeros is high where a channel does little, hence the 1 -. Of use after Relu alone: other
    activation functions make no zeros, and all channels are alike then.
    Source: Hu et al. 2016, Network Trimming, arXiv 1607.03250, eq. 1
    """
    return np.asarray(1.0 - s["zeros"].mean(axis=1))


@activation_criterion("variance", statistics=("mean", "mean_sq"))
def variance(s: Signal) -> Scores:
    """s_c = mean a_c^2 - (mean a_c)^2

    What does not vary is a constant, which the consumers' biases can take over.
    Source: Polyak and Wolf 2015, Channel-Level Acceleration of Deep Face Representations, doi 10.1109/ACCESS.2015.2494536
    """
    return np.asarray(_variance(s).mean(axis=1))


@activation_criterion("wanda", statistics=("mean_sq",), reduce="sum")
def wanda(s: Signal) -> Scores:
    """s_c = sum_i |W_ci| rms(a_c), summed over the consumers

    The scores of single weights, summed over a channel; the root of the mean square is the paper's norm up to a factor
    that all the channels of an activation share.
    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, arXiv 2306.11695, eq. 1
    """
    size = np.sqrt(s["mean_sq"])
    return np.asarray((np.abs(s.consumers(size)).sum(axis=2) * size).sum(axis=1))


@activation_criterion("flap", statistics=("mean", "mean_sq"), reduce="sum")
def flap(s: Signal) -> Scores:
    """s_c = var(a_c) ||W_c||_2^2, summed over the consumers

    What the consumers lose when the channel goes and their biases take over its mean.
    Source: An et al. 2024, Fluctuation-based Adaptive Structured Pruning, arXiv 2312.11983, eq. 4
    """
    spread = _variance(s)
    return np.asarray(((s.consumers(spread) ** 2).sum(axis=2) * spread).sum(axis=1))


def _variance(s: Signal) -> Scores:
    mean, square = s["mean"], s["mean_sq"]
    spread: Scores = square - mean * mean
    spread[spread < 1e-6 * square] = 0.0  # rounding: both were summed up in float32
    return spread
