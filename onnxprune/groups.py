"""From layouts to what a user sees: groups of channels, their members, and what is frozen and why."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from onnx import TensorProto

from onnxprune.coupling import SHARED, Coupling, Use, couple_graph
from onnxprune.graph.flat import flatten
from onnxprune.graph.io import Model
from onnxprune.graph.view import Site
from onnxprune.layout import (
    FIXED,
    PROD,
    VAR,
    Dim,
    Reason,
    Size,
    add,
    concat,
    find,
    fixed,
    leaves,
    mul,
    pair,
    prod,
    show,
    size_where,
)
from onnxprune.macs import total_macs
from onnxprune.ops.records import record_of

PARAM_TYPES = {
    getattr(TensorProto, name)
    for name in TensorProto.DataType.keys()
    if name.startswith(("FLOAT", "DOUBLE", "BFLOAT", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"))
}
COPIED = re.compile(r"(_pruned_\d+)+$")  # what surgery adds to the name of a copy
ANONYMOUS = re.compile(r"^(onnx::.*|_?v?a?l?_?\d+|const_.*|.*::.*_\d+)$")
ALONE = "a single channel owns all of it, and the last of a group always stays"


# axes, and how many of their positions a channel owns at each sample size
Footprint = list[tuple[int, tuple[int, int]]]


@dataclass(frozen=True)
class Member:
    """One axis of one weight that a group's channels live on, in one of the parts that it plays."""

    tensor: str
    axis: int
    role: str
    use: Use
    dim: Dim
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
    vars: list[Dim]
    members: list[Member]
    mixed: str = ""  # the operator that makes it approximate

    @property
    def size(self) -> int:
        return sum(v.size for v in self.vars if isinstance(v.size, int))

    @property
    def exact(self) -> bool:
        return not self.mixed


