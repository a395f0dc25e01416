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
                if isinstance(p, Axis) and self.dead in ("both", p.side):
                    array[(slice(None),) * i + (slice(p.n, None),)] = 0
            array[tuple(slice(n) for n in narrow)] = inside
        sizes = iter(array.shape)
        shape = [math.prod(itertools.islice(sizes, len(a) if isinstance(a, tuple) else 1)) for a in axes]
        return self.constant(name, array.reshape(shape))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def conv(self, x: str, name: str, o: Axis | int, i: Axis | int, k: int, bias: bool = True, **attributes: Any) -> str:
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
    parts, names = [b.conv("x", "conv0", out(4), 3, 3)], [4]
    for i in range(2):
        y = b.op("Concat", *parts, axis=1) if i else parts[0]
        each = [b.op("Relu", b.norm(p, f"bn{i}.{j}", n)) for j, (p, n) in enumerate(zip(parts, names, strict=True))]
        y = b.op("Concat", *each, axis=1) if i else each[0]
        w = [b.weight(f"conv{i + 1}.{j}", out(3), into(n), 3, 3) for j, n in enumerate(names)]
        kernel = concat_weights(b, w, f"conv{i + 1}.weight") if i else w[0]
        parts.append(b.op("Conv", y, kernel, b.weight(f"conv{i + 1}.bias", out(3)), pads=[1] * 4))
        names.append(3)
    pooled = [b.op("Flatten", b.op("GlobalAveragePool", p)) for p in parts]
    heads = [b.linear(p, f"fc{j}", into(n), 5) for j, (p, n) in enumerate(zip(pooled, names, strict=True))]
    return b.model(b.op("Sum", *heads), PICTURE, SCORES)


def concat_weights(b: Builder, names: list[str], name: str) -> str:
    """One kernel whose input axis is the kernels' of the parts, end to end."""
    arrays = [numpy_helper.to_array(t) for t in b.constants if t.name in names]
    b.constants = [t for t in b.constants if t.name not in names]
    return b.constant(name, np.concatenate(arrays, 1))


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
    scale = b.constant("scale", np.float32(d**-0.5))
    for i in range(2):
        y = b.op("LayerNormalization", x, b.weight(f"ln{i}.1.scale", e, low=0.5), b.weight(f"ln{i}.1.bias", e))
        heads, dead = (out(h), out(d)), (Axis(h, ""), Axis(d, "both"))
        q, k, v = (b.op("Reshape", b.linear(y, f"{n}{i}", e, heads), split) for n in "qkv")
        del dead
        q, v = (b.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = b.op("Mul", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 3, 1])), scale)
        y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        y = b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), join)
        x = b.op("Add", x, b.linear(y, f"out{i}", (into(h), into(d)), e))
        y = b.op("LayerNormalization", x, b.weight(f"ln{i}.2.scale", e, low=0.5), b.weight(f"ln{i}.2.bias", e))
        x = b.op("Add", x, b.linear(b.op("Gelu", b.linear(y, f"up{i}", e, out(m))), f"down{i}", into(m), e))
    return b.model(x, ["batch", "tokens", e], ["batch", "tokens", e])
