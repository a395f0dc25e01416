"""Weights whose integers share a byte or stand in blocks: zeros at the zero point along the inputs, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from laws import Array, run_ort
from onnx import TensorProto, helper, numpy_helper
from sparse_checker import violations
from tiny import saved

import onnxprune
from onnxprune.graph.save import build_full_proto
from onnxprune.sparsity import Sparsity, check_pattern, sparsify

MS = "com.microsoft"
ALL = Sparsity(layers="all", target="none")
RNG = np.random.default_rng(7)


def spread(q: Array, bits: int) -> Array:
    """The integers of bytes one by one, the first in the lowest bits."""
    parts = [(q >> at) & ((1 << bits) - 1) for at in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*q.shape[:-1], -1)


def draw_bytes(*shape: int) -> Array:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def draw_scales(*shape: int) -> Array:
    return RNG.uniform(0.01, 0.1, shape).astype(np.float32)


def build(op: str, inputs: list[str], weights: dict[str, Array], read: dict[str, int], **attrs: Any) -> onnx.ModelProto:
    """One node that reads activations [M, n], n by name, and writes y."""
    names = [n if n in weights or n in read else "" for n in inputs]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], "product", domain=MS, **attrs)], "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["M", size]) for n, size in read.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", None])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def in_blocks(bits: int, zeros: str, inputs: int = 64) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """MatMulNBits with blocks of 16 inputs, and 6 outputs."""
    weights = {"w": draw_bytes(6, 4, 2 * bits), "s": draw_scales(6, 4)}
    if zeros == "packed":
        weights["z"] = draw_bytes(6, 4 * bits // 8)
    elif zeros != "none":
        weights["z"] = np.full((6, 4), 1.5 if zeros == "halves" else 2, np.float32)
    slots = ["x", "w", "s", "z"]
    return build("MatMulNBits", slots, weights, {"x": inputs}, K=inputs, N=6, bits=bits, block_size=16), weights


def arrays(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("pattern", ["2:4", "unstructured", "1x4"])
@pytest.mark.parametrize(
    ("bits", "zeros"), [(b, z) for b in (2, 4, 8) for z in ("none", "packed")] + [(2, "whole"), (4, "whole")]
)
def test_a_product_in_blocks_gets_zeros_at_its_zero_points(bits: int, zeros: str, pattern: str) -> None:
    model, weights = in_blocks(bits, zeros)
    options = Sparsity(pattern=pattern, layers="all", target="none")
    found = sparsify(onnxprune.analyze(onnxprune.load(model)), options)
    (layer,) = found.layers
    assert layer.chosen and layer.matrix.shape == (1, 6, 64, 1), layer.why
    sparse = build_full_proto(found.model)
    new = arrays(sparse)
    assert all(np.array_equal(new[n], weights[n]) for n in weights if n != "w")
    each = np.eye(64, dtype=np.float32)
    (before,), (after,) = (
        run_ort(m, [{"x": each}])[0] for m in (model, sparse)
    )  # [inputs, outputs], as ONNX Runtime sees them
    assert np.array_equal(after[after != 0], before[after != 0])
    zero = (
        spread(weights["z"], bits).reshape(6, 4)
        if zeros == "packed"
        else np.full((6, 4), 2 if zeros == "whole" else 1 << (bits - 1))
    )
    integers = spread(new["w"], bits) - zero[:, :, None].astype(np.float32)
    dense = (integers * weights["s"][:, :, None]).reshape(6, 64)
    assert np.allclose(dense.T, after, atol=1e-6)
    if pattern == "2:4":
        assert violations(after.T, 2, 4) == 0
        largest = np.sort(np.abs(before.T.reshape(-1, 4)), axis=1)[:, 2:]
        assert np.allclose(np.abs(after.T.reshape(-1, 4)).sum(axis=1), largest.sum(axis=1), atol=1e-6)
    elif pattern == "unstructured":
        assert (after == 0).sum() == max(192, (before == 0).sum())
    for file, holds in ((sparse, True), (model, False)):
        (checked,) = check_pattern(onnxprune.load(file), options)
        assert checked.holds == holds


@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_experts_of_integers_get_zeros_at_their_zero_points(bits: int, block: int) -> None:
    """Each token goes to the expert that its row of the router names."""
    experts, width = 3, 32
    shape = (experts, width, width * bits // 8)
    each = (experts, width, width // block) if block else (experts, width)
    weights = {"w1": draw_bytes(*shape), "s1": draw_scales(*each), "w2": draw_bytes(*shape), "s2": draw_scales(*each)}
    attrs = {"k": 1, "activation_type": "relu", "expert_weight_bits": bits} | ({"block_size": block} if block else {})
    slots = ["x", "router", "w1", "s1", "", "w2", "s2", ""]
    model = build("QMoE", slots, weights, {"x": width, "router": experts}, **attrs)
    found = sparsify(onnxprune.analyze(onnxprune.load(model)), ALL)
    assert [x.matrix.weight for x in found.layers if x.chosen] == ["w1", "w2"]
    sparse = build_full_proto(found.model)
    new = arrays(sparse)
    assert all(np.array_equal(new[n], weights[n]) for n in ("s1", "s2"))

    def numbers(w: str, s: str) -> Array:
        scale = np.repeat(new[s], block, axis=-1) if block else new[s][..., None]
        return (spread(new[w], bits).astype(np.float32) - (1 << (bits - 1))) * scale

    first, second = numbers("w1", "s1"), numbers("w2", "s2")
    for w in (first, second):
        assert violations(w, 2, 4) == 0 and 0.4 < np.count_nonzero(w) / w.size <= 0.5
    x = RNG.standard_normal((2 * experts, width)).astype(np.float32)
    chosen = np.repeat(np.arange(experts), 2)
    (y,) = run_ort(sparse, [{"x": x, "router": 50 * np.eye(experts, dtype=np.float32)[chosen]}])[0]
    hidden = np.maximum(np.einsum("ti,toi->to", x, first[chosen]), 0)
    wanted = np.einsum("ti,toi->to", hidden, second[chosen])
    assert np.linalg.norm(y - wanted) < 0.02 * np.linalg.norm(wanted)  # 8 bits in blocks: inputs are rounded to 8 bits
    assert all(c.holds for c in check_pattern(onnxprune.load(sparse), ALL))
    assert not any(c.holds for c in check_pattern(onnxprune.load(model), ALL))


def test_layers_behind_one_that_cannot_be_fitted_make_up_for_it(tmp_path: Path) -> None:
    model, _ = in_blocks(4, "none")
    last = numpy_helper.from_array(RNG.standard_normal((6, 4)).astype(np.float32), "v")
    model.graph.initializer.append(last)
    model.graph.node[0].output[0] = "hidden"
    model.graph.node.append(helper.make_node("MatMul", ["hidden", "v"], ["y"], "last"))
    onnx.save(model, tmp_path / "m.onnx")
    calib = saved(tmp_path, x=RNG.standard_normal((256, 64)).astype(np.float32))
    made = onnxprune.sparsify(tmp_path / "m.onnx", tmp_path / "o.onnx", layers="all", target="none", calib=calib)
    rows = {x.name: x for x in made.report.sparsity.layers}
    assert [rows[n].method for n in ("product", "last")] == ["magnitude", "sparsegpt"]
    assert made.report.error.relative_l2 == pytest.approx(rows["last"].error, rel=0.05)


def codes() -> onnx.ModelProto:
    weights = {"w": draw_bytes(64 * 8 // 2), "s": draw_scales(32)}
    return build("MatMulBnb4", ["x", "w", "s"], weights, {"x": 64}, K=64, N=8, block_size=16, quant_type=1, transB=1)


def experts_with_zero_points() -> onnx.ModelProto:
    names = ["w1", "w2", "z1", "z2"]
    weights = {n: draw_bytes(3, 32, 16 if n[0] == "w" else 1) for n in names} | {
        n: draw_scales(3, 32, 2) for n in ("s1", "s2")
    }
    slots = ["x", "router", "w1", "s1", "", "w2", "s2", "", "", "", "", "z1", "z2"]
    return build("QMoE", slots, weights, {"x": 32, "router": 3}, k=1, activation_type="relu", block_size=16)


def with_computed_zero_point() -> onnx.ModelProto:
    model, _ = in_blocks(4, "packed")
    zeros = next(t for t in model.graph.initializer if t.name == "z")
    zeros.name = "packed"
    model.graph.node.insert(0, helper.make_node("Identity", ["packed"], ["z"]))
    return model


LEFT = {
    "a last block that is filled up": (lambda: in_blocks(4, "none", 60)[0], "its last block of inputs is filled up"),
    "zero points between integers": (lambda: in_blocks(4, "halves")[0], "its zero points are no whole numbers"),
    "a zero point that is computed": (with_computed_zero_point, "its scale or zero point is computed"),
    "codes of a table": (codes, "stand for unknown numbers"),
    "an operator that the rule does not know whole": (experts_with_zero_points, "stand for unknown numbers"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_written_is_left_with_a_reason(name: str) -> None:
    make, why = LEFT[name]
    model = make()
    found = sparsify(onnxprune.analyze(onnxprune.load(model)), ALL)
    assert found.layers and all(not x.chosen and why in x.why for x in found.layers), [x.why for x in found.layers]
    old, new = arrays(model), arrays(build_full_proto(found.model))
    assert all(np.array_equal(new[n], old[n]) for n in old)
    assert not any(c.holds for c in check_pattern(onnxprune.load(model), ALL))
