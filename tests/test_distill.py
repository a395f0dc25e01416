"""A candidate learns what its original makes of data: better where that is possible, never worse, and the same each time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from test_cli import call, fails
from tiny import model, spec, tensor

import onnxprune
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.calibration.array_store import Memory
from onnxprune.display import Shown
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import analyze
from onnxprune.measure import ShiftSums
from onnxprune.report import TrainedReport, from_json
from onnxprune.training import TrainingRecipe, make_task, train
from onnxprune.training import augment as changes
from onnxprune.training.augment import augment
from onnxprune.training.drawn_batches import DrawnBatches
from onnxprune.training.rates import climb_rates
from onnxprune.training.recipe import RATE_STEP
from onnxprune.training.teacher import Teacher

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'onnxprune[torch]'")
from onnxprune.training.loop import TrainingLoop  # noqa: E402
from onnxprune.training.loss import Objective, measure_shift  # noqa: E402

MODELS = Path(__file__).parents[1] / "models"
CNN, RESNET, CALIB, TEST = (MODELS / f"digits_{n}" for n in ("cnn.onnx", "resnet.onnx", "calib.npz", "test.npz"))
RNG = np.random.default_rng(0)
FEW = {"x": RNG.normal(size=(80, 6)).astype(np.float32)}


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def network(seed: int = 0, shared: bool = False, inner: int = 8, outputs: int = 5) -> onnx.ModelProto:
    """x [N, 6] -> Gemm, Relu -> Gemm (the first one's weights, transposed, where they are shared) -> y [N, outputs]."""
    rng = np.random.default_rng(seed)
    stored = {"w": rng.normal(size=(6, inner)), "b": rng.normal(size=inner)}
    if not shared:
        stored["v"] = rng.normal(size=(inner, outputs))
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w" if shared else "v"], ["y"], transB=int(shared)),
    ]
    weights = {name: w.astype(np.float32) for name, w in stored.items()}
    return model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N", 6 if shared else outputs])], weights)


def disturb(proto: onnx.ModelProto, size: float = 0.3, seed: int = 1) -> onnx.ModelProto:
    """The model with noise on its weights."""
    rng = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for t in made.graph.initializer:
        w = numpy_helper.to_array(t)
        t.CopyFrom(numpy_helper.from_array((w + size * rng.normal(size=w.shape)).astype(w.dtype), t.name))
    return made


def distill(original: Any, candidate: Any, calib: Any = FEW, **more: Any) -> Any:
    settings = {"passes": 10, "augment": False, "check": False} | more
    return onnxprune.distill(original, candidate, calib=calib, **settings)


# The loss


SCORES = RNG.normal(size=(7, 5)) * 4


@pytest.mark.parametrize(
    ("shape", "tokens"), [((7, 5), None), ((3, 4, 9), 9), ((3, 4, 9), None), ((7, 5, 1, 1), None), ((2, 3, 8, 8), None)]
)
def test_the_loss_is_the_measure_that_plans_are_judged_by(shape: tuple[int, ...], tokens: int | None) -> None:
    before, after = (RNG.normal(size=shape).astype(np.float32) * 3 for _ in range(2))
    same_loss({"y": before}, {"y": after}, tokens)


def test_the_loss_of_probabilities_infinities_and_several_outputs() -> None:
    before, after = (
        np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in (SCORES, SCORES + RNG.normal(size=SCORES.shape))
    )
    masked = np.where(np.arange(5) < 3, SCORES, -np.inf)
    rest = {"masked": masked, "features": RNG.normal(size=(7, 2, 3))}
    same_loss({"p": before, **rest}, {"p": after, **{k: x + RNG.normal(size=x.shape) for k, x in rest.items()}}, None)


