"""Criteria of gradients: next to finite differences of a mask in plain NumPy, on networks that are written out here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny import model, tensor

import onnxprune
from onnxprune import gradients
from onnxprune.allocate.tables import sum_errors
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.calibration.array_store import Memory
from onnxprune.criteria import list_criteria
from onnxprune.errors import OnnxPruneError
from onnxprune.measure.mask_statistics import gather_masks
from onnxprune.scoring import list_needed_statistics, score_group

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).parents[1]
NAMES = [row.name for row in list_criteria() if row.needs_torch]
EPSILON = 1e-4
torch_only = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="gradients need torch: pip install 'onnxprune[torch]'"
)


def weights(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {"w1": (4, 6), "w2": (6, 5), "w3": (5, 6), "w4": (6, 3)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def residual(probabilities: bool = False) -> onnx.ModelProto:
    """h = relu(x w1), r = h + relu(h w2) w3, y = r w4: the stream h is read in two places, one behind the other."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["b"]),
        helper.make_node("Relu", ["b"], ["i"]),
        helper.make_node("MatMul", ["i", "w3"], ["c"]),
        helper.make_node("Add", ["h", "c"], ["r"]),
        helper.make_node("MatMul", ["r", "w4"], ["z" if probabilities else "y"]),
    ]
    nodes += [helper.make_node("Softmax", ["z"], ["y"], axis=1)] if probabilities else []
    return model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", 3])], weights())


def compute(x: Array, masks: dict[str, Array], w: dict[str, Array] | None = None) -> Array:
    """The same network with masks on what is read of h (and r, the same channels), and of i."""
    w1, w2, w3, w4 = (v.astype(np.float64) for v in (w or weights()).values())
    stream, inner = masks.get("w1", np.ones(6)), masks.get("w2", np.ones(5))
    h = np.maximum(x.astype(np.float64) @ w1, 0)
    r = h + (np.maximum((h * stream) @ w2, 0) * inner) @ w3
    return (r * stream) @ w4


def log_softmax(z: Array) -> Array:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def differentiate(loss: Callable[[dict[str, Array]], Array], group: str, size: int) -> Array:
    """d(loss of each sample)/d(mask), [samples, size], by central differences."""
    columns = []
    for c in range(size):
        up, down = np.ones(size), np.ones(size)
        up[c], down[c] = 1 + EPSILON, 1 - EPSILON
        columns.append((loss({group: up}) - loss({group: down})) / (2 * EPSILON))
    return np.stack(columns, axis=1)


def scores(proto: onnx.ModelProto, name: str, data: dict[str, Array], batch: int = 32) -> dict[str, Array]:
    a = onnxprune.analyze(proto)
    statistics = gather_masks(
        a, load_data(data, list_input_specs(proto), batch_size=batch), list_needed_statistics(a, a.groups, name)
    )
    return {g.name: score_group(a, g, name, None, 0, statistics) for g in a.groups}


def inputs(samples: int, width: int = 4) -> Array:
    return np.random.default_rng(3).normal(size=(samples, width)).astype(np.float32)


@torch_only
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("batch", [4, 32])
def test_taylor_is_the_derivative_by_a_mask(probabilities: bool, batch: int) -> None:
    x, labels = inputs(9), np.arange(9) % 3
    got = scores(residual(probabilities), "taylor", {"x": x, "labels": labels}, batch)

    def loss(masks: dict[str, Array]) -> Array:
        return -log_softmax(compute(x, masks))[np.arange(9), labels]

    assert set(got) == {"w1", "w2"}
    for group, found in got.items():
        np.testing.assert_allclose(found, np.abs(differentiate(loss, group, len(found))).mean(0), rtol=1e-4, atol=1e-6)


def information(x: Array, group: str, size: int) -> Array:
    """The Fisher information of a mask, sample by sample, all classes weighed by what the network gives them."""
    p = np.exp(log_softmax(compute(x, {}) / 4))
    each = [differentiate(lambda m, k=k: log_softmax(compute(x, m) / 4)[:, k], group, size) for k in range(3)]  # type: ignore[misc]
    return sum(p[:, k, None] * each[k] ** 2 for k in range(3))


@torch_only
def test_fisher_is_what_the_divergence_grows_by() -> None:
    """Of drawn classes: 2,000 draws for each of the samples."""
    x = inputs(5)
    got = scores(residual(), "fisher", {"x": np.repeat(x, 2000, axis=0)}, 500)
    before = log_softmax(compute(x, {}) / 4)
    for group, found in got.items():
        np.testing.assert_allclose(found, information(x, group, len(found)).mean(0) / 2, rtol=0.08, atol=1e-4)
        small = np.ones(len(found))
        small[0] -= 0.02
        after = log_softmax(compute(x, {group: small}) / 4)
        divergence = (np.exp(before) * (before - after)).sum(1).mean()
        np.testing.assert_allclose(found[0] * 0.02**2, divergence, rtol=0.15)


