"""Where a group's channels can be watched at work: the activations that carry them into what consumes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.axes import Axis, first
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.view import Site, read_attribute
from onnxprune.graph.weights import dtype_of, is_float
from onnxprune.groups import Analysis, Group, Member
from onnxprune.ops.linear import CONVOLUTION
from onnxprune.ops.records import get_record

StatisticKey = tuple[str, int, str]  # activation, axis, statistic
ENTRIES = 1200  # of a patch; the products of more would take too long
PATCH = "patch_"
READ, MADE = "read", "made"
MASK, MASK_OF_LABELS, CURVATURE = "mask", "mask_of_labels", "curvature"
SENSITIVITY, SLOPE = "sensitivity", "slope"
OF_LABELS = (MASK_OF_LABELS, SENSITIVITY, SLOPE)  # statistics of the loss by the labels, where there are some
OF_WEIGHTS = (CURVATURE, SENSITIVITY, SLOPE)  # statistics of a weight that reads the channels
OF_GRADIENTS = (MASK, MASK_OF_LABELS, *OF_WEIGHTS)  # statistics that a pass backward gives


@dataclass(frozen=True)
class Tap:
    """An axis of an activation that carries a group's channels.

    `role` says where: READ by a consumer, whose weight is `member`, or MADE by a producer. `node` is that node's index.
    """

    tensor: str
    axis: int
    dim: Axis
    role: str
    member: Member
    node: int


def find_taps(a: Analysis, group: Group) -> list[Tap]:
    """The inputs of all that consumes the group's channels; where nothing does, the outputs of what makes them.

    Inputs come after the activation function, which is what consumers see, and where a tap costs least: one between a
    convolution and its Relu would keep ONNX Runtime from running both at once.
    """
    result = list(_taps(a, group, "in", READ)) or list(_taps(a, group, "out", MADE))
    return list({(t.tensor, t.axis, t.member.tensor, t.node): t for t in result}.values())


def list_statistics(a: Analysis, groups: Iterable[Group], statistics: Sequence[str]) -> list[StatisticKey]:
    """All that has to be gathered for the groups."""
    keys = (
        want
        for g in groups
        for t in choose_taps(a, g, statistics)
        for want in name_statistics(a, t, statistics).values()
    )
    return list(dict.fromkeys(keys))


def choose_taps(a: Analysis, group: Group, statistics: Sequence[str]) -> list[Tap]:
    """The group's taps, for the rank of feature maps [N, C, H, W] only those that are such."""
    taps_of_group = find_taps(a, group)
    if "rank" not in statistics:
        return taps_of_group
    return [t for t in taps_of_group if t.axis == 1 and len(a.coupling.layouts[t.tensor] or ()) == 4]


def name_statistics(a: Analysis, tap: Tap, statistics: Sequence[str]) -> dict[str, StatisticKey]:
    """The keys of each statistic of a tap. `classes` are the network's own scores, [samples, classes].

    Those of patches are of the tap's axis itself where no convolution reads it, those of weights are of the tap's weight.
    """
    read = tap.role == READ and any(n.startswith(PATCH) for n in statistics) and _has_patches(a, tap)
    out = a.flat.proto.graph.node[tap.node].output[0]
    keys: dict[str, StatisticKey] = {n: (tap.tensor, tap.axis, n.removeprefix(PATCH)) for n in statistics}
    keys |= {n: (out, 1, n) for n in statistics if n.startswith(PATCH) and read}
    keys |= {n: (tap.member.tensor, tap.member.axis, n) for n in statistics if n in OF_WEIGHTS}
    return keys | {n: (_scores(a), 1, "pooled") for n in statistics if n == "classes"}


def name_sample_count(want: StatisticKey) -> StatisticKey:
    """The statistic that says of how many samples a Gram matrix is; the places of one sample are much alike."""
    tensor, axis, statistic = want
    return tensor, axis, f"{statistic}_samples"


def find_reading_edges(a: Analysis, groups: Iterable[Group]) -> dict[tuple[str, int], list[int]]:
    """For each axis of an activation that consumers read channels from: the nodes that do."""
    edges = dict[tuple[str, int], list[int]]()
    for tap in (t for g in groups for t in find_taps(a, g) if t.role == READ):
        nodes = edges.setdefault((tap.tensor, tap.axis), [])
        if tap.node not in nodes:
            nodes.append(tap.node)
    return edges


