"""The laws of pruning, checked on one model from the outside: what is compared is what ONNX Runtime computes.

`check(proto, feeds)` raises AssertionError with the law, the group and its layout. It uses the package's groups (whose
channels live where) but none of its arithmetic: slices, sizes and zeroed weights are worked out here again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from contrib_ops import CONTRIB
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from rounding import measure_noise

import onnxprune
from onnxprune import Analysis, Choice, Group, Plan
from onnxprune.allocate import make_cost
from onnxprune.axes import Axis, Prod, Var
from onnxprune.coupling import Use
from onnxprune.experts import Expert, find_experts
from onnxprune.graph.edit import Editor
from onnxprune.graph.flat import nest
from onnxprune.graph.save import build_full_proto
from onnxprune.graph.weights import ArrayWeight
from onnxprune.plans import compute_fingerprint
from onnxprune.units import LAYER, Unit, find_units

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Keeps = Mapping[str, Sequence[int]]
Runner = Callable[[ModelProto, Sequence[Feeds]], list[list[Array]]]

LAWS = ("identity", "permutation", "removal", "shapes", "composition", "accounting", "determinism", "units")
TOLERANCE = {TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 1e-1}
ZERO_POINTS = {  # integer inputs, each with the input that holds its zero point
    "ConvInteger": {1: 3}, "QLinearConv": {3: 5}, "MatMulInteger": {0: 2, 1: 3}, "QLinearMatMul": {0: 2, 3: 5},
    "QGemm": {0: 2, 3: 5}, "DynamicQuantizeMatMul": {1: 3}, "MatMulIntegerToFloat": {0: 4, 1: 5}, "QAttention": {1: 7},
    "DynamicQuantizeLSTM": {1: 9, 2: 11},
}  # fmt: skip
UNCOUNTED = {  # products that `_Counts` leaves out
    "Einsum", "LSTM", "GRU", "RNN", "MatMulNBits", "NhwcConv", "NhwcFusedConv", *ZERO_POINTS, "TransposeMatMul", "MoE", "QMoE",
    "DeformConv", "CausalConvWithState", "Attention", "MultiHeadAttention", "GroupQueryAttention", "LinearAttention",
    "MatMulBnb4",
}  # fmt: skip
RECURRENT = ((1, 2), (2, 2))
SUMMED = {  # inputs that may be weights which sum over channels, each with the axis summed over
    "Conv": [(1, 1)], "FusedConv": [(1, 1)], "DeformConv": [(1, 1)], "NhwcConv": [(1, 1)], "NhwcFusedConv": [(1, 1)],
    "ConvInteger": [(1, 1)], "QLinearConv": [(3, 1)], "ConvTranspose": [(1, 0)],
    "LSTM": RECURRENT, "GRU": RECURRENT, "RNN": RECURRENT,
    "DynamicQuantizeLSTM": [(1, 1), (2, 1)], "QLinearMatMul": [(0, -1), (3, -2)], "DynamicQuantizeMatMul": [(0, -1), (1, -2)],
    "MatMulIntegerToFloat": [(0, -1), (1, -2)], "QAttention": [(1, 0)], "com.microsoft.Attention": [(1, 0)],
    "MoE": [(2, 2), (4, 2), (6, 2)], "QMoE": [(2, 2), (5, 2), (8, 2)],
    "MatMulNBits": [(2, 1)],  # a block whose scale is 0
}  # fmt: skip
COUNTED = {  # element types that count as parameters
    v
    for k, v in TensorProto.DataType.items()
    if k.startswith(("FLOAT", "DOUBLE", "BFLOAT", "INT16", "UINT16", "INT8", "UINT8", "INT4", "UINT4"))
}

ort.set_default_logger_severity(4)


def run_ort(proto: ModelProto, feeds: Sequence[Feeds]) -> list[list[Array]]:
    """All outputs for each feed, in ONNX Runtime without graph optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return [[as_array(y) for y in session.run(None, {n: f[n] for n in names})] for f in feeds]


