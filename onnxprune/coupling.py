"""Walk the graph once and apply the rules; then resolve every layout into terms that no longer change.

Every initializer has one layout, whoever reads it; only a vector (a bias, a norm's scale, an initial state [1, 1, n]) has one
for each use, because exporters share equal vectors between nodes that have nothing to do with each other. Where the uses of a
vector end up agreeing it stays shared, else surgery copies it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Generic, TypeVar

from onnx import GraphProto, NodeProto, TensorProto

from onnxprune.axes import Axis, Keep, Layout, Reason, Size
from onnxprune.errors import ModelError, is_guarded
from onnxprune.graph.facts import FLOATS, Facts, Varying
from onnxprune.graph.flat import flatten, get_flat_id
from onnxprune.graph.model import Model
from onnxprune.graph.sample_sizes import Sizes, choose_first_sizes, find_data_sizes, grow_sizes, is_batch
from onnxprune.graph.tokens import TokenUse
from onnxprune.graph.view import Site, find_captured, map_makers, read_attribute
from onnxprune.graph.walk import Known, Told, Visitor, walk
from onnxprune.graph.weights import Weight
from onnxprune.layout import PROD, AxisTerms, Dim, LayoutError, find, fixed, freeze, fresh, leaves, unify, var
from onnxprune.ops.records import PERMUTE, Operand, get_record
from onnxprune.ops.registry import Axes, Edit, Edits, IntegerEncoding, New, Op, find_rule
from onnxprune.ops.sequences import has_sequences, lower_sequences

Use = tuple[str, int, int]  # initializer, node index, input slot; (-1, -1) where every use shares one layout
SHARED = (-1, -1)
NARROW = ("INT16", "UINT16", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
PARAM_TYPES = {v for k, v in TensorProto.DataType.items() if k.startswith(("FLOAT", "DOUBLE", "BFLOAT", *NARROW))}


D = TypeVar("D")  # an axis: a Dim while rules run, an Axis afterwards
L = TypeVar("L")  # the axes of a tensor


@dataclass
class _Learned(Generic[D, L]):
    """All that the walk learns."""

    trace: Facts
    weights: dict[str, Weight]  # initializers and Constant nodes
    live: list[NodeProto] = field(default_factory=list)  # the nodes that were walked
    unread: set[str] = field(default_factory=set)  # weights that only branches which are never taken read
    layouts: dict[str, L | None] = field(default_factory=dict)  # activations
    uses: dict[Use, L] = field(default_factory=dict)  # weights
    edits: dict[int, list[Edit]] = field(default_factory=dict)  # node index -> deferred edits
    mixed: list[tuple[D, str]] = field(default_factory=list)
    ordered: list[D] = field(default_factory=list)  # where neighbors are mixed, so that order matters
    roles: dict[tuple[str, int], list[tuple[Site, str]]] = field(default_factory=dict)  # tensor, axis -> who reads it
    operands: dict[Site, Operand] = field(default_factory=dict)  # what products read, weight or activation
    computed: set[str] = field(default_factory=set)  # from weights and static sizes alone
    kinds: list[tuple[D, str, str]] = field(default_factory=list)  # layout, kind, node
    integers: dict[str, IntegerEncoding] = field(default_factory=dict)  # weights that stand for other numbers
    guarded: dict[int, str] = field(default_factory=dict)  # nodes on which a rule failed, by index, and how
    tokens: D | None = None  # the vocabulary, where tokens may go

    def use(self, name: str, node: int, slot: int) -> L | None:
        """The layout that a node's input has, weight or activation."""
        if name in self.weights:
            return self.uses.get((name, *SHARED)) or self.uses.get((name, node, slot))
        return self.layouts.get(name)


class _Draft(_Learned[Dim, Axes]):
    """The layouts so far, in the solver's terms."""


@dataclass
class Coupling(_Learned[Axis, Layout]):
    """All that the walk learned, in terms that no longer change."""

    terms: AxisTerms = field(default_factory=AxisTerms)

    def has_parameters(self, name: str) -> bool:
        """Are the weight's entries parameters, as floats and narrow integers are? Wide integers are where they stand for others."""
        return self.weights[name].data_type in PARAM_TYPES or name in self.integers

    def change(self, index: int, keep: Keep) -> Edits:
        """The changes of a plan to a node, besides its weights. Raises ModelError if it cannot be changed."""
        edits, new = Edits(), New(keep, self.terms)
        try:
            for edit in self.edits.get(index, ()):
                edit(new, edits)
        except Exception as e:
            if not is_guarded():
                raise
            raise ModelError(
                f"node {index} of the model is not what its rule expects ({e}); run onnx.checker on it"
            ) from e
        return edits


