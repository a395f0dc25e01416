"""What is promised holds on samples that were not seen: folds, their bounds, and the user's own metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node
from tiny import model, tensor

import onnxprune
from onnxprune.api import NotCompared
from onnxprune.calibration import Batches, InputSpec, join, list_input_specs, load_data, reunite, split_samples
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array
from onnxprune.measure import load_metric
from onnxprune.measure.bound import compute_lower_bound
from onnxprune.report.promises import explain_weak_promise

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
TEST = np.load(MODELS / "digits_test.npz")
POOL = np.load(MODELS / "digits_calib.npz")["image"]


def load_digits(source: Any) -> Batches:
    return load_data(source, list_input_specs(onnxprune.load(CNN).proto))


def stream() -> list[dict[str, Array]]:
    return [{"image": POOL[at : min(at + 6, 40)]} for at in range(0, 40, 6)]


def read(batches: Batches) -> list[Array]:
    return [feeds["image"] for feeds in batches]


@pytest.mark.parametrize(
    ("hits", "of", "least"), [(98, 100, 0.93838), (100, 100, 0.05**0.01), (5, 10, 0.22244), (0, 7, 0.0), (1, 1, 0.05)]
)
def test_the_bound_is_that_of_clopper_and_pearson(hits: int, of: int, least: float) -> None:
    """The figures are those of a beta distribution's 5 % quantile."""
    assert compute_lower_bound(hits, of) == pytest.approx(least, abs=1e-5)


def test_the_bound_holds_for_nineteen_of_twenty_draws() -> None:
    drawn = np.random.default_rng(0).binomial(80, 0.9, 2000)
    assert np.mean([compute_lower_bound(int(k), 80) <= 0.9 for k in drawn]) >= 0.95


@pytest.mark.parametrize("source", [{"image": POOL[:40]}, stream], ids=["stored", "streamed"])
def test_each_sample_is_held_out_once(source: Any) -> None:
    data = load_digits(source)
    assert data.count_parts(5) == 5
    parts = [data.hold_out(k, 5) for k in range(5)]
    for rest, mine in parts:
        both = np.concatenate([*read(rest), *read(mine)])
        assert sorted(map(np.ndarray.tobytes, both)) == sorted(map(np.ndarray.tobytes, POOL[:40]))
    together = reunite([mine for _, mine in parts], [read(mine) for _, mine in parts])
    np.testing.assert_array_equal(together, POOL[:40])


def test_parts_can_be_limited() -> None:
    for source in ({"image": POOL[:40]}, stream):
        rest, _ = load_digits(source).hold_out(1, 5)
        assert sum(map(len, read(rest.limit(8)))) == 8


def test_one_batch_is_not_divided() -> None:
    assert load_digits([{"image": POOL[:9]}]).count_parts(5) == 1
    found = onnxprune.prune(CNN, macs=0.5, calib=[{"image": POOL[:9]}])
    assert found.report.held_out is not None and found.report.held_out.folds == 1


def draw(seed: int, samples: int = 100) -> tuple[Array, Array]:
    """Samples to calibrate on, and others."""
    order = np.random.default_rng(seed).permutation(len(POOL))
    return POOL[order[:samples]], np.concatenate([TEST["image"], POOL[order[samples:]]])


def measure_promise(seed: int) -> float:
    """How often the smallest model that promises the same class for 98 of 100 samples keeps that on new ones."""
    seen, new = draw(seed)
    made = onnxprune.prune(CNN, min_agreement=0.98, calib={"image": seen}, check=False)
    held_out = made.report.held_out
    assert held_out is not None and held_out.samples == 100 and held_out.agreement is not None
    assert held_out.agreement >= 0.98 > (held_out.least_agreement or 1.0)
    found = onnxprune.validate(CNN, made.model, data={"image": new}).top1_agreement
    assert found is not None
    return found


def test_a_promise_holds_on_new_samples() -> None:
    assert measure_promise(0) >= 0.94


@pytest.mark.slow
def test_promises_hold_in_the_mean() -> None:
    found = [measure_promise(seed) for seed in range(20)]
    assert np.mean(found) >= 0.97 and min(found) >= 0.94