def as_array(y: Any) -> Array:
    """An output as an array; a sequence of tensors as one of objects."""
    if not isinstance(y, list):
        return np.asarray(y)
    parts = np.empty(len(y), object)
    for i, part in enumerate(y):
        parts[i] = part
    return parts


def run_reference(proto: ModelProto, feeds: Sequence[Feeds]) -> list[list[Array]]:
    """The same by onnx's reference evaluator, for operators that ONNX Runtime's CPU provider lacks."""
    session = ReferenceEvaluator(proto, new_ops=CONTRIB)
    return [[np.asarray(y) for y in session.run(None, dict(f))] for f in feeds]


@dataclass
class Checker:
    """One model under test, with what its original computes."""

    proto: ModelProto
    feeds: Sequence[Feeds]
    run: Runner = run_ort
    tolerance: float | None = None
    seed: int = 0
    max_groups: int | None = None
    forgives_rounding: bool = False  # where the compared model's own noise explains a difference
    rounded: int = 0  # comparisons that were forgiven
    analysis: Analysis = field(init=False)
    reference: list[list[Array]] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.analysis = onnxprune.analyze(onnxprune.load(self.proto))
        self.reference = self.run(self.proto, self.feeds)
        self.full_check = _passes_full_check(self.proto)
        if self.tolerance is None:
            types = {t.data_type for t in self.proto.graph.initializer}
            self.tolerance = max((TOLERANCE[t] for t in types if t in TOLERANCE), default=1e-4)
        groups = self.analysis.groups
        if self.max_groups is not None and len(groups) > self.max_groups:
            picked = self.rng.choice(len(groups), self.max_groups, replace=False)
            groups = [groups[i] for i in sorted(picked)]
        self.groups = groups

    # making pruned models

    def prune(self, keeps: Keeps, units: Iterable[Unit | Expert] = ()) -> ModelProto:
        return build_full_proto(onnxprune.apply(self.analysis, plan_of(self.analysis, keeps, units)))

    def some(self, size: int, ratio: float) -> list[int]:
        """A sorted random choice of channels that stay when a fraction `ratio` goes."""
        left = max(1, size - int(size * ratio))
        return sorted(int(i) for i in self.rng.choice(size, left, replace=False))

    def shuffled(self, group: Group) -> list[int]:
        """Every channel, in another order within each block of a merged group."""
        out: list[int] = []
        for v in group.vars:
            size = v.size
            order = self.rng.permutation(size)
            if size > 1 and np.array_equal(order, np.arange(size)):
                order = np.roll(order, 1)
            out.extend((order + len(out)).tolist())
        return out

    def where(self, group: Group) -> str:
        members = ", ".join(f"{m.tensor}[{m.axis}] {self.analysis.layout(m.dim)} {m.role}" for m in group.members)
        return f"group '{group.name}' [{group.size}] of {members}"

    # the laws

    def permutation(self) -> None:
        """Permuting the channels of a group leaves the outputs alone, approximate groups too, but not where neighbors are mixed."""
        free = [g for g in self.groups if not g.ordered]
        for g in free:
            with _law("permutation", self.where(g)):
                self._equal(self.reference, self.prune({g.name: self.shuffled(g)}))
        with _law("permutation", "all groups at once"):
            self._equal(self.reference, self.prune({g.name: self.shuffled(g) for g in free}))

    def removal(self) -> None:
        """Removing channels of an exact group is zeroing them in every weight that consumes them.

        Where no weight consumes them nothing is zeroed: then nobody may read them, and the outputs stay as they are.
        """
        for g in self.groups:
            if not g.exact:
                continue
            with _law("removal", self.where(g)):
                keep = self.some(g.size, 0.5)
                want = self.run(self._zeroed(g, keep), self.feeds)
                self._equal(want, self.prune({g.name: keep}))

    def _zeroed(self, group: Group, keep: Sequence[int]) -> ModelProto:
        """The original, with nothing in the removed channels of the weights that sum over them.

        A node gets a weight of its own for that, also where the weight is computed from others: whoever reads it elsewhere,
        or along another axis, reads all of it.
        """
        flat, c = self.analysis.flat, self.analysis.coupling
        counts, editor = _Counts(self.analysis, {group.name: keep}), Editor(flat)
        for index, node in enumerate(flat.proto.graph.node):
            for slot, axis in _summed(node):
                name = node.input[slot] if slot < len(node.input) else ""
                axes = c.use(name, index, slot)
                if axes is None or (name not in c.weights and name not in c.computed):
                    continue
                axis = 0 if len(axes) == 1 else axis % len(axes)
                stays = np.array(counts.positions(axes[axis]) if axes[axis].leaves else True)
                if not stays.all():
                    self._mask(editor, index, slot, stays.reshape([-1 if a == axis else 1 for a in range(len(axes))]))
        return build_full_proto(nest(editor.finish(), self.analysis.model))

    def _mask(self, editor: Editor, index: int, slot: int, stays: Array) -> None:
        """Put zeros (zero points) into a node's input where `stays` is false: a new initializer, or a product before the node."""
        node, c = editor.nodes[index], self.analysis.coupling
        name = node.input[slot]
        weight = editor.weights.get(name) or c.weights.get(name)
        if weight is None:
            mask = stays.astype(helper.tensor_dtype_to_np_dtype(c.trace.dtype(name)))
            editor.rescale(index, slot, mask, np.ones_like(mask), np.ones_like(stays), mask)
            return
        zero, array = np.zeros((), np.int64), weight.array()
        at = ZERO_POINTS.get(node.op_type, {}).get(slot, len(node.input))
        if at < len(node.input) and node.input[at]:
            zero = c.weights[node.input[at]].array()
            if "Conv" in node.op_type or any(a.name == "transB" and a.i for a in node.attribute):  # of each row
                zero = zero.reshape(-1, *[1] * (array.ndim - 1))
            elif "LSTM" in node.op_type:  # of each direction, or each of its gates
                zero = zero.reshape(len(zero), 1, -1)
        elif node.op_type == "QMoE":  # halfway, in each of the numbers of a byte
            bits = next((a.i for a in node.attribute if a.name == "expert_weight_bits"), 4)
            zero = np.array({4: 0x88, 8: 0x80}[bits])
        masked = ArrayWeight(np.where(stays, array, zero.astype(array.dtype)), weight.data_type)
        editor.set_input(index, slot, editor.add_constant(name, masked))

    def shapes(self) -> None:
        """Whatever is kept, the result is valid, runs at every dynamic size, and has the same inputs and outputs."""
        every = self.analysis.groups
        plans: list[tuple[str, Keeps]] = [
            (f"ratio {r} of every group", {g.name: self.some(g.size, r) for g in every}) for r in (0.3, 0.5, 0.9)
        ]
        plans.append(("one channel of every group", {g.name: [int(self.rng.integers(g.size))] for g in every}))
        plans.extend((f"one channel of {self.where(g)}", {g.name: [g.size - 1]}) for g in self.groups)
        for what, keeps in plans:
            with _law("shapes", what):
                self._valid(self.prune(keeps))

    def _valid(self, small: ModelProto) -> None:
        if self.full_check:
            onnx.checker.check_model(small, full_check=True)
        held = {t.name for proto in (small, self.proto) for t in proto.graph.initializer}  # those of a unit are removed
        for a, b in (
            (_values(self.proto.graph.input, held), _values(small.graph.input, held)),
            (_values(self.proto.graph.output, set()), _values(small.graph.output, set())),
        ):
            assert a == b, f"inputs or outputs changed: {a} became {b}"
        for want, got in zip(self.reference, self.run(small, self.feeds), strict=True):
            assert [y.shape for y in want] == [y.shape for y in got], "output shapes changed"
            assert [y.dtype for y in want] == [y.dtype for y in got], "output types changed"

    def identity(self) -> None:
        """An empty plan, and one that keeps everything, give the original back, field by field."""
        with _law("identity", "empty plan"):
            whole = {g.name: range(g.size) for g in self.analysis.groups}
            want = _canonical(self.proto)
            assert _canonical(self.prune({})) == want, "an empty plan changed the model"
            assert _canonical(self.prune(whole)) == want, "keeping all channels changed the model"

    def composition(self) -> None:
        """Plan A and then plan B (made for the smaller model, by group name) equal both at once."""
        with _law("composition", "two plans"):
            first = {g.name: self.some(g.size, 0.4) for g in self.analysis.groups}
            first = {n: k if len(k) > 1 else [0, self.analysis.by_name[n].size - 1] for n, k in first.items()}
            middle = self.prune(first)
            small = onnxprune.analyze(onnxprune.load(middle))
            second: dict[str, list[int]] = {}
            both = dict(first)
            for name, kept in first.items():
                assert name in small.by_name, (
                    f"group '{name}' has no namesake in the smaller model: {sorted(small.by_name)}"
                )
                got = small.by_name[name].size
                assert got == len(kept), f"group '{name}' keeps {len(kept)} channels, the smaller model has {got}"
                second[name] = self.some(len(kept), 0.5)
                both[name] = [kept[i] for i in second[name]]
            twice = build_full_proto(onnxprune.apply(small, plan_of(small, second)))
            once = self.prune(both)
            self._equal(self.run(once, self.feeds), twice)
            for vectors in (True, False):
                assert _float_shapes(once, vectors) == _float_shapes(twice, vectors), "weights of other shapes"

    def accounting(self) -> None:
        """Parameters and MACs of the result are those that the kept sizes of its weights and activations give."""
        for ratio in (0.5, 0.9):
            with _law("accounting", f"ratio {ratio}"):
                keeps = {g.name: self.some(g.size, ratio) for g in self.analysis.groups}
                counts = _Counts(self.analysis, keeps)
                after = onnxprune.analyze(onnxprune.load(self.prune(keeps)))
                assert after.params() == counts.params(), f"{after.params()} parameters, {counts.params()} predicted"
                macs = counts.macs()
                if macs is not None and self.analysis.macs() is not None:
                    assert after.macs() == macs, f"{after.macs()} MACs, {macs} predicted"
                counted = {"macs": after.macs(), "params": after.params(), "bytes": stored_bytes(after)}
                for kind, want in counted.items():
                    cost = make_cost(self.analysis, kind)
                    got = None if cost is None else cost.of(keeps)
                    assert got == want, f"allocation: {want} {kind}, {got} predicted"

    def determinism(self) -> None:
        """The same model and plan give the same bytes."""
        with _law("determinism", "twice the same"):
            keeps = {g.name: self.some(g.size, 0.5) for g in self.analysis.groups}
            again = onnxprune.analyze(onnxprune.load(self.proto))
            assert [g.name for g in again.groups] == [g.name for g in self.analysis.groups], "other group names"
            other = build_full_proto(onnxprune.apply(again, plan_of(again, keeps)))
            assert self.prune(keeps).SerializeToString() == other.SerializeToString(), "other bytes"

    def units(self) -> None:
        """Removing a branch is zeroing what it adds; removing a layer is passing its input on; removing an expert is giving it a
        score of minus infinity. Plans may mix units and channels.
        """
        found: list[Unit | Expert] = [*find_units(self.analysis), *find_experts(self.analysis)]
        if self.max_groups is not None and len(found) > self.max_groups:
            found = [found[i] for i in sorted(self.rng.choice(len(found), self.max_groups, replace=False))]
        for unit in found:
            with _law("units", f"{unit.kind} '{unit.name}'"):
                self._equal(self.run(self._without(unit), self.feeds), self.prune({}, [unit]))
        if found:
            self._mix(found)

    def _without(self, unit: Unit | Expert) -> ModelProto:
        """The original, where the last weights of a branch are zero, a layer is an Identity, or no token can choose an expert."""
        editor = Editor(self.analysis.flat)
        if isinstance(unit, Expert):
            node = editor.nodes[unit.node]
            kind = helper.tensor_dtype_to_np_dtype(self.analysis.coupling.trace.dtype(node.input[1]))
            ones, scores = np.ones(unit.size, kind), np.full(unit.size, -np.inf, kind)
            editor.rescale(unit.node, 1, ones, ones, np.arange(unit.size) != unit.index, scores)
            return build_full_proto(nest(editor.finish(), self.analysis.model))
        if unit.kind == LAYER:
            node = editor.nodes[unit.node]
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:], node.input[1:]
            return build_full_proto(nest(editor.finish(), self.analysis.model))
        for index in unit.ends:
            node = editor.nodes[index]
            for slot, name in enumerate(node.input):
                weight = self.analysis.coupling.weights.get(name)
                if weight is not None and self.analysis.param_count(name) and math.prod(weight.shape) > 1:
                    zeros = ArrayWeight(np.zeros_like(weight.array()), weight.data_type)
                    editor.set_input(index, slot, editor.add_constant(name, zeros))
                elif name in self.analysis.coupling.computed:  # a weight behind an Identity or a Transpose
                    zero = np.zeros((), helper.tensor_dtype_to_np_dtype(self.analysis.coupling.trace.dtype(name)))
                    editor.rescale(index, slot, zero, np.ones_like(zero), np.ones_like(zero, bool), zero)
        return build_full_proto(nest(editor.finish(), self.analysis.model))

    def _mix(self, found: Sequence[Unit | Expert]) -> None:
        """Laws 3, 5, 6 and 7 for plans of units and channels. Of an expert's group, the plan names units alone."""
        gone = _spare_experts([u for u in found if self.rng.random() < 0.5] or found[:1])
        keeps: dict[str, list[int]] = {g.name: self.some(g.size, 0.4) for g in self.analysis.groups}
        counted: dict[str, list[int]] = {}
        for expert in (u for u in gone if isinstance(u, Expert)):
            left = counted.get(expert.group, range(expert.size))
            counted[expert.group] = [i for i in left if i != expert.index]
        keeps = {name: keep for name, keep in keeps.items() if name not in counted}
        what = ", ".join(u.name for u in gone)
        with _law("units", f"shapes without {what}"):
            small = self.prune(keeps, gone)
            self._valid(small)
        with _law("units", f"accounting without {what}"):
            after = onnxprune.analyze(onnxprune.load(small))
            for kind, want in {"macs": after.macs(), "params": after.params(), "bytes": stored_bytes(after)}.items():
                cost = make_cost(self.analysis, kind, [u for u in gone if isinstance(u, Unit)])
                if want is not None and cost is not None:
                    predicted = cost.of({**keeps, **counted})
                    assert predicted == want, f"{want} {kind}, {predicted} predicted"
        with _law("units", f"composition without {what}"):
            middle = onnxprune.analyze(onnxprune.load(self.prune({}, gone)))
            left = {
                n: k
                for n, k in keeps.items()
                if n in middle.by_name and middle.by_name[n].size == self.analysis.by_name[n].size
            }
            twice = build_full_proto(onnxprune.apply(middle, plan_of(middle, left)))
            self._equal(self.run(self.prune(left, gone), self.feeds), twice)
        with _law("units", f"determinism without {what}"):
            assert self.prune(keeps, gone).SerializeToString() == small.SerializeToString(), "other bytes"

    def _equal(self, want: list[list[Array]], small: ModelProto) -> None:
        """Does a model compute what it should?"""
        assert self.tolerance is not None
        names = [o.name for o in self.proto.graph.output]
        got = self.run(small, self.feeds)
        found = [
            (difference(x, y), name, i)
            for i, (a, b) in enumerate(zip(want, got, strict=True))
            for name, x, y in zip(names, a, b, strict=True)
        ]
        wrong = [f for f in found if not f[0] <= self.tolerance]  # also what is no number
        if not wrong:
            return
        error, name, i = max(wrong)
        finite = all(math.isfinite(e) for e, _, _ in wrong)  # else shapes differ, or the places of infinities
        if (
            self.forgives_rounding
            and finite
            and error <= measure_noise(small, self.feeds, self.run, difference, self.seed)
        ):
            self.rounded += 1
            return
        raise AssertionError(f"output '{name}' at size {i} differs by {error:.3g} relative")


