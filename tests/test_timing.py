"""The time of a plan: kernels are found, layers are fitted, tables are kept, and budgets of time are met."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from test_cli import call, fails

import onnxprune
from onnxprune import OnnxPruneError, Plan
from onnxprune.allocate import latency_plan
from onnxprune.allocate.evaluator import Evaluator
from onnxprune.allocate.planning import make_plan
from onnxprune.allocate.polynomial import Compiled, Poly
from onnxprune.allocate.timing import TimingTable, timing_table
from onnxprune.allocate.timing.fit import Terms, fit_layers, fit_nonnegative
from onnxprune.allocate.timing.matching import UNKNOWN, LayerFinder
from onnxprune.calibration import draw_batches
from onnxprune.calibration.kernels import Kernel, KernelTimer, average_quickest
from onnxprune.errors import DataError
from onnxprune.graph.model import Model
from onnxprune.graph.save import build_full_proto
from onnxprune.report.promises import explain_weak_promise
from onnxprune.report.types import TimingReport
from onnxprune.settings import Options
from onnxprune.surgery import apply_plan
from onnxprune.validation.latency import Stopwatch

MODELS = Path(__file__).parents[1] / "models"
CNN, RESNET, VIT = (MODELS / f"digits_{name}.onnx" for name in ("cnn", "resnet", "vit"))


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds what another has measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# kernels and layers


def test_the_kernels_of_a_model_are_timed() -> None:
    model = onnxprune.load(RESNET)
    feeds = draw_batches(model, 0, 1).limit(1).first()
    timer = KernelTimer(build_full_proto(model), feeds, 1, lambda: 0.0)
    kernels = timer.find_kernels()
    assert any("Conv/" in k.layer and "float" in k.layer for k in kernels)
    seconds, whole = timer.time()
    assert {k.name for k in kernels} <= seconds.keys() and all(s > 0 for s in seconds.values()) and whole == 0.0
    nodes = onnxprune.analyze(RESNET).flat.proto.graph.node
    finder = LayerFinder(nodes)
    owners = finder.add(kernels)
    assert UNKNOWN not in owners
    convolutions = {i for i, n in enumerate(nodes) if n.op_type == "Conv"}
    layers = {finder.layer_of(i) for i in owners}
    assert {finder.layer_of(i) for i in convolutions} <= layers, "each convolution has a kernel of its own"


def kernel(name: str, ins: str, outs: str) -> Kernel:
    return Kernel(name, tuple(ins.split()), tuple(outs.split()), name)


def test_what_is_fused_under_any_plan_is_one_layer() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("MaxPool", ["b"], ["c"]), helper.make_node("Conv", ["c", "v"], ["y"])]  # fmt: skip
    finder = LayerFinder(nodes)
    fused = [kernel("b_nchwc", "x w2", "r"), kernel("<c>_token_7", "r", "r2"), kernel("y_nchwc", "r2 v2", "r3"),
             kernel("ReorderOutput", "r3", "y")]  # fmt: skip
    assert finder.add(fused) == [1, 2, 3, 3]
    plain = [kernel("<a>", "x w", "a"), kernel("<b>", "a", "b"), kernel("ReorderInput", "b", "r"),
             kernel("<c>", "r", "c"), kernel("<y>", "c v", "y"), kernel("Stray", "z", "q")]  # fmt: skip
    assert finder.add(plain) == [0, 1, 1, 2, 3, UNKNOWN]
    assert finder.layer_of(0) == finder.layer_of(1) and len(finder.members()) == 3


def test_a_sum_that_is_fused_into_a_blocked_convolution_belongs_to_it() -> None:
    """Not to the next one, or all blocks would be one layer: ONNX Runtime names such a kernel by the convolution alone."""
    ops = (("Conv", "x w1", "a"), ("Relu", "a", "b"), ("Conv", "b w2", "c"), ("Add", "c x", "d"), ("Relu", "d", "e"),
           ("Conv", "e w3", "f"), ("Relu", "f", "g"), ("Conv", "g w4", "h"), ("Add", "e h", "i"), ("Relu", "i", "y"))  # fmt: skip
    finder = LayerFinder([helper.make_node(op, ins.split(), [out]) for op, ins, out in ops])
    fused = [kernel("b_nchwc", "x r1", "t"), kernel("c_nchwc_token_1", "t r2 x", "u"), kernel("g_nchwc", "u r3", "v"),
             kernel("h_nchwc", "v r4 u", "z"), kernel("ReorderOutput", "z", "y")]  # fmt: skip
    finder.add(fused)
    assert sorted(finder.members().values()) == [[0, 1], [2, 3, 4], [5, 6], [7, 8], [9]]


# fits


def test_weights_are_not_negative() -> None:
    random = np.random.default_rng(0)
    terms = random.random((30, 3))
    assert fit_nonnegative(terms, terms @ [1.0, 0.0, 2.0], np.ones(30)) == pytest.approx([1, 0, 2], abs=1e-6)
    weights = fit_nonnegative(terms, terms @ [1.0, -3.0, 2.0], np.ones(30))
    assert (weights >= 0).all() and weights[1] == 0
    assert not fit_nonnegative(-np.ones((4, 1)), np.ones(4), np.ones(4)).any()


@pytest.mark.parametrize("block", [1, 16])
def test_a_layer_is_learned_from_samples(block: int) -> None:
    """The time of a blocked convolution, as a function of both its widths, at counts that were not among the samples."""
    sizes = np.array([64, 128])
    random = np.random.default_rng(0)
    terms = Terms(*(Compiled(Poly({m: 1}), 2) for m in ((0, 1), (0,), (1,))), (0, 1))

    def true(x: np.ndarray) -> np.ndarray:
        whole = np.ceil(x / block) * block
        return np.asarray(1e-9 * (whole[:, 0] * whole[:, 1] + 20 * whole[:, 1] + 300), np.float64)

    seen, new = (np.stack([random.integers(8, n + 1, 40) for n in sizes], 1).astype(np.float64) for _ in range(2))
    fit = fit_layers([(terms, true(seen))], seen, sizes)
    assert fit.block == block
    assert fit.at(terms, new, sizes) == pytest.approx(true(new), rel=0.02)


def test_the_quickest_third_counts() -> None:
    assert average_quickest([1.0, 9.0, 2.0, 8.0, 3.0, 7.0]) == 1.5 and average_quickest([4.0]) == 4.0


# tables


def test_a_table_keeps_what_was_measured_first(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "t.jsonl"
    first = TimingTable(path)
    first.add({"a": 1.23456789, "b": 2.0})
    first.add({"a": 9.0})
    path.write_text(path.read_text() + '{"key": "c", "sec')  # cut short
    again = TimingTable(path)
    assert again.known == first.known == {"a": 1.23457, "b": 2.0}
    assert again.get_or_measure("b", lambda: 7.0) == 2.0
    digest = again.digest
    assert again.get("a") and again.digest != digest, "the hash is that of all entries that were used"


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"error": 1}\n')
    with pytest.raises(DataError, match=r"other.jsonl' is no file of timings; name another one"):
        TimingTable(tmp_path / "other.jsonl")
    with pytest.raises(DataError, match="name a file"):
        TimingTable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="name a file that can be written"):
        TimingTable(tmp_path / "file" / "t.jsonl").add({"a": 1.0})


def test_the_table_lies_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timing_table.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert timing_table.find_default_path() == tmp_path / "onnxprune" / "timings.jsonl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert timing_table.find_default_path() == Path.home() / ".cache" / "onnxprune" / "timings.jsonl"


# budgets of time


def cost_of_kernel(k: Kernel) -> float:
    """Seconds on a machine that only multiplies: a weight's elements times the positions of the picture that it meets."""
    shapes = [[int(n) for n in s.removeprefix("float").split("x")] for s in k.layer.split("/")[-1].split() if "x" in s]
    if "Conv" in k.layer and len(shapes) > 1:
        return 1e-9 * float(np.prod(shapes[1]) * np.prod(shapes[0][2:]))
    return 1e-9 * float(np.prod(shapes[0])) if shapes else 1e-9


