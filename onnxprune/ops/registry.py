"""The table of rules, and what a rule sees of its operator.

A rule is one function: it gets an `Op`, ties, refines or freezes the layouts of its inputs, and returns the layouts of
its outputs (a list of axes for each; None freezes nothing but knows nothing: the tensor stays opaque).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxprune.axes import Keep, Reason, Size, pair, size_of
from onnxprune.graph.facts import Facts, guess_size
from onnxprune.graph.integers import IntegerEncoding
from onnxprune.graph.view import get_domain, read_attribute
from onnxprune.layout import AxisTerms, Dim, LayoutError, find, fixed, freeze, is_frozen, unify
from onnxprune.ops.records import MICROSOFT, NOTHING, Operand, Product, Record, Traits, add_record, find_record

Axes = list[Dim]
Rule = Callable[["Op"], "list[Axes | None]"]


def couple(
    *ops: str,
    domain: str = "",
    since: int = 1,
    until: int = 10**6,
    product: Product | None = None,
    **traits: Any,
) -> Callable[[Rule], Rule]:
    """Register the record of one or more operators, for the opset versions [since, until].

    Args:
        ops: names of operators of `domain`.
        domain: the operators' domain; ONNX's own is "".
        since: the first opset version with this record.
        until: the last one.
        product: the sum of products that they compute, if they do.
        traits: the fields of `Traits` that they have.
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            add_record(Record(op, domain, since, until, rule, product, Traits(**traits)))
        return rule

    return register


def find_rule(domain: str, op: str, version: int) -> Rule | None:
    record = find_record(domain, op, version)
    return record.rule if record else None


class Unknown(LayoutError):
    """A rule asked for a shape or a value that is not known."""


@dataclass
class New:
    """The layouts after a plan, as deferred edits see them."""

    keep: Keep
    terms: AxisTerms

    def size(self, d: Dim) -> Size:
        return self.terms.of(d).size_after(self.keep)

    def kept(self, d: Dim) -> np.ndarray:
        """The old positions that stay, in their new order."""
        return self.terms.of(d).kept(self.keep)

    def changes(self, d: Dim) -> bool:
        """Does the size of `d` change?"""
        return self.size(d) != find(d).size

    def moves(self, d: Dim) -> bool:
        """Does any position of `d` go or move?"""
        return self.terms.of(d).moves(self.keep)


@dataclass
class Edits:
    """The changes to a node: attributes (None deletes), whole inputs, and entries of shape-like inputs."""

    attrs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[int, np.ndarray] = field(default_factory=dict)
    entries: dict[int, list[Size]] = field(default_factory=dict)
    reshape: list[Size] | None = None  # become a Reshape to these sizes, of which one may be dynamic


Edit = Callable[[New, Edits], None]