def check(
    model: ModelProto | str | Path,
    feeds: Sequence[Feeds],
    *,
    run: Runner = run_ort,
    laws: Iterable[str] = LAWS,
    tolerance: float | None = None,
    seed: int = 0,
    max_groups: int | None = None,
) -> Checker:
    """Check the laws on one model; `feeds` are input dictionaries at two or more dynamic sizes."""
    proto = model if isinstance(model, ModelProto) else onnx.load(model)
    checker = Checker(proto, feeds, run, tolerance, seed, max_groups)
    for law in laws:
        getattr(checker, law)()
    return checker


def _spare_experts(units: Sequence[Unit | Expert]) -> list[Unit | Expert]:
    """Those of the units that can go together: as many experts stay as a token uses."""
    found = list[Unit | Expert]()
    for unit in units:
        others = [u for u in found if isinstance(u, Expert) and isinstance(unit, Expert) and u.group == unit.group]
        if not isinstance(unit, Expert) or len(others) < unit.size - unit.used:
            found.append(unit)
    return found


def plan_of(analysis: Analysis, keeps: Keeps, units: Iterable[Unit | Expert] = ()) -> Plan:
    """A plan for the kept indices of each named group, and the units that go."""
    groups = {n: Choice(analysis.by_name[n].size, tuple(int(i) for i in k)) for n, k in keeps.items()}
    return Plan(compute_fingerprint(analysis.model), groups, units=tuple(u.name for u in units))