def _has_patches(a: Analysis, tap: Tap) -> bool:
    """Is the tap read by a convolution without groups, in patches that are not too large?"""
    node = a.flat.proto.graph.node[tap.node]
    convolves = get_record(node).product is CONVOLUTION and tap.axis == 1 and node.output[0] in a.outside
    shape = a.coupling.trace.shape(node.input[1]) if convolves else None
    if shape is None or read_attribute(node, "group", 1) > 1:
        return False
    channels, *kernel = (first(s) for s in shape[1:])
    return math.prod(kernel) > 1 and channels * math.prod(kernel) <= ENTRIES


def _scores(a: Analysis) -> str:
    for v in a.model.proto.graph.output:
        axes = a.coupling.layouts.get(v.name) or ()
        if len(axes) == 2 and axes[1].size != 1 and is_float(dtype_of(a.coupling.trace.dtype(v.name) or 7)):
            return str(v.name)
    raise OnnxPruneError("no output looks like class scores [N, C]; choose a criterion that does not ask for classes")


def split_statistic(group: Group, tap: Tap, name: str, array: np.ndarray) -> np.ndarray:
    """A statistic of a tap's axis, channel by channel: [.., n, k], k positions a channel; `gram` [n * k, n * k].

    Of patches, k counts the kernel positions too.
    """
    if name == "classes":
        return array
    dim = tap.member.dim if name in OF_WEIGHTS else tap.dim
    positions = sort_by_channel(find_channel_order(group, dim))
    entries = array.shape[-1] // dim.length  # of a patch, for each position of the axis
    positions = (positions[:, None] * entries + np.arange(entries)).ravel()
    if np.array_equal(positions, np.arange(array.shape[-1])):  # a copy of a large matrix takes long
        return array if name.endswith("gram") else array.reshape(*array.shape[:-1], group.size, -1)
    if name.endswith("gram"):
        return np.asarray(array[np.ix_(positions, positions)])
    return np.asarray(array[..., positions]).reshape(*array.shape[:-1], group.size, -1)


def find_channel_order(group: Group, dim: Axis) -> np.ndarray:
    """For each position of an axis which channel of the group owns it, -1 where none does."""
    order, at = np.full(dim.length, -1), 0
    for v in group.vars:
        owned = dim.owner(v)
        order = np.where(owned >= 0, owned + at, order)
        at += v.size
    return order


def sort_by_channel(order: np.ndarray) -> np.ndarray:
    """The owned positions, channel by channel."""
    positions = np.flatnonzero(order >= 0)
    return positions[np.argsort(order[positions], kind="stable")]


def _taps(a: Analysis, group: Group, part: str, role: str) -> Iterator[Tap]:
    """Follow each weight that plays a part to the nodes that read it, through Transposes and the like."""
    group_vars = set(group.vars)
    for m in group.members:
        if m.role != part:
            continue
        for index, _ in _readers(a, m.sites):
            node = a.flat.proto.graph.node[index]
            for name in dict.fromkeys(node.input if role == READ else node.output):
                for axis, dim in enumerate(_watchable(a, name)):
                    if group_vars & set(dim.leaves):
                        yield Tap(name, axis, dim, role, m, index)


def _readers(a: Analysis, sites: Iterable[Site]) -> Iterator[Site]:
    """The nodes that read a weight, or what is computed from it, beside an activation."""
    c, todo = a.coupling, list(sites)
    while todo:
        site = todo.pop()
        output = a.flat.proto.graph.node[site[0]].output[0]
        if output in c.computed:
            todo.extend(s for (name, _), known in c.roles.items() if name == output for s, _ in known)
        else:
            yield site


def _watchable(a: Analysis, name: str) -> Sequence[Axis]:
    """The axes of an activation of floats that exists in the model as it was given, outside bodies."""
    c = a.coupling
    if name in c.weights or name in c.computed or name not in a.outside:
        return ()
    elem = c.trace.dtype(name)
    return c.layouts.get(name) or () if elem and is_float(dtype_of(elem)) else ()
