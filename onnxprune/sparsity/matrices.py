"""The constant operands of products, and the places in the file of the numbers that are summed up together.

An operand of a product says which of its axes are summed over, and what its integers stand for. From the constant the nodes
that only move or rename numbers are followed to the products. A constant that anything else reads, or that is read in two
ways, is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.graph.forms import Axis, Form, Misfit, regroup, size, start
from onnxprune.graph.inner import read_marks
from onnxprune.graph.view import Site, find_captured, map_makers, read_attribute
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.macs import Shapes
from onnxprune.ops.records import PERMUTE, SAME, Operand, UnknownShape, get_record
from onnxprune.sparsity.masked_weights import Numbers

UNTOLD = "its rule does not give the axis of the sum"


@dataclass(frozen=True)
class Meaning:
    """Where integers are turned into numbers: the name that they have there, and their axes in terms of the file's bytes."""

    name: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class ConstantMatrix:
    """A constant that products multiply with: w [B, O, I, P] by `form`, which is None where `left` says why it is left alone.

    `weight` is its name in the flat model, `inner` its number where it is no initializer of the main graph.
    """

    weight: str
    name: str  # of the first node that reads it
    output: str  # of that node, the first that it has
    op: str
    kind: str  # of the product
    groups: int  # of a grouped convolution
    dtype: str
    shape: tuple[int, int, int, int]
    form: Form | None = None
    left: str = ""
    inner: int | None = None
    sites: tuple[Site, ...] = ()
    meaning: Meaning | None = None  # of integers

    @property
    def params(self) -> int:
        b, o, i, p = self.shape
        return b * o * i * p


@dataclass
class _Reading:
    """One product that reads a constant, and the operand's axes in terms of the file; neither where that cannot be told."""

    site: Site
    operand: Operand | None
    axes: list[Axis]


def find_matrices(a: Analysis) -> list[ConstantMatrix]:
    """Every constant that a product multiplies with, in the order of the products; one entry for one that several read."""
    return _Finder(a).run()


