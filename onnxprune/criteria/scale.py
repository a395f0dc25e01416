"""The multiplier that a normalization learned for a channel."""

from onnxprune.criteria.norms import l1
from onnxprune.criteria.registry import Rows, Scores, criterion


@criterion("bn_scale", roles=("scale",), reduce="mean", fallback="l2")
def bn_scale(rows: Rows) -> Scores:
    """s_c = |gamma_c|, the mean of them where several norms scale the channel

    A group without a norm (folded into its Conv, or none) is scored with l2 as l2 does by itself, and `note` says so:
    the two are not on one scale, so normalize before ranking them together.
    Source: Liu et al. 2017, Network Slimming, arXiv 1708.06519, sec. 3
    """
    return l1(rows)
