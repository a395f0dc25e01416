"""Layers as matrix products: rows of what a layer reads, times its weights, are rows of what it makes.

A layer of g groups (1 for most) has rows x [g, n, K], a matrix w [g, K, O] and a bias b [g, O]. What kind of product an operator
computes stands in its record; kinds.py has a class for each kind. What cannot be fitted is said in words (`Unfit`) and stays as
it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.graph.forms import Form, start
from onnxprune.graph.weights import is_float
from onnxprune.ops.records import Bounds, Encoding, NodeView, Operand, Record, get_record
from onnxprune.repair.codes import StoredCode

OPEN: Bounds = (-math.inf, math.inf)
KEPT_BYTES = 1 << 20  # of an array that a layer keeps all the time


class Unfit(Exception):
    """Why a layer is left as it is, for the report."""


@dataclass(frozen=True)
class Change:
    """New contents of a node's input, or of some columns of it."""

    node: int
    slot: int
    array: Array
    columns: slice | None = None


@dataclass
class Site(NodeView):
    """A node and its constants: the array in each input slot, None where an activation is read or nothing."""

    index: int
    consts: Sequence[Array | None]
    rank_of: Callable[[str], int | None] = lambda _: None  # of a value
    are_integers: Callable[[str], bool] = lambda _: False  # is a constant stored so?

    @cached_property
    def record(self) -> Record:
        return get_record(self.node)

    @cached_property
    def operands(self) -> list[Operand]:
        """The operands of the node's product. Raises Unfit."""
        product = self.record.product
        return [o for o in product.operands(self) if self.has(o.slot)] if product else []

    @property
    def known(self) -> dict[int, Array]:
        """The constants by slot."""
        return {slot: array for slot, array in enumerate(self.consts) if array is not None}

    def rank(self, slot: int = 0) -> int:
        rank = self.known[slot].ndim if slot in self.known else self.rank_of(self.node.input[slot])
        if rank is None:
            raise Unfit(f"the rank of '{self.node.input[slot]}' is not known")
        return rank

    def can_add_bias(self, weight: int) -> bool:
        """Not to weights that are stored as integers: a runtime multiplies integers only where the bias is of integers too."""
        array = self.known.get(weight)
        return not self.are_integers(self.node.input[weight]) and array is not None and is_float(array.dtype)

    def weight(self, operand: Operand) -> tuple[Array, StoredCode | None]:
        """The numbers of an operand, and how they are stored where the node reads integers. Raises Unfit."""
        array, encoding = self.known.get(operand.slot), operand.encoding
        if array is None or encoding is None or not (self._is_known(encoding) and self._is_known(self._reads)):
            return self.const(operand.slot), None
        code = StoredCode.of(encoding, self.known, array.shape, array.dtype)
        return code.decode(array), code

    @property
    def _reads(self) -> Encoding | None:
        return self.record.product.read if self.record.product else None

    def _is_known(self, code: Encoding | None) -> bool:
        """Are a scale and a zero point constants, each for whole numbers of a byte?"""
        slots = [i for i in (code.scale, code.zero) if self.has(i)] if code else []
        return code is None or (code.bits == 8 and code.scale > 0 and self.known.keys() >= set(slots))

    def read(self, x: Array) -> Array:
        """The numbers that a value stands for where a product reads it."""
        if self._reads is None or is_float(x.dtype):
            return x
        return StoredCode.of(self._reads, self.known, x.shape, x.dtype).decode(x)

    def bias(self, code: StoredCode | None) -> tuple[Array | None, StoredCode | None]:
        """The product's own bias, and how it is stored beside such weights; None where there is none. Raises Unfit."""
        slot = (self.record.product.bias if self.record.product else None) or 0
        if not slot or not self.has(slot):
            return None, None
        array = self.known.get(slot)
        if array is None or is_float(array.dtype) or code is None or self._reads is None:
            return self.const(slot), None
        scale = np.asarray(self.known[self._reads.scale] * code.scale).ravel()
        own = StoredCode(scale, np.zeros(()), array.dtype)
        return own.decode(array), own

    def const(self, slot: int) -> Array:
        """A float constant. Raises Unfit."""
        array = self.consts[slot] if self.has(slot) else None
        if array is None:
            raise Unfit(f"input {slot} is computed, no weight of its own")
        if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise Unfit(f"it multiplies with {array.dtype.name}, not with floats")
        return array


def strip_values(array: Array) -> Array:
    """The array, or one of the same shape that takes no memory where it is large."""
    return array if array.nbytes <= KEPT_BYTES else np.broadcast_to(np.zeros((), array.dtype), array.shape)


