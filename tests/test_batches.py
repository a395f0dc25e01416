"""Batch axes that the file declares in two ways, static here and dynamic there: they freeze themselves, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from laws import check
from onnx import helper, numpy_helper
from tiny import tensor

Node = onnx.NodeProto
node = helper.make_node
ROWS = ("identity", "permutation", "removal", "composition", "accounting", "determinism")


def _model(
    nodes: Sequence[Node],
    inputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Sequence[int]],
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    stored = {n: rng.standard_normal(s).astype(np.float32) * 0.3 for n, s in weights.items()}
    stored |= {n: np.array(v, np.int64) for n, v in constants.items()}
    graph = helper.make_graph(
        nodes, "g", [tensor(n, list(s)) for n, s in inputs.items()], [tensor("y", None)],
        [numpy_helper.from_array(w, n) for n, w in stored.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _recurrent(op: str, gates: int, state: Sequence[Any], given: bool = True) -> tuple[Any, ...]:
    """A recurrent layer whose states are inputs, or weights: then its units are prunable too."""
    more = {"c0": state} if op == "LSTM" else {}
    weights: dict[str, Any] = {"w": (1, gates * 8, 8), "r": (1, gates * 8, 8)}
    inputs = {"x": ["T", "N", 5]}
    (inputs if given else weights).update({"h0": state, **more})
    nodes = [
        node(op, ["h", "w", "r", "", "", "h0", *more], ["s"], hidden_size=8),
        node("Squeeze", ["s", "one"], ["o"]),
    ]
    return (
        nodes,
        inputs,
        weights,
        {"one": [1]},
        {"a": 1, "w": 2} if given else {"a": 1, "w": 2, "r": 1, "h0": 2, "z_": 0},
    )


DYNAMIC, STATIC = ["N", "T", 5], [1, "T", 5]
PAST = [1, 2, "P", 4]
HEADS = {"k": (8, 8), "v": (8, 8)}
QKV = [node("MatMul", ["h", w], [w.upper()]) for w in HEADS]

# name: nodes from h [.., 8] to o [.., n], inputs, weights, constants, the axes that must be prunable
TABLE = {
    "GRU with a state of batch 1": _recurrent("GRU", 3, [1, 1, 8]),
    "LSTM with states of batch 1": _recurrent("LSTM", 4, [1, 1, 8]),
    "LSTM with weights for states of batch 2": _recurrent("LSTM", 4, [1, 2, 8], given=False),
    "RNN with a state of batch 2": _recurrent("RNN", 1, [1, 2, 8]),
    "RNN with a state of another symbol": _recurrent("RNN", 1, [1, "M", 8]),
    "Attention with a past of batch 1": (
        [*QKV, node("Attention", ["h", "K", "V", "", "pk", "pv"], ["o", "nk", "nv"], q_num_heads=2, kv_num_heads=2)],
        {"x": DYNAMIC, "pk": PAST, "pv": PAST}, HEADS, {}, {},
    ),
    "MultiHeadAttention with keys of another symbol": (
        [
            node("MatMul", ["z", "k"], ["K"]), node("MatMul", ["z", "v"], ["V"]),
            node("MultiHeadAttention", ["h", "K", "V"], ["o"], domain="com.microsoft", num_heads=2),
        ],
        {"x": DYNAMIC, "z": ["M", "S", 8]}, HEADS, {}, {"a": 1, "k": 1, "v": 1, "z_": 0},
    ),
    "Concat of tokens of batch 1": (
        [node("MatMul", ["t", "b"], ["c"]), node("Concat", ["c", "h"], ["o"], axis=1)],
        {"x": DYNAMIC, "t": [1, 3, 5]}, {"b": (5, 8)}, {}, {"a": 1, "b": 1, "z_": 0},
    ),
    "Concat of another symbol": (
        [node("MatMul", ["t", "b"], ["c"]), node("Concat", ["h", "c"], ["o"], axis=1)],
        {"x": DYNAMIC, "t": ["M", 3, 5]}, {"b": (5, 8)}, {}, {"a": 1, "b": 1, "z_": 0},
    ),
    "Add of batch 2": (
        [node("MatMul", ["t", "b"], ["c"]), node("Add", ["h", "c"], ["o"])],
        {"x": DYNAMIC, "t": [2, 1, 5]}, {"b": (5, 8)}, {}, {"a": 1, "b": 1, "z_": 0},
    ),
    "MatMul of batches of two symbols": (
        [
            node("MatMul", ["z", "k"], ["K"]), node("Transpose", ["h"], ["q"], perm=[0, 2, 1]),
            node("MatMul", ["q", "K"], ["p"]), node("Transpose", ["p"], ["o"], perm=[0, 2, 1]),
        ],
        {"x": DYNAMIC, "z": ["M", "S", 8]}, {"k": (8, 6)}, {}, {"a": 1, "z_": 0},
    ),
    "MatMul of rows that the file declares dynamic": (
        [node("MatMul", ["z", "k"], ["K"]), node("Mul", ["h", "K"], ["o"])],
        {"x": DYNAMIC, "z": ["N", "T", "D"]}, {"k": (7, 8)}, {}, {"a": 1, "k": 1, "z_": 0},
    ),
    "Gemm of a dynamic width": (
        [node("Gemm", ["z", "k", "c"], ["K"]), node("Mul", ["h", "K"], ["o"])],
        {"x": ["N", 5], "z": ["N", "D"]}, {"k": (7, 8), "c": (8,)}, {}, {"a": 1, "k": 1, "c": 0, "z_": 0},
    ),
    "Einsum of batches of two symbols": (
        [node("MatMul", ["z", "k"], ["K"]), node("Einsum", ["h", "K"], ["o"], equation="btc,bsc->bsc")],
        {"x": DYNAMIC, "z": ["M", "S", 8]}, {"k": (8, 8)}, {}, {"a": 1, "k": 1, "z_": 0},
    ),
    "Reshape to a static batch": (
        [
            node("Transpose", ["h"], ["q"], perm=[0, 2, 1]), node("GlobalAveragePool", ["q"], ["p"]),
            node("Reshape", ["p", "flat"], ["o"]),
        ],
        {"x": DYNAMIC}, {}, {"flat": [1, 8]}, {"a": 1, "z_": 0},
    ),
}  # fmt: skip


def _feeds(inputs: Mapping[str, Sequence[int | str]], batch: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    sizes = ({"T": 4, "S": 4, "P": 3}, {"T": 7, "S": 7, "P": 5})
    fixed = {"N": batch, "M": batch, "D": 7}
    return [
        {
            n: rng.standard_normal([(fixed | s).get(d, d) for d in shape]).astype(np.float32)
            for n, shape in inputs.items()
        }
        for s in sizes
    ]


@pytest.mark.parametrize("name", TABLE)
def test_batches_that_differ_freeze_only_themselves(name: str) -> None:
    between, inputs, weights, constants, prunable = TABLE[name]
    nodes = [
        node("MatMul", ["x", "a"], ["m"]), node("Relu", ["m"], ["h"]), *between, node("MatMul", ["o", "z_"], ["y"]),
    ]  # fmt: skip
    proto = _model(nodes, inputs, {"a": (5, 8), "z_": (8, 3), **weights}, constants)
    checker = check(proto, _feeds(inputs, 2 if "batch 2" in name else 1), laws=ROWS)
    reached = {(m.tensor, m.axis) for g in checker.analysis.groups for m in g.members}
    assert reached >= prunable.items(), checker.analysis.frozen
