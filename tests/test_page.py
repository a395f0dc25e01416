"""The table of a run, and what its page holds; the page in a browser is tests/test_page_browser.py."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from documents import read_page
from runs import CALIB, HOSTILE, MODELS, TEST, Job, jobs
from test_cli import call, fails
from test_sparse_layers import LEFT, graph

import onnxprune
from onnxprune.report import to_json
from onnxprune.report.builders import inspect_report
from onnxprune.report.html import render_run_page
from onnxprune.report.html.payload import find_first_rise, make_models
from onnxprune.report.rows import COLUMNS, make_rows, name_settings, render_csv
from onnxprune.report.types import NonFinite, OutputMismatch, ResultRow


def blocks(html: str, name: str) -> list[str]:
    return re.findall(rf'<script type="application/json" class="{name}">(.*?)</script>', html, re.DOTALL)


# rows


def test_a_row_says_what_the_report_says() -> None:
    job, row = jobs()[1], make_rows(jobs())[1]
    report = job.report
    assert report and tuple(to_json(row)) == COLUMNS
    assert (row.model, row.status, row.settings) == ("digits_cnn", "done", {"ratio": 0.3}), "its error is 0.69"
    assert row.macs_left == report.macs.after / report.macs.before < 0.6
    assert row.accuracy_after == report.error.accuracy.after
    assert row.relative_l2 == report.error.relative_l2 > 0
    assert row.latency_ratio == report.latency.after / report.latency.before
    assert row.speedup_verdict == report.latency.verdict
    assert row.speedup == (None if row.speedup_verdict == "noisy" else report.latency.ratio)
    assert [getattr(row, f"{k}_2_4") for k in ("layers", "eligible", "likely", "sparse")] == [2, 1, 1, 1]


def test_a_ruined_model_is_degraded_and_few_random_samples_agree_on_nothing() -> None:
    report = jobs()[0].report
    assert report and report.error and report.error.degraded is False

    def row(status: str = "done", **numbers: object) -> ResultRow:
        error = replace(report.error, **numbers)  # type: ignore[type-var, arg-type]
        return make_rows([Job("1", "m", status=status, report=replace(report, error=error))])[0]

    assert row(relative_l2=0.69).status == "done"
    worse = row(relative_l2=1.2)
    assert worse.status == "degraded" and "error of 1.2 is beyond 0.7" in worse.message
    assert row("failed", relative_l2=1.2).status == "failed"
    assert row(relative_l2=float("nan")).status == "degraded"
    assert row(nonfinite=NonFinite(1, 3)).message == "2 outputs are NaN or infinite, and were not before"
    assert row(nonfinite=NonFinite(3, 3)).status == "done"
    for mismatch, status in ((0.4, "done"), (0.6, "degraded"), (None, "done")):
        assert row(relative_l2=None, outputs={"y": OutputMismatch(mismatch)}).status == status
    assert row(samples=2, data="a.npz").top1_agreement == report.error.top1_agreement
    for samples, told in ((2, False), (31, False), (32, True)):
        assert (row(samples=samples, data="random seed 0").top1_agreement is not None) == told


def test_a_job_without_a_report_has_a_row_without_numbers() -> None:
    row = make_rows(jobs())[8]
    assert row.message.startswith("cut.onnx") and row.status == "failed"
    assert all(getattr(row, c) is None for c in COLUMNS[COLUMNS.index("params_before") :])


def test_an_infinite_error_is_no_number() -> None:
    report = jobs()[0].report
    assert report and report.error
    broken = replace(report, error=replace(report.error, relative_l2=float("inf"), accuracy=None))
    assert make_rows([Job("1", "m", report=broken)])[0].relative_l2 is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([{"ratio": 0.3, "seed": 1}, {"ratio": 0.5, "seed": 1}], ["ratio=0.3", "ratio=0.5"]),
        ([{"macs": 0.5, "calib": "a/b.npz"}, {"ratio": 0.5}], ["macs=0.5, calib", "ratio=0.5"]),
        ([{"calib": "a/b.npz"}, {"calib": "a/c.npz"}], ["calib=b.npz", "calib=c.npz"]),
        ([{"max_ratio": 0.5, "profile": True}], ["max-ratio=0.5, profile"]),
        ([{"exclude": ["a", "b*"]}, {"group_ratio": {"c*": 0.25}}], ["exclude=a+b*", "group-ratio=c*=0.25"]),
        ([{}, {"ratio": 0.5}], ["defaults", "ratio=0.5"]),
    ],
)
def test_a_setting_is_called_by_what_sets_it_apart(settings: list[dict[str, object]], said: list[str]) -> None:
    assert name_settings([Job(str(i), "m", s) for i, s in enumerate(settings)]) == said


def test_csv_holds_the_table() -> None:
    table = make_rows(jobs())
    read = list(csv.DictReader(io.StringIO(render_csv(table))))
    assert tuple(read[0]) == COLUMNS and len(read) == len(table)
    assert [float(r["macs_left"]) for r in read[:8]] == [r.macs_left for r in table[:8]]
    assert json.loads(read[6]["settings"]) == {"ratio": 0.3, "exclude": ["stem*"]}
    assert read[10]["model"] == HOSTILE and read[10]["macs_left"] == ""


# reports


def test_a_report_says_whose_channels_lie_along_each_axis() -> None:
    report = jobs()[0].report
    assert report
    inspected = inspect_report(onnxprune.analyze(MODELS / "digits_cnn.onnx"))
    groups = {(m.tensor, m.axis, g.name) for g in inspected.groups for m in g.members}
    told = {(w.name, axis, g) for w in report.weights for axis, of in enumerate(w.groups) for g in of}
    assert told == groups
    (conv2,) = (w for w in report.weights if w.name == "conv2.weight")
    assert (conv2.nodes, conv2.shape) == (["/conv2/Conv"], [64, 32, 3, 3])
    assert conv2.groups == [["conv2"], ["conv1"], [], []]


def test_a_report_has_the_errors_that_were_measured() -> None:
    by_ratio, searched = jobs()[0].report, jobs()[3].report
    assert by_ratio and searched and by_ratio.sensitivity is None
    tables = onnxprune.sensitivity(MODELS / "digits_cnn.onnx", CALIB, samples=64)
    assert [(g.name, g.size) for g in searched.sensitivity] == [(t.group, t.size) for t in tables.values()]
    for g in searched.sensitivity:
        errors = [p.error for p in g.points]
        assert len(errors) > 2 and errors[-1] == max(errors) > 0


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ([], None),
        ([0.0, 0.0], None),
        ([0.0, 0.01, 0.3, 1.0], 2),
        ([0.1, 0.2, 0.3, 0.4, 0.55, 0.6], 4),  # no rise is large: the largest
        ([None, 0.5, 0.4], 1),
        ([float("inf"), 0.5], 1),
    ],
)
def test_where_the_error_enters(errors: list[float | None], first: int | None) -> None:
    assert find_first_rise(errors) == first


# the page


def test_what_settings_share_is_there_once() -> None:
    found = {m["name"]: m for m in make_models(jobs())}
    cnn = found["digits_cnn"]
    assert len(cnn["settings"]) == 4
    assert set(cnn["shared"]) == {"groups", "weights", "frozen", "curves"}
    assert all(len(lists) == 1 for lists in cnn["shared"].values())
    assert len(set(cnn["strings"])) == len(cnn["strings"])
    assert found["cut"]["settings"] == []


def test_the_page_is_one_file_that_loads_nothing() -> None:
    html = render_run_page(jobs(), "zoo & co {{DATA}}")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert not re.search(r"@import|url\(|\bsrc=[\"']|fetch\(|XMLHttpRequest", html)
    assert "<title>zoo &amp; co {{DATA}}</title>" in html
    table = json.loads(blocks(html, "rows")[0])
    assert len(table["rows"]) == len(jobs()) and len(blocks(html, "model")) == 6
    assert HOSTILE not in html
    assert [json.loads(b)["name"] for b in blocks(html, "model")][-1] == HOSTILE


def test_a_page_of_nothing() -> None:
    html = render_run_page([], "empty")
    assert json.loads(blocks(html, "rows")[0])["rows"] == [] and not blocks(html, "model")


# the commands


def test_prune_writes_a_page(tmp_path: Path) -> None:
    html, cnn = tmp_path / "r.html", MODELS / "digits_cnn.onnx"
    done = call("prune", cnn, "-o", tmp_path / "o.onnx", "--ratio", "0.3", "--exclude", "conv1*", "--html", html)
    assert done.exit_code == 0, done.output
    (model,) = map(json.loads, blocks(html.read_text(encoding="utf-8"), "model"))
    names = [model["strings"][g[0]] for g in model["shared"]["groups"][0]]
    kept = dict(zip(names, model["settings"][0]["kept"], strict=True))
    assert kept["conv1"] == 32 and kept["conv2"] < 64
    assert ["set", "ratio=0.3, exclude=conv1*"] in model["settings"][0]["facts"]


def test_a_dry_run_writes_a_page_too(tmp_path: Path) -> None:
    html = tmp_path / "r.html"
    done = call("prune", MODELS / "digits_cnn.onnx", "--dry-run", "--html", html)
    assert done.exit_code == 0 and len(blocks(html.read_text(encoding="utf-8"), "model")) == 1
    fails(call("prune", TEST, "--dry-run", "--html", html, "--report", html), "--html", "--report")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder, whose jobs are read by a stand-in for the database."""
    results = ModuleType("onnxprune.batch.results")
    vars(results)["read"] = lambda path: list(jobs()) if path == tmp_path else []
    for name in ("onnxprune.batch", "onnxprune.batch.results"):
        monkeypatch.setitem(sys.modules, name, results)
    return tmp_path


