"""Which layers of a pruned network are fitted, to what, and on what they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.view import domain_of
from onnxprune.ops.records import record_of
from onnxprune.repair.layers import LAYERS, Layer, Unfit
from onnxprune.repair.network import Network
from onnxprune.repair.recurrent import RECURRENT, Inputs, State
from onnxprune.repair.tails import Tail, follow, nothing

Found = tuple[int, str, Layer]  # node, name
SELECTED = "the data decide how much it reads, so that its rows are not the original's"


@dataclass
class Task:
    """A layer to fit, that of the node `index`, and what follows it.

    Its target is the original's value of `tail.target`; for a layer whose sums are no tensors, what `source`, the original's
    layer, makes of the original's inputs. `taught`: it reads the original's inputs rather than the pruned network's.
    """

    index: int
    name: str
    op: str
    layer: Layer
    tail: Tail
    taught: bool = False
    source: Inputs | None = None
    inputs: np.ndarray | None = None  # of the source's inputs, those that stay; None: the layer reads others
    outputs: np.ndarray | None = None  # of the source's outputs, those that stay

    def original_stop(self) -> set[str]:
        return {self.source.x} if self.source else {self.tail.target, *([self.layer.x] if self.taught else [])}

    def pruned_stop(self) -> set[str]:
        return {*([] if self.taught else [self.layer.x]), *self.tail.others}


def tasks(net: Network, method: str, left_out: dict[str, str]) -> list[Task]:
    """The layers whose inputs changed, or whose weights are to become sparse (no others for `none`), in their order.

    `left_out` hears of those that cannot be fitted, and why.
    """
    found = [f for index in range(len(net.nodes)) for f in _layers(net, index, left_out)]
    if method != "obs":
        left_out |= {name: SELECTED for _, name, layer in found if not net.unsettled.isdisjoint((layer.x, layer.y))}
        found = [f for f in found if f[1] not in left_out]
    if method == "none":
        return [_task(net, f, nothing(f[2])) for f in found if (f[0], f[2].slot) in net.thinned]
    if method == "obs":  # the inputs that stay take over from those that go, as the original has them
        found = [
            f
            for f in found
            if (f[0], f[2].slot) in net.thinned or (net.moves(f[2].x) and record_of(net.nodes[f[0]]).product)
        ]
        return [_task(net, f, nothing(f[2]), True) for f in found]
    passed = {i for _, _, layer in found for i in follow(layer, net, lambda _: False).passed}
    found = [f for f in found if f[0] not in passed]
    last = last_layers(net, {index: at for at, (index, _, _) in enumerate(found)})
    return [_task(net, f, follow(f[2], net, lambda x, at=at: last[x] < at)) for at, f in enumerate(found)]  # type: ignore[misc]


def _task(net: Network, found: Found, tail: Tail, taught: bool = False) -> Task:
    index, name, layer = found
    op = net.nodes[index].op_type
    if not isinstance(layer, Inputs):
        return Task(index, name, op, layer, tail, taught)
    source = type(layer)(net.original_site(index))
    axes = net.stays_of(index, layer.slot)
    gates = axes.get(1, np.arange(source.weight.shape[1]))
    both = np.arange(source.w.shape[2]).reshape(-1, source.weight.shape[1])[:, gates]  # of both directions, or of one
    taught = taught or isinstance(layer, State)
    return Task(index, name, op, layer, tail, taught, source, axes.get(2) if taught else None, both.ravel())


def _layers(net: Network, index: int, left_out: dict[str, str]) -> Iterator[Found]:
    """What there is to fit in a node: nothing, one layer, or two."""
    node = net.nodes[index]
    name = node.name or node.output[0]
    known = not domain_of(node) and node.op_type in (*LAYERS, *RECURRENT)
    if not known and not record_of(node).product:
        return
    thinned = any((index, slot) in net.thinned for slot in range(len(node.input)))
    changed = thinned or net.touched.intersection(node.input) or _lost_states(net, index)
    if all(n in net.live for n in node.input) or not changed:
        return
    try:
        if not known:
            raise Unfit(f"{node.op_type} is not fitted")
        for extra, layer in _built(net, index):
            for change in layer.changes(layer.w, layer.b):
                net.check(change)
            yield index, name + extra, layer
    except Unfit as why:
        left_out[name] = str(why)


def _built(net: Network, index: int) -> Iterator[tuple[str, Layer]]:
    node, site = net.nodes[index], net.site(index)
    if node.op_type not in RECURRENT:
        after = net.only_reader(node.output[0])
        yield "", LAYERS[node.op_type](site, None if after is None else net.site(after))
        return
    if node.input[0] in net.touched:
        yield "", Inputs(site)
    if _lost_states(net, index):
        yield " (hidden state)", State(site)


def _lost_states(net: Network, index: int) -> bool:
    return net.nodes[index].op_type in RECURRENT and 2 in net.stays_of(index, State.slot)


def last_layers(net: Network, layers: Mapping[int, int]) -> dict[str, int]:
    """For each value the last of the layers that it depends on, -1 for none."""
    last: dict[str, int] = {}
    for index, node in enumerate(net.nodes):
        inputs = max((last.get(name, -1) for name in node.input), default=-1)
        last.update(dict.fromkeys(node.output, max(inputs, layers.get(index, -1))))
    return {**dict.fromkeys(net.live, -1), **last}
