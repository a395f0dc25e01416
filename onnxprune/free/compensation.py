"""The remaining layers compensate for the free channels: the same function, in a model that does not need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.axes import Var
from onnxprune.errors import OnnxPruneError
from onnxprune.free.find import Found, find_free
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis, analyze
from onnxprune.plans import Plan, compute_fingerprint

NEEDING = ("constant", "merged")  # of free channels, those that consumers have to make up for


def fold(free: Found, channels: Mapping[str, Array]) -> Analysis:
    """The model whose consumers make up for those free channels, group by group; they stay, and add nothing any more."""
    removed: dict[Var, Array] = {}
    for g in (g for g in free.analysis.groups if g.name in channels):
        gone = np.zeros(g.size, bool)
        gone[np.intersect1d(channels[g.name], free.groups[g.name].all)] = True
        at = 0
        for v in g.vars:
            removed[v], at = gone[at : at + v.size], at + v.size
    model = free.consumers.without(removed, free.labels)
    return _name_alike(free.analysis, analyze(model, free.analysis.data))


def _name_alike(old: Analysis, new: Analysis) -> Analysis:
    """The new analysis with the groups' names and order of the old one, of a model with the same activations.

    A weight that stood behind an Identity, and named a group, may have another name now.
    """
    counterparts: dict[Var, Var] = {}
    was, now = ({**c.layouts, **c.uses} for c in (old.coupling, new.coupling))
    for name, before in was.items():
        for a, b in zip(before or (), now.get(name) or (), strict=False):
            if len(a.leaves) == len(b.leaves):
                counterparts.update(zip(a.leaves, b.leaves, strict=True))
    owner = {v: g for g in new.groups for v in g.vars}
    groups = []
    for g in old.groups:
        parts = [counterparts[v] for v in g.vars if v in counterparts]
        if len(parts) < len(g.vars) or any(v not in owner for v in parts):
            raise OnnxPruneError(f"group '{g.name}' was lost; this is a defect of onnxprune, please report the model")
        groups.append(replace(owner[parts[0]], name=g.name, vars=parts))
    return replace(new, groups=groups)


def fold_all(found_free: Found) -> Analysis:
    """The same for all that is free."""
    return (
        fold(found_free, {name: free.all for name, free in found_free.groups.items()})
        if found_free.needs_changes
        else found_free.analysis
    )


def settle(analysis: Analysis, plan: Plan, free: Found | None = None) -> tuple[Analysis, Plan]:
    """A model whose consumers make up for the free channels that a plan removes, and the plan for it.

    `found` is what `find_free` finds in the model, where somebody knows it.
    """
    channels = {
        name: np.array(
            sorted({c for kind in NEEDING for c in choice.free.get(kind, ())}.difference(choice.keep)), np.int64
        )
        for name, choice in plan.groups.items()
    }
    if not any(map(len, channels.values())) or plan.model != compute_fingerprint(analysis.model):
        return analysis, plan
    free = free if free and free.analysis is analysis else find_free(analysis)
    known = {name: some for name, some in channels.items() if len(some) and name in free.groups}
    if not known:
        return analysis, plan
    settled = fold(free, known)
    return settled, replace(plan, model=compute_fingerprint(settled.model))
