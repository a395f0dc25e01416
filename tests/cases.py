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
        domains = [MS] * self.ms + [f.domain for f in functions]
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(n, 1) for n in domains)]
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


@case(
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
    examples=2,
)  # fmt: skip
def unary(d: Draw, op: str) -> Built:
    net = Net(d, opset_from(d, max(first_version(op), 9), 13, 17))
    m = any_mid(net)
    return m.end(net.op(op, DOMAIN.get(op, lambda _, x: x)(net, m.x)), exact=True)


@case("Gelu", examples=3)
def gelu(d: Draw, op: str) -> Built:
    net = Net(d, 20)
    m = any_mid(net)
    return m.end(net.op(op, m.x, approximate=d.pick("none", "tanh")))


@case("Mish", examples=2)
def mish(d: Draw, op: str) -> Built:
    net = Net(d, 18)
    m = any_mid(net)
    return m.end(net.op(op, m.x))


@case("Swish", examples=2, reference=True)
def swish(d: Draw, op: str) -> Built:
    net = Net(d, 24)
    m = any_mid(net, "tokens", "flat")
    return m.end(net.op(op, m.x, alpha=d.pick(1.0, 1.702)))


@case("Affine", "ScaledTanh", "ParametricSoftplus", examples=2)
def before_onnx_1(d: Draw, op: str) -> Built:
    net = Net(d, 8)
    m = any_mid(net, "image")
    return m.end(net.op(op, m.x, alpha=0.5, beta=0.25))


@case("Cast", examples=4)
def cast(d: Draw, op: str) -> Built:
    net = Net(d, opset_from(d, 9, 13, 19))
    m = any_mid(net)
    to = d.pick(TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32)
    return m.end(net.to_float(net.op(op, m.x, to=to)), tolerance=5e-3)


@case("IsNaN", "IsInf", "Not", "BitwiseNot", examples=2)
def unary_other(d: Draw, op: str) -> Built:
    net = Net(d, 18)
    m = any_mid(net)
    x = {
        "IsNaN": lambda: net.op("Sqrt", m.x),
        "IsInf": lambda: net.op("Reciprocal", net.op("Relu", m.x)),
        "Not": lambda: net.op("Greater", m.x, net.real(0.0)),
        "BitwiseNot": lambda: net.op("Cast", net.op("Mul", m.x, net.real(9.0)), to=TensorProto.INT32),
    }[op]()
    return m.end(net.to_float(net.op(op, x)))


@case("Clip", examples=5)
def clip(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 11, 13))
    m = any_mid(net)
    if net.opset < 11:
        return m.end(net.op(op, m.x, min=-0.5, max=0.5))
    low, high = net.real(-0.5), net.real(0.5)
    return m.end(net.op(op, m.x, *d.pick((low, high), ("", high), (low,))))


@case("Dropout", examples=4)
def dropout(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 10, 13))
    m = any_mid(net)
    if net.opset < 12:
        return m.end(net.op(op, m.x, ratio=0.3))
    if d.flag():
        y, mask = net.ops(op, m.x, outs=2)
        return m.end(net.op("Mul", y, net.to_float(mask)))
    return m.end(net.op(op, m.x, net.real(0.3), net.const(False, np.bool_)))


@case("CastLike", examples=3)
def cast_like(d: Draw, op: str) -> Built:
    net = Net(d, 15)
    m = any_mid(net)
    like = net.input("like", d.pick(1, 4))
    return m.end(net.op(op, net.op("Cast", m.x, to=TensorProto.DOUBLE), like))


def _partner(net: Net, m: Mid, form: str) -> str:
    """The second operand of a broadcasting operator."""
    if form == "branch":
        return m.again("b")
    if form == "scalar":
        return net.real(0.7)
    if form == "gate":
        g = m.again("b")
        axes = [a for a in range(1, m.rank) if a != m.axis]
        return net.mean(g, axes) if axes else g
    if form == "full":  # as many axes as x, the others of size 1
        shape = [1] * m.rank
        shape[m.axis] = m.c
        return net.weight("p", *shape)
    if form == "input":  # another input without channels
        return net.input("other", *(1 if a == m.axis else s for a, s in enumerate(DIMS[m.kind])))
    return net.weight("p", *m.column())


FORMS = ("branch", "scalar", "gate", "full", "column", "input")


def _binary(d: Draw, opset: int) -> tuple[Net, Mid, str, bool]:
    net = Net(d, opset)
    m = any_mid(net)
    form = d.pick(*FORMS)
    return net, m, _partner(net, m, form), d.flag()


@case("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", examples=8)
def arithmetic(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, d.pick(8, 13, 17))
    return m.end(net.op(op, *((b, m.x) if swap else (m.x, b))), exact=True)


@case("Div", "Pow", "Mod", examples=5)
def partial_arithmetic(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 13)
    b = _above_one(net, b)
    x = net.op("Abs", m.x) if op == "Pow" else _above_one(net, m.x) if swap else m.x
    x = _above_one(net, x) if op == "Pow" and swap else x
    ins = (b, x) if swap else (x, b)
    return m.end(net.op(op, *ins, fmod=1 if op == "Mod" else None))


@case("Sum", "Max", "Mean", examples=4)
def variadic(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net)
    others = [_partner(net, m, f) for f in d.pick((), ("branch", "column"), ("full", "gate"), ("scalar", "branch"))]
    return m.end(net.op(op, *others, m.x))


@case("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", examples=3)
def comparison(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 16)
    return m.end(net.to_float(net.op(op, *((b, m.x) if swap else (m.x, b)))))


@case("And", "Or", "Xor", examples=3)
def logical(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 16)
    x, y = net.op("Greater", m.x, net.real(0.1)), net.op("Greater", b, net.real(0.2))
    return m.end(net.to_float(net.op(op, *((y, x) if swap else (x, y)))))


@case("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", examples=3)
def bitwise(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 18)
    to = TensorProto.UINT32 if op == "BitShift" else TensorProto.INT32

    def whole(x: str) -> str:
        return net.op("Cast", net.op("Mul", net.op("Sigmoid", x), net.real(9.0)), to=to)

    x, y = whole(m.x), whole(b)
    attrs = {"direction": d.pick("LEFT", "RIGHT")} if op == "BitShift" else {}
    return m.end(net.to_float(net.op(op, *((y, x) if swap else (x, y)), **attrs)))


@case("Where", examples=10)
def where(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, d.pick(9, 16))
    form = d.pick("branch", "column", "scalar", "input")
    if form == "branch":
        cond = net.op("Greater", m.again("c"), net.real(0.0))
    elif form == "column":
        cond = net.init("cond", net.rng.integers(0, 2, m.column()).astype(bool))
    elif form == "scalar":
        cond = net.init("cond", np.array(True))
    else:
        cond = net.op("Greater", _partner(net, m, "input") if "other" not in net.feeds[0] else "other", net.real(0.0))
    return m.end(net.op(op, cond, *((b, m.x) if swap else (m.x, b))))


@case("PRelu", examples=8)
def prelu(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 9, 16))
    m = any_mid(net)
    shape = d.pick(m.column(), (1,), (1,) * (m.rank - 1))
    return m.end(net.op(op, m.x, net.weight("slope", *shape, scale=0.3)), exact=True)


