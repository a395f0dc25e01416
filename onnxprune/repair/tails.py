"""What stands between a layer and its next nonlinearity: its output y becomes act(scale * y + shift + sum of others).

The layer is fitted to the original's value just before `act`, with the others as the pruned network has them: then it makes up
for their errors too (a shortcut's, say), not only for its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnxprune.graph.view import attribute, domain_of
from onnxprune.repair.layers import Layer
from onnxprune.repair.network import Network
from onnxprune.repair.store import Array


@dataclass
class Tail:
    """`target` names the value before the activation; `others` are added on the way; `low`, `high` are where act cuts."""

    target: str
    scale: Array  # [O]
    shift: Array  # [O]
    others: list[str] = field(default_factory=list)
    low: float = -math.inf
    high: float = math.inf
    passed: list[int] = field(default_factory=list)  # the nodes on the way
    scored: bool = False  # the outputs are scores of tokens: what matters is their softmax

    @property
    def cuts(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    def act(self, y: Array) -> Array:
        return np.clip(y, self.low, self.high) if self.cuts else y


def nothing(layer: Layer) -> Tail:
    """The tail of a layer that is fitted to its own output."""
    return Tail(layer.y, np.ones(layer.outputs), np.zeros(layer.outputs))


def follow(layer: Layer, net: Network, ready: Callable[[str], bool]) -> Tail:
    """Walk down from a layer's output while a single node reads it, up to a Relu or a Clip."""
    tail = nothing(layer)
    while (index := net.only_reader(tail.target)) is not None:
        node = net.nodes[index]
        if domain_of(node):
            break
        if node.op_type in ("Relu", "Clip"):
            _bound(tail, node, net)
            break
        if not (_affine(tail, layer, node, net) or _sum(tail, node, net, ready)):
            break
        tail.passed.append(index)
        tail.target = node.output[0]
    tail.scored = tail.target in net.outputs and not tail.others and _are_tokens(tail.target, layer, net)
    return tail


def _are_tokens(name: str, layer: Layer, net: Network) -> bool:
    """Are a layer's outputs a language model's scores of tokens?"""
    sizes = net.sizes(name)
    last = sizes is not None and layer.axis % len(sizes) == len(sizes) - 1
    return last and layer.outputs == net.tokens and layer.w.shape[0] == 1


def _bound(tail: Tail, node: NodeProto, net: Network) -> None:
    tail.low, tail.high = (0.0, math.inf) if node.op_type == "Relu" else (-math.inf, math.inf)
    tail.low, tail.high = attribute(node, "min", tail.low), attribute(node, "max", tail.high)
    bounds = [net.const(name) if name else None for name in node.input[1:]]
    tail.low, tail.high = (
        old if b is None else float(b.ravel()[0])
        for old, b in zip((tail.low, tail.high), [*bounds, None, None], strict=False)
    )


def _sum(tail: Tail, node: NodeProto, net: Network, ready: Callable[[str], bool]) -> bool:
    """An Add of another activation of the same shape that can be computed by now."""
    others = [name for name in node.input if name != tail.target]
    if node.op_type != "Add" or len(others) != 1 or others[0] not in net.live or not ready(others[0]):
        return False
    mine = net.sizes(tail.target)
    if mine is None or net.sizes(others[0]) != mine:
        return False
    tail.others.append(others[0])
    return True


def _affine(tail: Tail, layer: Layer, node: NodeProto, net: Network) -> bool:
    """An Add, a Sub, a Mul, a Div or a BatchNormalization with constants, one for each channel or one for all."""
    if tail.others:  # what was added would have to be scaled too
        return False
    if node.op_type == "BatchNormalization":
        values = [net.const(name) for name in node.input[1:5]]
        if len(node.output) > 1 or layer.axis != 1 or any(v is None for v in values):
            return False
        gamma, beta, mean, var = (np.asarray(v, np.float64) for v in values)
        epsilon = attribute(node, "epsilon", 1e-5)
        scale = gamma / np.sqrt(var + epsilon)
        tail.scale, tail.shift = tail.scale * scale, (tail.shift - mean) * scale + beta
        return True
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2:
        return False
    slot = 0 if node.input[1] == tail.target else 1
    c = _per_channel(net.const(node.input[slot]), layer, net.sizes(tail.target))
    if c is None or (slot == 0 and node.op_type in ("Sub", "Div")):
        return False
    if node.op_type in ("Add", "Sub"):
        tail.shift = tail.shift + (c if node.op_type == "Add" else -c)
    else:
        c = c if node.op_type == "Mul" else 1 / c
        tail.scale, tail.shift = tail.scale * c, tail.shift * c
    return True


def _per_channel(c: Array | None, layer: Layer, sizes: tuple[object, ...] | None) -> Array | None:
    """A constant as one number for each of a layer's outputs; None where it varies along another axis."""
    if c is None or sizes is None or c.ndim > len(sizes) or c.dtype.kind != "f":
        return None
    axis = layer.axis % len(sizes) - (len(sizes) - c.ndim)
    if c.size != 1 and (axis < 0 or c.shape[axis] != layer.outputs or c.size != layer.outputs):
        return None
    return np.broadcast_to(c.astype(np.float64).ravel(), (layer.outputs,))