def stored_bytes(analysis: Analysis) -> int:
    """The bytes of the weights whose type holds parameters, running statistics too."""
    weights, wide = analysis.coupling.weights, _dequantized(analysis)
    return sum(w.nbytes for n, w in weights.items() if w.data_type in COUNTED or n in wide)


def _dequantized(analysis: Analysis) -> set[str]:
    """What stands for other numbers, however wide its integers are."""
    return {n.input[0] for n in analysis.flat.proto.graph.node if n.op_type == "DequantizeLinear"}


def difference(x: Array, y: Array) -> float:
    """Relative L2 distance; infinite where shapes, types or the places of non-finite values differ."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return math.inf
    if x.dtype.kind not in "fc":
        return float(np.mean(x != y)) if x.size else 0.0
    a, b = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return math.inf
    norm = float(np.linalg.norm(a[finite]))
    return float(np.linalg.norm((a - b)[finite])) / max(norm, 1e-3 * math.sqrt(max(a.size, 1)))


def _canonical(proto: ModelProto) -> bytes:
    """The bytes of a model whose large initializers are all in raw_data, where it does not matter which field they use."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    for t in copy.graph.initializer:
        if t.data_location == TensorProto.DEFAULT:
            t.ClearField("data_location")  # what onnx leaves behind where it read external data in
        if t.data_type != TensorProto.STRING and not t.HasField("raw_data"):
            raw = numpy_helper.from_array(numpy_helper.to_array(t))
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                t.ClearField(field)
            t.raw_data = raw.raw_data
    return bytes(copy.SerializeToString(deterministic=True))


