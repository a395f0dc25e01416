"""Models that nobody should write: each gives a result or one line, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hostile import MODELS, between, called, doubling

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.report.result import inspect_report


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPRUNE_GUARD", "1")


def test_a_node_on_which_a_rule_fails_is_frozen_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = between("Slice", ["starts", "ends", "", "steps"], starts=[0], ends=[2], steps=[0])
    analysis = onnxprune.analyze(model)
    (found,) = inspect_report(analysis)["guarded"]
    assert (found["operator"], found["node"]) == ("Slice", "middle") and "step" in found["reason"]
    assert not analysis.groups and any(f.reason.op == "Slice" for f in analysis.frozen)
    monkeypatch.setenv("ONNXPRUNE_GUARD", "0")
    with pytest.raises(ValueError, match="step"):
        onnxprune.analyze(model)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_hostile_model_is_analyzed_or_refused(make: Callable[[], Any]) -> None:
    try:
        report = inspect_report(onnxprune.analyze(make()))
    except OnnxPruneError as e:
        assert "\n" not in str(e)
    else:
        assert report["nodes"] > 0


def test_calls_that_come_to_too_many_nodes_are_refused() -> None:
    with pytest.raises(OnnxPruneError, match="come to 33,554,432 nodes"):
        onnxprune.load(doubling(25))
    with pytest.raises(OnnxPruneError, match="calls itself"):
        onnxprune.load(called(["F1"], ["F0"]))
    analysis = onnxprune.analyze(doubling(6))
    assert sum(n.op_type == "Relu" for n in analysis.flat.proto.graph.node) == 64 and len(analysis.groups) == 1
