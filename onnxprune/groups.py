"""From layouts to what a user sees: groups of channels, their members, and what is frozen and why."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from onnxprune.axes import Axis, Prod, Reason, Size, Var, pair
from onnxprune.coupling import SHARED, Coupling, Use, couple_graph, linearize
from onnxprune.graph.model import Model
from onnxprune.graph.tokens import TokenUse
from onnxprune.graph.view import Site, map_makers
from onnxprune.macs import sum_macs
from onnxprune.ops.records import NOTHING, get_record

COPIED = re.compile(r"(_pruned_\d+)+$")  # what surgery adds to the name of a copy
ANONYMOUS = re.compile(r"^(onnx::.*|_?v?a?l?_?\d+|const_.*|.*::.*_\d+)$")
ALONE = "a single channel owns all of it, and the last of a group is always kept"


# axes, and how many of their positions a channel owns at each sample size
Footprint = list[tuple[int, tuple[int, int]]]


@dataclass(frozen=True)
class Member:
    """One axis of one weight that a group's channels live on, in one of the parts that it plays."""

    tensor: str
    axis: int
    role: str
    use: Use
    dim: Axis
    sites: tuple[Site, ...]  # the node inputs that read it so


@dataclass(frozen=True)
class Frozen:
    """A weight axis of more than one position that no group reaches, or not wholly."""

    tensor: str
    axis: int
    size: int
    use: Use  # the one whose layout is frozen
    reason: Reason


@dataclass
class Group:
    """Channels with the same footprint: the unit that is named, scored and pruned."""

    name: str
    kind: str
    vars: list[Var]
    members: list[Member]
    mixed: str = ""  # the operator that makes it approximate
    ordered: bool = False  # does the order of its channels matter, as neighbors are mixed?

    @property
    def size(self) -> int:
        """The number of channels."""
        return sum(v.size for v in self.vars)

    @property
    def exact(self) -> bool:
        """Does removing channels equal zeroing them, as no operator mixes along the group?"""
        return not self.mixed


@dataclass(repr=False)
class Analysis:
    """The groups of channels that can be pruned in a model, and the frozen axes with their reasons."""

    model: Model
    flat: Model  # the model in one line, which is what coupling, uses and surgery speak of
    coupling: Coupling
    groups: list[Group]
    frozen: list[Frozen]
    letters: dict[Var, str] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)  # sizes of the data that it was made with

    def __repr__(self) -> str:
        return f"Analysis({self.model}, {len(self.groups)} groups, {len(self.frozen)} frozen axes)"

    @property
    def by_name(self) -> dict[str, Group]:
        """The groups by name."""
        return {g.name: g for g in self.groups}

    @cached_property
    def at_of(self) -> dict[str, int]:
        """Where a group is in lists of all groups, by its name."""
        return {g.name: i for i, g in enumerate(self.groups)}

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """How many channels each group has."""
        return np.array([g.size for g in self.groups], np.int64)

    def layout(self, axis: Axis) -> str:
        """A layout in the letters of the groups; channels that no group holds are a number, as frozen ones are."""
        names = {v: self.letters.get(v, str(v.size)) for v in axis.leaves}
        if names and names.keys().isdisjoint(self.letters):
            return str(axis.size)
        return axis.show(names)

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """The names of the nodes that read each weight."""
        out: dict[str, list[str]] = {}
        for node in self.flat.proto.graph.node:
            for name in node.input:
                if name in self.coupling.weights and node.name:
                    out.setdefault(name, []).append(node.name)
        return out

    @cached_property
    def made_by(self) -> Mapping[str, NodeProto]:
        """The node of the model as it was given that makes each activation."""
        nodes = self.model.proto.graph.node
        return {name: nodes[i] for name, i in map_makers(nodes).items()}

    @cached_property
    def outside(self) -> set[str]:
        """The activations that the model as it was given has: none of bodies and local functions."""
        graph = self.model.proto.graph
        return {v.name for v in graph.input} | {o for n in graph.node for o in n.output}

    def params(self) -> int:
        """The number of parameters of the model; running statistics are not counted."""
        return sum(self.param_count(n) for n in self.coupling.weights)

    @cached_property
    def statistics(self) -> set[str]:
        """Running means and variances: state, which the field does not count among the parameters; not what else reads."""
        state: set[str] = set()
        read: set[str] = set()
        for node in self.flat.proto.graph.node:
            running = get_record(node).traits.statistics
            for slot, name in enumerate(node.input):
                (state if slot in running else read).add(name)
        return state - read

    def param_count(self, name: str) -> int:
        """The number of parameters in a weight; 0 for running statistics and for constants that are no parameters."""
        shape = self.coupling.weights[name].shape
        if name in self.statistics or not shape or not self.coupling.has_parameters(name):
            return 0
        return int(np.prod(shape))

    def prunable_params(self) -> int:
        """Parameters of the weights that go or shrink when every group keeps one channel."""
        touched = {m.tensor for g in self.groups for m in g.members}
        return sum(self.param_count(n) for n in touched)

    def macs(self) -> int | None:
        """Multiply-accumulates of one inference at the first sample size (batch 1)."""
        return None if self.uncounted else sum_macs(self.coupling.live, self.coupling.trace)

    @cached_property
    def uncounted(self) -> str:
        """The first operator without a rule that reads a weight of several axes: nobody knows how often it multiplies."""
        for node in self.coupling.live:
            read = (n for n in node.input if n in self.coupling.weights) if get_record(node) is NOTHING else ()
            if any(len(self.coupling.weights[n].shape) > 1 and self.param_count(n) for n in read):
                return f"{node.domain}::{node.op_type}"
        return ""

    @property
    def no_macs(self) -> str:
        """Why the multiply-accumulates are unknown, where they are."""
        if self.uncounted:
            return f"nothing is known of {self.uncounted}, which reads a weight"
        if self.coupling.trace.short:
            return "an axis is empty at every size that was tried"
        products = (n for n in self.coupling.live if get_record(n).product)
        unknown = (i for n in products for i in n.input if i and self.coupling.trace.shape(i) is None)
        return next((f"the shape of '{i}' is unknown" for i in unknown), "a shape depends on the data")


