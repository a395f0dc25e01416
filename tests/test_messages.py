"""What a message shows of sizes and layouts: numbers, `?` for what only a run tells, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tiny import model, tensor

import onnxprune
from onnxprune.axes import Dynamic, Size
from onnxprune.layout import LayoutError, factor, fixed, prod, unify, var
from onnxprune.ops.records import Record, load_records
from onnxprune.ops.registry import Axes, Op


def _analyzed(monkeypatch: Any, claimed: Size) -> onnxprune.Analysis:
    """x [N, 8] -> MatMul a -> Abs -> MatMul z, where the rule of Abs says that it makes another number of rows."""

    def rule(op: Op) -> list[Axes | None]:
        return [[fixed(claimed), op.x(0)[1]]]

    monkeypatch.setitem(load_records(), ("", "Abs"), [Record("Abs", "", 1, 99, rule)])
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Abs", ["h"], ["s"]),
        helper.make_node("MatMul", ["s", "z"], ["y"]),
    ]
    weights = {"a": np.ones((8, 6), np.float32), "z": np.ones((6, 3), np.float32)}
    return onnxprune.analyze(onnxprune.load(model(nodes, [tensor("x", [4, 8])], [tensor("y", [4, 3])], weights)))


def test_a_size_that_only_a_run_tells_freezes_no_other_axis(monkeypatch: Any) -> None:
    found = _analyzed(monkeypatch, Dynamic(191721600, 191787120))
    assert [g.size for g in found.groups] == [6]


def test_a_rule_and_shape_inference_that_disagree_are_told_of_in_sizes(monkeypatch: Any) -> None:
    found = _analyzed(monkeypatch, 5)
    assert not found.groups
    assert "Abs should make [5, 6] of it, but shape inference says [4, 6]" in {f.reason.text for f in found.frozen}


def test_layouts_in_messages_are_sizes() -> None:
    assert f"{[Dynamic(1, 3), 4]}" == "[?, 4]"
    assert str(prod(var(12), fixed(Dynamic(8, 16)), var(64))) == "(12 ? 64)"
    with pytest.raises(LayoutError, match=re.escape("axes of sizes ? and 4")):
        unify(fixed(Dynamic(1, 3)), var(4))
    with pytest.raises(LayoutError, match=re.escape("an axis of 7 does not divide into rows of ?")):
        factor(var(7), Dynamic(2, 4))