@torch_only
def test_hessian_is_the_curvature_by_each_weight() -> None:
    """The information that the drawn classes hold on each weight that reads a channel, by differences of the weights."""
    x = inputs(5)
    got = scores(residual(), "hessian", {"x": np.repeat(x, 2400, axis=0)}, 3)
    p = np.exp(log_softmax(compute(x, {}) / 4))
    w = {name: v.astype(np.float64) for name, v in weights().items()}
    expected = {"w1": np.zeros(6), "w2": np.zeros(5)}
    for name, group in (("w2", "w1"), ("w4", "w1"), ("w3", "w2")):
        for at in np.ndindex(*w[name].shape):
            made = []
            for sign in (1, -1):
                moved = w | {name: w[name].copy()}
                moved[name][at] *= 1 + sign * EPSILON
                made.append(log_softmax(compute(x, {}, moved) / 4))
            by_factor = (made[0] - made[1]) / (2 * EPSILON)
            expected[group][at[0]] += (p * by_factor**2).sum(1).mean() / 2
    for group, found in got.items():
        np.testing.assert_allclose(found, expected[group], rtol=0.15, atol=1e-4)


def descend(x: Array, labels: Array) -> dict[str, Array]:
    """dL/dw of each weight, L the mean cross-entropy with the labels, by central differences."""
    w = {name: v.astype(np.float64) for name, v in weights().items()}
    found = {name: np.zeros(v.shape) for name, v in w.items()}
    for name, array in w.items():
        for at in np.ndindex(*array.shape):
            losses = []
            for step in (EPSILON, -EPSILON):
                moved = w | {name: array.copy()}
                moved[name][at] += step
                losses.append(-log_softmax(compute(x, {}, moved))[np.arange(len(x)), labels].mean())
            found[name][at] = (losses[0] - losses[1]) / (2 * EPSILON)
    return found


@torch_only
@pytest.mark.parametrize("batch", [4, 32])
def test_snip_and_gradient_are_of_the_mean_loss(batch: int) -> None:
    x, labels = inputs(9), np.arange(9) % 3
    slopes, w = descend(x, labels), weights()
    share = {name: np.abs(slopes[name] * w[name]).sum(1) for name in ("w2", "w3", "w4")}
    whole = sum(v.sum() for v in share.values())
    got = scores(residual(), "snip", {"x": x, "labels": labels}, batch)
    np.testing.assert_allclose(got["w1"], (share["w2"] + share["w4"]) / whole, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(got["w2"], share["w3"] / whole, rtol=1e-3, atol=1e-6)
    assert sum(v.sum() for v in got.values()) == pytest.approx(1)
    got = scores(residual(), "gradient", {"x": x, "labels": labels}, batch)
    norm = {name: np.linalg.norm(v, axis=1) for name, v in slopes.items()}
    np.testing.assert_allclose(got["w1"], norm["w2"] + norm["w4"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(got["w2"], norm["w3"], rtol=1e-3, atol=1e-6)


def linear_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]


@torch_only
def test_of_other_outputs_fisher_is_the_relative_error() -> None:
    """A linear network: without a channel the error is the score exactly, but for the directions that are drawn."""
    w = {name: weights()[name] for name in ("w1", "w2")}
    proto = model(linear_nodes(), [tensor("x", ["N", 2, 4])], [tensor("y", ["N", 2, 5])], w)
    x = np.repeat(inputs(6, 8).reshape(6, 2, 4), 2000, axis=0)
    (found,) = scores(proto, "fisher", {"x": x}, 12000).values()
    h = x.astype(np.float64) @ w["w1"]
    y = h @ w["w2"]
    expected = [((h[..., [c]] * w["w2"][c]) ** 2).sum() / (y**2).sum() for c in range(6)]
    np.testing.assert_allclose(found, expected, rtol=0.15)


@torch_only
def test_queries_and_keys_count_once() -> None:
    """No weight reads them: a mask on either is a mask on both."""
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [i]) for i in "qk"]
    nodes.append(helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]))
    nodes.append(helper.make_node("MatMul", ["q", "kt"], ["y"]))
    rng = np.random.default_rng(0)
    w = {f"w{i}": rng.normal(size=(3, 5)).astype(np.float32) for i in "qk"}
    proto = model(nodes, [tensor("x", ["N", 4, 3])], [tensor("y", ["N", 4, 4])], w)
    x = np.repeat(rng.normal(size=(4, 4, 3)).astype(np.float32), 2000, axis=0)
    (found,) = scores(proto, "fisher", {"x": x}, 8000).values()
    q, k = (x.astype(np.float64) @ w[f"w{i}"] for i in "qk")
    y = np.einsum("nid,njd->nij", q, k)
    parts = np.einsum("nid,njd->dnij", q, k)
    np.testing.assert_allclose(found, (parts**2).sum((1, 2, 3)) / (y**2).sum(), rtol=0.15)