def test_report_writes_the_page_into_the_folder(folder: Path) -> None:
    done = call("report", folder)
    assert done.exit_code == 0, done.output
    assert "11 results of 6 models" in done.stdout and [f.name for f in folder.iterdir()] == ["report.html"]
    assert (folder / "report.html").read_text(encoding="utf-8") == render_run_page(jobs(), folder.name)


def test_report_for_machines(folder: Path) -> None:
    done = call("report", folder, "--json", "--csv", folder / "t.csv")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == to_json(make_rows(jobs()))
    assert (folder / "t.csv").read_text(encoding="utf-8") == render_csv(make_rows(jobs()))
    assert [f.name for f in folder.iterdir()] == ["t.csv"]


def test_report_says_where_it_cannot_write(folder: Path) -> None:
    fails(call("report", folder, "-o", folder), "-o", "is a folder")
    fails(call("report", folder, "-o", folder / "x", "--csv", folder / "x"), "--csv", "-o")
    fails(call("report", folder, "-o", folder / "no" / "x.html"), "create it first")


def test_the_page_of_json_names_the_columns() -> None:
    pairs = {re.sub("_(before|after|left|ratio)$", "", c) for c in COLUMNS}
    missing = {c for c in COLUMNS if f"`{c}`" not in read_page("json.md")} - {
        f"{p}_{w}" for p in pairs for w in ("before", "after")
    }
    assert not missing, f"json.md does not name {sorted(missing)}"
    report = jobs()[0].report
    assert report and not {k for k in to_json(report) if f"`{k}`" not in read_page("json.md")}


def test_a_sparse_model_and_layers_that_were_left_are_shown(tmp_path: Path) -> None:
    """Of a layer that is left alone it is not known whether a target could run it."""
    nodes, weights, _ = LEFT["two axes of one weight"]
    source = tmp_path / "m.onnx"
    onnx.save(graph(nodes, weights, ["N", 8]), source)
    result = call(
        "sparsify",
        source,
        "-o",
        tmp_path / "o.onnx",
        "--layers",
        "eligible",
        "--html",
        tmp_path / "p.html",
        "--no-validate",
    )
    assert result.exit_code == 0, result.output
    assert "sum over different axes" in (tmp_path / "p.html").read_text(encoding="utf-8")
