"""The channel counts of a group that a target is fast with."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from onnxprune.graph.weights import dtype_of
from onnxprune.groups import Analysis, Group, Member
from onnxprune.ops.records import record_of
from onnxprune.targets import Target

CHANNELS = ("out", "in")  # the roles of the axes that a product multiplies along


def find_multiples(a: Analysis, target: Target) -> dict[str, int]:
    """Of each group the number that divides its aligned counts; groups that no product of the target's cares for are left out.

    An axis may have several positions for a channel, as (heads size) has: then fewer channels make a whole block. A group of fewer
    channels than a block is left out too: it is not aligned as it is, and cannot become so.
    """
    found = {}
    for g in a.groups:
        by = math.lcm(*(_for_member(a, g, m, target) for m in g.members if m.role in CHANNELS))
        if 1 < by <= g.size:
            found[g.name] = by
    return found


def _for_member(a: Analysis, g: Group, m: Member, target: Target) -> int:
    """The multiple that one weight's axis asks of the group's count."""
    positions = _positions(m, g)
    wanted = [target.multiple(kind, _dtype(a, m)) for kind in _kinds(a, m)]
    return math.lcm(*(w // math.gcd(w, positions) for w in wanted)) if positions else 1


def _kinds(a: Analysis, m: Member) -> Iterator[str]:
    """The kinds of the products that read the axis."""
    for index, _ in m.sites:
        product = record_of(a.flat.proto.graph.node[index]).product
        if product is not None:
            yield product.kind


def _dtype(a: Analysis, m: Member) -> str:
    return str(np.dtype(dtype_of(a.coupling.weights[m.tensor].data_type)))


def _positions(m: Member, g: Group) -> int:
    """How many positions of the axis a channel has; 0 where that depends on the inputs."""
    mine = next(v for v in m.dim.leaves if v in g.vars)
    size, less = m.dim.size, m.dim.size_where(lambda v: v.size - (v is mine))
    return size - less if isinstance(size, int) and isinstance(less, int) else 0