@case("Gelu", "QuickGelu", "FastGelu", domain=MS, examples=3)
def ms_gelu(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    bias = [net.weight("p", m.c)] if op == "FastGelu" and d.flag() else []
    return m.end(net.op(op, m.x, *bias, domain=MS))


@case("BiasGelu", domain=MS, examples=3)
def ms_bias_gelu(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    return m.end(net.op(op, m.x, net.weight("p", m.c), domain=MS))


# convolutions and products


def _conv_attrs(d: Draw, rank: int) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    form = d.pick("plain", "strides", "dilations", "same", "valid")
    if form == "strides":
        attrs["strides"] = [2] * rank
    elif form == "dilations":
        attrs.update(dilations=[2] * rank, pads=[2] * (2 * rank))
    elif form == "same":
        attrs["auto_pad"] = "SAME_UPPER"
    elif form == "valid":
        attrs["auto_pad"] = "VALID"
    return attrs


SPATIAL: dict[int, tuple[str, ...]] = {1: ("T",), 2: ("H", "W"), 3: ("D", "H", "W")}


@case("Conv", examples=20)
def conv(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 22))
    rank = d.int(1, 3)
    kernel = [3] * rank
    form = d.pick("plain", "grouped", "depthwise", "multiplier")
    c, o, g = {
        "plain": (d.int(3, 5), d.int(3, 6), 1),
        "grouped": (6, 3 * d.int(2, 3), 3),
        "depthwise": (4, 4, 4),
        "multiplier": (4, 12, 4),
    }[form]
    x = net.conv(net.input("input", "N", 2, *SPATIAL[rank]), "a", (c, 2, *([1] * rank)), bias=d.flag())
    y = net.conv(
        x, "b", (o, c // g, *kernel), bias=d.flag(), group=g if g > 1 or d.flag() else None, **_conv_attrs(d, rank)
    )
    net.out(net.conv(net.op("Relu", y), "z", (2, o, *([1] * rank))))
    return net.done(
        ("a.weight", 0), ("b.weight", 0), ("z.weight", 1), exact=True, groups=2 if form != "depthwise" else 1
    )


@case("Conv", examples=4)
def conv_chain_of_groups(d: Draw, op: str) -> Built:
    """Grouped convolutions of nested and of clashing group counts."""
    net = Net(d)
    g1, g2 = d.pick((2, 4), (4, 2), (2, 2), (3, 6))
    c = 12
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (c, 3, 1, 1))
    x = net.conv(x, "b", (c, c // g1, 3, 3), group=g1)
    x = net.conv(x, "c", (c, c // g2, 3, 3), group=g2)
    net.out(net.conv(x, "z", (2, c, 1, 1)))
    return net.done(("a.weight", 0), ("c.weight", 0), ("z.weight", 1), exact=True)


@case("Conv", examples=4)
def conv_clashing_groups(d: Draw, op: str) -> Built:
    """Group counts that do not nest: whatever is found, the laws hold."""
    net = Net(d)
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (12, 3, 1, 1))
    x = net.conv(x, "b", (12, 12 // 4, 3, 3), group=4)
    x = net.conv(x, "c", (12, 12 // 6, 3, 3), group=6)
    x = net.conv(x, "y", (5, 12, 1, 1))
    net.out(net.conv(x, "z", (2, 5, 1, 1)))
    return net.done(("y.weight", 0), ("z.weight", 1), exact=True)


@case("FusedConv", domain=MS, examples=5)
def fused_conv(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "image")
    o = d.int(3, 6)
    ins = [m.x, net.weight("b.weight", o, m.c, 3, 3), net.weight("b.bias", o)]
    if d.flag():
        ins.append(net.conv(m.x, "s", (o, m.c, 1, 1)))
    y = net.op(op, *ins, domain=MS, activation="Relu", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    m.close(y, o)
    return net.done(m.made, ("b.weight", 0), m.used, groups=2)


@case("ConvTranspose", examples=15)
def conv_transpose(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 22))
    rank = d.int(1, 3)
    form = d.pick("plain", "grouped", "depthwise")
    c, o, g = {"plain": (d.int(3, 5), d.int(3, 6), 1), "grouped": (6, d.int(1, 3), 3), "depthwise": (4, 1, 4)}[form]
    x = net.conv(net.input("input", "N", 2, *SPATIAL[rank]), "a", (c, 2, *([1] * rank)))
    bias = [net.weight("b.bias", o * g)] if d.flag() else []
    attrs: dict[str, Any] = {"strides": [2] * rank}
    extra = d.pick("none", "output_padding", "same", "dilations")
    if extra == "output_padding":
        attrs.update(output_padding=[1] * rank)
    elif extra == "same":
        attrs.update(auto_pad="SAME_UPPER")
    elif extra == "dilations":
        attrs.update(dilations=[2] * rank)
    y = net.op(op, x, net.weight("b.weight", c, o, *([3] * rank)), *bias, group=g if g > 1 else None, **attrs)
    net.out(net.conv(y, "z", (2, o * g, *([1] * rank))))
    prunable = [("a.weight", 0), ("b.weight", 0), ("z.weight", 1)] + ([("b.weight", 1)] if o > 1 else [])
    return net.done(*prunable, exact=True)


@case("Gemm", examples=15)
def gemm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 11, 13))
    i, h, o = 6, d.int(3, 6), d.int(3, 5)
    x = net.input("input", "N", i)
    tb, form = d.flag(), d.pick("none", "vector", "row", "scalar", "one")
    shapes: dict[str, list[tuple[int, ...]]] = {
        "none": [], "vector": [(h,)], "row": [(1, h)], "scalar": [()], "one": [(1,)],
    }  # fmt: skip
    c = shapes[form if form != "none" or net.opset >= 11 else "vector"]
    attrs = {"alpha": d.pick(1.0, 0.5), "beta": d.pick(1.0, 2.0)}
    if d.flag():  # x transposed twice
        x = net.op("Transpose", x, perm=[1, 0])
        attrs["transA"] = 1
    w = net.weight("a.weight", *((h, i) if tb else (i, h)))
    y = net.op(op, x, w, *(net.weight("a.bias", *s) for s in c), transB=int(tb), **attrs)
    y = net.op("Relu", y)
    net.out(net.op(op, y, net.weight("z.weight", o, h), net.weight("z.bias", o), transB=1))
    return net.done(("a.weight", 0 if tb else 1), ("z.weight", 1), exact=True)


@case("Gemm", examples=4)
def gemm_left_weight(d: Draw, op: str) -> Built:
    """The weight on the left: y^T = W x^T."""
    net = Net(d)
    xt = net.op("Transpose", net.input("input", "N", 6), perm=[1, 0])
    ta = d.flag()
    y = net.op(op, net.weight("a.weight", *((6, 5) if ta else (5, 6))), xt, net.weight("a.bias", 5, 1), transA=int(ta))
    net.out(net.op(op, net.weight("z.weight", 3, 5), net.op("Relu", y)))
    return net.done(("a.weight", 1 if ta else 0), ("a.bias", 0), ("z.weight", 1), exact=True)


@case("MatMul", examples=12)
def matmul(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 13))
    c = d.int(3, 6)
    form = d.pick("right", "left", "vector", "batched", "stack")
    if form == "right":
        y = net.linear(net.input("input", "N", "T", 6), "a", 6, c, d.flag())
        net.out(net.op(op, y, net.init("z.weight", net.matrix(c, 3))))
        return net.done(("a.weight", 1), ("z.weight", 0), exact=True)
    if form == "left":
        y = net.op(op, net.weight("a.weight", c, 6), net.input("input", "N", 6, "T"))
        y = net.op("Add", y, net.weight("a.bias", c, 1))
        net.out(net.op(op, net.weight("z.weight", 3, c), net.op("Relu", y)))
        return net.done(("a.weight", 0), ("z.weight", 1), exact=True)
    if form == "vector":
        y = net.op("Relu", net.linear(net.input("input", "N", "T", 6), "a", 6, c))
        net.out(net.op(op, y, net.weight("z.weight", c)))
        return net.done(("a.weight", 1), ("z.weight", 0), exact=True)
    if form == "batched":  # a matrix for each of four heads
        x = net.op(
            "Transpose",
            net.reshape(net.linear(net.input("input", "N", "T", 6), "a", 6, 4 * c), 0, 0, 4, c),
            perm=[0, 2, 1, 3],
        )
        y = net.op("Relu", net.op(op, x, net.init("b.weight", net.rng.standard_normal((4, c, 5)).astype(F32))))
        net.out(net.op(op, y, net.init("z.weight", net.rng.standard_normal((4, 5, 2)).astype(F32))))
        return net.done(("a.weight", 1), ("b.weight", 1), ("b.weight", 2), ("z.weight", 1), groups=2)
    y = net.op(
        op,
        net.unsqueeze(net.input("input", "N", "T", 6), 1),
        net.init("a.weight", net.rng.standard_normal((3, 6, c)).astype(F32)),
    )
    y = net.op(op, net.op("Relu", y), net.init("z.weight", net.rng.standard_normal((3, c, 2)).astype(F32)))
    net.out(y)
    return net.done(("a.weight", 2), ("z.weight", 1), exact=True)


@case("MatMul", examples=4)
def matmul_of_activations(d: Draw, op: str) -> Built:
    """Linear attention: (q k^T) v without heads; the width of q and k is approximate, that of v exact."""
    net = Net(d)
    x = net.input("input", "N", "T", 6)
    q, k, v = (net.linear(x, n, 6, c) for n, c in (("q", 4), ("k", 4), ("v", 5)))
    if d.flag():
        y = net.op(op, net.op(op, q, net.op("Transpose", k, perm=[0, 2, 1])), v)
    else:
        y = net.op(op, q, net.op(op, net.op("Transpose", k, perm=[0, 2, 1]), v))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=2)


@case("FusedMatMul", domain=MS, examples=6)
def fused_matmul(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    tb = d.flag()
    w = net.weight("b.weight", *((5, m.c) if tb else (m.c, 5)))
    y = net.op(op, m.x, w, domain=MS, transB=int(tb), alpha=0.5)
    if d.flag():  # an activation as the second factor
        k = net.linear(m.x, "k", m.c, 5)
        s = net.op(op, y, k, domain=MS, transB=1, alpha=0.3)
        y = net.op("MatMul", net.op("Softmax", s, axis=-1), k)
    m.close(y, 5)
    return net.done(m.made, ("b.weight", 0 if tb else 1), m.used, groups=2)


@case("Einsum", examples=14)
def einsum(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    form = d.pick("bti,io->bto", "bti,oi->bto", "...i,io->...o", "bti,io", "heads", "scores", "left")
    x = net.input("input", "N", "T", 6)
    c = d.int(3, 5)
    if form == "heads":
        y = net.op(op, x, net.init("a.weight", net.matrix(6, 3, c)), equation="bti,ihd->bthd")
        net.out(
            net.op(op, net.op("Relu", y), net.init("z.weight", net.matrix(3, c, 4)), equation="b t h d, h d o -> b t o")
        )
        return net.done(("a.weight", 1), ("a.weight", 2), ("z.weight", 0), ("z.weight", 1), groups=2, exact=True)
    if form == "scores":
        q, k, v = (net.op(op, x, net.init(f"{n}.weight", net.matrix(6, 3, c)), equation="bti,ihd->bthd") for n in "qkv")
        s = net.op("Softmax", net.op(op, q, k, equation="bqhd,bkhd->bhqk"), axis=-1)
        y = net.op(op, s, v, equation="bhqk,bkhd->bqhd")
        net.out(net.op(op, y, net.init("z.weight", net.matrix(3, c, 4)), equation="bthd,hdo->bto"))
        return net.done(("q.weight", 1), ("q.weight", 2), ("v.weight", 2), ("z.weight", 0), ("z.weight", 1), groups=3)
    if form == "left":
        xt = net.input("columns", "N", 6, "T")
        y = net.op(op, net.init("a.weight", net.matrix(c, 6)), xt, equation="oi,bit->bot")
        net.out(net.op(op, net.init("z.weight", net.matrix(3, c)), net.op("Relu", y), equation="oi,bit->bot"))
        return net.done(("a.weight", 0), ("z.weight", 1), exact=True)
    if form == "bti,io":  # implicit output: its letters in alphabetical order, b o t
        y = net.op("Transpose", net.op(op, x, net.init("a.weight", net.matrix(6, c)), equation=form), perm=[0, 2, 1])
    elif form == "bti,oi->bto":
        y = net.op(op, x, net.init("a.weight", net.matrix(c, 6)), equation=form)
    else:
        y = net.op(op, x, net.init("a.weight", net.matrix(6, c)), equation=form)
    net.out(net.op(op, net.op("Relu", y), net.init("z.weight", net.matrix(c, 3)), equation="...i,io->...o"))
    return net.done(("a.weight", 0 if form == "bti,oi->bto" else 1), ("z.weight", 0), exact=True)


# normalisations


@case("BatchNormalization", examples=6)
def batch_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 9, 14, 15))
    m = any_mid(net, "image", "signal", "flat")
    params = [net.weight(f"bn.{n}", m.c, scale=0.2, offset=o) for n, o in (("scale", 1), ("bias", 0), ("mean", 0))]
    var = net.init("bn.var", np.abs(net.rng.standard_normal(m.c)).astype(F32) + 0.5)
    y = net.op(op, m.x, *params, var, epsilon=1e-3)
    m.close(net.op("Relu", y))
    return net.done(m.made, ("bn.scale", 0), ("bn.bias", 0), ("bn.mean", 0), ("bn.var", 0), m.used, exact=True)


@case("InstanceNormalization", examples=4)
def instance_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 22))
    m = any_mid(net, "image", "signal")
    y = net.op(op, m.x, net.weight("in.scale", m.c), net.weight("in.bias", m.c))
    m.close(y)
    return net.done(m.made, ("in.scale", 0), ("in.bias", 0), m.used, exact=True)


@case("InstanceNormalization", examples=8)
def group_norm_as_exported(d: Draw, op: str) -> Built:
    """GroupNorm as Reshape + InstanceNorm + Reshape + Mul + Add: groups are exact, channels in a group mix."""
    net = Net(d, d.pick(11, 17))
    m = any_mid(net, "image", "signal", c=d.pick(6, 8))
    g = 2
    y = net.reshape(m.x, 0, g, -1)
    y = net.op(op, y, net.init("one", np.ones(g, F32)), net.init("nil", np.zeros(g, F32)))
    y = (
        net.op("Reshape", y, net.op("Shape", m.x))
        if d.flag()
        else net.reshape(y, *("0", m.c, *"23"[: m.rank - 2]), source=m.x)
    )
    y = net.op("Add", net.op("Mul", y, net.weight("gn.scale", *m.column())), net.weight("gn.bias", *m.column()))
    m.close(y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 0), m.used, groups=2)


@case("GroupNormalization", examples=5)
def group_norm(d: Draw, op: str) -> Built:
    net = Net(d, 21)  # onnx.checker refuses the one of opset 18, which is deprecated
    g = d.pick(2, 3, 6)
    m = any_mid(net, "image", "signal", c=6)
    y = net.op(op, m.x, net.weight("gn.scale", 6), net.weight("gn.bias", 6), num_groups=g)
    m.close(y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 0), m.used)


@case("GroupNorm", domain=MS, examples=4, reference=True)
def ms_group_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    g, last = d.pick(2, 3, 6), d.int(0, 1)
    m = any_mid(net, "image", c=6)
    x = net.op("Transpose", m.x, perm=[0, 2, 3, 1]) if last else m.x
    y = net.op(
        op,
        x,
        net.weight("gn.scale", 6),
        net.weight("gn.bias", 6),
        domain=MS,
        groups=g,
        channels_last=last,
        activation=0,
    )
    m.close(net.op("Transpose", y, perm=[0, 3, 1, 2]) if last else y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 0), m.used)


@case("SimplifiedLayerNormalization", domain=MS, examples=2, reference=True)
def ms_simplified_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    m.close(net.op(op, m.x, net.weight("ln.scale", m.c), domain=MS, axis=-1, epsilon=1e-5))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("LayerNormalization", examples=8)
def layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    m = any_mid(net, "tokens", "flat")
    ins = [net.weight("ln.scale", m.c)] + ([net.weight("ln.bias", m.c)] if d.flag() else [])
    m.close(net.op(op, m.x, *ins, axis=d.pick(-1, m.rank - 1)))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("LayerNormalization", examples=3)
def layer_norm_of_two_axes(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    x = net.op("Relu", net.linear(net.input("input", "N", 4, 6), "a", 6, 5))
    y = net.op(op, x, net.weight("ln.scale", 4, 5), net.weight("ln.bias", 4, 5), axis=d.pick(-2, 1))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("ln.scale", 1), ("ln.bias", 1), ("z.weight", 0), exact=False)


@case("RMSNormalization", examples=3)
def rms_norm(d: Draw, op: str) -> Built:
    net = Net(d, 23)
    m = any_mid(net, "tokens", "flat")
    m.close(net.op(op, m.x, net.weight("ln.scale", m.c), axis=-1))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("SimplifiedLayerNormalization", examples=3)
def simplified_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    m = any_mid(net, "tokens", "flat")
    m.close(net.op(op, m.x, net.weight("ln.scale", m.c), axis=-1, epsilon=1e-5, stash_type=1))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS, examples=5)
def skip_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    ins = [m.x, m.again("b"), net.weight("ln.scale", m.c)]
    if op == "SkipLayerNormalization":
        ins.append(net.weight("ln.bias", m.c))
    if d.flag():
        ins.append(net.weight("skip.bias", m.c))
    if d.flag():
        y, total = net.name("norm"), net.name("sum")
        net.nodes.append(helper.make_node(op, ins, [y, "", "", total], domain=MS, epsilon=1e-5))
        y = net.op("Add", y, total)
    else:
        y = net.op(op, *ins, domain=MS, epsilon=1e-5)
    m.close(y)
    return net.done(m.made, ("b.weight", 1), ("ln.scale", 0), m.used, exact=False)


@case("LRN", examples=3)
def lrn(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 13))
    m = any_mid(net, "image")
    y = net.op(op, m.x, size=3)
    y = net.conv(y, "b", (4, m.c, 1, 1))
    m.close(y, 4)
    return net.done(("b.weight", 0), m.used, frozen=[m.made])


@case("MeanVarianceNormalization", examples=3)
def mean_variance(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 13))
    m = any_mid(net, "image")
    axes, exact = d.pick((None, True), ([0, 2, 3], True), ([1, 2, 3], False))
    return m.end(net.op(op, m.x, axes=axes), exact=exact)


@case("LpNormalization", examples=4)
def lp_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 22))
    m = any_mid(net)
    return m.end(net.op(op, m.x, axis=d.pick(m.axis, m.axis - m.rank), p=d.pick(1, 2)), exact=False)


