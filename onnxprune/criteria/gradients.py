"""What the loss would be without a channel, from one pass backward.

m_nc = dL_n/dm_c at m_c = 1 for a mask m_c on all that consumers read of channel c: the sum of a dL_n/da over the channel's
positions in sample n, added up over the consumers. Where no weight reads the channels (queries and keys), it is the mean over
what their producers make. H_ww is the diagonal of the second derivatives by the weights that read the channel.

The loss L_n of a sample: cross-entropy with the class that is drawn from the network's own scores, at a temperature of 4 (of
tokens, of 1); for other outputs |y_n|^-1 times the projection of y_n on a random direction, so that m_nc^2 / 2 is, in the mean,
what the error (see measure/shift.py) grows by. The error itself has no gradient where nothing is removed yet. Where the data
have labels, `taylor`, `snip` and `gradient` take the cross-entropy with them.
"""

from collections.abc import Sequence

import numpy as np

from onnxprune.criteria.registry import Scores, Signal, activation_criterion


@activation_criterion("taylor", statistics=("mask_of_labels",), reduce="sum", joint=True, gradients=True)
def taylor(signals: Sequence[Signal]) -> Scores:
    """s_c = mean over samples n of |m_nc|, m_nc = dL_n/dm_c by a mask on the channel

    With labels beside the data L is the cross-entropy with them.
    Source: Molchanov et al. 2017, Pruning CNNs for Resource Efficient Inference, arXiv 1611.06440, eq. 8; 2019, arXiv 1906.10771
    """
    return np.asarray(np.abs(sum_masks(signals, "mask_of_labels")).mean(axis=0))


@activation_criterion("fisher", statistics=("mask",), reduce="sum", joint=True, gradients=True)
def fisher(signals: Sequence[Signal]) -> Scores:
    """s_c = mean over samples n of m_nc^2 / 2, m_nc = dL_n/dm_c by a mask on the channel, L_n of a class drawn from the scores

    Source: Theis et al. 2018, Faster gaze prediction, arXiv 1801.05787; Liu et al. 2021, Group Fisher, arXiv 2108.00708
    """
    return np.asarray((sum_masks(signals, "mask") ** 2).mean(axis=0) / 2)


@activation_criterion("hessian", statistics=("curvature",), reduce="sum", gradients=True)
def hessian(s: Signal) -> Scores:
    """s_c = sum over the weights w that read c of w^2 H_ww / 2, H_ww = mean over samples of (dL_n/dw)^2

    Of the error H is the Fisher information. Drawn classes make gradients of samples independent with a mean of 0, so that the
    squared sum over a batch is the sum of the squares (Liu et al. 2023, Sophia, arXiv 2305.14342, sec. 2.3).
    Source: LeCun et al. 1990, Optimal Brain Damage (NIPS 2)
    """
    return np.asarray(s["curvature"].sum(axis=1) / 2)


@activation_criterion("snip", statistics=("sensitivity",), reduce="sum", gradients=True)
def snip(s: Signal) -> Scores:
    """s_c = sum over the weights w that read c of |w dL/dw| / the same sum over all weights that read channels

    L is the mean over all samples, so that their gradients may cancel; of the cross-entropy with labels, where the data have
    some. The paper scores weights before training; near a minimum gradients are small, and noise decides more.
    Source: Lee et al. 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity, arXiv 1810.02340
    """
    return np.asarray(s["sensitivity"].sum(axis=1))


@activation_criterion("gradient", statistics=("slope",), reduce="sum", gradients=True)
def gradient(s: Signal) -> Scores:
    """s_c = |dL/dW_c|_2, W_c the weights of a consumer that read c, summed over the consumers; L as for snip

    Where the loss would still like to move a channel's weights; their own size does not count.
    Source: Evci et al. 2020, Rigging the Lottery, arXiv 1911.11134 (what grows), for all weights of a channel
    """
    return np.asarray(np.sqrt(s["slope"].sum(axis=1)))


def sum_masks(signals: Sequence[Signal], name: str) -> Scores:
    """m [samples, n]: each activation counts once, however many weights read it."""
    each = list({id(s.values[name]): s for s in signals}.values())
    total: Scores = np.sum([s[name].sum(axis=-1) for s in each], axis=0)
    return total / len(each) if each[0].role == "made" else total