def same_loss(before: dict[str, Any], after: dict[str, Any], tokens: int | None) -> None:
    before, after = ({k: np.asarray(x, np.float32) for k, x in d.items()} for d in (before, after))
    sums = ShiftSums(tokens)
    sums.add(before, after)
    found = measure_shift(before, {k: torch.from_numpy(x) for k, x in after.items()}, tokens)
    assert float(found) == pytest.approx(sums.value().error, rel=1e-4)
    assert Objective(tokens).judge([before], [after], [None]).loss == sums.value().error


def test_labels_are_mixed_in() -> None:
    before, after = (np.asarray(SCORES + s, np.float32) for s in (0, RNG.normal(size=SCORES.shape)))
    labels = np.array([0, 1, 2, 3, 4, -1, 0])
    logs = after - np.log(np.exp(after).sum(1, keepdims=True))
    entropy = -np.mean([logs[i, n] for i, n in enumerate(labels) if n >= 0])
    shift = Objective(None).judge([{"y": before}], [{"y": after}], [None]).loss
    mixed = Objective(None, 0.25)
    expected = 0.75 * 16 * shift + 0.25 * entropy
    assert mixed.judge([{"y": before}], [{"y": after}], [labels]).loss == pytest.approx(expected, rel=1e-5)
    assert float(mixed.measure({"y": before}, {"y": torch.from_numpy(after)}, labels)) == pytest.approx(
        expected, rel=1e-4
    )


# What comes out


def test_it_learns() -> None:
    found = distill(network(), disturb(network()), passes=60)
    d = found.report.distillation
    assert d.improved and d.loss_after < 0.2 * d.loss_before and (d.samples, d.held_out) == (72, 8)
    assert (d.losses[0], min(d.losses)) == pytest.approx((d.loss_before, d.loss_after), rel=1e-3)
    assert d.agreement_after >= d.agreement_before


def test_it_is_never_worse_than_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = disturb(network(), 0.01)
    found = distill(network(), candidate, passes=2, learning_rate=1.0)
    assert not found.report.distillation.improved and found.report.distillation.loss_after is not None
    assert found.proto.SerializeToString() == candidate.SerializeToString()


@pytest.mark.parametrize("augment", [False, True])
def test_zeros_stay_zero_and_all_else_is_trained(augment: bool) -> None:
    candidate = disturb(network(), 0.3)
    for t in candidate.graph.initializer:
        w = numpy_helper.to_array(t).copy()
        w[np.random.default_rng(2).random(w.shape) < (0.5 if w.ndim > 1 else 1)] = 0  # half of the weights, all biases
        t.CopyFrom(numpy_helper.from_array(w, t.name))
    was, new = arrays(candidate), arrays(distill(network(), candidate, augment=augment).proto)
    for name in ("w", "v"):
        assert np.array_equal(new[name] == 0, was[name] == 0) and (new[name] != was[name]).any()
    assert (new["b"] != 0).all()


@pytest.mark.parametrize(("best", "tried"), [(0, 3), (1, 3), (2, 4), (9, 4), (-1, 4), (-9, 4)])
def test_the_rate_is_found_uphill_or_downhill(best: int, tried: int) -> None:
    asked = list[float]()

    def measure(rate: float) -> float:
        asked.append(rate)
        return abs(np.log(rate / 0.01) / np.log(RATE_STEP) - best)

    found = climb_rates(0.01, measure)
    assert len(asked) == tried and found == min(
        asked, key=lambda rate: abs(np.log(rate / 0.01) / np.log(RATE_STEP) - best)
    )
    assert climb_rates(0.01, lambda rate: float("nan")) == 0.01


def test_the_rate_of_short_trainings_is_as_if_it_were_given() -> None:
    candidate = disturb(network())
    found = distill(network(), candidate, passes=20)
    rate = found.report.distillation.learning_rate
    same = distill(network(), candidate, passes=20, learning_rate=rate)
    assert same.proto.SerializeToString() == found.proto.SerializeToString()
    assert same.report.distillation.losses == found.report.distillation.losses


