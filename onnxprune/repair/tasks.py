"""Which layers of a pruned network are fitted, to what, and on what they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.ops.records import get_record
from onnxprune.repair.kinds import is_layer, is_recurrent, make_layer
from onnxprune.repair.linear_layers import FitLayer, Site, Unfit
from onnxprune.repair.network import Network, pick_positions
from onnxprune.repair.recurrent import InputProduct, StateProduct
from onnxprune.repair.tails import Tail, follow_tail, make_empty_tail

Found = tuple[int, str, FitLayer]  # node, name
SELECTED = "the data decide how much it reads, so that its rows are not the original's"


@dataclass(frozen=True)
class SourcePart:
    """Where a group of a pruned layer stands in the matrices of the original's: its group, and which rows and columns it has."""

    group: int
    rows: Array
    columns: Array


@dataclass
class FitTask:
    """A layer to fit, that of the node `index`, and what follows it.

    Its target is the original's value of `tail.target`; for a layer whose sums are no tensors, what `source`, the original's
    layer, makes of the original's inputs. `taught`: it reads the original's inputs rather than the pruned network's. `unmatched`:
    nobody knows yet which of the original's channels its outputs are, so that rows have them all, [1, n, channels].
    """

    index: int
    name: str
    op: str
    layer: FitLayer
    tail: Tail
    taught: bool = False
    source: FitLayer | None = None
    parts: Sequence[SourcePart] = ()  # of the source, for each group
    unmatched: bool = False

    @contextmanager
    def loaded(self, net: Network) -> Iterator[FitLayer]:
        """The layer with its weights, those of `source` too, and no longer than that."""
        light = self.layer.is_light or bool(self.source and self.source.is_light)
        if self.layer.is_light:
            self.layer = next(x for _, x in _built(net, net.site(self.index)) if x.slot == self.layer.slot)
        if self.source and self.source.is_light:
            self.source = _source(net, self.layer)
        yield self.layer
        for layer in filter(None, (self.layer, self.source)):
            if light:
                layer.lighten()

    def original_stop(self) -> set[str]:
        if self.source:
            return {self.source.x, self.source.y, *self.tail.others}
        return {self.tail.target, *([self.layer.x] if self.taught else [])}

    def pruned_stop(self) -> set[str]:
        return {*([] if self.taught else [self.layer.x]), *self.tail.others}


def find_tasks(net: Network, method: str, left_out: dict[str, str]) -> list[FitTask]:
    """The layers whose inputs changed, or whose weights are to become sparse (no others for `none`), in their order.

    `left_out` hears of those that cannot be fitted, and why. Large weights are not with them: `FitTask.loaded` has those of one.
    """
    layers = find_layers(net, left_out, settled=method != "obs", light=True, moved=method == "obs")
    if method == "none":
        return [_task(net, f, make_empty_tail(f[2])) for f in layers if (f[0], f[2].slot) in net.thinned]
    if method == "obs":  # the inputs that stay take over from those that go, as the original has them
        layers = [
            f for f in layers if (f[0], f[2].slot) in net.thinned or (net.moves(f[2].x) and f[2].site.record.product)
        ]
        return [_task(net, f, make_empty_tail(f[2]), True) for f in layers]
    if method == "lstsq":  # a depthwise convolution can take over nothing, and gains next to nothing
        layers = [f for f in layers if f[2].mixes or (f[0], f[2].slot) in net.thinned]
    return [_task(net, f, tail) for f, tail in find_tailed_layers(net, layers)]


def find_tailed_layers(net: Network, layers: Sequence[Found]) -> list[tuple[Found, Tail]]:
    """The layers that stand for themselves, each with what follows it; a scale behind another layer is part of that one."""
    passed = {i for _, _, layer in layers for i in follow_tail(layer, net, lambda _: False).passed}
    layers = [f for f in layers if f[0] not in passed]
    last = find_last_layers(net, {index: at for at, (index, _, _) in enumerate(layers)})
    return [(f, follow_tail(f[2], net, lambda x, at=at: last[x] < at)) for at, f in enumerate(layers)]  # type: ignore[misc]