def _resolve(draft: _Draft) -> Coupling:
    terms = AxisTerms()

    def layout(axes: Axes) -> Layout:
        return tuple(map(terms.of, axes))

    return Coupling(
        **vars(draft)
        | {
            "layouts": {name: None if axes is None else layout(axes) for name, axes in draft.layouts.items()},
            "uses": {use: layout(axes) for use, axes in draft.uses.items()},
            "mixed": [(terms.of(d), why) for d, why in draft.mixed],
            "ordered": list(map(terms.of, draft.ordered)),
            "kinds": [(terms.of(d), kind, node) for d, kind, node in draft.kinds],
            "tokens": None if draft.tokens is None else terms.of(draft.tokens),
            "terms": terms,
        }
    )


def linearize(model: Model) -> Model:
    """The model in one line of nodes, with plain tensors in place of sequences whose positions are constant."""
    flat = flatten(model)
    return lower_sequences(flat) if has_sequences(flat) else flat


def couple_graph(
    model: Model, source: Model, data: Mapping[str, int] = MappingProxyType({}), tokens: TokenUse | None = None
) -> Coupling:
    """Apply every rule once, in the order of a flat model's nodes; close the ties; freeze the graph's outputs.

    `source` is the model before it was made flat: what shapes onnx cannot tell are measured on it. `data` are the
    sizes of samples, if there are any, by symbol or `input[axis]`. With `tokens`, the rows of their tables and their scores in
    the outputs are channels, which are frozen otherwise.
    """
    draft = _couple_fitting(model, source, data, tokens)
    _leave_unread(draft, model.proto.graph)
    _freeze_outputs(draft, model.proto.graph, tokens.outputs if tokens else ())
    _freeze_returned_sizes(draft, model.proto.graph)
    _freeze_asserted(draft, model.proto.graph)
    _freeze_repeats(draft)
    _freeze_unread(draft)
    coupling = _resolve(draft)
    _inherit_roles(coupling, model.proto.graph)
    return coupling


def _couple_fitting(model: Model, source: Model, data: Mapping[str, int], tokens: TokenUse | None) -> _Draft:
    """Apply the rules at sample sizes that fit.

    Where the first ones do not fit, others are tried. For an axis that comes out empty: the sizes of the `data`, by symbol or
    `input[axis]`, then larger ones. Where an operator refuses them (a table of positions is shorter): small ones, then those of
    the data.
    """
    first = choose_first_sizes(model.proto, model.weights)
    couple = partial(_couple, model, source, tokens=tokens)
    best, one_batch = couple(first), False
    if best.trace.clashes and sum(map(is_batch, first.values())) > 1:
        one = choose_first_sizes(model.proto, model.weights, one_batch=True)
        shared = couple(one)
        if _clashes(shared) < _clashes(best):
            best, first, one_batch = shared, one, True
    if all(map(is_batch, first.values())):
        return best
    measured = list(find_data_sizes(model.proto, model.weights, first, data))
    if best.trace.short:
        return _couple_larger(couple, best, measured)
    if best.trace.clashes:
        small = choose_first_sizes(model.proto, model.weights, small=True, one_batch=one_batch)
        tried = (couple(sizes) for sizes in (small, *measured))
        return min(best, *tried, key=_clashes)
    return best


def _couple_larger(couple: Callable[..., _Draft], best: _Draft, measured: Iterable[Sizes]) -> _Draft:
    """The coupling at the sizes of the data, else at grown ones, where no axis comes out empty; else the one there is."""
    first = best.trace.sizes
    for sizes in measured:
        c = couple(sizes, whole=False)
        if not c.trace.short:
            return c
    fits = (c for sizes in grow_sizes(first) if not (c := couple(sizes, whole=False)).trace.short)
    # One step more than it takes: an axis that has one position left at both samples would pass for a static one.
    best = min(reversed(list(islice(fits, 2))), key=_clashes, default=best)
    for name in first if best.trace.clashes else ():  # not every axis has to grow
        c = couple(best.trace.sizes | {name: first[name]}, whole=False)
        best = min(best, c, key=_clashes) if not c.trace.short else best
    return best