def test_shared_weights_stay_shared() -> None:
    original = network(shared=True)
    found = distill(original, disturb(original), passes=30)
    assert found.report.distillation.improved and sorted(arrays(found.proto)) == ["b", "w"]
    assert [list(n.input) for n in found.proto.graph.node] == [list(n.input) for n in original.graph.node]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_same_seed_makes_the_same_bytes(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPRUNE_THREADS", threads)
    candidate = onnxprune.prune(CNN, ratio=0.5, check=False, repair="none").proto

    def make(**more: Any) -> bytes:
        return distill(CNN, candidate, CALIB, samples=100, passes=2, augment=True, **more).proto.SerializeToString()

    assert make() == make() != make(seed=1)


def test_torch_has_its_threads_back() -> None:
    before = torch.get_num_threads()
    distill(network(), disturb(network()), passes=1)
    assert torch.get_num_threads() == before


def test_a_checkpoint_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    kept, candidate = tmp_path / "state.pt", disturb(network())
    whole = distill(network(), candidate)

    def stop(stage: str, done: int, of: int) -> None:
        if (stage, done) == ("distill", of // 2 + 1):
            raise KeyboardInterrupt

    half = distill(network(), candidate, checkpoint=kept, progress=stop)
    assert half.report.distillation.interrupted and half.report.distillation.passes_done < 10 and kept.exists()
    rest = distill(network(), candidate, checkpoint=kept)
    assert rest.proto.SerializeToString() == whole.proto.SerializeToString()
    assert rest.report.distillation.losses == whole.report.distillation.losses
    assert not rest.report.distillation.interrupted
    for change in ({"passes": 11}, {"seed": 3}, {"calib": {"x": FEW["x"][:50]}}):
        with pytest.raises(OnnxPruneError, match="is of other models, data or settings; choose another name"):
            distill(network(), candidate, checkpoint=kept, **change)
    kept.write_text("something else")
    with pytest.raises(OnnxPruneError, match="is none of onnxprune; choose another name"):
        distill(network(), candidate, checkpoint=kept)


def test_an_interrupt_keeps_the_best() -> None:
    best = list[int]()

    def stop(stage: str, done: int, of: int) -> None:
        if (stage, done) == ("distill", of - 1):
            raise KeyboardInterrupt

    stop.remark = lambda stage, words: best.append(len(best))  # type: ignore[attr-defined]
    found = distill(network(), disturb(network()), passes=20, progress=stop)
    d = found.report.distillation
    assert d.interrupted and d.improved and len(best) == len(d.losses) - 1 and d.loss_after < d.loss_before


def test_static_batches_streams_and_few_samples() -> None:
    static = network()
    static.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    static.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    assert distill(static, disturb(static), passes=30).report.distillation.improved
    parts = [{"x": part} for part in np.split(FEW["x"], 8)]
    assert distill(network(), disturb(network()), parts, passes=60).report.distillation.improved
    alone = distill(network(), disturb(network()), {"x": FEW["x"][:1]}, passes=30).report.distillation
    assert (alone.samples, alone.held_out) == (1, 1)


def test_half_precision_stays_so() -> None:
    original = network()
    half = onnxprune.prune(disturb(original), ratio=0, repair="none", cast="fp16", check=False).proto
    found = distill(original, half, passes=40)
    assert found.report.distillation.improved and arrays(found.proto)["w"].dtype == np.float16


def test_a_pruned_network_of_pictures_gains(tmp_path: Path) -> None:
    """Without repair, half of the filters leave little; training brings most of it back, on pictures that it never saw."""
    pruned = onnxprune.prune(RESNET, ratio=0.5, repair="none", check=False).proto
    found = onnxprune.distill(RESNET, pruned, tmp_path / "o.onnx", calib=CALIB, data=TEST, passes=12, augment=False)
    before, after = found.report.error_before, found.report.error_after
    assert before is not None and after is not None
    assert after.accuracy.after > 0.9 > before.accuracy.after
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"), full_check=True)


# Labels


def test_labels_are_learned_where_they_are_wanted(tmp_path: Path) -> None:
    original, wanted = network(), RNG.integers(0, 5, 80)
    np.save(tmp_path / "labels.npy", wanted)
    named = distill(original, disturb(original), labels=tmp_path / "labels.npy", label_weight=1.0)
    beside = distill(original, disturb(original), {**FEW, "labels": wanted}, label_weight=1.0)
    assert named.proto.SerializeToString() == beside.proto.SerializeToString()
    assert named.report.distillation.label_weight == 1.0
    ignored = distill(original, disturb(original), {**FEW, "labels": wanted})
    assert ignored.proto.SerializeToString() == distill(original, disturb(original)).proto.SerializeToString()
    assert distill(original, disturb(original), labels=wanted).report.distillation.label_weight == 0.5


@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "has no labels to learn; give --labels FILE"), (np.zeros(3, int), "labels are of 3 samples, .* give one each"),
     (np.full(80, 9), "label 9 is no class; output 'y' has 5"), (np.zeros(80), "wants 8 integers, one a row")],
)  # fmt: skip
def test_wrong_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(OnnxPruneError, match=message):
        distill(network(), disturb(network()), labels=labels, label_weight=0.5)