class _Finder:
    def __init__(self, a: Analysis) -> None:
        self.a, self.c = a, a.coupling
        self.nodes = a.flat.proto.graph.node
        self.explained = {index for index, _ in self.c.operands}
        self.makers = {o: self.c.live[i] for o, i in map_makers(self.c.live).items() if o in self.c.computed}
        self.readers: dict[str, list[Site]] = defaultdict(list)
        self.kept_for = {v.name: "it is an output of the graph" for v in a.flat.proto.graph.output}
        live = {n.output[0] for n in self.c.live if n.output}
        for index, node in enumerate(self.nodes):
            if node.output and node.output[0] in live:
                for slot, name in enumerate(node.input):
                    self.readers[name].append((index, slot))
                for name in find_captured(node):
                    self.kept_for[name] = f"a body of {node.op_type} '{_label(node)}' reads it"

    def run(self) -> list[ConstantMatrix]:
        layers = [m for name in self.c.weights for m in self._one(name)]
        covered = {site for m in layers for site in m.sites}
        layers += [self._computed(site) for site in self.c.operands if site not in covered and self._is_computed(site)]
        layers.sort(key=lambda m: m.sites[0])
        numbers = read_marks(self.a.flat.proto)
        return [self._written(m) for m in _once([replace(m, inner=numbers.get(m.weight)) for m in layers])]

    def _written(self, m: ConstantMatrix) -> ConstantMatrix:
        """Left alone where the model has no tensor to write to: a Constant's list of floats, a sparse initializer."""
        if m.form is None or m.inner is not None or m.weight in self.a.model.weights:
            return m
        return replace(m, form=None, left="no plain tensor of the file holds it")

    def _one(self, name: str) -> Iterator[ConstantMatrix]:
        weight = self.c.weights[name]
        if not weight.shape or 0 in weight.shape:
            return
        readings: list[_Reading] = []
        others: list[str] = []
        self.meanings: list[Meaning] = []
        self._follow(name, start(weight.shape), readings, others)
        if not readings:
            return
        first = self.nodes[readings[0].site[0]]
        operand = readings[0].operand
        bits = self._bits()
        form, why = self._form(readings, weight.shape, 8 // bits)
        why = next(iter(others), "") or self._no_numbers(name) or why
        yield ConstantMatrix(
            name, _label(first), _output(first), first.op_type, _kind(first), operand.groups if operand else 1,
            f"uint{bits}" if bits < 8 else dtype_of(weight.data_type).name,
            form.shape if form else (1, 1, 1, 1), None if why else form, why, None,
            tuple(r.site for r in readings), next(iter(self.meanings), None),
        )  # fmt: skip

    def _name(self, site: Site) -> str:
        return str(self.nodes[site[0]].input[site[1]])

    def _is_computed(self, site: Site) -> bool:
        """Does a product that runs read a value there that the graph computes from constants alone?"""
        return self._name(site) in self.c.computed and self.nodes[site[0]].output[0] not in self.c.computed

    def _computed(self, site: Site) -> ConstantMatrix:
        """An operand that is constant, but not a constant that was moved."""
        node, name = self.nodes[site[0]], self._name(site)
        maker = self.makers[name]
        while get_record(maker).traits.moves and maker.input[0] in self.makers:
            maker = self.makers[maker.input[0]]
        dtype, why = dtype_of(self.c.trace.dtype(name) or 1).name, f"{maker.op_type} '{_label(maker)}' computes it"
        return ConstantMatrix(
            name, _label(node), _output(node), node.op_type, _kind(node), self.c.operands[site].groups, dtype,
            (1, 1, 1, 1), None, why, None, (site,),
        )  # fmt: skip

    def _follow(self, name: str, axes: list[Axis], readings: list[_Reading], others: list[str]) -> None:
        """Collect the products that read a value, and what else does, in words."""
        if name in self.kept_for:
            others.append(self.kept_for[name])
        if name in self.c.integers and not is_float(dtype_of(self.c.trace.dtype(name) or TensorProto.FLOAT)):
            self.meanings.append(Meaning(name, tuple(axes)))
        for index, slot in self.readers[name]:
            node = self.nodes[index]
            runs = node.output[0] not in self.c.computed
            if runs and (index, slot) in self.c.operands:
                readings.append(_Reading((index, slot), self.c.operands[index, slot], axes))
            elif runs and index not in self.explained and slot in self._slots(index):
                readings.append(_Reading((index, slot), None, []))
            elif runs or slot or not get_record(node).traits.moves:
                others.append(f"{node.op_type} '{_label(node)}' reads it too")
            else:
                try:
                    self._follow(node.output[0], self._moved(node, axes), readings, others)
                except Misfit as why:
                    others.append(f"{node.op_type} '{_label(node)}': {why}")
                    self._follow(node.output[0], [], readings, others)

    def _slots(self, index: int) -> set[int]:
        """Where a product whose rule could not tell its operands reads weights."""
        node = self.nodes[index]
        product = get_record(node).product
        shapes = Shapes(node, lambda node, slot: self.c.use(node.input[slot], index, slot), self.c.trace.shape)
        try:
            return {o.slot for o in product.operands(shapes)} if product else set()
        except (UnknownShape, LookupError, TypeError, ValueError):  # it lacks what its rule knows
            return set()

    def _moved(self, node: NodeProto, axes: list[Axis]) -> list[Axis]:
        moves = get_record(node).traits.moves
        if not axes or moves == SAME:
            return axes
        if moves == PERMUTE:
            perm = read_attribute(node, "perm", list(range(len(axes)))[::-1])
            return [axes[p] for p in perm]
        shape = self.c.trace.shape(node.output[0])
        if shape is None or not all(isinstance(n, int) for n in shape):
            raise Misfit("its shape is not known")
        return regroup(axes, [n for n in shape if isinstance(n, int)])

    def _form(self, readings: list[_Reading], shape: tuple[int, ...], shared: int) -> tuple[Form | None, str]:
        """The form of the entries of a tensor of that shape, of which `shared` lie in a byte."""
        forms = [_form_of(r, shape, shared) for r in readings if r.axes]
        known = [f for f in forms if f is not None]
        if not known or len(known) < len(readings):
            return next(iter(known), None), UNTOLD
        for r, form in zip(readings, known, strict=True):
            if form.parts[2] != known[0].parts[2]:
                one, two = (_label(self.nodes[i]) for i in (readings[0].site[0], r.site[0]))
                return known[0], f"'{one}' and '{two}' sum over different axes of it"
        codes = [r.operand.encoding for r in readings if r.operand and r.operand.encoding]
        if any(code.inputs and code.inputs != known[0].shape[2] for code in codes):
            return known[0], "its last block of inputs is filled up"
        return known[0], ""

    def _bits(self) -> int:
        """Of an entry, where several lie in a byte."""
        return min((self.c.integers[m.name].bits for m in self.meanings), default=8)

    def _no_numbers(self, name: str) -> str:
        """Why the entries of a constant are not numbers that could be made zero one by one."""
        dtype = dtype_of(self.c.weights[name].data_type)
        if is_float(dtype):
            return "its numbers are powers of two, none is zero" if "e8m0" in dtype.name else ""
        if not self.meanings:
            return f"its {dtype.name} entries stand for unknown numbers"
        known = [self.c.integers[m.name] for m in self.meanings]
        if any(8 % k.bits for k in known):
            return f"its numbers of {known[0].bits} bits go across bytes"
        zeros = [self._zero(site) for m in self.meanings for site in self.readers[m.name]]
        if not all(p in self.c.weights for p in (*zeros, *(k.scale for k in known)) if p):
            return "its scale or zero point is computed"
        points = [self.c.weights[z].array() if z else np.array(0) for z in zeros if z is not None]
        if any((p.astype(np.float64) % 1).any() for p in points):
            return "its zero points are no whole numbers"
        same = all(m.axes == self.meanings[0].axes for m in self.meanings)
        same = same and len({p.astype(np.int64).tobytes() for p in points}) < 2
        return "" if same and len({k.bits for k in known}) < 2 else "it is read with several zero points"

    def _zero(self, site: Site) -> str | None:
        """The zero point with which a node reads integers, '' for 0; None where it turns none into numbers."""
        node, operand, traits = self.nodes[site[0]], self.c.operands.get(site), get_record(self.nodes[site[0]]).traits
        if operand is not None:
            slot = operand.encoding.zero if operand.encoding else 0
        elif traits.moves == SAME and traits.changes_type and site[1] == 0:
            slot = 2  # of DequantizeLinear; a Cast has none
        else:
            return None
        return str(node.input[slot]) if 0 < slot < len(node.input) else ""


def open_numbers(a: Analysis, matrix: ConstantMatrix, everywhere: bool = False) -> Numbers:
    """What the entries of a matrix stand for; `everywhere` says that more than the inputs of an output are compared."""
    if matrix.meaning is None:
        return Numbers()
    known, weights = a.coupling.integers[matrix.meaning.name], a.coupling.weights
    file_shape, shared = weights[matrix.weight].shape, 8 // known.bits
    zero, scale = (weights[n].array() if n else None for n in (known.zero, known.scale))
    read = tuple(map(size, matrix.meaning.axes))  # the shape that the bytes have where they are read
    axes = _entries(matrix.meaning.axes, shared)
    whole = (*file_shape[:-1], file_shape[-1] * shared)

    def in_file(p: Array) -> Array:
        """A parameter for each position where the integers are read, as the file has them."""
        p = np.repeat(p, shared, -1) if p.shape[-1:] > (1,) else p
        if p.size == 1 or axes == start(whole):
            return p
        moved = Form((tuple(f for axis in axes for f in axis), (), (), ()), whole)
        return moved.back(np.broadcast_to(p, tuple(map(size, axes))))

    points = known.points(zero, scale, read[0])
    fitted = in_file(known.fit(points, read)) if points.any() else None
    if scale is None:
        return Numbers(fitted, bits=known.bits)
    scale = known.fit(scale, read)
    inputs = matrix.form.parts[2] if matrix.form else ()
    varies = everywhere or any(n > 1 and _overlap(axis, inputs) for n, axis in zip(scale.shape, axes, strict=True))
    return Numbers(fitted, in_file(scale) if varies else None, known.bits)


def _entries(axes: Sequence[Axis], shared: int) -> list[Axis]:
    """The axes of the entries, of which `shared` lie in each byte, from the axes of the bytes: the last one is longer."""
    if shared == 1:
        return list(axes)
    longer = [tuple((n, s * shared) for n, s in axis) for axis in axes]
    *outer, last = longer[-1] or ((1, shared),)
    inner = ((last[0] * shared, 1),) if last[1] == shared else (last, (shared, 1))
    return [*longer[:-1], (*outer, *inner)]


def _overlap(a: Axis, b: Axis) -> bool:
    """Does a step along one axis move along the other too?"""
    return any(s < t * m and t < s * n for n, s in a for m, t in b)


def _form_of(r: _Reading, shape: tuple[int, ...], shared: int) -> Form | None:
    if r.operand is None or not r.operand.inputs:
        return None
    whole = (*shape[:-1], shape[-1] * shared)
    return Form.of(_entries(r.axes, shared), sorted(r.operand.inputs), sorted(r.operand.outputs), whole)


def _label(node: NodeProto) -> str:
    return str(node.name or _output(node))


def _output(node: NodeProto) -> str:
    return str(next(filter(None, node.output)))


def _kind(node: NodeProto) -> str:
    product = get_record(node).product
    return product.kind if product else ""


def _once(layers: list[ConstantMatrix]) -> list[ConstantMatrix]:
    """A tensor of a local function is one matrix, however often the function is called."""
    out: dict[object, ConstantMatrix] = {}
    for m in layers:
        key = m.weight if m.inner is None else m.inner
        other = out.get(key)
        if other is None:
            out[key] = m
            continue
        why = other.left or m.left
        if not why and m.form and other.form and m.form.parts[2] != other.form.parts[2]:
            why = f"'{other.name}' and '{m.name}' sum over different axes of it"
        out[key] = replace(other, form=None if why else other.form, left=why, sites=(*other.sites, *m.sites))
    return list(out.values())