def _clashes(c: _Draft) -> int:
    return len(c.trace.clashes)


def _couple(model: Model, source: Model, sizes: Sizes, whole: bool = True, tokens: TokenUse | None = None) -> _Draft:
    """Apply the rules at these sample sizes; unless `whole`, only as far as no sample is too small.

    At the end of a loop's body it turns out which of the values that it carries change their size from step to step; then the
    rules are applied again, who know so from the start. A loop may stand in another, so this may take several rounds.
    """
    known: Varying = {}
    while True:
        coupler = _Coupler(model, tokens)
        varying = walk(model, coupler, sizes, source=source, varying=known, whole=whole).varying
        if varying == known:
            return coupler.draft
        known = varying


class _Coupler(Visitor):
    """Applies its rule to each node."""

    def __init__(self, model: Model, tokens: TokenUse | None) -> None:
        self.inputs = [v.name for v in model.proto.graph.input]
        self.tokens = tokens

    def begin(self, facts: Facts, weights: dict[str, Weight]) -> None:
        self.draft = _Draft(facts, weights, tokens=var(self.tokens.size) if self.tokens else None)
        self.vectors = {n for n, w in weights.items() if sum(s > 1 for s in w.shape) <= 1}
        for name in self.inputs:
            if name not in weights:
                shape, why = facts.shape(name), Reason(f"graph input '{name}'")
                self.draft.layouts[name] = None if shape is None else [fixed(s, why) for s in shape]

    def after(self, index: int, node: NodeProto, facts: Facts) -> Told:
        self.draft.live.append(node)
        return _apply(self.draft, index, node, self.vectors, self.tokens is not None and index in self.tokens.nodes)

    def settle(self, node: NodeProto, name: str, facts: Facts) -> None:
        why = Reason(f"made by {node.op_type}, which has no rule", node.name, node.op_type)
        self.draft.layouts[name] = [fixed(s, why) for s in facts.shape(name) or ()]


def _axes(c: _Draft, name: str, index: int, slot: int, vectors: set[str]) -> Axes | None:
    if name not in c.weights:
        return c.layouts.get(name)
    key = (name, index, slot) if name in vectors else (name, *SHARED)
    if key not in c.uses:
        c.uses[key] = [fresh(n, Reason("size 1", structural=True)) for n in c.weights[name].shape]
    return c.uses[key]


def _apply(c: _Draft, index: int, node: NodeProto, vectors: set[str], reads_tokens: bool) -> Told:
    """Apply the rule of a node. Returns what it knows of the outputs beyond what shape inference found."""
    axes = [_axes(c, n, index, i, vectors) if n else None for i, n in enumerate(node.input)]
    scope = get_flat_id(node) is not None  # what a loop starts with is no constant in its body
    const = [not scope and (n in c.weights or n in c.computed or c.trace.value(n) is not None) for n in node.input]
    op = Op(node, c.trace, axes, const, c.tokens if reads_tokens else None)
    if node.input and all(k or not n for k, n in zip(const, node.input, strict=True)):
        c.computed.update(node.output)
    names = find_captured(node)
    known: dict[str, Known] = {}
    try:
        known = _follow_rule(c, index, op)
    except LayoutError as e:
        _freeze_all(c, op, str(e))
    except Exception as e:
        if not is_guarded():
            raise
        c.guarded[index] = f"{type(e).__name__}: {e}"
        _freeze_all(c, op, f"{op.type} is not what its rule expects ({c.guarded[index]})")
    for slot, name in enumerate(sorted(names)):
        outer = _axes(c, name, index, 1000 + slot, vectors)
        for d in outer or ():
            freeze(d, op.reason(f"captured by the body of {op.type}"))
    return Told(known, op.is_short)


def _follow_rule(c: _Draft, index: int, op: Op) -> dict[str, Known]:
    """Apply the rule of an operator, and keep all that it says. Raises LayoutError."""
    failed = next((c.trace.failed[name] for name in op.node.output if name in c.trace.failed), "")
    if failed:
        c.guarded[index] = failed
        raise LayoutError(f"{op.type} makes unknown shapes ({failed})")
    rule = find_rule(op.domain, op.type, op.version)
    if rule is None:
        where = f"{op.domain}::" if op.domain else ""
        raise LayoutError(f"no rule for operator {where}{op.type}")
    known = _store(c, op, rule(op))
    c.operands.update({(index, o.slot): o for o in op.name_operands()})
    for i, unread in enumerate(op.layouts):
        if i not in op.related and get_flat_id(op.node) is None:
            for d in unread or ():
                op.freeze(d, f"a parameter of {op.type}")
    c.edits[index] = op.edits
    c.mixed.extend(op.mixed)
    c.ordered.extend(op.ordered)
    c.integers.update(op.integers)
    c.kinds.extend((d, k, op.label) for d, k in op.kinds)
    for slot, axis, role in op.roles:
        c.roles.setdefault((op.node.input[slot], axis), []).append(((index, slot), role))
    return known