def score(outputs: dict[str, Array], labels: Array | None) -> float:
    assert labels is not None
    return float((outputs["logits"].argmax(1) == labels).mean())


def test_the_smallest_model_within_a_drop() -> None:
    data = {"image": TEST["image"][:120], "labels": TEST["labels"][:120]}
    left = []
    for drop in (0.0, 0.2):
        report = onnxprune.prune(CNN, max_drop=drop, metric=score, calib=data, check=False).report
        assert report.held_out and report.held_out.metric and report.held_out.samples == 120
        metric = report.held_out.metric
        assert metric.name == "score" and metric.before - metric.after <= drop
        left.append(report.macs.after or 0)
    assert left[1] < left[0]


def test_what_a_limit_has_measured_is_reported() -> None:
    """With little effort, and where nothing is written, too."""
    data = {"image": TEST["image"][:60], "labels": TEST["labels"][:60]}
    for more in ({"effort": "low"}, {"dry_run": True}):
        report = onnxprune.prune(CNN, max_drop=0.1, calib=data, check=False, **more).report  # type: ignore[arg-type]
        assert report.held_out and report.held_out.samples == 60
        assert report.held_out.metric and report.held_out.metric.before - report.held_out.metric.after <= 0.1


def test_accuracy_is_the_metric_where_none_is_given() -> None:
    data = {"image": TEST["image"][:60], "labels": TEST["labels"][:60]}
    report = onnxprune.prune(CNN, max_drop=0.1, calib=data, check=False).report
    assert report.held_out and report.held_out.metric and report.held_out.metric.name == "accuracy"
    with pytest.raises(OnnxPruneError, match="no labels beside --calib"):
        onnxprune.plan(CNN, max_drop=0.1, calib={"image": POOL[:20]})


def test_a_metric_sees_outputs_and_labels_in_the_order_of_the_data() -> None:
    seen = list[tuple[Array, Array | None]]()

    def remember(outputs: dict[str, Array], labels: Array | None) -> float:
        seen.append((outputs["logits"], labels))
        return 1.0

    order = np.arange(50, dtype=np.float32)[:, None]  # labels of any kind
    onnxprune.prune(CNN, max_drop=1.0, metric=remember, calib={"image": POOL[:50], "labels": order}, check=False)
    outputs, labels = seen[0]  # of the original
    np.testing.assert_array_equal(labels, order)
    want = np.concatenate([x["logits"] for x in run_original(POOL[:50])])
    np.testing.assert_allclose(outputs, want, rtol=1e-4, atol=1e-4)


def run_original(images: Array) -> list[dict[str, Array]]:
    from onnxprune.calibration.sessions import open_session, run

    return [run(open_session(CNN, "original"), {"image": images})]


