"""Shapes and small values of every tensor, at two sample input shapes at once.

Dynamic input dimensions get two sample sizes. A size or a value that is the same at both is static; one that differs is
dynamic. So arithmetic on shapes needs no algebra: shapes come from onnx's own shape functions, small values (shape chains,
indices, scalars) from onnx's reference operators, both node by node, so that each sees what the other found.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference

from onnxprune.axes import Dynamic, Size, pair
from onnxprune.graph.facts import Facts, guess_size, is_dynamic, is_same
from onnxprune.graph.flat import get_flat_id
from onnxprune.graph.sample_sizes import Sizes
from onnxprune.graph.view import get_domain, list_subgraphs, read_attribute, read_opsets
from onnxprune.graph.weights import Weight
from onnxprune.ops.records import Plainer, Values, get_record

MAX_VALUE = 1 << 16  # elements of a computed value that is worth following
MAX_FLOAT_SEED = 64  # elements of a float initializer that may be a shape parameter (Resize scales and the like)
COUNTS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)  # what shapes and indices are made of


def make_tensor_type(elem: int, shape: Sequence[int | None] | None) -> TypeProto:
    return helper.make_tensor_type_proto(elem, shape)


class Trace(Facts):
    """Facts in the making; graph/walk.py drives it."""

    from_shapes: set[str]
    asserted: set[str]
    guesses: set[str]
    declared: set[str]
    short: set[str]
    clashes: list[str]
    lost: dict[str, str]
    failed: dict[str, str]
    taken: dict[int, bool | None]
    varying: dict[str, set[int] | None]
    _types: dict[str, tuple[TypeProto, TypeProto]]
    _values: dict[str, Values]

    def __init__(self, proto: onnx.ModelProto, sizes: Sizes) -> None:
        super().__init__(read_opsets(proto.opset_import), sizes)
        self._imports = list(proto.opset_import)
        self._ir = proto.ir_version
        self._functions = {(f.domain, f.name) for f in proto.functions}
        self._ops: dict[tuple[str, str], Any] = {}
        self._whole: tuple[dict[str, TypeProto], ...] | None = None
        self._guess_sizes: set[Size] = set()
        self.trips: dict[int, tuple[int, int] | None] = {}  # how often the body of a scope runs at most

    def read_only(self) -> Facts:
        """A read-only view of the known shapes and values, always up to date."""
        return Facts(**{f.name: getattr(self, f.name) for f in fields(Facts)})

    def knows(self, name: str) -> bool:
        """Has a tensor been seen?"""
        return name in self._types

    def set(self, name: str, elem: int, shape: Iterable[Size] | None) -> None:
        if shape is None:
            self._types[name] = (make_tensor_type(elem, None),) * 2
            return
        pairs = [pair(s) for s in shape]
        first = make_tensor_type(elem, [p[0] for p in pairs])
        static = all(p[0] == p[1] for p in pairs)
        self._types[name] = (first, first if static else make_tensor_type(elem, [p[1] for p in pairs]))

    def set_partial(self, name: str, elem: int, shape: Sequence[Size | None] | None) -> None:
        """A shape some of whose sizes (None) are known only when the model runs."""
        if shape is None or all(s is not None for s in shape):
            self.set(name, elem, None if shape is None else [s for s in shape if s is not None])
            return
        a, b = (make_tensor_type(elem, [None if s is None else pair(s)[i] for s in shape]) for i in (0, 1))
        self._guess(name, a, b)
        self._types[name] = (a, b)

    def put(self, name: str, values: Values, from_shapes: bool) -> None:
        """Contents that are handed on from another name."""
        self._values[name] = values
        if from_shapes:
            self.from_shapes.add(name)

    def declare(self, value: onnx.ValueInfoProto, symbols: Mapping[str, Size]) -> None:
        """Believe a shape that the file declares; symbols that no input has get sizes of their own."""
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            return
        both = [TypeProto.FromString(value.type.SerializeToString()) for _ in (0, 1)]
        for axis, d in enumerate(tensor.shape.dim):
            if d.dim_value <= 0:
                for sample, t in enumerate(both):
                    there = t.tensor_type.shape.dim[axis]
                    there.Clear()
                    if d.dim_param in symbols:
                        there.dim_value = pair(symbols[d.dim_param])[sample]
        self._guess(value.name, *both)
        self.declared.add(value.name)
        self._types[value.name] = (both[0], both[0] if both[0] == both[1] else both[1])

    def settle(self, name: str, types: tuple[TypeProto, TypeProto]) -> None:
        """Believe what runs at the samples have shown; open sizes get samples of their own."""
        self._guess(name, *types)
        self._types[name] = types if types[0] != types[1] else (types[0], types[0])

    def lacks_shapes(self, node: NodeProto) -> bool:
        """Has onnx no shape function for this operator?"""
        domain = get_domain(node)
        if get_flat_id(node) is not None or (domain, node.op_type) in self._functions:
            return False
        schema = self._schema(node, domain)
        return schema is None or not schema.has_type_and_shape_inference_function

    def note_lost(self, node: NodeProto) -> None:
        """Remember which value is the first of unknown shape on the way to the outputs of a node."""
        for name in node.output:
            if name and self.shape(name) is None:
                self.lost[name] = next((self.lost[i] for i in node.input if i in self.lost), name)

    def learn(self, name: str, elem: int, sizes: tuple[Size, ...]) -> None:
        """Take another's word for the sizes of a tensor; one of them may be a guess (see `guess_size`)."""
        self.guesses.discard(name)
        guessed = {s for axis, s in enumerate(sizes) if s == guess_size(name, axis)}
        if guessed:
            self.guesses.add(name)
            self._guess_sizes |= guessed
        self.set(name, elem, sizes)

    def learn_constant(self, name: str, weight: Weight) -> None:
        """Its shape, and its contents where they may be a part of a shape: small ones, and integers."""
        self.set(name, weight.data_type, weight.shape)
        if math.prod(weight.shape) <= MAX_FLOAT_SEED or weight.data_type in COUNTS:
            self.seed(name, weight.array())

    def seed(self, name: str, array: np.ndarray) -> None:
        """A constant's contents, where small enough to matter."""
        if (array.dtype.kind in "iub" and array.size <= 1 << 20) or array.size <= MAX_FLOAT_SEED:
            self._values[name] = (array, array)

    def fail(self, node: NodeProto, error: Exception) -> None:
        """Leave what a node makes unknown."""
        for name in node.output:
            self._types.pop(name, None)
            self._values.pop(name, None)
            self.failed[name] = f"{type(error).__name__}: {error}"

    def step(self, node: NodeProto) -> None:
        """Learn the shapes, then the values, of a node's outputs."""
        domain = get_domain(node)
        if not self._infer(node, domain):
            return
        if not domain:
            if get_record(node).traits.reads_sizes or any(n in self.from_shapes for n in node.input):
                self.from_shapes.update(node.output)
            self._evaluate(node)

    def _schema(self, node: NodeProto, domain: str) -> Any:
        """The operator at the model's opset, or at the next one that has it: ONNX Runtime writes some too early."""
        key = (domain, node.op_type)
        if key not in self._ops:
            newest = defs.C.schema_version_map().get(domain, (1, 0))[1]
            versions = range(self.opsets.get(domain, 1), newest + 1)
            since = next((v for v in versions if defs.has(node.op_type, v, domain)), None)
            self._ops[key] = defs.get_schema(node.op_type, since, domain) if since else None
        return self._ops[key]

    def _infer(self, node: NodeProto, domain: str) -> bool:
        like = get_record(node).traits.like if domain else None
        if like:
            return self._infer_like(node, like)
        schema = self._schema(node, domain)
        if schema is None or (domain, node.op_type) in self._functions:
            return False
        outputs: list[dict[str, TypeProto]] = []
        for sample in (0, 1):
            types = {n: self._types[n][sample] for n in node.input if n in self._types}
            if sample and all(self._types[n][0] is self._types[n][1] for n in types):
                same = all(self._values[n][0] is self._values[n][1] for n in node.input if n in self._values)
                if same:
                    outputs.append(outputs[0])
                    break
            data = {n: _tensor(self._values[n][sample]) for n in node.input if n in self._values}
            try:
                outputs.append(
                    shape_inference.infer_node_outputs(
                        schema, node, types, data, opset_imports=self._imports, ir_version=self._ir
                    )
                )
            except Exception:  # the shape function's own complaint: the shape stays unknown
                known = self._pieces(node)
                if not known:
                    self.clashes.append(node.op_type)
                return known
        self._doubt_slice(node, *outputs)
        self._note_short(node, *outputs)
        for name in node.output:
            if name and name in outputs[0] and name in outputs[1]:
                a, b = outputs[0][name], outputs[1][name]
                if any(not d.HasField("dim_value") for d in a.tensor_type.shape.dim):
                    b = TypeProto.FromString(b.SerializeToString())
                    self._guess(name, a, b)
                self._types[name] = (a, a if a == b else b)
        return True

    def _doubt_slice(self, node: NodeProto, *outputs: dict[str, TypeProto]) -> None:
        """Where dynamic bounds end behind a static axis at both samples, its size is what it is by chance of the samples."""
        if node.op_type != "Slice" or all(self.values(n) is None or self.value(n) is not None for n in node.input[1:3]):
            return
        before = self.shape(node.input[0]) or ()
        a, b = (f[node.output[0]].tensor_type.shape.dim for f in outputs)
        bounds = [v for v in map(self.values, node.input[1:3]) if v is not None]
        dynamic = np.logical_or.reduce([np.atleast_1d(v[0] != v[1]) for v in bounds])
        axes = self.value(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(len(dynamic))
        for axis in axes[dynamic] if axes is not None and before else ():
            if isinstance(before[axis], int) and a[axis].dim_value == b[axis].dim_value:
                a[axis].ClearField("dim_value")
                b[axis].ClearField("dim_value")

    def _note_short(self, node: NodeProto, *outputs: dict[str, TypeProto]) -> None:
        """Remember outputs with a negative size, or with an empty axis that no input has, where sizes are dynamic."""
        shapes = [self.shape(n) or () for n in node.input]
        dynamic = any(isinstance(s, Dynamic) for shape in shapes for s in shape)
        least = 1 if dynamic and all(min(pair(s)) for shape in shapes for s in shape) else 0
        for types in outputs:
            for name, kind in types.items():
                counts = kind.tensor_type.elem_type in COUNTS  # a shape without entries is one of a scalar
                if any(
                    d.HasField("dim_value") and d.dim_value < (0 if counts else least)
                    for d in kind.tensor_type.shape.dim
                ):
                    self.short.add(name)

    def _pieces(self, node: NodeProto) -> bool:
        """A Split of an axis whose size only the data know: the sizes of the pieces are as good as any guess."""
        shape = self.shape(node.input[0])
        sizes = self.value(node.input[1]) if len(node.input) > 1 else None
        if node.op_type != "Split" or get_domain(node) or shape is None or sizes is None:
            return False
        axis = read_attribute(node, "axis", 0) % len(shape)
        if shape[axis] not in self._guess_sizes:
            return False
        self.asserted.update(node.output)
        for name, size in zip(node.output, sizes.tolist(), strict=True):
            self.set(name, self.dtype(node.input[0]), (*shape[:axis], int(size), *shape[axis + 1 :]))
        return True

    def _infer_like(self, node: NodeProto, like: Plainer) -> bool:
        """Ask the shape function of the plainer operator: onnx has none for com.microsoft."""
        last, y = like.is_last(node), node.output[0]
        known = self._schema(NodeProto(op_type=like.op), "")
        names = {f"{y} from {i}": node.input[i] for i in like.slots(node) if node.input[i]}
        plain = helper.make_node(like.op, list(names), [f"{y} plain"])
        plain.attribute.extend(a for a in node.attribute if a.name in known.attributes)
        for i, (name, actual) in enumerate(names.items()):
            shape, bools = self.shape(actual), self.dtype(actual) == TensorProto.BOOL
            if shape is not None:
                shape = (shape[0], shape[-1], *shape[1:-1]) if last and i == 0 else shape
                self.set(name, TensorProto.BOOL if bools else TensorProto.FLOAT, shape)
        shape_of_plain = self._infer(plain, "") and self.shape(plain.output[0])
        if shape_of_plain:
            typed = self.dtype(node.input[like.typed]) if like.typed < len(node.input) else TensorProto.UNDEFINED
            self.set(
                y,
                typed or TensorProto.FLOAT,
                (shape_of_plain[0], *shape_of_plain[2:], shape_of_plain[1]) if last else shape_of_plain,
            )
        for name in (*names, *plain.output):
            self._types.pop(name, None)
        return bool(shape_of_plain)

    def ask(self, name: str, proto: onnx.ModelProto) -> None:
        """A shape from inference over the whole model, which reaches into bodies and local functions."""
        if self._whole is None:
            self._whole = tuple(self._infer_whole(proto, sample) for sample in (0, 1))
        a, b = (types.get(name) for types in self._whole)
        if a is not None and b is not None and a.tensor_type.HasField("shape") and b.tensor_type.HasField("shape"):
            self._guess(name, a, b)
            self._types[name] = (a, a if a == b else b)

    def _infer_whole(self, proto: onnx.ModelProto, sample: int) -> dict[str, TypeProto]:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for v in copy.graph.input:
            if v.name in self._types:
                v.type.CopyFrom(self._types[v.name][sample])
        del copy.graph.value_info[:]
        for v in copy.graph.output:
            v.type.tensor_type.ClearField("shape")
        try:
            inferred = shape_inference.infer_shapes(copy, data_prop=True)
        except Exception:  # no shapes, then
            return {}
        return {v.name: v.type for v in (*inferred.graph.value_info, *inferred.graph.output)}

    def _guess(self, name: str, a: TypeProto, b: TypeProto) -> None:
        """Give a size that the data decide (NonZero's) two sample sizes of its own: dynamic, and equal to no other."""
        for axis, (x, y) in enumerate(zip(a.tensor_type.shape.dim, b.tensor_type.shape.dim, strict=True)):
            if not x.HasField("dim_value") or not y.HasField("dim_value"):
                self.guesses.add(name)
                size = guess_size(name, axis)
                x.dim_value, y.dim_value = pair(size)
                self._guess_sizes.add(size)

    def _evaluate(self, node: NodeProto) -> None:
        traits = get_record(node).traits
        if traits.reads_sizes and node.input[0] in self._types:
            self._shape_of(node)
            return
        if traits.random or any(n and n not in self._values for n in node.input) or not node.input:
            return
        if any(True for _ in list_subgraphs(node)):
            return
        shape = self.shape(node.output[0])
        if shape is not None and any(int(np.prod(s)) > MAX_VALUE for s in zip(*map(pair, shape), strict=True)):
            return
        ins = [self._values.get(n) for n in node.input]
        first = self._run(node, [v[0] if v else None for v in ins])
        if first is None:
            return
        static = all(v is None or v[0] is v[1] for v in ins)
        second = first if static else self._run(node, [v[1] if v else None for v in ins])
        if second is None:
            return
        for name, a, b in zip(node.output, first, second, strict=False):
            if name and isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.size <= MAX_VALUE:
                same = static or is_same(a, b)
                if same and not static and _by_chance(node, ins):
                    continue
                self._values[name] = (a, a if same else b)
                if same and self.shape(name) is None:
                    self.set(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)

    def _shape_of(self, node: NodeProto) -> None:
        shape = self.shape(node.input[0])
        if shape is None:
            return
        part = slice(read_attribute(node, "start", 0), read_attribute(node, "end"))
        a, b = (np.array(s, np.int64) for s in (zip(*map(pair, shape), strict=True) if shape else ((), ())))
        a, b = (a[part], b[part]) if self.shape(node.output[0]) else (np.asarray(a.prod()), np.asarray(b.prod()))
        self._values[node.output[0]] = (a, a if np.array_equal(a, b) else b)

    def _run(self, node: NodeProto, feeds: list[np.ndarray | None]) -> list[Any] | None:
        from onnx.reference.ops._op_list import load_op  # it imports a module for each operator

        try:
            op = load_op("", node.op_type, self.opsets.get("", 1))
            run = {
                "log": _quiet,
                "opsets": self.opsets,
                "verbose": 0,
                "evaluator_cls": None,
                "new_ops": None,
                "existing_functions": {},
            }
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                out = op(node, run).run(*feeds)
            return [np.asarray(x) for x in out]
        except Exception:  # an operator that the reference cannot evaluate here: the value stays unknown
            return None


def _by_chance(node: NodeProto, ins: list[Values | None]) -> bool:
    """Is a result that is equal at both samples equal at these only?"""
    traits = get_record(node).traits
    if traits.by_chance:
        return traits.by_chance(node, ins)
    exact = traits.reads_sizes or (traits.moves and not traits.changes_type)
    return not exact and any(map(is_dynamic, ins))


def _quiet(*_: object) -> None:
    pass


def _tensor(a: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(a)
