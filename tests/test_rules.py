"""The laws of pruning for every registered rule, on generated graphs.

`cases.py` has the graphs, `laws.py` the laws. A rule without a case fails `test_every_rule_has_a_case`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases  # noqa: F401  (registers every case)
import numpy as np
import onnx
import pytest
from cases.base import CASES, UNCHECKED, Built, CaseOf
from hypothesis import HealthCheck, given, settings
from laws import LAWS, Checker, difference, run_ort, run_reference
from onnx import TensorProto, helper, numpy_helper
from tiny import model, tensor

import onnxprune
from onnxprune.axes import Layout, Var
from onnxprune.graph.flat import FLAT
from onnxprune.ops.records import Traits, get_record, load_records

BY_NAME = {c.name: c for c in CASES}


def test_every_rule_has_a_case() -> None:
    assert len(BY_NAME) == len(CASES), "two cases of one name"
    covered = {c.op for c in CASES}
    rules = {
        (domain, op) for domain, op in load_records() if domain != FLAT
    }  # markers stand for If, Loop, Scan and calls
    missing = sorted(f"{domain or 'ai.onnx'}::{op}" for domain, op in rules - covered - set(UNCHECKED))
    assert not missing, f"rules without a case in tests/cases.py: {', '.join(missing)}"
    assert not set(UNCHECKED) - set(load_records()), "an operator is excused that has no rule"


def holds(case: CaseOf, built: Built) -> None:
    """One model of a case: its groups are there, and no law is broken."""
    domain, op = case.op
    used = {(n.domain, n.op_type) for n in built.proto.graph.node}
    assert (domain, op) in used, f"the case does not use {op}"
    run = run_reference if case.reference else run_ort
    checker = Checker(built.proto, built.feeds, run, built.tolerance)
    assert all(np.isfinite(y).all() for ys in checker.reference for y in ys if y.dtype.kind == "f"), (
        "the case makes NaN or Inf"
    )
    _groups_are_there(checker, built)
    _sums_are_products(checker.analysis)
    for law in LAWS:
        getattr(checker, law)()


def _groups_are_there(checker: Checker, built: Built) -> None:
    groups = checker.analysis.groups
    reached = {(m.tensor, m.axis) for g in groups for m in g.members}
    why = {(f.tensor, f.axis): f"{f.reason.text} ({f.reason.op} {f.reason.node})" for f in checker.analysis.frozen}
    for at in built.prunable:
        assert at in reached, f"{at[0]}[{at[1]}] is not prunable: {why.get(at, 'and no reason is given')}"
    for at in built.frozen:
        assert at not in reached, f"{at[0]}[{at[1]}] must be frozen"
        assert at in why, f"{at[0]}[{at[1]}] is frozen without a reason"
    assert len(groups) >= built.groups, f"{len(groups)} groups, at least {built.groups} expected"
    if built.exact is not None:
        wrong = [g.name for g in groups if g.exact != built.exact]
        assert not wrong, f"groups {wrong} must {'' if built.exact else 'not '}be exact"


def _sums_are_products(a: onnxprune.Analysis) -> None:
    """An operator that reads a weight along an axis of an activation, and makes nothing of that axis, sums over it.

    So it has a product, which is counted, repaired and made sparse, or says why it has none.
    """
    c = a.coupling
    for index, node in enumerate(a.flat.proto.graph.node):
        made = _channels(c.layouts.get(o) for o in node.output)
        inputs = [(n, c.use(n, index, slot) or ()) for slot, n in enumerate(node.input) if n]
        constant = [axes for n, axes in inputs if (n in c.weights or n in c.computed) and len(axes) > 1]
        read = _channels(axes for n, axes in inputs if n not in c.weights and n not in c.computed)
        record = get_record(node)
        if (_channels(constant) & read) - made:
            assert record.product or record.traits.no_product, f"{node.op_type} sums over a weight, and has no product"


def _channels(layouts: Iterable[Layout | None]) -> set[Var]:
    return {v for axes in layouts for d in axes or () for v in d.leaves}


def _run(case: CaseOf, examples: int, derandomize: bool) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=derandomize, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case.strategy())
    def holds_for(built: Built) -> None:
        holds(case, built)

    holds_for()


@pytest.mark.parametrize("name", BY_NAME)
def test_laws(name: str) -> None:
    case = BY_NAME[name]
    _run(case, case.examples, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_laws_at_length(name: str) -> None:
    _run(BY_NAME[name], 60, derandomize=False)


# the laws themselves: each must notice when it is broken


def _mlp() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"a": (6, 5), "a.bias": (5,), "z": (5, 3)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Add", ["h", "a.bias"], ["i"]),
        helper.make_node("Relu", ["i"], ["r"]),
        helper.make_node("MatMul", ["r", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "mlp", [helper.make_tensor_value_info("x", 1, ["N", 6])], [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _checker() -> Checker:
    rng = np.random.default_rng(1)
    return Checker(_mlp(), [{"x": rng.standard_normal((n, 6)).astype(np.float32)} for n in (1, 3)])


def _spoil(proto: onnx.ModelProto) -> onnx.ModelProto:
    for t in proto.graph.initializer:
        if t.name == "z":
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t)[::-1].copy(), "z"))
    return proto


def _rename_output(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.output[0].doc_string = "changed"
    return proto


@pytest.mark.parametrize(
    ("law", "damage"),
    [
        ("permutation", _spoil),
        ("removal", _spoil),
        ("identity", _spoil),
        ("shapes", _rename_output),
        ("determinism", _spoil),
    ],
)
def test_a_broken_law_is_noticed(
    law: str, damage: Callable[[onnx.ModelProto], onnx.ModelProto], monkeypatch: Any
) -> None:
    checker = _checker()
    getattr(checker, law)()
    honest = checker.prune
    monkeypatch.setattr(checker, "prune", lambda keeps: damage(honest(keeps)))
    with pytest.raises(AssertionError, match=f"{law} law"):
        getattr(checker, law)()


def test_a_product_that_nobody_describes_is_noticed(monkeypatch: Any) -> None:
    analysis = _checker().analysis
    _sums_are_products(analysis)
    (matmul,) = load_records()["", "MatMul"]
    monkeypatch.setitem(load_records(), ("", "MatMul"), [replace(matmul, product=None)])
    with pytest.raises(AssertionError, match="MatMul sums over a weight"):
        _sums_are_products(analysis)
    monkeypatch.setitem(
        load_records(), ("", "MatMul"), [replace(matmul, product=None, traits=Traits(no_product="a reason"))]
    )
    _sums_are_products(analysis)


def test_wrong_counts_are_noticed() -> None:
    checker = _checker()
    checker.accounting()
    honest = checker.prune

    def wasteful(keeps: Any) -> onnx.ModelProto:
        proto = honest(keeps)
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "waste"))
        return proto

    checker.prune = wasteful  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="accounting law"):
        checker.accounting()


def test_difference_sees_shapes_types_and_places_of_nan() -> None:
    x = np.array([1.0, np.nan], np.float32)
    assert difference(x, x) == 0
    assert difference(x, x[::-1]) == np.inf
    assert difference(x, x[:1]) == np.inf
    assert difference(x, x.astype(np.float64)) == np.inf


def test_an_operator_is_known_before_anything_imported_its_rule(tmp_path: Path) -> None:
    table = {"table": np.zeros((40, 8), np.float32)}
    gather = helper.make_node("Gather", ["table", "ids"], ["y"])
    proto = model([gather], [tensor("ids", ["N"], TensorProto.INT64)], [tensor("y", ["N", 8])], table)
    onnx.save(proto, tmp_path / "m.onnx")
    code = (
        "import sys, onnx\nfrom onnxprune.graph.vocabulary import find_vocabulary_size\n"
        "print(find_vocabulary_size(onnx.load(sys.argv[1])))"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "m.onnx"], capture_output=True, text=True, check=True)
    assert ran.stdout == "40\n"
