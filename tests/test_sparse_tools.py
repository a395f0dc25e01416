"""The scripts about 2:4 in tools/: polygraphy's opinion beside ours, TensorRT's log, PyTorch's compression."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from laws import run_ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sparse_checker import operands as constants
from test_sparse_layers import CASES, F32, Graph, graph, made, node, rng

import onnxprune
from onnxprune.sparsity import Sparsity, check_pattern

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import polygraphy_check
import semi_structured
import trt_time

Array = NDArray[Any]
TOOLS = Path(trt_time.__file__).parent


@pytest.fixture
def polygraphy() -> Any:
    return pytest.importorskip("polygraphy.tools.sparse", reason="polygraphy is not installed (pip install polygraphy)")


def kept(w: Array, axis: int) -> Array:
    """2:4 along an axis, with the odd ones gone."""
    at = np.arange(w.shape[axis]).reshape([-1 if a == axis else 1 for a in range(w.ndim)])
    return np.where(at % 2 == 0, w, np.float32(0))


# Graphs that show what polygraphy gets wrong, and are as they are: (ours, polygraphy's), flaw
def half(w: Array, op: str = "MatMul", **attrs: Any) -> Graph:
    nodes = [node("Cast", "w", "c", to=F32), node(op, "x c", "y", **attrs)]
    return graph(nodes, {"w": w.astype(ml_dtypes.bfloat16)}, ["N", 8]), {}


def bfloat16_with_zeros_on_the_diagonals_that_it_reads() -> Graph:
    w = rng(8, 8)
    w[np.arange(8), np.arange(8) % 4] = 0
    return half(w)


def bfloat16_whose_diagonals_are_full() -> Graph:
    w = kept(rng(8, 8), 0)
    w[:, [1, 3]] = np.roll(w[:, [1, 3]], 1, axis=0)
    return half(w)


def bfloat16_whose_zeros_are_negative() -> Graph:
    return half(np.full((8, 8), -0.0, np.float32))


def bfloat16_read_past_its_end() -> Graph:
    return half(kept(rng(8, 8), 1)[:, [1, 0, 3, 2, 5, 4, 7, 6]], "Gemm", transB=1)


def a_vector_on_the_left() -> Graph:
    model = graph([node("MatMul", "w x", "y")], {"w": kept(rng(8), 0)}, [8, 5])
    model.graph.output[0].type.tensor_type.shape.dim.pop()
    return model, {}


def two_axes_of_one_weight() -> Graph:
    nodes = [node("MatMul", "x w", "a"), node("Gemm", "a w", "y", transB=1)]
    return graph(nodes, {"w": kept(rng(8, 8), 1)}, ["N", 8]), {}


def function_named_like_an_operator() -> Graph:
    body = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["b"], name="inside")]
    f = helper.make_function("mine", "MatMul", ["a", "w"], ["b"], body, [helper.make_opsetid("", 21)])
    call = helper.make_node("MatMul", ["x", "w"], ["y"], domain="mine", name="call")
    return graph([call], {"w": kept(rng(8, 8), 1)}, ["N", 8], functions=[f], domains=("mine",)), {}


def channels_last_kernel_that_it_pruned() -> Graph:
    nodes = [node("Transpose", "w", "t", perm=[3, 2, 0, 1]), node("Conv", "x t", "y")]
    return graph(nodes, {"w": kept(rng(3, 3, 8, 8), 3)}, ["N", 8, 7, 7]), {}


def stack_that_it_pruned() -> Graph:
    return graph([node("MatMul", "x w", "y")], {"w": kept(rng(4, 8, 8), 0)}, [4, 5, 8]), {}


SHOWN: dict[Callable[[], Graph], tuple[bool | None, bool | None, str]] = {
    bfloat16_with_zeros_on_the_diagonals_that_it_reads: (False, True, "bfloat16"),
    bfloat16_whose_diagonals_are_full: (True, False, "bfloat16"),
    bfloat16_whose_zeros_are_negative: (True, False, "bfloat16"),
    bfloat16_read_past_its_end: (True, None, "bfloat16"),
    a_vector_on_the_left: (True, None, "vector"),
    two_axes_of_one_weight: (None, True, "shared"),
    function_named_like_an_operator: (True, False, "domain"),
    channels_last_kernel_that_it_pruned: (False, True, "Transpose"),
    stack_that_it_pruned: (False, True, "batch"),
}
# Of the graphs of test_sparse_layers, once they are sparse: the flaw for which polygraphy says something else, or nothing.
DIFFER = {
    "matmul_of_batches": "batch",
    "matmul_left_of_batches": "batch",
    "convolution_with_inputs_left_over": "width",
    "transposed_convolution": "operator",
    "channels_last_kernel": "Transpose",
    "a_square_behind_a_transpose": "perm",
    "through_casts_and_names": "path",
    "through_reshapes": "path",
    "patches_in_a_row": "path",
    "squeezed": "path",
    "constant_node": "inner",
    "constant_node_of_one_axis": "inner",
    "batches_between_the_axes": "operator",
    "groups_across_the_rows_of_a_large_tensor": "path",
    "branches": "body",
    "function_called_twice": "body",
    "function_that_is_given_its_weight": "body",
    **dict.fromkeys(
        ("float8", "int8", "uint8_with_a_zero_point_for_each_output", "uint8_with_a_scale_for_each_input", "int4"),
        "type",
    ),
    "uint8_that_is_moved_before_it_is_dequantized": "path",
    **dict.fromkeys(("int4_with_a_zero_point", "uint16_with_a_zero_point_beyond_int16", "int32"), "type"),
    **dict.fromkeys(("int16_with_a_zero_point_for_each_output", "uint4_with_a_zero_point_for_each_output"), "type"),
    "uint8_in_blocks_of_outputs_with_scales_for_each_input": "type",
}


@pytest.mark.parametrize("name", CASES)
def test_polygraphy_differs_where_it_is_known_wrong_and_nowhere_else(polygraphy: Any, name: str) -> None:
    rows, error = polygraphy_check.compare(made(CASES[name]()[0])[1])
    assert rows and not error and all(r.explained and r.ours for r in rows)
    assert {r.flaw for r in rows} == {DIFFER.get(name, "")}
    assert all(r.agree == (name not in DIFFER) for r in rows)


@pytest.mark.parametrize("make", SHOWN)
def test_small_graphs_show_its_flaws(polygraphy: Any, make: Callable[[], Graph]) -> None:
    (row,), error = polygraphy_check.compare(make()[0])
    assert (row.ours, row.theirs, row.flaw) == SHOWN[make]
    assert bool(error) == (row.flaw == "vector" or make is bfloat16_read_past_its_end)


def test_every_flaw_has_a_graph() -> None:
    assert {*DIFFER.values(), *(flaw for _, _, flaw in SHOWN.values())} == polygraphy_check.FLAWS.keys()


def test_a_verdict_that_nothing_explains_is_told(
    polygraphy: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(graph([node("MatMul", "x w", "y")], {"w": kept(rng(8, 8), 0)}, ["N", 8]), path)
    monkeypatch.setattr(sys, "argv", ["polygraphy_check.py", str(path)])
    assert polygraphy_check.main() == 0 and "1 of 1 layers agree" in capsys.readouterr().out
    monkeypatch.setattr(polygraphy, "process_tensor", lambda *_: False)
    assert polygraphy_check.main() == 1 and "UNEXPLAINED" in capsys.readouterr().out


# What `polygraphy surgeon prune`, which has the same walk, does to a model.
def test_its_pruner_goes_by_position_in_bfloat16(polygraphy: Any) -> None:
    w = rng(8, 8)
    (stored,) = polygraphy.SparsityPruner(half(w)[0]).prune().graph.initializer
    left = numpy_helper.to_array(stored).astype(np.float32) != 0
    assert np.array_equal(left, np.tile([[True], [False], [False], [True]], (2, 8)))


def test_its_pruner_drops_opset_imports_and_functions(polygraphy: Any) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    f = helper.make_function("mine", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    nodes = [node("MatMul", "x w", "h"), helper.make_node("Act", ["h"], ["y"], domain="mine")]
    model = graph(nodes, {"w": rng(8, 8)}, ["N", 8], functions=[f], domains=("mine",))
    with np.errstate(over="ignore"):
        pruned = polygraphy.SparsityPruner(model).prune()
    assert not pruned.functions and [o.domain for o in pruned.opset_import] == [""]
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(pruned)
    assert constants(made(model)[1]).keys() == {"MatMul_h"}


# TensorRT's log; after those of NVIDIA/TensorRT issues 4056 and 2169 (8.x) and of ModelOpt's example for 10.14
OLD = """\
[08/05/2024-12:06:54] [V] [TRT] Engine generation completed in 92.1 seconds.
[08/05/2024-12:06:54] [I] [TRT] (Sparsity) Layers eligible for sparse math: wide + Relu_3 + Add_4, node_of_h, Gemm_9 || fc
[08/05/2024-12:06:54] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers:{picked}
[08/05/2024-12:06:55] [I] [TRT] [MemUsageChange] TensorRT-managed allocation in building engine: CPU +0, GPU +25
[08/05/2024-12:07:01] [I] === Performance summary ===
[08/05/2024-12:07:01] [I] Throughput: 501.618 qps
[08/05/2024-12:07:01] [I] Latency: min = 1.81 ms, max = 3.18 ms, mean = 2.05 ms, median = 2.02 ms, percentile(99%) = 2.29 ms
[08/05/2024-12:07:01] [I] GPU Compute Time: min = 1.79 ms, max = 2.9 ms, mean = 1.95 ms, median = {ms} ms, percentile(99%) = 2.2 ms
[08/05/2024-12:07:01] [I] Total GPU Compute Time: 2.9606 s
"""
NEW = """\
[V] [TRT] (Sparsity) Found 9 layer(s) eligible to use sparse tactics: a, b
[V] [TRT] (Sparsity) Chose 3 layer(s) using sparse tactics: a
[V] [TRT] (Sparsity) Found 2 layer(s) eligible to use sparse tactics: wide_myl0_12, /fc/MatMul + /act/Relu
[V] [TRT] (Sparsity) Chose 0 layer(s) using sparse tactics:
"""


def test_both_forms_of_the_log_are_read() -> None:
    old = trt_time.read_log(OLD.format(picked=" wide + Relu_3 + Add_4", ms=1.9))
    assert old.eligible == trt_time.LayerCount(3, ("wide + Relu_3 + Add_4", "node_of_h", "Gemm_9 || fc"))
    assert old.picked == trt_time.LayerCount(1, ("wide + Relu_3 + Add_4",)) and old.median_ms == 1.9
    assert trt_time.read_log(OLD.format(picked="", ms=2)).picked == trt_time.LayerCount(0, ())
    new = trt_time.read_log(NEW)
    assert new.eligible == trt_time.LayerCount(2, ("wide_myl0_12", "/fc/MatMul + /act/Relu")) and new.median_ms is None
    assert new.picked == trt_time.LayerCount(0, ())
    counts = trt_time.read_log(
        "(Sparsity) Found 39 layer(s) eligible to use sparse tactics\n(Sparsity) Chose 0 layer(s) using sparse tactics\n"
    )
    assert counts.eligible == trt_time.LayerCount(39, ()) and counts.picked == trt_time.LayerCount(0, ())
    assert trt_time.read_log("[I] nothing of the kind") == trt_time.Build(None, None, None)


def network() -> onnx.ModelProto:
    """A wide convolution, one without a name that is narrow, one of two groups, and a product whose weight is dense."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="wide"),
        helper.make_node("Conv", ["a", "w2"], ["h"]),
        helper.make_node("Conv", ["h", "w3"], ["g"], name="grouped", group=2),
        helper.make_node("GlobalAveragePool", ["g"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4"], ["y"], name="fc", transB=1),
    ]
    w = {"w1": kept(rng(256, 256, 1, 1), 1), "w2": kept(rng(16, 256, 1, 1), 1), "w3": kept(rng(16, 8, 1, 1), 1)}
    model = graph(nodes, {**w, "w4": rng(8, 16)}, ["N", 256, 4, 4])
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    return model


def trt(*args: object, path: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(TOOLS / "trt_time.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_layers_are_compared_with_what_the_log_says(tmp_path: Path) -> None:
    checked = check_pattern(onnxprune.load(network()), Sparsity(layers="all", target="tensorrt"))
    said = list(trt_time.table(checked, trt_time.read_log(OLD.format(picked=" wide + Relu_3 + Add_4", ms=2))))
    text = "\n".join(said)
    assert "found 3 layers eligible and picked sparse kernels for 1" in text and "3 of 4 layers" in text
    assert "| wide | Conv | 256 x 256 | likely | picked |  |" in text
    assert "| h | Conv | 16 x 256 | eligible | eligible |  |" in text
    assert "| grouped | Conv | 16 x 8 | no | no |  |" in text
    assert "| fc | Gemm | 8 x 16 | no | eligible | differs; its weights are not 2:4 |" in text
    (line,) = (line for line in trt_time.table(checked, trt_time.read_log(NEW)) if "no layer" in line)
    assert line.endswith("knows no layer: /fc/MatMul + /act/Relu.")
    assert "--verbose" in next(trt_time.table(checked, trt_time.Build(None, None, None)))


def test_trtexec_is_called_dense_and_sparse(tmp_path: Path) -> None:
    """By a stand-in, which keeps its arguments and prints a log."""
    model, exe, log = tmp_path / "model.onnx", tmp_path / "trtexec", tmp_path / "log.txt"
    onnx.save(network(), model)
    log.write_text(OLD.format(picked=" wide + Relu_3 + Add_4", ms=2))
    exe.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nwhile read -r line; do echo "$line"; done < {log}\n')
    exe.chmod(0o755)
    done = trt(model, "--fp16", "--batch", 8, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "dense 2 ms, sparse 2 ms: 1.000 times as fast" in done.stdout and "| wide | Conv |" in done.stdout
    dense, sparse = (tmp_path / "calls").read_text().splitlines()
    assert f"--onnx={model} --sparsity=disable --fp16 --verbose" in dense and "--sparsity=enable --fp16" in sparse
    assert dense.endswith("--shapes=x:8x256x4x4")
    exe.write_text("#!/bin/sh\necho '[E] Error[4]: no such operator'\nexit 1\n")
    failed = trt(model, path=str(tmp_path))
    assert (failed.returncode, failed.stderr) == (1, "trtexec failed on model.onnx: [E] Error[4]: no such operator\n")


def test_what_is_missing_is_said_in_a_line(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(network(), model)
    if trt_time.trtexec() is None and not trt_time.package():
        done = trt(model, path=str(tmp_path))
        assert done.returncode == 2 and done.stderr == trt_time.NONE + "\n" and not done.stdout
    free = graph([node("MatMul", "x w", "y")], {"w": rng(8, 8)}, ["N", "T", 8])
    onnx.save(free, model)
    with pytest.raises(onnxprune.OnnxPruneError, match=r"input 'x' is 4x\?x8; give --shape x=4x\?x8"):
        trt_time.shapes(model, 4, {})
    assert trt_time.shapes(model, 4, {"x": [4, 6, 8]}) == {"x": [4, 6, 8]}


# PyTorch's kernels: the matrices, and that its format takes them
NO_MATRIX = {
    "matmul_of_batches": "a stack of 3 matrices",
    "matmul_left_of_batches": "a stack of 3 matrices",
    "three_axes_behind_a_transpose": "a stack of 3 matrices",
    "convolution_with_inputs_left_over": "7 inputs, no multiple of 4",
    "grouped": "a convolution of 2 groups",
    "int8": "int8 weights",
    "uint8_with_a_zero_point_for_each_output": "uint8 weights",
    "uint8_with_a_scale_for_each_input": "uint8 weights",
    "uint8_that_is_moved_before_it_is_dequantized": "uint8 weights",
    "int4": "int4 weights",
    "int4_with_a_zero_point": "int4 weights",
    "uint16_with_a_zero_point_beyond_int16": "uint16 weights",
    "int16_with_a_zero_point_for_each_output": "int16 weights",
    "uint4_with_a_zero_point_for_each_output": "uint4 weights",
    "int32": "int32 weights",
    "uint8_in_blocks_of_outputs_with_scales_for_each_input": "uint8 weights",
    "batches_between_the_axes": "a stack of 3 matrices",
    "groups_across_the_rows_of_a_large_tensor": "18 inputs, no multiple of 4",
}


@pytest.mark.parametrize("name", CASES)
def test_matrices_are_those_of_the_independent_checker(tmp_path: Path, name: str) -> None:
    """[O, K] for a product; for a convolution, where it has the kernel positions before the inputs, [O, P * I]."""
    sparse = made(CASES[name]()[0])[1]
    onnx.save(sparse, tmp_path / "model.onnx")
    found = list(semi_structured.operands(tmp_path / "model.onnx"))
    if name in NO_MATRIX:
        assert [o.why for o in found] == [NO_MATRIX[name]] and found[0].matrix is None
        return
    expected = [np.atleast_2d(w).reshape(len(np.atleast_2d(w)), -1) for w in constants(sparse).values()]
    if name in ("float8", "fake_quantized"):  # the checker has the numbers after DequantizeLinear
        found, expected = [replace(o, matrix=o.matrix != 0) for o in found], [w != 0 for w in expected]
    for o in found:
        assert o.matrix is not None and any(np.array_equal(o.matrix.astype(w.dtype), w) for w in expected), o.name
    assert len(found) == (1 if "twice" in name or "agree" in name else len(expected))


def test_a_convolution_is_a_product_with_its_matrix(tmp_path: Path) -> None:
    sparse, x = made(CASES["convolution"]()[0])[1], rng(1, 8, 3, 3)
    sparse.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 3
    sparse.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 3
    onnx.save(sparse, tmp_path / "model.onnx")
    (o,) = semi_structured.operands(tmp_path / "model.onnx")
    assert o.matrix is not None and o.matrix.shape == (6, 72)
    ((y,),) = run_ort(sparse, [{"x": x}])
    patch = x[0].transpose(1, 2, 0).ravel()  # kernel positions, the channels of each in a row
    np.testing.assert_allclose(o.matrix @ patch, y.ravel(), rtol=1e-4, atol=1e-5)


def test_what_is_no_sparse_matrix_has_a_reason(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    why = {o.name: o.why for o in semi_structured.operands(tmp_path / "model.onnx")}
    assert why == {"wide": "", "h": "", "grouped": "a convolution of 2 groups", "fc": "not 2:4"}


def test_pytorch_compresses_the_matrices_without_loss(tmp_path: Path) -> None:
    """Its own conversion to the format of the kernels, on the CPU."""
    torch = pytest.importorskip("torch")
    from torch.sparse import _semi_structured_conversions as conversions

    onnx.save(network(), tmp_path / "model.onnx")
    ready = [o.padded() for o in semi_structured.operands(tmp_path / "model.onnx") if o.matrix is not None]
    assert [w.shape for w in ready] == [(256, 256), (32, 256)]
    for w in map(torch.from_numpy, ready):
        packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(w)
        assert packed.shape == (w.shape[0], w.shape[1] // 2)
        assert torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed, meta), w)


def test_without_a_gpu_it_says_so_and_stops(tmp_path: Path) -> None:
    if not semi_structured.missing():
        pytest.skip("there is a GPU")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(TOOLS / "semi_structured.py"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert "torch" in done.stderr
