"""What papers say of their methods, on small networks: orderings that must come out again; the nightly run.

Accuracy is that of 500 test images, without repair unless a test says otherwise. docs/results.md has the figures, also where a
method is worse than the defaults.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxprune

MODELS = Path(__file__).parents[1] / "models"
SEEDS = 8
pytestmark = pytest.mark.slow
torch_only = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="gradients need torch: pip install 'onnxprune[torch]'"
)


def measure_accuracy(model: onnx.ModelProto) -> float:
    with np.load(MODELS / "digits_test.npz") as data:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"image": data["image"]})
        return float((logits.argmax(1) == data["labels"]).mean())


def load_original(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"{name}.onnx")


def prune(name: str, **settings: Any) -> float:
    """The accuracy without repair, one ratio for all groups unless another allocation is given."""
    chosen: dict[str, Any] = {"macs": 0.7, "allocation": "uniform", "repair": "none", "target": "none", "depth": False}
    done = onnxprune.prune(load_original(name), check=False, **chosen | settings)
    return measure_accuracy(done.model)


def prune_at_random(name: str) -> float:
    return float(np.mean([prune(name, criterion="random", seed=seed) for seed in range(SEEDS)]))


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        ("kmeans", "digits_cnn"),
        ("kmeans", "digits_resnet"),
        ("pca", "digits_cnn"),
        ("kernel_info", "digits_cnn"),
        ("kernel_info", "digits_resnet"),
    ],
)
def test_structure_is_better_than_chance(criterion: str, name: str) -> None:
    assert prune(name, criterion=criterion) > prune_at_random(name)


@torch_only
@pytest.mark.parametrize(("name", "margin"), [("digits_cnn", 0.1), ("digits_resnet", 0.3)])
def test_connection_sensitivity_is_better_than_chance_and_the_gradient_alone(name: str, margin: float) -> None:
    """Lee et al. 2019; the weight times its gradient says more than the gradient."""
    with np.load(MODELS / "digits_calib.npz") as data:
        calib = {"image": data["image"][:400]}
    snip, gradient = (prune(name, criterion=c, calib=calib) for c in ("snip", "gradient"))
    assert snip > prune_at_random(name) + margin
    assert snip > gradient


def test_pruning_where_filters_are_alike_beats_pruning_the_least_important() -> None:
    """Wang et al. 2021, abstract: the layers with most redundancy, not the least filters of all layers."""
    ways = ("redundancy", "global", "uniform")
    accuracy = {way: prune("digits_resnet", criterion="l1", allocation=way) for way in ways}
    assert accuracy["redundancy"] > accuracy["global"] > accuracy["uniform"]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet"])
def test_hashing_leaves_few_values_and_the_accuracy(name: str) -> None:
    """Yvinec et al. 2021: a small part of the values, no accuracy lost."""
    before = load_original(name)
    done = onnxprune.prune(before, ratio=0, hash_weights=0.01, repair="none", target="none", check=False).model
    assert measure_accuracy(done) >= measure_accuracy(before) - 0.004
    assert count_values(done) < 0.2 * count_values(before)


def count_values(model: onnx.ModelProto) -> float:
    """Different values per weight that has more than one axis."""
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) > 1]
    return float(np.mean([len(np.unique(a)) for a in arrays if a.dtype == np.float32]))


def test_merged_near_duplicates_keep_more_than_the_least_norms() -> None:
    """Yvinec et al. 2021, at an equal number of parameters."""
    done = onnxprune.prune(
        load_original("digits_resnet"), ratio=0, merge_near=0.9, repair="none", target="none", check=False
    )
    assert done.report.params.after is not None and done.report.params.before
    left = done.report.params.after / done.report.params.before
    assert left < 0.6
    merged = measure_accuracy(done.model)
    norms = max(prune("digits_resnet", macs=None, params=left, criterion="l2", repair=r) for r in ("none", "merge"))
    assert merged > norms + 0.2


def test_small_weights_below_one_threshold_can_go() -> None:
    """Han et al. 2015: a threshold on weights, without retraining up to about half of them."""
    before = load_original("digits_resnet")
    done = onnxprune.sparsify(before, pattern="unstructured", threshold=0.1, check=False).model
    arrays = [numpy_helper.to_array(t) for t in done.graph.initializer if len(t.dims) > 1]
    zeros = 1 - sum(map(np.count_nonzero, arrays)) / sum(a.size for a in arrays)
    assert zeros > 0.4
    assert measure_accuracy(done) > measure_accuracy(before) - 0.05