def _store(c: _Draft, op: Op, outs: list[Axes | None]) -> dict[str, Known]:
    """Keep the rule's layouts, checked against shape inference. Returns the types and sizes that the rule alone knows."""
    known: dict[str, Known] = {}
    for j, name in enumerate(op.node.output):
        if not name:
            continue
        axes = outs[j] if j < len(outs) else None
        shape = c.trace.shape(name)
        if axes is None and shape is None and get_flat_id(op.node) is None:
            for d in (d for axes_of in op.layouts for d in axes_of or ()):
                freeze(d, op.reason(f"{op.type} makes '{name}' of it, whose shape is unknown"))
        if axes is None:
            c.layouts[name] = None if shape is None else [fixed(s, op.reason("opaque", True)) for s in shape]
            continue
        got = tuple(find(d).size for d in axes)
        if c.trace.admits(name, got):
            if got != shape:
                known[name] = (op.types.get(j) or c.trace.dtype(name) or _first_type(c, op), got)
        else:
            axes = _keep_what_agrees(op, axes, shape or ())
        c.layouts[name] = axes
    return known


def _first_type(c: _Draft, op: Op) -> int:
    return c.trace.dtype(op.node.input[0]) if op.node.input else int(TensorProto.FLOAT)


def _keep_what_agrees(op: Op, axes: Axes, shape: tuple[Size, ...]) -> Axes:
    """Where shape inference speaks against a rule all is frozen; a size that only a run tells freezes no other axis."""
    got = [find(d).size for d in axes]
    differ = [a for a, (g, s) in enumerate(zip(got, shape, strict=False)) if g != s]
    if len(got) == len(shape) and not any(isinstance(got[a], int) and isinstance(shape[a], int) for a in differ):
        why = f"how long {op.type} makes it is only known in a run"
    else:
        differ = list(range(len(shape)))
        why = f"{op.type} should make {got} of it, but shape inference says {list(shape)}"
    for d in axes if len(axes) != len(shape) else [axes[a] for a in differ]:
        freeze(d, op.reason(why))
    return [fixed(s, op.reason(why)) if a in differ else axes[a] for a, s in enumerate(shape)]


def _freeze_all(c: _Draft, op: Op, text: str) -> None:
    why = op.reason(text)
    for axes in op.layouts:
        for d in axes or ():
            freeze(d, why)
    for name in op.node.output:
        if name:
            shape = c.trace.shape(name)
            c.layouts[name] = None if shape is None else [fixed(s, why) for s in shape]


def _freeze_outputs(c: _Draft, graph: GraphProto, scores: Collection[str]) -> None:
    """Outputs keep their sizes; of `scores` of tokens the last axis is the vocabulary."""
    for v in graph.output:
        why = Reason(f"graph output '{v.name}'")
        axes = c.layouts.get(v.name) or []
        if v.name in scores and axes and c.tokens is not None:
            with suppress(LayoutError):  # then nothing ties the scores to the vocabulary, and whoever asks sees that
                unify(axes[-1], c.tokens)
            axes = axes[:-1]
        if v.name in c.weights:
            for use, axes in list(c.uses.items()):
                if use[0] == v.name:
                    for d in axes:
                        freeze(d, why)
        for d in axes:
            freeze(d, why)


def _leave_unread(c: _Draft, graph: GraphProto) -> None:
    """Weights that no node which runs reads are none of the model's, if only a branch that is never taken reads them."""
    live = {i for n in c.live for i in (*n.input, *find_captured(n))} | {v.name for v in graph.output}
    c.unread = {i for n in graph.node for i in n.input if i in c.weights and i not in live}
    for name in c.unread:
        del c.weights[name]


