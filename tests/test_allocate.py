"""Errors of cuts, tables of them, and how budgets are shared by them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import CNN, MODELS, call, fails, mlp

import onnxprune
from onnxprune import OnnxPruneError, Options
from onnxprune.allocate import Cache, OutputComparer, Table, measure, select_candidates
from onnxprune.allocate.budget import make_budget
from onnxprune.allocate.search import choose_cheapest, solve_counts
from onnxprune.allocate.tables import Heights, choose_ratios
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.graph.weights import Array
from onnxprune.measure import OutputShift
from onnxprune.measure.shift import OutputDifference, kl

RESNET, CALIB = MODELS / "digits_resnet.onnx", MODELS / "digits_calib.npz"


def make_comparer(path: Path = CNN, samples: int = 32) -> OutputComparer:
    analysis = onnxprune.analyze(path)
    return OutputComparer(analysis, load_data(CALIB, list_input_specs(analysis.model.proto)), samples=samples)


# errors


def test_divergence_of_class_scores() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 7)) * 4
    p, q = (np.exp(x / 4) / np.exp(x / 4).sum(1, keepdims=True) for x in (a, b))
    assert kl(a, b) == pytest.approx(float((p * np.log(p / q)).sum()))
    assert kl(a, a + 3) == pytest.approx(0, abs=1e-12)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    assert kl(p, q) == pytest.approx(kl(a, b))
    assert math.isfinite(kl(np.eye(3), np.eye(3)[::-1]))


def test_divergence_of_tokens_is_what_the_loss_rises_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.measure.shift.BLOCK", 14)  # two rows at a time
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True) for x in (a, b))
    of_tokens, of_others = OutputDifference(7), OutputDifference(8)
    of_tokens.add(a, b)
    of_others.add(a, b)
    assert of_tokens.value() == pytest.approx(float((p * np.log(p / q)).sum()) / 15)
    assert of_others.value() == pytest.approx(float(np.square(a - b).sum() / np.square(a).sum()))


def test_the_original_is_where_it_was() -> None:
    assert make_comparer().of(onnxprune.load(CNN)) == OutputShift(0.0, 0.0, 1.0, 32)


def test_other_outputs_and_broken_ones(tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx")
    analysis = onnxprune.analyze(path)
    feeds = [{"x": np.ones((2, 4), np.float32)}, {"x": np.zeros((1, 4), np.float32)}]
    j = OutputComparer(analysis, feeds)
    j.reference = [{"y": np.full((2, 3, 2), 2.0, np.float32), "n": np.array([1, 2])} for _ in feeds]
    j.names = ["y", "n"]

    def outputs(y: float) -> list[dict[str, np.ndarray]]:
        return [{"y": np.full((2, 3, 2), y, np.float32), "n": np.array([1, 3])} for _ in feeds]

    with pytest.MonkeyPatch.context() as patch:
        made = iter(outputs(3.0))
        patch.setattr("onnxprune.allocate.error.open_session", lambda *_: None)
        patch.setattr("onnxprune.allocate.error.run", lambda session, feeds: next(made))
        moved = j.of(analysis.model)
        assert moved.error == pytest.approx((0.25 + 0.5) / 2) and moved.relative_l2 == pytest.approx(0.5)
        assert moved.agreement is None
        made = iter(outputs(math.nan))
        assert j.of(analysis.model).error == math.inf


def test_no_batch_is_an_error() -> None:
    with pytest.raises(OnnxPruneError, match="there is no batch"):
        OutputComparer(onnxprune.analyze(CNN), [])


# tables


def table(counts: list[int], errors: list[float], size: int = 16) -> Table:
    return Table("g", "filters", size, counts, [OutputShift(e, None, None) for e in errors])


def test_a_curve_goes_through_what_was_measured_and_never_falls() -> None:
    curve = table([12, 8, 4], [0.1, 0.05, 0.9]).curve()
    assert curve[16] == 0 and curve[0] == math.inf
    assert curve[[12, 8, 4]] == pytest.approx([0.1, 0.1, 0.9])
    assert np.all(np.diff(curve) <= 1e-12) and curve[15] == pytest.approx(0.1 / 16)
    assert table([8], [0.4]).curve(base=0.3)[8] == pytest.approx(0.1)
    assert np.isfinite(table([8], [math.inf]).curve()[1:]).all()


def test_measurements_are_kept_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    c = select_candidates(onnxprune.analyze(CNN), Options())
    first = measure(c, make_comparer(), (0.25, 0.5), Cache(path))
    assert {n: len(t.counts) for n, t in first.items()} == dict.fromkeys((g.name for g in c.groups), 2)
    lines = path.read_text().splitlines()
    assert len(lines) == 2 * len(c.groups)
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # cut short while it was written
    again = Cache(path)
    j = make_comparer()
    asked = []
    j.of = lambda model: asked.append(model) or OutputShift(1.0, None, None)  # type: ignore[method-assign,assignment,func-returns-value]
    assert measure(c, j, (0.25,), again).keys() == first.keys()
    assert len(asked) == len([g for i, g in enumerate(c.groups) if 2 * i >= 5])
    asked.clear()
    other = make_comparer(samples=64)
    other.of = j.of  # type: ignore[method-assign]
    measure(c, other, (0.25,), Cache(path))
    assert len(asked) == len(c.groups), "other data are measured anew"


def test_a_file_that_holds_no_measurements_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"format": 1}\n')
    with pytest.raises(OnnxPruneError, match="no file of measurements"):
        Cache(path)


# sharing a budget


def test_a_group_that_costs_less_than_nothing() -> None:
    """A predicted time may fall where a group grows: then it stays whole, and the others fit all the same."""
    analysis = onnxprune.analyze(CNN)
    c = select_candidates(analysis, Options(macs=0.5).resolved(False))

    class Falling:
        def at(self, counts: Array) -> Array:
            made: Array = counts.sum(-1) - 1.5 * counts[..., 0]
            return made

    cost, sizes = Falling(), analysis.sizes
    budget = replace(make_budget(c, "macs", 0.5), cost=cost, exact=cost.at, whole=float(cost.at(sizes)))  # type: ignore[arg-type]
    curves = {g.name: np.linspace(1, 0, g.size + 1) for g in c.groups}
    counts = choose_cheapest(c, curves, budget)
    assert counts is not None and budget.fits(counts) and counts[0] == sizes[0]


def test_dynamic_programming_finds_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    choices = {n: list(range(1, 6)) for n in "abcd"}
    prices = dict(zip("abcd", (3.0, 1.0, 5.0, 2.0), strict=True))
    for _ in range(20):
        errors = {n: np.concatenate([[np.inf], np.sort(rng.random(5))[::-1]]) for n in "abcd"}
        nominal = float(rng.uniform(12, 50))
        every = itertools.product(*choices.values())
        fitting = [k for k in every if sum(p * n for p, n in zip(prices.values(), k, strict=True)) <= nominal]
        best = min(sum(errors[n][k] for n, k in zip("abcd", ks, strict=True)) for ks in fitting)
        found = solve_counts(choices, errors, prices, nominal)
        assert found is not None
        assert sum(errors[n][k] for n, k in found.items()) == pytest.approx(best, rel=0.02)
    assert solve_counts(choices, errors, prices, 10.9) is None


def test_the_search_spares_what_is_sensitive() -> None:
    analysis = onnxprune.analyze(RESNET)
    c = select_candidates(analysis, Options(macs=0.5, round_to=4))
    curve = {g.name: table([g.size // 2], [0.01], g.size).curve() for g in c.groups}
    curve["blocks.0.widen.0"] *= 1000
    counts = choose_cheapest(c, curve, make_budget(c, "macs", 0.5))
    assert counts is not None and counts[analysis.at_of["blocks.0.widen.0"]] > 90
    assert ((counts % 4 == 0) | (counts == analysis.sizes)).all()


@pytest.mark.parametrize("allocation", ["sensitivity", "search", "netadapt"])
def test_measured_allocations_keep_the_budget_and_beat_one_ratio(allocation: str) -> None:
    analysis, j = onnxprune.analyze(RESNET), make_comparer(RESNET)
    plans = {
        how: onnxprune.plan(analysis, macs=0.7, round_to=4, allocation=how, calib=j.feeds, repair="none")
        for how in (allocation, "uniform")
    }
    moved = {how: j.of(onnxprune.apply(analysis, plan)).error for how, plan in plans.items()}
    assert moved[allocation] < 0.7 * moved["uniform"]
    after = onnxprune.analyze(onnxprune.apply(analysis, plans[allocation])).macs()
    whole = analysis.macs()
    assert after and whole and 0.6 < after / whole <= 0.7
    assert all(len(c.keep) % 4 == 0 or len(c.keep) == c.size for c in plans[allocation].groups.values())


def test_a_budget_out_of_reach() -> None:
    for allocation in ("search", "netadapt"):
        with pytest.raises(OnnxPruneError, match="remain even"):
            onnxprune.plan(CNN, macs=0.2, max_ratio=0.2, allocation=allocation, calib=make_comparer().feeds)


def test_curves_take_the_base_off() -> None:
    assert table([8], [0.5]).curve(0.5)[8] < 1e-6


def test_cumulative_scores_are_a_curve_of_a_height() -> None:
    scores = np.array([4.0, 1.0, 2.0, 0.0])
    curve = Heights.of(scores, table([2], [0.5], 4)).curve(scores)
    assert curve[0] == np.inf and curve[4] == 0
    np.testing.assert_allclose(curve[1:4], [1.0, 0.5, 1e-12])
    assert Heights.of(scores, table([], [], 4)).curve(scores)[1] == 0


def test_a_curve_goes_through_what_was_measured() -> None:
    scores, measured = np.arange(16.0), table([12, 8, 4], [0.1, 0.4, 3.0], 16)
    curve = Heights.of(scores, measured).curve(scores)
    np.testing.assert_allclose(curve[[12, 8, 4]], [0.1, 0.4, 3.0])
    assert (np.diff(curve[1:]) <= 0).all()


@pytest.mark.parametrize(
    ("groups", "samples", "counts"),
    [(1, 8, 6), (12, 100, 2), (12, 2000, 6), (30, 2000, 4), (30, 100, 1), (5000, 10**5, 1)],
)
def test_many_groups_and_few_samples_take_few_measurements(groups: int, samples: int, counts: int) -> None:
    ratios = choose_ratios(groups, samples)
    assert len(ratios) == counts and all(0 < r < 1 for r in ratios)


# the command line


def test_sensitivity_prints_a_table_and_json_and_writes_a_page(tmp_path: Path) -> None:
    cache, page = tmp_path / "c.jsonl", tmp_path / "page.html"
    args = ("sensitivity", CNN, "--calib", CALIB, "--samples", 32, "--ratio", 0.25, "--ratio", 0.5, "--cache", cache)
    result = call(*args, "--html", page)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert all(name in result.stdout for name in ("conv1", "conv4", "error (channels kept)"))
    html = page.read_text()
    assert html.count("<polyline") == 4 and "http" not in html and "<script" not in html
    report = json.loads(call(*args, "--json").stdout)
    assert set(report) == {"format", "model", "data", "samples", "criterion", "groups"}
    points = report["groups"][0]["points"]
    assert [p["kept"] for p in points] == [24, 16] and points[0]["error"] <= points[1]["error"]
    assert len(cache.read_text().splitlines()) == 8


def test_what_calibration_is_for_is_said(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    fails(call("prune", CNN, "-o", out, "--macs", 0.5, "--allocation", "search"), "give some with --calib")
    result = call("prune", CNN, "-o", out, "--macs", 0.7, "--calib", CALIB, "--samples", 32, "--no-validate")
    assert result.exit_code == 0 and "search allocation" in result.stdout, result.output
