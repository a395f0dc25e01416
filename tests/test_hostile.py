"""Models that nobody should write: each gives a result or one line, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hostile import MODELS, between, called, doubling, with_external

import onnxprune
from onnxprune.errors import ModelError, OnnxPruneError
from onnxprune.report.builders import inspect_report


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPRUNE_GUARD", "1")


def test_a_node_on_which_a_rule_fails_is_frozen_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = between("Slice", ["starts", "ends", "", "steps"], starts=[0], ends=[2], steps=[0])
    analysis = onnxprune.analyze(model)
    (found,) = inspect_report(analysis).guarded
    assert (found.operator, found.node) == ("Slice", "middle") and "step" in found.reason
    assert not analysis.groups and any(f.reason.op == "Slice" for f in analysis.frozen)
    monkeypatch.setenv("ONNXPRUNE_GUARD", "0")
    with pytest.raises(ValueError, match="step"):
        onnxprune.analyze(model)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_hostile_model_is_analyzed_or_refused(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(make().SerializeToString())
    (tmp_path / "self.bin").write_bytes(bytes(16))
    try:
        report = inspect_report(onnxprune.analyze(path))
    except (OnnxPruneError, MemoryError) as e:
        assert str(e)
    else:
        assert report.groups or report.frozen or not report.params, "a weight is in a group, or frozen with a reason"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("group 0", "Conv 'middle' has group 0, but counts start at 1"),
        ("transposed group -2", "group -2"),
        ("space to depth 0", "blocksize 0"),
        ("100 dims", "100 axes"),
        ("an empty axis and one of 2^62", "more than any array"),
        ("raw data too long", "needs 16"),
        ("a constant that is too long", "needs 16"),
        ("a constant without data", "needs 4"),
        ("a location of NUL", "cannot be found"),
        ("data that are not there", "is not in"),
        ("links that lead in a circle", "cannot be found"),
    ],
)
def test_what_nothing_can_be_is_said(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "circle.bin").symlink_to(tmp_path / "circle.bin")
    make = {**MODELS, "links that lead in a circle": with_external(location="circle.bin")}[name]
    (tmp_path / "m.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ModelError, match=words):
        onnxprune.load(tmp_path / "m.onnx")


def test_calls_that_come_to_too_many_nodes_are_refused() -> None:
    with pytest.raises(OnnxPruneError, match="come to 33,554,432 nodes"):
        onnxprune.load(doubling(25))
    with pytest.raises(OnnxPruneError, match="calls itself"):
        onnxprune.load(called(["F1"], ["F0"]))
    analysis = onnxprune.analyze(doubling(6))
    assert sum(n.op_type == "Relu" for n in analysis.flat.proto.graph.node) == 64 and len(analysis.groups) == 1


@pytest.mark.parametrize("name", [b"middle", b"MatMul", b"w1", b"g", b"N"])
def test_names_are_text(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "m.onnx"
    marker = b"\xff" * len(name)
    data = between("Relu").SerializeToString()
    field = bytes([len(name)]) + name
    assert field in data
    path.write_bytes(data.replace(field, bytes([len(name)]) + marker))
    with pytest.raises(ModelError, match="not UTF-8"):
        onnxprune.load(path)
