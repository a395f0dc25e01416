"""Losses that a graph computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator


def _loss(node: Node, scores: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    """-scores[label], weighted by class; `ignore_index` counts for nothing. Written out: torch's has no gradient for weights."""
    ignored = labels == (-1 if node.ignore_index is None else node.ignore_index)
    at = torch.where(ignored, torch.zeros_like(labels), labels).to(torch.int64)
    share = torch.ones_like(at, dtype=scores.dtype) if weight is None else weight[at]
    share = share if node.ignore_index is None else torch.where(ignored, torch.zeros_like(share), share)
    loss = -scores.gather(1, at.unsqueeze(1)).squeeze(1) * share
    if node.reduction == "none":
        return loss
    return loss.sum() / share.sum() if node.reduction == "mean" else loss.sum()


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(node: Node, scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    return _loss(node, scores, labels, weight)


@operator("SoftmaxCrossEntropyLoss")
def cross_entropy(node: Node, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Any:
    scores = torch.log_softmax(logits, 1)
    loss = _loss(node, scores, labels, weight)
    return (loss, scores) if len(node.outputs) > 1 else loss
