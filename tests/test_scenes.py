"""Scenes in place of pictures, and the repair on them that needs no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node
from tiny import model, tensor

import onnxprune
from onnxprune.calibration.scenes import draw_scenes
from onnxprune.calibration.substitutes import FLOATS, RANGES, substitute_batches, takes_images
from onnxprune.graph.save import build_full_proto

MODELS = Path(__file__).parents[1] / "models"
TEST = MODELS / "digits_test.npz"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def convolutions(
    deviation: float = 1.0, mean: float = 0.0, shape: tuple[object, ...] = ("N", 3, 16, 16)
) -> onnx.ModelProto:
    """Conv 8 -> Relu -> Conv 4, NHWC outside where the shape says so; the first makes standard normals of such pixels."""
    w = normal(8, 3, 3, 3)
    w /= w.std(axis=(1, 2, 3), keepdims=True) * 27**0.5 * deviation
    nodes, x = [], "x"
    if shape[1] != 3:
        nodes, x = [make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])], "t"
    nodes += [
        make_node("Conv", [x, "w", "b"], ["h"]), make_node("Relu", ["h"], ["r"]), make_node("Conv", ["r", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": w, "b": -mean * w.sum(axis=(1, 2, 3)), "v": normal(4, 8, 3, 3)}
    return model(nodes, [tensor("x", shape)], [tensor("y", [shape[0], 4, 12, 12])], weights)


def accuracy(made: onnxprune.PruneResult) -> float:
    found = made.report.error.accuracy
    assert found is not None
    return found.after


def test_scenes_are_standardized_and_have_large_areas() -> None:
    x = draw_scenes(64, 3, 32, 32, np.random.default_rng(0))
    assert x.shape == (64, 3, 32, 32) and x.dtype == np.float32
    assert abs(float(x.mean())) < 0.2 and 0.8 < float(x.std()) < 1.2
    neighbors = np.corrcoef(x[..., 1:].ravel(), x[..., :-1].ravel())[0, 1]
    colors = np.corrcoef(x[:, 0].ravel(), x[:, 1].ravel())[0, 1]
    assert neighbors > 0.65 and 0.6 < colors < 0.95


def test_scenes_look_alike_at_any_size() -> None:
    def draw(size: int) -> np.ndarray:
        return draw_scenes(16, 3, size, size, np.random.default_rng(0))

    coarse = draw(128).reshape(16, 3, 16, 8, 16, 8).mean(axis=(3, 5))
    assert np.corrcoef(coarse.ravel(), draw(16).ravel())[0, 1] > 0


@pytest.mark.parametrize(
    ("shape", "kind", "told"),
    [
        (("N", 3, 32, 32), TensorProto.FLOAT, True),
        ((1, 1, "h", "w"), TensorProto.FLOAT16, True),
        (("N", 32, 32, 3), TensorProto.FLOAT, True),
        (("N", 3, 4, 32), TensorProto.FLOAT, False),  # too small
        (("N", 64, 32, 32), TensorProto.FLOAT, False),  # features
        (("N", 3, 32, 32), TensorProto.UINT8, False),
        (("N", 3, 32), TensorProto.FLOAT, False),
    ],
)
def test_pictures_are_told_by_type_and_shape(shape: tuple[object, ...], kind: int, told: bool) -> None:
    proto = model([make_node("Identity", ["x"], ["y"])], [tensor("x", shape, kind)], [tensor("y", shape, kind)])
    assert takes_images(onnxprune.load(proto)) == told


@pytest.mark.parametrize("at", range(len(RANGES)))
@pytest.mark.parametrize("shape", [("N", 3, 16, 16), (2, 16, 16, 3)])
def test_scenes_have_the_range_that_a_network_expects(at: int, shape: tuple[object, ...]) -> None:
    proto = convolutions(*RANGES[at], shape)
    batches = list(substitute_batches(onnxprune.analyze(proto), 0))
    x = np.concatenate([feeds["x"] for feeds in batches])
    assert x.shape[1:] == shape[1:] and x.shape[0] == 64
    deviation, mean = RANGES[at]
    assert (x.std() > 10) == (at == FLOATS)  # numbers up to 255 and others are told apart
    assert 0.4 * deviation < x.std() < 2.5 * deviation and abs(x.mean() - mean) < deviation


def test_the_seed_decides_the_scenes() -> None:
    analysis = onnxprune.analyze(convolutions())

    def draw(seed: int) -> list[np.ndarray]:
        return [feeds["x"] for feeds in substitute_batches(analysis, seed)]

    again = substitute_batches(analysis, 0)
    assert all(map(np.array_equal, draw(0), [feeds["x"] for feeds in again]))
    assert all(map(np.array_equal, draw(0), [feeds["x"] for feeds in again]))  # each pass draws the same
    assert not np.array_equal(draw(0)[0], draw(1)[0]) and not np.array_equal(draw(0)[0], draw(0)[1])


def test_other_inputs_are_random_as_before() -> None:
    proto = model([make_node("Relu", ["x"], ["y"])], [tensor("x", ["N", 5])], [tensor("y", ["N", 5])])
    assert substitute_batches(onnxprune.analyze(proto), 3).source == "random seed 3"


def test_networks_without_cuts_get_all_ranges_of_small_numbers() -> None:
    batches = list(substitute_batches(onnxprune.analyze(MODELS / "digits_vit.onnx"), 0))
    (x,) = (np.concatenate(found) for found in [[f for b in batches for f in b.values()]])
    spread = [float(x[at::FLOATS].std()) for at in range(FLOATS)]
    assert spread[0] > 1.4 * spread[1] > 1.4 * 1.4 * spread[2]


@pytest.mark.parametrize(
    ("name", "least"), [("digits_cnn", 0.95), ("digits_resnet", 0.97), ("digits_vit", 0.9)]
)  # seen: 1.000, .986 and .984, without repair .896, .970 and .908
def test_trained_networks_lose_less_without_data(name: str, least: float) -> None:
    source, asked = MODELS / f"{name}.onnx", {"ratio": 0.2, "data": TEST}
    made, plain = onnxprune.prune(source, **asked), onnxprune.prune(source, repair="none", **asked)
    assert accuracy(made) > max(least, accuracy(plain))
    assert made.plan == plain.plan
    assert made.report.repair is not None and made.report.repair.method == "lstsq"
    assert made.report.calibration is not None and made.report.calibration.data == "drawn scenes, seed 0"


def test_a_plan_alone_is_applied_as_it_is() -> None:
    analysis = onnxprune.analyze(convolutions())
    plan = onnxprune.plan(analysis, ratio=0.5)
    alone, asked = onnxprune.apply(analysis, plan), onnxprune.apply(analysis, plan, repair="lstsq")
    none = onnxprune.apply(analysis, plan, repair="none")
    assert build_full_proto(alone) == build_full_proto(none) != build_full_proto(asked)


def test_what_cannot_be_drawn_or_run_is_not_repaired() -> None:
    weights = {"w": normal(6, 8), "v": normal(8, 3)}
    nodes = [make_node("MatMul", ["x", "w"], ["h"]), make_node("MatMul", ["h", "v"], ["y"])]
    features = model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N", 3])], weights)
    unknown = convolutions()
    unknown.graph.node[-1].output[0] = "z"
    unknown.graph.node.append(make_node("Foreign", ["z"], ["y"], domain="nobody"))
    unknown.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    for proto in (features, unknown):
        made = onnxprune.prune(proto, ratio=0.5, check=False)
        assert made.report.repair is None and made.report.calibration is None