@case("Softmax", "LogSoftmax", "Hardmax", examples=5)
def softmax(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 11, 13))
    m = any_mid(net, "image", "tokens")
    along = d.flag()
    if along or net.opset < 13:
        y = net.op(op, m.x, axis=m.axis if m.kind == "image" or net.opset >= 13 else -1)
        y = net.conv(y, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(y, "b", m.c, 4)
        m.close(y, 4)
        return net.done(m.used, frozen=[m.made])
    return m.end(net.op(op, m.x, axis=-1 if m.kind == "image" else 1), exact=True)


# pooling, resizing, reductions


@case("AveragePool", "MaxPool", "LpPool", examples=4)
def pool(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 12, 19))
    m = any_mid(net, "image", "signal")
    k = m.rank - 2
    attrs: dict[str, Any] = {"kernel_shape": [2] * k, "strides": [d.int(1, 2)] * k}
    if d.flag():
        attrs["pads"] = [1] * (2 * k)
    return m.end(net.op(op, m.x, **attrs), exact=True)


@case("MaxPool", examples=2)
def pool_with_indices(d: Draw, op: str) -> Built:
    net = Net(d, 12)
    m = any_mid(net, "image")
    y, at = net.ops(op, m.x, outs=2, kernel_shape=[2, 2])
    y = net.op("Add", y, net.op("Mul", net.to_float(at), net.real(1e-3)))
    m.close(net.conv(y, "b", (4, m.c, 1, 1)), 4)
    return net.done(m.used, frozen=[m.made])


@case("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", examples=3)
def global_pool(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 17))
    m = any_mid(net, "image", "signal")
    y = net.op(op, m.x)
    form = d.pick("conv", "flatten", "squeeze", "reshape")
    if form == "conv":
        return m.end(y, exact=True)
    if form == "flatten":
        y = net.op("Flatten", y, axis=d.pick(1, None))
    elif form == "squeeze":
        y = net.squeeze(y, *range(2, m.rank))
    else:
        y = d.pick(lambda: net.reshape(y, -1, m.c), lambda: net.reshape(y, "0", -1), lambda: net.reshape(y, 0, m.c))()
    net.out(net.gemm(y, "z", 3, m.c))
    return net.done(m.made, ("z.weight", 1), exact=True)


@case("ImageScaler", examples=2)
def image_scaler(d: Draw, op: str) -> Built:
    net = Net(d, 8)
    m = any_mid(net, "image", c=3)
    return m.end(net.op(op, m.x, scale=0.5, bias=[0.1, 0.7, -0.4]))


@case("Resize", examples=10)
def resize(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 11, 13, 18))
    m = any_mid(net, "image", "signal")
    k = m.rank - 2
    mode = d.pick("nearest", "linear")
    form = d.pick("scales", "sizes", "computed") if net.opset >= 11 else "scales"
    if form == "scales":
        scales = net.const([1.0, 1.0, *([2.0] * k)], F32)
        ins = [scales] if net.opset == 10 else [net.init("roi", np.zeros(0, F32)) if net.opset < 13 else "", scales]
        return m.end(net.op(op, m.x, *ins, mode=mode), exact=True)
    if form == "sizes":  # to a fixed picture; the batch is read from the shape
        sizes = net.op("Concat", net.size(m.x, 0), net.const([m.c, *([9] * k)]), axis=0)
    else:
        shape = net.op("Shape", m.x)
        head = net.op("Slice", shape, net.const([0]), net.const([2]), net.const([0]))
        tail = net.op("Slice", shape, net.const([2]), net.const([m.rank]), net.const([0]))
        sizes = net.op("Concat", head, net.op("Mul", tail, net.const([2])), axis=0)
    if net.opset >= 18 and d.flag():
        tail = net.op("Slice", sizes, net.const([2]), net.const([m.rank]), net.const([0]))
        return m.end(net.op(op, m.x, "", "", tail, mode=mode, axes=list(range(2, m.rank))), exact=True)
    roi = net.init("roi", np.zeros(0, F32)) if net.opset < 13 else ""
    nil = net.init("nil", np.zeros(0, F32)) if net.opset < 13 else ""
    return m.end(net.op(op, m.x, roi, nil, sizes, mode=mode), exact=True)


@case("Upsample", examples=3)
def upsample(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 9))
    m = any_mid(net, "image")
    scales = [1.0, 1.0, 2.0, 2.0]
    if net.opset < 9:
        return m.end(net.op(op, m.x, scales=scales, mode="nearest"), exact=True)
    return m.end(net.op(op, m.x, net.const(scales, F32), mode="nearest"), exact=True)


@case("GridSample", examples=3)
def grid_sample(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(16, 20))
    m = any_mid(net, "image")
    return m.end(net.op(op, m.x, net.op("Tanh", net.input("grid", "N", 5, 4, 2))), exact=True)


@case("RoiAlign", examples=3)
def roi_align(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 16))
    m = any_mid(net, "image")
    boxes = net.init("boxes", np.array([[0, 0, 4, 4], [1, 1, 5, 6]], F32))
    return m.end(net.op(op, m.x, boxes, net.init("batch", np.zeros(2, I64)), output_height=2, output_width=2))


@case("MaxRoiPool", examples=2)
def max_roi_pool(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image")
    return m.end(
        net.op(op, m.x, net.init("rois", np.array([[0, 0, 0, 4, 4], [0, 1, 1, 5, 5]], F32)), pooled_shape=[2, 2])
    )


@case(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare", examples=5,
)  # fmt: skip
def reduction(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 13, 18))
    since = 13 if op == "ReduceSum" else 18
    m = any_mid(net, "image", "tokens")
    x = _above_one(net, m.x) if op in ("ReduceProd", "ReduceLogSum") else m.x
    form = d.pick("others", "negative", "channel", "noop")
    others = [a for a in range(1, m.rank) if a != m.axis]
    if form == "noop" and net.opset >= since:
        return m.end(net.op(op, x, noop_with_empty_axes=1))
    if form == "channel":  # an exported gate: a mean over channels scales them
        s = net.axes_op(op, x, [d.pick(m.axis, m.axis - m.rank)], since, keepdims=1)
        return m.end(net.op("Mul", net.op("Sigmoid", s), m.x), exact=False)
    axes = [a - m.rank for a in others] if form == "negative" else others
    keepdims = d.int(0, 1)
    y = net.axes_op(op, x, axes, since, keepdims=keepdims)
    if keepdims:
        return m.end(y, exact=True)
    net.out(net.op("Gemm", y, net.init("z.weight", net.matrix(m.c, 3))))
    return net.done(m.made, ("z.weight", 0), exact=True)


@case("ArgMax", "ArgMin", examples=3)
def arg(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 13))
    m = any_mid(net, "image", "tokens")
    keep = d.int(0, 1)
    if d.flag():  # along the channels, which stay
        at = net.op(
            op,
            net.linear(m.x, "b", m.c, 4) if m.kind == "tokens" else net.conv(m.x, "b", (4, m.c, 1, 1)),
            axis=m.axis,
            keepdims=keep,
        )
        net.out(at, TensorProto.INT64)
        return net.done(m.made, frozen=[("b.weight", 1 if m.kind == "tokens" else 0)], exact=True)
    axis = d.pick(1, -2) if m.kind == "tokens" else d.pick(2, -2)
    at = net.to_float(net.op(op, m.x, axis=axis, keepdims=1))
    return m.end(at)


@case("TopK", examples=3)
def top_k(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 11))
    m = any_mid(net, "tokens")
    k = net.const([2])
    if d.flag():
        values, _ = net.ops(op, m.x, k, outs=2, axis=1)
        return m.end(values)
    values, _ = net.ops(op, m.x, k, outs=2, axis=-1)
    net.linear(values, "b", 2, 4)
    m.close(net.linear(values, "c", 2, 4), 4)
    return net.done(("c.weight", 1), m.used, frozen=[m.made])


@case("CumSum", examples=3)
def cumulative(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 14))
    m = any_mid(net, "tokens", "image")
    if d.flag():
        return m.end(net.op(op, m.x, net.const(1 if m.kind == "tokens" else -1)))
    y = net.op(op, m.x, net.const(m.axis))
    m.close(net.conv(y, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(y, "b", m.c, 4), 4)
    return net.done(m.used, frozen=[m.made])


@case("CumProd", examples=3)
def cumulative_product(d: Draw, op: str) -> Built:
    net = Net(d, 26)
    m = any_mid(net, "tokens")
    return m.end(net.op(op, m.x, net.const(1)))


# quantisation


@case("QuantizeLinear", examples=6)
def activation_qdq(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 13, 19))
    m = any_mid(net, "image", "tokens")
    zero = net.init("zp", np.array(3, np.uint8))
    if net.opset >= 13 and d.flag():  # per channel
        s = net.init("s", (np.abs(net.rng.standard_normal(m.c)) * 0.01 + 0.02).astype(F32))
        zero = net.init("zps", np.full(m.c, 120, np.uint8))
        axis = d.pick(m.axis, m.axis - m.rank)
        return m.end(net.op("DequantizeLinear", net.op(op, m.x, s, zero, axis=axis), s, zero, axis=axis))
    s = net.real(0.02)
    return m.end(net.op("DequantizeLinear", net.op(op, m.x, s, zero), s, zero))


