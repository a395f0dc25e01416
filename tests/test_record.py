"""An open-division record: what it states is measured here once more by other means, and another run states the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from test_cli import call, fails
from test_schema import CALIB, CNN, TEST, assert_schema, printed

import onnxprune
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.errors import OnnxPruneError, OutputError
from onnxprune.machine import read_free_memory, read_total_memory
from onnxprune.record import _digest_inputs, judge_quality
from onnxprune.report.types import Shares

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model, and the report of how it was made beside it."""
    folder = tmp_path_factory.mktemp("small")
    args = ("--ratio", 0.3, "--calib", CALIB, "--samples", 64, "--no-validate", "--report", folder / "report.json")
    assert call("prune", CNN, "-o", folder / "small.onnx", *args).exit_code == 0
    return folder / "small.onnx"


def accuracy_of(path: Path) -> float:
    """Without onnxprune."""
    data = np.load(TEST)
    (scores,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": data["image"]})
    return float((scores.argmax(1) == data["labels"]).mean())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPRUNE_CLOCK_SECONDS", "0.5")


def test_what_a_record_states_is_so(tmp_path: Path, small: Path) -> None:
    out = tmp_path / "record"
    args = (
        "record",
        CNN,
        small,
        "--data",
        TEST,
        "--target-share",
        0.9,
        "--profile",
        "--made-by",
        small.with_name("report.json"),
        "-o",
        out,
    )
    data = printed(*args, "--json")
    assert_schema("record", data)
    accuracy, performance = (json.loads((out / f"{name}.json").read_text()) for name in ("accuracy", "performance"))
    assert (data["accuracy"], data["performance"]) == (accuracy, performance)
    quality = accuracy["quality"]
    before, after = map(accuracy_of, (CNN, small))
    assert (quality["original"], quality["result"]) == (pytest.approx(before), pytest.approx(after))
    assert quality["target"] == pytest.approx(0.9 * before) and quality["met"] == (after >= 0.9 * before) is True
    assert accuracy["original"]["files"] == {CNN.name: digest(CNN)}
    assert accuracy["result"]["files"] == {"small.onnx": digest(small)} and digest(out / "small.onnx") == digest(small)
    assert accuracy["data"]["file"] == digest(TEST) and accuracy["data"]["samples"] == 500
    assert accuracy["result"]["bytes"] == small.stat().st_size
    latency = performance["latency"]
    assert latency["before"] > 0 and latency["after"] > 0 and latency["threads"] == 1
    assert performance["peak_memory"] is None or performance["peak_memory"]["before"] > 0
    assert performance["system"]["cores"] >= 1 and performance["software"]["onnxruntime"] == ort.__version__
    assert data["made_with"]["ratio"] == 0.3
    page = (out / "README.md").read_text()
    assert f"{quality['result']:.6g}" in page and digest(small) in page and "- ratio: 0.3" in page
    assert sorted(map(Path, data["files"])) == sorted(out.iterdir())


def test_another_run_writes_the_same_accuracy(tmp_path: Path, small: Path) -> None:
    for name in ("a", "b"):
        call("record", CNN, small, "--data", TEST, "--target-accuracy", 0.5, "-o", tmp_path / name)
    one, two = (tmp_path / name for name in ("a", "b"))
    assert (one / "accuracy.json").read_bytes() == (two / "accuracy.json").read_bytes()
    data = np.load(TEST)
    labels = data["labels"].copy()
    labels[0] = (labels[0] + 1) % 10
    np.savez(tmp_path / "other.npz", image=data["image"], labels=labels)
    call("record", CNN, small, "--data", tmp_path / "other.npz", "--target-accuracy", 0.5, "-o", tmp_path / "c")
    first, other = (json.loads((tmp_path / n / "accuracy.json").read_text())["data"] for n in ("a", "c"))
    assert first["labels"] != other["labels"] and first["file"] != other["file"] and first["inputs"] == other["inputs"]


def test_a_target_that_is_missed_is_a_failed_check(tmp_path: Path, small: Path) -> None:
    done = call("record", CNN, small, "--data", TEST, "--target-accuracy", 1.5, "-o", tmp_path / "r")
    assert done.exit_code == 1 and "missed" in done.stdout and "the target is missed: accuracy" in done.stderr
    assert not json.loads((tmp_path / "r" / "accuracy.json").read_text())["quality"]["met"]
    assert "MISSED" in (tmp_path / "r" / "README.md").read_text()


def test_a_measure_of_ones_own_is_recorded(tmp_path: Path, small: Path) -> None:
    def spread(outputs: dict[str, Array], labels: Array | None) -> float:
        return float(next(iter(outputs.values())).std())

    found = onnxprune.write_record(CNN, onnx.load(small), tmp_path / "r", data=TEST, metric=spread, target_accuracy=0.0)
    assert found.accuracy.quality.metric == "spread" and found.accuracy.quality.result > 0
    assert list(found.accuracy.result.files) == ["result.onnx"] and (tmp_path / "r" / "result.onnx").is_file()


def test_a_model_with_a_data_file_is_copied_whole(tmp_path: Path, small: Path) -> None:
    made = onnxprune.save(onnxprune.load(small), tmp_path / "large.onnx", external=True)
    assert len(made) == 2
    found = onnxprune.write_record(CNN, made[0], tmp_path / "r", data=TEST, target_accuracy=0.1)
    assert found.accuracy.result.files == {path.name: digest(path) for path in made}
    assert accuracy_of(tmp_path / "r" / "large.onnx") == pytest.approx(found.accuracy.quality.result)


def test_mistakes_are_one_line(tmp_path: Path, small: Path) -> None:
    out, base = tmp_path / "r", ("record", CNN, small)
    np.savez(tmp_path / "bare.npz", image=np.load(TEST)["image"][:8])
    fails(call(*base, "--data", tmp_path / "bare.npz", "-o", out), "the data have no array 'labels'", "--metric")
    both = ("--target-accuracy", 0.9, "--target-share", 0.9)
    fails(call(*base, "--data", TEST, *both, "-o", out), "give one")
    (tmp_path / "no.json").write_text("{}")
    fails(call(*base, "--data", TEST, "--made-by", tmp_path / "no.json", "-o", out), "is no report of prune")
    fails(call(*base, "--data", TEST, "--made-by", tmp_path / "absent.json", "-o", out), "No such file")
    (tmp_path / "file").write_text("")
    fails(call(*base, "--data", TEST, "-o", tmp_path / "file"), "File exists")
    with pytest.raises(OutputError):
        onnxprune.write_record(CNN, small, tmp_path / "file", data=TEST)


def test_the_default_target_is_a_share_of_the_original() -> None:
    class Measured:
        metric, accuracy = None, Shares(0.8, 0.795)

    quality = judge_quality(Measured(), None, None)  # type: ignore[arg-type]
    assert quality.target == pytest.approx(0.792) and quality.met and quality.share == pytest.approx(0.99)
    assert not judge_quality(Measured(), None, 1.0).met  # type: ignore[arg-type]
    Measured.accuracy = None  # type: ignore[assignment]
    with pytest.raises(OnnxPruneError, match="labels"):
        judge_quality(Measured(), None, None)  # type: ignore[arg-type]


def test_the_digest_of_data_does_not_depend_on_batches() -> None:
    specs = list_input_specs(onnx.load(CNN))
    images = np.load(TEST)["image"][:40]
    parts = [images[:7], images[7:33], images[33:]]
    found = [_digest_inputs(load_data(data, specs)) for data in ({"image": images}, [{"image": x} for x in parts])]
    plain = hashlib.sha256(f"float32 {list(images.shape[1:])}".encode() + images.tobytes()).hexdigest()
    assert found == [{"image": plain}] * 2


def test_all_memory_is_no_less_than_what_is_free() -> None:
    free, whole = read_free_memory(), read_total_memory()
    assert (free is None) == (whole is None)
    assert free is None or whole is None or 0 < free <= whole
