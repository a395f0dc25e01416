"""The channel counts of a group that a target is fast with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.graph.view import Site, map_readers
from onnxprune.graph.weights import dtype_of
from onnxprune.groups import Analysis, Group, Member
from onnxprune.ops.records import get_record
from onnxprune.targets import Layer, Target

CHANNELS = ("out", "in")  # the roles of the axes that a product multiplies along
Readers = Mapping[str, Sequence[Site]]


def find_multiples(a: Analysis, target: Target, fine: bool = False, measured: bool = False) -> dict[str, int]:
    """Of each group the number that divides its aligned counts; groups that no product of the target's cares for are left out.

    `fine`: wide axes may have the finer steps of narrow ones. `measured`: errors decide the counts (see `Layer`).

    An axis may have several positions for a channel, as (heads size) has: then fewer channels make a whole block. A block of more
    channels than the group has does not count: the group is not aligned to it as it is, and cannot become so.
    """
    multiples, read_by = {}, map_readers(a.flat.proto.graph.node)
    for g in a.groups:
        if g.kind == "experts":  # the router is small, and how many there are matters to no kernel
            continue
        wanted = [_for_member(a, g, m, target, read_by, fine, measured) for m in g.members if m.role in CHANNELS]
        by = math.lcm(*(w for w in wanted if w <= g.size))
        if 1 < by <= g.size:
            multiples[g.name] = by
    return multiples


def _for_member(a: Analysis, g: Group, m: Member, target: Target, read_by: Readers, fine: bool, measured: bool) -> int:
    """The multiple that one weight's axis asks of the group's count."""
    positions = _positions(m, g)
    layers = [replace(layer, measured=measured) for layer in _layers(a, m, read_by)]
    wanted = [target.multiple(replace(layer, channels=0) if fine else layer) for layer in layers]
    return math.lcm(*(w // math.gcd(w, positions) for w in wanted)) if positions else 1


def _layers(a: Analysis, m: Member, read_by: Readers) -> Iterator[Layer]:
    """The products that multiply with the weight."""
    weight = a.coupling.weights[m.tensor]
    dtype = str(np.dtype(dtype_of(weight.data_type)))
    for index, slot in _products(a, m.sites, read_by):
        product = get_record(a.flat.proto.graph.node[index]).product
        operand = a.coupling.operands.get((index, slot))
        groups = operand.groups if operand else 1
        if product is not None:
            yield Layer(product.kind, dtype, depthwise=1 < groups == max(weight.shape), channels=weight.shape[m.axis])


def _products(a: Analysis, sites: Iterable[Site], read_by: Readers) -> Iterator[Site]:
    """The products among the nodes that read a weight, and those that read what is made of it (its integers as numbers, say)."""
    for index, slot in sites:
        node = a.flat.proto.graph.node[index]
        if get_record(node).product is not None:
            yield index, slot
        elif node.output and node.output[0] in a.coupling.computed:
            yield from _products(a, read_by.get(node.output[0], ()), read_by)


def _positions(m: Member, g: Group) -> int:
    """The number of positions of a channel on the axis; 0 if it depends on the inputs."""
    channel = next(v for v in m.dim.leaves if v in g.vars)
    size, less = m.dim.size, m.dim.size_where(lambda v: v.size - (v is channel))
    return size - less if isinstance(size, int) and isinstance(less, int) else 0
