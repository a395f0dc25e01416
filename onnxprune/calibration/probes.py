"""Nodes that are added to a graph so that what leaves it is small: a vector a sample, not the feature maps.

ONNX Runtime keeps convolutional networks in a blocked layout of its own, and every operator that does not know that layout
costs a copy of the whole map. So for [N, C, *s] everything is written in operators that do know it: GlobalAveragePool,
GlobalMaxPool, Mul, Relu and HardSigmoid. |x| is 2 relu(x) - x, and HardSigmoid with a steep slope says whether x^2 > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.axes import Size
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import collect_weights, replace_outputs
from onnxprune.graph.view import NodeBuilder, read_opset
from onnxprune.ops.records import NodeView, get_record

Make = Callable[..., str]
PLACES = 5  # where a convolution's patches are looked at, along each axis of a picture
STEEP = 1e30  # HardSigmoid(x) = max(0, min(1, STEEP x)); exact for |x| above 1e-15 once x is squared


def _never_negative(node: onnx.NodeProto, known: Mapping[str, np.ndarray]) -> bool:
    bounds = get_record(node).traits.bounds
    constants = {slot: known[name] for slot, name in enumerate(node.input) if name in known}
    return bounds is not None and bounds(NodeView(node), constants)[0] >= 0


@dataclass
class Net:
    """A copy of a model without outputs, to which nodes and outputs are added."""

    model: Model
    proto: onnx.ModelProto = field(init=False)
    opset: int = field(init=False)
    never_negative: set[str] = field(init=False)
    _known: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.proto = replace_outputs(self.model.proto)
        self.opset = read_opset(self.proto)
        known = {name: w.array() for name, w in collect_weights(self.model).items() if not w.shape}
        self.never_negative = {n.output[0] for n in self.proto.graph.node if _never_negative(n, known)}

    @property
    def op(self) -> NodeBuilder:
        """Adds a node, `net.op.Mul(x, y)`, and gives its output; equal ones are shared."""
        return NodeBuilder(self._add)

    def _add(self, op: str, *ins: str, **attrs: Any) -> str:
        key = (op, ins, tuple(sorted((k, str(v)) for k, v in attrs.items())))
        if key not in self._known:
            self._known[key] = f"onnxprune_probe_{len(self._known)}"
            self.proto.graph.node.append(helper.make_node(op, ins, [self._known[key]], **attrs))
        return self._known[key]

    def constant(self, value: np.ndarray) -> str:
        return self.op.Constant(value=onnx.numpy_helper.from_array(value))

    def reduce(self, op: Make, x: str, axes: list[int]) -> str:
        if not axes:
            return x
        if self.opset >= 18:
            return op(x, self.constant(np.array(axes)), keepdims=0)
        return op(x, axes=axes, keepdims=0)

    def output(self, name: str) -> None:
        if all(o.name != name for o in self.proto.graph.output):
            self.proto.graph.output.append(onnx.ValueInfoProto(name=name))


@dataclass(frozen=True)
class Patches:
    """The patches that a convolution reads for each output position: its attributes, kernel shape, and input sizes."""

    attrs: Mapping[str, Any]
    kernel: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """One axis of one activation. A reduction keeps axis 0 (the samples) and that axis: [N, n], or [N, n, 1, ..]."""

    net: Net
    tensor: str
    sizes: tuple[Size, ...]
    axis: int
    elem: int
    patches: Patches | None = None

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def x(self) -> str:
        return self.tensor if self.elem == TensorProto.FLOAT else self.net.op.Cast(self.tensor, to=TensorProto.FLOAT)

    @property
    def blocked(self) -> bool:
        return self.axis == 1 and self.rank >= 3

    @property
    def never_negative(self) -> bool:
        return self.tensor in self.net.never_negative

    @property
    def square(self) -> str:
        return self.net.op.Mul(self.x, self.x)

    @property
    def flat(self) -> str:
        """As [N, n, positions]; [1, n, positions] where the channels are on axis 0."""
        if self.axis == 0:
            return self.net.op.Reshape(self.x, self.net.constant(np.array([1, self.sizes[0], -1])))
        order = [0, self.axis, *(a for a in range(1, self.rank) if a != self.axis)]
        x = self.x if order == sorted(order) else self.net.op.Transpose(self.x, perm=order)
        return self.net.op.Reshape(x, self.net.constant(np.array([0, 0, -1])))

    def over_positions(self, pool: Make, reduce: Make, x: str) -> str:
        if self.blocked:
            return pool(x)
        return self.net.reduce(reduce, x, [a for a in range(self.rank) if a not in (0, self.axis)])

    def mean(self, x: str) -> str:
        return self.over_positions(self.net.op.GlobalAveragePool, self.net.op.ReduceMean, x)


Build = Callable[[Probe], str]


def mean(p: Probe) -> str:
    """The mean."""
    return p.mean(p.x)


def mean_abs(p: Probe) -> str:
    """The mean of |x|."""
    if p.never_negative:
        return p.mean(p.x)
    if not p.blocked:
        return p.mean(p.net.op.Abs(p.x))
    positive = p.mean(p.net.op.Relu(p.x))
    return p.net.op.Add(positive, p.net.op.Sub(positive, p.mean(p.x)))


def mean_sq(p: Probe) -> str:
    """The mean of x^2."""
    return p.mean(p.square)


def nonzero(p: Probe) -> str:
    """The share of positions that are not zero."""
    x = p.x if p.never_negative else p.square
    return p.mean(p.net.op.HardSigmoid(x, alpha=STEEP, beta=0.0))


def greatest(p: Probe) -> str:
    """The maximum."""
    return p.over_positions(p.net.op.GlobalMaxPool, p.net.op.ReduceMax, p.x)


def gram(p: Probe) -> str:
    """The sum over the samples of the mean of x_p x_q, for all pairs of the axis's positions, and how many samples: [n + 1, n]."""
    flat, n = p.flat, p.sizes[p.axis]
    assert isinstance(n, int)
    samples, count = (
        p.net.op.Cast(p.net.op.Gather(p.net.op.Shape(flat), p.net.constant(np.array([i]))), to=1) for i in (0, 2)
    )
    rows = p.net.op.Reshape(p.net.op.Transpose(flat, perm=[1, 0, 2]), p.net.constant(np.array([n, -1])))
    products = p.net.op.MatMul(rows, p.net.op.Transpose(rows, perm=[1, 0]))
    last = p.net.op.Mul(p.net.constant(np.ones((1, n), np.float32)), samples)
    return p.net.op.Concat(p.net.op.Div(products, count), last, axis=0)