def test_a_metric_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def half(outputs, labels):\n    return 0.5\n\nnumber = 3\n")
    metric = load_metric(f"{file}:half")
    assert metric is not None and metric.name == "half" and metric.measure({}, None) == 0.5
    report = onnxprune.prune(CNN, ratio=0.3, metric=f"{file}:half").report
    assert report.error and report.error.metric and report.error.metric.after == 0.5


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.py:half", "there is no Python file"),
        ("{0}:third", "has no function 'third'"),
        ("{0}:number", "has no function 'number'"),
        ("{0}", "expected FILE.py:function"),
        ("{0}:half:", "expected FILE.py:function"),
    ],
)
def test_what_is_no_metric(tmp_path: Path, source: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text("number = 3\n")
    with pytest.raises(OnnxPruneError, match=words):
        load_metric(source.format(file))


def fail(outputs: dict[str, Array], labels: Array | None) -> float:
    raise ZeroDivisionError("no objects")


def give_nan(outputs: dict[str, Array], labels: Array | None) -> float:
    return float("nan")


def give_text(outputs: dict[str, Array], labels: Array | None) -> Any:
    return "good"


@pytest.mark.parametrize(
    ("function", "words"),
    [(fail, "ZeroDivisionError: no objects"), (give_nan, "finite number"), (give_text, "fails on logits float32")],
)
def test_a_metric_that_fails(function: Callable[[dict[str, Array], Array | None], Any], words: str) -> None:
    with pytest.raises(OnnxPruneError, match=words):
        onnxprune.plan(CNN, max_drop=0.1, metric=function, calib={"image": POOL[:20]})


def spoil(outputs: dict[str, Array], labels: Array | None) -> float:
    """The right measure, but it writes to what it was given."""
    found = score(outputs, labels)
    assert labels is not None
    print("a word")
    labels[:] = -1
    outputs["logits"][:] = 0
    outputs.clear()
    return found


def test_what_a_metric_does_to_its_arguments_stays_there(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"image": TEST["image"][:60], "labels": TEST["labels"][:60]}
    pair = [onnxprune.validate(CNN, CNN, data=data, metric=metric).error for metric in (score, spoil)]
    assert pair[0].metric and pair[1].metric and pair[0].accuracy == pair[1].accuracy
    assert pair[1].metric.before == pair[1].metric.after == pair[0].metric.before
    shown = capsys.readouterr()
    assert not shown.out and "a word" in shown.err


def leave(outputs: dict[str, Array], labels: Array | None) -> float:
    raise SystemExit(3)


def test_a_metric_cannot_end_the_program() -> None:
    with pytest.raises(OnnxPruneError, match="SystemExit: 3"):
        onnxprune.validate(CNN, CNN, data={"image": POOL[:5]}, metric=leave)


@pytest.mark.parametrize("kind", [str, np.float32])
def test_accuracy_is_of_integers(kind: Any) -> None:
    """Labels of another kind are a metric's; they hit nothing, so that any model would be good enough."""
    data = {"image": TEST["image"][:20], "labels": TEST["labels"][:20].astype(kind)}
    with pytest.raises(OnnxPruneError, match="integer"):
        onnxprune.validate(CNN, CNN, data=data)
    with pytest.raises(OnnxPruneError, match="integer"):
        onnxprune.plan(CNN, max_drop=0.1, calib=data)
    assert onnxprune.validate(CNN, CNN, data=data, metric=lambda outputs, labels: 1.0).error.accuracy is None


def test_a_model_that_a_metric_fails_on_is_there_and_said(tmp_path: Path) -> None:
    with pytest.raises(NotCompared, match="is written, but not compared") as failed:
        onnxprune.prune(CNN, tmp_path / "m.onnx", ratio=0.3, metric=give_nan, calib={"image": POOL[:20]})
    assert failed.value.result.files == [tmp_path / "m.onnx"] and (tmp_path / "m.onnx").exists()


# outputs that are no rows, sample for sample


def detect(boxes: Array) -> Array:
    """As many rows as a sample says, of itself."""
    return np.repeat(boxes, int(boxes.flat[0]), axis=0)


def test_outputs_of_single_samples_have_an_entry_each() -> None:
    samples = [np.full((1, 2), n, np.float32) for n in (3, 1, 4, 1, 5)]
    ones = [[1] * 5]
    (rows,) = split_samples([samples], ones) or []
    np.testing.assert_array_equal(join(rows), np.concatenate(samples))
    (found,) = split_samples([[detect(x) for x in samples]], ones) or []
    assert [len(x) for x in join(found)] == [3, 1, 4, 1, 5]
    (scalars,) = split_samples([[np.array(n) for n in (3, 1)]], [[1, 1]]) or []
    assert join(scalars).tolist() == [3, 1]
    assert split_samples([[np.zeros((4, 7)), np.zeros((2, 7))]], [[3, 3]]) is None
    assert split_samples([["no tensor"]], [[1]]) is None


def test_they_come_in_the_order_of_the_data() -> None:
    fixed = [InputSpec("image", np.dtype(np.float32), (1, 1, 8, 8))]
    for source in ({"image": POOL[:7]}, [{"image": x[None]} for x in POOL[:7]]):
        parts = [mine for _, mine in (load_data(source, fixed).hold_out(k, 3) for k in range(3))]
        outputs = [[np.repeat(x[0], 2, axis=0) for x in read(mine)] for mine in parts]
        split = split_samples(outputs, [[1] * len(part) for part in outputs])
        assert split is not None
        np.testing.assert_array_equal(reunite(parts, split), np.repeat(POOL[:7], 2, axis=1))


def test_a_metric_sees_an_output_that_has_no_axes() -> None:
    nodes = [
        make_node("MatMul", ["x", "w"], ["h"]),
        make_node("Relu", ["h"], ["r"]),
        make_node("MatMul", ["r", "v"], ["y"]),
    ]
    nodes.append(make_node("ReduceMean", ["y"], ["mean"], keepdims=0))
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 16)).astype(np.float32), "v": rng.normal(size=(16, 3)).astype(np.float32)}
    proto = model(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 3]), tensor("mean", [])], weights)
    seen = list[tuple[int, ...]]()

    def look(outputs: dict[str, Array], labels: Array | None) -> float:
        seen.append(outputs["mean"].shape)
        return float(np.abs(outputs["mean"] - outputs["y"].mean(axis=1)).max() < 1e-5)

    data = {"x": rng.normal(size=(10, 4)).astype(np.float32)}
    report = onnxprune.prune(proto, max_drop=0.0, metric=look, calib=data).report
    assert set(seen) == {(10,)} and report.held_out and report.held_out.metric
    assert report.held_out.metric.before == report.held_out.metric.after == 1.0