def _summed(node: onnx.NodeProto) -> Sequence[tuple[int, int]]:
    """The inputs of a node that may be weights which sum over channels, each with the axis summed over."""
    flags = {a.name: a.i for a in node.attribute}
    ta, tb = (int(bool(flags.get(t))) for t in ("transA", "transB"))
    if node.op_type == "Einsum":
        equation = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "equation").decode()
        return _summed_letters(equation.replace(" ", ""))
    if node.op_type in ("Gemm", "FusedGemm", "QGemm"):
        return [(0, 1 - ta), (3 if node.op_type == "QGemm" else 1, tb)]
    if node.op_type in ("MatMul", "FusedMatMul", "TransposeMatMul", "MatMulInteger"):
        return [(0, -1 - ta), (1, tb - 2)]
    return SUMMED.get(f"{node.domain}.{node.op_type}", SUMMED.get(node.op_type, []))


def _summed_letters(equation: str) -> list[tuple[int, int]]:
    left, arrow, right = equation.partition("->")
    if not arrow:
        right = "".join(c for c in set(left) if left.count(c) == 1)
    out = []
    for slot, term in enumerate(left.split(",")):
        for at, c in enumerate(term):
            if c not in right + ".":
                out.append((slot, at if "." not in term[:at] else at - len(term)))
    return out