def analyze(model: Model, data: Mapping[str, int] = MappingProxyType({}), tokens: TokenUse | None = None) -> Analysis:
    """List the groups of a model. Unknown operators freeze what they touch; nothing is guessed.

    `data` has the sizes of the data, by symbol or `input[axis]`: they are tried where a layer does not survive the usual ones.
    With `tokens`, which are of the flat model, tokens of the vocabulary are channels too.
    """
    flat = linearize(model)
    c = couple_graph(flat, model, data, tokens)
    mixed = _mixed_vars(c)
    where = _members(c)
    groups = _name(c, [_merge(c, vs, where, mixed) for vs in _footprints(c) if any(v in where for v in vs)])
    groups = [g for g in groups if g.size > 1 and any(c.has_parameters(m.tensor) for m in g.members)]
    letters = _letters(groups)
    return Analysis(model, flat, c, groups, _frozen(c, letters), letters, data)


def _mixed_vars(c: Coupling) -> dict[Var, str]:
    out: dict[Var, str] = {}
    for mixed, why in c.mixed:
        for v in mixed.leaves:
            out.setdefault(v, why)
    return out


def _members(c: Coupling) -> dict[Var, list[Member]]:
    where: dict[Var, list[Member]] = defaultdict(list)
    for use, axes in c.uses.items():
        name = use[0]
        default = "out" if len(axes) > 1 else "bias"
        for axis, d in enumerate(axes):
            read = [(site, role) for site, role in c.roles.get((name, axis), ()) if use[1:] in (SHARED, site)]
            roles = dict.fromkeys(role for _, role in read) or (default,)
            parts = [Member(name, axis, r, use, d, tuple(s for s, role in read if role == r)) for r in roles]
            for v in d.leaves:
                where[v].extend(parts)
    return where


def _all_axes(c: Coupling) -> Iterator[Axis]:
    for axes in c.uses.values():
        yield from axes
    for maybe in c.layouts.values():
        yield from maybe or ()


def _footprints(c: Coupling) -> list[list[Var]]:
    """The Vars of each group, groups and Vars in canonical order.

    The size of an axis is a polynomial in the sizes of its Vars, and a Var's footprint is how many positions of each axis
    one of its channels owns: the polynomial's derivative. `(h d) + 2 a` gives h the footprint d, d the footprint h, a the
    footprint 2. Where two Vars agree on every axis, sizes depend on their sum alone; they are one group, whatever cut
    them apart. So pruning, which changes sizes and may empty a Var, changes neither the groups nor their order.
    """
    axes = list(dict.fromkeys(_all_axes(c)))
    rng = random.Random(0)
    point: dict[Var, int] = defaultdict(lambda: rng.getrandbits(64))  # polynomials are compared at a random point
    lines = [{v: i for i, v in enumerate(axis.leaves)} for axis in axes]
    groups: dict[object, list[Var]] = {}
    for v, footprint in sorted(_owned_at(axes, point).items(), key=lambda item: _place(lines, *item)):
        groups.setdefault(tuple(footprint), []).append(v)
    return _in_order(axes, list(groups.values()))


def _place(lines: Sequence[Mapping[Var, int]], v: Var, footprint: Footprint) -> tuple[int, int]:
    """Where the channels of a Var stand in line: on the first axis that has each once, so that no partner reorders them."""
    at = next((at for at, n in footprint if n == (1, 1)), footprint[0][0])
    return at, lines[at][v]


