"""Which initializers a model has learned: what products, norms and tables of rows read as weights, by the operators' records."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.graph.flat import FLAT, OPENERS, flatten
from onnxprune.graph.integers import IntegerEncoding
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import collect_weights
from onnxprune.graph.view import get_domain, list_reads, map_makers, map_readers, read_opsets
from onnxprune.graph.weights import Array, Weight
from onnxprune.ops.records import SAME, Encoding, NodeView, Passes, Record, get_record

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
WEIGHT, OTHER = "weight", "other"
NORM_STEPS = 6  # from x to what it is divided by: a power, a mean, an epsilon, a root, a reciprocal


def trainable_weights(source: str | os.PathLike[str] | ModelProto | Model) -> list[str]:
    """The initializers that training may change, in the order of the file.

    They are floats that convolutions, matrix products and recurrences read as weights or biases, norms as scale and shift, and
    Gather as a table of rows; directly, or behind operators that move elements, change their type, or quantize them. A vector that
    is added to a product at once is its bias; a norm may be written out in single operators. A weight may also be computed from
    initializers alone. Integers are trained where they stand for such numbers by constant scales. What anything else reads as well
    stays as it is: running statistics, masks, scales. So do tables of sines.
    """
    model = source if isinstance(source, Model) else load(source)
    return find_trainable(flatten(model))


def find_trainable(flat: Model) -> list[str]:
    """The same of a model without bodies (see graph/flat.py)."""
    search = _EncodingFinder(flat)
    return [
        name
        for name, weight in search.weights.items()
        if (weight.data_type in FLOATS and search.is_learned(name)) or search.code_of(name) is not None
    ]


def find_codes(flat: Model, names: Iterable[str]) -> dict[str, IntegerEncoding]:
    """What the integers among those initializers stand for."""
    search = _EncodingFinder(flat)
    codes = {name: search.code_of(name) for name in names}
    return {name: code for name, code in codes.items() if code is not None}


class _OperandView(NodeView):
    """What a product may ask of a node; its operands' slots do not depend on ranks."""

    def rank(self, i: int = 0) -> int:
        return 4


