"""Only what differs from the original is run, where the error of another model is measured."""

import numpy as np
import onnx
import pytest
from test_cli import MODELS
from test_repair import build, normal, op

import onnxprune
from onnxprune.allocate import OutputComparer
from onnxprune.allocate.behind import Difference
from onnxprune.calibration import input_specs, load_data
from onnxprune.graph.edit import Editor
from onnxprune.graph.model import Model
from onnxprune.graph.weights import ArrayWeight
from onnxprune.measure import ShiftSums
from onnxprune.plans import Choice, Plan, fingerprint


def run_whole(comparer: OutputComparer, model: Model) -> float:
    sums = ShiftSums(comparer.tokens)
    comparer.add(model, sums)
    return sums.value().error


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_a_part_errs_as_the_whole_does(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    batches = load_data(MODELS / "digits_calib.npz", input_specs(analysis.model.proto)).limit(64)
    comparer = OutputComparer(analysis, batches)
    difference, sizes = Difference(analysis.model, list(batches), None, None), []
    for group in (*analysis.groups, analysis.groups[0]):  # in the order of the graph, and back
        plan = Plan(fingerprint(analysis.model), {group.name: Choice(group.size, tuple(range(group.size // 2)))})
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
