"""The description of an operator: its layout rule, the product that it computes, and its traits.

A rule registers a record with the decorator `couple` (see registry.py). Everything that has to know an operator, from counting
MACs to repair, asks `get_record(node)`; nothing outside this package compares an operator's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxprune.graph.view import get_domain, read_attribute

if TYPE_CHECKING:
    from onnx import NodeProto

MICROSOFT = "com.microsoft"
Array = np.ndarray
Values = tuple[Array, Array]  # the contents of a tensor at both samples of the trace
Shape = tuple[Any, ...]  # of ints, or of what adds and multiplies as they do (allocate/polynomial.py)

# The ways in which a node moves elements.
SAME = "same"  # every element keeps its position: Identity, Cast
REGROUP = "regroup"  # the elements keep their row-major order, the axes are others: Reshape
PERMUTE = "permute"  # the axes change places: Transpose


class NodeFacts(Protocol):
    """The properties of a node that a product reads."""

    def attr(self, name: str, default: Any = None) -> Any: ...

    def has(self, i: int) -> bool: ...

    def rank(self, i: int = 0) -> int: ...


class NodeShapes(NodeFacts, Protocol):
    """The same with shapes. Both methods raise UnknownShape."""

    def x(self, i: int) -> Shape: ...

    def y(self, j: int = 0) -> Shape: ...


class UnknownShape(Exception):
    """The shape of an input or output that a count needs is not known."""


@dataclass
class NodeView:
    """What a node says of itself."""

    node: NodeProto

    def attr(self, name: str, default: Any = None) -> Any:
        return read_attribute(self.node, name, default)

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and bool(self.node.input[i])

    def rank(self, i: int = 0) -> int:
        raise UnknownShape(self.node.name)


@dataclass(frozen=True)
class Encoding:
    """The input slots that hold the scale and zero point of an operand (0: none), and how its integers are packed."""

    scale: int
    zero: int
    axis: int
    bits: int = 8
    default: int = 0
    block: int = 1
    inputs: int = 0  # how many inputs there are, where the last block is filled up; 0: as many as there is room for


@dataclass(frozen=True)
class Operand:
    """The weight in one input slot of a product: the part of each axis."""

    slot: int
    inputs: tuple[int, ...]  # summed over
    outputs: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    groups: int = 1  # outputs are (g o), and each group of them reads inputs of its own
    encoding: Encoding | None = None


@dataclass(frozen=True)
class Product:
    """A sum of products: which inputs are weights, and how often a run multiplies.

    `macs` gets the shapes of a node and gives its multiply-accumulates. `operands` describes the inputs that may be weights;
    there are none where only activations are multiplied. `bias` is the input slot of what is added for each output.
    """

    kind: str
    macs: Callable[[NodeShapes], Any]
    operands: Callable[[NodeFacts], Sequence[Operand]] = lambda _: ()
    bias: int | None = None
    read: Encoding | None = None  # of the integers that it reads in slot 0


class Renumbered:
    """A node as an operator sees it that reads the inputs `slots` alone."""

    def __init__(self, node: Any, slots: Sequence[int]) -> None:
        self.node, self.slots = node, slots

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attr(name, default)

    def has(self, i: int) -> bool:
        return i < len(self.slots) and bool(self.node.has(self.slots[i]))

    def rank(self, i: int = 0) -> int:
        return int(self.node.rank(self.slots[i]))

    def x(self, i: int) -> Shape:
        return tuple(self.node.x(self.slots[i]))

    def y(self, j: int = 0) -> Shape:
        return tuple(self.node.y(j))


def renumber(
    product: Product,
    slots: Sequence[int],
    encodings: Mapping[int, Encoding] | None = None,
    bias: int | None = None,
    read: Encoding | None = None,
) -> Product:
    """A product whose operands stand in other input slots: `slots[i]` is what the product takes for its input i."""

    def operands(node: NodeFacts) -> list[Operand]:
        operands_of_product = product.operands(Renumbered(node, slots))
        return [_move(o, slots[o.slot], (encodings or {}).get(slots[o.slot], o.encoding)) for o in operands_of_product]

    return Product(product.kind, lambda node: product.macs(Renumbered(node, slots)), operands, bias, read)


def _move(operand: Operand, slot: int, encoding: Encoding | None) -> Operand:
    return Operand(slot, operand.inputs, operand.outputs, operand.batch, operand.kernel, operand.groups, encoding)


class Passes(Flag):
    """The properties of all inputs of an operator f that its output keeps."""

    NOTHING = 0
    POSITIVE = auto()  # f(a x) = a f(x) for numbers a > 0
    NEGATIVE = auto()  # the same for a < 0
    SHIFT = auto()  # f(x + c) = f(x) + c
    EACH = auto()  # f(a x, b y) = a b f(x, y) for any a and b
    LINEAR = POSITIVE | NEGATIVE
    ALL = LINEAR | SHIFT


Bounds = tuple[float, float]


# y = scale * x + shift: both as constants that broadcast against x, given the slot of x and the constant inputs by slot.
Line = tuple[Array, Array]
Affine = Callable[[NodeFacts, int, Mapping[int, Array]], Line | None]


@dataclass(frozen=True)
class Plainer:
    """The operator of the default domain that a node is without its scales and zero points, and with its channels on axis 1."""

    op: str
    operands: Sequence[int] = (0,)  # the input slots that the plainer operator would read, in its order
    typed: int = 0  # the slot whose element type the result has; float where it is absent
    last: bool = False  # the node keeps its channels on the last axis

    def slots(self, node: NodeProto) -> list[int]:
        """The operands that a node has."""
        return [s for s in self.operands if s < len(node.input)]

    def is_last(self, node: NodeProto) -> bool:
        """Does the node keep its channels on the last axis rather than on axis 1?"""
        return self.last or bool(read_attribute(node, "channels_last"))


@dataclass(frozen=True)
class Traits:
    """Further properties of an operator."""

    moves: str = ""  # SAME, REGROUP or PERMUTE where it only moves elements or renames their type
    changes_type: bool = False  # it moves elements, and writes them as another type
    pointwise: bool = False  # each element of the output depends on the elements at its position alone
    bounds: Callable[[NodeFacts, Mapping[int, Array]], Bounds] | None = (
        None  # of its output, given constant inputs by slot
    )
    clips: bool = False  # it cuts its input at those bounds, and does nothing else
    passes: Passes | Callable[[NodeFacts], Passes] = Passes.NOTHING  # of the axes that it does not touch
    affine: Affine | None = None
    sums: bool = False  # y is the sum of its inputs
    rounds: bool = False  # of integers it drops a remainder
    adds: int = 0  # the input slot of a bias that it adds to its first input, along the last axis and before all else
    residual: int = 0  # the input slot of what a product adds to its sums
    inside: Callable[[NodeFacts], Bounds | None] | None = (
        None  # where the activation in a product's node cuts, if it has one
    )
    encoding: Callable[[NodeFacts], Encoding] | None = None  # of the integers that it turns into numbers, or back
    random: bool = False
    reads_sizes: bool = False  # only the sizes of its input matter: Shape, Size
    statistics: tuple[int, ...] = ()  # input slots of running means and variances
    learned: tuple[int, ...] = ()  # input slots of learned scales, shifts and tables, beside a product's operands
    table: tuple[int, int] | None = None  # input slots of a table and of the row numbers that are looked up in it
    takes: bool = False  # every entry of the output is one of the first input's
    routed: tuple[int, str] | None = None  # input slot of experts' scores, attribute with the number that a token uses
    equates: bool = False  # it asks which entries of two inputs are equal
    any_opset: bool = False  # ONNX Runtime takes it at opsets at which ONNX does not have it
    like: Plainer | None = None  # it is that operator with more around it
    by_chance: Callable[[NodeProto, Sequence[Values | None]], bool] | None = None  # see chance.py
    no_product: str = ""  # why an operator that reads a weight along an input axis has no product


@dataclass(frozen=True)
class Record:
    """All that is known of an operator, for the opset versions [since, until]."""

    op: str
    domain: str
    since: int
    until: int
    rule: Callable[..., Any] | None
    product: Product | None = None
    traits: Traits = field(default_factory=Traits)

    @property
    def summary(self) -> str:
        return (self.rule.__doc__ or "").strip().splitlines()[0] if self.rule else ""


_TABLE: dict[tuple[str, str], list[Record]] = {}
NOTHING = Record("", "", 1, 10**6, None)


def add_record(record: Record) -> None:
    _TABLE.setdefault((record.domain, record.op), []).append(record)


@cache
def load_records() -> dict[tuple[str, str], list[Record]]:
    """All records, by domain and operator."""
    # By its name: the rules stand above the graphs, which look operators up while no rule may have been imported.
    import_module("onnxprune.ops.rules")
    return _TABLE


def find_record(domain: str, op: str, version: int | None = None) -> Record | None:
    """The record of an operator at an opset version, or the newest one."""
    records = load_records().get((domain, op), ())
    for record in reversed(records) if version is None else records:
        if version is None or record.since <= version <= record.until:
            return record
    return None


def get_record(node: NodeProto, version: int | None = None) -> Record:
    """The record of a node's operator; an empty one where it has none."""
    return find_record(get_domain(node), node.op_type, version) or NOTHING


def take_least(size: Any, most: int) -> Any:
    """The size, or `most` where it is larger; of a polynomial too."""
    return min(size, most) if isinstance(size, int) else size.at_most(most)
