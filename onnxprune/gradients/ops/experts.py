"""Mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.ops.records import MICROSOFT

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu, "identity": lambda x: x,
}  # fmt: skip


def _hidden(node: Node, x: Tensor, first: Tensor, b1: Tensor | None, third: Tensor | None, b3: Tensor | None) -> Tensor:
    """What an expert's second layer reads."""
    y = F.linear(x, first, b1)
    name = node.get("activation_type", "relu")
    if name == "swiglu":
        gate, value = (y[..., 0::2], y[..., 1::2]) if node.get("swiglu_fusion", 0) == 1 else y.chunk(2, -1)
        limit = node.swiglu_limit
        if limit is not None:
            gate, value = gate.clamp(max=limit), value.clamp(-limit, limit)
        alpha = node.get("activation_alpha", 1.0)
        return gate * torch.sigmoid(alpha * gate) * (value + node.get("activation_beta", 0.0))
    y = ACTIVATIONS[name](y)
    return y if third is None else y * F.linear(x, third, b3)


@operator("MoE", domain=MICROSOFT)
def mixture_of_experts(
    node: Node, x: Tensor, router: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None = None,
    w3: Tensor | None = None, b3: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Each token goes to the k experts that the router gives most, weighted by its softmax; w1 [n, h, i], w2 [n, o, h]."""
    tokens, k = x.reshape(-1, x.shape[-1]), node.get("k", 1)
    if node.get("use_sparse_mixer", 0):
        raise NotImplementedError("the sparse mixer's routing")
    normalized = bool(node.get("normalize_routing_weights", 0))
    shares, chosen = torch.softmax(router, -1).topk(k, -1)
    shares = shares / shares.sum(-1, keepdim=True) if normalized else shares
    y = tokens.new_zeros(len(tokens), w2.shape[1])

    def pick(v: Tensor | None, e: int) -> Any:
        return None if v is None else v[e]

    for e in range(w1.shape[0]):
        rows, places = (chosen == e).nonzero(as_tuple=True)
        if len(rows):
            inner = _hidden(node, tokens[rows], w1[e], pick(b1, e), pick(w3, e), pick(b3, e))
            y = y.index_add(0, rows, F.linear(inner, w2[e], pick(b2, e)) * shares[rows, places].unsqueeze(-1))
    return y.reshape(*x.shape[:-1], -1)