@case("DequantizeLinear", examples=10)
def weight_qdq(d: Draw, op: str) -> Built:
    """int8 weights behind DequantizeLinear, one scale or a scale for each output (or input) channel."""
    net = Net(d, d.pick(13, 17, 21))
    x = net.input("input", "N", 3, "H", "W")
    c, form = d.int(3, 6), d.pick("tensor", "channel", "negative", "input")

    def weight(name: str, *shape: int) -> str:
        q = net.init(f"{name}.weight", net.rng.integers(-100, 100, shape).astype(np.int8))
        axis = {"tensor": None, "channel": 0, "negative": -4, "input": 1}[form]
        n = 1 if axis is None else shape[axis]
        s = net.init(
            f"{name}.scale",
            (np.abs(net.rng.standard_normal(n)) * 0.01 + 0.002).astype(F32).reshape(() if axis is None else -1),
        )
        zero = [] if d.flag() else [net.init(f"{name}.zero", np.zeros(() if axis is None else n, np.int8))]
        return net.op(op, q, s, *zero, axis=axis)

    y = net.op("Conv", x, weight("a", c, 3, 3, 3), net.weight("a.bias", c), pads=[1, 1, 1, 1])
    net.out(net.op("Conv", net.op("Relu", y), weight("z", 4, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("DequantizeLinear", examples=4)
def block_qdq(d: Draw, op: str) -> Built:
    """Blocks of two inputs share a scale: that axis is frozen or whole blocks go; the other follows."""
    net = Net(d, 21)
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, 8)
    q = net.init("b.weight", net.rng.integers(-100, 100, (8, 5)).astype(np.int8))
    s = net.init("b.scale", (np.abs(net.rng.standard_normal((4, 5))) * 0.01 + 0.002).astype(F32))
    y = net.op("MatMul", x, net.op(op, q, s, axis=0, block_size=2))
    net.out(net.linear(net.op("Relu", y), "z", 5, 3))
    return net.done(("b.weight", 1), ("b.scale", 1), ("z.weight", 0))


# rearranging


@case("Reshape", examples=10)
def reshape_flatten(d: Draw, op: str) -> Built:
    """[N, C, h, w] to [N, C*h*w] for a classifier, in every way of writing the target."""
    net = Net(d, d.pick(7, 13, 17))
    c = d.int(3, 5)
    x = net.conv(net.input("input", "N", 3, 4, 4), "a", (c, 3, 3, 3))
    form = d.pick("-1,n", "0,-1", "0,n", "shape,-1", "shape,n")
    n = c * 16
    y = {
        "-1,n": lambda: net.reshape(x, -1, n),
        "0,-1": lambda: net.reshape(x, 0, -1),
        "0,n": lambda: net.reshape(x, 0, n),
        "shape,-1": lambda: net.reshape(x, "0", -1),
        "shape,n": lambda: net.reshape(x, "0", n),
    }[form]()
    net.out(net.gemm(y, "z", 3, n))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("Reshape", examples=8)
def reshape_heads(d: Draw, op: str) -> Built:
    """[N, T, h*d] to [N, T, h, d] and back, with a scale for each head and one for each feature."""
    net = Net(d)
    h, e = d.int(2, 3), d.int(2, 4)
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, h * e)
    target = d.pick(
        (0, 0, h, e), (0, 0, h, -1), (0, 0, -1, e), (0, -1, h, e), ("0", "1", h, e), ("0", "1", h, -1), ("0", -1, h, e)
    )
    y = net.reshape(x, *target)
    y = net.op("Mul", net.op("Add", y, net.weight("per_head", h, 1)), net.weight("per_feature", e))
    back = d.pick((0, 0, h * e), (0, 0, -1), ("0", "1", h * e), ("0", "1", -1))
    y = net.reshape(y, *back)
    net.out(net.linear(y, "z", h * e, 3))
    return net.done(("a.weight", 1), ("per_head", 0), ("per_feature", 0), ("z.weight", 0), groups=2, exact=True)


@case("Reshape", examples=6)
def channel_shuffle(d: Draw, op: str) -> Built:
    net = Net(d)
    g, c = d.pick((3, 9), (2, 4), (2, 8))
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (c, 3, 3, 3))
    form = d.pick("constant", "dynamic")
    if form == "constant":  # -1 for the batch needs a picture of fixed size: flatten it
        y = net.reshape(x, 0, g, c // g, -1)
        y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), "0", c, "2", "3", source=x)
    else:
        y = net.reshape(x, "0", g, c // g, "2", "3", source=x)
        y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), "0", -1, "2", "3", source=x)
    net.out(net.conv(net.conv(y, "b", (c, c // g, 3, 3), group=g) if d.flag() else y, "z", (3, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("Reshape", examples=4)
def tokens_of_a_picture(d: Draw, op: str) -> Built:
    """A vision transformer's patches: [N, C, H, W] -> [N, C, HW] -> [N, HW, C], and back again."""
    net = Net(d)
    c = d.int(3, 6)
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (c, 3, 2, 2), strides=[2, 2], pads=[0, 0, 0, 0])
    y = d.pick(lambda: net.reshape(x, 0, c, -1), lambda: net.reshape(x, "0", c, -1), lambda: net.reshape(x, 0, 0, -1))()
    y = net.linear(net.op("Transpose", y, perm=[0, 2, 1]), "b", c, 5)
    y = net.op("Transpose", y, perm=[0, 2, 1])
    y = d.pick(
        lambda: net.reshape(y, "0", 5, "2", "3", source=x), lambda: net.reshape(y, "0", -1, "2", "3", source=x)
    )()
    net.out(net.conv(y, "z", (3, 5, 1, 1)))
    return net.done(("a.weight", 0), ("b.weight", 0), ("b.weight", 1), ("z.weight", 1), exact=True, groups=2)


@case("Reshape", examples=4)
def reshape_of_a_row_major_mess(d: Draw, op: str) -> Built:
    """NHWC flattening: channels are the innermost factor."""
    net = Net(d)
    c = d.int(3, 5)
    x = net.op("Transpose", net.conv(net.input("input", "N", 3, 4, 4), "a", (c, 3, 3, 3)), perm=[0, 2, 3, 1])
    y = net.reshape(x, d.pick(-1, 0), 16 * c)
    net.out(net.gemm(y, "z", 3, 16 * c))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("Reshape", examples=4)
def reshape_that_cuts_through(d: Draw, op: str) -> Built:
    """A reshape that regroups channels with positions: nothing can be pruned before it, the rest can."""
    net = Net(d)
    rows, width = d.pick((3, 8), (8, 3), (6, 4))
    y = net.reshape(net.linear(net.input("input", "N", 4, 6), "a", 6, 6), 0, rows, width)
    net.out(net.linear(net.linear(y, "b", width, 5), "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0))


@case("Flatten", examples=6)
def flatten(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 11, 13))
    c = d.int(3, 5)
    x = net.conv(net.input("input", "N", 3, 4, 4), "a", (c, 3, 3, 3))
    axis = d.pick(1, None, -3) if net.opset >= 11 else d.pick(1, None)
    net.out(net.gemm(net.op(op, x, axis=axis), "z", 3, 16 * c))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("Squeeze", examples=6)
def squeeze(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 13))
    m = any_mid(net, "image")
    if d.flag():  # no axes at all: the feature axis must survive a plan that leaves one channel
        y = net.op(op, net.op("GlobalAveragePool", net.conv(net.input("one", 2, 3, 4, 4), "b", (m.c, 3, 3, 3))))
        net.out(net.gemm(y, "y", 3, m.c))
        m.close(m.x)
        return net.done(m.made, ("b.weight", 0), ("y.weight", 1), m.used, groups=2, exact=True)
    y = net.axes_op(op, net.op("GlobalAveragePool", m.x), d.pick((2, 3), (-1, -2)), 13)
    net.out(net.gemm(y, "z", 3, m.c))
    return net.done(m.made, m.used, exact=True)


@case("Unsqueeze", examples=5)
def unsqueeze(d: Draw, op: str) -> Built:
    """A gate [N, C] that scales [N, C, H, W]."""
    net = Net(d, d.pick(11, 13))
    m = any_mid(net, "image")
    g = net.op("Flatten", net.op("GlobalAveragePool", m.x))
    g = net.gemm(g, "g", m.c, m.c)
    g = net.axes_op(op, net.op("Sigmoid", g), d.pick((2, 3), (-1, -2), (3, 2)), 13)
    m.close(net.op("Mul", m.x, g))
    return net.done(m.made, ("g.weight", 0), ("g.weight", 1), m.used, exact=True)


@case("Transpose", examples=5)
def transpose(d: Draw, op: str) -> Built:
    """NCHW to NHWC, a product over the last axis, and back."""
    net = Net(d)
    m = any_mid(net, "image")
    y = net.linear(net.op(op, m.x, perm=[0, 2, 3, 1]), "b", m.c, 5)
    # a plain Transpose reverses: C, W, H, N
    y = net.op(op, net.op(op, y), perm=[3, 0, 2, 1]) if d.flag() else net.op(op, y, perm=[0, 3, 1, 2])
    m.close(y, 5)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2, exact=True)


@case("DepthToSpace", examples=5)
def pixel_shuffle(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 13))
    c = d.int(3, 4)
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (4 * c, 3, 3, 3))
    net.out(net.conv(net.op(op, x, blocksize=2, mode=d.pick("DCR", "CRD", None)), "z", (3, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("SpaceToDepth", examples=3)
def space_to_depth(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image")
    return m.end(net.op(op, m.x, blocksize=2), 4 * m.c, exact=True)


@case("Shape", examples=6)
def shape_chain(d: Draw, op: str) -> Built:
    """A target that reads every size of a tensor, the channel count among them."""
    net = Net(d, d.pick(13, 17))
    m = any_mid(net, "image")
    form = d.pick("all", "slices", "start")
    if form == "start" and net.opset >= 15:
        spatial = net.op(op, m.x, start=2)
        target = net.op("Concat", net.size(m.x, 0), net.size(m.x, 1), net.const([-1]), axis=0)
        y = net.op("Reshape", net.op("Reshape", m.x, target), net.op("Concat", net.const([0, 0]), spatial, axis=0))
    elif form == "slices":
        s = net.op(op, m.x)
        head = net.op("Slice", s, net.const([0]), net.const([2]))
        y = net.op("Reshape", m.x, net.op("Concat", head, net.const([-1]), axis=0))
        y = net.op("Reshape", y, net.op(op, m.x))
    else:
        y = net.op("Reshape", net.op("Relu", m.x), net.op(op, m.x))
    return m.end(y, exact=True)


@case("Shape", examples=5)
def value_of_a_channel_count(d: Draw, op: str) -> Built:
    """A scale computed from a channel count keeps its original value."""
    net = Net(d)
    m = any_mid(net, "tokens", "image")
    n = net.op("Gather", net.op(op, m.x), net.const(m.axis if d.flag() else m.axis - m.rank), axis=0)
    s = net.op("Sqrt", net.to_float(n))
    y = net.op("Div", m.x, s) if d.flag() else net.op("Mul", m.x, net.op("Div", net.real(1.0), s))
    return m.end(y, exact=True)


@case("Size", examples=3)
def size(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "image", "tokens")
    fixed = net.op("Size", net.op("ReduceMax", m.x, axes=[a for a in range(m.rank) if a != m.axis], keepdims=1))
    return m.end(net.op("Div", m.x, net.to_float(fixed)))


@case("Range", examples=3)
def position_ids(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "tokens")
    t = net.op("Gather", net.op("Shape", m.x), net.const(1), axis=0)
    ids = net.op(op, net.const(0), t, net.const(1))
    p = net.op("Gather", net.weight("table", 12, m.c), ids, axis=0)
    m.close(net.op("Add", m.x, p))
    return net.done(m.made, ("table", 1), m.used, exact=True)


@case("EyeLike", examples=2)
def eye_like(d: Draw, op: str) -> Built:
    net = Net(d)
    x = net.linear(net.input("input", "N", 4, 6), "a", 6, 5)
    y = net.op("MatMul", net.op(op, net.init("square", np.zeros((4, 4), F32)), k=1), x)
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("z.weight", 0))


@case("EyeLike", examples=2)
def eye_like_channels(d: Draw, op: str) -> Built:
    """An identity matrix as large as the channels: they are frozen."""
    net = Net(d)
    x = net.linear(net.input("input", 4, 6), "a", 6, 4)
    y = net.op("MatMul", x, net.op(op, x))
    net.out(net.linear(net.linear(y, "b", 4, 5), "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1)])


@case("RandomNormal", "RandomUniform", examples=2)
def noise(d: Draw, op: str) -> Built:
    """Noise of a fixed shape, times zero: as wide as the tokens, beside the channels."""
    net = Net(d)
    x = net.linear(net.input("input", "N", 4, 6), "a", 6, 5)
    y = net.op("Add", x, net.op("Mul", net.op(op, shape=[4, 1]), net.real(0.0)))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=True)


@case("NonZero", examples=2)
def non_zero(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "tokens")
    at = net.op(op, net.op("Relu", net.linear("input", "b", 6, 4)))
    net.out(at, TensorProto.INT64)
    m.close(m.x)
    return net.done(m.made, m.used, frozen=[("b.weight", 1)])


# cutting and joining


@case("Gather", examples=4)
def embedding(d: Draw, op: str) -> Built:
    net = Net(d)
    c = d.int(3, 6)
    ids = net.input("ids", "N", "T", ids=9)
    x = net.op(op, net.weight("a.weight", 9, c, scale=1.0), ids, axis=d.pick(0, -2, None))
    net.out(net.linear(net.op("Relu", x), "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), frozen=[("a.weight", 0)], exact=True)


@case("Gather", examples=14)
def gather(d: Draw, op: str) -> Built:
    """Constant indices on the channel axis: lists, permutations, negative and repeated ones."""
    net = Net(d, d.pick(11, 13))
    m = any_mid(net, c=d.int(5, 6))
    form = d.pick("head", "permutation", "negative", "repeated", "stride", "reverse")
    n = m.c
    indices = {
        "head": [0, 1, 2], "permutation": [2, 0, 4, 1, 3, *range(5, n)], "negative": [-1, -2, 0, 1], "repeated": [0, 1, 0, 1, 2],
        "stride": list(range(0, n, 2)), "reverse": list(range(n))[::-1],
    }[form]  # fmt: skip
    y = net.op(op, m.x, net.const(indices, d.pick(np.int64, np.int32)), axis=d.pick(m.axis, m.axis - m.rank))
    m.close(net.op("Relu", y), len(indices))
    return net.done(m.made, m.used, groups=1, exact=True) if form == "head" else net.done(groups=0)


@case("Gather", examples=3)
def gather_one_token(d: Draw, op: str) -> Built:
    """The class token: x[:, 0] of [N, T, C]."""
    net = Net(d)
    m = any_mid(net, "tokens")
    y = net.op(op, m.x, net.const(d.pick(0, -1)), axis=1)
    net.out(net.op("Gemm", y, net.init("z.weight", net.matrix(m.c, 3))))
    return net.done(m.made, ("z.weight", 0), exact=True)


@case("Concat", examples=8)
def concat(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 13))
    m = any_mid(net)
    form = d.pick("two", "twice", "token", "constant")
    axis = d.pick(m.axis, m.axis - m.rank) if net.opset >= 11 else m.axis
    if form == "two":
        m.close(net.op(op, m.x, _produce(net, m.kind, "b", 4, "input"), axis=axis), m.c + 4)
        return net.done(m.made, ("b.weight", m.made[1]), m.used, groups=2, exact=True)
    if form == "twice":
        return m.end(net.op(op, m.x, net.op("Relu", m.x), axis=axis), 2 * m.c, exact=True)
    if form == "token" and m.kind == "tokens":  # a class token in front
        token = net.weight("token", 1, 1, m.c)
        cls = net.op("Expand", token, net.op("Concat", net.size(m.x, 0), net.const([1, m.c]), axis=0))
        m.close(net.op(op, cls, m.x, axis=1))
        return net.done(m.made, ("token", 2), m.used, exact=True)
    ones = net.op(
        "Sigmoid", net.op("Slice", m.x, net.const([0]), net.const([2]), net.const([m.axis])) if net.opset >= 10 else m.x
    )
    return m.end(net.op(op, m.x, ones, axis=axis), m.c + (2 if net.opset >= 10 else m.c))


@case("Expand", examples=4)
def class_token(d: Draw, op: str) -> Built:
    """A class token in front of the others, for a batch that is read when the model runs; Where came with opset 9."""
    net = Net(d, d.pick(8, 9, 13))
    m = any_mid(net, "tokens")
    width = d.pick(lambda: net.const([m.c]), lambda: net.size(m.x, 2))()
    target = net.op("Concat", net.size(m.x, 0), net.const([1]), width, axis=0)
    cls = net.op(op, net.weight("token", 1, 1, m.c), target)
    m.close(net.op("Concat", cls, m.x, axis=1))
    return net.done(m.made, ("token", 2), m.used, exact=True)


@case("Concat", examples=4)
def dense_block(d: Draw, op: str) -> Built:
    net = Net(d)
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (4, 3, 3, 3))
    features = [x]
    for i in range(2):
        joined = net.op(op, *features, axis=1) if len(features) > 1 else x
        n = 4 + 3 * i
        joined = net.op(
            "BatchNormalization", joined, *(net.weight(f"bn{i}.{k}", n, offset=1.0, scale=0.1) for k in "sbmv")
        )
        features.append(net.conv(net.op("Relu", joined), f"b{i}", (3, n, 3, 3), bias=d.flag()))
    net.out(net.conv(net.op(op, *features, axis=1), "z", (2, 10, 1, 1)))
    return net.done(
        ("a.weight", 0), ("b0.weight", 0), ("b1.weight", 0), ("bn1.s", 0), ("z.weight", 1), groups=3, exact=True
    )


@case("Split", examples=10)
def split(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 13, 18))
    m = any_mid(net, c=d.pick(6, 8))
    form = d.pick("equal", "sizes", "gate")
    axis = d.pick(m.axis, m.axis - m.rank) if net.opset >= 11 else m.axis
    half = m.c // 2
    sizes = [2, m.c - 2] if form == "sizes" else [half, half]

    def cut(x: str) -> list[str]:
        if form != "sizes" and d.flag():
            return net.ops(op, x, outs=2, axis=axis, num_outputs=2 if net.opset >= 18 else None)
        if net.opset >= 13:
            return net.ops(op, x, net.const(sizes), outs=2, axis=axis)
        return net.ops(op, x, outs=2, axis=axis, split=sizes)

    a, b = cut(m.x)
    if form == "gate":  # a gated linear unit: the halves are tied
        m.close(net.op("Mul", a, net.op("Sigmoid", b)), half)
        return net.done(m.made, m.used, exact=True)
    y = net.op("Concat", net.op("Relu", b), a, axis=axis)
    m.close(y)
    return net.done(m.made, m.used, exact=True)


@case("Slice", examples=12)
def slice_(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 10, 13))
    m = any_mid(net, c=d.pick(6, 8))
    n = m.c
    start, end, step = d.pick(
        (0, 3, 1), (2, n, 1), (1, 2**31 - 1, 1), (-3, n, 1), (-4, -1, 1), (0, 2**63 - 1, 2), (1, n, 2), (0, n, 1)
    )
    rest = d.flag()
    axis = d.pick(m.axis, m.axis - m.rank)

    def cut(a: int, b: int, s: int) -> str:
        if net.opset < 10:
            return net.op(op, m.x, starts=[a], ends=[b], axes=[m.axis])
        more = [net.const([axis])] + ([net.const([s])] if s != 1 or d.flag() else [])
        return net.op(op, m.x, net.const([a]), net.const([b]), *more)

    step = 1 if net.opset < 10 else step
    y = cut(start, end, step)
    size = len(range(n)[slice(start, end, step)])
    if rest:
        y = net.op("Concat", y, net.op("Relu", m.x), axis=m.axis)
        size += n
    return m.end(y, size)


@case("Slice", examples=4)
def slice_two_axes(d: Draw, op: str) -> Built:
    """Channels and space cut by one node; the picture's bounds are negative."""
    net = Net(d, d.pick(9, 13))
    m = any_mid(net, "image", c=6)
    starts, ends, axes = [1, 2, 1], [-1, 5, -1], [2, 1, 3]
    if net.opset < 10:
        y = net.op(op, m.x, starts=starts, ends=ends, axes=axes)
    else:
        y = net.op(op, m.x, net.const(starts), net.const(ends), net.const(axes))
    return m.end(y, 3, exact=True)


@case("Pad", examples=8)
def pad(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 13, 18))
    m = any_mid(net, "image", "tokens")
    lo, hi = d.pick((0, 0), (1, 2), (2, 0))
    form = d.pick("constant", "reflect")
    pads = [0] * (2 * m.rank)
    if form == "reflect" or not (lo or hi):
        lo = hi = 0
        where = [2, 3] if m.kind == "image" else [1]
        for a in where:
            pads[a] = pads[m.rank + a] = 1
    else:
        pads[m.axis], pads[m.rank + m.axis] = lo, hi
    if net.opset < 11:
        y = net.op(op, m.x, pads=pads, mode=form)
    elif net.opset >= 18 and (lo or hi):
        y = net.op(op, m.x, net.const([lo, hi]), "", net.const([d.pick(m.axis, m.axis - m.rank)]), mode=form)
    else:
        y = net.op(op, m.x, net.const(pads), *([net.real(0.0)] if d.flag() else []), mode=form)
    m.close(y, m.c + lo + hi)
    return net.done(m.made, m.used, exact=True)


@case("Pad", examples=5)
def parameter_free_shortcut(d: Draw, op: str) -> Built:
    """ResNet option A: the shortcut is padded with zero channels and added."""
    net = Net(d, 13)
    m = any_mid(net, "image", c=4)
    y = net.conv(net.op("Relu", m.x), "b", (8, 4, 3, 3), strides=[2, 2])
    s = net.op("Slice", m.x, net.const([0, 0]), net.const([2**31, 2**31]), net.const([2, 3]), net.const([2, 2]))
    lo = d.pick(2, 0, 4)
    s = net.op(op, s, net.const([0, lo, 0, 0, 0, 4 - lo, 0, 0]))
    m.close(net.op("Add", y, s), 8)
    return net.done(m.made, ("b.weight", 0), m.used, exact=True)


@case("Tile", examples=6)
def tile(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image", "tokens", c=d.int(2, 3))
    form = d.pick("channels", "others", "grow")
    repeats = [1] * m.rank
    if form == "channels":
        repeats[m.axis] = 2
        return m.end(net.op(op, m.x, net.const(repeats)), 2 * m.c, exact=True)
    if form == "others":
        repeats[1 if m.kind == "tokens" else 2] = 2
        return m.end(net.op(op, m.x, net.const(repeats)), exact=True)
    mean = net.mean(m.again("b"), [m.axis])
    repeats[m.axis] = m.c
    return m.end(net.op("Add", m.x, net.op(op, mean, net.const(repeats))))


@case("Expand", examples=8)
def expand(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 13))
    m = any_mid(net, "image", "tokens")
    form = d.pick("gate", "constant", "shape", "last")
    if form == "gate":
        g = net.mean(m.again("b"), [a for a in range(1, m.rank) if a != m.axis])
        return m.end(net.op("Mul", m.x, net.op(op, g, net.op("Shape", m.x))), exact=True)
    if form == "constant":
        shape = [1] * m.rank
        shape[m.axis] = m.c
        return m.end(net.op("Add", m.x, net.op(op, net.weight("p", *([1] * m.rank)), net.const(shape))), exact=True)
    if form == "shape":
        return m.end(net.op("Add", m.x, net.op(op, net.weight("p", *m.column()), net.op("Shape", m.x))), exact=True)
    one = net.mean(m.again("b"), [m.axis])
    return m.end(net.op("Add", m.x, net.op(op, one, net.op("Shape", m.x))))


@case("ConstantOfShape", examples=6)
def constant_of_shape(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 13))
    m = any_mid(net, "image", "tokens")
    form = d.pick("add", "concat", "literal")
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])
    if form == "literal":
        y = net.op("Add", m.x, net.op(op, net.const(list(m.column())), value=value))
        return m.end(y, exact=True)
    filled = net.op(op, net.op("Shape", m.x), value=value)
    if form == "add":
        return m.end(net.op("Add", m.x, filled), exact=True)
    return m.end(net.op("Concat", m.x, filled, axis=m.axis), 2 * m.c)


