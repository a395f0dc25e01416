"""How long work takes is said before it starts and while it runs, and effort buys quality with time."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.cli import progress as shown
from onnxprune.cli.progress import Estimate, Lines, describe_time
from onnxprune.forecast import Forecast, forecast
from onnxprune.pipeline import calibration_batches, make_evaluator
from onnxprune.plans import Plan
from onnxprune.settings import Options, RunSettings

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
POOL = np.load(MODELS / "digits_calib.npz")["image"]
EXPECTED = Forecast({"calibrate": 10.0, "measure": 30.0, "repair": 60.0}, 100, 4)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 second"), (89, "about 89 seconds"), (100, "about 2 minutes"), (6000, "about 1.7 hours")],
)
def test_times_for_people(seconds: float, words: str) -> None:
    assert describe_time(seconds) == words


def test_the_rest_goes_by_the_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.chain([0.0, 0.0], itertools.repeat(20.0))
    monkeypatch.setattr(shown.time, "monotonic", lambda: next(now))
    estimate = Estimate()
    estimate.expect(EXPECTED)
    estimate.update("load", 0, 0)  # was not expected, and counts nothing
    assert estimate.share == 0
    estimate.update("measure", 0, 4)  # what comes before is over
    assert estimate.share == pytest.approx(0.1)
    assert estimate.left == pytest.approx(90 * 2)  # 10 expected seconds took 20
    estimate.update("measure", 2, 4)
    estimate.update("measure", 1, 4)  # a second round takes nothing back
    assert estimate.share == pytest.approx(0.25)
    estimate.update("repair", 4, 4)
    assert estimate.share == 1.0 and estimate.left == 0


def test_lines_come_every_ten_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    lines = Lines()
    lines.expect(EXPECTED)
    for second in range(1, 40):
        now[0] = float(second)
        lines("repair", second, 40)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "this takes about 2 minutes: 100 samples, 4 groups"
    assert len(said) == 4 and said[1].startswith("repairing layers 10/40 layers, about ")


def test_short_work_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().expect(Forecast({"repair": 3.0}, 10, 4))
    assert capsys.readouterr().err == ""


def make_forecast(options: Options, samples: int = 64) -> Forecast | None:
    run = RunSettings({"image": POOL[:samples]})
    model = onnxprune.load(CNN)
    chosen = options.resolved(True)
    evaluator = make_evaluator(onnxprune.analyze(model), chosen, calibration_batches(run, model), run, None)
    return forecast(evaluator, chosen, check=False)


def test_a_forecast_follows_the_options() -> None:
    low, default, high = (make_forecast(Options(macs=0.5, effort=e)) for e in ("low", "default", "high"))
    assert low and default and high
    assert list(low.stages) == ["calibrate", "repair"] and list(default.stages) == [
        "calibrate",
        "measure",
        "try",
        "repair",
    ]
    tries = [
        f.stages["try"] / f.stages["repair"] for f in (default, high)
    ]  # times differ from run to run, their ratio does not
    assert tries[1] == pytest.approx(5 * tries[0])  # five parts instead of one
    assert default.samples == 64 and default.groups == 4


def test_nothing_is_forecast_without_data() -> None:
    model = onnxprune.load(CNN)
    evaluator = make_evaluator(onnxprune.analyze(model), Options(macs=0.5), None, RunSettings(), None)
    assert forecast(evaluator, Options(macs=0.5).resolved(False), True) is None


def test_a_pipeline_says_what_it_expects() -> None:
    class Told:
        found: Forecast | None = None

        def expect(self, found: Forecast) -> None:
            self.found = found

        def __call__(self, stage: str, done: int, of: int) -> None: ...

    told = Told()
    onnxprune.prune(CNN, macs=0.5, calib={"image": POOL[:32]}, check=False, progress=told)
    assert told.found and told.found.samples == 32


def test_efforts() -> None:
    data = {"image": POOL[:60]}
    reports = {e: onnxprune.prune(CNN, macs=0.3, calib=data, effort=e).report for e in ("low", "default", "high")}
    assert reports["low"].held_out is None and reports["low"].sensitivity is None
    assert [reports[e].held_out.held_out for e in ("default", "high")] == [1, 5]  # type: ignore[union-attr]
    allocations = {e: (r.options or {})["allocation"] for e, r in reports.items()}
    assert allocations == {"low": "uniform", "default": "search", "high": "search"}


@pytest.mark.parametrize("how", [{"macs": 0.4}, {"min_agreement": 0.8}])
def test_an_interrupted_search_leaves_its_best_plan(tmp_path: Path, how: dict[str, float]) -> None:
    """Ctrl-C in the last stage of planning."""

    def interrupt(stage: str, done: int, of: int) -> None:
        if (stage == "limit" and done == 4) or (stage == "measure" and "macs" in how):
            raise KeyboardInterrupt

    path = tmp_path / "best.json"
    with pytest.raises(KeyboardInterrupt, match="--plan applies it"):
        onnxprune.prune(CNN, plan_out=path, calib={"image": POOL[:40]}, progress=interrupt, **how)  # type: ignore[arg-type]
    smaller = onnxprune.prune(CNN, plan=Plan.load(path), check=False).report
    assert smaller.macs.after and smaller.macs.before and smaller.macs.after < smaller.macs.before
    if "macs" in how:
        assert smaller.macs.after <= 0.4 * smaller.macs.before
