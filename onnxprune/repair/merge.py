"""Merging: what consumed a removed channel takes the most similar channel that stays, scaled. It needs no data.

Where a removed channel's weights are those of another one, times a positive number that the activation lets through, nothing
is lost; where they are only similar, little is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.groups import Analysis, Group, Member
from onnxprune.ops.records import get_record
from onnxprune.plans import Plan
from onnxprune.repair.linear_layers import Change
from onnxprune.repair.network import Network, pick_positions
from onnxprune.signals import find_channel_order, sort_by_channel

ALIKE = 0.45  # cosine from which two channels are taken to do the same (Kim et al. 2020, sec. 4)


def merge_channels(net: Network, plan: Plan) -> list[list[Change]]:
    """The consumers' new weights, node by node.

    Source: Kim et al. 2020, Neuron Merging, arXiv 2010.13160, eq. 7, with the bias as one more weight; duplicates as in Yvinec
    et al. 2021, RED, arXiv 2105.14797, sec. 3.2, are the case of cosine 1
    """
    matches = {
        g.name: _matches(net.analysis, g, np.array(plan.groups[g.name].keep))
        for g in net.analysis.groups
        if g.name in plan.groups and len(plan.groups[g.name].keep) < g.size
    }
    groups = [g for g in net.analysis.groups if g.name in matches and len(matches[g.name][0])]
    changes = (list(_changes(net, index, groups, matches)) for index in range(len(net.nodes)))
    return [some for some in changes if some]


def _matches(a: Analysis, group: Group, keep: Array) -> tuple[Array, Array, Array]:
    """Removed channels, for each the kept one that takes its place, and the factor."""
    rows = join_producers(a, group)
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(norms > 0, norms, 1.0)[:, None]
    gone = np.setdiff1d(np.arange(group.size), keep)
    cosine = unit[gone] @ unit[keep].T
    best = cosine.argmax(axis=1)
    fine = cosine[np.arange(len(gone)), best] >= ALIKE
    gone, to = gone[fine], keep[best[fine]]
    return gone, to, norms[gone] / norms[to]


def join_producers(a: Analysis, group: Group) -> Array:
    """The weights and bias that produce each channel, [n, k], after the following normalization."""
    factor, scaled, shifts = np.ones((group.size, 1)), [], []
    for m in group.members:
        if not m.sites:  # only what is computed from it is read
            continue
        index, slot = m.sites[0]
        rows = _by_channel(a, group, m)
        if m.role == "scale":
            factor = factor * rows[:, :1]
        elif m.role == "stat":
            mean, variance = get_record(a.flat.proto.graph.node[index]).traits.statistics or (None, None)
            factor = factor / np.sqrt(np.maximum(rows[:, :1], 1e-12)) if slot == variance else factor
            scaled += [-rows] if slot == mean else []
        elif m.role == "bias" and not get_record(a.flat.proto.graph.node[index]).product:
            shifts.append(rows)
        elif m.role in ("out", "bias"):
            scaled.append(rows)
    parts = [*(factor * rows for rows in scaled), *shifts]
    return np.concatenate(parts, axis=1) if parts else np.zeros((group.size, 1))


def _by_channel(a: Analysis, group: Group, m: Member) -> Array:
    array = np.moveaxis(a.coupling.weights[m.tensor].array(), m.axis, 0)
    owned: Array = array[sort_by_channel(find_channel_order(group, m.dim))].astype(np.float64)
    return owned.reshape(group.size, -1)


def _changes(
    net: Network, index: int, groups: list[Group], matches: dict[str, tuple[Array, Array, Array]]
) -> Iterator[Change]:
    """The inputs of a node that consume channels that went."""
    c = net.analysis.coupling
    if (at := net.in_original(index)) is None:
        return
    for slot, name in enumerate(net.analysis.flat.proto.graph.node[at].input):
        if name not in c.weights:
            continue
        new = array = c.weights[name].array()
        for axis, dim in enumerate(c.use(name, at, slot) or ()):
            if ((at, slot), "in") in c.roles.get((name, axis), ()):
                for g in (g for g in groups if set(g.vars) & set(dim.leaves)):
                    new = _moved(new, axis, find_channel_order(g, dim), g.size, matches[g.name])
        if new is not array:
            change = Change(index, slot, pick_positions(new, net.stays_of(index, slot)).astype(array.dtype))
            if not net.is_shared(change):
                yield change


def _moved(array: Array, axis: int, order: Array, size: int, match: tuple[Array, Array, Array]) -> Array:
    """The weights with those of the channels that go added to those that take their place."""
    gone, to, factor = match
    owned = sort_by_channel(order).reshape(size, -1)
    new = np.moveaxis(array.astype(np.float64), axis, 0)
    np.add.at(new, owned[to], factor.reshape(-1, *[1] * new.ndim) * new[owned[gone]])
    return np.moveaxis(new, 0, axis)
