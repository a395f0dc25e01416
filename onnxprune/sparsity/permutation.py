"""Permute the channels of groups so that an N:M pattern keeps more: free, since a group's order means nothing (law 1).

All weights that consume a group's channels vote with what they would keep. A weight has a vote where its inputs are the group's
channels in their order, once or several times over, each time beginning where a group of M begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.axes import Axis
from onnxprune.graph.inner import mark_inner_tensors
from onnxprune.groups import Analysis, Group, analyze
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.signals import find_channel_order
from onnxprune.sparsity.matrices import ConstantMatrix, open_numbers
from onnxprune.sparsity.patterns import NofM, Pattern
from onnxprune.sparsity.permute import find_best_order, measure_kept
from onnxprune.surgery import apply_plan

Array = npt.NDArray[np.float32]
Gains = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class _Vote:
    """A weight that reads a group's channels: its inputs' layout, and where on that axis the channels begin."""

    matrix: ConstantMatrix
    starts: tuple[int, ...]


def permute_plan(
    analysis: Analysis,
    plan: Plan,
    chosen: Callable[[Analysis], list[ConstantMatrix]],
    pattern: Pattern,
    progress: Callable[[int, int], None],
) -> tuple[Plan, Gains]:
    """The plan with the channels that stay in another order, and for each group what its readers keep, before and after.

    `chosen` lists the weights that are to get the pattern.
    """
    assert isinstance(pattern, NofM)
    model = apply_plan(analysis, plan)
    a = analyze(mark_inner_tensors(model))
    layers = {m.weight: m for m in chosen(a)}
    groups, gains = dict(plan.groups), Gains()
    for at, group in enumerate(a.groups):
        progress(at, len(a.groups))
        votes = list(_votes(a, group, layers, pattern.m))
        if not votes or group.ordered or group.size <= pattern.m:
            continue
        scores = [_scores(a, v, group.size) for v in votes]
        if not all(np.isfinite(s).all() for s in scores):
            continue
        sizes = [v.size for v in group.vars]
        order = find_best_order(scores, pattern.n, pattern.m, sizes=sizes)
        if np.array_equal(order, np.arange(group.size)):
            continue
        gains[group.name] = (
            measure_kept(scores, pattern.n, pattern.m),
            measure_kept(scores, pattern.n, pattern.m, order),
        )
        stays = np.array(plan.groups[group.name].keep if group.name in plan.groups else range(group.size))
        whole = plan.groups[group.name].size if group.name in plan.groups else group.size
        reason = plan.groups[group.name].reason if group.name in plan.groups else ""
        groups[group.name] = Choice(whole, tuple(int(i) for i in stays[order]), reason)
    return Plan(compute_fingerprint(analysis.model), groups, units=plan.units), gains


def _votes(a: Analysis, group: Group, layers: dict[str, ConstantMatrix], m: int) -> list[_Vote]:
    out = []
    for name, axis, dim in dict.fromkeys((x.tensor, x.axis, x.dim) for x in group.members if x.role == "in"):
        matrix = layers.get(name)
        starts = _starts(group, dim, m) if matrix and matrix.form else ()
        if matrix and starts and _is_inputs(a, matrix, axis):
            out.append(_Vote(matrix, starts))
    return out


def _is_inputs(a: Analysis, matrix: ConstantMatrix, axis: int) -> bool:
    """Is an axis of the file all that the weight's product sums over?"""
    shape = a.coupling.weights[matrix.weight].shape
    stride = int(np.prod(shape[axis + 1 :], dtype=np.int64))
    assert matrix.form is not None
    return matrix.form.parts[2] == ((shape[axis], stride),)


def _starts(group: Group, dim: Axis, m: int) -> tuple[int, ...]:
    """Where on an axis the group's channels stand in their order; none where they stand otherwise."""
    order = find_channel_order(group, dim)
    owned = np.flatnonzero(order >= 0)
    if len(owned) % group.size:
        return ()
    starts = owned[:: group.size]
    runs = owned.reshape(-1, group.size)
    whole = np.array_equal(runs, starts[:, None] + np.arange(group.size))
    ordered = np.array_equal(order[runs], np.broadcast_to(np.arange(group.size), runs.shape))
    return tuple(int(s) for s in starts) if whole and ordered and not (starts % m).any() else ()


def _scores(a: Analysis, vote: _Vote, size: int) -> Array:
    """|w| as [rows, channels]."""
    m = vote.matrix
    assert m.form is not None
    weight = a.coupling.weights[m.weight]
    w = m.form.view(open_numbers(a, m, True).magnitudes(weight.array()))  # [B, O, I, P]
    parts = [np.moveaxis(w[:, :, s : s + size], 2, 3).reshape(-1, size) for s in vote.starts]
    return np.concatenate(parts).astype(np.float32, copy=False)
