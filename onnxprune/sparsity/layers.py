"""Which constants products multiply with, and where in the file the numbers lie that are summed up together.

A rule says which axis of an operand a product sums over (its role is `in`). From the constant the nodes that only move or
rename numbers are followed to the products. A constant that anything else reads, or that is read in two ways, is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.coupling import Coupling
from onnxprune.graph.inner import marks
from onnxprune.graph.view import Site, attribute, captured, makers
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.ops.records import record_of
from onnxprune.sparsity.forms import Axis, Form, Misfit, regroup, size, start
from onnxprune.sparsity.masked import Numbers

RENAME = ("Identity", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear", "Quant")  # zero stays zero
REGROUP = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
DOMAINS = ("", "ai.onnx", "com.microsoft", "onnx.brevitas", "qonnx.custom_op.general")
OPERANDS = 3  # the first inputs of a product: what it multiplies is among them


@dataclass(frozen=True)
class Meaning:
    """Where integers are turned into numbers: the name that they have there, and their axes in terms of the file."""

    name: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Matrix:
    """A constant that products multiply with: w [B, O, I, P] by `form`, which is None where `left` says why it is left alone.

    `weight` is its name in the flat model, `inner` its number where it is no initializer of the main graph.
    """

    weight: str
    name: str  # of the first node that reads it
    output: str  # of that node, the first that it has
    op: str
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
    """One product that reads a constant, and the operand's axes in terms of the file."""

    site: Site
    axes: list[Axis]


def matrices(a: Analysis) -> list[Matrix]:
    """Every constant that a product multiplies with, in the order of the products; one entry for one that several read."""
    return _Finder(a).run()


class _Finder:
    def __init__(self, a: Analysis) -> None:
        self.a, self.c = a, a.coupling
        self.nodes = a.flat.proto.graph.node
        self.roles = _direct_roles(self.c, self.nodes)
        self.explained = {site for known in self.c.roles.values() for site, _ in known}
        self.makers = {o: self.c.live[i] for o, i in makers(self.c.live).items() if o in self.c.computed}
        self.readers: dict[str, list[Site]] = defaultdict(list)
        self.held = {v.name: "it is an output of the graph" for v in a.flat.proto.graph.output}
        live = {n.output[0] for n in self.c.live if n.output}
        for index, node in enumerate(self.nodes):
            if node.output and node.output[0] in live:
                for slot, name in enumerate(node.input):
                    self.readers[name].append((index, slot))
                for name in captured(node):
                    self.held[name] = f"a body of {node.op_type} '{_label(node)}' reads it"

    def run(self) -> list[Matrix]:
        found = [m for name in self.c.weights for m in self._one(name)]
        covered = {site for m in found for site in m.sites}
        found += [
            self._computed(site) for site in self.roles.keys() - covered if self._operand(site) in self.c.computed
        ]
        found.sort(key=lambda m: m.sites[0])
        numbers = marks(self.a.flat.proto)
        return [self._written(m) for m in _once([replace(m, inner=numbers.get(m.weight)) for m in found])]

    def _written(self, m: Matrix) -> Matrix:
        """Left alone where the model has no tensor to write to: a Constant's list of floats, a sparse initializer."""
        if m.form is None or m.inner is not None or m.weight in self.a.model.weights:
            return m
        return replace(m, form=None, left="no plain tensor of the file holds it")

    def _one(self, name: str) -> Iterator[Matrix]:
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
        form, why = self._form(readings, weight.shape)
        why = next(iter(others), "") or why or self._no_numbers(name)
        yield Matrix(
            name, _label(first), _output(first), first.op_type, _groups(first), dtype_of(weight.data_type).name,
            form.shape if form else (1, 1, 1, 1), None if why else form, why, None,
            tuple(r.site for r in readings), next(iter(self.meanings), None),
        )  # fmt: skip

    def _operand(self, site: Site) -> str:
        return str(self.nodes[site[0]].input[site[1]])

    def _computed(self, site: Site) -> Matrix:
        """An operand that is constant, but not a constant that was moved."""
        node, name = self.nodes[site[0]], self._operand(site)
        made = self.makers[name]
        while _moves(made) and made.input[0] in self.makers:
            made = self.makers[made.input[0]]
        dtype, why = dtype_of(self.c.trace.dtype(name) or 1).name, f"{made.op_type} '{_label(made)}' computes it"
        shape = (1, 1, 1, 1)
        return Matrix(
            name, _label(node), _output(node), node.op_type, _groups(node), dtype, shape, None, why, None, (site,)
        )

    def _follow(self, name: str, axes: list[Axis], readings: list[_Reading], others: list[str]) -> None:
        """Collect the products that read a value, and what else does, in words."""
        if name in self.held:
            others.append(self.held[name])
        if name in self.c.integers and not is_float(dtype_of(self.c.trace.dtype(name) or TensorProto.FLOAT)):
            self.meanings.append(Meaning(name, tuple(axes)))
        for index, slot in self.readers[name]:
            node = self.nodes[index]
            if (index, slot) in self.roles:
                readings.append(_Reading((index, slot), axes))
            elif node.output[0] not in self.c.computed or slot or not _moves(node):
                others.append(f"{node.op_type} '{_label(node)}' reads it too")
                unsaid = (index, slot) not in self.explained  # its rule could not say what is summed over
                if record_of(node).product and slot < OPERANDS and unsaid:
                    readings.append(_Reading((index, slot), []))
            else:
                try:
                    self._follow(node.output[0], self._moved(node, axes), readings, others)
                except Misfit as why:
                    others.append(f"{node.op_type} '{_label(node)}': {why}")
                    self._follow(node.output[0], [], readings, others)

    def _moved(self, node: NodeProto, axes: list[Axis]) -> list[Axis]:
        if not axes or node.op_type in RENAME:
            return axes
        if node.op_type == "Transpose":
            perm = attribute(node, "perm", list(range(len(axes)))[::-1])
            return [axes[p] for p in perm]
        shape = self.c.trace.shape(node.output[0])
        if shape is None or not all(isinstance(n, int) for n in shape):
            raise Misfit("its shape is not known")
        return regroup(axes, [n for n in shape if isinstance(n, int)])

    def _form(self, readings: list[_Reading], shape: tuple[int, ...]) -> tuple[Form | None, str]:
        forms = [self._form_of(r, shape) for r in readings if r.axes]
        known = [f for f in forms if f is not None]
        if not known or len(known) < len(readings):
            return next(iter(known), None), "its rule could not say what is summed over"
        for r, form in zip(readings, known, strict=True):
            if form.parts[2] != known[0].parts[2]:
                one, two = (_label(self.nodes[i]) for i in (readings[0].site[0], r.site[0]))
                return known[0], f"'{one}' and '{two}' sum over different axes of it"
        return known[0], ""

    def _form_of(self, r: _Reading, shape: tuple[int, ...]) -> Form | None:
        roles = self.roles.get(r.site, {})
        inputs, outputs = roles.get("in", []), roles.get("out", [])
        return Form.of(r.axes, inputs, outputs, shape) if inputs else None

    def _no_numbers(self, name: str) -> str:
        """Why the entries of a constant are not numbers that could be made zero one by one."""
        dtype = dtype_of(self.c.weights[name].data_type)
        if is_float(dtype):
            return "its numbers are powers of two, none is zero" if "e8m0" in dtype.name else ""
        if not self.meanings:
            return f"its {dtype.name} entries stand for unknown numbers"
        known = [self.c.integers[m.name] for m in self.meanings]
        if any(k.bits < 8 for k in known):
            return "several numbers share a byte"
        if not all(p in self.c.weights for k in known for p in (k.scale, k.zero) if p):
            return "its scale or zero point is computed"
        same = all(m.axes == self.meanings[0].axes for m in self.meanings) and self._same_zeros()
        return "" if same else "it is read with several zero points"

    def _same_zeros(self) -> bool:
        """Do all DequantizeLinear that read some integers take the same ones for zero?"""
        found = set()
        for index, slot in (site for m in self.meanings for site in self.readers[m.name]):
            node = self.nodes[index]
            if node.op_type == "DequantizeLinear" and slot == 0:
                zero = self.c.weights.get(node.input[2]) if len(node.input) > 2 else None
                found.add(np.asarray(0 if zero is None else zero.array()).astype(np.int64).tobytes())
        return len(found) < 2


