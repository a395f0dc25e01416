"""Small models for every registered rule: `CASES`, each a function that draws its parameters and builds a graph.

A case says which weight axes must be prunable, so that the laws are not checked on nothing. To cover a new operator,
write one function here: `@case("TheOp")`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from laws import run_ort, run_reference
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

Array = NDArray[Any]
MS = "com.microsoft"
SIZES: dict[str, tuple[int, int]] = {"N": (1, 3), "T": (5, 8), "H": (6, 8), "W": (8, 10), "D": (4, 6)}
F32, I64 = np.float32, np.int64


class Draw:
    """Hypothesis' draw, which remembers what it drew."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self.drawn: list[object] = []

    def int(self, low: int, high: int) -> int:
        value = self._draw(st.integers(low, high))
        self.drawn.append(value)
        return int(value)

    def pick(self, *options: Any) -> Any:
        value = self._draw(st.sampled_from(options))
        self.drawn.append(value)
        return value

    def flag(self) -> bool:
        return bool(self.pick(False, True))


@dataclass
class Built:
    """A model, its feeds at two dynamic sizes, the weight axes that groups must reach, and those that none may."""

    proto: onnx.ModelProto
    feeds: list[dict[str, Array]]
    prunable: list[tuple[str, int]]
    frozen: list[tuple[str, int]] = field(default_factory=list)
    groups: int = 1  # at least so many
    exact: bool | None = None  # are all groups exact?
    drawn: list[object] = field(default_factory=list)
    tolerance: float | None = None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what Hypothesis shows of a failing example

    def __repr__(self) -> str:
        return f"drawn {self.drawn}\n{onnx.printer.to_text(self.proto)[:6000]}"