def find_layers(
    net: Network, left_out: dict[str, str], *, settled: bool, light: bool = False, moved: bool = False
) -> list[Found]:
    """All layers whose inputs changed or whose weights are to become sparse.

    `settled`: only those whose rows are the original's, as no data decide how many there are. `light`: without
    large weights. `moved`: only those that lost channels themselves, or weights.
    """
    layers = list[Found]()
    for index, node in enumerate(net.nodes):
        if moved and not (_is_thinned(net, index) or any(map(net.moves, (*node.input, *node.output)))):
            continue
        for f in _layers(net, index, left_out):
            if light:
                f[2].lighten()
            layers.append(f)
    if settled:
        left_out |= {name: SELECTED for _, name, layer in layers if not net.unsettled.isdisjoint((layer.x, layer.y))}
        layers = [f for f in layers if f[1] not in left_out]
    return layers


def _task(net: Network, layer_at: Found, tail: Tail, taught: bool = False) -> FitTask:
    index, name, layer = layer_at
    op = net.nodes[index].op_type
    if not layer.hidden:
        return FitTask(index, name, op, layer, tail, taught)
    source = _source(net, layer)
    source.lighten()
    return FitTask(
        index, name, op, layer, tail, taught or isinstance(layer, StateProduct), source, match_parts(net, layer, source)
    )


def _source(net: Network, layer: FitLayer) -> FitLayer:
    """The original's layer."""
    whole = net.original_site(layer.site.index)
    return type(layer)(whole) if isinstance(layer, InputProduct) else make_layer(whole)


def match_parts(net: Network, layer: FitLayer, source: FitLayer) -> list[SourcePart]:
    """For each group of a pruned layer its part of the original's: the elements of the weight are numbered, cut and packed."""
    numbers = np.arange(source.matrix.weight.size).reshape(source.matrix.weight.shape)
    ours = layer.matrix.pack(pick_positions(numbers, net.stays_of(layer.site.index, layer.slot)))
    every = source.matrix.pack(numbers)
    places = np.empty(numbers.size, np.int64)
    places[every] = np.arange(numbers.size).reshape(every.shape)

    def find(some: Array) -> tuple[Array, ...]:
        """Group, row and column of some elements, in the original's matrices."""
        return np.unravel_index(places[some], every.shape)

    return [SourcePart(int(find(w[0, 0])[0]), find(w[:, 0])[1], find(w[0])[2]) for w in ours]


def _layers(net: Network, index: int, left_out: dict[str, str]) -> Iterator[Found]:
    """The layers to fit in a node: none, one, or two."""
    node = net.nodes[index]
    name = node.name or next(filter(None, node.output), "")
    if all(n in net.live for n in node.input) or not is_layer(get_record(node)):
        return
    changed = index in net.redirected or net.touched.intersection(node.input)
    if not (_is_thinned(net, index) or changed or _lost_states(net, index)):
        return
    try:
        for extra, layer in _built(net, net.site(index)):
            for change in layer.list_changes(layer.w, layer.b):
                net.check(change)
            yield index, name + extra, layer
    except Unfit as why:
        left_out[name] = str(why)


def _is_thinned(net: Network, index: int) -> bool:
    """Are weights of a node to become sparse?"""
    return any((index, slot) in net.thinned for slot in range(len(net.nodes[index].input)))


def _built(net: Network, site: Site) -> Iterator[tuple[str, FitLayer]]:
    if site.record.product and all(site.node.input[o.slot] in net.live for o in site.operands):
        return  # activations alone: a bias of queries, keys and values belongs to the layers before an attention
    if not is_recurrent(site.record):
        after = net.only_reader(site.node.output[0])
        yield "", make_layer(site, None if after is None else net.site(after))
        return
    if site.node.input[0] in net.touched:
        yield "", InputProduct(site)
    if _lost_states(net, site.index):
        yield " (hidden state)", StateProduct(site)


def _lost_states(net: Network, index: int) -> bool:
    """Did a recurrent layer lose hidden units?"""
    return is_recurrent(get_record(net.nodes[index])) and any(
        o.slot == StateProduct.slot and not net.stays_of(index, o.slot).keys().isdisjoint(o.inputs)
        for o in net.site(index).operands
    )


def find_last_layers(net: Network, layers: Mapping[int, int]) -> dict[str, int]:
    """For each value the last of the layers that it depends on, -1 for none."""
    last: dict[str, int] = {}
    for index, node in enumerate(net.nodes):
        inputs = max((last.get(name, -1) for name in node.input), default=-1)
        last.update(dict.fromkeys(node.output, max(inputs, layers.get(index, -1))))
    return {**dict.fromkeys(net.live, -1), **last}
