"""How long work takes is said before it starts and while it runs, and effort buys quality with time."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import onnxprune
from onnxprune import display as shown
from onnxprune.display import Estimate, Lines, describe_time
from onnxprune.forecast import Forecast, forecast
from onnxprune.pipeline import make_calibration_batches, make_evaluator
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
    evaluator = make_evaluator(onnxprune.analyze(model), chosen, make_calibration_batches(run, model), run, None)
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


# The display of the library


def run_on_terminal(call: str, **environ: str) -> str:
    """What Python prints on a terminal while it calls something of onnxprune."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(MODELS.parent), "TERM": "xterm", "COLUMNS": "120", **environ}
    command = [sys.executable, "-c", f"import onnxprune\nonnxprune.{call}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        printed = b""
        with suppress(OSError):  # nobody holds the other end any more
            while part := os.read(ours, 1 << 12):
                printed += part
        os.close(ours)
        assert process.stdout and process.stdout.read() == b""
    assert process.returncode == 0, printed
    return printed.decode()


def test_a_terminal_shows_a_bar_and_wipes_it() -> None:
    shown = run_on_terminal(f"prune({str(CNN)!r}, ratio=0.5)")
    assert "comparing outputs in ONNX Runtime" in shown and shown.endswith("\x1b[2K")


@pytest.mark.parametrize(("more", "environ"), [(", progress=False", {}), ("", {shown.DISABLE: "1"})])
def test_a_bar_can_be_disabled(more: str, environ: dict[str, str]) -> None:
    assert run_on_terminal(f"prune({str(CNN)!r}, ratio=0.5{more})", **environ) == ""


def test_nothing_is_shown_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    onnxprune.prune(CNN, ratio=0.5)
    assert capfd.readouterr() == ("", "")


def test_lines_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shown, "LINE_SECONDS", 0.0)
    onnxprune.plan(CNN, ratio=0.5, progress=True)
    assert "scoring channels" in capsys.readouterr().err


class Notebook:
    """As much of IPython as a notebook's kernel has: what is displayed, and how it changes."""

    kernel = True

    def __init__(self) -> None:
        self.states: list[dict[str, str]] = []

    def display(self, data: dict[str, str], raw: bool, display_id: bool = False) -> Notebook:
        self.states.append(data)
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.states.append(data)


def test_a_notebook_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: notebook))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=notebook.display))
    monkeypatch.setattr(shown, "UPDATE_SECONDS", 0.0)
    with shown.choose_progress(None) as progress, shown.choose_progress(None) as second:
        progress.expect(EXPECTED)  # type: ignore[attr-defined]
        progress("measure", 2, 4)
        second("repair", 1, 1)  # inside the first one: it has no line of its own
    texts = [state["text/plain"] for state in notebook.states]
    assert texts[:2] == ["starting", "this takes about 2 minutes: 100 samples, 4 groups"]
    assert texts[2].startswith("measuring errors of groups 2/4, about") and texts[3:] == [""]
    assert '<progress value="0.250">' in notebook.states[2]["text/html"]
