"""Small networks built twice from the same numbers: once as they are, once twice as wide with a dead second half.

Pruning the wide one to half must give the narrow one: the same channels go everywhere, every weight is the narrow
one's bit for bit, and the outputs stay what they were. A channel is dead because nothing makes it (`producers` are
zero), because nothing reads it (`consumers`), or both; what is not zero is random, as big as what is alive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import laws
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxprune

Array = NDArray[np.float32]
DEAD = ("both", "producers", "consumers")


@dataclass(frozen=True)
class Axis:
    """An axis that the wide network doubles; `side` says whether its weight makes the channels or reads them."""

    n: int
    side: str


def out(n: int) -> Axis:
    return Axis(n, "producers")


def into(n: int) -> Axis:
    return Axis(n, "consumers")


Axes = int | Axis | tuple[int | Axis, ...]  # a tuple is one axis of the tensor, the product of its parts


@dataclass
class Builder:
    """A graph under construction; `dead` None builds the narrow network."""

    dead: str | None
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    live: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    other: np.random.Generator = field(default_factory=lambda: np.random.default_rng(8))

    def size(self, n: int) -> int:
        return n if self.dead is None else 2 * n

    def weight(self, name: str, *axes: Axes, low: float | None = None) -> str:
        """Normal numbers with variance 1 / fan-in; uniform in [low, low + 1] where `low` is given."""
        parts = [p for a in axes for p in (a if isinstance(a, tuple) else (a,))]
        narrow = [p.n if isinstance(p, Axis) else p for p in parts]
        wide = [self.size(p.n) if isinstance(p, Axis) else p for p in parts]
        fan = math.prod(narrow[1:]) if len(narrow) > 1 else 4

        def draw(rng: np.random.Generator, shape: list[int]) -> Array:
            a = rng.standard_normal(shape) / math.sqrt(fan) if low is None else rng.uniform(low, low + 1, shape)
            return a.astype(np.float32)

        array = draw(self.live, narrow)
        if self.dead is not None:
            inside, array = array, draw(self.other, wide)
            for i, p in enumerate(parts):
                if isinstance(p, Axis) and (p.side == "either" or self.dead in ("both", p.side)):
                    array[(slice(None),) * i + (slice(p.n, None),)] = 0
            array[tuple(slice(n) for n in narrow)] = inside
        sizes = iter(array.shape)
        shape = [math.prod(itertools.islice(sizes, len(a) if isinstance(a, tuple) else 1)) for a in axes]
        return self.constant(name, array.reshape(shape))

    def concat(
        self, parts: list[Axis], name: str, before: tuple[Axes, ...] = (), after: tuple[int, ...] = (), **kind: Any
    ) -> str:
        """One weight with an axis on which several groups lie end to end, each with its dead half."""
        names = [self.weight(f"{name}.{i}", *before, p, *after, **kind) for i, p in enumerate(parts)]
        arrays = [numpy_helper.to_array(t) for t in self.constants[-len(names) :]]
        del self.constants[-len(names) :]
        return self.constant(name, np.concatenate(arrays, len(before)))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def conv(
        self, x: str, name: str, o: Axis | int, i: Axis | int, k: int, bias: bool = True, **attributes: Any
    ) -> str:
        w = [x, self.weight(f"{name}.weight", o, i, k, k)]
        return self.op("Conv", *w, *([self.weight(f"{name}.bias", o)] if bias else []), pads=[k // 2] * 4, **attributes)

    def norm(self, x: str, name: str, n: int) -> str:
        scale, bias = self.weight(f"{name}.scale", out(n)), self.weight(f"{name}.bias", out(n))
        mean, var = self.weight(f"{name}.mean", Axis(n, "")), self.weight(f"{name}.var", Axis(n, ""), low=0.5)
        return self.op("BatchNormalization", x, scale, bias, mean, var)

    def linear(self, x: str, name: str, i: Axes, o: Axes) -> str:
        y = self.op("MatMul", x, self.weight(f"{name}.weight", i, o))
        return self.op("Add", y, self.weight(f"{name}.bias", o))

    def model(self, y: str, x: list[int | str], z: list[int | str]) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, z)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


# --- the networks -----------------------------------------------------------------------------------------------------

PICTURE: list[int | str] = ["batch", 3, 8, 8]
SCORES: list[int | str] = ["batch", 5]


def cnn(b: Builder) -> ModelProto:
    """Conv, BatchNorm, pooling; the last 4x4 map is flattened into the head."""
    x = b.op("Relu", b.norm(b.conv("x", "conv1", out(4), 3, 3, bias=False), "bn1", 4))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("LeakyRelu", b.norm(b.conv(x, "conv2", out(6), into(4), 3), "bn2", 6))
    x = b.op("Flatten", b.conv(x, "conv3", out(5), into(6), 3))
    w, c = b.weight("fc.weight", 5, (into(5), 16)), b.weight("fc.bias", 5)
    return b.model(b.op("Gemm", x, w, c, transB=1), PICTURE, SCORES)


def residual(b: Builder) -> ModelProto:
    """Inverted residuals: expand, depthwise, squeeze-and-excite, project, add."""
    x = b.op("Relu", b.norm(b.conv("x", "stem", out(4), 3, 3, bias=False), "stem.bn", 4))
    for i in range(2):
        y = b.op("HardSwish", b.norm(b.conv(x, f"expand{i}", out(6), into(4), 1, bias=False), f"bn{i}.1", 6))
        y = b.conv(y, f"depth{i}", out(6), 1, 3, bias=False, group=b.size(6))
        y = b.op("HardSwish", b.norm(y, f"bn{i}.2", 6))
        s = b.op("Relu", b.conv(b.op("GlobalAveragePool", y), f"squeeze{i}", out(3), into(6), 1))
        s = b.op("Sigmoid", b.conv(s, f"excite{i}", out(6), into(3), 1))
        x = b.op("Add", x, b.norm(b.conv(b.op("Mul", y, s), f"project{i}", out(4), into(6), 1), f"bn{i}.3", 4))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    return b.model(b.linear(x, "fc", into(4), 5), PICTURE, SCORES)


def dense(b: Builder) -> ModelProto:
    """Every layer reads the concatenation of all before it, through a BatchNorm that cannot be folded."""
    parts, sizes = [b.conv("x", "conv0", out(4), 3, 3)], [4]
    for i in range(1, 4):
        x = b.op("Concat", *parts, axis=1)
        side = {"scale": "producers", "bias": "producers", "mean": "", "var": ""}
        norm = [
            b.concat([Axis(n, s) for n in sizes], f"bn{i}.{k}", low=0.5 if k == "var" else None)
            for k, s in side.items()
        ]
        x = b.op("Relu", b.op("BatchNormalization", x, *norm))
        if i < 3:
            kernel = b.concat([into(n) for n in sizes], f"conv{i}.weight", before=(out(3),), after=(3, 3))
            parts.append(b.op("Conv", x, kernel, b.weight(f"conv{i}.bias", out(3)), pads=[1] * 4))
            sizes.append(3)
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    head = b.concat([into(n) for n in sizes], "fc.weight", before=(5,))
    return b.model(b.op("Gemm", x, head, b.weight("fc.bias", 5), transB=1), PICTURE, SCORES)


def mlp(b: Builder) -> ModelProto:
    x = b.op("Relu", b.linear(b.op("Flatten", "x"), "fc1", 3 * 64, out(6)))
    x = b.op("Gelu", b.linear(x, "fc2", into(6), out(8)))
    w, c = b.weight("fc3.weight", out(4), into(8)), b.weight("fc3.bias", out(4))
    x = b.op("Tanh", b.op("Gemm", x, w, c, transB=1))
    return b.model(b.linear(x, "fc4", into(4), 5), PICTURE, SCORES)


def transformer(b: Builder) -> ModelProto:
    """Pre-norm blocks whose width is the graph's own; heads, their features and the MLP are doubled."""
    e, h, d, m, x = 12, 2, 3, 10, "x"
    split = b.constant("split", np.array([0, 0, b.size(h), b.size(d)]))
    join = b.constant("join", np.array([0, 0, b.size(h) * b.size(d)]))
    scale = b.constant("scale", np.array(d**-0.5, np.float32))
    for i in range(2):
        y = b.op("LayerNormalization", x, b.weight(f"ln{i}.1.scale", e, low=0.5), b.weight(f"ln{i}.1.bias", e))
        heads = {"q": (out(h), out(d)), "k": (out(h), Axis(d, "either")), "v": (out(h), out(d))}
        q, k, v = (b.op("Reshape", b.linear(y, f"{n}{i}", e, a), split) for n, a in heads.items())
        q, v = (b.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = b.op("Mul", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 3, 1])), scale)
        y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        y = b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), join)
        x = b.op("Add", x, b.linear(y, f"out{i}", (into(h), into(d)), e))
        y = b.op("LayerNormalization", x, b.weight(f"ln{i}.2.scale", e, low=0.5), b.weight(f"ln{i}.2.bias", e))
        x = b.op("Add", x, b.linear(b.op("Gelu", b.linear(y, f"up{i}", e, out(m))), f"down{i}", into(m), e))
    return b.model(x, ["batch", "tokens", e], ["batch", "tokens", e])


