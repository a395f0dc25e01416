"""A model as one straight line of nodes: bodies laid out between markers, calls of local functions inlined.

`flatten` writes a Loop (an If, a Scan) as

    LoopOpen (the Loop's inputs) -> the body's inputs
    the body's nodes
    Close (the body's outputs) -> names of their own
    Loop (the body's inputs, the names that Close made) -> the Loop's outputs

so that whoever walks the nodes in order, ties layouts, or edits an input needs to know nothing of scopes. A name that two
scopes define is made unique, and initializers of bodies become the graph's. `nest` puts everything back. A call of a local
function is written as its nodes between CallOpen and CallClose; `nest` writes the call again where nothing in them changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxprune.graph.calls import Key, make_key
from onnxprune.graph.model import Model
from onnxprune.graph.view import (
    Names,
    find_attribute,
    get_domain,
    list_defined,
    list_subgraphs,
    map_makers,
    read_attribute,
    read_opset,
    read_opsets,
)
from onnxprune.graph.weights import TensorWeight, Weight

FLAT = "onnxprune.flat"  # the markers' domain
CLOSE, CALL_OPEN, CALL_CLOSE = "Close", "CallOpen", "CallClose"
IF, LOOP, SCAN = CONTROL = ("If", "Loop", "Scan")
OPENERS = {f"{op}Open": op for op in CONTROL}
ID = "flat_id"  # the attribute that a marker, and an operator whose bodies were laid out, carry


def flatten(model: Model) -> Model:
    """The model in one line; the model itself where it has neither bodies nor local functions."""
    functions = _inlinable(model.proto)
    if not any(make_key(n) in functions or any(True for _ in list_subgraphs(n)) for n in model.proto.graph.node):
        return model
    return _Flattener(model, functions).run()


def get_flat_id(node: NodeProto) -> int | None:
    """The scope of a marker, or of an operator whose bodies were written out flat."""
    attribute = find_attribute(node, ID)
    return None if attribute is None else attribute.i


def _inlinable(proto: ModelProto) -> dict[Key, FunctionProto]:
    """Local functions whose operators mean inside what they mean outside."""
    have = read_opsets(proto.opset_import)
    out = {}
    for f in proto.functions:
        wanted = read_opsets(f.opset_import)
        if set(f.output) <= map_makers(f.node).keys() and all(have.get(d, v) == v for d, v in wanted.items()):
            have |= wanted
            out[make_key(f)] = f
    return out


def _can_open(node: NodeProto, version: int) -> bool:
    return (
        not get_domain(node)
        and node.op_type in CONTROL
        and (node.op_type != SCAN or version >= 9)  # the first Scan runs over a batch of sequences
        and all(_fits(node, g) for g in list_subgraphs(node))
        and not any(g.sparse_initializer for g in list_subgraphs(node))
        and not any({t.name for t in g.initializer} & {v.name for v in g.input} for g in list_subgraphs(node))
    )


def _fits(node: NodeProto, body: GraphProto) -> bool:
    """Does a body take and return what its operator gives and makes? The checker does not ask."""
    ins, outs = (0, 0) if node.op_type == IF else (len(node.input), int(node.op_type == LOOP))
    return len(body.input) == ins and len(body.output) == len(node.output) + outs


def digest(nodes: Iterable[NodeProto]) -> bytes:
    h = hashlib.sha256()
    for n in nodes:
        h.update(n.SerializeToString(deterministic=True))
    return h.digest()


def _marker(op: str, label: str, ident: int, ins: Sequence[str], outs: Sequence[str], **attrs: object) -> NodeProto:
    node = helper.make_node(op, ins, outs, name=label, domain=FLAT)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in ((ID, ident), *attrs.items()))
    return node


class _Flattener:
    def __init__(self, model: Model, functions: Mapping[Key, FunctionProto]) -> None:
        self.model, self.functions = model, functions
        self.taken = Names(list_defined(model.proto.graph))
        self.proto = ModelProto()
        self.proto.CopyFrom(model.proto)
        del self.proto.graph.node[:]
        self.weights: dict[str, Weight] = dict(model.weights)
        self.nodes: list[NodeProto] = []
        self.scopes = 0
        self.opset = read_opset(self.proto)

    def run(self) -> Model:
        self._emit(self.model.proto.graph.node, {})
        self.proto.graph.node.extend(self.nodes)
        have = set(read_opsets(self.proto.opset_import))
        for o in (o for f in self.functions.values() for o in f.opset_import):
            if get_domain(o) not in have:
                have.add(get_domain(o))
                self.proto.opset_import.add().CopyFrom(o)
        return replace(self.model, proto=self.proto, weights=self.weights)

    def _claim(self, name: str) -> str:
        """A name that no other scope defines."""
        return self.taken.claim(name, f"{name}__")

    def _scope(self) -> int:
        self.scopes += 1
        return self.scopes

    def _emit(self, nodes: Iterable[NodeProto], names: Mapping[str, str], prefix: str = "") -> None:
        for node in nodes:
            if make_key(node) in self.functions:
                self._call(node, names, prefix)
            elif any(True for _ in list_subgraphs(node)) and _can_open(node, self.opset):
                self._control(node, names, prefix)
            else:
                self.nodes.append(rename_values(node, names, prefix))

    def _control(self, node: NodeProto, names: Mapping[str, str], prefix: str) -> None:
        ident, label = self._scope(), prefix + node.name
        plain = [a for a in node.attribute if a.type != AttributeProto.GRAPH]
        own: list[str] = []
        results: list[str] = []
        graphs = [a for a in node.attribute if a.type == AttributeProto.GRAPH]
        for a in sorted(graphs, key=lambda a: a.name, reverse=True):  # then_branch before else_branch
            inner = self._names_of(a.g, names)
            starts = [inner[v.name] for v in a.g.input]
            ins = [names.get(i, i) for i in node.input]
            shell = self._shell(a.g, inner)
            opener = _marker(
                f"{node.op_type}Open", label, ident, ins, starts, branch=a.name, shell=shell.SerializeToString()
            )
            opener.attribute.extend(plain)
            self.nodes.append(opener)
            self._emit(a.g.node, inner, prefix)
            ends = [inner.get(o.name, o.name) for o in a.g.output]
            outs = [self._claim(f"{e}/{a.name}") for e in ends]
            self.nodes.append(_marker(CLOSE, label, ident, ends, outs))
            own += starts
            results += outs
        owner, header = rename_values(node, names, prefix), rename_values(node, names, prefix)
        for n in (owner, header):
            del n.input[:]
        del owner.attribute[:]
        owner.attribute.extend([*plain, helper.make_attribute(ID, ident)])
        for a in (a for a in header.attribute if a.type == AttributeProto.GRAPH):
            a.g.Clear()
        owner.attribute.append(helper.make_attribute("header", header.SerializeToString()))
        owner.input.extend([*own, *results])
        self.nodes.append(owner)

    def _names_of(self, g: GraphProto, names: Mapping[str, str]) -> dict[str, str]:
        """The names inside a body: its own values get new names, outer ones stay visible."""
        inner = dict(names)
        inner.update({name: self._claim(name) for name in list_defined(g) if name})
        return inner

    def _shell(self, g: GraphProto, inner: Mapping[str, str]) -> GraphProto:
        """A body without its nodes and data; what it holds is named as in the flat graph, where its shapes are kept up to date."""
        shell = GraphProto()
        shell.CopyFrom(g)
        del shell.node[:]
        del shell.initializer[:]
        own = set(list_defined(g))
        for kind in (shell.input, shell.output, shell.value_info):
            for v in kind:
                known = v.name in own
                v.name = inner.get(v.name, v.name)
                if known:
                    self.proto.graph.value_info.add().CopyFrom(v)
        for t in g.initializer:
            copy = TensorProto()
            copy.CopyFrom(t)
            copy.name = inner[t.name]
            self.proto.graph.initializer.add().CopyFrom(copy)
            self.weights[copy.name] = TensorWeight(self.proto.graph.initializer[-1])
            shell.initializer.add(name=copy.name)
        return shell

    def _call(self, node: NodeProto, names: Mapping[str, str], prefix: str) -> None:
        f, ident = self.functions[make_key(node)], self._scope()
        call = rename_values(node, names, prefix)
        inner: dict[str, str] = {}
        for formal, actual in zip(f.input, [*call.input, *[""] * len(f.input)], strict=False):
            inner[formal] = actual
        for formal, actual in zip(f.output, call.output, strict=False):
            if actual:
                inner[formal] = actual
        for n in f.node:
            inner.update({o: self._claim(o) for o in n.output if o and o not in inner})
        given = {a.name: a for a in call.attribute}
        defaults = {a.name: a for a in f.attribute_proto}
        body = [_bound(n, {**defaults, **given}) for n in f.node]
        self.nodes.append(_marker(CALL_OPEN, call.name, ident, (), (), call=call.SerializeToString()))
        at = len(self.nodes)
        self._emit(body, inner, f"{call.name or self._claim(f.name)}/")
        seen = digest(self.nodes[at:])
        self.nodes.append(_marker(CALL_CLOSE, call.name, ident, (), (), digest=seen))


def _bound(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> NodeProto:
    """A function's node with its references to the function's attributes replaced by what the call gives."""
    out = NodeProto()
    out.CopyFrom(node)
    kept: list[AttributeProto] = []
    for a in out.attribute:
        if a.ref_attr_name:
            if a.ref_attr_name in attributes:
                b = AttributeProto()
                b.CopyFrom(attributes[a.ref_attr_name])
                b.name = a.name
                kept.append(b)
            continue
        for g in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
            nodes = [_bound(n, attributes) for n in g.node]
            del g.node[:]
            g.node.extend(nodes)
        kept.append(a)
    copies = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del out.attribute[:]
    out.attribute.extend(copies)
    return out


def rename_values(node: NodeProto, names: Mapping[str, str], prefix: str = "") -> NodeProto:
    """A copy of a node that reads and makes other names; what its bodies capture follows."""
    out = NodeProto()
    out.CopyFrom(node)
    if prefix and node.name:
        out.name = prefix + node.name
    if not names:
        return out
    for kind in (out.input, out.output):
        for i, name in enumerate(kind):
            kind[i] = names.get(name, name)
    for g in list_subgraphs(out):
        own = set(list_defined(g))
        outer = {a: b for a, b in names.items() if a not in own}
        nodes = [rename_values(n, outer) for n in g.node]
        del g.node[:]
        g.node.extend(nodes)
        for v in g.output:
            v.name = outer.get(v.name, v.name)
    return out


# Back


def nest(flat: Model, source: Model) -> Model:
    """The flat model with its bodies where they were in `source`, and with calls where nothing in them changed."""
    if flat.proto.graph is source.proto.graph or not any(get_flat_id(n) is not None for n in flat.proto.graph.node):
        return flat
    return _Nester(flat, source).run()


@dataclass
class _Frame:
    """A body that is being filled, or the main graph."""

    nodes: list[NodeProto] = field(default_factory=list)
    opener: NodeProto | None = None


class _Nester:
    def __init__(self, flat: Model, source: Model) -> None:
        self.flat, self.source = flat, source
        self.proto = ModelProto()
        self.proto.CopyFrom(flat.proto)
        self.weights = dict(flat.weights)
        self.infos = {v.name: v for v in flat.proto.graph.value_info}
        self.tensors = {t.name: t for t in flat.proto.graph.initializer}
        self.inner: set[str] = set()  # values that belong to bodies
        self.bodies: dict[int, list[tuple[NodeProto, GraphProto]]] = {}
        self.moved: set[str] = set()  # initializers that go back into bodies

    def run(self) -> Model:
        top = self._fill(list(self.flat.proto.graph.node))
        g = self.proto.graph
        del g.node[:]
        g.node.extend(top)
        infos = [v for v in self.flat.proto.graph.value_info if v.name not in self.inner]
        del g.value_info[:]
        g.value_info.extend(infos)
        kept = [t for t in self.flat.proto.graph.initializer if t.name not in self.moved]
        del g.initializer[:]
        g.initializer.extend(kept)
        for name in self.moved:
            del self.weights[name]
        self._drop_functions()
        self._drop_imports()
        return replace(self.flat, proto=self.proto, weights=self.weights)

    def _fill(self, nodes: list[NodeProto]) -> list[NodeProto]:
        ends = {get_flat_id(n): i for i, n in enumerate(nodes) if n.domain == FLAT and n.op_type == CALL_CLOSE}
        frames = [_Frame()]
        i = 0
        while i < len(nodes):
            n = nodes[i]
            i += 1
            if n.domain == FLAT and n.op_type == CALL_OPEN:
                end = ends[get_flat_id(n)]
                if self._untouched(nodes[i:end], _bytes(nodes[end], "digest")):
                    frames[-1].nodes.append(NodeProto.FromString(_bytes(n, "call")))
                    i = end + 1
            elif n.domain == FLAT and n.op_type == CLOSE:
                frame = frames.pop()
                self._close(frame, n)
            elif n.domain == FLAT and n.op_type != CALL_CLOSE:
                frames.append(_Frame(opener=n))
            elif n.domain != FLAT:
                frames[-1].nodes.append(n if get_flat_id(n) is None else self._owner(n))
        return frames[0].nodes

    def _untouched(self, nodes: Sequence[NodeProto], before: bytes) -> bool:
        """Is an inlined call as it was? Then what its bodies hold goes with it."""
        shells = [_shell(n) for n in nodes if _opens(n)]
        own = {t.name for g in shells for t in g.initializer}
        if digest(nodes) != before or not all(isinstance(self.weights.get(t), TensorWeight) for t in own):
            return False
        self.moved |= own
        self.inner |= _declared(shells)
        return True

    def _close(self, frame: _Frame, close: NodeProto) -> None:
        opener = frame.opener
        assert opener is not None
        shell = _shell(opener)
        g = GraphProto()
        g.CopyFrom(shell)
        del g.initializer[:]
        weights = {t.name for t in shell.initializer} & set(self.weights)
        g.initializer.extend(self._tensor(t.name) for t in shell.initializer if t.name in weights)
        self.moved |= weights
        g.node.extend(frame.nodes)
        inner = {*map_makers(frame.nodes), *weights, *opener.output}
        for kind in (g.input, g.value_info, g.output):
            for v in kind:
                if v.name in self.infos:
                    v.CopyFrom(self.infos[v.name])
                    self.inner.add(v.name)
        for v, name in zip(g.output, close.input, strict=True):
            if name not in inner:  # an outer value, or a constant of the graph: a body returns only what it makes
                g.node.append(helper.make_node("Identity", [name], [f"{name}/{close.output[0]}"]))
                name = f"{name}/{close.output[0]}"
            if v.name != name:
                v.name = name
        self.bodies.setdefault(get_flat_id(close) or 0, []).append((opener, g))

    def _tensor(self, name: str) -> TensorProto:
        """An initializer of a body, with its data."""
        weight, t = self.weights[name], TensorProto()
        t.CopyFrom(self.tensors[name])
        if not isinstance(weight, TensorWeight):
            t.Clear()
            t.name, t.data_type, t.raw_data = name, weight.data_type, bytes(weight.raw())
            t.dims.extend(weight.shape)
        return t

    def _owner(self, node: NodeProto) -> NodeProto:
        out = NodeProto()
        out.ParseFromString(_bytes(node, "header"))
        bodies = self.bodies.pop(get_flat_id(node) or 0)
        for opener, g in bodies:
            read_attribute(out, read_attribute(opener, "branch")).CopyFrom(g)
        out.input.extend(bodies[0][0].input)
        del out.output[:]
        out.output.extend(node.output)
        return out

    def _drop_imports(self) -> None:
        """Domains that only inlined functions needed are imported no more where none of their nodes is left."""
        had = {o.domain for o in self.source.proto.opset_import}
        used, todo = set(), list(self.proto.graph.node)
        while todo:
            n = todo.pop()
            used.add(n.domain)
            todo.extend(m for g in list_subgraphs(n) for m in g.node)
        _refill(self.proto.opset_import, [o for o in self.proto.opset_import if o.domain in had | used])

    def _drop_functions(self) -> None:
        """Remove the local functions that nobody calls any more."""
        before, after = (_called(p) for p in (self.source.proto, self.proto))
        kept = [f for f in self.source.proto.functions if make_key(f) in after or make_key(f) not in before]
        del self.proto.functions[:]
        self.proto.functions.extend(kept)


def take_branches(flat: Model, taken: Mapping[int, bool | None], unread: set[str]) -> Model:
    """Where the condition of an If is known, its branch takes its place; the other goes with the weights `unread` but by it.

    What that other branch reads need not fit it any more, and a runtime checks also what it never runs.
    """
    known = {ident: then for ident, then in taken.items() if then is not None}
    if not known:
        return flat
    nodes: list[NodeProto] = []
    ends: dict[int, list[str]] = {}
    shells: list[GraphProto] = []
    inside: list[
        str
    ] = []  # the names of the Ifs around a node, which its own name gets in front: outside it may be taken
    gone: int | None = None
    for n in flat.proto.graph.node:
        ident = get_flat_id(n) or 0
        closes = n.domain == FLAT and n.op_type == CLOSE
        if gone is not None:
            gone = None if closes and ident == gone else gone
        elif ident not in known:
            nodes.append(_within(n, inside))
        elif closes:
            ends[ident] = list(n.input)
            inside.pop()
        elif n.domain == FLAT:
            shells.append(_shell(n))
            if (read_attribute(n, "branch") == "then_branch") == known[ident]:
                inside.append(n.name or f"If{ident}")
            else:
                unread |= {t.name for t in shells[-1].initializer}
                gone = ident
        else:
            nodes += [_identity(a, b) for a, b in zip(ends[ident], n.output, strict=True) if b]
    proto = ModelProto()
    proto.CopyFrom(flat.proto)
    forget = _declared(shells)
    _refill(proto.graph.node, nodes)
    _refill(proto.graph.value_info, [v for v in flat.proto.graph.value_info if v.name not in forget])
    _refill(proto.graph.initializer, [t for t in flat.proto.graph.initializer if t.name not in unread])
    _refill(proto.graph.input, [v for v in flat.proto.graph.input if v.name not in unread])
    return replace(flat, proto=proto, weights={n: w for n, w in flat.weights.items() if n not in unread})


def _within(node: NodeProto, names: Sequence[str]) -> NodeProto:
    out = NodeProto()
    out.CopyFrom(node)
    if names and node.name:
        out.name = "/".join((*names, node.name))
    return out


def _identity(a: str, b: str) -> NodeProto:
    return helper.make_node("Identity", [a], [b], name=b)


def _refill(field: Any, values: Iterable[Any]) -> None:
    kept = [type(v).FromString(v.SerializeToString()) for v in values]
    del field[:]
    field.extend(kept)


def _opens(node: NodeProto) -> bool:
    return node.domain == FLAT and find_attribute(node, "shell") is not None


def _shell(opener: NodeProto) -> GraphProto:
    shell = GraphProto()
    shell.ParseFromString(_bytes(opener, "shell"))
    return shell


def _declared(shells: Iterable[GraphProto]) -> set[str]:
    return {v.name for g in shells for kind in (g.input, g.output, g.value_info) for v in kind}


def _bytes(node: NodeProto, name: str) -> bytes:
    attribute = find_attribute(node, name)
    assert attribute is not None
    return attribute.s


def _called(proto: ModelProto) -> set[Key]:
    """The local functions that the graph calls, directly or through others."""
    functions = {make_key(f): f for f in proto.functions}
    keys: set[Key] = set()
    todo: list[NodeProto] = list(proto.graph.node)
    while todo:
        n = todo.pop()
        todo.extend(m for g in list_subgraphs(n) for m in g.node)
        if make_key(n) in functions and make_key(n) not in keys:
            keys.add(make_key(n))
            todo.extend(functions[make_key(n)].node)
    return keys
