"""Paths in, a path out: the way frameworks call."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import onnxprune
from onnxprune.cli import commands
from onnxprune.errors import ModelError, OnnxPruneError

CNN = Path(__file__).parent.parent / "models" / "digits_cnn.onnx"


def test_a_file_or_a_folder_comes_out_with_its_report(tmp_path: Path) -> None:
    inside = onnxprune.run_pass(CNN, tmp_path / "out", {"ratio": 0.3, "check": False})
    named = onnxprune.run_pass(
        inside.parent,
        tmp_path / "named.onnx",
        {"ratio": 0.3, "then_sparsify": "2:4", "layers": "eligible", "check": False},
    )
    assert (inside, named) == (tmp_path / "out" / "model.onnx", tmp_path / "named.onnx")
    first = json.loads((tmp_path / "out" / "report.json").read_text())
    second = json.loads((tmp_path / "named.report.json").read_text())
    assert second["params"]["before"] == first["params"]["after"] < first["params"]["before"]
    assert second["sparsity"]["pattern"] == "2:4" and onnxprune.load(named)


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(OnnxPruneError, match="no setting 'rato'; did you mean 'ratio'"):
        onnxprune.run_pass(CNN, tmp_path, {"rato": 0.3})
    with pytest.raises(OnnxPruneError, match="'then_sparsify'"):
        onnxprune.run_pass(CNN, tmp_path, {"permute": True})
    with pytest.raises(OnnxPruneError, match=r"holds 0 .onnx files"):
        onnxprune.run_pass(tmp_path, tmp_path / "o.onnx")
    with pytest.raises(ModelError):
        onnxprune.run_pass(tmp_path / "none.onnx", tmp_path / "o.onnx")
    assert not any(tmp_path.iterdir())


def test_quiet_says_nothing_but_errors_and_json(tmp_path: Path) -> None:
    def call(*args: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(commands(), [str(a) for a in args])
        return result.exit_code, result.stdout, result.stderr

    assert call("--quiet", "prune", CNN, "-o", tmp_path / "a.onnx", "--ratio", 0.99, "--max-ratio", 0) == (0, "", "")
    assert (tmp_path / "a.onnx").exists()
    code, out, err = call("inspect", CNN, "--json", "--quiet")
    assert code == 0 and json.loads(out)["groups"] and err == ""
    code, out, err = call("prune", CNN, "-o", tmp_path / "a.onnx", "--ratio", 2, "--quiet")
    assert code == 2 and out == "" and err.startswith("error: ratio is 2")
    assert call("criteria")[1]  # the next command speaks again