NETWORKS: dict[str, tuple[Callable[[Builder], ModelProto], list[int]]] = {  # and the sizes of the wide one's groups
    "cnn": (cnn, [8, 10, 12]),
    "residual": (residual, [6, 6, 8, 12, 12]),
    "dense": (dense, [6, 6, 8]),
    "mlp": (mlp, [8, 12, 16]),
    "transformer": (transformer, [4, 4, 6, 6, 6, 6, 20, 20]),
}


def feeds(model: ModelProto) -> list[laws.Feeds]:
    """Random inputs at three batch sizes (and lengths, where the second axis is dynamic)."""
    rng = np.random.default_rng(0)
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    shapes = [[d or n + 3 * bool(i) for i, d in enumerate(dims)] for n in (1, 2, 5)]
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for shape in shapes]


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_a_doubled_network_is_the_network(name: str, dead: str, tmp_path: Path) -> None:
    make, sizes = NETWORKS[name]
    wide, narrow = make(Builder(dead)), make(Builder(None))
    source, target = tmp_path / "wide.onnx", tmp_path / "half.onnx"
    onnx.save(wide, source)
    done = onnxprune.prune(source, target, ratio=0.5, criterion="l2", target="none", repair="none")
    groups = done.plan.groups
    assert sorted(c.size for c in groups.values()) == sizes
    assert {n: c.keep for n, c in groups.items()} == {n: tuple(range(c.size // 2)) for n, c in groups.items()}
    half = onnx.load(target)
    want = {t.name: numpy_helper.to_array(t) for t in narrow.graph.initializer}
    got = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    assert want.keys() == got.keys()
    for tensor, array in want.items():
        np.testing.assert_array_equal(got[tensor], array, err_msg=tensor)
    assert done.report.error.relative_l2 <= 1e-5
    inputs = feeds(wide)
    before, small, after = (laws.run_ort(m, inputs) for m in (wide, narrow, half))
    for x, y, z in zip(before, small, after, strict=True):
        assert laws.difference(x[0], z[0]) <= 1e-5
        assert laws.difference(y[0], z[0]) <= 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_laws(name: str) -> None:
    model = NETWORKS[name][0](Builder("consumers"))
    laws.check(model, feeds(model))


def test_the_wide_network_is_not_the_narrow_one() -> None:
    """What the tests above compare differs before pruning, and a dead half that is alive is noticed."""
    wide, narrow = cnn(Builder("both")), cnn(Builder(None))
    shapes = [[tuple(t.dims) for t in m.graph.initializer] for m in (wide, narrow)]
    assert shapes[0] != shapes[1]
    alive, inputs = cnn(Builder("neither")), feeds(wide)
    assert laws.difference(laws.run_ort(alive, inputs)[0][0], laws.run_ort(wide, inputs)[0][0]) > 1e-2
