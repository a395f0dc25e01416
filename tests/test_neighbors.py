"""Channel attention by a convolution over channels: the width that it weighs is prunable, and its order is kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from laws import Array, check, plan_of, run_ort
from onnx import helper
from tiny import model, tensor

import onnxprune
from onnxprune.graph.save import build_full_proto
from onnxprune.sparsity import Sparsity, sparsify

node = helper.make_node
RNG = np.random.default_rng(0)
WEIGHTS = {
    n: RNG.standard_normal(s).astype(np.float32)
    for n, s in {"a": (8, 3, 1, 1), "r": (8, 8, 1, 1), "e": (1, 1, 3), "z": (5, 8, 1, 1)}.items()
}
FORMS = {
    "Reshape": (
        [node("Reshape", ["p", "row"], ["q"]), node("Conv", ["q", "e"], ["g"], pads=[1, 1]), node("Reshape", ["g", "back"], ["t"])],
        {"row": np.array([0, 1, -1]), "back": np.array([0, -1, 1, 1])},
    ),
    "Transpose": (
        [
            node("Squeeze", ["p", "last"], ["p1"]), node("Transpose", ["p1"], ["q"], perm=[0, 2, 1]),
            node("Conv", ["q", "e"], ["g"], auto_pad="SAME_UPPER"), node("Transpose", ["g"], ["g1"], perm=[0, 2, 1]),
            node("Unsqueeze", ["g1", "last"], ["t"]),
        ],
        {"last": np.array([-1])},
    ),
}  # fmt: skip


def _attention(form: str, weights: dict[str, Array]) -> onnx.ModelProto:
    """A residual block of 8 channels with efficient channel attention."""
    gate, constants = FORMS[form]
    nodes = [
        node("Conv", ["x", "a"], ["c"]), node("Relu", ["c"], ["h0"]), node("Conv", ["h0", "r"], ["h"]),
        node("GlobalAveragePool", ["h"], ["p"]), *gate, node("Sigmoid", ["t"], ["s"]), node("Mul", ["h", "s"], ["k"]),
        node("Add", ["k", "h0"], ["u"]), node("Conv", ["u", "z"], ["y"]),
    ]  # fmt: skip
    return model(nodes, [tensor("x", ["N", 3, 6, 6])], [tensor("y", ["N", 5, 6, 6])], weights | constants)


@pytest.mark.parametrize("form", FORMS)
def test_channels_that_a_filter_slides_over_are_an_approximate_group(form: str) -> None:
    feeds = [{"x": RNG.standard_normal((n, 3, 6, 6)).astype(np.float32)} for n in (1, 3)]
    checker = check(_attention(form, WEIGHTS), feeds)
    (group,) = checker.analysis.groups
    assert (group.size, group.exact, group.ordered) == (8, False, True)
    keep = [0, 2, 3, 6, 7]
    pruned = build_full_proto(onnxprune.apply(checker.analysis, plan_of(checker.analysis, {group.name: keep})))
    axes = {"a": (0,), "r": (0, 1), "z": (1,)}
    cut = {
        n: w[np.ix_(*(keep if a in axes.get(n, ()) else range(s) for a, s in enumerate(w.shape)))]
        for n, w in WEIGHTS.items()
    }
    for got, want in zip(run_ort(pruned, feeds), run_ort(_attention(form, cut), feeds), strict=True):
        np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"strides": [2], "pads": [1, 1]}, {"pads": [0, 0]}])
def test_a_filter_that_changes_the_length_freezes(change: dict[str, list[int]]) -> None:
    nodes = [
        node("MatMul", ["x", "a"], ["h"]),
        node("Unsqueeze", ["h", "one"], ["q"]),
        node("Conv", ["q", "e"], ["y"], **change),
    ]
    weights = {"a": RNG.standard_normal((4, 8)).astype(np.float32), "e": WEIGHTS["e"], "one": np.array([1])}
    found = onnxprune.analyze(onnxprune.load(model(nodes, [tensor("x", ["N", 4])], [tensor("y", None)], weights)))
    assert not found.groups
    assert "a convolution slides over it" in {f.reason.text for f in found.frozen if f.tensor == "a"}


def test_a_pattern_leaves_the_order_of_such_channels() -> None:
    analysis = onnxprune.analyze(onnxprune.load(_attention("Reshape", WEIGHTS)))
    permuted = Sparsity(layers="all", permute=True)
    plan = sparsify(analysis, permuted).plan
    assert plan is None or not plan.groups