@torch_only
def test_samples_in_a_row_of_positions_stay_together() -> None:
    """A reshape to [N T, C] before the products: the derivative of a sample is the sum over its positions."""
    w = {name: weights()[name] for name in ("w1", "w2")}
    flat, back = np.array([-1, 4], np.int64), np.array([-1, 2, 5], np.int64)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["g"]),
        helper.make_node("Reshape", ["g", "back"], ["y"]),
    ]
    proto = model(nodes, [tensor("x", ["N", 2, 4])], [tensor("y", ["N", 2, 5])], w | {"flat": flat, "back": back})
    plain = model(linear_nodes(), [tensor("x", ["N", 2, 4])], [tensor("y", ["N", 2, 5])], w)
    x = inputs(12, 8).reshape(12, 2, 4)
    (got,), (expected,) = (scores(m, "taylor", {"x": x}).values() for m in (proto, plain))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@torch_only
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_real_models_are_pruned(path: str, name: str) -> None:
    folder = ROOT / "models"
    with np.load(folder / "digits_test.npz") as stored:
        x = next(v for k, v in stored.items() if k != "labels")[:40]
    a = onnxprune.analyze(folder / f"{path}.onnx")
    made = onnxprune.plan(a, ratio=0.5, criterion=name, calib=[x], target="none")
    assert made == onnxprune.plan(a, ratio=0.5, criterion=name, calib=[x], target="none")
    assert all(len(made.groups[g.name].keep) == g.size - g.size // 2 for g in a.groups)


@torch_only
def test_little_memory_changes_no_score_of_labels() -> None:
    proto, data = residual(), {"x": inputs(40), "labels": np.arange(40) % 3}
    a = onnxprune.analyze(proto)
    wants, told = list_needed_statistics(a, a.groups, "taylor"), list[tuple[int, int]]()
    batches = load_data(data, list_input_specs(proto))
    whole = gather_masks(a, batches, wants)
    cut = gather_masks(a, batches, wants, memory=Memory(4000), progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (40, 40)
    assert len(told) > 4
    for want in wants:
        np.testing.assert_allclose(cut[want], whole[want], rtol=1e-4, atol=1e-6)


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(gradients, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    for name in NAMES:
        with pytest.raises(OnnxPruneError, match=r"pip install 'onnxprune\[torch\]'") as caught:
            onnxprune.plan(residual(), ratio=0.5, criterion=name, calib={"x": inputs(9)})
        assert "\n" not in str(caught.value)


def test_a_summed_curve_by_hand() -> None:
    assert sum_errors(np.array([1.0, 0.5, 4.0])).tolist() == [np.inf, 1.5, 1.0, 0.0]


@torch_only
def test_the_fisher_allocation_spares_what_the_output_needs() -> None:
    """Two branches of 16 channels, of which one hardly adds to the output: it pays for the budget, and nothing is measured."""
    rng = np.random.default_rng(0)
    w = {name: rng.normal(size=(8, 16)).astype(np.float32) for name in ("u1", "v1")}
    w |= {"u2": rng.normal(size=(16, 3)).astype(np.float32), "v2": 0.01 * rng.normal(size=(16, 3)).astype(np.float32)}
    nodes = []
    for name in "uv":
        nodes.append(helper.make_node("MatMul", ["x", f"{name}1"], [f"{name}a"]))
        nodes.append(helper.make_node("Relu", [f"{name}a"], [f"{name}b"]))
        nodes.append(helper.make_node("MatMul", [f"{name}b", f"{name}2"], [f"{name}c"]))
    nodes.append(helper.make_node("Add", ["uc", "vc"], ["y"]))
    proto = model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 3])], w)
    made = onnxprune.prune(
        proto, params=0.6, allocation="fisher", calib={"x": inputs(64, 8)}, target="none", repair="none"
    )
    kept = {name: len(choice.keep) for name, choice in made.plan.groups.items()}
    assert kept["u1"] > 2 * kept["va"]  # named after the first tensor of its own
    assert made.report.params.after <= 0.6 * made.report.params.before
    assert made.report.sensitivity is None or not made.report.sensitivity


@torch_only
@pytest.mark.parametrize("steps", [1, 2])
def test_real_models_are_allocated(steps: int) -> None:
    path = ROOT / "models" / "digits_resnet.onnx"
    x = np.load(ROOT / "models" / "digits_test.npz")["image"][:64]
    made = [onnxprune.prune(path, macs=0.5, allocation="fisher", steps=steps, calib=[x], depth=False) for _ in range(2)]
    assert made[0].plan == made[1].plan
    assert made[0].report.macs.after <= 0.5 * made[0].report.macs.before
