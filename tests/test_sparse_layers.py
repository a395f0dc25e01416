"""Zeros stand where the product looks for them, whatever lies between the file and the product: checked from outside."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from laws import run_ort, run_reference
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sparse_checker import operands, violations

import onnxprune
from onnxprune.graph.save import build_full_proto
from onnxprune.groups import analyze
from onnxprune.sparsity import Sparsified, Sparsity, check_pattern, sparsify

Array = NDArray[Any]
F32 = TensorProto.FLOAT
ALL = Sparsity(layers="all", target="none")
Graph = tuple[onnx.ModelProto, dict[str, Array]]
CASES: dict[str, Callable[[], Graph]] = {}


def case(make: Callable[[], Graph]) -> Callable[[], Graph]:
    CASES[make.__name__] = make
    return make


def rng(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array],
    x: list[Any],
    *,
    functions: Any = (),
    opset: int = 21,
    domains: tuple[str, ...] = (),
    elem: int = F32,
) -> onnx.ModelProto:
    """x -> y, of whose shape only the rank is said: it is that of x."""
    stored = [numpy_helper.from_array(w, name) for name, w in weights.items()]
    ins, outs = (
        [helper.make_tensor_value_info("x", elem, x)],
        [helper.make_tensor_value_info("y", elem, [None] * len(x))],
    )
    g = helper.make_graph(nodes, "g", ins, outs, stored)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(g, opset_imports=imports, functions=list(functions), ir_version=10)


def node(op: str, ins: str, out: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, ins.split(), [out], name=f"{op}_{out}", **attrs)


@case
def matmul_right() -> Graph:
    return graph([node("MatMul", "x w", "y")], {"w": rng(12, 8)}, ["N", 12]), {"x": rng(3, 12)}


@case
def matmul_left() -> Graph:
    return graph([node("MatMul", "w x", "y")], {"w": rng(8, 12)}, [12, 5]), {"x": rng(12, 5)}


@case
def matmul_of_batches() -> Graph:
    return graph([node("MatMul", "x w", "y")], {"w": rng(3, 12, 8)}, [3, 5, 12]), {"x": rng(3, 5, 12)}


@case
def matmul_left_of_batches() -> Graph:
    return graph([node("MatMul", "w x", "y")], {"w": rng(3, 8, 12)}, [3, 12, 5]), {"x": rng(3, 12, 5)}


@case
def gemm_turned() -> Graph:
    return graph([node("Gemm", "x w", "y", transB=1, alpha=0.5)], {"w": rng(8, 12)}, ["N", 12]), {"x": rng(3, 12)}


@case
def gemm_with_the_constant_first() -> Graph:
    return graph([node("Gemm", "w x", "y", transA=1)], {"w": rng(12, 8)}, [12, 5]), {"x": rng(12, 5)}


@case
def convolution() -> Graph:
    return graph([node("Conv", "x w", "y")], {"w": rng(6, 8, 3, 3)}, ["N", 8, 7, 7]), {"x": rng(2, 8, 7, 7)}


@case
def convolution_with_inputs_left_over() -> Graph:
    return graph([node("Conv", "x w", "y")], {"w": rng(6, 7, 3)}, ["N", 7, 9]), {"x": rng(2, 7, 9)}


@case
def grouped() -> Graph:
    return graph([node("Conv", "x w", "y", group=2)], {"w": rng(6, 8, 3, 3)}, ["N", 16, 7, 7]), {"x": rng(2, 16, 7, 7)}


@case
def transposed_convolution() -> Graph:
    return graph([node("ConvTranspose", "x w", "y")], {"w": rng(8, 6, 3, 3)}, ["N", 8, 4, 4]), {"x": rng(2, 8, 4, 4)}


@case
def channels_last_kernel() -> Graph:
    """As TensorFlow's exporter writes it: [kh, kw, i, o] behind a Transpose."""
    nodes = [node("Transpose", "w", "t", perm=[3, 2, 0, 1]), node("Conv", "x t", "y")]
    return graph(nodes, {"w": rng(3, 3, 8, 6)}, ["N", 8, 7, 7]), {"x": rng(2, 8, 7, 7)}


@case
def a_square_behind_a_transpose() -> Graph:
    nodes = [node("Transpose", "w", "t"), node("MatMul", "x t", "y")]
    return graph(nodes, {"w": rng(8, 8)}, ["N", 8]), {"x": rng(3, 8)}


