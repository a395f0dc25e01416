"""Repair of products that a runtime fused with what follows them, and of weights that are stored as integers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper
from test_repair import Array, build, normal, op, outputs, plan_of

import onnxprune
from onnxprune.graph.save import build_full_proto
from onnxprune.repair import RepairReport, repair
from onnxprune.repair.kinds import make_layer
from onnxprune.repair.linear_layers import Change, Site

fused = partial(helper.make_node, domain="com.microsoft")


def spanned(rows: int, columns: int, seed: int = 0) -> Array:
    """Weights [rows, columns] of which the second half of the columns are sums of the first half's."""
    half = normal(rows, columns // 2, seed=seed)
    return np.concatenate([half, half @ normal(columns // 2, columns // 2, seed=seed + 1) / 2], axis=1).astype(
        np.float32
    )


def halved(
    proto: ModelProto, feeds: Sequence[Mapping[str, Array]], size: int, **more: Any
) -> tuple[ModelProto, RepairReport]:
    """The group of that size loses its second half, and the rest is repaired."""
    analysis = onnxprune.analyze(proto)
    (group,) = (g for g in analysis.groups if g.size == size)
    model, report = repair(analysis, plan_of(analysis, {group.name: range(size // 2)}), feeds, threads=1, **more)
    small = build_full_proto(model)
    want, got = (np.concatenate([outputs(m, f)[0].ravel() for f in feeds]) for m in (proto, small))
    assert report.error_after == pytest.approx(np.linalg.norm(want - got) / np.linalg.norm(want), rel=1e-3)
    return small, report


def check(report: RepairReport, names: Sequence[str], most: float = 0.1) -> None:
    """The layers that were fitted; and what stays of the error."""
    assert [layer.name for layer in report.layers] == names and not report.left_out
    assert report.error_before and report.error_after is not None and report.error_before > 0.05
    assert report.error_after < most * report.error_before


CONV = {
    "v": spanned(3, 8).T.reshape(8, 3, 1, 1), "w": normal(4, 8, 3, 3, seed=2) / 4, "b": normal(4, seed=3), "s": normal(4, 3, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("method", ["lstsq", "obs"])
@pytest.mark.parametrize("activation", ["", "Relu", "Clip", "LeakyRelu", "Sigmoid"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_convolution_with_its_activation(activation: str, residual: bool, method: str) -> None:
    parameters = {"Clip": [-1.0, 2.0], "LeakyRelu": [0.1]}.get(activation)
    attrs = {"activation": activation} if activation else {}
    attrs |= {"activation_params": parameters} if parameters else {}
    nodes = [op("Conv", ["x", "v"], ["h"]), *([op("Conv", ["x", "s"], ["z"], pads=[0] * 4)] if residual else [])]
    inputs = ["h", "w", "b", *(["z"] if residual else [])]
    nodes.append(fused("FusedConv", inputs, ["y"], name="fused", pads=[1, 1, 1, 1], **attrs))
    proto = build(nodes, {k: a for k, a in CONV.items() if residual or k != "s"}, ["n", 3, 6, 6])
    check(halved(proto, [{"x": normal(8, 3, 6, 6, seed=i)} for i in range(3)], 8, method=method)[1], ["fused"])


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_a_matrix_product_with_its_activation(activation: str) -> None:
    nodes = [
        op("Gemm", ["x", "v"], ["h"]),
        fused("FusedGemm", ["h", "w", "b"], ["y"], name="fused", activation=activation),
    ]
    proto = build(nodes, {"v": spanned(5, 8), "w": normal(8, 4), "b": normal(4)}, ["n", 5])
    check(halved(proto, [{"x": normal(64, 5, seed=i)} for i in range(3)], 8)[1], ["fused"])


def test_groups_of_a_fused_convolution_stay_with_their_filters() -> None:
    """Whole groups go: those that stay are fitted to what the original's same groups make."""
    nodes = [
        op("Conv", ["x", "v"], ["h"]),
        fused("FusedConv", ["h", "w", "b"], ["r"], name="fused", group=4, activation="Relu"),
        op("Conv", ["r", "u"], ["y"], name="last"),
    ]
    weights = {"v": normal(8, 3, 1, 1), "w": normal(8, 2, 1, 1), "b": normal(8), "u": normal(4, 8, 1, 1)}
    proto = build(nodes, weights, ["n", 3, 5, 5])
    analysis = onnxprune.analyze(proto)
    report = repair(analysis, onnxprune.plan(analysis, ratio=0.5), [{"x": normal(8, 3, 5, 5)}], threads=1)[1]
    assert (
        report.error_after is not None and report.error_before is not None and report.error_after < report.error_before
    )
    assert {layer.name for layer in report.layers} >= {"last"} and not report.left_out
    assert all(layer.after <= layer.before for layer in report.layers)


PRODUCTS = {
    "transposed left": (fused("FusedMatMul", ["x", "w"], ["y"], transA=1, alpha=0.5), [2, 6, 4], (6, 3)),
    "transposed right": (fused("FusedMatMul", ["x", "w"], ["y"], transB=1), [2, 4, 6], (3, 6)),
    "constant left": (fused("FusedMatMul", ["w", "x"], ["y"], transA=1, transB=1), [2, 4, 6], (6, 3)),
    "Gemm, transposed left": (op("Gemm", ["x", "w", "b"], ["y"], transA=1), [6, 4], (6, 3)),
    "Gemm, constant left": (op("Gemm", ["w", "x"], ["y"], transB=1), [4, 6], (3, 6)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_in_any_order_of_axes(name: str) -> None:
    node, shape, size = PRODUCTS[name]
    weights = {"w": normal(*size), **({"b": normal(3)} if "b" in node.input else {})}
    x = normal(*shape)
    (y,) = outputs(build([node], weights, shape), {"x": x})
    layer = make_layer(Site(node, 0, [weights.get(n) for n in node.input], {"x": len(shape)}.get))
    at = np.arange(layer.count_places(y.shape)[0])
    np.testing.assert_allclose(
        layer.compute_product(layer.take_rows(x, y.shape, at)), layer.take_outputs(y, at), rtol=1e-4, atol=1e-5
    )
    w, b = normal(*layer.w.shape, seed=5).astype(np.float64), None if layer.b is None else layer.b + 1
    names, changed = list(node.input), dict(weights)
    for change in layer.list_changes(w, b):
        assert isinstance(change, Change)
        names += ["added"] * (change.slot + 1 - len(names))
        changed[names[change.slot]] = change.array
    again = NodeProto()
    again.CopyFrom(node)
    del again.input[:]
    again.input.extend(names)
    (y,) = outputs(build([again], changed, shape), {"x": x})
    rows = layer.take_rows(x, y.shape, at) @ w + (0 if b is None else b[:, None])
    np.testing.assert_allclose(rows, layer.take_outputs(y, at), rtol=1e-4, atol=1e-4)


# biases that the next node adds


def biased(kind: str) -> ModelProto:
    """A product whose bias a fused operator behind it has. The channels that go are sums of the others and a constant."""
    weights = {"v": spanned(6, 8), "d": normal(8, seed=7) * 3, "w": normal(8, 4, seed=2), "b": normal(4, seed=3)}
    nodes = [
        op("MatMul", ["x", "v"], ["g"]),
        op("Add", ["g", "d"], ["h"]),
        op("MatMul", ["h", "w"], ["m"], name="product"),
    ]
    if kind == "SkipLayerNormalization":
        weights |= {"s": normal(6, 4, seed=4), "gamma": np.ones(4, np.float32), "beta": np.zeros(4, np.float32)}
        nodes += [op("MatMul", ["x", "s"], ["z"]), fused(kind, ["m", "z", "gamma", "beta", "b"], ["y"], epsilon=1e-3)]
    else:
        nodes.append(fused(kind, ["m", "b"], ["y"]))
    return build(nodes, weights, ["n", 3, 6])


@pytest.mark.parametrize("kind", ["BiasGelu", "FastGelu", "SkipLayerNormalization"])
def test_a_bias_that_a_fused_operator_adds_is_fitted_too(kind: str) -> None:
    small, report = halved(biased(kind), [{"x": normal(32, 3, 6, seed=i)} for i in range(3)], 8)
    check(report, ["product"])
    stored = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    assert np.abs(stored["b"] - normal(4, seed=3)).max() > 0.1
    assert [n.op_type for n in small.graph.node][-1] == kind


def test_queries_keys_and_values_are_fitted_with_their_part_of_the_bias() -> None:
    weights = {
        "v": spanned(6, 8), "d": normal(8, seed=7) * 2, "b": normal(14, seed=4), "q": normal(8, 4, seed=1) / 2,
        "k": normal(8, 4, seed=2) / 2, "u": normal(8, 6, seed=3),
    }  # fmt: skip
    nodes = [
        op("MatMul", ["x", "v"], ["g"]), op("Add", ["g", "d"], ["h"]),
        *(op("MatMul", ["h", w], [f"h{w}"], name=w) for w in "qku"),
        fused("MultiHeadAttention", ["hq", "hk", "hu", "b"], ["y"], num_heads=2),
    ]  # fmt: skip
    small, report = halved(build(nodes, weights, ["n", 5, 6]), [{"x": normal(32, 5, 6, seed=i)} for i in range(3)], 8)
    check(report, ["q", "k", "u"])
    names = [t.name for t in small.graph.initializer]
    assert len(names) == len(weights)


def attention(bias: bool = True) -> ModelProto:
    weights = {"v": spanned(6, 8), "d": normal(8, seed=7) * 2, "w": normal(8, 12, seed=1) / 2, "b": normal(12, seed=4)}
    nodes = [
        op("MatMul", ["x", "v"], ["g"]), op("Add", ["g", "d"], ["h"]),
        fused("Attention", ["h", "w", "b"], ["y"], num_heads=2, name="attention"),
    ]  # fmt: skip
    return build(nodes, weights, ["n", 5, 6])


@pytest.mark.parametrize("method", ["lstsq", "obs", "affine"])
def test_a_packed_projection(method: str) -> None:
    feeds = [{"x": normal(32, 5, 6, seed=i)} for i in range(3)]
    check(halved(attention(), feeds, 8, method=method)[1], ["attention"], 0.1 if method != "affine" else 1.0)


def test_a_packed_projection_that_lost_heads() -> None:
    """Its columns are those that stay, in all three parts."""
    proto = attention()
    analysis = onnxprune.analyze(proto)
    report = repair(analysis, onnxprune.plan(analysis, ratio=0.5), [{"x": normal(32, 5, 6)}], threads=1)[1]
    assert {layer.name for layer in report.layers} == {"attention"}
    assert all(layer.after < layer.before for layer in report.layers)


# weights that are stored as integers


def quantized(w: Array, axis: int | None, dtype: type = np.int8) -> tuple[Array, Array, Array]:
    """Integers, scale and zero point."""
    info = np.iinfo(dtype)
    others = tuple(a for a in range(w.ndim) if a != axis)
    low, high = (f(w, axis=others, keepdims=True) for f in (np.min, np.max))
    scale = np.maximum(high - low, 1e-3) * 1.4 / (info.max - info.min)
    zero = np.rint(np.full_like(scale, 0 if info.min else info.max // 2))
    q = np.clip(np.rint(w / scale) + zero, info.min, info.max).astype(dtype)
    shape = (-1,) if axis is not None else ()
    return q, scale.reshape(shape).astype(np.float32), zero.reshape(shape).astype(dtype)


def dequantized(kind: str, axis: int | None, dtype: type) -> ModelProto:
    conv = kind == "Conv"
    v, w = (
        (spanned(6, 8), normal(8, 4, seed=2))
        if not conv
        else (spanned(6, 8).T.reshape(8, 6, 1, 1), normal(4, 8, 3, 3, seed=2))
    )
    stored = w.T if kind == "Transpose" else w
    axis = None if axis is None else 1 - axis if kind == "Transpose" else axis
    q, scale, zero = quantized(stored, axis, dtype)
    bias = np.rint(normal(4, seed=3) / 1e-3).astype(np.int32)
    weights = {"v": v, "d": normal(8, seed=7), "q": q, "scale": scale, "zero": zero, "bq": bias, "bs": np.float32(1e-3)}
    nodes = [
        op("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=axis or 0),
        op("DequantizeLinear", ["bq", "bs"], ["b"]),
    ]  # fmt: skip
    if conv:
        nodes += [op("Conv", ["x", "v", "d"], ["h"]), op("Conv", ["h", "w", "b"], ["y"], name="product", pads=[1] * 4)]
        return build(nodes, weights, ["n", 6, 5, 5], opset=21)
    nodes += [op("Gemm", ["x", "v", "d"], ["h"])]
    if kind == "Transpose":
        nodes += [op("Transpose", ["w"], ["t"])]
    made = [op("MatMul", ["h", "w"], ["m"], name="product"), op("Add", ["m", "b"], ["y"])]
    nodes += (
        made
        if kind == "MatMul"
        else [op("Gemm", ["h", "t" if kind == "Transpose" else "w", "b"], ["y"], name="product")]
    )
    return build(nodes, weights, ["n", 6], opset=21)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul", "Transpose"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_behind_their_scale(kind: str, per_channel: bool, dtype: type) -> None:
    """They are fitted as numbers, and stored as integers of the same scale and zero point."""
    proto = dequantized(kind, (0 if kind == "Conv" else 1) if per_channel else None, dtype)
    shape = (8, 6, 5, 5) if kind == "Conv" else (64, 6)
    small, report = halved(proto, [{"x": normal(*shape, seed=i)} for i in range(3)], 8)
    check(report, ["product"], 0.4)
    assert [n.op_type for n in small.graph.node] == [n.op_type for n in proto.graph.node]
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (proto, small))
    assert after["q"].dtype == dtype and after["bq"].dtype == np.int32 and set(after) == set(before)
    for name in ("scale", "zero", "bs"):
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_a_product_of_integers_gets_no_bias_of_floats(kind: str) -> None:
    """ONNX Runtime would multiply floats instead."""
    proto = dequantized(kind, None, np.int8)
    (node,) = (n for n in proto.graph.node if n.name == "product")
    del node.input[2]
    shape = (8, 6, 5, 5) if kind == "Conv" else (64, 6)
    small, report = halved(proto, [{"x": normal(*shape, seed=i)} for i in range(3)], 8)
    check(report, ["product"], 0.9)
    assert next(len(n.input) for n in small.graph.node if n.name == "product") == 2


def test_integers_that_two_products_read_stay_as_they_are() -> None:
    proto = dequantized("Gemm", 1, np.int8)
    proto.graph.node.append(op("Gemm", ["h", "w", "b"], ["y2"], name="second"))
    proto.graph.output.append(helper.make_tensor_value_info("y2", 1, None))
    analysis = onnxprune.analyze(proto)
    report = repair(analysis, onnxprune.plan(analysis, ratio=0.5), [{"x": normal(64, 6)}], threads=1)[1]
    assert report.left_out == dict.fromkeys(("product", "second"), "its weight is shared with other nodes")


U8 = {"s": np.float32(0.04), "z": np.uint8(128), "ys": np.float32(0.3)}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", ["QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "QAttention"])
def test_products_of_integers(kind: str, per_channel: bool) -> None:
    """They are fitted as numbers, and stay integers of their scale."""
    conv, shape = (
        kind == "QLinearConv",
        (8, 6, 5, 5) if kind == "QLinearConv" else (64, 5, 6) if kind == "QAttention" else (64, 6),
    )
    v, w = spanned(6, 8) / 2, normal(8, 12, seed=2)
    if conv:
        v, w = v.T.reshape(8, 6, 1, 1), normal(4, 8, 3, 3, seed=2)
    q, scale, zero = quantized(w, (0 if conv else 1) if per_channel else None)
    bias = np.rint(normal(len(q) if conv else 12, seed=3) / (0.04 * scale)).astype(np.int32)
    weights = {"v": v, "d": normal(8, seed=7) / 2, "q": q, "ws": scale, "wz": zero, **U8}
    read, weight, made = ["h8", "s", "z"], ["q", "ws", "wz"], ["ys", "z"]
    node = {
        "QLinearConv": partial(op, "QLinearConv", [*read, *weight, *made, "b"], pads=[1] * 4),
        "QLinearMatMul": partial(op, "QLinearMatMul", [*read, *weight, *made]),
        "QGemm": partial(fused, "QGemm", [*read, *weight, "b", *made]),
        "MatMulIntegerToFloat": partial(fused, "MatMulIntegerToFloat", ["h8", "q", "s", "ws", "z", "wz", "b"]),
        "QAttention": partial(fused, "QAttention", ["h8", "q", "b", "s", "ws", "", "z", "wz"], num_heads=2),
    }[kind](["p"], name="product")
    if "b" in node.input:
        weights["b"] = bias if kind in ("QLinearConv", "QGemm") else normal(12, seed=3)
    nodes = [
        *([op("Conv", ["x", "v", "d"], ["h"])] if conv else [op("MatMul", ["x", "v"], ["g"]), op("Add", ["g", "d"], ["h"])]),
        op("QuantizeLinear", ["h", "s", "z"], ["h8"]), node,
        op("Identity", ["p"], ["y"]) if kind[0] == "M" or kind[1] == "A" else op("DequantizeLinear", ["p", *made], ["y"]),
    ]  # fmt: skip
    proto = build(nodes, weights, ["n", *shape[1:]])
    small, report = halved(proto, [{"x": normal(*shape, seed=i)} for i in range(3)], 8)
    check(report, ["product"], 0.6)
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (proto, small))
    for name in ("ws", "wz", "s", "z"):
        np.testing.assert_array_equal(after[name], before[name])
    assert after["q"].dtype == np.int8 and all(after[n].dtype == before[n].dtype for n in after)


def test_integers_of_a_scale_that_depends_on_the_data_are_left_out() -> None:
    weights = {"v": spanned(6, 8), "q": quantized(normal(8, 4), None)[0]}
    nodes = [
        op("MatMul", ["x", "v"], ["h"]), op("DynamicQuantizeLinear", ["h"], ["h8", "s", "z"]),
        op("MatMulInteger", ["h8", "q", "z"], ["p"], name="product"), op("Cast", ["p"], ["f"], to=1), op("Mul", ["f", "s"], ["y"]),
    ]  # fmt: skip
    report = halved(build(nodes, weights, ["n", 6]), [{"x": normal(64, 6)}], 8)[1]
    assert not report.layers and report.left_out == {"product": "it multiplies with int8, not with floats"}


def test_weights_that_the_graph_rounds_are_written_before_they_are_rounded() -> None:
    weights = {"v": spanned(6, 8), "w": normal(8, 4), "s": np.float32(0.03), "z": np.int8(0)}
    nodes = [
        op("MatMul", ["x", "v"], ["h"]), op("QuantizeLinear", ["w", "s", "z"], ["q"]),
        op("DequantizeLinear", ["q", "s", "z"], ["r"]), op("MatMul", ["h", "r"], ["y"], name="product"),
    ]  # fmt: skip
    small, report = halved(build(nodes, weights, ["n", 6]), [{"x": normal(64, 6)}], 8)
    check(report, ["product"], 0.3)
    assert {t.name: t.data_type for t in small.graph.initializer}["w"] == onnx.TensorProto.FLOAT


def test_weights_of_half_precision_that_are_cast() -> None:
    weights = {"v": spanned(6, 8), "w": normal(8, 4).astype(np.float16)}
    nodes = [
        op("MatMul", ["x", "v"], ["h"]),
        op("Cast", ["w"], ["f"], to=1),
        op("MatMul", ["h", "f"], ["y"], name="product"),
    ]
    small, report = halved(build(nodes, weights, ["n", 6]), [{"x": normal(64, 6)}], 8)
    check(report, ["product"])
    assert {t.name: t.data_type for t in small.graph.initializer}["w"] == onnx.TensorProto.FLOAT16
