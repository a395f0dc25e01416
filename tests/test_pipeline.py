"""Calibrated pruning as a whole: data, selection, allocation, steps and repair together, by their defaults."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import CNN, MODELS, TEST, call

import onnxprune
from onnxprune import Options
from onnxprune.report.types import CalibrationReport

CALIB = MODELS / "digits_calib.npz"


@pytest.mark.parametrize(
    "name", ["digits_cnn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("digits_resnet", "digits_vit"))]
)
def test_half_of_the_work_goes_and_the_accuracy_stays(tmp_path: Path, name: str) -> None:
    model, out = MODELS / f"{name}.onnx", tmp_path / "o.onnx"
    made = onnxprune.prune(model, out, macs=0.5, calib=CALIB, samples=200, steps=2, data=TEST)
    report = made.report
    accuracy, macs, repair, options = report.error.accuracy, report.macs, report.repair, report.options
    assert accuracy.after >= accuracy.before - 0.03
    assert 0.45 < macs.after / macs.before <= 0.5
    assert repair.kept == len(repair.layers) > 0 and repair.error_after < 0.5 * repair.error_before
    assert options["criterion"] == "obs" and options["repair"] == "lstsq"
    assert report.calibration == CalibrationReport(str(CALIB), 200)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.onnx" for i in range(2)]
    for file in files:
        onnxprune.prune(CNN, file, macs=0.6, calib=CALIB, samples=32, steps=2, include=["conv*"], check=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_plan_from_before_can_be_repaired(tmp_path: Path) -> None:
    plan, report = tmp_path / "plan.json", tmp_path / "report.json"
    assert call("prune", CNN, "--ratio", 0.5, "--dry-run", "--plan-out", plan).exit_code == 0
    errors = []
    for more in ((), ("--calib", CALIB, "--samples", 100)):
        result = call(
            "prune", CNN, "-o", tmp_path / "o.onnx", "--plan", plan, "--data", TEST, "--report", report, *more
        )
        assert result.exit_code == 0, result.output
        errors.append(json.loads(report.read_text())["error"]["relative_l2"])
    assert errors[1] < 0.5 * errors[0]


def test_without_data_nothing_is_repaired_unless_asked_for() -> None:
    assert Options().resolved(False).repair == "none" and Options().resolved(False).criterion == "l2"
    o = Options(macs=0.5).resolved(True)
    assert (o.criterion, o.repair, o.allocation, o.schedule, o.steps) == ("obs", "lstsq", "search", "linear", 1)
    assert Options(ratio=0.5).resolved(True).allocation is None
    kept = Options(
        macs=0.5, criterion="l1", repair="bias", allocation="uniform", steps=3, schedule="agp", target="none"
    )
    assert kept.resolved(True) == kept


def test_python_data_repairs_too() -> None:
    images = np.load(CALIB)["image"][:64]
    analysis = onnxprune.analyze(CNN)
    plan = onnxprune.plan(analysis, ratio=0.5)
    plain = onnxprune.apply(analysis, plan)
    repaired = onnxprune.apply(analysis, plan, calib=lambda: iter([images[:32], images[32:]]))
    errors = [onnxprune.validate(CNN, m, data=TEST).overall.relative_l2 for m in (plain, repaired)]
    assert errors[1] < 0.5 * errors[0]