@case
def three_axes_behind_a_transpose() -> Graph:
    nodes = [node("Transpose", "w", "t", perm=[1, 2, 0]), node("MatMul", "x t", "y")]
    return graph(nodes, {"w": rng(8, 3, 8)}, [3, 5, 8]), {"x": rng(3, 5, 8)}


@case
def through_casts_and_names() -> Graph:
    nodes = [node("Cast", "w", "c", to=F32), node("Identity", "c", "i"), node("MatMul", "x i", "y")]
    return graph(nodes, {"w": rng(12, 8).astype(np.float16)}, ["N", 12]), {"x": rng(3, 12)}


@case
def bfloat16() -> Graph:
    nodes = [node("Cast", "w", "c", to=F32), node("MatMul", "x c", "y")]
    return graph(nodes, {"w": rng(12, 8).astype(ml_dtypes.bfloat16)}, ["N", 12]), {"x": rng(3, 12)}


@case
def float8() -> Graph:
    nodes = [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "y")]
    weights = {"w": rng(12, 8).astype(ml_dtypes.float8_e4m3fn), "s": np.array(0.5, np.float32)}
    return graph(nodes, weights, ["N", 12]), {"x": rng(3, 12)}


@case
def through_reshapes() -> Graph:
    nodes = [node("Reshape", "w s", "r"), node("Conv", "x r", "y")]
    return graph(nodes, {"w": rng(6, 8), "s": np.array([6, 8, 1, 1])}, ["N", 8, 3, 3]), {"x": rng(2, 8, 3, 3)}


@case
def patches_in_a_row() -> Graph:
    """A convolution as a product: kernel positions and channels are one axis, the channels innermost."""
    nodes = [
        node("Transpose", "w", "t", perm=[0, 2, 3, 1]),
        node("Reshape", "t s", "r"),
        node("Gemm", "x r", "y", transB=1),
    ]
    return graph(nodes, {"w": rng(6, 8, 3, 3), "s": np.array([6, 72])}, ["N", 72]), {"x": rng(2, 72)}


@case
def squeezed() -> Graph:
    nodes = [node("Squeeze", "w a", "r"), node("MatMul", "x r", "y")]
    return graph(nodes, {"w": rng(1, 12, 8), "a": np.array([0])}, ["N", 12]), {"x": rng(3, 12)}


@case
def constant_node() -> Graph:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rng(12, 8)))
    return graph([constant, node("MatMul", "x w", "y")], {}, ["N", 12]), {"x": rng(3, 12)}


def quantized(dtype: Any, zero: Any, axis: int | None, **attrs: Any) -> Graph:
    """int8 and the like behind a DequantizeLinear, with the zero points given."""
    info = ml_dtypes.iinfo(dtype)
    w = np.random.default_rng(0).integers(int(info.min), int(info.max) + 1, (12, 8)).astype(dtype)
    count = 1 if axis is None else w.shape[axis]
    scale = np.linspace(0.01, 0.02, count).astype(np.float32)
    z = np.resize(np.asarray(zero), count).astype(dtype)
    weights = {"w": w, "s": scale if axis is not None else scale[0], "z": z if axis is not None else z[0]}
    nodes = [
        node("DequantizeLinear", "w s z", "d", **({} if axis is None else {"axis": axis})),
        node("MatMul", "x d", "y"),
    ]
    return graph(nodes, {k: np.asarray(v) for k, v in weights.items()}, ["N", 12], **attrs), {"x": rng(3, 12)}


@case
def int8() -> Graph:
    return quantized(np.int8, 0, 1)


@case
def uint8_with_a_zero_point_for_each_output() -> Graph:
    return quantized(np.uint8, [128, 3, 255], 1)


@case
def uint8_with_a_scale_for_each_input() -> Graph:
    return quantized(np.uint8, [120, 130], 0)


@case
def uint8_that_is_moved_before_it_is_dequantized() -> Graph:
    """Zero points and scales of a Reshape's and a Transpose's axes."""
    model, feeds = quantized(np.uint8, [128, 3, 255], 1)
    (w,) = (t for t in model.graph.initializer if t.name == "w")
    w.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(w).T.reshape(2, 4, 12)), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([8, 12]), "shape"))
    moves = [node("Reshape", "w shape", "r"), node("Transpose", "r", "t", perm=[1, 0])]
    rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    rest[0].input[0] = "t"
    del model.graph.node[:]
    model.graph.node.extend([*moves, *rest])
    return model, feeds


