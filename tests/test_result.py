"""What `prune` and `sparsify` return: the kind that came in, with a file or without."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from laws import run_ort
from test_cli import call

import onnxprune
from onnxprune import PruneResult
from onnxprune.graph.save import build_full_proto
from onnxprune.pipeline import NotCompared

MODELS = Path(__file__).parents[1] / "models"
CNN, CALIB, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
FEEDS = [{"image": np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)}]


def outputs(model: onnx.ModelProto) -> np.ndarray:
    name = model.graph.input[0].name
    ((out,),) = run_ort(model, [{name: FEEDS[0]["image"]}])
    return out


def test_what_comes_in_comes_back(tmp_path: Path) -> None:
    proto = onnx.load(CNN)
    by_path = onnxprune.prune(CNN, tmp_path / "o.onnx", ratio=0.3)
    by_proto, by_model = (onnxprune.prune(source, ratio=0.3) for source in (proto, onnxprune.load(CNN)))
    assert by_path.model == by_path.files[0] == tmp_path / "o.onnx"
    assert isinstance(by_proto.model, onnx.ModelProto) and by_proto.files == []
    assert isinstance(by_model.model, onnxprune.Model) and by_model.report.output is None
    want = onnx.load(tmp_path / "o.onnx")
    for made in (by_path, by_proto, by_model):
        assert np.array_equal(outputs(made.proto), outputs(want))
        assert made.plan == by_path.plan
        assert made.report.macs == by_path.report.macs and made.report.bytes == by_path.report.bytes
        assert made.report.error == by_path.report.error is not None
        assert made.report.latency and made.report.measures.compression_ratio
    assert proto == onnx.load(CNN)


def test_work_in_memory_is_that_of_a_file(tmp_path: Path) -> None:
    given = {"calib": CALIB, "samples": 32, "macs": 0.7, "data": TEST}
    written = onnxprune.prune(CNN, tmp_path / "o.onnx", **given)
    made = onnxprune.prune(CNN, **given)
    assert (made.report.repair and made.report.repair.layers == written.report.repair.layers) or made.report.repair.kept
    assert made.report.error == written.report.error and made.report.reconstruction == written.report.reconstruction
    assert isinstance(made.model, onnxprune.Model) and not made.files, "a path came in, and no file went out"
    assert made.save(tmp_path / "again.onnx") == [tmp_path / "again.onnx"]
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


def test_sparse_weights_in_memory(tmp_path: Path) -> None:
    written = onnxprune.sparsify(CNN, tmp_path / "o.onnx", layers="eligible")
    made = onnxprune.sparsify(onnx.load(CNN), layers="eligible")
    assert made.report.sparsity == written.report.sparsity
    assert made.report.measures.weight_sparsity == written.report.measures.weight_sparsity
    assert np.array_equal(outputs(made.proto), outputs(onnx.load(tmp_path / "o.onnx")))


def test_a_dry_run_predicts(tmp_path: Path) -> None:
    for source, out in ((CNN, tmp_path / "o.onnx"), (onnx.load(CNN), None), (CNN, None)):
        made = onnxprune.prune(source, out, calib=CALIB, samples=16, macs=0.7, dry_run=True)
        report = made.report
        assert report.repair is report.error is report.latency is report.output is report.bytes.after is None
        assert isinstance(made.model, onnx.ModelProto if out is None and source is not CNN else onnxprune.Model)
        assert onnxprune.analyze(made.stored).params() == report.params.after
        onnx.checker.check_model(made.proto, full_check=True)
    sparse = onnxprune.sparsify(CNN, tmp_path / "o.onnx", layers="eligible", dry_run=True)
    assert sparse.report.sparsity and sparse.files == [] and list(tmp_path.iterdir()) == []


def test_the_command_line_still_has_its_dry_run(tmp_path: Path) -> None:
    said = call("prune", CNN, "-o", tmp_path / "o.onnx", "--dry-run")
    assert said.exit_code == 0 and "dry run: no model was written" in said.stdout and not list(tmp_path.iterdir())


def test_a_result_says_what_it_is_in_a_line(tmp_path: Path) -> None:
    made = onnxprune.prune(CNN, tmp_path / "smaller.onnx", ratio=0.3, target="none", repair="none")
    assert isinstance(made, PruneResult)
    macs, params = (f"{100 * p.after / p.before:.1f}%" for p in (made.report.macs, made.report.params))
    error = f"{made.report.error.relative_l2:.3g}"
    said = f"{macs} of the MACs, {params} of the parameters, relative L2 {error}, degraded"
    assert repr(made) == f"PruneResult(digits_cnn.onnx -> smaller.onnx, {said})"
    dry = onnxprune.prune(onnx.load(CNN), ratio=0.3, dry_run=True, target="none")
    assert repr(dry).endswith(f" -> in memory, {macs} of the MACs, {params} of the parameters)")


def test_a_model_in_memory_that_cannot_be_compared_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise onnxprune.OnnxPruneError("it does not run")

    monkeypatch.setattr("onnxprune.pipeline.comparison.compare", fails)
    with pytest.raises(NotCompared, match=r"^it does not run; the pruned model is there, but not compared") as e:
        onnxprune.prune(onnx.load(CNN), ratio=0.3)
    assert e.value.result.report.error is None and e.value.result.proto.graph.node


def test_a_loaded_model_is_not_changed() -> None:
    source = onnxprune.load(CNN)
    before = build_full_proto(source).SerializeToString()
    onnxprune.sparsify(source, layers="eligible", gemm=True, permute=True)
    onnxprune.prune(source, ratio=0.5)
    assert build_full_proto(source).SerializeToString() == before


def test_names_are_listed_and_values_are_a_line() -> None:
    assert {"prune", "Plan", "SettingError", "analyze"} <= set(dir(onnxprune)) and "import_module" not in dir(onnxprune)
    assert set(onnxprune.__all__) <= set(dir(onnxprune))
    analysis = onnxprune.analyze(CNN)
    plan = onnxprune.plan(analysis, ratio=0.5)
    for value, start in ((analysis, "Analysis(Model('digits_cnn.onnx'"), (analysis.model, "Model("), (plan, "Plan(")):
        assert repr(value).startswith(start) and len(repr(value)) < 160
    shown = onnxprune.prune(CNN, ratio=0.5, data=TEST)._repr_html_()
    assert all(part in shown for part in ("<td>parameters</td>", "<td>MACs</td>", "<td>accuracy</td>"))


def test_an_unknown_setting_is_one_of_our_errors() -> None:
    with pytest.raises(onnxprune.OnnxPruneError, match="did you mean 'ratio'"):
        onnxprune.prune(CNN, ratoi=0.5)
    assert issubclass(onnxprune.SettingError, TypeError)