class Op:
    """A node as its rule sees it: layouts, shapes, constants and attributes, and the ways to relate them."""

    def __init__(
        self,
        node: NodeProto,
        trace: Facts,
        layouts: Sequence[Axes | None],
        is_const: Sequence[bool],
        tokens: Dim | None = None,
    ) -> None:
        self.node = node
        self.type = node.op_type
        self.domain = get_domain(node)
        self.version = trace.opsets.get(self.domain, 1)
        self.trace = trace
        self.layouts = layouts
        self.is_const = is_const
        self.tokens = tokens  # the vocabulary, where the node reads the ids of tokens and rows of their tables may go
        self.edits: list[Edit] = []
        self.mixed: list[tuple[Dim, str]] = []
        self.ordered: list[Dim] = []  # of those, the ones whose order matters
        self.roles: list[tuple[int, int, str]] = []
        self.kinds: list[tuple[Dim, str]] = []
        self.integers: dict[str, IntegerEncoding] = {}  # by the name of the weight
        self.related: set[int] = set()  # inputs whose layout the rule asked for
        self.types: dict[int, int] = {}  # element types of outputs, where no shape function tells them
        self.is_short = False  # a sample is too small for it

    # what it is

    @property
    def record(self) -> Record:
        return find_record(self.domain, self.type, self.version) or NOTHING

    @property
    def product(self) -> Product | None:
        """The product that its record says it computes."""
        return self.record.product

    @property
    def label(self) -> str:
        return self.node.name or (self.node.output[0] if self.node.output else "")

    def attr(self, name: str, default: Any = None) -> Any:
        return read_attribute(self.node, name, default)

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and bool(self.node.input[i])

    def x(self, i: int) -> Axes:
        """The axes of input `i`. Raises Unknown where its rank is not known."""
        axes = self.layouts[i] if i < len(self.layouts) else None
        if axes is None:
            raise Unknown(self._unknown_shape(self.node.input[i]) if self.has(i) else f"it has no input {i}")
        self.related.add(i)
        return axes

    def rank(self, i: int = 0) -> int:
        return len(self.x(i))

    def axis(self, default: int | None = None, rank: int | None = None, name: str = "axis") -> int:
        a = self.attr(name, default)
        n = self.rank() if rank is None else rank
        if a is None or not -n <= a < max(n, 1):
            raise LayoutError(f"axis {a} of a tensor of rank {n}")
        return int(a) % max(n, 1)

    def const(self, i: int) -> bool:
        """Is the input computed from initializers alone?"""
        return self.is_const[i]

    def value(self, i: int) -> np.ndarray | None:
        """The contents of input `i` where no entry is dynamic."""
        return self.trace.value(self.node.input[i]) if self.has(i) else None

    def ints(self, attr: str, i: int | None) -> list[int] | None:
        """A list of ints that older opsets keep in an attribute and newer ones in an input. Raises Unknown if it is dynamic."""
        got = self.attr(attr)
        if got is not None:
            return [int(v) for v in got] if isinstance(got, Iterable) else [int(got)]
        if i is None or not self.has(i):
            return None
        value = self.value(i)
        if value is None:
            raise Unknown(f"'{attr}' is computed while the model runs")
        return [int(v) for v in np.atleast_1d(value)]

    def shape(self, i: int = 0) -> tuple[Size, ...]:
        return tuple(find(d).size for d in self.x(i))

    def out_shape(self, j: int = 0) -> tuple[Size, ...]:
        """The sizes of output `j`, from shape inference. Raises Unknown."""
        shape = self.trace.shape(self.node.output[j])
        if shape is None:
            raise Unknown(self._unknown_shape(self.node.output[j]))
        return shape

    def out_size(self, j: int, axis: int) -> Size:
        """The size of an axis of output `j`; where it is unknown, two sample sizes of its own."""
        name = self.node.output[j]
        shape = self.trace.shape(name)
        return guess_size(name, axis) if shape is None else shape[axis]

    def _unknown_shape(self, name: str) -> str:
        return f"the shape of '{self.trace.lost.get(name, name)}' is unknown; declare it in the graph's value_info"

    def need(self, d: Dim, least: int) -> None:
        """Declare the least number of positions of an axis; a sample of fewer is too small."""
        if min(pair(find(d).size)) < least:
            self.is_short = True

    def reason(self, text: str, structural: bool = False) -> Reason:
        return Reason(text, self.label, self.type, structural)

    def plain(self, size: Size, text: str = "spatial or token axis") -> Dim:
        """A frozen axis that nobody would prune."""
        return fixed(size, self.reason(text, structural=True))

    # relations

    def tie(self, a: Dim, b: Dim) -> Dim:
        """Declare that two axes hold the same channels.

        Two that differ in size are frozen where they can hold none, since one is dynamic or both are frozen: a batch of 1 that
        is declared dynamic elsewhere. Raises LayoutError where channels meet another static size.
        """
        x, y = find(a), find(b)
        dynamic = not isinstance(x.size, int) or not isinstance(y.size, int)
        if x.size != y.size and (dynamic or (is_frozen(x) and is_frozen(y))):
            return self.tie_column([b, a])
        unify(a, b)
        return find(b)

    def freeze(self, d: Dim, text: str) -> None:
        freeze(d, self.reason(text))

    def freeze_rows(self, d: Dim, text: str = "a row is looked up by an index that the data holds") -> None:
        """The rows of a table stay, unless they belong to tokens of a vocabulary that may go."""
        if self.tokens is None:
            self.freeze(d, text)
        else:
            self.tie(d, self.tokens)

    def broadcast(self, *tensors: Axes) -> Axes:
        """Tie the aligned axes of tensors that broadcast against each other (NumPy rules); axes of size 1 are left alone."""
        rank = max(map(len, tensors))
        out: Axes = []
        for a in range(rank):
            column = [t[len(t) - rank + a] for t in tensors if len(t) - rank + a >= 0]
            out.append(self._one(column))
        return out

    def tie_column(self, column: Axes) -> Dim:
        """Tie axes that must agree in size; where they differ all are frozen, and a static size is the one that holds."""
        size = find(column[0]).size
        if any(find(d).size != size for d in column[1:]):
            for d in column:
                self.freeze(d, f"{self.type} reads it together with an axis of another or dynamic size")
            static = [s for s in (find(d).size for d in column) if isinstance(s, int)]
            return fixed(static[0] if static else size, self.reason("a batch or other dynamic axis"))
        for d in column[1:]:
            unify(d, column[0])
        return find(column[0])

    def _one(self, column: Axes) -> Dim:
        wide = [d for d in column if find(d).size != 1]
        return self.tie_column(wide) if wide else column[0]

    def mix(self, d: Dim, why: str, in_order: bool = False) -> None:
        """Declare that the operator mixes along `d`: removing its channels is valid, not neutral.

        Where it mixes neighbors their order matters: it may lose channels, and is never permuted.
        """
        if not is_frozen(d):
            self.mixed.append((d, f"{self.type} '{self.label}' {why}"))
            self.ordered.extend([d] if in_order else [])

    def role(self, i: int, axis: int, role: str) -> None:
        """Name the part that axis `axis` of input `i` plays if it is a weight: in, out, scale, bias, stat."""
        self.roles.append((i, axis, role))

    def name_operands(self) -> list[Operand]:
        """Name the parts that the axes of the product's operands play, and how their integers are encoded."""
        operands = [o for o in (self.product.operands(self) if self.product else ()) if self.has(o.slot)]
        for operand in operands:
            for axes, role in ((operand.outputs, "out"), (operand.inputs, "in")):
                for axis in axes:
                    self.role(operand.slot, axis, role)
            if operand.encoding is not None:
                code = operand.encoding
                self.quantized(operand.slot, code.scale, code.zero, code.axis, code.bits, code.default, code.block)
        return operands

    def kind(self, d: Dim, kind: str) -> None:
        """Name the kind of the channels of `d`: filters, neurons, heads, ..."""
        self.kinds.append((d, kind))

    def quantized(
        self, i: int, scale: int, zero: int, axis: int, bits: int = 8, default: int = 0, block: int = 1
    ) -> None:
        """Declare the inputs with the scale and zero point of the weight in input `i`."""
        names = [self.node.input[s] if s and self.has(s) and self.const(s) else "" for s in (scale, zero)]
        self.integers[self.node.input[i]] = IntegerEncoding(
            names[0], names[1], axis % max(self.rank(i), 1), bits, default, block
        )

    # what must be rewritten when the plan is applied

    def edit(self, edit: Edit) -> None:
        self.edits.append(edit)

    def follow_attr(self, name: str, d: Dim) -> None:
        """An integer attribute that is the size of `d`."""
        if not is_frozen(d):

            def change(new: New, e: Edits) -> None:
                if new.changes(d):
                    e.attrs[name] = new.size(d)

            self.edit(change)

    def follow_entries(
        self, i: int, dims: Sequence[Dim | None], copied: Mapping[int, Dim] = MappingProxyType({})
    ) -> None:
        """A shape-like input whose entries are sizes of `dims` (None: the entry keeps its value).

        `copied` names the entries whose 0 stands for the size of another axis: they are written out where sizes change.
        """
        if not any(d is not None and not is_frozen(d) for d in (*dims, *copied.values())):
            return
        values = self.trace.values(self.node.input[i])

        def change(new: New, e: Edits) -> None:
            if values is None or not any(d is not None and new.changes(d) for d in (*dims, *copied.values())):
                return
            olds = [size_of(int(a), int(b)) for a, b in zip(values[0].ravel(), values[1].ravel(), strict=True)]
            e.entries[i] = [
                o if d is None or (isinstance(o, int) and o <= 0 and k not in copied) else new.size(d)
                for k, (o, d) in enumerate(zip(olds, dims, strict=True))
            ]

        self.edit(change)


def same(op: Op) -> list[Axes | None]:
    """Every output has the layout of the first input."""
    x = op.x(0)
    return [list(x) if name else None for name in op.node.output]


__all__ = [
    "MICROSOFT", "Axes", "Edits", "New", "Op", "IntegerEncoding", "Unknown", "couple", "find_rule", "same",
]  # fmt: skip
