"""Which channels are free: removing them changes no output, but for rounding, once their consumers make up for them.

dead      all consumers read zeros of it, or multiply it with zeros
constant  it holds a constant, which moves into the consumers' biases
merged    it is a multiple of another one, of which the consumers take more
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import NodeProto

from onnxprune.axes import Var
from onnxprune.free.consumers import Consumer, Consumers
from onnxprune.free.multiples import join_labels
from onnxprune.free.slices import GONE
from onnxprune.free.substitution import find_positions, find_unread
from onnxprune.free.values import Values
from onnxprune.graph.view import Site
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis, Group
from onnxprune.ops.records import get_record

STAYS = "constant channels that are kept: {} (they are padded with zeros, or no bias can take their value)"


@dataclass(frozen=True)
class FreeChannels:
    """The channels of a group that are free, by why they are."""

    dead: Array
    constant: Array
    merged: Array

    @cached_property
    def all(self) -> Array:
        return np.sort(np.concatenate([self.dead, self.constant, self.merged]))

    def kinds(self) -> Mapping[str, Array]:
        return {"dead": self.dead, "constant": self.constant, "merged": self.merged}


@dataclass
class Found:
    """The free channels of a model, and the compensation by its consumers."""

    analysis: Analysis
    values: Values
    consumers: Consumers
    groups: dict[str, FreeChannels] = field(default_factory=dict)
    labels: dict[Var, Array] = field(default_factory=dict)  # channels of one label are multiples of each other
    notes: dict[str, str] = field(default_factory=dict)  # of groups that keep constants, why

    @property
    def needs_changes(self) -> bool:
        """Do consumers have to make up for any of it?"""
        return any(len(f.constant) or len(f.merged) for f in self.groups.values())


def find_free(analysis: Analysis) -> Found:
    """Look through the weights once, and through those again whose outputs turn out to be read by nobody.

    Groups along which an operator mixes have no free channels: a mean depends on how many there are.
    """
    groups = [g for g in analysis.groups if g.exact]
    search = _FreeChannelFinder(analysis, groups)
    search.run()
    return search.result


class _FreeChannelFinder:
    def __init__(self, analysis: Analysis, groups: Iterable[Group]) -> None:
        self.exact = list(groups)
        self.groups = {v: g for g in self.exact for v in g.vars}
        self.values = Values(analysis, set(self.groups))
        self.consumers = Consumers(analysis, self.values)
        self.result = Found(analysis, self.values, self.consumers)
        self.by_var: dict[Var, list[Consumer]] = defaultdict(list)
        self.makers: dict[Var, list[Site]] = defaultdict(list)
        self.at_site: dict[Site, list[Consumer]] = defaultdict(list)
        self.spoiled: set[Var] = set()  # something else than weights reads them

    def run(self) -> None:
        for index, node in enumerate(self.values.nodes):
            self.values.visit(index, node)
            self._note_consumers(index, node)
        free = {v: self._judge(v) for v in self.by_var if v not in self.spoiled and self._is_special(v)}
        self._follow_back(free)
        for g in self.exact:
            parts = [(free[v], at) for v, at in _starts(g) if v in free]
            kinds = [np.concatenate([part[k] + at for part, at in parts] or [np.zeros(0, np.int64)]) for k in range(3)]
            if any(map(len, kinds)):
                self.result.groups[g.name] = FreeChannels(*kinds)

    def _note_consumers(self, index: int, node: NodeProto) -> None:
        """The weights of a node that read channels; channels that it reads otherwise, and does not pass on, are spoiled."""
        read = {v for n in node.input if n for v in self.values.carried(n)}
        consumed = {c.v for c in self._weights_of(index, node)}
        if read and not get_record(node).traits.reads_sizes:
            passed_on = {v for n in node.output if n for v in self.values.carried(n)}
            self.spoiled |= read - passed_on - consumed

    def _weights_of(self, index: int, node: NodeProto) -> Iterator[Consumer]:
        """The consumers in a node; what only computes a weight is none."""
        c = self.values.c
        if node.output and node.output[0] in c.computed:
            return
        for slot, name in enumerate(node.input):
            if not self.values.contents.is_constant(name):
                continue
            for axis, layout in enumerate(self.values.layout(index, slot, name)):
                channels = [v for v in layout.leaves if v in self.groups]
                roles = c.roles.get((name, axis), ()) if channels else ()
                if ((index, slot), "out") in roles:
                    for v in channels:
                        self.makers[v].append((index, slot))
                if ((index, slot), "in") not in roles:
                    continue
                array = self.values.contents.numbers(name)
                unread = None if array is None else find_unread(array, axis)
                for v in channels:
                    consumer = Consumer(index, slot, name, axis, v, np.zeros(v.size, bool))
                    if unread is not None and unread.any():
                        consumer.unread = np.asarray(unread[find_positions(layout, v)].all(axis=1))
                    self.consumers.noted.append(consumer)
                    self.by_var[v].append(consumer)
                    self.at_site[index, slot].append(consumer)
                    yield consumer

    def _judge(self, v: Var) -> tuple[Array, Array, Array]:
        """The dead, the constant and the merged channels of v."""
        labels = [self.consumers.labels(c) for c in self.by_var[v]]
        joined = join_labels(labels)
        gone = np.all([x == GONE for x in labels], axis=0)
        dead = np.all([self.consumers.unneeded(c) for c in self.by_var[v]], axis=0)
        _, first, inverse = np.unique(joined, return_index=True, return_inverse=True)
        merged = ~gone & (first[inverse.reshape(-1)] != np.arange(v.size))
        self.result.labels[v] = np.where(gone, GONE, joined)
        constant = np.all([self.consumers.slices(c).constant for c in self.by_var[v]], axis=0)
        if stays := int((constant & ~gone & ~merged).sum()):
            self.result.notes[self.groups[v].name] = STAYS.format(stays)
        return np.flatnonzero(dead), np.flatnonzero(gone & ~dead), np.flatnonzero(merged)

    def _follow_back(self, free: dict[Var, tuple[Array, Array, Array]]) -> None:
        """Propagate backwards: a layer whose output channels are unread need not read its own inputs."""
        todo = [v for v in free if self._unread(v).any()]
        while todo:
            sites = dict.fromkeys(site for v in todo for site in self.makers[v])
            touched = {v for site in sites if site in self.at_site for v in self._read_again(site)}
            todo = []
            for v in [v for v in self.by_var if v in touched and v not in self.spoiled]:
                free[v] = self._judge(v)
                todo.append(v)

    def _is_special(self, v: Var) -> bool:
        """May any of the channels be free? Of most groups none is."""
        return v in self.values.special or any(c.unread.any() for c in self.by_var[v])

    def _unread(self, v: Var) -> Array:
        return np.asarray(np.all([c.unread for c in self.by_var[v]], axis=0))

    def _read_again(self, site: Site) -> set[Var]:
        """Channels of which a weight reads fewer now that some of its outputs are read by nobody."""
        name = self.at_site[site][0].name
        layout = self.values.layout(*site, name)
        array = self.values.contents.numbers(name)
        outputs = [a for a in range(len(layout)) if (site, "out") in self.values.c.roles.get((name, a), ())]
        if array is None:
            return set()
        for a in outputs:
            dead = np.zeros(array.shape[a], bool)
            for v in (v for v in layout[a].leaves if v in self.by_var and v not in self.spoiled):
                dead[find_positions(layout[a], v)[self._unread(v)]] = True
            array = np.delete(array, np.flatnonzero(dead), a)
        touched = set()
        for c in self.at_site[site]:
            unread = find_unread(array, c.axis)[find_positions(layout[c.axis], c.v)].all(axis=1)
            if (unread & ~c.unread).any():
                c.unread = unread | c.unread
                touched.add(c.v)
        return touched


def _starts(g: Group) -> Iterator[tuple[Var, int]]:
    """The Vars of a group, each with its first channel."""
    at = 0
    for v in g.vars:
        yield v, at
        at += v.size