class PackedWeight:
    """A weight as [g, K, O] and back; in K kernel positions come before inputs.

    Groups are those of `operand`, along its outputs or (`by_inputs`) its inputs. The matrices of a batch, if there are any, read
    the same and stand side by side in O, or each is a group (`apart`).
    """

    def __init__(self, operand: Operand, weight: Array, by_inputs: bool = False, apart: bool = False) -> None:
        self.weight = weight
        self.form = Form.of(start(weight.shape), operand.inputs, operand.outputs, weight.shape)
        b, o, i, p = self.form.shape
        g, h = (1, operand.groups) if by_inputs else (operand.groups, 1)
        self._split = (b, g, o // g, h, i // h, p)
        self._order = (0, 1, 3, 5, 4, 2) if apart else (1, 3, 5, 4, 0, 2)
        self.groups = g * h * (b if apart else 1)

    def pack(self, weight: Array) -> Array:
        """A weight of the same shape as [g, K, O]."""
        _, _, _, _, i, p = self._split
        split = self.form.view(weight).reshape(self._split).transpose(self._order)
        return split.reshape(self.groups, i * p, -1)

    def unpack(self, w: Array) -> Array:
        """[g, K, O] as the file has it, in its type."""
        split = w.reshape([self._split[a] for a in self._order]).transpose(np.argsort(self._order))
        return np.ascontiguousarray(self.form.back(split.reshape(self.form.shape)), self.weight.dtype)


class FitLayer:
    """One of those matrix products. `x` and `y` name the tensors it reads and makes; the weights are the node's input `slot`.

    Where the sums are no tensor of the graph (`hidden`), `y` is one with as many places: then the node adds the activation `adds`
    to them, and what it does next cuts at `inside`.
    """

    site: Site
    x: str
    y: str
    axis: int  # of its outputs in y
    x_axis: int  # of its inputs in x
    slot: int = 1
    matrix: PackedWeight
    code: StoredCode | None = None  # of the weights, where the node reads integers
    scale = 1.0  # the weights are multiplied by
    w: Array
    b: Array | None = None  # None: there is none, and none can be added
    groups = 1
    mixes = True  # does an output read several channels?
    hidden = False
    inside: Bounds = OPEN
    adds: str = ""

    @property
    def outputs(self) -> int:
        return int(self.w.shape[0] * self.w.shape[2])

    def count_places(self, y: Sequence[int]) -> tuple[int, int]:
        """For an output of shape `y` how many places there are to sample, and how many rows each gives."""
        raise NotImplementedError

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        """Take the inputs of the output positions `at` (the output has shape `y`): [g, n, K]."""
        raise NotImplementedError

    def take_outputs(self, y: Array, at: Array, keep: Array | None = None) -> Array:
        """The output, or any tensor of its shape, at the places `at`: [g, n, O]; `keep` picks from more outputs."""
        raise NotImplementedError

    def in_one(self) -> FitLayer:
        """A layer that has the same places, and all outputs in one group: for `made`, of any number of channels."""
        one = copy(self)
        one.groups = 1
        return one

    def compute_product(self, rows: Array) -> Array:
        """Apply the layer to rows: float32 [g, n, O]."""
        sums: Array = rows @ self.w.astype(np.float32)
        return sums if self.b is None else sums + self.b[:, None].astype(np.float32)

    def stored(self, w: Array) -> Array:
        """The contents of the weight's slot for such weights."""
        array = self.matrix.unpack(w / self.scale)
        return array if self.code is None else self.code.encode(array)

    def list_changes(self, w: Array, b: Array | None) -> list[Change]:
        """List the changes to the model that give the layer other weights."""
        raise NotImplementedError

    def lighten(self) -> None:
        """Let go of weights that are large. Their shapes stay, which is all that is asked for until the layer is fitted."""
        self.w, self.matrix.weight = strip_values(self.w), strip_values(self.matrix.weight)
        self.site.consts = [c if c is None else strip_values(c) for c in self.site.consts]

    @property
    def is_light(self) -> bool:
        """Did it let go of its weights?"""
        return self.w.nbytes > KEPT_BYTES and not any(self.w.strides)

    def look_inside(self) -> None:
        """Take notice of what the node does with its sums."""
        traits = self.site.record.traits
        bounds = traits.inside(self.site) if traits.inside else None
        added = traits.residual if self.site.has(traits.residual) else 0
        self.hidden = bool(bounds or added or self.code)
        self.inside = bounds or OPEN
        self.adds = self.site.node.input[added] if added else ""