def seconds_of(model: Model) -> float:
    feeds = draw_batches(model, 0, 1).limit(1).first()
    return sum(map(cost_of_kernel, KernelTimer(build_full_proto(model), feeds, 1, lambda: 0.0).find_kernels()))


@pytest.fixture
def ideal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of that machine."""

    def time(self: KernelTimer) -> tuple[dict[str, float], float]:
        found = {k.name: cost_of_kernel(k) for k in self.find_kernels()}
        return found, sum(found.values())

    monkeypatch.setattr(KernelTimer, "time", time)
    monkeypatch.setattr(
        Stopwatch, "ratio", lambda self, model: seconds_of(model) / seconds_of(onnxprune.load(self.original))
    )


@pytest.mark.usefixtures("ideal")
@pytest.mark.parametrize(("model", "more"), [(CNN, {}), (RESNET, {}), (RESNET, {"steps": 2, "allocation": "global"})])
def test_a_budget_of_time_is_met(model: Path, more: dict[str, object]) -> None:
    a = onnxprune.analyze(model)
    plan = onnxprune.plan(a, latency=0.6, **more)
    left = seconds_of(apply_plan(a, plan)) / seconds_of(a.model)
    assert 0.4 < left <= 0.612, "blocks of 16 channels are coarse steps of so small a model"
    assert len(plan.timings) == 16 and Plan.from_json(plan.to_json()) == plan


@pytest.mark.usefixtures("ideal")
def test_with_one_table_one_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = (
        "prune",
        CNN,
        "-o",
        tmp_path / "o.onnx",
        "--latency",
        0.6,
        "--timings",
        tmp_path / "t.jsonl",
        "--no-validate",
    )
    first = call(*args, "--plan-out", tmp_path / "1.json")
    assert "predicted" in first.stdout + first.stderr and first.exit_code == 0

    def no_time(self: KernelTimer) -> tuple[dict[str, float], float]:
        raise AssertionError("all of it is in the table")

    monkeypatch.setattr(KernelTimer, "time", no_time)
    monkeypatch.setattr(Stopwatch, "ratio", no_time)
    call(*args, "--plan-out", tmp_path / "2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.usefixtures("ideal")
def test_the_least_that_can_be_is_told() -> None:
    with pytest.raises(
        OnnxPruneError, match=r"--latency 0.001: 0\.\d+ of the time remain even if every group keeps the least"
    ):
        onnxprune.plan(CNN, latency=0.001)


def test_a_clock_that_says_otherwise_moves_the_budget(ideal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a plan takes a tenth more than predicted, the next is made with a smaller budget."""
    wrong = Stopwatch.ratio
    monkeypatch.setattr(Stopwatch, "ratio", lambda self, model: 1.1 * wrong(self, model))
    a = onnxprune.analyze(RESNET)
    plan = onnxprune.plan(a, latency=0.6)
    assert 0.4 < 1.1 * seconds_of(apply_plan(a, plan)) / seconds_of(a.model) <= 0.612


