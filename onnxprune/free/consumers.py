"""The weights that read channels: which of them they can do without, and what they are to be without those."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.axes import Axis, Var
from onnxprune.free.slices import GONE, Slices
from onnxprune.free.substitution import Substitution, find_positions, keeps_constants
from onnxprune.free.values import Values
from onnxprune.graph.flat import nest
from onnxprune.graph.model import Model
from onnxprune.graph.view import Site, map_makers
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.ops.records import get_record
from onnxprune.repair.kinds import KINDS, make_layer
from onnxprune.repair.linear_layers import Change, FitLayer, Unfit
from onnxprune.repair.network import Network, restore_calls


@dataclass
class Consumer:
    """An axis of a weight in an input slot of a node, which reads the channels of v; those that it multiplies with zeros."""

    index: int
    slot: int
    name: str
    axis: int
    v: Var
    unread: Array

    @property
    def site(self) -> Site:
        return self.index, self.slot


class Consumers:
    """Answers for consumers of one model."""

    def __init__(self, analysis: Analysis, values: Values) -> None:
        self.analysis, self.values = analysis, values
        self.noted: list[Consumer] = []
        self._layers: dict[Site, bool | None] = {}

    def slices(self, c: Consumer) -> Slices:
        """The known slices of the channels that the consumer's node reads."""
        node = self.values.nodes[c.index]
        product = get_record(node).product
        names = [
            n for n in node.input if n and c.v in self.values.carried(n) and not self.values.contents.is_constant(n)
        ]
        if product is None or product.kind not in KINDS or len(names) != 1:
            return Slices.unknown(c.v.size)
        dtype = self.values.c.trace.dtype(names[0])
        return self.values.slices(names[0], c.v) if is_float(dtype_of(dtype or 7)) else Slices.unknown(c.v.size)

    def unneeded(self, c: Consumer) -> Array:
        """The channels that add nothing to the consumer's sums."""
        return np.asarray(c.unread | self.slices(c).zero)

    def labels(self, c: Consumer) -> Array:
        """A label for each channel: GONE where the consumer needs none, the same for those that can stand for each other."""
        slices, unneeded = self.slices(c), self.unneeded(c)
        if (slices.is_unknown or unneeded.all()) or (takes := self._takes_bias(c)) is None:
            return np.where(unneeded, GONE, np.arange(c.v.size))
        return np.where(unneeded, GONE, slices.labels(takes))

    def _takes_bias(self, c: Consumer) -> bool | None:
        """Can the consumer be changed, and its bias take what constants add to its sums? None: no weight of it can."""
        if c.site not in self._layers:
            try:
                layer = self._layer(c)
                for change in layer.list_changes(layer.w, layer.b):
                    self._net.check(change)
                    if not self._net.stores_all(change):
                        raise Unfit("its weights are stored in another type")
                node, product = self.values.nodes[c.index], get_record(self.values.nodes[c.index]).product
                kernel = layer.w.shape[0] * layer.w.shape[1] // self._read_axis(layer).length
                same = product is not None and keeps_constants(node, product, kernel)
                self._layers[c.site] = same and layer.b is not None
            except Unfit:
                self._layers[c.site] = None
        return self._layers[c.site]

    @cached_property
    def _net(self) -> Network:
        flat = self.analysis.flat
        return Network(self.analysis, {}, flat, restore_calls(flat, self.analysis.model))

    @cached_property
    def _at(self) -> dict[str, int]:
        return map_makers(self._net.nodes)

    def _layer(self, c: Consumer) -> FitLayer:
        """The consumer as a matrix product. Raises Unfit."""
        site = self._net.site(self._at[self.values.nodes[c.index].output[0]])
        after = self._net.only_reader(site.node.output[0])
        layer = make_layer(site, None if after is None else self._net.site(after))
        if layer.slot != c.slot or layer.hidden or layer.code is not None:
            raise Unfit("it computes more than a product")
        return layer

    def _read_axis(self, layer: FitLayer) -> Axis:
        """The axis that the layer sums over, in what it reads."""
        return self.values.layout(-1, -1, layer.x)[layer.x_axis]

    def without(self, removed: Mapping[Var, Array], labels: Mapping[Var, Array]) -> Model:
        """The model whose consumers make up for channels that are to be removed: those of GONE or kept ones of their label."""
        by_site: dict[Site, list[Consumer]] = defaultdict(list)
        for c in self.noted:
            if c.v in removed and self._moves(c, removed[c.v]):
                by_site[c.site].append(c)
        changes: list[Change] = []
        for some in by_site.values():
            layer = self._layer(some[0])
            w, b = layer.w.astype(np.float64).copy(), None if layer.b is None else np.array(layer.b, np.float64)
            for c in some:
                self._substitute(c, layer, w, b, removed[c.v], labels[c.v])
            moved = b is not None and layer.b is not None and not np.array_equal(b, layer.b)
            changes += layer.list_changes(w, b if moved else None)
        flat = self.analysis.flat
        return nest(self._net.written(flat, changes), self.analysis.model)

    def _moves(self, c: Consumer, removed: Array) -> bool:
        """Does the consumer have to make up for any of those channels?"""
        needed = ~self.unneeded(c)
        return bool((removed & needed).any()) and self._takes_bias(c) is not None

    def _substitute(
        self, c: Consumer, layer: FitLayer, w: Array, b: Array | None, removed: Array, labels: Array
    ) -> None:
        """Change w [g, K, O] and b [g, O] so that the removed channels need not be read."""
        labels_of_consumer, own = self.labels(c), np.arange(c.v.size)
        into = own.copy()
        for j in np.flatnonzero(removed):
            stand_ins = np.flatnonzero((labels == labels[j]) & ~removed)
            if labels[j] == GONE or len(stand_ins):
                into[j] = GONE if labels_of_consumer[j] == GONE else stand_ins[0]
        into = np.where(self.unneeded(c), own, into)
        swap = Substitution.into_those(self.slices(c), into, bool(self._takes_bias(c)))
        axis = self._read_axis(layer)
        inputs, where = axis.length // len(w), find_positions(axis, c.v)
        for g in range(len(w)):
            inside = where // inputs == g
            if not inside.any():
                continue
            view = w[g].reshape(-1, inputs, w.shape[2]).transpose(1, 0, 2).copy()
            sums = np.zeros(view.shape[1:])
            swap.apply(view, where[inside].reshape(len(where), -1) % inputs, sums)
            w[g] = view.transpose(1, 0, 2).reshape(w[g].shape)
            if b is not None:
                b[g] += sums.sum(axis=0)