def _in_order(axes: Sequence[Axis], groups: list[list[Var]]) -> list[list[Var]]:
    """Groups sorted by the axes that they are on, then by how many positions they own there.

    Of two groups, the one that is on the first axis on which the other is not comes first. A plan may make two axes alike, which
    then count as one; that does not change which axis is the first. Where a group begins on an axis says little, since a plan may
    remove just that: it is only used among single channels, and for what is alike in all else. Each round tells groups apart by
    the partners that the last one has told apart.
    """
    last = (len(axes), (0, 0))  # behind every axis, so that a list of axes comes before its own beginning
    start = [i + 1 if sum(v.size for v in vs) == 1 else 0 for i, vs in enumerate(groups)]
    ranks = [0] * len(groups)
    for _ in range(3):
        sizes = {v: 0 for vs in groups for v in vs}  # the first Var of a group stands for all of it
        sizes |= {vs[0]: random.Random(r).getrandbits(64) for r, vs in zip(ranks, groups, strict=True)}
        owned = _owned_at(axes, sizes)
        keys = [(r, [*owned[vs[0]], last], at) for r, vs, at in zip(ranks, groups, start, strict=True)]
        rank_of = {str(key): rank for rank, key in enumerate(sorted(keys))}
        ranks = [rank_of[str(key)] for key in keys]
    return [groups[i] for i in np.argsort(ranks, kind="stable")]


def _owned_at(axes: Sequence[Axis], sizes: Mapping[Var, int]) -> dict[Var, Footprint]:
    """For each Var the axes that it is on, and how many of their positions a channel owns if the Vars had those sizes."""
    out: dict[Var, dict[int, Size]] = defaultdict(dict)
    for at, axis in enumerate(axes):
        todo: list[tuple[Axis, Size]] = [(axis, 1)]
        while todo:
            d, times = todo.pop()
            if isinstance(d, Var):
                out[d][at] = out[d].get(at, 0) + times
            for i in reversed(range(len(d.parts))):
                others = (*d.parts[:i], *d.parts[i + 1 :]) if isinstance(d, Prod) else ()
                counts = (p.size_where(sizes.__getitem__) for p in others)
                todo.append((d.parts[i], times * math.prod(counts)))
    return {v: [(at, pair(n)) for at, n in owned.items()] for v, owned in out.items()}


def _merge(c: Coupling, vs: list[Var], where: dict[Var, list[Member]], mixed: dict[Var, str]) -> Group:
    members: dict[tuple[Use, int, str], Member] = {}
    for v in vs:
        for m in where[v]:
            members.setdefault((m.use, m.axis, m.role), m)
    why = next((mixed[v] for v in vs if v in mixed), "")
    ordered = any(v in axis.leaves for axis in c.ordered for v in vs)
    return Group("", "", vs, list(members.values()), why, ordered)


def _name(c: Coupling, groups: list[Group]) -> list[Group]:
    """Name each group after the first weight that makes its channels, and give it the kind its operators suggest."""
    kinds: dict[Var, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for called, kind, node in c.kinds:
        for v in called.leaves:
            kinds[v][kind].append(node)
    bases = []
    for g in groups:
        nodes_of_kind: dict[str, list[str]] = {}
        for v in g.vars:
            for kind, nodes in kinds[v].items():
                nodes_of_kind.setdefault(kind, []).extend(nodes)
        g.kind = _kind(nodes_of_kind)
        bases.append(_base(c, g, nodes_of_kind))
    taken: Counter[str] = Counter(bases)
    seen: Counter[str] = Counter()
    for g, base in zip(groups, bases, strict=True):
        name = f"{base}:{g.kind.replace(' ', '_')}" if taken[base] > 1 else base
        seen[name] += 1
        g.name = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return groups


def _kind(nodes_of_kind: dict[str, list[str]]) -> str:
    for kind in ("heads", "head features", "experts"):
        if kind in nodes_of_kind:
            return kind
    if "residual" in nodes_of_kind or "embedding" in nodes_of_kind:
        return "width"
    return next((k for k in ("filters", "neurons", "depthwise") if k in nodes_of_kind), "channels").replace(
        "depthwise", "filters"
    )


def _base(c: Coupling, g: Group, nodes_of_kind: dict[str, list[str]]) -> str:
    first = next((m for m in g.members if m.role == "out"), g.members[0])
    name = COPIED.sub("", first.tensor).removesuffix(".weight")
    if not ANONYMOUS.match(name):
        return name
    node = next(
        (n for k in ("filters", "neurons", "embedding", "heads", "head features") for n in nodes_of_kind.get(k, ())), ""
    )
    return node or name


def _frozen(c: Coupling, grouped: Container[Var]) -> list[Frozen]:
    """Every axis of parameters that no group reaches, and every one that stays in part; once, however many uses it has."""
    out: dict[tuple[str, int], Frozen] = {}
    for use, axes in c.uses.items():
        w = c.weights[use[0]]
        if not c.has_parameters(use[0]):
            continue
        for axis, d in enumerate(axes):
            reason = d.reason or (None if any(v in grouped for v in d.leaves) else Reason(ALONE))
            if reason is not None and w.shape[axis] > 1:
                out.setdefault((use[0], axis), Frozen(use[0], axis, w.shape[axis], use, reason))
    return list(out.values())


def _letters(groups: Iterable[Group]) -> dict[Var, str]:
    """Short names of channels for printing: a, b, .. z, a1, b1, .."""
    out: dict[Var, str] = {}
    n = 0
    for g in groups:
        for v in g.vars:
            out[v] = chr(97 + n % 26) + (str(n // 26) if n >= 26 else "")
            n += 1
    return out
