"""What quantized weights stand for: the numbers that criteria read are those that ONNX Runtime computes with."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from laws import Array, check, run_ort
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.axes import Var
from onnxprune.groups import Group, Member
from onnxprune.scoring import make_slices

RNG = np.random.default_rng(3)
SCALES = (np.abs(RNG.standard_normal((6, 4))) * 0.1 + 0.01).astype(np.float32)


def bytes_of(*shape: int) -> Array:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def both(x: Array, weights: dict[str, Array], *nodes: onnx.NodeProto) -> tuple[Array, Array]:
    """What nodes compute from the input x, and the numbers of their weight 'w'."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", "N"])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    channels = Var(len(weights["w"]))
    group = Group("w", "", [channels], [Member("w", 0, "out", ("w", -1, -1), channels, ())])
    (rows,) = make_slices(onnxprune.analyze(onnxprune.load(proto)), group)
    return run_ort(proto, [{"x": x}])[0][0], rows.array


def node(op: str, inputs: str, weights: dict[str, Array], **attrs: Any) -> onnx.NodeProto:
    names = [n if n == "x" or n in weights else "" for n in inputs]
    return helper.make_node(op, names, ["y"], domain="com.microsoft", **attrs)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["none", "packed", "float"])
def test_matmul_in_blocks(bits: int, zeros: str) -> None:
    if (bits, zeros) == (8, "float"):
        pytest.skip("ONNX Runtime has no such kernel")
    weights = {"w": bytes_of(6, 4, 2 * bits), "s": SCALES}
    if zeros == "packed":
        weights["z"] = bytes_of(6, 4 * bits // 8)
    elif zeros == "float":
        weights["z"] = RNG.uniform(0, 15, (6, 4)).astype(np.float32)
    got, numbers = both(
        np.eye(64, dtype=np.float32), weights,
        node("MatMulNBits", "xwsz", weights, K=64, N=6, bits=bits, block_size=16),
    )  # fmt: skip
    np.testing.assert_allclose(numbers.reshape(6, 64).T, got, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_rows_in_blocks(packed: bool, zeros: bool) -> None:
    ids = np.arange(6)
    if packed:
        table, points = bytes_of(6, 32), bytes_of(6, 2)
    else:
        table, points = (RNG.integers(-8, 8, (6, n)).astype(ml_dtypes.int4) for n in (64, 4))
    weights = {"w": table, "s": SCALES} | ({"z": points} if zeros else {})
    got, numbers = both(
        ids, weights, node("GatherBlockQuantized", "wxsz", weights, block_size=16, quantize_axis=1, bits=4)
    )
    np.testing.assert_allclose(numbers.reshape(6, 64), got, rtol=1e-5)


@pytest.mark.parametrize("per", [0, 1, 5])
def test_columns(per: int) -> None:
    """One scale and zero point, or one of each for every column."""
    x, one = np.eye(7, dtype=np.uint8), {"a": np.ones((), np.float32), "b": np.zeros((), np.uint8)}
    scale = RNG.uniform(0.01, 0.1, (per,) if per else ()).astype(np.float32)
    zero = RNG.integers(-20, 20, (per,) if per else ()).astype(np.int8)
    weights = one | {"w": RNG.integers(-60, 60, (7, 5)).astype(np.int8), "s": scale, "z": zero}
    got, numbers = both(x, weights, node("MatMulIntegerToFloat", "xwasbz", weights))
    np.testing.assert_allclose(numbers, got, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["rows", "columns", "blocks", "a short block"])
def test_dequantized(form: str) -> None:
    shape = {"rows": (6,), "columns": (8,)}.get(form, (2, 8))
    weights = {
        "w": RNG.integers(-8, 8, (6, 8)).astype(ml_dtypes.int4),
        "s": RNG.uniform(0.01, 0.1, shape).astype(np.float32),
        "z": RNG.integers(-8, 8, shape).astype(ml_dtypes.int4),
    }
    block = {"blocks": 3, "a short block": 4}.get(form, 0)
    attrs = {"axis": int(form == "columns"), "block_size": block}
    got, numbers = both(
        np.eye(6, dtype=np.float32), weights, helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"], **attrs),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    )  # fmt: skip
    np.testing.assert_allclose(numbers, got, rtol=1e-5)


TYPES = {
    "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4, "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16,
    "int32": np.int32, "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_whatever_is_dequantized_is_counted_and_pruned(kind: str) -> None:
    """x [N, 8] @ w [8, 16] + b [16] -> Relu -> @ z [16, 3]; weights of one type, the bias of int32, a scale for each output."""
    shapes, ints = {"w": (8, 16), "z": (16, 3)}, "int" in kind and kind != "int32"
    low = 0 if kind.startswith("u") else -8
    weights = {n: RNG.integers(low, low + 16, s).astype(np.int32).astype(TYPES[kind]) for n, s in shapes.items()}
    weights |= {"b": RNG.integers(-100, 100, 16).astype(np.int32)}
    nodes, scales = (
        [],
        {f"{n}_scale": RNG.uniform(0.01, 0.1, w.shape[-1]).astype(np.float32) for n, w in weights.items()},
    )
    zeros = {f"{n}_zero": RNG.integers(0, 4, weights[n].shape[-1]).astype(TYPES[kind]) for n in shapes if ints}
    for name, w in weights.items():
        given = [name, f"{name}_scale", *(z for z in zeros if z == f"{name}_zero")]
        nodes.append(helper.make_node("DequantizeLinear", given, [f"{name}_"], axis=w.ndim - 1))
    nodes += [
        helper.make_node("MatMul", ["x", "w_"], ["m"]),
        helper.make_node("Add", ["m", "b_"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "z_"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(a, n) for n, a in (weights | scales | zeros).items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = check(proto, [{"x": RNG.standard_normal((n, 8)).astype(np.float32)} for n in (1, 3)]).analysis
    reached = {(m.tensor, m.axis) for g in found.groups for m in g.members}
    assert {("w", 1), ("b", 0), ("z", 0)} <= reached
    assert found.params() == sum(a.size for a in (weights | scales | zeros).values())
    assert {s.name for s in make_slices(found, found.groups[0])} >= {"w", "b", "z"}