def patch_gram(p: Probe) -> str:
    """The same for all pairs of entries of a convolution's patches, [n K + 1, n K], at some of its places; p is its input."""
    return gram(_patches(p))


def patch_mean(p: Probe) -> str:
    """The mean of each entry of a convolution's patches, [N, n K]."""
    return mean(_patches(p))


def _patches(p: Probe) -> Probe:
    """[N, n, *s] as [N, (n K), *t]: a depthwise convolution that copies each of the K kernel positions."""
    n, patches = p.sizes[1], p.patches
    assert isinstance(n, int) and patches is not None
    entries = int(np.prod(patches.kernel))
    copy = np.tile(np.eye(entries, dtype=np.float32), (n, 1)).reshape(n * entries, 1, *patches.kernel)
    given = patches.attrs.get("strides", [1] * len(patches.kernel))
    strides = [max(s, -(-size // PLACES)) for s, size in zip(given, patches.places, strict=True)]
    patched = p.net.op.Conv(p.x, p.net.constant(copy), **{**patches.attrs, "strides": strides, "group": n})
    sizes = (p.sizes[0], n * entries, *p.sizes[2:])
    return replace(p, tensor=patched, sizes=sizes, elem=TensorProto.FLOAT, patches=None)


def flattened(p: Probe) -> str:
    """All of it, [N, n, positions]."""
    return p.flat


def maps(p: Probe) -> str:
    """All of it, as it is."""
    return p.x


def least(p: Probe) -> str:
    """The minimum."""
    return p.net.reduce(p.net.op.ReduceMin, p.x, [a for a in range(p.rank) if a not in (0, p.axis)])