@dataclass(frozen=True)
class CaseOf:
    """A registered case: one operator (or topology) and the function that builds its models."""

    name: str
    op: tuple[str, str]
    build: Callable[[Draw, str], Built]
    examples: int
    reference: bool  # run in onnx's reference evaluator: ONNX Runtime's CPU provider lacks the operator

    def strategy(self) -> st.SearchStrategy[Built]:
        @st.composite
        def model(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Built:
            d = Draw(draw)
            built = self.build(d, self.op[1])
            built.drawn = d.drawn
            return built

        return model()


CASES: list[CaseOf] = []
UNCHECKED: dict[tuple[str, str], str] = {}  # rules whose operator nothing here can run, with the reason


def case(
    *ops: str, domain: str = "", examples: int = 8, reference: bool = False
) -> Callable[[Callable[[Draw, str], Built]], Callable[[Draw, str], Built]]:
    """Register a builder for one or more operators."""

    def register(build: Callable[[Draw, str], Built]) -> Callable[[Draw, str], Built]:
        for op in ops:
            name = f"{domain + '.' if domain else ''}{op}-{build.__name__.strip('_')}"
            CASES.append(CaseOf(name, (domain, op), build, examples, reference))
        return build

    return register


@functools.cache
def first_version(op: str) -> int:
    return min(s.since_version for s in defs.get_all_schemas_with_history() if s.name == op and s.domain == "")


class Net:
    """Builds one model. Weights are random; symbolic dimensions take the sizes of SIZES."""

    def __init__(self, d: Draw, opset: int = 17, dtype: Any = F32, ms: bool = False) -> None:
        self.d, self.opset, self.dtype, self.ms = d, opset, np.dtype(dtype), ms
        self.elem = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.declared: list[onnx.ValueInfoProto] = []
        self.feeds: list[dict[str, Array]] = [{}, {}]
        self.rng = np.random.default_rng(7)
        self.count = 0
        self.versions: dict[str, int] = {}  # of domains other than ONNX's own; 1 where nothing is said

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def input(self, name: str, *dims: int | str, ids: int = 0, positive: bool = False) -> str:
        elem = TensorProto.INT64 if ids else self.elem
        self.inputs.append(helper.make_tensor_value_info(name, elem, list(dims)))
        for i, feed in enumerate(self.feeds):
            shape = [SIZES[s][i] if isinstance(s, str) else s for s in dims]
            x = self.rng.integers(0, ids, shape) if ids else self.rng.standard_normal(shape).astype(self.dtype)
            feed[name] = np.abs(x) if positive else x
        return name

    def weight(self, name: str, *shape: int, scale: float | None = None, offset: float = 0.0) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        s = scale if scale is not None else fan**-0.5
        return self.init(name, (self.rng.standard_normal(shape) * s + offset).astype(self.dtype))

    def init(self, name: str, value: Array) -> str:
        self.inits.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def const(self, value: Any, dtype: Any = I64) -> str:
        """A constant as an initializer, or a Constant node."""
        array = np.asarray(value, dtype)
        if self.d.drawn and len(self.nodes) % 2:
            return str(self.op("Constant", value=numpy_helper.from_array(array)))
        return self.init(self.name("const"), array)

    def real(self, value: Any) -> str:
        return self.const(value, self.dtype)

    def ops(self, op: str, *ins: str, outs: int, domain: str = "", **attrs: Any) -> list[str]:
        names = [self.name(op.lower()) for _ in range(outs)]
        attrs = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(helper.make_node(op, list(ins), names, name=f"n{len(self.nodes)}", domain=domain, **attrs))
        return names

    def op(self, op: str, *ins: str, domain: str = "", **attrs: Any) -> str:
        return self.ops(op, *ins, outs=1, domain=domain, **attrs)[0]

    def conv(self, x: str, name: str, shape: Sequence[int], bias: bool = True, **attrs: Any) -> str:
        w = self.weight(f"{name}.weight", *shape)
        b = [self.weight(f"{name}.bias", shape[0])] if bias else []
        if "pads" not in attrs and "auto_pad" not in attrs:
            attrs["pads"] = [k // 2 for k in shape[2:]] * 2
        return self.op("Conv", x, w, *b, **attrs)

    def linear(self, x: str, name: str, i: int, o: int, bias: bool = True) -> str:
        y = self.op("MatMul", x, self.init(f"{name}.weight", self.matrix(i, o)))
        return self.op("Add", y, self.weight(f"{name}.bias", o)) if bias else y

    def matrix(self, *shape: int) -> Array:
        return np.asarray(self.rng.standard_normal(shape) * shape[0] ** -0.5, self.dtype)

    def axes_op(self, op: str, x: str, axes: Sequence[int] | None, since: int, **attrs: Any) -> str:
        """An operator whose `axes` moved from an attribute to an input at opset `since`."""
        if axes is None:
            return self.op(op, x, **attrs)
        if self.opset >= since:
            return self.op(op, x, self.const(list(axes)), **attrs)
        return self.op(op, x, axes=list(axes), **attrs)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.axes_op("Unsqueeze", x, axes, 13)

    def squeeze(self, x: str, *axes: int) -> str:
        return self.axes_op("Squeeze", x, axes, 13)

    def mean(self, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
        return self.axes_op("ReduceMean", x, axes, 18, keepdims=keepdims)

    def size(self, x: str, axis: int) -> str:
        """One entry of a shape, as a vector of one."""
        g = self.op("Gather", self.op("Shape", x), self.const(axis), axis=0)
        return self.unsqueeze(g, 0)

    def reshape(self, x: str, *target: int | str, source: str | None = None) -> str:
        """Reshape; an entry that is a string such as '0' is read from the shape of `source` when the model runs."""
        if not any(isinstance(t, str) for t in target):
            return self.op("Reshape", x, self.const(list(target)))
        parts = [self.size(source or x, int(t)) if isinstance(t, str) else self.const([t]) for t in target]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def to_float(self, x: str) -> str:
        return self.op("Cast", x, to=self.elem)

    def declare(self, x: str, *dims: int | str) -> str:
        """Write the shape of an inner tensor into the file, as exporters do."""
        self.declared.append(helper.make_tensor_value_info(x, self.elem, list(dims)))
        return x

    def out(self, x: str, elem: int | None = None) -> None:
        self.outputs.append(helper.make_tensor_value_info(x, elem or self.elem, None))

    def gemm(self, x: str, name: str, o: int, i: int) -> str:
        """A classifier: weight [o, i] and bias, as every opset has it."""
        return self.op("Gemm", x, self.weight(f"{name}.weight", o, i), self.weight(f"{name}.bias", o), transB=1)

    def done(self, *prunable: tuple[str, int], functions: Sequence[onnx.FunctionProto] = (), **more: Any) -> Built:
        used = [n.domain for n in self.nodes if n.domain]
        domains = dict.fromkeys([MS] * self.ms + [f.domain for f in functions] + used)
        imports = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(n, self.versions.get(n, 1)) for n in domains),
        ]
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.inits, doc_string="a case")
        proto = helper.make_model(graph, opset_imports=imports, functions=functions, producer_name="cases")
        helper.set_model_props(proto, {"author": "tests"})
        proto.ir_version = max(min(helper.find_min_ir_version_for(imports, ignore_unknown=True), 12), 4)
        self._declare_outputs(proto)
        proto.graph.value_info.extend(self.declared)
        if not self.declared and self.d.flag():
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
            proto.graph.value_info.extend(inferred.graph.value_info)
        return Built(proto, self.feeds, list(prunable), **more)

    def _declare_outputs(self, proto: onnx.ModelProto) -> None:
        """Outputs' shapes as they come out: sizes that are the same in both runs are static."""
        try:
            runs = run_ort(proto, self.feeds)
        except Exception:
            runs = run_reference(proto, self.feeds)
        for value, a, b in zip(proto.graph.output, *runs, strict=True):
            dims = [n if n == k else f"{value.name}_{i}" for i, (n, k) in enumerate(zip(a.shape, b.shape, strict=True))]
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims))


