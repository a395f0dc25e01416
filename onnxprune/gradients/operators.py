"""The table of operators in torch, and what an entry sees of its node.

An entry is one function: it gets the `Node` and the inputs as tensors (None where one is absent), and returns the output, or a
tuple of outputs. Entries stand one file a family in `ops/`; a control operator (`control=True`) also gets the values of the run,
to run its bodies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, NodeProto, defs, helper

from onnxprune.graph.view import get_domain

if TYPE_CHECKING:
    import torch

Function = Callable[..., Any]


@dataclass(frozen=True)
class Entry:
    """How torch computes an operator, for the opset versions [since, until]."""

    op: str
    domain: str
    run: Function
    since: int
    until: int
    host: tuple[int, ...]  # input slots that are read as Python numbers (shapes, axes): they stay on the CPU
    control: bool  # it has bodies
    random: bool
    sizes: bool  # only the sizes of its inputs matter
    filters: tuple[
        int, ...
    ]  # input slots of filters, which torch is faster with where their channels lie last in memory
    dynamic: bool  # the sizes of its outputs depend on the numbers in its inputs, beside those of `host`


TABLE: dict[tuple[str, str], list[Entry]] = {}


def operator(
    *ops: str,
    domain: str = "",
    since: int = 1,
    until: int = 10**6,
    host: Sequence[int] = (),
    control: bool = False,
    random: bool = False,
    sizes: bool = False,
    filters: Sequence[int] = (),
    dynamic: bool = False,
) -> Callable[[Function], Function]:
    """Register the torch form of one or more operators, for the opset versions [since, until]."""

    def register(run: Function) -> Function:
        for op in ops:
            entry = Entry(op, domain, run, since, until, tuple(host), control, random, sizes, tuple(filters), dynamic)
            TABLE.setdefault((domain, op), []).append(entry)
        return run

    return register


def find_entry(domain: str, op: str, version: int) -> Entry | None:
    """The entry of an operator at an opset version."""
    return next((e for e in TABLE.get((domain, op), ()) if e.since <= version <= e.until), None)


@dataclass
class State:
    """What all nodes of a program share: where tensors are, and the type that floats of 32 bits and less are computed in."""

    device: torch.device
    dtype: torch.dtype


@dataclass
class Node:
    """A node as its entry sees it; an attribute is read by its name, with ONNX's default (None where there is none)."""

    op_type: str
    domain: str
    version: int
    label: str
    outputs: tuple[bool, ...]  # which outputs somebody reads
    elems: tuple[int, ...]  # element types of the inputs, 0 where the file does not say
    state: State
    attributes: dict[str, Any]
    bodies: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = vars(self)
        own.update({name: value for name, value in self.attributes.items() if name not in own})  # fast to read

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def get(self, name: str, default: Any) -> Any:
        """An attribute of an operator that ONNX has no defaults for."""
        return self.attributes.get(name, default)

    def elem(self, i: int) -> int:
        """The element type that the file states for input `i`; 0 where it states none."""
        return self.elems[i] if i < len(self.elems) else 0


@cache
def _defaults(domain: str, op: str, version: int) -> dict[str, Any]:
    """The attributes' default values, by ONNX's own schemas; those of the newest version for an operator that is newer."""
    for args in ((op, version, domain), (op, domain)):
        try:
            schema = defs.get_schema(*args)
        except defs.SchemaError:
            continue
        return {
            name: _value(a.default_value)
            for name, a in schema.attributes.items()
            if a.default_value.type != AttributeProto.UNDEFINED
        }
    return {}


def _value(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, list):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def make_node(node: NodeProto, opsets: Mapping[str, int], elems: Sequence[int], state: State) -> Node:
    """What an entry sees of a node."""
    domain = get_domain(node)
    version = opsets.get(domain, 1)
    own = {a.name: _value(a) for a in node.attribute if a.type not in GRAPHS}
    attributes = {**_defaults(domain, node.op_type, version), **own}
    label = node.name or next(filter(None, node.output), "")
    outputs = tuple(map(bool, node.output))
    return Node(node.op_type, domain, version, label, outputs, tuple(elems), state, attributes)
