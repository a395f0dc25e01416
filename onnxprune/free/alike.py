"""Channels that are nearly alike become alike, so that `find_free` finds and merges them. The paper is RED.

Source: Yvinec et al. 2021, RED: Looking for Redundancies for Data-Free Structured Compression of Deep Neural Networks, arXiv
2105.14797: scalar hashing, and merging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxprune.free.hashing import hash_array
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array, ArrayWeight, is_float
from onnxprune.groups import Analysis, Group, Member, analyze
from onnxprune.repair.merge import join_producers
from onnxprune.signals import find_channel_order, sort_by_channel

MADE_BY = ("out", "bias", "scale", "stat")  # the roles of what decides what a channel holds


def make_alike(a: Analysis, bandwidth: float | None, near: float | None) -> Analysis:
    """The model with hashed weights, and with channels equal whose producers are near each other; None leaves that out.

    Args:
        a: the original.
        bandwidth: see `hash_weights`.
        near: see `equate_channels`.
    """
    if bandwidth is not None:
        a = analyze(hash_weights(a, bandwidth), a.data)
    if near is not None:
        a = analyze(equate_channels(a, near), a.data)
    return a


def hash_weights(a: Analysis, bandwidth: float) -> Model:
    """The model with the weights of its groups hashed, tensor by tensor; norms and biases, [n] each, stay as they are.

    `bandwidth` is that of the density, in standard deviations of a tensor's weights, above 0.
    """
    names = {m.tensor for g in a.groups for m in g.members if m.role in ("out", "in") and m.sites}
    changed = dict[str, ArrayWeight]()
    for name in sorted(names & a.model.weights.keys()):
        array = a.model.weights[name].array()
        if array.ndim > 1 and is_float(array.dtype):
            changed[name] = ArrayWeight(hash_array(array, bandwidth), a.model.weights[name].data_type)
    return replace(a.model, weights={**a.model.weights, **changed})


def equate_channels(a: Analysis, near: float) -> Model:
    """The model in which channels make the same whose weights and biases, behind norms, differ by little.

    Channels are near if the difference is at most `near` times the norm of the larger one. Going through them in their
    order, each joins the first one before it that it is near to, and takes over what makes that one. Groups along which an
    operator mixes have no free channels, and stay.
    """
    changed = dict[str, Array]()
    for g in (g for g in a.groups if g.exact):
        rows = join_producers(a, g)
        leaders = _find_leaders(rows, near)
        if not rows.any() or (leaders == np.arange(g.size)).all() or not _has_floats(a, g):
            continue
        for m in _producing(g):
            array = changed.get(m.tensor)
            array = a.model.weights[m.tensor].array() if array is None else array
            changed[m.tensor] = _copy_channels(array, g, m, leaders)
    weights = {name: ArrayWeight(array, a.model.weights[name].data_type) for name, array in changed.items()}
    return replace(a.model, weights={**a.model.weights, **weights})


def _find_leaders(rows: Array, near: float) -> Array:
    """For each channel the first one that it is near to, itself where there is none; [n]."""
    norms, leaders = np.linalg.norm(rows, axis=1), np.arange(len(rows))
    for at in range(1, len(rows)):
        before = np.flatnonzero(leaders[:at] == np.arange(at))
        distances = np.linalg.norm(rows[before] - rows[at], axis=1)
        close = before[distances <= near * np.maximum(norms[before], norms[at])]
        if len(close):
            leaders[at] = close[0]
    return leaders


def _has_floats(a: Analysis, g: Group) -> bool:
    """Are all weights that make the channels in the model, as floats?"""
    makers = [m.tensor for m in g.members if m.role in MADE_BY]
    return all(n in a.model.weights and is_float(a.model.weights[n].array().dtype) for n in makers)


def _producing(g: Group) -> Iterator[Member]:
    """The members that make the channels, each axis of a tensor once."""
    yield from {(m.tensor, m.axis): m for m in g.members if m.role in MADE_BY}.values()


def _copy_channels(array: Array, g: Group, m: Member, leaders: Array) -> Array:
    """The array with what each channel has of it the same as its leader's."""
    positions = sort_by_channel(find_channel_order(g, m.dim)).reshape(g.size, -1)
    copied = np.moveaxis(array.copy(), m.axis, 0)
    copied[positions] = copied[positions[leaders]]
    return np.moveaxis(copied, 0, m.axis)
