"""Thresholds of scores and of weights, next to a count of what is below them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cli import call, fails

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import load
from onnxprune.scoring import score_group

CNN = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"


@pytest.mark.parametrize("criterion", ["l1", "cosine", "kmeans"])
def test_channels_below_a_threshold_go(criterion: str) -> None:
    a = onnxprune.analyze(CNN)
    scores = {g.name: score_group(a, g, criterion, None, 0) for g in a.groups}
    middle = float(np.median(np.concatenate([*scores.values()])))
    for threshold in (middle, middle * 1.05):
        plan = onnxprune.plan(a, threshold=threshold, criterion=criterion, target="none")
        for name, s in scores.items():
            expected = np.flatnonzero(s >= threshold)
            if len(expected):
                assert np.array_equal(plan.groups[name].keep, expected)
            else:
                assert plan.groups[name].keep == (int(s.argmax()),), "a group keeps one channel"


def test_a_threshold_that_nothing_is_below_removes_nothing_that_costs() -> None:
    plan = onnxprune.plan(CNN, threshold=1e-30, criterion="l2")
    assert all(len(choice.keep) == choice.size for choice in plan.groups.values())
    assert any("no channel of it scores below 1e-30" in choice.reason for choice in plan.groups.values())


def test_groups_with_ratios_of_their_own_have_those() -> None:
    a = onnxprune.analyze(CNN)
    first, *rest = a.groups
    plan = onnxprune.plan(a, threshold=1e9, group_ratio={first.name: 0.25}, target="none")
    assert len(plan.groups[first.name].keep) == first.size - first.size // 4
    assert all(len(plan.groups[g.name].keep) == 1 for g in rest)


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        (("--ratio", "0.5"), "ratio and threshold: give one"),
        (("--scope", "global"), "--threshold compares scores as they are"),
        (("--macs", "0.5"), "macs and threshold: give one"),
        (("--max-error", "0.1"), "max-error and threshold: give one"),
        (("--allocation", "uniform"), "shares out a budget"),
        (("--steps", "3"), "leave --steps out"),
    ],
)
def test_what_decides_as_well_is_refused(beside: tuple[str, ...], why: str, tmp_path: Path) -> None:
    fails(call("prune", CNN, "-o", tmp_path / "o.onnx", "--threshold", "0.5", *beside), why)


def test_values_are_checked() -> None:
    for wrong in (0.0, -1.0):
        with pytest.raises(OnnxPruneError, match=r"threshold is .*; it is a score, above 0"):
            onnxprune.plan(CNN, threshold=wrong)


def test_weights_below_a_threshold_become_zero(tmp_path: Path) -> None:
    """With calibration data too: nothing is refitted."""
    before = load(CNN).weights
    for more in ((), ("--calib", CNN.parent / "digits_calib.npz")):
        out = tmp_path / "sparse.onnx"
        call("sparsify", CNN, "-o", out, "--pattern", "unstructured", "--threshold", "0.05", *more)
        changed = 0
        for name, w in load(out).weights.items():
            x = before[name].array()
            if x.ndim > 1 and not np.array_equal(x, w.array()):
                np.testing.assert_array_equal(w.array(), np.where(np.abs(x) >= np.float32(0.05), x, 0))
                changed += 1
        assert changed >= 3


def test_a_weight_of_exactly_the_threshold_stays() -> None:
    a = load(CNN)
    name = next(n for n, w in a.weights.items() if len(w.shape) == 4)
    x = a.weights[name].array()
    value = float(np.sort(np.abs(x).ravel())[x.size // 2])
    out = onnxprune.sparsify(CNN, pattern="unstructured", threshold=value, check=False)
    after = load(out.model).weights[name].array()
    assert np.array_equal(after != 0, np.abs(x) >= np.float32(value))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--pattern", "2:4"), "threshold is for single weights"),
        (("--pattern", "unstructured", "--sparsity", "0.5"), "drop --sparsity"),
        (("--pattern", "unstructured", "--scope", "global"), "drop --scope"),
        (("--pattern", "unstructured", "--method", "wanda"), "drop --method and --repair"),
    ],
)
def test_what_a_threshold_of_weights_excludes(given: tuple[str, ...], why: str, tmp_path: Path) -> None:
    fails(call("sparsify", CNN, "-o", tmp_path / "o.onnx", "--threshold", "0.1", *given), why)
