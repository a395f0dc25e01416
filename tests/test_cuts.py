"""Cuts that are repaired from Gram matrices alone."""

import numpy as np
import pytest
from test_cli import MODELS
from test_repair import build, normal, op, outputs

import onnxprune
from onnxprune.allocate import Judge
from onnxprune.calibration import input_specs, load_data
from onnxprune.calibration.statistics import gather
from onnxprune.graph.io import full_proto
from onnxprune.repair import cut, repair
from onnxprune.scoring import needed


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_a_cut_is_about_as_good_as_fitting_on_the_data(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    batches = load_data(MODELS / "digits_calib.npz", input_specs(analysis.model.proto)).limit(128)
    statistics = gather(analysis, batches, needed(analysis, analysis.groups, "obs"))
    judge, errors = Judge(analysis, batches), []
    for group in analysis.groups[::3]:
        plan = onnxprune.plan(analysis, ratio=0.5, include=[group.name])
        models = (
            onnxprune.apply(analysis, plan),
            cut(analysis, plan, statistics),
            repair(analysis, plan, batches, "obs")[0],
        )
        errors.append([judge.of(m).error for m in models])
    plain, fitted, best = np.sum(errors, axis=0)
    assert fitted < 0.5 * plain and fitted < 3 * best


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op_type", ["Gemm", "MatMul", "Conv1", "Conv3"])
def test_channels_that_others_span_cost_nothing(op_type: str, bias: bool) -> None:
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
    x = {"x": normal(64, 3, 7, 7) if conv else normal(64, 3)}
    analysis = onnxprune.analyze(proto)
    statistics = gather(analysis, load_data([x], input_specs(proto)), needed(analysis, analysis.groups, "obs"))
    plan = onnxprune.plan(analysis, ratio=0.5)
    (name,) = plan.groups
    plan.groups[name] = type(plan.groups[name])(6, (0, 1, 2))
    want, got = outputs(proto, x)[0], outputs(full_proto(cut(analysis, plan, statistics)), x)[0]
    plain = outputs(full_proto(onnxprune.apply(analysis, plan)), x)[0]
    assert np.abs(got - want).max() < 0.03 * np.abs(plain - want).max()


def test_without_statistics_a_cut_is_the_plan() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_cnn.onnx")
    plan = onnxprune.plan(analysis, ratio=0.5)
    a, b = (full_proto(m).SerializeToString() for m in (cut(analysis, plan, {}), onnxprune.apply(analysis, plan)))
    assert a == b
