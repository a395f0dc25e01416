"""Nodes are asked through one view, and the tracer is driven in one place."""

import ast
import re
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from onnxprune.graph.facts import Facts, guess_size
from onnxprune.graph.io import load
from onnxprune.graph.trace import Trace
from onnxprune.graph.view import (
    IN_BODY,
    Names,
    find_captured,
    list_reads,
    map_makers,
    map_readers,
    read_attribute,
    read_opset,
)
from onnxprune.graph.walk import Told, Visitor, walk

PACKAGE = Path(__file__).parents[1] / "onnxprune"
COPIES = {  # what asks a node or a graph by hand, and the only file that may
    r"for a in [\w.]+\.attribute if a\.name ==": "graph/view.py",
    r"\.version for \w+ in [\w.]*(opset_import|imports)\}": "graph/view.py",
    r"enumerate\([\w.]+\) for \w+ in n(ode)?\.output": "graph/view.py",
    r"(?<!class )\bTrace\(": "graph/walk.py",
    r"trace\.step\(": "graph/walk.py",
}


@pytest.mark.parametrize("pattern", COPIES)
def test_there_is_one_place_for_it(pattern: str) -> None:
    found = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if re.search(pattern, _code(p))}
    assert found <= {COPIES[pattern], "graph/trace.py" if "Trace" in pattern else ""}, found


def _code(path: Path) -> str:
    return ast.unparse(ast.parse(path.read_text(encoding="utf-8")))


def test_facts_have_nothing_to_write_with() -> None:
    writers = {"set", "set_partial", "put", "declare", "learn", "learn_constant", "seed", "fail", "step", "ask"}
    assert writers <= set(dir(Trace))
    assert not writers & set(dir(Facts))


def test_a_visitor_gets_facts_that_follow_the_walk_and_what_it_knows_is_kept() -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="elsewhere"), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "g", [_float("x", [2, 3])], [_float("z", None)])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    model = load(helper.make_model(graph, opset_imports=imports))
    seen: list[tuple[str, object, object]] = []

    class Teller(Visitor):
        def after(self, index: int, node: object, facts: Facts) -> Told:
            assert type(facts) is Facts
            name = nodes[index].output[0]
            seen.append((name, facts.shape(nodes[index].input[0]), facts.shape(name)))
            return Told({"y": (TensorProto.FLOAT, (2, guess_size("y", 1)))} if name == "y" else {})

    facts = walk(model, Teller(), {})
    open_shape = (2, guess_size("y", 1))
    assert seen == [("y", (2, 3), None), ("z", open_shape, open_shape)]
    assert facts.guesses == {"y"}


def test_readers_tell_slots_and_bodies_and_makers_indices() -> None:
    nodes = [helper.make_node("Add", ["a", "a"], ["b"]), _branching("b")]
    assert map_readers(nodes) == {"a": [(0, 0), (0, 1)], "c": [(1, 0)], "b": [(1, IN_BODY)]}
    assert list_reads(nodes[1]) == ["c", "b"]
    assert map_makers(nodes) == {"b": 0, "out": 1}


def test_what_a_body_defines_is_not_captured_by_a_body_inside_it() -> None:
    """`inner` reads `mine`, which the body around it makes."""
    inner = _branching("mine", out="deep")
    body = helper.make_graph([helper.make_node("Relu", ["outer"], ["mine"]), inner], "body", [], [_float("deep", None)])
    node = helper.make_node("If", ["c2"], ["out"], then_branch=body, else_branch=body)
    assert find_captured(node) == {"outer", "c"}


def test_attributes_and_opsets_have_defaults() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="VALID", strides=[2, 2])
    assert (read_attribute(node, "auto_pad"), read_attribute(node, "strides"), read_attribute(node, "group", 1)) == (
        "VALID",
        [2, 2],
        1,
    )
    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("ai.onnx", 13)])
    assert read_opset(model) == 13
    del model.opset_import[:]
    assert read_opset(model) == 1


def test_a_claimed_name_is_taken() -> None:
    names = Names(["w"])
    assert [names.claim(n, f"{n}_") for n in ("w", "w", "v")] == ["w_2", "w_3", "v"]
    assert names.claim("w_2", "w_2__") == "w_2__2"


def _float(name: str, shape: list[int] | None) -> object:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _branching(read: str, out: str = "out") -> object:
    body = helper.make_graph([helper.make_node("Neg", [read], ["n"])], "branch", [], [_float("n", None)])
    return helper.make_node("If", ["c"], [out], then_branch=body, else_branch=body)