def test_a_prediction_comes_of_a_real_clock() -> None:
    """On a real clock a prediction comes out; how good it is, `tools/latency.py` measures."""
    evaluator = Evaluator(onnxprune.analyze(VIT))
    make_plan(evaluator.original, Options(latency=0.9).resolved(False), evaluator)
    timing = evaluator.timing
    assert timing and 0 < timing.predicted <= timing.before * 1.1 and timing.error < 1 and timing.threads == 1


def test_bad_tables_are_told_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("[1]\n")
    run = call("prune", CNN, "-o", tmp_path / "o.onnx", "--latency", 0.6, "--timings", tmp_path / "t.jsonl")
    fails(run, "is no file of timings")


def test_a_budget_is_approached_by_secants() -> None:
    """Half of the time is overhead that no budget changes, so that the time falls by half as much as the budget."""
    asked = list[float]()

    def make(budget: float) -> latency_plan.TimedPlan:
        asked.append(budget)
        took = 0.5 + 0.5 * budget**1.2
        report = TimingReport(1.0, took, 0.0, 1, "", took)
        return latency_plan.TimedPlan(Plan("", {}), report, latency_plan.measure_miss(took, 0.7))

    best = latency_plan.approach_time(make, 0.7)
    assert best.miss == 0 and 0.679 <= best.report.measured <= 0.714 and len(asked) <= 4
    assert asked[0] == 0.7 and asked[1] < 0.5


@pytest.mark.parametrize("took", [None, 1.2])
def test_a_budget_out_of_reach_is_refused(took: float | None) -> None:
    """It is so by the table at once, or by the clock, which finds all that can be done far too slow."""

    def make(budget: float) -> latency_plan.TimedPlan:
        if took is None or budget != 0.7:
            raise OnnxPruneError("out of reach")
        return latency_plan.TimedPlan(
            Plan("", {}), TimingReport(1.0, 0.7, 0.0, 1, "", took), latency_plan.measure_miss(took, 0.7)
        )

    with pytest.raises(OnnxPruneError, match="out of reach"):
        latency_plan.approach_time(make, 0.7)


def test_a_clock_that_asks_for_more_than_there_is_gets_what_there_is() -> None:
    """A noisy clock finds a plan far too slow, and the next budget is out of reach: the nearest that can be is taken."""
    asked = list[float]()

    def make(budget: float) -> latency_plan.TimedPlan:
        asked.append(budget)
        if budget < 0.5:
            raise OnnxPruneError("out of reach")
        took = 0.5 + 0.5 * budget
        return latency_plan.TimedPlan(
            Plan("", {}), TimingReport(1.0, budget, 0.0, 1, "", took), latency_plan.measure_miss(took, 0.7)
        )

    best = latency_plan.approach_time(make, 0.7)
    assert asked[1] < 0.5 < asked[2] < 0.7
    assert best.report.measured == 0.5 + 0.5 * min(b for b in asked if b >= 0.5)


def test_a_budget_of_time_that_the_clock_does_not_confirm_is_warned_of(
    ideal: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Stopwatch, "ratio", lambda self, model: 0.9)
    report = onnxprune.prune(RESNET, tmp_path / "o.onnx", latency=0.6).report
    assert "--latency 0.6 was not met: 0.9 of the time by the clock" in explain_weak_promise(report)
