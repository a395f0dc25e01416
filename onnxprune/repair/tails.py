"""The operators between a layer and its next nonlinearity: its output y becomes act(scale * y + shift + sum of others).

The layer is fitted to the original's value just before `act`, with the others as the pruned network has them: then it makes up
for their errors too (a shortcut's, say), not only for its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.ops.records import SAME
from onnxprune.repair.linear_layers import FitLayer, Site
from onnxprune.repair.network import Network


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


def make_empty_tail(layer: FitLayer) -> Tail:
    """The tail of a layer that is fitted to its own output."""
    return Tail(layer.y, np.ones(layer.outputs), np.zeros(layer.outputs), [layer.adds] if layer.adds else [])


def follow_tail(layer: FitLayer, net: Network, ready: Callable[[str], bool]) -> Tail:
    """Walk down from a layer's output while a single node reads it, up to an activation that cuts."""
    tail = make_empty_tail(layer)
    if layer.hidden:
        tail.low, tail.high = layer.inside
        return tail
    while (index := net.only_reader(tail.target)) is not None:
        site = net.site(index)
        traits = site.record.traits
        if traits.clips and traits.bounds:
            tail.low, tail.high = traits.bounds(site, site.known)
            break
        renamed = traits.moves == SAME and not traits.changes_type
        if not (renamed or _affine(tail, layer, site, net) or _sum(tail, site, net, ready)):
            break
        tail.passed.append(index)
        tail.target = site.node.output[0]
    tail.scored = tail.target in net.outputs and not tail.others and _are_tokens(tail.target, layer, net)
    return tail


def _are_tokens(name: str, layer: FitLayer, net: Network) -> bool:
    """Are a layer's outputs a language model's scores of tokens?"""
    sizes = net.sizes(name)
    last = sizes is not None and layer.axis % len(sizes) == len(sizes) - 1
    return last and layer.outputs == net.tokens and layer.w.shape[0] == 1


def _sum(tail: Tail, site: Site, net: Network, ready: Callable[[str], bool]) -> bool:
    """The sum with another activation of the same shape that can be computed by now."""
    others = [name for name in site.node.input if name != tail.target]
    if not site.record.traits.sums or len(others) != 1 or others[0] not in net.live or not ready(others[0]):
        return False
    sizes = net.sizes(tail.target)
    if sizes is None or net.sizes(others[0]) != sizes:
        return False
    tail.others.append(others[0])
    return True


def _affine(tail: Tail, layer: FitLayer, site: Site, net: Network) -> bool:
    """A scale and a shift by constants, one for each channel or one for all."""
    affine, sizes = site.record.traits.affine, net.sizes(tail.target)
    if (
        affine is None or sizes is None or tail.others or len(site.node.output) > 1
    ):  # others would have to be scaled too
        return False
    line = affine(site, list(site.node.input).index(tail.target), site.known)
    scale, shift = (_per_channel(c, layer, sizes) for c in line or (None, None))
    if scale is None or shift is None:
        return False
    tail.scale, tail.shift = tail.scale * scale, tail.shift * scale + shift
    return True


def _per_channel(c: Array | None, layer: FitLayer, sizes: tuple[object, ...]) -> Array | None:
    """A constant as one number for each of a layer's outputs; None where it varies along another axis."""
    if c is None or c.ndim > len(sizes):
        return None
    axis = layer.axis % len(sizes) - (len(sizes) - c.ndim)
    if c.size != 1 and (axis < 0 or c.shape[axis] != layer.outputs or c.size != layer.outputs):
        return None
    return np.broadcast_to(c.astype(np.float64).ravel(), (layer.outputs,))
