"""Multiply-accumulates: every product against naive loops over the shapes of a run, and fused models against unfused ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product as every
from pathlib import Path
from typing import Any

import cases  # noqa: F401  (registers every case)
import numpy as np
import onnx
import onnxruntime
import pytest
from cases.base import CASES, UNCHECKED, Built, CaseOf
from hypothesis import HealthCheck, given, settings
from laws import run_ort, run_reference
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.ops.records import load_records

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]
Count = Callable[[Shapes, Shapes, dict[str, Any]], int]


def indices(*sizes: int) -> int:
    """How often the innermost line of so many nested loops runs."""
    return sum(1 for _ in every(*(range(n) for n in sizes)))


# Each function counts as a plain implementation would: for every output, one for every pair that is multiplied and added.


def conv(w: int) -> Count:
    """y[n, o, *t] += x[n, i, *(t + k)] * w[o, i, *k]"""
    return lambda x, y, _: sum(indices(*x[w][1:]) for _ in every(*(range(n) for n in y[0])))  # type: ignore[index, arg-type]


def conv_transpose(x: Shapes, y: Shapes, _: dict[str, Any]) -> int:
    """y[n, o, *(s + k)] += x[n, i, *s] * w[i, o, *k]"""
    return sum(indices(*x[1][1:]) for _ in every(*(range(n) for n in x[0])))  # type: ignore[index, arg-type]


def gemm(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    """y[m, n] += a[m, k] * b[k, n]"""
    k, m = x[0] if attrs.get("transA") else reversed(x[0])  # type: ignore[misc, arg-type]
    return indices(m, k, y[0][1])  # type: ignore[index]


def matmul(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    """y[*b, m, n] += a[*b, m, k] * b[*b, k, n]"""
    a = [*(x[0] or ())]
    if attrs.get("transBatchA"):
        a = [*a[1:-1], a[0], a[-1]]
    k = a[-2] if attrs.get("transA") and len(a) > 1 else a[-1]
    return indices(*(y[0] or ()), k)


def einsum(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    """y[right] += x0[term] * x1[term]: all letters are looped over; an ellipsis is the axes that the other letters leave."""
    left = attrs["equation"].replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(left, x, strict=True):
        hidden = len(shape or ()) - len(term.replace("...", ""))
        names = [*term.partition("...")[0], *(f".{n}" for n in range(hidden, 0, -1)), *term.partition("...")[2]]
        for name, n in zip(names, shape or (), strict=True):
            sizes[name] = max(n, sizes.get(name, 1))
    return indices(*sizes.values()) * (len(left) - 1)


def recurrent(x: Shapes, y: Shapes, _: dict[str, Any]) -> int:
    """At every step of every sample: gates[D, g] += w[D, g, i] * x[i] and r[D, g, h] * state[h]"""
    a, b, *_rest = x[0]  # type: ignore[misc]
    return sum(indices(*x[1]) + indices(*x[2]) for _ in every(range(a), range(b)))  # type: ignore[misc]


def attend(batch: int, queries: int, keys: int, heads: int, d: int, e: int) -> int:
    """score[b, h, q, k] += query[d] * key[d], then y[b, q, h, e] += score[b, h, q, k] * value[e]"""
    return indices(batch, heads, queries, keys, d) + indices(batch, heads, queries, keys, e)


def attention(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    q, k, v = x[0] or (), x[1] or (), x[2] or ()
    past = x[4][2] if len(x) > 4 and x[4] else 0
    if len(q) == 4:
        return attend(q[0], q[2], k[2] + past, q[1], q[3], v[3])
    n, kv = attrs["q_num_heads"], attrs["kv_num_heads"]
    return attend(q[0], q[1], k[1] + past, n, q[2] // n, v[2] // kv)


def multi_head(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    q, k, v = x[0] or (), (x[1] if len(x) > 1 else None) or (), (x[2] if len(x) > 2 else None) or ()
    n, past = attrs["num_heads"], x[6][2] if len(x) > 6 and x[6] else 0
    if len(q) == 5:  # [B, s, h, 3, d]
        return attend(q[0], q[1], q[1] + past, n, q[4], q[4])
    if len(k) == 5:  # [B, t, h, 2, d]
        return attend(q[0], q[1], k[1] + past, n, k[4], k[4])
    if len(k) == 4:  # [B, h, t, d]
        return attend(q[0], q[1], k[2] + past, n, k[3], v[3])
    return attend(q[0], q[1], k[1] + past, n, q[2] // n, v[2] // n)


def grouped(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    (b, s, width), past = y[0] or (), x[3][2] if len(x) > 3 and x[3] else 0  # type: ignore[misc]
    n = attrs["num_heads"]
    return attend(b, s, (x[1] or x[0] or ())[1] + past, n, width // n, width // n)


def packed(past_slot: int) -> Count:
    def count(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
        (b, s, i), (_, width), n = x[0] or (), x[1] or (), attrs["num_heads"]  # type: ignore[misc]
        past = x[past_slot][3] if len(x) > past_slot and x[past_slot] else 0  # type: ignore[index]
        q, _, v = attrs.get("qkv_hidden_sizes") or [width // 3] * 3
        return indices(b, s, i, width) + attend(b, s, s + past, n, q // n, v // n)

    return count


def linear_attention(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
    """Every token: state[d, e] += k[d] * v[e]; y[e] += q[d] * state[d, e]; a delta rule first reads k[d] * state[d, e]."""
    (b, t, width), n, kv = x[0] or (), attrs["q_num_heads"], attrs["kv_num_heads"]  # type: ignore[misc]
    d, e = width // n, (x[2] or ())[2] // kv
    delta = "delta" in attrs.get("update_rule", "gated_delta")
    return indices(b, t, kv, d, e) * (2 if delta else 1) + indices(b, t, n, d, e)


def experts(slots: Sequence[int]) -> Count:
    def count(x: Shapes, y: Shapes, attrs: dict[str, Any]) -> int:
        *tokens, many = x[1] or ()
        used, each = min(attrs.get("k", 1), many), 0
        for slot in (s for s in slots if s < len(x) and x[s]):
            _, rows, columns = x[slot] or ()  # type: ignore[misc]
            bits = attrs.get("expert_weight_bits", 4) if slots[1] == 5 else 8
            each += indices(rows, columns * 8 // bits)
        return indices(*tokens, used) * each

    return count


NAIVE: dict[str, Count] = {
    "Conv": conv(1), "FusedConv": conv(1), "NhwcConv": conv(1), "NhwcFusedConv": conv(1), "ConvInteger": conv(1),
    "QLinearConv": conv(3), "DeformConv": conv(1), "CausalConvWithState": conv(1), "ConvTranspose": conv_transpose,
    "Gemm": gemm, "FusedGemm": gemm, "QGemm": gemm, "MatMul": matmul, "FusedMatMul": matmul, "TransposeMatMul": matmul,
    "MatMulInteger": matmul, "QLinearMatMul": matmul, "MatMulIntegerToFloat": matmul, "DynamicQuantizeMatMul": matmul,
    "MatMulNBits": matmul, "MatMulBnb4": matmul, "Einsum": einsum, "LSTM": recurrent, "GRU": recurrent, "RNN": recurrent,
    "DynamicQuantizeLSTM": recurrent, "MultiHeadAttention": multi_head, "GroupQueryAttention": grouped, "QAttention": packed(8),
    "LinearAttention": linear_attention, "MoE": experts((2, 4, 6)), "QMoE": experts((2, 5, 8)),
}  # fmt: skip
PRODUCTS = sorted(key for key, found in load_records().items() if any(r.product for r in found))


def naive(node: onnx.NodeProto) -> Count | None:
    if node.op_type == "Attention":
        return packed(4) if node.domain else attention
    return NAIVE.get(node.op_type)


def test_every_product_has_a_naive_count() -> None:
    names = {op for _, op in PRODUCTS} - {"Attention"}
    assert names == set(NAIVE)
    assert {c.op for c in CASES}.union(UNCHECKED) >= set(PRODUCTS)


def at_size(built: Built, size: int, run: Any) -> tuple[onnx.ModelProto, dict[str, Shape]]:
    """The model with the sizes of its inputs written out, and the shape of every value in a run."""
    proto = onnx.ModelProto.FromString(built.proto.SerializeToString())
    feeds = built.feeds[size]
    for v in proto.graph.input:
        if v.name in feeds:
            for d, n in zip(v.type.tensor_type.shape.dim, feeds[v.name].shape, strict=True):
                d.dim_value = n
    for v in proto.graph.output:
        v.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer} | {n: x.shape for n, x in feeds.items()}
    known = {v.name for v in (*proto.graph.output, *proto.graph.input)}
    names = [o for n in proto.graph.node for o in n.output if o and o not in known]
    probe = onnx.ModelProto.FromString(proto.SerializeToString())
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    for v, x in zip(probe.graph.output, run(probe, [feeds])[0], strict=True):
        shapes[v.name] = np.shape(x)
    return proto, shapes


def check(case: CaseOf, built: Built) -> None:
    for size in (0, 1):
        if any(0 in x.shape for x in built.feeds[size].values()):  # an empty cache: a size of 0 is no size in a file
            continue
        proto, shapes = at_size(built, size, run_reference if case.reference else run_ort)
        want = 0
        for node in proto.graph.node:
            count = naive(node)
            if count is not None:
                attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                attrs = {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}
                want += count([shapes.get(n) for n in node.input], [shapes.get(n) for n in node.output], attrs)
        got = onnxprune.analyze(onnxprune.load(proto)).macs()
        assert got == want, f"{got} MACs, {want} by naive loops, at sizes {size}\n{onnx.printer.to_text(proto)[:2000]}"


@pytest.mark.parametrize("case", [c for c in CASES if c.op in set(PRODUCTS)], ids=lambda c: c.name)
def test_naive_loops(case: CaseOf) -> None:
    @settings(max_examples=2, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case.strategy())
    def holds(built: Built) -> None:
        check(case, built)

    holds()


# one function, written in several ways


def transformer(layers: int = 2, heads: int = 4, width: int = 32, masked: bool = True) -> onnx.ModelProto:
    """A BERT, as exporters wrote them when ONNX Runtime's attention fusions were made."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    inits: list[onnx.TensorProto] = []

    def op(kind: str, *ins: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(kind, ins, [f"{kind}_{len(nodes)}"], name=f"n{len(nodes)}", **attrs))
        return str(nodes[-1].output[0])

    def const(value: Any, dtype: Any = np.float32) -> str:
        inits.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{len(inits)}"))
        return str(inits[-1].name)

    def linear(x: str, made: int, used: int) -> str:
        return op(
            "Add", op("MatMul", x, const(rng.standard_normal((used, made)) * 0.2)), const(rng.standard_normal(made))
        )

    def split(x: str, perm: list[int]) -> str:
        return op("Transpose", op("Reshape", x, const([0, 0, heads, width // heads], np.int64)), perm=perm)

    def norm(x: str) -> str:
        return op("LayerNormalization", x, const(np.ones(width)), const(np.zeros(width)), axis=-1, epsilon=1e-5)

    hidden = op("MatMul", "x", const(rng.standard_normal((16, width)) * 0.2))
    mask = ""
    if masked:
        wide = op("Unsqueeze", op("Unsqueeze", "mask", const([1], np.int64)), const([2], np.int64))
        mask = op("Mul", op("Sub", const(1.0), op("Cast", wide, to=1)), const(-10000.0))
    hidden = norm(hidden)
    for _ in range(layers):
        q, k, v = (linear(hidden, width, width) for _ in range(3))
        scores = op("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
        scores = op("Div", scores, const(math.sqrt(width / heads)))
        weights = op("Softmax", op("Add", scores, mask) if masked else scores, axis=-1)
        mixed = op("Transpose", op("MatMul", weights, split(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        merged = op("Reshape", mixed, const([0, 0, width], np.int64))
        hidden = norm(op("Add", linear(merged, width, width), hidden))
        inner = linear(hidden, 4 * width, width)
        half = op("Mul", inner, op("Add", op("Erf", op("Div", inner, const(math.sqrt(2)))), const(1.0)))
        hidden = norm(op("Add", linear(op("Mul", half, const(0.5)), width, 4 * width), hidden))
    nodes.append(helper.make_node("MatMul", [hidden, const(rng.standard_normal((width, 8)))], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", 16])]
    if masked:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "seq"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", 8])]
    graph = helper.make_graph(nodes, "bert", inputs, outputs, inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LEVELS = onnxruntime.GraphOptimizationLevel


def optimized(path: Path, level: Any) -> Path:
    """The file that ONNX Runtime saves of its optimized graph."""
    out = path.with_name(f"{path.stem}_{level.name}.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.optimized_model_filepath = level, str(out)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return out


def kept(path: Path) -> list[tuple[int, int]]:
    """What one uniform ratio keeps of each group."""
    plan = onnxprune.plan(onnxprune.analyze(path), ratio=0.5)
    return sorted((c.size, len(c.keep)) for c in plan.groups.values())


def operators(path: Path) -> set[str]:
    return {n.op_type for n in onnx.load(path).graph.node}


@pytest.mark.parametrize("level", [LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED], ids=lambda level: level.name)
@pytest.mark.parametrize("masked", [True, False])
def test_onnx_runtime_s_optimizer_changes_no_count(level: Any, masked: bool, tmp_path: Path) -> None:
    onnx.save(transformer(masked=masked), tmp_path / "model.onnx")
    other = optimized(tmp_path / "model.onnx", level)
    whole = onnxprune.analyze(tmp_path / "model.onnx").macs()
    assert whole and onnxprune.analyze(other).macs() == whole
    assert kept(other) == kept(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind, masked", [("bert", True), ("vit", False)])
def test_fused_attention_has_the_same_count(kind: str, masked: bool, tmp_path: Path) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    pytest.importorskip("sympy")
    onnx.save(transformer(masked=masked), tmp_path / "model.onnx")
    fused = optimizer.optimize_model(str(tmp_path / "model.onnx"), kind, num_heads=4, hidden_size=32, opt_level=0)
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    assert "Attention" in operators(tmp_path / "fused.onnx"), "nothing was fused: the test would prove nothing"
    assert onnxprune.analyze(tmp_path / "fused.onnx").macs() == onnxprune.analyze(tmp_path / "model.onnx").macs()
    assert kept(tmp_path / "fused.onnx") == kept(tmp_path / "model.onnx")