def numbers(a: Analysis, matrix: Matrix, everywhere: bool = False) -> Numbers:
    """What the entries of a matrix stand for; `everywhere` says that more than the inputs of an output are compared."""
    if matrix.meaning is None:
        return Numbers()
    known, axes = a.coupling.integers[matrix.meaning.name], matrix.meaning.axes
    weights, file_shape = a.coupling.weights, a.coupling.weights[matrix.weight].shape
    zero, scale = (weights[n].array() if n else None for n in (known.zero, known.scale))
    shape = tuple(map(size, axes))

    def in_file(p: Array) -> Array:
        """A parameter for each position where the integers are read, as the file has them."""
        if p.size == 1 or axes == tuple(start(file_shape)):
            return p
        moved = Form((tuple(f for axis in axes for f in axis), (), (), ()), file_shape)
        return moved.back(np.broadcast_to(p, shape))

    fitted = None if zero is None or not zero.size else in_file(known.fit(zero, shape))
    if scale is None:
        return Numbers(fitted)
    scale = known.fit(scale, shape)
    inputs = matrix.form.parts[2] if matrix.form else ()
    varies = everywhere or any(n > 1 and _overlap(axis, inputs) for n, axis in zip(scale.shape, axes, strict=True))
    return Numbers(fitted, in_file(scale) if varies else None)


def _overlap(a: Axis, b: Axis) -> bool:
    """Does a step along one axis move along the other too?"""
    return any(s < t * m and t < s * n for n, s in a for m, t in b)


def _direct_roles(c: Coupling, nodes: object) -> dict[Site, dict[str, list[int]]]:
    """For each operand of a product its axes by role; not what weights inherit from there."""
    out: dict[Site, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (_, axis), known in c.roles.items():
        for site, role in known:
            if role in ("in", "out") and nodes[site[0]].output[0] not in c.computed:  # type: ignore[index]
                out[site][role].append(axis)
    found = {site: {role: sorted(axes) for role, axes in roles.items()} for site, roles in out.items()}
    return {site: roles for site, roles in found.items() if "in" in roles}


def _moves(node: NodeProto) -> bool:
    return node.op_type in (*RENAME, *REGROUP, "Transpose") and node.domain in DOMAINS


def _label(node: NodeProto) -> str:
    return str(node.name or _output(node))


def _output(node: NodeProto) -> str:
    return str(next(filter(None, node.output)))


def _groups(node: NodeProto) -> int:
    return int(attribute(node, "group", 1))


def _once(found: list[Matrix]) -> list[Matrix]:
    """A tensor of a local function is one matrix, however often the function is called."""
    out: dict[object, Matrix] = {}
    for m in found:
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