@dataclass
class Mid:
    """A tensor whose axis `axis` holds `c` channels that the weight `a.weight` makes."""

    net: Net
    kind: str
    x: str
    c: int
    axis: int
    rank: int

    @property
    def made(self) -> tuple[str, int]:
        return ("a.weight", 1 if self.kind == "tokens" else 0)

    @property
    def used(self) -> tuple[str, int]:
        return ("z.weight", 0 if self.kind == "tokens" else 1)

    def column(self, *shape_after: int) -> tuple[int, ...]:
        """The shape of a parameter per channel that broadcasts to the tensor."""
        return (self.c, *([1] * (self.rank - self.axis - 1)), *shape_after)

    def again(self, name: str) -> str:
        """Another producer of the same shape, on the same input."""
        return _produce(self.net, self.kind, name, self.c, "input")

    def close(self, y: str, c: int | None = None) -> None:
        """A consumer of the channels, and the output."""
        c = self.c if c is None else c
        if self.kind == "tokens":
            z = self.net.op("MatMul", y, self.net.init("z.weight", self.net.matrix(c, 3)))
        elif self.kind == "flat":
            z = self.net.gemm(y, "z", 3, c)
        else:
            z = self.net.conv(y, "z", (3, c, *([1] * (self.rank - 2))))
        self.net.out(z)

    def end(self, y: str, c: int | None = None, **more: Any) -> Built:
        self.close(y, c)
        return self.net.done(self.made, self.used, **more)


def _produce(net: Net, kind: str, name: str, c: int, x: str) -> str:
    if kind == "image":
        return net.conv(x, name, (c, 3, 3, 3))
    if kind == "signal":
        return net.conv(x, name, (c, 3, 3))
    if kind == "tokens":
        return net.linear(x, name, 6, c)
    return net.gemm(x, name, c, 6)


DIMS: dict[str, tuple[int | str, ...]] = {
    "image": ("N", 3, "H", "W"), "signal": ("N", 3, "T"), "tokens": ("N", "T", 6), "flat": ("N", 6),
}  # fmt: skip


def mid(net: Net, kind: str, c: int) -> Mid:
    x = net.input("input", *DIMS[kind])
    rank = len(DIMS[kind])
    return Mid(net, kind, _produce(net, kind, "a", c, x), c, rank - 1 if kind == "tokens" else 1, rank)


def any_mid(net: Net, *kinds: str, c: int | None = None) -> Mid:
    return mid(net, net.d.pick(*(kinds or ("image", "tokens", "flat"))), c or net.d.int(3, 6))


def opset_from(d: Draw, first: int, *others: int) -> int:
    return int(d.pick(*sorted({v for v in (first, *others) if v >= first})))


# elementwise


def _unit(net: Net, x: str) -> str:
    return net.op("Mul", net.op("Tanh", x), net.real(0.9))


def _positive(net: Net, x: str) -> str:
    return net.op("Sigmoid", x)


def _above_one(net: Net, x: str) -> str:
    return net.op("Add", net.op("Sigmoid", x), net.real(1.1))


DOMAIN = {
    "Acos": _unit, "Asin": _unit, "Atanh": _unit, "Tan": _unit, "Acosh": _above_one, "Log": _positive, "Sqrt": _positive,
    "Reciprocal": _above_one,
}  # fmt: skip


def _split_heads(net: Net, x: str, h: int, e: int) -> str:
    form = net.d.pick((0, 0, h, e), (0, 0, h, -1), (0, -1, h, e), ("0", "1", h, e), ("0", -1, h, e), ("0", "1", -1, e))
    return net.op("Transpose", net.reshape(x, *form), perm=[0, 2, 1, 3])


def _attend(net: Net, q: str, k: str, v: str, e: int) -> str:
    """softmax(q k^T / sqrt(e)) v on [N, h, T, e]."""
    form = net.d.pick("div", "mul", "both", "shape", "none")
    if form == "both":
        s = net.real(e**-0.25)
        q, k = net.op("Mul", q, s), net.op("Mul", k, s)
    elif form == "shape":
        n = net.op("Gather", net.op("Shape", q), net.const(-1), axis=0)
        q = net.op("Div", q, net.op("Sqrt", net.to_float(n)))
    a = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    if form == "div":
        a = net.op("Div", a, net.real(e**0.5))
    elif form == "mul":
        a = net.op("Mul", a, net.real(e**-0.5))
    return net.op("MatMul", net.op("Softmax", a, axis=-1), v)


def _merge_heads(net: Net, y: str, width: int) -> str:
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    return net.reshape(y, *net.d.pick((0, 0, width), (0, 0, -1), ("0", "1", width), ("0", "1", -1)))


def _integers(net: Net, name: str, *shape: int, dtype: Any = np.int8) -> str:
    return net.init(name, net.rng.integers(0 if dtype is np.uint8 else -60, 60, shape).astype(dtype))