class _Counts:
    """Parameters and MACs that a plan leaves, from sizes alone; kept positions are worked out here, not asked for."""

    def __init__(self, analysis: Analysis, keeps: Keeps) -> None:
        self.analysis = analysis
        self.alive: dict[Var, Array] = {}
        for name, keep in keeps.items():
            at = 0
            for v in analysis.by_name[name].vars:
                self.alive[v] = np.isin(np.arange(at, at + v.size), keep)
                at += v.size

    def positions(self, d: Axis) -> tuple[bool, ...]:
        """For each position of a static axis: does it stay?"""
        stays = np.ones(d.length, bool)
        for v in d.leaves:
            if v in self.alive:
                owns = d.owner(v)
                stays &= (owns < 0) | self.alive[v][owns]
        return tuple(stays.tolist())

    def size(self, d: Axis) -> int:
        """The size of an axis that stays, at the first sample of a dynamic one."""
        if isinstance(d.size, int):
            return sum(self.positions(d))
        if not d.parts:
            return d.size.first
        return (math.prod if isinstance(d, Prod) else sum)([self.size(p) for p in d.parts])

    def params(self) -> int:
        c = self.analysis.coupling
        uses: dict[str, set[tuple[tuple[bool, ...], ...]]] = defaultdict(set)
        nodes = self.analysis.flat.proto.graph.node
        for use, axes in c.uses.items():
            if use[1] < 0 or not _is_statistic(nodes[use[1]], use[2]):
                uses[_name(use)].add(tuple(self.positions(d) for d in axes))
        reads = {(name, _is_statistic(node, slot)) for node in nodes for slot, name in enumerate(node.input)}
        running = {name for name, _ in reads if (name, True) in reads and (name, False) not in reads}
        total, wide = 0, _dequantized(self.analysis)
        for name, w in c.weights.items():
            if (w.data_type in COUNTED or name in wide) and w.shape and name not in running:
                cuts = uses.get(name)
                total += sum(math.prod(map(sum, cut)) for cut in cuts) if cuts else math.prod(w.shape)
        return total

    def macs(self) -> int | None:
        c, total = self.analysis.coupling, 0
        for index, node in enumerate(self.analysis.flat.proto.graph.node):
            if node.op_type not in ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"):
                if node.op_type in UNCOUNTED:
                    return None
                continue
            axes = [c.use(n, index, slot) for slot, n in enumerate(node.input[:2])]
            out = c.layouts.get(node.output[0])
            if out is None or any(a is None for a in axes):
                return None
            x, w, y = ([self.size(d) for d in a or ()] for a in (*axes, out))
            flags = {a.name: a.i for a in node.attribute}
            if node.op_type == "ConvTranspose":
                total += math.prod(x) * math.prod(w[1:])
            elif node.op_type.endswith("Conv"):
                total += math.prod(y) * math.prod(w[1:])
            else:
                total += math.prod(y) * (x[-2] if flags.get("transA") and len(x) > 1 else x[-1])
        return total


class _law:
    """Name the law and the place in whatever goes wrong inside."""

    def __init__(self, law: str, where: str) -> None:
        self.label = f"{law} law, {where}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{self.label}: {text}") from error


def _is_statistic(node: onnx.NodeProto, slot: int) -> bool:
    """A running mean or variance, which is no parameter."""
    return node.op_type == "BatchNormalization" and slot > 2


def _name(use: Use) -> str:
    return use[0]


def _values(values: Iterable[onnx.ValueInfoProto], held: set[str]) -> list[bytes]:
    return [v.SerializeToString(deterministic=True) for v in values if v.name not in held]


def _float_shapes(proto: ModelProto, vectors: bool) -> list[tuple[int, ...]]:
    """Shapes of the vectors (each once: uses that come to agree may share again or not), or of all larger weights."""
    shapes = [tuple(t.dims) for t in proto.graph.initializer if t.data_type in COUNTED and len(t.dims)]
    wide = [s for s in shapes if sum(n > 1 for n in s) > 1]
    return sorted(set(shapes) - set(wide)) if vectors else sorted(wide)


def _passes_full_check(proto: ModelProto) -> bool:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception:
        return False
    return True
