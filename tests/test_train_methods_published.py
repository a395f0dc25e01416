"""Each method of training that prunes does what its paper says, on the example networks: an ordering that was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny import model, tensor

import onnxprune

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'onnxprune[torch]'")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
IMAGES = np.load(MODELS / "digits_calib.npz")["image"]
LABELED = dict(np.load(MODELS / "digits_test.npz"))
HOW: dict[str, Any] = {"calib": [IMAGES[:300]], "distill": True, "augment": False, "check": False, "repair": "none"}


def prune(source: Path, **more: Any) -> Any:
    """What training found, with plans that are quickly made."""
    how = {**HOW, "effort": "low", "target": "none", **more}
    return onnxprune.prune(source, **how).report.distillation


def sparsify(source: Any, **more: Any) -> Any:
    how = {**HOW, "pattern": "unstructured", "scope": "global", "layers": "all", "method": "magnitude", **more}
    return onnxprune.sparsify(source, **how)


def test_a_growing_group_lasso_makes_room_before_the_cut(record_property: Any) -> None:
    """Wang et al. 2021, section 3.1, and Fang et al. 2023, figure 4: what is to go is small by then, in all coupled layers."""
    how = {"macs": 0.4, "criterion": "l2", "passes": 6}
    plain, lasso = (prune(CNN, train_method=m, **how) for m in (None, "group-lasso"))
    record_property("loss_when_cut", (plain.loss_before, lasso.loss_before))
    assert lasso.loss_before < plain.loss_before


def test_soft_pruning_leaves_more_than_one_cut(record_property: Any) -> None:
    """He et al. 2018, section 4: without fine-tuning, a network that was pruned softly is better than one that was cut."""
    how = {"macs": 0.4, "criterion": "l2", "allocation": "uniform"}
    plain = prune(CNN, train_method=None, passes=12, **how)
    soft = prune(CNN, train_method="soft", passes=6, **how)
    record_property("loss_when_cut", (plain.loss_before, soft.loss_before))
    record_property("loss_trained_as_long", (plain.loss_after, soft.loss_after))
    assert soft.loss_before < plain.loss_before


def test_movement_wins_where_a_task_is_new_and_few_weights_stay(record_property: Any) -> None:
    """Sanh et al. 2020, figure 2: after transfer, movement beats magnitude where few weights stay."""
    labels = (3 * LABELED["labels"] + 1) % 10  # other classes than those that it was trained for
    found = {}
    for name in ("surgery", "movement"):
        how = {"calib": {"image": LABELED["image"], "labels": labels}, "label_weight": 1.0, "passes": 20}
        found[name] = sparsify(CNN, sparsity=0.98, train_method=name, **how).report.distillation
    record_property("cross_entropy", {name: (d.loss_before, d.loss_after) for name, d in found.items()})
    assert found["movement"].loss_before < found["surgery"].loss_before


def perceptron(seed: int) -> onnx.ModelProto:
    """64 -> 100 -> 50 -> 10, as it begins."""
    rng, nodes, weights, x = np.random.default_rng(seed), [helper.make_node("Flatten", ["image"], ["x0"])], {}, "x0"
    for i, (n, m) in enumerate(((64, 100), (100, 50), (50, 10))):
        weights[f"w{i}"] = (rng.normal(size=(n, m)) * np.sqrt(2 / n)).astype(np.float32)
        weights[f"b{i}"] = np.zeros(m, np.float32)
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"y{i}"]))
        nodes += [helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"])] if i < 2 else []
        x = f"x{i + 1}"
    return model(nodes, [tensor("image", ["N", 1, 8, 8])], [tensor("y2", ["N", 10])], weights)


def test_tickets_win_against_other_weights_behind_the_same_mask(record_property: Any) -> None:
    """Frankle and Carbin 2019, figure 3: a ticket learns better than the same mask with weights drawn anew."""
    first = perceptron(0)
    learn = {
        "calib": LABELED,
        "label_weight": 1.0,
        "passes": 60,
        "augment": False,
        "check": False,
        "learning_rate": 0.02,
    }
    trained = onnxprune.distill(first, first, **learn).proto
    ticket = sparsify(trained, sparsity=0.95, train_method="lottery", rewind=first, iterative=5, distill=True, **learn)
    stays = {t.name: numpy_helper.to_array(t) != 0 for t in ticket.proto.graph.initializer}
    losses = []
    for seed in (1, 2, 3):
        other = perceptron(seed)
        for t in other.graph.initializer:
            if t.name.startswith("w"):
                t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * stays[t.name], t.name))
        losses.append(onnxprune.distill(trained, other, **learn).report.distillation.loss_after)
    record_property("cross_entropy", (losses, ticket.report.distillation.loss_after))
    assert ticket.report.distillation.loss_after < np.mean(losses)
