"""Only what differs from the original is run, where the error of another model is measured."""

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import pytest
from test_cli import MODELS
from test_repair import build, normal, op

import onnxprune
from onnxprune.allocate import OutputComparer
from onnxprune.allocate.behind import Difference
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.calibration.sessions import Feeds
from onnxprune.graph.edit import Editor
from onnxprune.graph.model import Model
from onnxprune.graph.weights import ArrayWeight
from onnxprune.measure import ShiftSums
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.repair import repair
from onnxprune.repair.network import restore_calls
from onnxprune.units import BRANCH, find_units


def run_whole(comparer: OutputComparer, model: Model) -> float:
    sums = ShiftSums(comparer.tokens)
    comparer.add(model, sums)
    return sums.value().error


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_a_part_errs_as_the_whole_does(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    batches = load_data(MODELS / "digits_calib.npz", list_input_specs(analysis.model.proto)).limit(64)
    comparer = OutputComparer(analysis, batches)
    difference, sizes = Difference(analysis.model, list(batches), None, None), []
    for group in (*analysis.groups, analysis.groups[0]):  # in the order of the graph, and back
        plan = Plan(
            compute_fingerprint(analysis.model), {group.name: Choice(group.size, tuple(range(group.size // 2)))}
        )
        pruned = onnxprune.apply(analysis, plan)
        sizes.append(len(difference.part(pruned, comparer.names)[0].proto.graph.node))
        assert comparer.of(pruned).error == pytest.approx(run_whole(comparer, pruned), rel=1e-4)
    assert sizes[-1] == sizes[0] > 2 * sizes[-2]  # the last group stands near the outputs


def test_a_model_that_cannot_be_cut_there_is_run_whole() -> None:
    """What differs reads a sequence, which no part can be fed."""
    nodes = [
        op("SequenceConstruct", ["x"], ["s"]),
        op("MatMul", ["x", "w"], ["h"]),
        op("SequenceInsert", ["s", "h"], ["t"]),
        op("ConcatFromSequence", ["t"], ["y"], axis=-1),
    ]
    analysis = onnxprune.analyze(build(nodes, {"w": normal(3, 3)}, ["n", 3]))
    comparer = OutputComparer(analysis, [{"x": normal(8, 3)}])
    editor = Editor(analysis.model)
    editor.replace_constant("w", ArrayWeight(np.zeros((3, 3), np.float32)))
    other = editor.finish()
    assert comparer.of(other).error == run_whole(comparer, other) > 0


def test_functions_that_differ_are_not_taken_for_the_same() -> None:
    """The same call in two models means what their functions say."""

    def make(body: str) -> onnx.ModelProto:
        proto = build([op(body, ["x"], ["h"]), op("Exp", ["h"], ["y"])], {}, ["n", 3])
        opset = [onnx.helper.make_opsetid("", 17)]
        proto.functions.append(onnx.helper.make_function("own", "F", ["a"], ["b"], [op(body, ["a"], ["b"])], opset))
        proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
        proto.graph.node[0].CopyFrom(op("F", ["x"], ["h"], domain="own", name="f"))
        return proto

    comparer = OutputComparer(onnxprune.analyze(make("Relu")), [{"x": normal(8, 3)}])
    assert comparer.of(onnxprune.load(make("Neg"))).error > 0


@pytest.mark.parametrize("name", ["digits_resnet", "digits_vit"])
def test_a_step_without_a_unit_begins_behind_what_is_the_same(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    batches = list(load_data(MODELS / "digits_calib.npz", list_input_specs(analysis.model.proto)).limit(48))
    units = [u for u in find_units(analysis) if u.kind == BRANCH]
    start = Difference(restore_calls(analysis.flat, analysis.model), batches, None, None)
    begun = list[set[str]]()

    def find_start(outputs: Collection[str]) -> Sequence[Feeds] | None:
        values = start.find_start(outputs)
        begun.append(set(values[0]) if values else set())
        return values

    for unit in (*units, units[0]):  # in the order of the graph, and back
        plan = Plan(compute_fingerprint(analysis.model), units=(unit.name,))
        part, whole = (
            repair(analysis, plan, batches, share=0.5, is_step=True, layers=2, start=s)[0] for s in (find_start, None)
        )
        assert {n: w.array().tobytes() for n, w in part.weights.items()} == {
            n: w.array().tobytes() for n, w in whole.weights.items()
        }
        assert part.proto.SerializeToString() == whole.proto.SerializeToString()
    assert len(units) > 1 and all(begun) and all("image" not in values for values in begun[1:-1])


def test_nothing_begins_at_a_tensor_that_nobody_makes() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_cnn.onnx")
    batches = list(load_data(MODELS / "digits_calib.npz", list_input_specs(analysis.model.proto)).limit(4))
    assert Difference(analysis.model, batches, None, None).find_start(["nothing"]) is None