class _EncodingFinder:
    def __init__(self, flat: Model) -> None:
        self.nodes: list[NodeProto] = list(flat.proto.graph.node)
        self.opsets = read_opsets(flat.proto.opset_import)
        self.weights: Mapping[str, Weight] = collect_weights(flat)
        self.readers = map_readers(self.nodes)
        self.makers = map_makers(self.nodes)
        self.outputs = {o.name for o in flat.proto.graph.output}
        self.constant = self._find_constant()

    def _find_constant(self) -> set[int]:
        """The nodes that compute with initializers alone."""
        known, constant = {"", *self.weights}, set()
        for index, node in enumerate(self.nodes):
            if node.domain != FLAT and known.issuperset(list_reads(node)) and not self._record(node).traits.random:
                constant.add(index)
                known.update(node.output)
        return constant

    def is_learned(self, name: str) -> bool:
        """Is every read of an initializer the read of a weight?"""
        shape = self.weights[name].shape
        if not shape or not math.prod(shape):
            return False
        return set(self._reads(name, name)) == {WEIGHT}

    def _reads(self, name: str, weight: str) -> Iterator[str]:
        """What the operators that read a value, directly or moved, take it for."""
        if name in self.outputs:
            yield OTHER
        for index, slot in self.readers.get(name, ()):
            node = self.nodes[index]
            record = self._record(node)
            if slot in find_learned_slots(node, record):
                yield WEIGHT if self._may_change(record, slot, weight) else OTHER
            elif node.domain == FLAT:
                if node.op_type in OPENERS and slot < len(node.output):
                    yield from self._reads(node.output[slot], weight)
                else:
                    yield OTHER
            elif slot == 0 and self._hands_on(node, record):
                yield from self._reads(node.output[0], weight)
            elif self._is_bias(node, record, slot, weight) or self._is_norm_scale(node, record, slot, weight):
                yield WEIGHT
            elif self._is_computed_weight(index, record, weight):
                yield from self._reads(node.output[0], weight)
            elif not record.traits.reads_sizes:
                yield OTHER

    def _is_computed_weight(self, index: int, record: Record, weight: str) -> bool:
        """Is a weight computed from the initializer and other constants alone (standardized, of unit length, times a gain)?

        A mask of zeros and ones is no part of the weight that it is multiplied with, and a number for all of it is none either.
        """
        if (
            index not in self.constant
            or record.traits.encoding
            or record.traits.statistics
            or record.traits.reads_sizes
        ):
            return False
        values = self.weights[weight]
        return math.prod(values.shape) > 1 and not _is_mask(values.array())

    def code_of(self, name: str) -> IntegerEncoding | None:
        """What the integers of a weight stand for, where all that read it agree, by constant scales and zero points."""
        if self.weights[name].data_type not in INTEGERS or not self.is_learned(name):
            return None
        codes = {self._code_at(index, slot) for index, slot in self.readers.get(name, ())}
        return codes.pop() if len(codes) == 1 else None

    def _code_at(self, index: int, slot: int) -> IntegerEncoding | None:
        node = self.nodes[index]
        record, view = self._record(node), _OperandView(node)
        if record.traits.encoding is not None:
            encoding: Encoding | None = record.traits.encoding(view) if slot == 0 else None
        else:
            operands = record.product.operands(view) if record.product else ()
            encoding = next((o.encoding for o in operands if o.slot == slot), None)
        if encoding is None or encoding.bits != 8:
            return None
        scale, zero = (node.input[i] if i < len(node.input) else "" for i in (encoding.scale, encoding.zero))
        if scale not in self.weights or (zero and zero not in self.weights) or not encoding.scale:
            return None
        return IntegerEncoding(scale, zero, encoding.axis, default=encoding.default, block=encoding.block)

    def _record(self, node: NodeProto) -> Record:
        return get_record(node, self.opsets.get(get_domain(node), 1))

    def _hands_on(self, node: NodeProto, record: Record) -> bool:
        """Is the output still the weight: moved, of another type, quantized, normalized, or one part of it?"""
        traits = record.traits
        parts = traits.table is not None and self._row(node, record) is not None
        return bool(traits.moves or traits.encoding or traits.statistics or parts)

    def _row(self, node: NodeProto, record: Record) -> Weight | None:
        """The constant that says which one row is taken."""
        assert record.traits.table is not None
        index = self.weights.get(node.input[record.traits.table[1]])
        return index if index is not None and math.prod(index.shape) == 1 else None

    def _may_change(self, record: Record, slot: int, weight: str) -> bool:
        """Is what is read here learned? A table of sines, or the frequencies of one, was computed."""
        table, shape = record.traits.table, self.weights[weight].shape
        if table is not None and table[0] == slot:
            return len(shape) == 2 and not is_sinusoidal(self.weights[weight].array())
        return sum(n != 1 for n in shape) > 1 or not is_geometric(self.weights[weight].array())

    def _is_bias(self, node: NodeProto, record: Record, slot: int, weight: str) -> bool:
        """Is the weight a vector that is added to what a product made, or to what a norm scaled, with nothing between?"""
        maker = self._other_maker(node, slot, weight) if record.traits.sums else None
        if maker is None:
            return False
        product = self._record(maker).product
        operands = product.operands(_OperandView(maker)) if product else ()
        vector = sum(n != 1 for n in self.weights[weight].shape) == 1
        if vector and any(self._leads_to_weight(maker.input[o.slot]) for o in operands):
            return True
        return any(
            name in self.weights and self._is_norm_scale(maker, self._record(maker), at, name)
            for at, name in enumerate(maker.input)
        )

    def _is_norm_scale(self, node: NodeProto, record: Record, slot: int, weight: str) -> bool:
        """Is the weight a vector times x / f(x), as norms that are written out have it?"""
        maker = self._other_maker(node, slot, weight) if _multiplies(record) else None
        if maker is None or not _multiplies(self._record(maker)) or len(maker.input) != 2:
            return False
        a, b = maker.input
        return self._is_computed_from(a, b) or self._is_computed_from(b, a)

    def _other_maker(self, node: NodeProto, slot: int, weight: str) -> NodeProto | None:
        """The node that made the other operand of two, where the weight is more than a number."""
        if len(node.input) != 2 or all(n == 1 for n in self.weights[weight].shape):
            return None
        index = self.makers.get(node.input[1 - slot])
        while index is not None and self._record(self.nodes[index]).traits.moves == SAME:
            index = self.makers.get(self.nodes[index].input[0])
        return None if index is None else self.nodes[index]

    def _is_computed_from(self, name: str, source: str) -> bool:
        """Is a value made of one other and constants alone, in a few steps of which one mixes positions?"""
        mixes = False
        for _ in range(NORM_STEPS):
            index = self.makers.get(name)
            inputs = {x for x in self.nodes[index].input if x not in self.weights} if index is not None else set()
            if index is None or len(inputs) != 1:
                return False
            traits = self._record(self.nodes[index]).traits
            mixes |= not (traits.pointwise or traits.moves)
            (name,) = inputs
            if name == source:
                return mixes
        return False

    def _leads_to_weight(self, name: str) -> bool:
        while name not in self.weights:
            index = self.makers.get(name)
            if index is None or not self._hands_on(self.nodes[index], self._record(self.nodes[index])):
                return False
            name = self.nodes[index].input[0]
        return True


def _multiplies(record: Record) -> bool:
    """Is it a product or a quotient, element by element?"""
    traits = record.traits
    product = isinstance(traits.passes, Passes) and Passes.EACH in traits.passes
    return traits.pointwise and (product or traits.rounds)  # a quotient of integers drops a remainder


def find_learned_slots(node: NodeProto, record: Record) -> set[int]:
    """The input slots that hold learned numbers, by the record: a product's operands and bias, scales and shifts, tables."""
    product, traits = record.product, record.traits
    slots = set(traits.learned)
    if product is not None:
        slots |= {o.slot for o in product.operands(_OperandView(node))}
        slots |= set() if product.bias is None else {product.bias}
    return slots | ({traits.table[0]} if traits.table else set())


def is_sinusoidal(table: Array) -> bool:
    """Is each column a sine of the row's number, as rotary and sinusoidal positions are? Then x[p - 1] + x[p + 1] = c x[p]."""
    x = np.asarray(table, np.float64)[:256]
    if len(x) < 5 or not np.isfinite(x).all() or np.abs(x).max() > 1.01 or np.ptp(x, 0).max() < 0.1:
        return False
    middle, around = x[1:-1], x[:-2] + x[2:]
    power = (middle**2).sum(0)
    c = (middle * around).sum(0) / np.maximum(power, 1e-12)
    rest = np.sqrt(((around - c * middle) ** 2).mean(0))
    return bool(np.all(rest <= 5e-3))


def is_geometric(values: Array) -> bool:
    """Are the numbers positive, with one ratio between neighbors, as the frequencies of rotary positions are?"""
    x = np.asarray(values, np.float64).reshape(-1)
    if len(x) < 4 or not np.isfinite(x).all() or x.min() <= 0:
        return False
    ratios = x[1:] / x[:-1]
    return bool(np.ptp(ratios) <= 1e-2 * ratios.mean()) and abs(float(ratios.mean()) - 1) > 1e-3


def _is_mask(values: Array) -> bool:
    return bool(np.isin(values, (0, 1)).all())
