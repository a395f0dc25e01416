"""Cuts that are repaired from Gram matrices alone."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_cli import MODELS
from test_repair import build, normal, op, outputs

import onnxprune
from onnxprune.allocate import OutputComparer
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.calibration.statistics import gather
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.repair import cut, repair
from onnxprune.scoring import list_needed_statistics


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_a_cut_is_about_as_good_as_fitting_on_the_data(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    batches = load_data(MODELS / "digits_calib.npz", list_input_specs(analysis.model.proto))
    statistics = gather(analysis, batches, list_needed_statistics(analysis, analysis.groups, "obs"))
    comparer, errors = OutputComparer(analysis, batches), []
    for group in analysis.groups[::3]:
        plan = onnxprune.plan(analysis, ratio=0.5, include=[group.name])
        models = (
            onnxprune.apply(analysis, plan),
            cut(analysis, plan, statistics),
            repair(analysis, plan, batches, "obs")[0],
        )
        errors.append([comparer.of(m).error for m in models])
    plain, fitted, best = np.sum(errors, axis=0)
    assert fitted < 0.25 * plain and fitted < 5 * best  # it trusts the covariance of few samples less


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op_type", ["Gemm", "MatMul", "Conv1", "Conv3"])
def test_channels_that_others_span_cost_next_to_nothing(op_type: str, bias: bool) -> None:
    """A reader of six channels of which the last three are sums of the first three, and a constant where there is a bias."""
    mix = np.float32([[1, 0, 2], [0, 1, 1], [1, -1, 0]])
    w, b = normal(3, 3), normal(3)
    first, shift = np.concatenate([w, mix @ w]), np.concatenate([b, mix @ b + (1 if bias else 0)])
    conv, size = op_type.startswith("Conv"), int(op_type[-1]) if op_type.startswith("Conv") else 1
    second = normal(*((4, 6, size, size) if conv else (6, 4)), seed=1)
    weights = {"w": second, **({"c": normal(4, seed=2)} if bias else {})}
    if conv:
        weights |= {"v": first.reshape(6, 3, 1, 1), "d": shift}
        nodes = [op("Conv", ["x", "v", "d"], ["h"]), op("Conv", ["h", "w", *(["c"] if bias else [])], ["y"])]
    else:
        weights |= {"v": first.T, "d": shift}
        made = [op("Gemm", ["h", "w", *(["c"] if bias else [])], ["y"])]
        if op_type == "MatMul":
            made = [op("MatMul", ["h", "w"], ["m" if bias else "y"]), *([op("Add", ["m", "c"], ["y"])] if bias else [])]
        nodes = [op("Gemm", ["x", "v", "d"], ["h"]), *made]
    proto = build(nodes, weights, ["n", 3, 7, 7] if conv else ["n", 3])
    x = {"x": normal(4000, 3, 7, 7) if conv else normal(4000, 3)}
    analysis = onnxprune.analyze(proto)
    statistics = gather(
        analysis, load_data([x], list_input_specs(proto)), list_needed_statistics(analysis, analysis.groups, "obs")
    )
    plan = onnxprune.plan(analysis, ratio=0.5)
    (name,) = plan.groups
    plan.groups[name] = type(plan.groups[name])(6, (0, 1, 2))
    want, got = outputs(proto, x)[0], outputs(build_full_proto(cut(analysis, plan, statistics)), x)[0]
    plain = outputs(build_full_proto(onnxprune.apply(analysis, plan)), x)[0]
    assert np.abs(got - want).max() < 0.08 * np.abs(plain - want).max()


def test_without_statistics_a_cut_is_the_plan() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_cnn.onnx")
    plan = onnxprune.plan(analysis, ratio=0.5)
    a, b = (build_full_proto(m).SerializeToString() for m in (cut(analysis, plan, {}), onnxprune.apply(analysis, plan)))
    assert a == b


def chain(bias: str, weight: str) -> onnx.ModelProto:
    """Two products; what the second one reads may be moved first."""
    moves = {"ci": op("Identity", ["c"], ["ci"]), "wi": op("Transpose", ["wt"], ["wi"], perm=[1, 0])}
    nodes = [op("Gemm", ["x", "v"], ["h"]), op("Relu", ["h"], ["r"]), op("Gemm", ["r", weight, bias], ["y"])]
    w = normal(6, 4, seed=1)
    weights = {"v": normal(3, 6), ("w" if weight == "w" else "wt"): w if weight == "w" else w.T, "c": normal(4, seed=2)}
    return build([*(moves[n] for n in (bias, weight) if n in moves), *nodes], weights, ["n", 3])


@pytest.mark.parametrize(("bias", "weight"), [("ci", "w"), ("c", "wi"), ("ci", "wi")])
def test_what_stands_behind_nodes_that_move_it_is_fitted_as_well(bias: str, weight: str) -> None:
    x = {"x": normal(64, 3)}
    made = []
    for proto in (chain("c", "w"), chain(bias, weight)):
        analysis = onnxprune.analyze(proto)
        statistics = gather(
            analysis, load_data([x], list_input_specs(proto)), list_needed_statistics(analysis, analysis.groups, "obs")
        )
        plan = onnxprune.plan(analysis, ratio=0.5)
        assert [len(c.keep) for c in plan.groups.values()] == [3]
        made += [
            outputs(build_full_proto(m), x)[0]
            for m in (cut(analysis, plan, statistics), onnxprune.apply(analysis, plan))
        ]
    np.testing.assert_allclose(made[2], made[0], rtol=1e-5, atol=1e-6)
    assert np.abs(made[1] - made[0]).max() > 0.01


def test_a_convolution_of_groups_that_loses_all_but_one_is_left_as_it_is() -> None:
    """Its Gram matrix is of all groups' inputs, and the filters that stay read those of one."""
    w = normal(4, 3, 1, 1, seed=1)
    nodes = [op("Conv", ["x", "v"], ["h"]), op("Conv", ["h", "w"], ["g"], group=2), op("Conv", ["g", "u"], ["y"])]
    proto = build(nodes, {"v": normal(6, 2, 1, 1), "w": w, "u": normal(3, 4, 1, 1, seed=2)}, ["n", 2, 5, 5])
    x = {"x": normal(8, 2, 5, 5)}
    analysis = onnxprune.analyze(proto)
    statistics = gather(
        analysis, load_data([x], list_input_specs(proto)), list_needed_statistics(analysis, analysis.groups, "obs")
    )
    (groups,) = (g for g in analysis.groups if g.size == 2 and any(m.tensor == "v" for m in g.members))
    plan = Plan(compute_fingerprint(analysis.model), {groups.name: Choice(2, (1,))})
    stored = {
        t.name: numpy_helper.to_array(t) for t in build_full_proto(cut(analysis, plan, statistics)).graph.initializer
    }
    np.testing.assert_array_equal(stored["w"], w[2:])