@case
def int4() -> Graph:
    return quantized(ml_dtypes.int4, 0, None)


@case
def int4_with_a_zero_point() -> Graph:
    return quantized(ml_dtypes.int4, 3, None)


@case
def uint16_with_a_zero_point_beyond_int16() -> Graph:
    return quantized(np.uint16, 40000, None)


@case
def int16_with_a_zero_point_for_each_output() -> Graph:
    return quantized(np.int16, [-20000, 3, 32767], 1)


@case
def uint4_with_a_zero_point_for_each_output() -> Graph:
    return quantized(ml_dtypes.uint4, [8, 3, 15], 1)


@case
def int32() -> Graph:
    return quantized(np.int32, 0, None)


@case
def uint8_in_blocks_of_outputs_with_scales_for_each_input() -> Graph:
    w = np.random.default_rng(0).integers(0, 256, (12, 8)).astype(np.uint8)
    scale = np.random.default_rng(1).uniform(0.01, 1, (12, 2)).astype(np.float32)
    nodes = [node("DequantizeLinear", "w s", "d", axis=1, block_size=4), node("MatMul", "x d", "y")]
    return graph(nodes, {"w": w, "s": scale}, ["N", 12]), {"x": rng(3, 12)}


@case
def constant_node_of_one_axis() -> Graph:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rng(96)))
    nodes = [constant, node("Reshape", "w s", "r"), node("MatMul", "x r", "y")]
    return graph(nodes, {"s": np.array([12, 8])}, ["N", 12]), {"x": rng(3, 12)}


@case
def vector() -> Graph:
    nodes = [node("MatMul", "x w", "m"), node("Unsqueeze", "m a", "y")]
    return graph(nodes, {"w": rng(12), "a": np.array([1])}, ["N", 12]), {"x": rng(3, 12)}


@case
def batches_between_the_axes() -> Graph:
    product = node("FusedMatMul", "x w", "y", domain="com.microsoft", transBatchB=1)
    return graph([product], {"w": rng(12, 3, 8)}, [3, 5, 12], domains=("com.microsoft",)), {"x": rng(3, 5, 12)}


@case
def groups_across_the_rows_of_a_large_tensor() -> Graph:
    """The axis that is summed over is two of the file, the outermost one inside; six is no multiple of four."""
    nodes = [node("Transpose", "w", "t", perm=[2, 0, 1]), node("Reshape", "t s", "r"), node("MatMul", "x r", "y")]
    return graph(nodes, {"w": rng(6, 20000, 3), "s": np.array([18, 20000])}, ["N", 18]), {"x": rng(3, 18)}


@case
def fake_quantized() -> Graph:
    """Float weights between QuantizeLinear and DequantizeLinear, as training with quantization leaves them."""
    nodes = [node("QuantizeLinear", "w s z", "q"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "x d", "y")]
    weights = {"w": rng(12, 8), "s": np.array(0.02, np.float32), "z": np.array(7, np.int8)}
    return graph(nodes, weights, ["N", 12]), {"x": rng(3, 12)}


@case
def two_readers_that_agree() -> Graph:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r w", "y")]
    return graph(nodes, {"w": rng(8, 8)}, ["N", 8]), {"x": rng(3, 8)}


@case
def branches() -> Graph:
    def branch(seed: int) -> onnx.GraphProto:
        w = numpy_helper.from_array(rng(12, 8, seed=seed), "w")
        out = helper.make_tensor_value_info("b", F32, [None, None])
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["b"], name=f"in_{seed}")], f"b{seed}", [], [out], [w]
        )

    nodes = [
        node("ReduceSum", "x", "total", keepdims=0),
        node("Greater", "total zero", "positive"),
        node("If", "positive", "y", then_branch=branch(1), else_branch=branch(2)),
    ]
    return graph(nodes, {"zero": np.array(0, np.float32)}, ["N", 12]), {"x": rng(3, 12)}


