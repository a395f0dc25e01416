"""Mistakes that people make, each with the line that answers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from test_cli import CNN, MODELS, TEST, call, fails
from tiny import model, tensor

import onnxprune
from onnxprune.errors import OnnxPruneError

IMAGES = np.load(MODELS / "digits_calib.npz")["image"][:12]


def data(folder: Path, **arrays: Any) -> Path:
    np.savez(path := folder / "data.npz", **arrays)
    return path


def prune(*more: object, out: Path) -> Any:
    return call("prune", CNN, "-o", out / "o.onnx", *more)


# arrays


def test_channels_last(tmp_path: Path) -> None:
    path = data(tmp_path, image=IMAGES.transpose(0, 2, 3, 1))
    said = ("got float32 [12, 8, 8, 1]; it looks like NHWC: transpose(0, 3, 1, 2)",)
    fails(prune("--macs", 0.5, "--calib", path, out=tmp_path), *said)


def test_channels_first_for_a_model_with_channels_last() -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0, axes=[1, 2])
    proto = model([node], [tensor("x", ["N", 8, 9, 3])], [tensor("y", ["N", 3])])
    with pytest.raises(OnnxPruneError, match=r"it looks like NCHW: transpose\(0, 2, 3, 1\)$"):
        onnxprune.validate(proto, proto, data={"x": np.zeros((4, 3, 8, 9), np.float32)})


def test_no_samples(tmp_path: Path) -> None:
    path = data(tmp_path, image=IMAGES[:0])
    fails(prune("--macs", 0.5, "--calib", path, out=tmp_path), "got float32 [0, 1, 8, 8]; it has no samples")


def test_color_for_gray_and_gray_for_color(tmp_path: Path) -> None:
    path = data(tmp_path, image=IMAGES.repeat(3, axis=1))
    fails(prune("--macs", 0.5, "--calib", path, out=tmp_path), "it has 3 channels for 1", ".mean(1, keepdims=True)")
    proto = model(
        [helper.make_node("Relu", ["x"], ["y"])], [tensor("x", ["N", 3, 8, 8])], [tensor("y", ["N", 3, 8, 8])], {}
    )
    with pytest.raises(
        OnnxPruneError, match=r"it has 1 channel for 3: repeat the channel, as with .repeat\(3, axis=1\)"
    ):
        onnxprune.validate(proto, proto, data={"x": IMAGES})


def test_another_size_is_no_question_of_layout(tmp_path: Path) -> None:
    path = data(tmp_path, image=np.zeros((4, 1, 9, 9), np.float32))
    fails(prune("--macs", 0.5, "--calib", path, out=tmp_path), "got float32 [4, 1, 9, 9]; reshape or resize it")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("command", ["prune", "sparsify", "sensitivity"])
def test_values_that_are_not_finite(tmp_path: Path, value: float, command: str) -> None:
    images = IMAGES.copy()
    images[5, 0, 2, 2] = value
    more = {"prune": ("--ratio", 0.3, "--criterion", "l2"), "sparsify": ("--layers", "all"), "sensitivity": ()}[command]
    out = () if command == "sensitivity" else ("-o", tmp_path / "o.onnx")
    path = data(tmp_path, image=images)
    fails(
        call(command, CNN, *out, "--calib", path, *more),
        "data.npz': input 'image' has NaN or infinite values, first in sample 5 (from 0); remove such samples",
    )


def test_a_model_may_expect_values_that_are_not_finite() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),  # of -inf: 0
        helper.make_node("MatMul", ["e", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((4, 8)).astype(np.float32), "b": rng.standard_normal((8, 2)).astype(np.float32)}
    proto = model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", 2])], weights)
    x = rng.standard_normal((32, 4)).astype(np.float32)
    x[3, 1] = -np.inf
    made = onnxprune.prune(proto, ratio=0.5, calib={"x": x}, target="none")
    assert made.report.groups[0].kept == 4


def test_an_empty_folder(tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    said = ("the folder has no .npy files and no images", "['image']")
    fails(prune("--macs", 0.5, "--calib", empty, out=tmp_path), *said)
    fails(prune("--macs", 0.5, "--calib", data(tmp_path), out=tmp_path), "the file has no arrays")


def test_a_folder_of_images_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "images"
    fails(prune("--macs", 0.5, "--calib", missing, out=tmp_path), "no such file or folder", "or a folder of images")


def test_labels_under_another_name(tmp_path: Path) -> None:
    path = data(tmp_path, image=IMAGES, target=np.arange(12))
    fails(prune("--macs", 0.5, "--calib", path, out=tmp_path), "if 'target' has the labels, name it 'labels'")


def test_other_arrays_beside_the_inputs(tmp_path: Path) -> None:
    path = data(tmp_path, image=IMAGES, other=IMAGES, more=IMAGES)
    said = "'more', 'other' are no inputs of the model; give one array for each input of the model, ['image']"
    fails(prune("--macs", 0.5, "--calib", path, out=tmp_path), said)
    path = data(tmp_path, pixels=IMAGES, target=np.arange(12))
    fails(
        prune("--macs", 0.5, "--calib", path, out=tmp_path),
        "there is no array for 'image', and 'pixels', 'target' are no inputs of the model",
    )


# the command line


@pytest.mark.parametrize(
    "typed, meant",
    [("--flops", "--macs"), ("--size", "--bytes"), ("--speed", "--latency"), ("--calibration", "--calib")],
)
def test_an_option_that_is_called_otherwise(tmp_path: Path, typed: str, meant: str) -> None:
    fails(prune(typed, 0.5, out=tmp_path), f"no such option: {typed}; did you mean '{meant}'?")


def test_no_option_is_suggested_that_a_command_lacks() -> None:
    done = call("inspect", CNN, "--flops", 0.5)
    fails(done, "no such option: --flops")
    assert "--macs" not in done.stderr


@pytest.mark.parametrize("typed", [("--macs", "50%"), ("--macs=50%",), ("--macs", "50 %")])
def test_percent(tmp_path: Path, typed: tuple[str, ...]) -> None:
    fails(prune(*typed, out=tmp_path), "write it as a fraction: --macs 0.5")


def test_another_text_for_a_number(tmp_path: Path) -> None:
    done = prune("--macs", "half", "--criterion", "5%", out=tmp_path)
    fails(done, "--macs")
    assert "fraction: " not in done.stderr


def test_a_criterion_in_capitals(tmp_path: Path) -> None:
    fails(prune("--criterion", "L2", out=tmp_path), "unknown criterion 'L2'. Did you mean 'l2'?")


def test_a_model_without_a_command() -> None:
    for typed in ((CNN,), (CNN, "-o", "x.onnx", "--ratio", 0.5), ("missing.onnx",)):
        fails(call(*typed), f"did you mean 'onnxprune inspect {typed[0]}', or 'onnxprune prune {typed[0]} -o OUT'?")
    fails(call("pune", CNN), "no such command 'pune'. Did you mean 'prune'?")


def test_everything_excluded(tmp_path: Path) -> None:
    done = prune("--exclude", "*", "--no-validate", out=tmp_path)
    assert done.exit_code == 0
    assert "nothing was removed: excluded by '*' (4); exclude fewer groups" in done.stderr


@pytest.mark.parametrize("command", ["prune", "sparsify"])
def test_data_for_a_comparison_that_is_skipped(tmp_path: Path, command: str) -> None:
    done = call(command, CNN, "-o", tmp_path / "o.onnx", "--data", TEST, "--no-validate")
    fails(done, "--no-validate skips the comparison, so --data has no place beside it; drop one")