def _freeze_returned_sizes(c: _Draft, graph: GraphProto) -> None:
    """A size that the graph returns keeps its value, so what it counts stays. Where a size becomes a float, surgery restores it."""
    made_by = {name: c.live[i] for name, i in map_makers(c.live).items()}
    todo = [v.name for v in graph.output]
    while todo:
        name = todo.pop()
        node = made_by.pop(name, None)
        if (
            node is None
            or name not in c.trace.from_shapes
            or c.trace.values(name) is None
            or c.trace.dtype(name) in FLOATS
        ):
            continue
        if get_record(node).traits.reads_sizes:
            weights = [axes for use, axes in c.uses.items() if use[0] == node.input[0]]
            for d in (d for axes in (*weights, c.layouts.get(node.input[0]) or []) for d in axes):
                freeze(d, Reason("its size is a graph output", node.name, node.op_type))
        todo.extend(node.input)


def _freeze_asserted(c: _Draft, graph: GraphProto) -> None:
    """Where the data decide how long an axis is, and a Split takes its pieces for granted, what it comes from stays as it is.

    So a traced mixture of experts says which experts its tokens use: with other values it may not run.
    """
    made_at = map_makers(graph.node)
    splits = [n for n in c.live if n.output and n.output[0] in c.trace.asserted]
    why = {
        n.input[0]: Reason("it decides how many pieces there are, which the file fixes", n.name, n.op_type)
        for n in splits
    }
    todo, seen = list(why), set()
    while todo:
        name = todo.pop()
        index = made_at.get(name)
        if index is None or index in seen or get_record(graph.node[index]).traits.reads_sizes:
            continue
        seen.add(index)
        for slot, i in enumerate(graph.node[index].input):
            for d in c.use(i, index, slot) or [] if i in c.weights else []:
                freeze(
                    d,
                    Reason(
                        "it decides how many pieces there are, which the file fixes", splits[0].name, splits[0].op_type
                    ),
                )
            todo.append(i)


def _freeze_repeats(c: _Draft) -> None:
    """A channel that is its own partner in a product (a Gram matrix flattened) has no slice of its own."""
    seen: set[int] = set()
    todo = [d for axes in (*c.uses.values(), *c.layouts.values()) for d in axes or ()]
    while todo:
        d = find(todo.pop())
        if id(d) in seen or not d.parts:
            continue
        seen.add(id(d))
        todo.extend(d.parts)
        if d.kind == PROD:
            count = Counter(v for p in d.parts for v in leaves(p))
            for v in [v for v, n in count.items() if n > 1]:
                freeze(v, Reason("a product of channels with themselves"))


def _freeze_unread(c: _Draft) -> None:
    """Entries of a vector that nothing else is tied to are no channels: a part that is not read, or numbers to be summed."""
    uses = Counter(v for axes in (*c.uses.values(), *c.layouts.values()) for d in axes or () for v in leaves(d))
    for (_, node, _), axes in c.uses.items():
        for v in (v for d in axes for v in leaves(d) if node >= 0 and uses[v] == 1):
            freeze(v, Reason("a vector whose entries belong to no other tensor's channels", structural=True))


def _inherit_roles(c: Coupling, graph: GraphProto) -> None:
    """A weight behind Transpose, Cast, Reshape, DequantizeLinear .. plays the part that the result plays."""
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        if not node.output or node.output[0] not in c.computed:
            continue
        after = c.layouts.get(node.output[0]) or ()
        for slot, name in enumerate(node.input):
            for axis, to in enumerate(_axis_map(node, c.use(name, index, slot) or (), after)):
                known = c.roles.setdefault((name, axis), [])
                if not any(site == (index, slot) for site, _ in known):
                    parts = dict.fromkeys(role for _, role in c.roles.get((node.output[0], to), ()))
                    known.extend(((index, slot), role) for role in parts)


def _axis_map(node: NodeProto, before: Layout, after: Layout) -> list[int]:
    """For each axis of an input the axis of the output that holds its channels, -1 where none does."""
    if get_record(node).traits.moves == PERMUTE and len(before) == len(after):
        perm = read_attribute(node, "perm", list(range(len(before)))[::-1])
        return [perm.index(a) for a in range(len(before))]
    if len(before) == len(after):
        return list(range(len(before)))
    out, start = [], 0
    leaves_after = [set(axis.leaves) for axis in after]
    for axis in before:
        leaves_before = set(axis.leaves)
        to = next((b for b in range(start, len(after)) if leaves_before & leaves_after[b]), -1)
        out.append(to)
        start = max(start, to + (len(before) <= len(after)))  # axes keep their order; a merged axis serves several
    return out