@case
def function_called_twice() -> Graph:
    """The weight is a Constant in the function's body: one tensor for both calls."""
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(rng(8, 8)))
    body = [
        constant,
        helper.make_node("MatMul", ["a", "w"], ["b"], name="inside"),
        helper.make_node("Relu", ["b"], ["c"]),
    ]
    f = helper.make_function("mine", "Layer", ["a"], ["c"], body, [helper.make_opsetid("", 21)])
    calls = [helper.make_node("Layer", [i], [o], domain="mine", name=f"call_{o}") for i, o in (("x", "h"), ("h", "y"))]
    return graph(calls, {}, ["N", 8], functions=[f], domains=("mine",)), {"x": rng(3, 8)}


@case
def function_that_is_given_its_weight() -> Graph:
    body = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["b"], name="inside")]
    f = helper.make_function("mine", "Linear", ["a", "w"], ["b"], body, [helper.make_opsetid("", 21)])
    calls = [
        helper.make_node("Linear", [i, w], [o], domain="mine", name=f"call_{o}")
        for i, w, o in (("x", "w1", "h"), ("h", "w2", "y"))
    ]
    return graph(calls, {"w1": rng(12, 8), "w2": rng(4, 12, seed=1)}, ["N", 8], functions=[f], domains=("mine",)), {
        "x": rng(3, 8)
    }


def made(model: onnx.ModelProto, options: Sparsity = ALL) -> tuple[Sparsified, onnx.ModelProto]:
    found = sparsify(analyze(onnxprune.load(model)), options)
    return found, build_full_proto(found.model)


@pytest.mark.parametrize("name", CASES)
def test_both_checkers_find_the_pattern_and_what_stays_is_the_most(name: str) -> None:
    model, feeds = CASES[name]()
    before = operands(model)
    assert before and all(violations(w, 2, 4) for w in before.values())
    found, sparse = made(model)
    assert all(x.chosen for x in found.layers), [x.why for x in found.layers]
    after = operands(sparse)
    assert after.keys() == before.keys()
    for key, w in after.items():
        assert violations(w, 2, 4) == 0, key
        assert_largest(before[key], w)
    assert all(c.holds for c in check_pattern(onnxprune.load(sparse), ALL))
    broken = check_pattern(onnxprune.load(model), ALL)
    assert not any(c.holds for c in broken)
    onnx.checker.check_model(sparse, full_check=True)
    assert [f.name for f in sparse.functions] == [f.name for f in model.functions]
    assert list(sparse.opset_import) == list(model.opset_import)
    run = run_reference if "float8" in name or "bfloat16" in name else run_ort
    (new,), (old,) = run(sparse, [feeds])[0], run(model, [feeds])[0]
    assert new.shape == old.shape and not np.array_equal(new, old)


def assert_largest(before: Array, after: Array) -> None:
    """Of every four inputs the two largest are there, as they were; of those left over too."""
    k = before.shape[-1]
    for at in range(0, k, 4):
        old, new = (
            before[..., at : at + 4].reshape(-1, min(4, k - at)),
            after[..., at : at + 4].reshape(-1, min(4, k - at)),
        )
        assert np.array_equal(new[new != 0], old[new != 0])
        best = np.sort(np.abs(old), axis=1)[:, -2:].sum(axis=1)
        assert np.allclose(np.abs(new).sum(axis=1), best)


def test_outputs_of_other_scales_compete_by_their_numbers() -> None:
    """Four outputs of a hundred times the scale of the others: their weights stay, whatever the integers are."""
    w = np.random.default_rng(0).integers(1, 128, (12, 8)).astype(np.int8)
    scale = np.array([1.0] * 4 + [0.001] * 4, np.float32)
    nodes = [node("DequantizeLinear", "w s", "d", axis=1), node("MatMul", "x d", "y")]
    model = graph(nodes, {"w": w, "s": scale}, ["N", 12])
    for pattern in ("unstructured", "filter"):
        (after,) = operands(made(model, Sparsity(pattern=pattern, layers="all"))[1]).values()
        assert np.array_equal((after != 0).sum(axis=1), [12] * 4 + [0] * 4), pattern


def test_integers_and_floats_compete_by_their_numbers() -> None:
    w = np.random.default_rng(0).integers(64, 128, (12, 8)).astype(np.int8)
    nodes = [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "a"), node("MatMul", "a v", "y")]
    weights = {"w": w, "s": np.float32(1e-5), "v": 1 + np.abs(rng(8, 12))}
    model = graph(nodes, weights, ["N", 12])
    small, large = operands(made(model, Sparsity(pattern="unstructured", scope="global", layers="all"))[1]).values()
    assert not small.any() and large.all()