@dataclass
class Analysis:
    """What can be pruned in a model, and what cannot."""

    model: Model
    flat: Model  # the model in one line, which is what coupling, uses and surgery speak of
    coupling: Coupling
    groups: list[Group]
    frozen: list[Frozen]
    letters: dict[Dim, str] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)  # sizes of the data that it was made with

    @property
    def by_name(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    def layout(self, d: Dim) -> str:
        """A layout in the letters of the groups; channels that no group holds are a number, as frozen ones are."""
        names = {v: self.letters.get(v, str(v.size)) for v in leaves(d)}
        if names and names.keys().isdisjoint(self.letters):
            return show(fixed(find(d).size))
        return show(d, names)

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
    def outside(self) -> set[str]:
        """The activations that the model as it was given has: none of bodies and local functions."""
        graph = self.model.proto.graph
        return {v.name for v in graph.input} | {o for n in graph.node for o in n.output}

    def params(self) -> int:
        return sum(self.param_count(n) for n in self.coupling.weights)

    @cached_property
    def statistics(self) -> set[str]:
        """Running means and variances: state, which the field does not count among the parameters; not what else reads."""
        state: set[str] = set()
        read: set[str] = set()
        for node in self.flat.proto.graph.node:
            running = record_of(node).traits.statistics
            for slot, name in enumerate(node.input):
                (state if slot in running else read).add(name)
        return state - read

    def param_count(self, name: str) -> int:
        w = self.coupling.weights[name]
        if name in self.statistics:
            return 0
        return int(np.prod(w.shape)) if w.data_type in PARAM_TYPES and w.shape else 0

    def prunable_params(self) -> int:
        """Parameters of the weights that go or shrink when every group keeps one channel."""
        touched = {m.tensor for g in self.groups for m in g.members}
        return sum(self.param_count(n) for n in touched)

    def macs(self) -> int | None:
        """Multiply-accumulates of one inference at the first sample size (batch 1)."""
        return total_macs(self.coupling.live, self.coupling.trace)

    @property
    def no_macs(self) -> str:
        """Why the multiply-accumulates are unknown, where they are."""
        if self.coupling.trace.short:
            return "an axis is empty at every size that was tried"
        return "a shape depends on the data"


def analyze(model: Model, data: Mapping[str, int] = MappingProxyType({})) -> Analysis:
    """List the groups of a model. Unknown operators freeze what they touch; nothing is guessed.

    `data` has the sizes of the data, by symbol or `input[axis]`: they are tried where a layer does not survive the usual ones.
    """
    flat = flatten(model)
    c = couple_graph(flat, model, data)
    mixed = _mixed_vars(c)
    where = _members(c)
    groups = _name(c, [_merge(c, vs, where, mixed) for vs in _footprints(c) if any(v in where for v in vs)])
    groups = [g for g in groups if g.size > 1 and any(c.weights[m.tensor].data_type in PARAM_TYPES for m in g.members)]
    letters = _letters(groups)
    return Analysis(model, flat, c, groups, _frozen(c, letters), letters, data)


def _mixed_vars(c: Coupling) -> dict[Dim, str]:
    out: dict[Dim, str] = {}
    for d, why in c.mixed:
        for v in leaves(d):
            out.setdefault(v, why)
    return out


def _members(c: Coupling) -> dict[Dim, list[Member]]:
    where: dict[Dim, list[Member]] = defaultdict(list)
    for use, axes in c.uses.items():
        name = use[0]
        default = "out" if len(axes) > 1 else "bias"
        for axis, d in enumerate(axes):
            read = [(site, role) for site, role in c.roles.get((name, axis), ()) if use[1:] in (SHARED, site)]
            roles = dict.fromkeys(role for _, role in read) or (default,)
            parts = [Member(name, axis, r, use, d, tuple(s for s, role in read if role == r)) for r in roles]
            for v in leaves(d):
                where[v].extend(parts)
    return where


def _all_axes(c: Coupling) -> Iterator[Dim]:
    for axes in c.uses.values():
        yield from axes
    for maybe in c.layouts.values():
        yield from maybe or ()


def _footprints(c: Coupling) -> list[list[Dim]]:
    """The Vars of each group, groups and Vars in canonical order.

    The size of an axis is a polynomial in the sizes of its Vars, and a Var's footprint is how many positions of each axis
    one of its channels owns: the polynomial's derivative. `(h d) + 2 a` gives h the footprint d, d the footprint h, a the
    footprint 2. Where two Vars agree on every axis, sizes depend on their sum alone; they are one group, whatever cut
    them apart. So pruning, which changes sizes and may empty a Var, changes neither the groups nor their order.
    """
    axes = list({id(find(d)): find(d) for d in _all_axes(c)}.values())
    rng = random.Random(0)
    point: dict[Dim, int] = defaultdict(lambda: rng.getrandbits(64))  # polynomials are compared at a random point
    lines = [{v: i for i, v in enumerate(leaves(axis))} for axis in axes]
    groups: dict[object, list[Dim]] = {}
    for v, footprint in sorted(_owned_at(axes, point).items(), key=lambda item: _place(lines, *item)):
        groups.setdefault(tuple(footprint), []).append(v)
    return _in_order(axes, list(groups.values()))


def _place(lines: Sequence[Mapping[Dim, int]], v: Dim, footprint: Footprint) -> tuple[int, int]:
    """Where the channels of a Var stand in line: on the first axis that has each once, so that no partner reorders them."""
    at = next((at for at, n in footprint if n == (1, 1)), footprint[0][0])
    return at, lines[at][v]


def _in_order(axes: Sequence[Dim], groups: list[list[Dim]]) -> list[list[Dim]]:
    """Groups sorted by the axes that they are on, then by how many positions they own there.

    Where a group begins on an axis says little, since a plan may remove just that: it is only used among single channels,
    and for what is alike in all else. Each round tells groups apart by the partners that the last one has told apart.
    """
    start = [i + 1 if find(concat(*vs)).size == 1 else 0 for i, vs in enumerate(groups)]
    ranks = [0] * len(groups)
    for _ in range(3):
        sizes = {v: 0 for vs in groups for v in vs}  # the first Var of a group stands for all of it
        sizes |= {vs[0]: random.Random(r).getrandbits(64) for r, vs in zip(ranks, groups, strict=True)}
        owned = _owned_at(axes, sizes)
        keys = [(r, owned[vs[0]], at) for r, vs, at in zip(ranks, groups, start, strict=True)]
        rank_of = {str(key): rank for rank, key in enumerate(sorted(keys))}
        ranks = [rank_of[str(key)] for key in keys]
    return [groups[i] for i in np.argsort(ranks, kind="stable")]


def _owned_at(axes: Sequence[Dim], sizes: Mapping[Dim, int]) -> dict[Dim, Footprint]:
    """For each Var the axes that it is on, and how many of their positions a channel owns if the Vars had those sizes."""
    out: dict[Dim, dict[int, Size]] = defaultdict(dict)
    for at, axis in enumerate(axes):
        todo: list[tuple[Dim, Size]] = [(axis, 1)]
        while todo:
            d, times = todo.pop()
            d = find(d)
            if d.kind == VAR:
                out[d][at] = add(out[d].get(at, 0), times)
            for i in reversed(range(len(d.parts))):
                others = prod(*d.parts[:i], *d.parts[i + 1 :]) if d.kind == PROD else fixed(1)
                todo.append((d.parts[i], mul(times, size_where(others, sizes.__getitem__))))
    return {v: [(at, pair(n)) for at, n in owned.items()] for v, owned in out.items()}


def _merge(c: Coupling, vs: list[Dim], where: dict[Dim, list[Member]], mixed: dict[Dim, str]) -> Group:
    members: dict[tuple[Use, int, str], Member] = {}
    for v in vs:
        for m in where[v]:
            members.setdefault((m.use, m.axis, m.role), m)
    why = next((mixed[v] for v in vs if v in mixed), "")
    return Group("", "", vs, list(members.values()), why)


def _name(c: Coupling, groups: list[Group]) -> list[Group]:
    """Name each group after the first weight that makes its channels, and give it the kind its operators suggest."""
    kinds: dict[Dim, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for d, kind, node in c.kinds:
        for v in leaves(d):
            kinds[v][kind].append(node)
    bases = []
    for g in groups:
        found: dict[str, list[str]] = {}
        for v in g.vars:
            for kind, nodes in kinds[v].items():
                found.setdefault(kind, []).extend(nodes)
        g.kind = _kind(found)
        bases.append(_base(c, g, found))
    taken: Counter[str] = Counter(bases)
    seen: Counter[str] = Counter()
    for g, base in zip(groups, bases, strict=True):
        name = f"{base}:{g.kind.replace(' ', '_')}" if taken[base] > 1 else base
        seen[name] += 1
        g.name = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return groups


def _kind(found: dict[str, list[str]]) -> str:
    for kind in ("heads", "head features"):
        if kind in found:
            return kind
    if "residual" in found or "embedding" in found:
        return "width"
    return next((k for k in ("filters", "neurons", "depthwise") if k in found), "channels").replace(
        "depthwise", "filters"
    )


def _base(c: Coupling, g: Group, found: dict[str, list[str]]) -> str:
    first = next((m for m in g.members if m.role == "out"), g.members[0])
    name = COPIED.sub("", first.tensor).removesuffix(".weight")
    if not ANONYMOUS.match(name):
        return name
    node = next(
        (n for k in ("filters", "neurons", "embedding", "heads", "head features") for n in found.get(k, ())), ""
    )
    return node or name


def _frozen(c: Coupling, grouped: Container[Dim]) -> list[Frozen]:
    """Every axis of parameters that no group reaches, and every one that stays in part; once, however many uses it has."""
    out: dict[tuple[str, int], Frozen] = {}
    for use, axes in c.uses.items():
        w = c.weights[use[0]]
        if w.data_type not in PARAM_TYPES:
            continue
        for axis, d in enumerate(axes):
            reason = _first_reason(d) or (None if any(v in grouped for v in leaves(d)) else Reason(ALONE))
            if reason is not None and w.shape[axis] > 1:
                out.setdefault((use[0], axis), Frozen(use[0], axis, w.shape[axis], use, reason))
    return list(out.values())


def _first_reason(d: Dim) -> Reason | None:
    """The most telling reason among the frozen parts of an axis; None where every position has an owner."""
    best: Reason | None = None
    owned = _owned(d)
    todo = [] if owned else [d]
    while todo:
        t = find(todo.pop())
        if t.kind == FIXED and (best is None or best.structural):
            best = t.reason
        todo.extend(p for p in t.parts if not _owned(p) or t.kind != PROD)
    return best


def _owned(d: Dim) -> bool:
    d = find(d)
    if d.kind == PROD:
        return any(_owned(p) for p in d.parts)
    return d.kind == "var" or (d.kind == "sum" and all(_owned(p) for p in d.parts))


def _letters(groups: Iterable[Group]) -> dict[Dim, str]:
    """Short names of channels for printing: a, b, .. z, a1, b1, .."""
    out: dict[Dim, str] = {}
    n = 0
    for g in groups:
        for v in g.vars:
            out[v] = chr(97 + n % 26) + (str(n // 26) if n >= 26 else "")
            n += 1
    return out
