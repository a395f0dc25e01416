"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.ops.elementwise import activation
from onnxprune.ops.records import MICROSOFT


@operator("MatMul")
def matrix_product(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def general_product(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha a b + beta c"""
    a = a.t() if node.transA else a
    plain = node.alpha == 1.0 and node.beta == 1.0 and a.is_floating_point()
    if plain and (c is None or (c.dim() == 1 and c.shape[0] == b.shape[0 if node.transB else 1])):
        return F.linear(a, b if node.transB else b.t(), c)
    y = a @ (b.t() if node.transB else b)
    y = y if node.alpha == 1.0 else (node.alpha * y).to(y.dtype)
    return y if c is None else y + (c if node.beta == 1.0 else (node.beta * c).to(c.dtype))


@operator("FusedGemm", domain=MICROSOFT)
def fused_general_product(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    y = node.get("alpha", 1.0) * ((a.t() if node.transA else a) @ (b.t() if node.transB else b))
    y = y if c is None else y + node.get("beta", 1.0) * c
    parameters = [v for v in (node.activation_alpha, node.activation_beta) if v is not None]
    return activation(node.get("activation", ""), parameters)(y)


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matrix_product(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """alpha op(a) op(b): the last two axes change places, or (transBatch) the matrices' rows come before the batch."""
    y = _turned(a, node.transA, node.transBatchA) @ _turned(b, node.transB, node.transBatchB)
    return node.get("alpha", 1.0) * y


def _turned(x: Tensor, last_two: int | None, batch: int | None) -> Tensor:
    if batch and x.dim() > 2:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if last_two and x.dim() > 1 else x


@operator("Einsum")
def einsum(node: Node, *xs: Tensor) -> Tensor:
    return torch.einsum(node.equation.replace(" ", ""), *xs)


@operator("Det")
def determinant(node: Node, x: Tensor) -> Tensor:
    return torch.linalg.det(x)


@operator("Inverse", domain=MICROSOFT)
def inverse(node: Node, x: Tensor) -> Tensor:
    return torch.linalg.inv(x)