# attention


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


@case("MatMul", examples=10)
def attention_of_three_projections(d: Draw, op: str) -> Built:
    net = Net(d)
    h, e = d.int(2, 3), d.int(2, 4)
    x = net.input("input", "N", "T", 6)
    q, k, v = (_split_heads(net, net.linear(x, n, 6, h * e), h, e) for n in "qkv")
    net.out(net.linear(_merge_heads(net, _attend(net, q, k, v, e), h * e), "z", h * e, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("q.bias", 0), ("z.weight", 0), groups=3)


@case("MatMul", examples=10)
def attention_of_one_projection(d: Draw, op: str) -> Built:
    """Fused qkv: [N, T, 3 h d] -> (3 h d) by Reshape, Transpose and Gather, Split or Slice; or Split first."""
    net = Net(d, 17)
    h, e = d.int(2, 3), d.int(2, 4)
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, 3 * h * e, bias=d.flag())
    form = d.pick("gather", "unbind", "split", "slice")
    if form in ("gather", "unbind"):
        target = d.pick((0, 0, 3, h, e), ("0", "1", 3, h, e), ("0", "1", 3, h, -1), ("0", -1, 3, h, e))
        y = net.op("Transpose", net.reshape(x, *target), perm=[2, 0, 3, 1, 4])
        if form == "gather":
            q, k, v = (net.op("Gather", y, net.const(i), axis=0) for i in range(3))
        else:
            q, k, v = (net.squeeze(p, 0) for p in net.ops("Split", y, outs=3, axis=0))
    else:
        if form == "split":
            parts = net.ops("Split", x, *d.pick((), (net.const([h * e] * 3),)), outs=3, axis=-1)
        else:
            n = h * e
            parts = [net.op("Slice", x, net.const([i * n]), net.const([(i + 1) * n]), net.const([2])) for i in range(3)]
        q, k, v = (_split_heads(net, p, h, e) for p in parts)
    net.out(net.linear(_merge_heads(net, _attend(net, q, k, v, e), h * e), "z", h * e, 5))
    return net.done(("a.weight", 1), ("z.weight", 0), groups=2)