# Mistakes


def test_what_cannot_be_learned_is_said_in_a_line() -> None:
    nodes = [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)]
    best = model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N"], onnx.TensorProto.INT64)], {})
    with pytest.raises(OnnxPruneError, match=r"the outputs \['y'\] are no floats"):
        distill(best, best)
    plain = model([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", ["N", 6])], [tensor("y", ["N", 6])], {})
    with pytest.raises(OnnxPruneError, match="no weights that could be trained"):
        distill(plain, plain)
    with pytest.raises(OnnxPruneError, match="give two versions of one model"):
        distill(network(), CNN)
    with pytest.raises(OnnxPruneError, match="passes is 0; training takes 1 pass over the data, or more"):
        distill(network(), network(), passes=0)
    with pytest.raises(TypeError, match="there is no setting 'pases'; did you mean 'passes'"):
        onnxprune.distill(network(), network(), calib=FEW, pases=3)


def test_settings_without_their_training_are_refused() -> None:
    for call_it in (onnxprune.prune, onnxprune.sparsify):
        with pytest.raises(OnnxPruneError, match="passes says how 'distill' trains; give both, or neither"):
            call_it(CNN, passes=3)
        with pytest.raises(OnnxPruneError, match=r"distillation learns what the original makes of data.*give --calib"):
            call_it(CNN, distill=True)


def test_a_gradient_that_is_no_number_changes_nothing() -> None:
    original = network()
    calib = {"x": np.where(np.arange(80)[:, None] == 3, 1e30, FEW["x"]).astype(np.float32)}
    found = distill(original, disturb(original), calib, passes=20)
    assert all(np.isfinite(w).all() for w in arrays(found.proto).values())


# The command line, and the pipelines


def test_the_commands(tmp_path: Path) -> None:
    candidate, out = tmp_path / "c.onnx", tmp_path / "o.onnx"
    onnxprune.prune(CNN, candidate, ratio=0.5, repair="none", check=False)
    options = ["--calib", CALIB, "--samples", 300, "--passes", 3, "--no-augment"]
    done = call("distill", CNN, candidate, "-o", out, *options, "--report", tmp_path / "r.json")
    assert done.exit_code == 0 and "3 of 3 passes over 270 samples" in done.stdout and out.exists()
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["distillation"]["loss_after"] < report["distillation"]["loss_before"]
    assert from_json(TrainedReport, report).distillation.improved
    labeled = tmp_path / "labeled.npz"
    np.savez(labeled, **np.load(TEST))
    tuned = json.loads(call("finetune", CNN, candidate, "-o", out, "--calib", labeled, "--passes", 2, "--json").stdout)
    assert tuned["distillation"]["label_weight"] == 1.0 and tuned["distillation"]["loss_after"] is not None
    same = call("distill", CNN, CNN, "-o", out, *options)
    assert same.exit_code == 1 and f"training made nothing better; {out} has the candidate's weights" in same.stderr
    fails(call("distill", CNN, candidate, "-o", out), "missing option '--calib'")
    fails(call("distill", CNN, candidate, "-o", candidate, *options), "never overwritten")
    fails(call("prune", CNN, "-o", out, "--passes", 3), "passes says how 'distill' trains; give both, or neither")


def test_an_interrupted_command_writes_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, out, step = tmp_path / "c.onnx", tmp_path / "o.onnx", TrainingLoop._step
    onnxprune.prune(CNN, candidate, ratio=0.5, repair="none", check=False)

    def stop(training: TrainingLoop, done: int, of: int) -> None:
        if done == 11:
            raise KeyboardInterrupt
        step(training, done, of)

    monkeypatch.setattr(TrainingLoop, "_step", stop)
    learned = ("--calib", CALIB, "--samples", 200, "--passes", 4, "--no-augment")
    for command in (("distill", CNN, candidate), ("prune", CNN, "--distill", "--repair", "none", "--ratio", 0.5)):
        found = call(*command, "-o", out, *learned)
        assert found.exit_code == 130 and "best so far" in found.stderr, found.output
        assert "interrupted" in found.stdout and "1 of 4 passes" in found.stdout
        onnx.checker.check_model(out)
        out.unlink()


def test_pruning_and_sparsifying_end_with_training(tmp_path: Path) -> None:
    settings = {"calib": CALIB, "samples": 200, "distill": True, "passes": 3, "augment": False}
    pruned = onnxprune.prune(CNN, ratio=0.7, repair="none", criterion="l2", **settings)
    assert pruned.report.distillation is not None and pruned.report.distillation.improved
    assert pruned.report.held_out is None and "distill" in pruned.report.seconds
    sparse = onnxprune.sparsify(CNN, pattern="1:4", layers="all", method="magnitude", repair="none", **settings)
    assert sparse.report.distillation is not None and sparse.report.distillation.improved
    sparse.save(tmp_path / "s.onnx")
    assert call("validate", tmp_path / "s.onnx", "--pattern", "1:4", "--layers", "all").exit_code == 0
    predicted = onnxprune.prune(CNN, ratio=0.7, dry_run=True, **settings)
    assert predicted.report.distillation is None


def test_where_training_brings_nothing_all_data_repair() -> None:
    settings = {"calib": CALIB, "samples": 100, "check": False}
    pruned = onnxprune.prune(CNN, ratio=0.3, distill=True, passes=1, learning_rate=1.0, augment=False, **settings)
    assert not pruned.report.distillation.improved and pruned.report.repair.samples == 100
    want = onnxprune.prune(CNN, plan=pruned.plan, **settings)
    assert want.proto.SerializeToString() == pruned.proto.SerializeToString()


def test_progress_tells_the_loss_and_the_time_left() -> None:
    class Kept(Shown):
        def __init__(self) -> None:
            super().__init__()
            self.lines = list[str]()
            self.say = self.show = self.lines.append  # type: ignore[method-assign]

    shown = Kept()
    distill(network(), disturb(network()), progress=shown)
    pattern = r"training \d+/\d+ steps, loss \S+ -> \S+, about \d+ seconds? left"
    assert any(re.fullmatch(pattern, line) for line in shown.lines), shown.lines[-5:]


def test_torch_is_imported_by_training_alone() -> None:
    code = f"import sys, onnxprune; onnxprune.prune({str(CNN)!r}, ratio=0.3, check=False); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_original_is_not_changed() -> None:
    original = onnxprune.load(CNN)
    batches = load_data(CALIB, list_input_specs(original.proto)).limit(40)
    candidate = onnxprune.load(CNN)
    before = candidate.proto.SerializeToString()
    task = make_task(analyze(original, batches.measure_sizes()), candidate, batches, batches, Memory())
    train(task, TrainingRecipe(passes=1))
    assert candidate.proto.SerializeToString() == before


# Samples


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pictures_are_changed_each_their_own_way(layout: str) -> None:
    shape: tuple[Any, ...] = ("N", 3, 16, 12) if layout == "nchw" else ("N", 16, 12, 3)
    x = RNG.normal(size=(40, *shape[1:])).astype(np.float32)

    def change(seed: int, **more: Any) -> np.ndarray:
        return augment({"x": x}, [spec("x", shape)], np.random.default_rng(seed), **more)["x"]

    made = change(0)
    assert made.shape == x.shape and made.dtype == x.dtype and np.array_equal(made, change(0))
    assert all((a != b).any() for a, b in zip(made, x, strict=True)) and (made != change(1)).any()
    assert np.abs(made.mean() - x.mean()) < 0.1 and 0.5 < made.std() / x.std() < 1.2


def test_what_is_not_enlarged_is_moved_by_whole_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTRAST", "BRIGHTNESS", "ENLARGED"):
        monkeypatch.setattr(changes, name, 0.0)
    x = RNG.normal(size=(20, 1, 8, 8)).astype(np.float32)
    made = augment({"x": x}, [spec("x", ("N", 1, 8, 8))], np.random.default_rng(0), blend=False)["x"]
    for before, after in zip(x, made, strict=True):
        assert np.abs(after.reshape(-1, 1) - before.reshape(1, -1)).min(1).max() < 1e-5


def test_numbers_get_noise_and_tokens_and_masks_do_not() -> None:
    feeds = {
        "x": RNG.normal(size=(9, 4)).astype(np.float32),
        "ids": RNG.integers(0, 9, (9, 4)),
        "mask": np.ones((9, 4), np.float32),
    }
    specs = [spec(name, ("N", 4), x.dtype) for name, x in feeds.items()]
    made = augment(feeds, specs, np.random.default_rng(0))
    assert [(made[n] == feeds[n]).all() for n in feeds] == [False, True, True]
    assert np.abs(made["x"] - feeds["x"]).max() < 0.6


@pytest.mark.parametrize("augmented", [False, True])
def test_samples_come_once_a_pass_and_are_the_same_when_they_come_again(augmented: bool) -> None:
    x = np.arange(100, dtype=np.float32)[:, None] + 0.25
    recipe = TrainingRecipe(passes=9, augment=augmented, versions=2)
    samples = DrawnBatches(load_data({"x": x}, [spec("x", ("N", 1))]), [spec("x", ("N", 1))], recipe, Memory())
    assert (samples.count, samples.total) == (6, 100)
    seen = [[samples.take(*samples.find(step))[0]["x"] for step in range(p * 6, p * 6 + 6)] for p in range(5)]
    for batches in seen:
        near = {round(float(v)) for v in np.concatenate(batches).ravel()}
        assert len(near) == 96 or augmented
    again = recipe.forms
    first, later, other = (np.sort(np.concatenate(seen[p]).ravel()) for p in (0, again, 1))
    assert np.array_equal(first, later) and not np.array_equal(first, other)


def test_what_the_original_says_is_kept_as_far_as_memory_goes() -> None:
    original = onnxprune.load(CNN)
    x = np.load(TEST)["image"]
    for memory, kept in ((Memory(), True), (Memory(100), False)):
        teacher = Teacher(original, ["logits"], memory)
        first = teacher.ask(0, {"image": x[:4]})["logits"]
        other = teacher.ask(0, {"image": x[4:8]})[
            "logits"
        ]  # asked again with other inputs, it can only come from memory
        assert np.array_equal(first, other) == kept