@pytest.mark.parametrize("shape", [(12, 0), (0, 8)])
def test_a_weight_of_no_elements_is_no_layer(shape: tuple[int, int]) -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": np.zeros(shape, np.float32)}, ["N", shape[0]])
    assert made(model)[0].layers == [] and made(model, Sparsity(pattern="unstructured"))[0].layers == []


def test_every_small_group_by_brute_force() -> None:
    """All 4-tuples of a few values: no choice of two keeps more, equal ones included."""
    rows = np.array(list(itertools.product([-2.0, -1.0, 0.0, 1.0, 3.0], repeat=4)), np.float32)
    _, sparse = made(graph([node("Gemm", "x w", "y", transB=1)], {"w": rows}, ["N", 4]))
    (w,) = operands(sparse).values()
    assert violations(w, 2, 4) == 0
    assert np.array_equal(np.abs(w).sum(axis=1), np.sort(np.abs(rows), axis=1)[:, 2:].sum(axis=1))


LEFT = {
    "two axes of one weight": (
        [node("MatMul", "x w", "a"), node("Transpose", "w", "t"), node("MatMul", "a t", "y")],
        {"w": rng(8, 8)},
        "sum over different axes",
    ),
    "a table that is looked up": (
        [node("Gather", "w i", "e", axis=0), node("Transpose", "w", "t"), node("MatMul", "x t", "m"), node("Add", "m e", "y")],
        {"w": rng(8, 8), "i": np.array(1)},
        "Gather 'Gather_e' reads it too",
    ),
    "an output of the graph": ([node("MatMul", "x y", "z")], {"y": rng(8, 8)}, "output of the graph"),
    "a weight that is computed": (
        [node("RandomNormalLike", "w", "p"), node("MatMul", "x p", "y")], {"w": rng(8, 8)},
        "RandomNormalLike 'RandomNormalLike_p' computes it",
    ),
    "two zero points": (
        [node("DequantizeLinear", "w s", "a"), node("DequantizeLinear", "w s z", "b"), node("MatMul", "x a", "m"),
         node("MatMul", "m b", "y")],
        {"w": np.arange(64, dtype=np.uint8).reshape(8, 8), "s": np.float32(0.1), "z": np.uint8(9)},
        "several zero points",
    ),
    "a list of floats": (
        [helper.make_node("Constant", [], ["w"], value_floats=[1.0] * 64), node("Reshape", "w s", "r"), node("MatMul", "x r", "y")],
        {"s": np.array([8, 8])},
        "no plain tensor",
    ),
    "powers of two": (
        [node("Cast", "w", "c", to=F32), node("MatMul", "x c", "y")],
        {"w": np.ones((8, 8), ml_dtypes.float8_e8m0fnu)},
        "powers of two",
    ),
    "a Reshape that cuts through": (
        [node("Transpose", "w", "t"), node("Reshape", "t s", "r"), node("MatMul", "x r", "y")],
        {"w": rng(6, 8), "s": np.array([-1, 4])},
        "cuts through",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_told_is_left_with_a_reason(name: str) -> None:
    nodes, weights, why = LEFT[name]
    width = 12 if "cuts" in name else 8
    model = graph(nodes, weights, ["N", width])
    if "output" in name:
        model.graph.output.append(helper.make_tensor_value_info("z", F32, [None, 8]))
    found, sparse = made(model)
    said = [x.why for x in found.layers]
    assert any(why in w for w in said), said
    for t in sparse.graph.initializer:
        assert np.array_equal(numpy_helper.to_array(t), weights[t.name])


def test_layers_that_are_not_chosen_stay_bit_for_bit(tmp_path: Path) -> None:
    model, _ = CASES["function_that_is_given_its_weight"]()
    found, sparse = made(model, Sparsity(layers="all", target="none", exclude=["w2"]))
    assert [x.chosen for x in found.layers] == [True, False]
    kept = {t.name: numpy_helper.to_array(t) for t in sparse.graph.initializer}
    old = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert np.array_equal(kept["w2"], old["w2"]) and not np.array_equal(kept["w1"], old["w1"])
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in (first, second):
        onnxprune.save(found.model, path)
    assert first.read_bytes() == second.read_bytes()