@case("Expand", examples=8)
def grouped_query_attention(d: Draw, op: str) -> Built:
    net = Net(d)
    kv, r, e = 2, d.int(2, 3), d.int(2, 3)
    x = net.input("input", "N", "T", 6)
    q = _split_heads(net, net.linear(x, "q", 6, kv * r * e), kv * r, e)
    k, v = (_split_heads(net, net.linear(x, n, 6, kv * e), kv, e) for n in "kv")

    def repeat(t: str) -> str:
        n, s = net.size(t, 0), net.size(t, 2)
        y = net.unsqueeze(t, 2)
        y = net.op(op, y, net.op("Concat", n, net.const([kv, r]), s, net.const([e]), axis=0))
        return net.op("Reshape", y, net.op("Concat", n, net.const([kv * r]), s, net.const([e]), axis=0))

    y = _merge_heads(net, _attend(net, q, repeat(k), repeat(v), e), kv * r * e)
    net.out(net.linear(y, "z", kv * r * e, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("Concat", examples=4)
def rotary_embedding(d: Draw, op: str) -> Built:
    """rotate_half: concat(-x[e/2:], x[:e/2]) * sin + x * cos; sin and cos differ by feature, heads are free."""
    net = Net(d)
    h, e = d.int(2, 3), 4
    x = net.input("input", "N", 7, 6)
    cos, sin = net.weight("cos", 7, e), net.weight("sin", 7, e)

    def rotate(t: str) -> str:
        a, b = (net.op("Slice", t, net.const([i]), net.const([j]), net.const([3])) for i, j in ((0, 2), (2, 2**31)))
        turned = net.op(op, net.op("Neg", b), a, axis=-1)
        return net.op("Add", net.op("Mul", t, cos), net.op("Mul", turned, sin))

    q, k, v = (_split_heads(net, net.linear(x, n, 6, h * e), h, e) for n in "qkv")
    net.out(net.linear(_merge_heads(net, _attend(net, rotate(q), rotate(k), v, e), h * e), "z", h * e, 5))
    return net.done(("q.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=2)


@case("Attention", examples=8)
def attention_operator(d: Draw, op: str) -> Built:
    net = Net(d, 23)
    kv, r = d.pick((2, 1), (3, 1), (2, 2))
    e, f = d.int(2, 3), d.int(2, 3)
    x = net.input("input", "N", "T", 6)
    q, k, v = (net.linear(x, n, 6, w) for n, w in (("q", kv * r * e), ("k", kv * e), ("v", kv * f)))
    scale = 0.4 if d.flag() else None
    if d.flag():
        y = net.op(op, q, k, v, q_num_heads=kv * r, kv_num_heads=kv, is_causal=d.int(0, 1), scale=scale)
    else:
        q = net.op("Transpose", net.reshape(q, 0, 0, kv * r, e), perm=[0, 2, 1, 3])
        k = net.op("Transpose", net.reshape(k, 0, 0, kv, e), perm=[0, 2, 1, 3])
        v = net.op("Transpose", net.reshape(v, 0, 0, kv, f), perm=[0, 2, 1, 3])
        y = net.op("Transpose", net.op(op, q, k, v, is_causal=d.int(0, 1), scale=scale), perm=[0, 2, 1, 3])
        y = net.reshape(y, 0, 0, -1)
    net.out(net.linear(y, "z", kv * r * f, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("MultiHeadAttention", domain=MS, examples=6)
def ms_multi_head_attention(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    h, e, f = d.int(2, 3), d.pick(2, 4), d.pick(2, 4)
    x = net.input("input", "N", "T", 6)
    q, k, v = (net.linear(x, n, 6, w, bias=False) for n, w in (("q", h * e), ("k", h * e), ("v", h * f)))
    bias = [net.weight("bias", h * (2 * e + f))] if d.flag() else []
    y = net.op(op, q, k, v, *bias, domain=MS, num_heads=h, scale=0.4 if d.flag() else None)
    net.out(net.linear(y, "z", h * f, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("Attention", domain=MS, examples=6)
def ms_attention(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", c=6)
    h, e = d.int(2, 3), d.pick(2, 4)
    n = h * e
    y = net.op(op, m.x, net.init("w", net.matrix(6, 3 * n)), net.weight("b", 3 * n), domain=MS, num_heads=h,
               qkv_hidden_sizes=[n, n, n] if d.flag() else None)  # fmt: skip
    m.close(y, n)
    return net.done(m.made, ("w", 0), ("w", 1), ("b", 0), m.used, groups=3)


# idioms that no single operator shows


@case("Mul", examples=5)
def squeeze_and_excite(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 18))
    m = any_mid(net, "image")
    g = net.op("GlobalAveragePool", m.x) if d.flag() else net.mean(m.x, [2, 3])
    g = net.op("Relu", net.conv(g, "s", (4, m.c, 1, 1)))
    g = net.op(d.pick("Sigmoid", "HardSigmoid"), net.conv(g, "e", (m.c, 4, 1, 1)))
    m.close(net.op(op, m.x, g))
    return net.done(m.made, ("s.weight", 0), ("s.weight", 1), ("e.weight", 0), m.used, groups=2, exact=True)


@case("ReduceMean", examples=4)
def layer_norm_decomposed(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(13, 18))
    m = any_mid(net, "tokens", "image")
    centred = net.op("Sub", m.x, net.mean(m.x, [d.pick(m.axis, m.axis - m.rank)]))
    square = net.op("Pow", centred, net.real(2.0)) if d.flag() else net.op("Mul", centred, centred)
    var = net.mean(square, [m.axis])
    y = net.op("Div", centred, net.op("Sqrt", net.op("Add", var, net.real(1e-5))))
    y = net.op("Add", net.op("Mul", y, net.weight("ln.scale", *m.column())), net.weight("ln.bias", *m.column()))
    m.close(y)
    return net.done(m.made, ("ln.scale", 0), ("ln.bias", 0), m.used, exact=False)


@case("ReduceMean", examples=4)
def group_norm_decomposed(d: Draw, op: str) -> Built:
    """GroupNorm out of Reshape, ReduceMean and arithmetic."""
    net = Net(d, d.pick(13, 18))
    m = any_mid(net, "image", c=6)
    target = d.pick((0, 2, -1), ("0", 2, -1), (0, 2, 3, -1))
    y = net.reshape(m.x, *target)
    axes = list(range(2, len(target)))
    y = net.op("Sub", y, net.mean(y, axes))
    y = net.op("Div", y, net.op("Sqrt", net.op("Add", net.mean(net.op("Mul", y, y), axes), net.real(1e-5))))
    y = net.op("Reshape", y, net.op("Shape", m.x))
    y = net.op("Add", net.op("Mul", y, net.weight("gn.scale", *m.column())), net.weight("gn.bias", 1, *m.column()))
    m.close(y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 1), m.used)


@case("Add", examples=6)
def residual_stream(d: Draw, op: str) -> Built:
    """Two blocks on one width; equal biases are one shared initializer."""
    net = Net(d)
    m = any_mid(net, "tokens", "image")
    shared = net.weight("shared.bias", 4)
    x = m.x
    for i in range(2):
        if m.kind == "tokens":
            y = net.op("Add", net.op("MatMul", x, net.init(f"up{i}", net.matrix(m.c, 4))), shared)
            y = net.op("MatMul", net.op("Relu", y), net.init(f"down{i}", net.matrix(4, m.c)))
        else:
            y = net.op("Conv", x, net.weight(f"up{i}", 4, m.c, 1, 1), shared)
            y = net.op("Conv", net.op("Relu", y), net.weight(f"down{i}", m.c, 4, 1, 1))
        x = net.op(op, x, y) if d.flag() else net.op(op, y, x)
    m.close(x)
    made, used = (1, 0) if m.kind == "tokens" else (0, 1)
    return net.done(
        m.made, ("up0", made), ("up1", made), ("down0", used), ("shared.bias", 0), m.used, groups=3, exact=True
    )


@case("Identity", "Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Concat", "Slice", "Mul", examples=4)
def weights_behind(d: Draw, op: str) -> Built:
    """The weights of two products come through an operator, as exporters write them."""
    net = Net(d)
    c = d.pick(4, 6)

    def behind(name: str, i: int, o: int) -> str:
        w = net.matrix(i, o)
        if op == "Transpose":
            return net.op(op, net.init(name, w.T), perm=d.pick([1, 0], None))
        if op == "Cast":
            return net.op(op, net.init(name, w.astype(np.float64)), to=TensorProto.FLOAT)
        if op == "Reshape":
            return net.op(op, net.init(name, w.reshape(i, o, 1)), net.const([i, o]))
        if op == "Unsqueeze":
            return net.op("Squeeze", net.op(op, net.init(name, w), net.const([0])), net.const([0]))
        if op == "Squeeze":
            return net.op(op, net.init(name, w[None]), net.const([0]))
        if op == "Concat":
            k = i // 2
            return net.op(op, net.init(name, w[:k]), net.init(f"{name}.rest", w[k:]), axis=0)
        if op == "Slice":
            return net.op(op, net.init(name, np.concatenate([w, w])), net.const([0]), net.const([i]), net.const([0]))
        if op == "Mul":
            return net.op(op, net.init(name, w), net.real(0.5))
        return net.op(op, net.init(name, w))

    x = net.op("Relu", net.op("MatMul", net.input("input", "N", "T", 6), behind("a.weight", 6, c)))
    net.out(net.op("MatMul", x, behind("z.weight", c, 4)))
    t = op == "Transpose"
    z = 2 if op == "Squeeze" else 1
    prunable = [("a.weight", 0 if t else z), ("z.weight", 1 if t else z - 1)]
    return net.done(*prunable)


@case("Conv", "MatMul", "Gemm", examples=3)
def weights_kept_elsewhere(d: Draw, op: str) -> Built:
    """Weights in Constant nodes, or initializers that are also graph inputs."""
    net = Net(d, 11)
    kind = {"Conv": "image", "MatMul": "tokens", "Gemm": "flat"}[op]
    m = any_mid(net, kind)
    built = m.end(net.op("Relu", m.x), exact=True)
    graph = built.proto.graph
    if d.flag():
        held = list(graph.initializer)
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in held)
    else:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer] + list(graph.node)
        del graph.initializer[:]
        del graph.node[:]
        graph.node.extend(nodes)
    return built


@case("Conv", "MatMul", "Gemm", examples=3)
def element_types(d: Draw, op: str) -> Built:
    net = Net(d, 13, np.float16 if op == "Conv" else d.pick(np.float16, np.float64))  # no double Conv in ONNX Runtime
    m = any_mid(net, {"Conv": "image", "MatMul": "tokens", "Gemm": "flat"}[op])
    return m.end(net.op("Relu", m.x), exact=True)


@case("MatMul", examples=4)
def one_weight_used_twice(d: Draw, op: str) -> Built:
    """Siamese branches: one weight, two inputs; its consumers are shared or not."""
    net = Net(d)
    c = d.int(3, 5)
    w, b = net.init("a.weight", net.matrix(6, c)), net.weight("a.bias", c)
    one, two = (net.op("Relu", net.op("Add", net.op(op, net.input(n, "N", "T", 6), w), b)) for n in ("input", "other"))
    z = net.init("z.weight", net.matrix(c, 3))
    net.out(net.op(op, one, z))
    net.out(net.op(op, two, z if d.flag() else net.init("y.weight", net.matrix(c, 3))))
    return net.done(("a.weight", 1), ("a.bias", 0), ("z.weight", 0), exact=True)


@case("Gather", examples=3)
def tied_embedding(d: Draw, op: str) -> Built:
    """The embedding table is also the output's projection."""
    net = Net(d)
    c = d.int(3, 6)
    table = net.weight("table", 9, c, scale=1.0)
    x = net.op(op, table, net.input("ids", "N", "T", ids=9), axis=0)
    y = net.op("Add", x, net.linear(net.op("Relu", net.linear(x, "a", c, 4)), "b", 4, c))
    y = net.op("LayerNormalization", y, net.weight("ln.scale", c), axis=-1)
    net.out(net.op("MatMul", y, net.op("Transpose", table, perm=[1, 0])))
    return net.done(("table", 1), ("a.weight", 0), ("b.weight", 1), ("ln.scale", 0), groups=2)


@case("BatchNormalization", examples=3)
def equal_statistics_shared(d: Draw, op: str) -> Built:
    """Two norms whose means and variances are one initializer, as exporters share equal vectors."""
    net = Net(d)
    x = net.input("input", "N", 3, "H", "W")
    mean, var = net.weight("mean", 4), net.init("var", np.abs(net.rng.standard_normal(4)).astype(F32) + 0.5)
    for i in range(2):
        x = net.conv(x, f"c{i}", (4, 3 if i == 0 else 4, 3, 3), bias=False)
        x = net.op("Relu", net.op(op, x, net.weight(f"s{i}", 4), mean, mean, var))
    net.out(net.conv(x, "z", (2, 4, 1, 1)))
    return net.done(("c0.weight", 0), ("c1.weight", 0), ("mean", 0), ("var", 0), groups=2, exact=True)


@case("Conv", "ConvTranspose", examples=3)
def kernel_of_another_branch(d: Draw, op: str) -> Built:
    """A kernel that the model computes (dynamic filters): no weight consumes its inputs, so they mix."""
    net = Net(d)
    m = any_mid(net, "image", c=d.int(3, 4))
    o = d.int(2, 4)
    code = net.input("code", 1, 5)
    shape = (o, m.c, 3, 3) if op == "Conv" else (m.c, o, 3, 3)
    kernel = net.reshape(net.gemm(code, "k", o * m.c * 9, 5), *shape)
    m.close(net.op(op, m.x, kernel), o)
    return net.done(m.made, ("k.weight", 0), m.used)


@case("Reshape", examples=4)
def batch_folded(d: Draw, op: str) -> Built:
    """Every channel a picture of its own, filtered by one kernel (a blur), and back."""
    net = Net(d)
    m = any_mid(net, "image")
    if d.flag():
        y = net.reshape(m.x, -1, 1, "2", "3", source=m.x)
    else:
        pictures = net.op("Mul", net.size(m.x, 0), net.size(m.x, 1))
        target = net.op("Concat", pictures, net.size(m.x, 2), net.size(m.x, 3), axis=0)
        y = net.unsqueeze(net.op("Reshape", m.x, target), 1)
    y = net.conv(y, "blur", (1, 1, 3, 3))
    n, c = d.pick(("0", m.c), (-1, m.c), ("0", -1), ("0", "1"))
    m.close(net.reshape(y, n, c, "2", "3", source=m.x))
    return net.done(m.made, m.used)


@case("Reshape", examples=5)
def gemm_of_tokens(d: Draw, op: str) -> Built:
    """[N, T, C] -> [N T, C] -> Gemm -> [N, T, O], as older exporters write a linear layer."""
    net = Net(d)
    m = any_mid(net, "tokens")
    o = d.int(3, 5)
    y = net.gemm(net.reshape(m.x, -1, m.c), "b", o, m.c)
    back = d.pick(("0", "1", o), ("0", -1, o), ("0", "1", -1))
    y = net.reshape(net.op("Relu", y), *back, source=m.x)
    m.close(y, o)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2, exact=True)


@case("Reshape", examples=4)
def windows(d: Draw, op: str) -> Built:
    """Swin: partition into windows of 2 x 2, attend inside, put them back."""
    net = Net(d)
    c, h = 4, 2
    x = net.op("Transpose", net.conv(net.input("input", "N", 3, 4, 6), "a", (c, 3, 3, 3)), perm=[0, 2, 3, 1])
    y = net.op("Transpose", net.reshape(x, d.pick(-1, "0"), 2, 2, 3, 2, c), perm=[0, 1, 3, 2, 4, 5])
    y = net.reshape(y, -1, 4, c)
    q = net.linear(y, "qkv", c, 3 * h * 3)
    q = net.op("Transpose", net.reshape(q, d.pick(0, -1, "0"), 4, 3, h, 3), perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", q, net.const(i), axis=0) for i in range(3))
    s = net.op("MatMul", net.op("Mul", q, net.real(0.5)), net.op("Transpose", k, perm=[0, 1, 3, 2]))
    table = net.op("Gather", net.weight("table", 9, h), net.const(net.rng.integers(0, 9, 16)), axis=0)
    table = net.op("Transpose", net.reshape(table, 4, 4, d.pick(h, -1)), perm=[2, 0, 1])
    s = net.op("Softmax", net.op("Add", s, net.unsqueeze(table, 0)), axis=-1)
    y = net.reshape(net.op("Transpose", net.op("MatMul", s, v), perm=[0, 2, 1, 3]), d.pick(0, -1, "0"), 4, h * 3)
    y = net.linear(y, "p", h * 3, c)
    y = net.op("Transpose", net.reshape(y, -1, 2, 3, 2, 2, c), perm=[0, 1, 3, 2, 4, 5])
    y = net.op("Add", x, net.reshape(y, -1, 4, 6, c))
    net.out(net.linear(y, "z", c, 3))
    return net.done(
        ("a.weight", 0), ("qkv.weight", 1), ("table", 1), ("p.weight", 0), ("p.weight", 1), ("z.weight", 0), groups=4
    )


@case("Slice", examples=3)
def patch_merging(d: Draw, op: str) -> Built:
    """Swin: every second row and column, four of them side by side."""
    net = Net(d)
    c = d.int(3, 4)
    x = net.op("Transpose", net.conv(net.input("input", "N", 3, 4, 6), "a", (c, 3, 3, 3)), perm=[0, 2, 3, 1])
    parts = [
        net.op(op, x, net.const([i, j]), net.const([2**31, 2**31]), net.const([1, 2]), net.const([2, 2]))
        for j in (0, 1) for i in (0, 1)
    ]  # fmt: skip
    y = net.reshape(net.op("Concat", *parts, axis=-1), d.pick(0, -1), 6, 4 * c)
    net.out(net.linear(y, "z", 4 * c, 3))
    return net.done(("a.weight", 0), ("z.weight", 0), exact=True)


@case("Reshape", examples=5)
def clashing_heads(d: Draw, op: str) -> Built:
    """One axis seen as heads in two ways, which nest or do not."""
    net = Net(d)
    one, two = d.pick(((2, 6), (4, 3)), ((3, 4), (2, 6)), ((4, 3), (2, 6)), ((6, 2), (6, 2)))
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, 12)
    y = net.reshape(net.op("Mul", net.reshape(x, 0, 0, *one), net.weight("p", one[0], 1)), 0, 0, 12)
    y = net.reshape(net.op("Mul", net.reshape(y, 0, 0, *two), net.weight("q", two[0], 1)), 0, 0, 12)
    y = net.op("Relu", net.linear(y, "b", 12, 4))
    net.out(net.linear(y, "z", 4, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), exact=True)


@case("Concat", examples=5)
def concat_then_heads(d: Draw, op: str) -> Built:
    """Heads of a concatenation; the seam lies between heads or inside one."""
    net = Net(d)
    i, j, h = d.pick((4, 4, 4), (4, 4, 2), (3, 5, 2), (2, 6, 4), (3, 5, 4))
    x = net.input("input", "N", "T", 6)
    y = net.op(op, net.linear(x, "a", 6, i), net.linear(x, "b", 6, j), axis=-1)
    y = net.op("Mul", net.reshape(y, 0, 0, h, 8 // h), net.weight("p", h, 1))
    y = net.linear(net.reshape(y, 0, 0, 8), "y", 8, 4)
    net.out(net.linear(y, "z", 4, 3))
    return net.done(("y.weight", 1), ("z.weight", 0), exact=True)


@case("Reshape", "Split", "Slice", examples=4)
def one_constant_for_many(d: Draw, op: str) -> Built:
    """Exporters share equal constants: two branches of equal sizes read one and are pruned apart."""
    net = Net(d)
    x = net.input("input", "N", "T", 6)
    if op == "Reshape":
        to, back = net.const([0, 0, 2, 3]), net.const([0, 0, 6])
    sizes, zero, end, axis = net.const([2, 4]), net.const([0]), net.const([4]), net.const([-1])
    for i in range(2):
        y = net.linear(x, f"a{i}", 6, 6)
        if op == "Reshape":
            y = net.op(op, net.op("Mul", net.op(op, y, to), net.weight(f"p{i}", 2, 1)), back)
        elif op == "Split":
            one, two = net.ops(op, y, sizes, outs=2, axis=-1)
            y = net.op("Concat", net.op("Relu", two), one, axis=-1)
        else:
            y = net.op("Concat", net.op(op, y, zero, end, axis), net.op("Relu", y), axis=-1)
        net.out(net.linear(y, f"z{i}", 10 if op == "Slice" else 6, 3))
    return net.done(("a0.weight", 1), ("a1.weight", 1), ("z0.weight", 0), ("z1.weight", 0), groups=2, exact=True)


@case("Gather", examples=4)
def gather_one_channel(d: Draw, op: str) -> Built:
    """One channel is read by its number and stays; the others are free."""
    net = Net(d, 13)
    m = any_mid(net, c=5)
    i = d.pick(0, 2, -1)
    one = net.unsqueeze(net.op(op, m.x, net.const(i), axis=m.axis), m.axis)
    return m.end(net.op("Mul", m.x, net.op("Sigmoid", one)))


@case("Slice", examples=4)
def slice_backwards(d: Draw, op: str) -> Built:
    """A step below zero: the order is turned around; pruned or not, the laws hold."""
    net = Net(d, 13)
    m = any_mid(net, c=5)
    y = net.op(op, m.x, net.const([-1]), net.const([-(2**31)]), net.const([m.axis]), net.const([d.pick(-1, -2)]))
    y = net.op("Add", net.mean(y, [m.axis]), net.real(1.0))
    m.close(net.op("Mul", m.again("b"), y))
    return net.done(("b.weight", m.made[1]), m.used)


@case("Pad", examples=4)
def pad_of_another_kind(d: Draw, op: str) -> Built:
    """Cropping or reflecting channels: they stay, the next layer's go."""
    net = Net(d, 13)
    m = any_mid(net, "image", "tokens", c=5)
    mode, lo, hi = d.pick(("constant", -1, 0), ("constant", -1, 1), ("reflect", 1, 1), ("edge", 2, 0))
    pads = [0] * (2 * m.rank)
    pads[m.axis], pads[m.rank + m.axis] = lo, hi
    y = net.op(op, m.x, net.const(pads), *([net.real(0.5)] if mode == "constant" else []), mode=mode)
    n = m.c + lo + hi
    m.close(net.conv(y, "b", (4, n, 1, 1)) if m.kind == "image" else net.linear(y, "b", n, 4), 4)
    return net.done(m.used)


@case("Split", examples=3)
def uneven_split(d: Draw, op: str) -> Built:
    net = Net(d, 18)
    m = any_mid(net, c=7)
    a, b = net.ops(op, m.x, outs=2, axis=m.axis, num_outputs=2)
    m.close(net.op("Concat", b, a, net.op("Neg", b), axis=m.axis), 10)
    return net.done(m.made, m.used, groups=2, exact=True)


@case("MatMul", examples=4)
def non_local_block(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "image", c=4)
    t, p, g = (net.reshape(net.conv(m.x, n, (3, m.c, 1, 1)), 0, 3, -1) for n in "tpg")
    a = net.op("Softmax", net.op(op, net.op("Transpose", t, perm=[0, 2, 1]), p), axis=-1)
    y = net.op("Transpose", net.op(op, a, net.op("Transpose", g, perm=[0, 2, 1])), perm=[0, 2, 1])
    y = net.op("Reshape", y, net.op("Concat", net.op("Slice", net.op("Shape", g), net.const([0]), net.const([2])), net.op(
        "Slice", net.op("Shape", m.x), net.const([2]), net.const([4])), axis=0))  # fmt: skip
    m.close(net.op("Add", m.x, net.conv(y, "o", (m.c, 3, 1, 1))))
    return net.done(m.made, ("t.weight", 0), ("p.weight", 0), ("g.weight", 0), ("o.weight", 1), m.used, groups=3)


@case("MatMul", examples=4)
def weight_with_a_batch_of_one(d: Draw, op: str) -> Built:
    net = Net(d)
    c = d.int(3, 5)
    x = net.input("input", "N", "T", 6)
    y = net.op("Relu", net.op(op, x, net.init("a.weight", net.matrix(6, c)[None])))
    net.out(net.op(op, y, net.init("z.weight", net.matrix(c, 3)[None])))
    return net.done(("a.weight", 2), ("z.weight", 1), exact=True)


@case("Attention", examples=6)
def attention_with_a_cache(d: Draw, op: str) -> Built:
    """A mask for each head; past keys and values come in and go out, which fixes their heads and widths."""
    net = Net(d, 23)
    h, e = 2, 3
    x = net.input("input", "N", 4, 6)
    q, k, v = (net.linear(x, n, 6, h * e) for n in "qkv")
    mask = net.weight("mask", 1, h, 4, 4)
    if d.flag():
        y = net.op(op, q, k, v, mask, q_num_heads=h, kv_num_heads=h)
        net.out(net.linear(y, "z", h * e, 5))
        return net.done(("q.weight", 1), ("v.weight", 1), ("mask", 1), ("z.weight", 0), groups=3)
    past = [net.input(n, "N", h, 2, e) for n in ("past_k", "past_v")]
    y, new_k, new_v = net.ops(op, q, k, v, "", *past, outs=3, q_num_heads=h, kv_num_heads=h)
    net.out(net.linear(net.linear(y, "y", h * e, 4), "z", 4, 5))
    net.out(new_k)
    net.out(new_v)
    return net.done(("y.weight", 1), ("z.weight", 0), frozen=[("q.weight", 1), ("v.weight", 1)])


@case("If", "Loop", examples=3)
def captured(d: Draw, op: str) -> Built:
    """Bodies read an outer value: it is frozen; the rest is not."""
    net = Net(d)
    m = any_mid(net, "tokens")
    made = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    if op == "If":
        bodies = [
            helper.make_graph([helper.make_node(n, [m.x], ["r"])], n, [], made) for n in ("Relu", "Neg")
        ]  # fmt: skip
        cond = net.op("Greater", net.op("ReduceSum", "input", keepdims=0), net.real(0.0))
        y = net.op(op, cond, then_branch=bodies[0], else_branch=bodies[1])
    else:

        def info(name: str, elem: int, shape: list[int] | None) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, elem, shape)

        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["k"]), helper.make_node("Add", ["s", m.x], ["r"])], "body",
            [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("s", TensorProto.FLOAT, None)],
            [info("k", TensorProto.BOOL, []), *made],
        )  # fmt: skip
        y = net.op(op, net.const(2), "", m.x, body=body)
    if declared := d.flag():
        net.declare(y, "N", "T", m.c)
    y = net.linear(net.op("Relu", net.linear(y, "b", m.c, 5)), "c", 5, 4)
    m.close(y, 4)
    prunable = [("b.weight", 1), ("c.weight", 0), ("c.weight", 1), m.used] if declared else []
    return net.done(*prunable, frozen=[m.made], groups=2 if declared else 0)


@case("Relu", examples=3)
def hidden_layer_as_output(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net)
    net.out(net.op(op, m.x))
    y = net.conv(m.x, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(m.x, "b", m.c, 4)
    m.close(net.op(op, y), 4)
    return net.done(("b.weight", 0 if m.kind == "image" else 1), m.used, frozen=[m.made])


@case("Half", domain="local", examples=2)
def local_function(d: Draw, op: str) -> Built:
    """A model with all that a file can hold besides its graph, which an empty plan must keep."""
    net = Net(d, 13)
    m = any_mid(net)
    y = net.op("Half", m.x, domain="local")
    if declared := d.flag():
        net.declare(y, *(m.c if a == m.axis else n for a, n in enumerate(DIMS[m.kind])))
    if m.kind == "flat":
        y = net.gemm(y, "b", 4, m.c)
    else:
        y = net.conv(y, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(y, "b", m.c, 4)
    m.close(net.op("Relu", y), 4)
    nodes = [helper.make_node("Constant", [], ["h"], value_float=0.5), helper.make_node("Mul", ["x", "h"], ["y"])]
    half = helper.make_function("local", "Half", ["x"], ["y"], nodes, [helper.make_opsetid("", 13)])
    made = ("b.weight", 1 if m.kind == "tokens" else 0)
    return net.done(*([made, m.used] if declared else []), functions=[half], frozen=[m.made], groups=int(declared))


@case("Mul", examples=2)
def layer_scale(d: Draw, op: str) -> Built:
    """ConvNeXt: depthwise, to NHWC, norm, two layers, a gamma, back, and the sum."""
    net = Net(d)
    m = any_mid(net, "image", c=4)
    y = net.op("Transpose", net.conv(m.x, "dw", (4, 1, 3, 3), group=4), perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.weight("ln.scale", 4), net.weight("ln.bias", 4))
    y = net.linear(net.op("Relu", net.linear(y, "up", 4, 6)), "down", 6, 4)
    y = net.op("Transpose", net.op(op, net.weight("gamma", 4), y), perm=[0, 3, 1, 2])
    m.close(net.op("Add", y, m.x))
    return net.done(m.made, ("dw.weight", 0), ("up.weight", 0), ("up.weight", 1), ("gamma", 0), m.used, groups=2)


# recurrent layers, integers, and reading by index


@case("LSTM", "GRU", "RNN", examples=6)
def recurrent(d: Draw, op: str) -> Built:
    """Two layers on [T, N, C], one way or both, with initial states and peepholes or without."""
    net = Net(d, d.pick(8, 14, 22))
    h, gates = d.int(2, 4), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    both = d.flag()
    n = 2 if both else 1
    x = net.op("Transpose", net.linear(net.input("input", "N", "T", 6), "a", 6, 5), perm=[1, 0, 2])

    def layer(name: str, x: str, i: int, initial: bool) -> str:
        w, r = net.weight(f"{name}.w", n, gates * h, i, scale=0.5), net.weight(f"{name}.r", n, gates * h, h, scale=0.5)
        ins = [x, w, r, net.weight(f"{name}.b", n, 2 * gates * h) if d.flag() else "", ""]
        if initial:
            shape = net.op("Concat", net.const([n]), net.size(x, 1), net.const([h]), axis=0)
            zeros = net.op("ConstantOfShape", shape, value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.3]))
            ins += [zeros] if op != "LSTM" else [zeros, zeros]
        if op == "LSTM" and d.flag():
            ins += [""] * (7 - len(ins)) + [net.weight(f"{name}.p", n, 3 * h, scale=0.3)]
        linear = d.int(0, 1) if op == "GRU" else None
        y = net.op(
            op,
            *ins,
            hidden_size=h,
            direction="bidirectional" if both else d.pick("forward", "reverse"),
            linear_before_reset=linear,
        )
        y = net.op("Transpose", y, perm=[0, 2, 1, 3])
        return net.reshape(y, 0, 0, d.pick(n * h, -1))

    y = layer("one", x, 5, d.flag() and net.opset >= 9)
    y = layer("two", y, n * h, d.flag() and net.opset >= 9)
    net.out(net.linear(y, "z", n * h, 3))
    return net.done(
        ("a.weight", 1), ("one.w", 1), ("one.r", 2), ("two.w", 1), ("two.w", 2), ("z.weight", 0), groups=3, exact=True
    )


@case("LSTM", examples=3)
def last_state(d: Draw, op: str) -> Built:
    """The last hidden state goes on; a pair of directions becomes one vector."""
    net = Net(d, 14)
    h = d.int(2, 4)
    x = net.input("input", "T", "N", 6)
    w, r = net.weight("a.w", 2, 4 * h, 6, scale=0.5), net.weight("a.r", 2, 4 * h, h, scale=0.5)
    _, y, _ = net.ops(op, x, w, r, outs=3, hidden_size=h, direction="bidirectional")
    y = net.reshape(net.op("Transpose", y, perm=[1, 0, 2]), d.pick(0, -1, "0"), 2 * h)
    net.out(net.gemm(y, "z", 3, 2 * h))
    return net.done(("a.w", 1), ("a.r", 1), ("a.r", 2), ("z.weight", 1), exact=True)


def _integers(net: Net, name: str, *shape: int, dtype: Any = np.int8) -> str:
    return net.init(name, net.rng.integers(0 if dtype is np.uint8 else -60, 60, shape).astype(dtype))


@case("DynamicQuantizeLinear", "ConvInteger", examples=3)
def dynamic_convolution(d: Draw, op: str) -> Built:
    net = Net(d, 11)
    m = any_mid(net, "image")
    q, s, zero = net.ops("DynamicQuantizeLinear", m.x, outs=3)
    w = _integers(net, "b.weight", 4, m.c, 3, 3, dtype=np.uint8)
    y = net.to_float(
        net.op("ConvInteger", q, w, zero, *([net.init("b.zero", np.array(0, np.uint8))] if d.flag() else []))
    )
    m.close(net.op("Mul", y, net.op("Mul", s, net.real(0.01))), 4)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2)


@case("MatMulInteger", examples=3)
def dynamic_product(d: Draw, op: str) -> Built:
    net = Net(d, 11)
    m = any_mid(net, "tokens")
    q, s, zero = net.ops("DynamicQuantizeLinear", m.x, outs=3)
    zeros = d.pick([], [net.init("b.zero", np.zeros((), np.int8))], [net.init("b.zeros", np.zeros(4, np.int8))])
    y = net.to_float(net.op(op, q, _integers(net, "b.weight", m.c, 4), zero, *zeros))
    scale = net.init("b.scale", (np.abs(net.rng.standard_normal(4)) * 0.01 + 0.002).astype(F32))
    m.close(net.op("Mul", y, net.op("Mul", s, scale)), 4)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), ("b.scale", 0), m.used, groups=2)


