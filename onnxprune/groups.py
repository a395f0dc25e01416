"""From layouts to what a user sees: groups of channels, their members, and what is frozen and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.coupling import Coupling, Use, couple_graph
from onnxprune.graph.io import Model
from onnxprune.layout import FIXED, PROD, Dim, Reason, find, leaves, show
from onnxprune.macs import total_macs

PARAM_TYPES = {
    getattr(TensorProto, name)
    for name in TensorProto.DataType.keys()
    if name.startswith(("FLOAT", "DOUBLE", "BFLOAT", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"))
}
ANONYMOUS = re.compile(r"^(onnx::.*|_?v?a?l?_?\d+|const_.*|.*::.*_\d+)$")


@dataclass(frozen=True)
class Member:
    """One axis of one weight that a group's channels live on."""

    tensor: str
    axis: int
    role: str
    use: Use
    dim: Dim


@dataclass(frozen=True)
class Frozen:
    """A weight axis of more than one position that no group reaches, or not wholly."""

    tensor: str
    axis: int
    size: int
    layout: str
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
    coupling: Coupling
    groups: list[Group]
    frozen: list[Frozen]
    letters: dict[Dim, str] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    def layout(self, d: Dim) -> str:
        return show(d, self.letters)

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """The names of the nodes that read each weight."""
        out: dict[str, list[str]] = {}
        for node in self.model.proto.graph.node:
            for name in node.input:
                if name in self.coupling.weights and node.name:
                    out.setdefault(name, []).append(node.name)
        return out

    @cached_property
    def dequantizers(self) -> dict[str, NodeProto]:
        """The DequantizeLinear node that reads each quantised weight."""
        nodes = self.model.proto.graph.node
        return {n.input[0]: n for n in nodes if n.op_type == "DequantizeLinear" and n.input[1] in self.coupling.weights}

    def params(self) -> int:
        return sum(self.param_count(n) for n in self.coupling.weights)

    @cached_property
    def statistics(self) -> set[str]:
        """Running means and variances that are nothing else: state, which the field does not count among the parameters."""
        reads = {
            (name, node.op_type == "BatchNormalization" and slot > 2)
            for node in self.model.proto.graph.node
            for slot, name in enumerate(node.input)
        }
        return {name for name, as_state in reads if as_state and (name, False) not in reads}

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
        return total_macs(self.model.proto, self.coupling.trace)


def analyze(model: Model) -> Analysis:
    """List the groups of a model. Unknown operators freeze what they touch; nothing is guessed."""
    c = couple_graph(model)
    mixed = _mixed_vars(c)
    where = _members(c)
    groups = _name(c, [_merge(c, vs, where, mixed) for vs in _footprints(c) if any(v in where for v in vs)])
    groups = [g for g in groups if g.size > 1 and any(c.weights[m.tensor].data_type in PARAM_TYPES for m in g.members)]
    a = Analysis(model, c, groups, _frozen(c))
    a.letters = _letters(groups)
    return a


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
            for v in leaves(d):
                where[v].append(Member(name, axis, c.roles.get((name, axis), default), use, d))
    return where


def _all_axes(c: Coupling) -> Iterator[Dim]:
    for axes in c.uses.values():
        yield from axes
    for maybe in c.layouts.values():
        yield from maybe or ()


def _footprints(c: Coupling) -> list[list[Dim]]:
    """Vars grouped by footprint. Vars that share a product with others stay alone: their partners differ."""
    prints: dict[Dim, list[tuple[int, int]]] = {}
    alone: set[Dim] = set()
    seen: set[int] = set()
    for d in _all_axes(c):
        root = find(d)
        if id(root) in seen or root.kind == FIXED:
            continue
        seen.add(id(root))
        count, products = _occurrences(root)
        alone |= products
        for v, n in count.items():
            prints.setdefault(v, []).append((id(root), n))
    groups: dict[object, list[Dim]] = {}
    for v, key in prints.items():
        groups.setdefault(v if v in alone else tuple(sorted(key)), []).append(v)
    return list(groups.values())


def _occurrences(root: Dim) -> tuple[Counter[Dim], set[Dim]]:
    """How many positions each channel of each Var owns along an axis; and the Vars that share a product."""
    count: Counter[Dim] = Counter()
    products: set[Dim] = set()
    todo: list[tuple[Dim, int]] = [(root, 1)]
    while todo:
        d, times = todo.pop()
        d = find(d)
        if d.kind == "var":
            count[d] += times
        elif d.kind == PROD:
            inside = leaves(d)
            if len(inside) > 1:
                products.update(inside)
            total = 1
            for p in d.parts:
                s = find(p).size
                total *= s if isinstance(s, int) else s[0] * 1009 + s[1]
            for p in d.parts:
                s = find(p).size
                if find(p).kind != FIXED and isinstance(s, int) and s:
                    todo.append((p, times * (total // s)))
        else:
            todo.extend((p, times) for p in reversed(d.parts))
    return count, products


def _merge(c: Coupling, vs: list[Dim], where: dict[Dim, list[Member]], mixed: dict[Dim, str]) -> Group:
    members: dict[tuple[Use, int], Member] = {}
    for v in vs:
        for m in where[v]:
            members.setdefault((m.use, m.axis), m)
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
    name = first.tensor.removesuffix(".weight")
    if not ANONYMOUS.match(name):
        return name
    node = next(
        (n for k in ("filters", "neurons", "embedding", "heads", "head features") for n in found.get(k, ())), ""
    )
    return node or name


def _frozen(c: Coupling) -> list[Frozen]:
    out: dict[tuple[str, int], Frozen] = {}
    for use, axes in c.uses.items():
        w = c.weights[use[0]]
        if w.data_type not in PARAM_TYPES:
            continue
        for axis, d in enumerate(axes):
            reason = _first_reason(d)
            if reason is not None and w.shape[axis] > 1:
                out.setdefault((use[0], axis), Frozen(use[0], axis, w.shape[axis], show(d), reason))
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
