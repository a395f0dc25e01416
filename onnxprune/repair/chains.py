"""Elementwise chains: what stands between the layers that make the channels of a pruned group and the one layer that reads them.

In a feed-forward block silu(x W1) * (x W3) behind W1 and W3 and before W2; between two convolutions a normalization and an
activation. Nobody else reads what is in a chain, so that the layers before it may change together with the layer behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.repair.convolutions import Convolution
from onnxprune.repair.kinds import is_layer, is_recurrent, make_layer
from onnxprune.repair.linear_layers import FitLayer, Unfit
from onnxprune.repair.network import Network
from onnxprune.repair.products import MatrixProduct


@dataclass(frozen=True)
class Chain:
    """`reader` reads `x`, which the elementwise `nodes` make of `leaves`, what the layers `makers` make, and of `fixed`.

    `biases` are, for each maker, the node behind it that adds its bias; None where that is in the node itself or nowhere.
    """

    reader: int
    x: str
    nodes: Sequence[int]
    makers: Sequence[int]
    biases: Sequence[int | None]
    leaves: Sequence[str]
    fixed: Sequence[str]
    reads: Sequence[str]  # by the makers and the nodes, of what lies before

    @property
    def run(self) -> list[int]:
        """All nodes that make x."""
        return sorted({*self.nodes, *self.makers, *(b for b in self.biases if b is not None)})

    def layers(self, net: Network) -> list[FitLayer]:
        """The makers, with the weights that they have by now."""
        return [_build(net, *pair) for pair in zip(self.makers, self.biases, strict=True)]


def find_chain(net: Network, layer: FitLayer) -> Chain | None:
    """Find the elementwise chain before a layer whose input lost channels; None if nothing before it may change."""
    if not net.moves(layer.x) or not _may_change(net, layer) or layer.w.shape[0] > 1:
        return None
    inside = _inside(net, layer)
    if inside is None:
        return None
    inner = {o for i in inside for o in net.nodes[i].output}
    leaves = dict.fromkeys(n for i in sorted(inside) for n in net.nodes[i].input if n in net.live and n not in inner)
    users = {*inside, layer.site.index}
    maker_of = {leaf: at for leaf in (leaves or {layer.x: None}) if (at := _maker(net, leaf, users)) is not None}
    if not maker_of:
        return None
    biases = {leaf: _bias(net, at, inside) for leaf, at in maker_of.items()}
    behind = {b for b in biases.values() if b is not None}
    layers = {leaf: _build(net, at, biases[leaf]) for leaf, at in maker_of.items()}
    fixed = [n for n in leaves if n not in maker_of]
    return Chain(
        layer.site.index, layer.x, sorted(inside - behind), list(maker_of.values()), list(biases.values()),
        [x.y for x in layers.values()], fixed, sorted({*fixed, *(x.x for x in layers.values())}),
    )  # fmt: skip


def _inside(net: Network, layer: FitLayer) -> set[int] | None:
    """The elementwise nodes that a layer alone reads, at its own positions; None where the shapes are no such."""
    users, inside = {layer.site.index}, set[int]()
    for index in range(layer.site.index - 1, -1, -1):
        node = net.nodes[index]
        read = bool(node.output) and any(i in users for i, _ in net.readers.get(node.output[0], ()))
        if read and _reads_only(net, node.output, users) and _is_elementwise(net, index, layer):
            users.add(index)
            inside.add(index)
    sizes = net.sizes(layer.x)
    values = [n for i in inside for n in (*net.nodes[i].input, *net.nodes[i].output) if n in net.live]
    return inside if sizes is not None and all(net.sizes(n) == sizes for n in values) else None


def _reads_only(net: Network, names: Sequence[str], users: set[int]) -> bool:
    """Is nothing but those nodes reading those values, and are they no outputs?"""
    return all(n not in net.outputs and {i for i, _ in net.readers.get(n, ())} <= users for n in names if n)


def _is_elementwise(net: Network, index: int, layer: FitLayer) -> bool:
    """Does a node compute each position for itself, with constants that are the same at all places?"""
    site = net.site(index)
    traits, node = site.record.traits, site.node
    if (
        len([o for o in node.output if o]) != 1
        or traits.random
        or traits.changes_type
        or not net.live & set(node.input)
    ):
        return False
    if traits.statistics:
        return len(site.known) == len(node.input) - 1
    rank = len(net.sizes(layer.x) or ())
    spread = rank - layer.x_axis % rank if rank else 0  # the channel axis, counted from the end
    return traits.pointwise and all(_is_same_everywhere(c, spread) for c in site.known.values())


def _is_same_everywhere(c: np.ndarray, axis: int) -> bool:
    """Has a constant one number, or one for each channel?"""
    return c.size == 1 or (c.ndim >= axis and c.shape[-axis] == c.size)


def _maker(net: Network, leaf: str, users: set[int]) -> int | None:
    """The node of the layer that makes a value for those nodes alone, where its weights may change."""
    at = net.maker(leaf)
    if at is None or not _reads_only(net, [leaf], users):
        return None
    site = net.site(at)
    if not is_layer(site.record) or is_recurrent(site.record):
        return None
    try:
        layer = _build(net, at, _bias(net, at, users))
    except Unfit:
        return None
    return at if _may_change(net, layer) else None


def _bias(net: Network, at: int, inside: set[int]) -> int | None:
    """The only node that reads what a layer makes, where it is in the chain and adds the layer's bias."""
    after = net.only_reader(net.nodes[at].output[0])
    if after not in inside:
        return None
    try:
        layer = make_layer(net.site(at), net.site(after))
    except Unfit:
        return None
    return after if layer.y == net.nodes[after].output[0] else None


def _build(net: Network, at: int, bias: int | None) -> FitLayer:
    """A layer, with the weights that it has by now. Raises Unfit."""
    site = net.current_site(at)
    return make_layer(site, None if bias is None else net.current_site(bias))


def _may_change(net: Network, layer: FitLayer) -> bool:
    """Is a layer one of floats, whose weights are its own, and not to become sparse?"""
    plain = isinstance(layer, Convolution | MatrixProduct) and layer.matrix.weight.dtype == np.float32
    if not plain or layer.hidden or not net.unsettled.isdisjoint((layer.x, layer.y)):
        return False
    if (layer.site.index, layer.slot) in net.thinned or net.nearest(layer) is not None:
        return False
    try:
        for change in layer.list_changes(layer.w, layer.b):
            net.check(change)
    except Unfit:
        return False
    return True


def build_reader(net: Network, chain: Chain) -> FitLayer:
    """The layer behind a chain, with the weights that it has by now."""
    after = net.only_reader(net.nodes[chain.reader].output[0])
    return make_layer(net.current_site(chain.reader), None if after is None else net.current_site(after))
