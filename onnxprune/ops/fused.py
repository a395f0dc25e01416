"""Operators that are another operator with more around it: seen without that, they need no rule of their own."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from onnxprune.axes import Reason, Size
from onnxprune.layout import Dim, LayoutError, find
from onnxprune.ops.registry import Axes, Edits, New, Op, Rule, find_rule


class KindView(Op):
    """A node as the rule of the operator `kind` sees it: the inputs `slots` alone, and with the channels on axis 1.

    What that rule says of roles, kinds, mixing and edits goes to the node itself.
    """

    def __init__(self, op: Op, kind: str, slots: Sequence[int], domain: str = "", last: bool = False) -> None:
        node = NodeProto(op_type=kind, domain=domain, name=op.node.name, output=op.node.output)
        node.input.extend(op.node.input[s] if op.has(s) else "" for s in slots)
        node.attribute.extend(op.node.attribute)
        layouts = [op.layouts[s] if op.has(s) else None for s in slots]
        if last:
            layouts = [_first(a) if i in (0, 3) and a else a for i, a in enumerate(layouts)]
        super().__init__(node, op.trace, layouts, [op.has(s) and op.is_const[s] for s in slots])
        self.whole, self.slots, self.last = op, slots, last
        self.mixed, self.ordered, self.kinds = op.mixed, op.ordered, op.kinds
        self.version = op.attr("opset", self.version)  # QLinearSoftmax

    def out_shape(self, j: int = 0) -> tuple[Size, ...]:
        shape = super().out_shape(j)
        return (shape[0], shape[-1], *shape[1:-1]) if self.last else shape

    def reason(self, text: str, structural: bool = False) -> Reason:
        return self.whole.reason(text, structural)

    def role(self, i: int, axis: int, role: str) -> None:
        self.whole.role(self.slots[i], axis, role)

    def need(self, d: Dim, least: int) -> None:
        self.whole.need(d, least)

    def outputs(self) -> list[Axes | None]:
        """Apply the rule of the operator that the node is viewed as."""
        rule = find_rule(self.domain, self.type, self.version)
        if rule is None:
            raise LayoutError(f"no rule for operator {self.type} of opset {self.version}")
        return self.outputs_of(rule)

    def outputs_of(self, rule: Rule) -> list[Axes | None]:
        outs = rule(self)
        self.whole.related.update(self.slots[i] for i in self.related)
        if self.edits:
            self.whole.edit(self._change)
        return [_last(a) if self.last and a else a for a in outs]

    def _change(self, new: New, e: Edits) -> None:
        own = Edits(attrs=e.attrs)
        for edit in self.edits:
            edit(new, own)
        e.inputs.update((self.slots[i], array) for i, array in own.inputs.items())
        e.entries.update((self.slots[i], sizes) for i, sizes in own.entries.items())


def _first(axes: Axes) -> Axes:
    return [axes[0], axes[-1], *axes[1:-1]]


def _last(axes: Axes) -> Axes:
    return [axes[0], *axes[2:], axes[1]]


def infer_plainer(op: Op, *more: int) -> list[Axes | None]:
    """The layouts that the plainer operator of its record gives; `more` are further input slots that it may read.

    The other inputs are scales and zero points of whole tensors.
    """
    like = op.record.traits.like
    assert like is not None
    slots = [*like.slots(op.node), *(s for s in more if op.has(s))]
    return KindView(op, like.op, slots, last=like.is_last(op.node)).outputs()


def refuse_several(op: Op) -> None:
    """Refuse a scale or zero point with several entries that no relation explained."""
    for i, axes in enumerate(op.layouts):
        if i not in op.related and any(find(d).size != 1 for d in axes or ()):
            raise LayoutError(f"input {i} of {op.type} has an entry for each row")