def _quantised(net: Net, x: str) -> tuple[str, str, str]:
    s, zero = net.real(0.03), net.init(net.name("zero"), np.array(120, np.uint8))
    return net.op("QuantizeLinear", x, s, zero), s, zero


@case("QLinearConv", examples=4)
def integer_convolution(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image", c=4)
    q, s, zero = _quantised(net, m.x)
    o, g = d.pick((3, 1), (5, 1), (4, 4))
    n = o if d.flag() else 1
    ws = net.init(
        "b.scale", (np.abs(net.rng.standard_normal(n)) * 0.01 + 0.002).astype(F32).reshape(-1 if n > 1 else ())
    )
    wz = net.init("b.zero", np.zeros(n if n > 1 else (), np.int8))
    bias = [net.init("b.bias", net.rng.integers(-90, 90, o).astype(np.int32))] if d.flag() else []
    w = _integers(net, "b.weight", o, 4 // g, 3, 3)
    y = net.op(op, q, s, zero, w, ws, wz, s, zero, *bias, pads=[1, 1, 1, 1], group=g)
    m.close(net.op("DequantizeLinear", y, s, zero), o)
    return net.done(m.made, ("b.weight", 0), m.used, groups=1 if g > 1 else 2, exact=True)


@case("QLinearMatMul", examples=4)
def integer_product(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "tokens")
    q, s, zero = _quantised(net, m.x)
    ws = net.init("b.scale", np.array(0.02, F32))
    y = net.op(
        op, q, s, zero, _integers(net, "b.weight", m.c, 4), ws, net.init("b.zero", np.array(0, np.int8)), s, zero
    )
    m.close(net.op("DequantizeLinear", y, s, zero), 4)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2, exact=True)


@case("GatherElements", "ScatterElements", "Scatter", examples=4)
def by_element(d: Draw, op: str) -> Built:
    """Tokens are read or written by position, channel by channel."""
    net = Net(d, 9 if op == "Scatter" else 13)
    c, axis = d.int(3, 5), d.pick(1, -2) if op != "Scatter" else 1
    x = net.linear(net.input("input", 2, 4, 6), "a", 6, c)
    at = net.const(net.rng.permuted(np.tile(np.arange(4)[None, :, None], (2, 1, c)), axis=1)[:, :3])
    y = (
        net.op(op, x, at, axis=axis)
        if op == "GatherElements"
        else net.op(op, x, at, net.weight("u", 2, 3, c), axis=axis)
    )
    net.out(net.linear(y, "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=True)


@case("GatherND", "ScatterND", examples=3)
def by_tuple(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    c = d.int(3, 5)
    x = net.linear(net.input("input", 2, 4, 6), "a", 6, c)
    at = net.const([[0, 1], [1, 3], [1, 0]])
    y = net.op(op, x, at) if op == "GatherND" else net.op(op, x, at, net.weight("u", 3, c))
    net.out(net.linear(y, "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), *([("u", 1)] if op == "ScatterND" else []), exact=True)


@case("Trilu", examples=3)
def trilu(d: Draw, op: str) -> Built:
    """A causal mask on the scores of attention: heads and their features are free."""
    net = Net(d, 14)
    h, e = 2, d.int(2, 3)
    x = net.input("input", "N", 5, 6)
    q, k, v = (_split_heads(net, net.linear(x, n, 6, h * e), h, e) for n in "qkv")
    s = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    s = net.op(op, s, *([net.const(0)] if d.flag() else []), upper=0)
    net.out(net.linear(_merge_heads(net, net.op("MatMul", s, v), h * e), "z", h * e, 3))
    return net.done(("q.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("OneHot", examples=3)
def one_hot(d: Draw, op: str) -> Built:
    net = Net(d, 11)
    y = net.op(op, net.input("ids", "N", "T", ids=6), net.const(6), net.const([0.0, 1.0], F32), axis=d.pick(-1, 2))
    y = net.op("Relu", net.linear(y, "a", 6, 5))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), frozen=[("a.weight", 0)], exact=True)


@case("ReverseSequence", examples=3)
def reverse_sequence(d: Draw, op: str) -> Built:
    net = Net(d, 10)
    c = d.int(3, 5)
    x = net.linear(net.input("input", 4, 3, 6), "a", 6, c)
    net.out(net.linear(net.op(op, x, net.const([4, 2, 3]), batch_axis=1, time_axis=0), "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=True)


@case("Col2Im", examples=3)
def col2im(d: Draw, op: str) -> Built:
    """A transposed convolution as a product and Col2Im, on blocks that come from a weight or an input."""
    net = Net(d, 18)
    c = d.int(2, 4)
    x = net.input("input", "N", 6, 9)
    y = net.op("MatMul", net.weight("a.weight", c * 4, 6), x)
    if d.flag():  # the blocks' axis comes from a weight
        y = net.op("MatMul", y, net.weight("blocks", 9, 9))
    y = net.op(op, y, net.const([4, 4]), net.const([2, 2]))
    net.out(net.conv(y, "z", (3, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("NonMaxSuppression", "Compress", "Unique", examples=2)
def selected(d: Draw, op: str) -> Built:
    """Selections: everything that they read is frozen, their neighbours are not."""
    net = Net(d, 13)
    c = 4
    x = net.linear(net.input("input", 1, 5, 6), "a", 6, c)
    if op == "NonMaxSuppression":
        scores = net.op("Transpose", net.linear("input", "s", 6, 2), perm=[0, 2, 1])
        net.out(net.op(op, x, scores, net.const([3]), net.const([0.5], F32)), TensorProto.INT64)
    elif op == "Compress":
        net.out(net.op(op, x, net.const([True, False, True, True, False], np.bool_), axis=1))
    else:
        net.out(net.op(op, x))
    y = net.op("Relu", net.linear("input", "b", 6, 5))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1)])


@case("Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial", examples=2)
def drawn_from_channels(d: Draw, op: str) -> Built:
    """Noise as wide as the channels, times zero."""
    net = Net(d, 15)
    m = any_mid(net, "flat")
    x = net.op("Sigmoid", m.x)
    y = net.to_float(net.op(op, x, sample_size=m.c if op == "Multinomial" else None))
    y = net.op("Add", x, net.op("Mul", y, net.real(0.0)))
    m.close(net.op("Relu", net.gemm(y, "b", 4, m.c)), 4)
    return net.done(("b.weight", 0), m.used, frozen=[m.made])


@case("Scan", "SequenceMap", examples=2)
def body_over_a_sequence(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    x = net.linear(net.input("input", 3, 5, 6), "a", 6, 4)
    info = helper.make_tensor_value_info
    if op == "Scan":
        body = helper.make_graph(
            [helper.make_node("Neg", ["i"], ["o"])], "body", [info("i", 1, [5, 4])], [info("o", 1, [5, 4])]
        )
        y = net.op(op, x, body=body, num_scan_inputs=1)
    else:
        body = helper.make_graph(
            [helper.make_node("Neg", ["i"], ["o"])], "body", [info("i", 1, None)], [info("o", 1, None)]
        )
        parts = net.op("SplitToSequence", x, axis=0, keepdims=1)
        y = net.op("ConcatFromSequence", net.op(op, parts, body=body), axis=0)
    net.declare(y, 3, 5, 4)
    net.out(net.linear(net.op("Relu", net.linear(y, "b", 4, 5)), "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1)])


@case("BatchNormalization", examples=2)
def batch_norm_that_learns(d: Draw, op: str) -> Built:
    """training_mode 1: the statistics are those of the batch."""
    net = Net(d, 14)
    m = any_mid(net, "image", "tokens")
    x = m.x if m.kind == "image" else net.op("Transpose", m.x, perm=[0, 2, 1])
    p = [net.weight(f"bn.{n}", m.c, scale=0.2, offset=1) for n in ("scale", "bias", "mean", "var")]
    y = net.ops(op, x, *p, outs=3, training_mode=1)[0]
    m.close(y if m.kind == "image" else net.op("Transpose", y, perm=[0, 2, 1]))
    return net.done(m.made, ("bn.scale", 0), m.used, exact=True)


@case("GroupNormalization", "BatchNormalization", "MeanVarianceNormalization", "InstanceNormalization", examples=2)
def norm_over_prunable_positions(d: Draw, op: str) -> Built:
    """A product acts on the positions that the norm takes its mean over: they are approximate."""
    net = Net(d, 21)
    x = net.linear(net.input("input", "N", 4, 6), "a", 6, 5)
    p = [net.weight(f"p{i}", 4, offset=1.0, scale=0.1) for i in range(4)]
    if op == "GroupNormalization":
        y = net.op(op, x, *p[:2], num_groups=2)
    elif op == "BatchNormalization":
        y = net.ops(op, x, *p, outs=3, training_mode=1)[0]
    elif op == "MeanVarianceNormalization":
        y = net.op(op, x, axes=[0, 2])
    else:
        y = net.op(op, x, *p[:2])
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=False)


@case("Attention", examples=3)
def attention_to_learned_tokens(d: Draw, op: str) -> Built:
    """Keys, values or queries of a fixed table (a resampler): the table's rows are tokens, which no one may move."""
    net = Net(d, 23)
    h, e = 2, 3
    x, table = net.input("input", 1, 4, 6), net.weight("table", 1, 4, 6, scale=1.0)
    form = d.pick("keys", "queries", "both")
    causal = d.int(0, 1)
    q = net.linear(table if form == "queries" else x, "q", 6, h * e)
    k, v = (net.linear(x if form == "queries" else table, n, 6, h * e) for n in "kv")
    y = net.op(op, q, k, v, q_num_heads=h, kv_num_heads=h, is_causal=causal)
    net.out(net.linear(net.op("ReduceSum", y, net.const([1])) if form == "both" else y, "z", h * e, 3))
    return net.done(("q.weight", 1), ("v.weight", 1), ("z.weight", 0), frozen=[("table", 1)], groups=3)


UNCHECKED[("", "SpatialBN")] = "Caffe2's operator of before ONNX 1.0: no runtime has it, and onnx.checker refuses it"

__all__ = ["CASES", "UNCHECKED", "Built", "CaseOf", "Draw", "case"]