def warned(**settings: Any) -> str:
    report = onnxprune.prune(CNN, **settings).report
    return explain_weak_promise(report)


def test_a_limit_that_says_less_than_it_seems_to() -> None:
    labels = TEST["labels"][:40]
    some = {"image": TEST["image"][:40], "labels": labels}
    assert warned(min_agreement=0.5, calib=some, check=False) == ""
    assert "cannot be divided" in warned(min_agreement=0.5, calib=[{"image": POOL[:9]}], check=False)
    wrong = some | {"labels": (labels + 1) % 10}
    assert "are these the right labels?" in warned(max_drop=0.5, calib=wrong, check=False)
    sparse = warned(max_error=0.5, calib=some, check=False, sparsity=onnxprune.Sparsity())
    assert "before --then-sparsify" in sparse
    assert warned(macs=0.5, calib=[{"image": POOL[:9]}], check=False) == ""


@pytest.mark.parametrize("kind", ["tuples", "dicts"])
def test_labels_come_with_batches(kind: str) -> None:
    """As a DataLoader gives them: pairs of inputs and labels."""
    images, labels = TEST["image"][:60], TEST["labels"][:60]
    pairs = [(images[at : at + 12], labels[at : at + 12]) for at in range(0, 60, 12)]
    batches: Any = pairs if kind == "tuples" else [{"image": x, "labels": y} for x, y in pairs]
    seen = list[Array | None]()

    def remember(outputs: dict[str, Array], given: Array | None) -> float:
        seen.append(None if given is None else given.copy())
        return score(outputs, given)

    report = onnxprune.prune(CNN, max_drop=0.05, metric=remember, calib=batches, check=False).report
    assert (
        report.held_out and report.held_out.metric and report.held_out.metric.before > 0.9
    )  # outputs and labels belong together
    assert seen[0] is not None
    np.testing.assert_array_equal(seen[0], labels)
    plain = onnxprune.prune(CNN, max_drop=0.05, calib=lambda: iter(batches), check=False).report
    assert plain.held_out and plain.held_out.metric and plain.held_out.metric.name == "accuracy"
    found = onnxprune.validate(CNN, CNN, data=batches, metric=score)
    assert found.metric and found.metric.before == found.metric.after > 0.9


def test_targets_that_are_no_labels_are_left_out() -> None:
    boxes = [[1, 2], [3]]  # a list for each image, of any length
    data = load_digits([(POOL[:2], boxes), (POOL[2:4], {"boxes": boxes})])
    assert not data.has_labels and data.read_labels() is None and sum(map(len, read(data))) == 4


def test_a_metric_file_is_run_once(tmp_path: Path) -> None:
    file, ran = tmp_path / "mine.py", tmp_path / "ran.txt"
    file.write_text(f"open({str(ran)!r}, 'a').write('.')\n\ndef half(outputs, labels):\n    return 0.5\n")
    report = onnxprune.prune(CNN, macs=0.5, calib={"image": POOL[:20]}, metric=f"{file}:half").report
    assert report.error and report.error.metric and report.held_out and report.held_out.metric
    assert ran.read_text() == "."
