"""Experts: what a plan can remove of a mixture beside channels and branches, one expert at a time.

An expert is one channel of the group that a router's scores and the experts' weights share. Without it the model computes what it
would if the router's score of that expert were minus infinity. Its error can be measured like that of a branch, which says more
than the sizes of its weights: it counts how often tokens choose it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.axes import Var
from onnxprune.errors import PlanError
from onnxprune.graph.view import read_attribute
from onnxprune.groups import Analysis, Group
from onnxprune.ops.records import get_record

EXPERT = "expert"


@dataclass(frozen=True)
class Expert:
    """One expert of a mixture: channel `index` of a group; a token uses `used` of the group's `size`.

    `node` is the mixture, or the first that shares its router. It may go only while others stay that a token can use.
    """

    name: str
    node: int
    group: str
    index: int
    used: int
    size: int
    kind: str = EXPERT


def find_experts(a: Analysis) -> list[Expert]:
    """The experts that can go, in the order of the nodes; names are unique. Mixtures that use all of their experts have none."""
    seen, experts = Counter[str](), list[Expert]()
    for group, (index, used) in _find_mixtures(a).items():
        size, node = a.by_name[group].size, a.flat.proto.graph.node[index]
        base = node.name or node.output[0]
        seen[base] += 1
        base = base if seen[base] == 1 else f"{base}#{seen[base]}"
        if used < size:
            experts += [Expert(f"{base}.expert_{i}", index, group, i, used, size) for i in range(size)]
    return experts


def count_used(a: Analysis) -> dict[str, int]:
    """How many experts a token uses, for each group of experts."""
    return {group: min(used, a.by_name[group].size) for group, (_, used) in _find_mixtures(a).items()}


def _find_mixtures(a: Analysis) -> dict[str, tuple[int, int]]:
    """For each group of experts the first node that has them, and the most of them that a token uses."""
    owner: Mapping[Var, Group] = {v: g for g in a.groups for v in g.vars if len(g.vars) == 1}
    mixtures = dict[str, tuple[int, int]]()
    for index, node in enumerate(a.flat.proto.graph.node):
        routed = get_record(node).traits.routed
        if routed is None:
            continue
        slot, name = routed
        scores = a.coupling.layouts.get(node.input[slot]) or ()
        group = owner.get(scores[-1]) if scores and isinstance(scores[-1], Var) else None
        if group is not None:
            first, used = mixtures.get(group.name, (index, 0))
            mixtures[group.name] = first, max(used, int(read_attribute(node, name, 1)))
    return mixtures


def drop_experts(kept: np.ndarray, experts: Iterable[Expert]) -> np.ndarray:
    """The kept channels of a group without these experts of it. Raises PlanError where a token would need more than are left."""
    gone = {e.index: e for e in experts}
    left = kept[~np.isin(kept, list(gone))]
    least = max((e.used for e in gone.values()), default=1)
    if len(left) < least:
        some = next(iter(gone.values()))
        raise PlanError(
            f"the plan leaves {len(left)} of {some.size} experts in '{some.group}', but each token uses {least}; "
            f"keep {least} or more"
        )
    return left
