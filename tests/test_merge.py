"""Merging: removed channels that others stand in for."""

import numpy as np
import pytest
from onnx import ModelProto
from test_repair import Array, build, normal, op, outputs

import onnxprune
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.repair import RepairReport, repair


def copies(factor: float, norm: bool = False) -> tuple[ModelProto, int]:
    """conv 6 -> (BatchNormalization) -> Relu -> conv, whose filters 3, 4, 5 are 0, 1, 2 times `factor`; the tensors of it."""
    w, b = normal(6, 3, 3, 3), normal(6)
    w[3:], b[3:] = w[:3] * factor, b[:3] * factor
    weights = {"w1": w, "b1": b, "w2": normal(4, 6, 3, 3, seed=1)}
    nodes = [op("Conv", ["x", "w1", "b1"], ["h"], pads=[1] * 4)]
    if norm:
        half = [np.abs(normal(3, seed=i)) + 0.5 for i in range(4)]
        scale, shift, mean, var = (np.concatenate([v, v]) for v in half)
        var[3:] *= factor**2  # of filters that are larger
        mean[3:] *= factor
        weights |= {"g": scale, "s": shift, "m": mean, "v": var}
        nodes.append(op("BatchNormalization", ["h", "g", "s", "m", "v"], ["n"], epsilon=0.0))
    nodes.append(op("Relu", ["n" if norm else "h"], ["a"]))
    nodes.append(op("Conv", ["a", "w2"], ["y"]))
    return build(nodes, weights, ["n", 3, 6, 6]), 6


def merged(proto: ModelProto, keep: tuple[int, ...], size: int) -> tuple[ModelProto, RepairReport, Array]:
    analysis = onnxprune.analyze(proto)
    (group,) = [g for g in analysis.groups if g.size == size]
    plan = Plan(compute_fingerprint(analysis.model), {group.name: Choice(size, keep)})
    x = {"x": normal(4, 3, 6, 6, seed=9)}
    model, report = repair(analysis, plan, [x], "merge")
    return build_full_proto(model), report, outputs(proto, x)[0] - outputs(build_full_proto(model), x)[0]


@pytest.mark.parametrize("keep", [(0, 1, 2), (3, 4, 5), (0, 4, 5), (1, 2, 3, 5)], ids=str)
@pytest.mark.parametrize(("factor", "norm"), [(1.0, False), (2.5, False), (1.0, True), (3.0, True)])
def test_multiples_of_what_stays_cost_nothing(factor: float, norm: bool, keep: tuple[int, ...]) -> None:
    proto, size = copies(factor, norm)
    _, report, error = merged(proto, keep, size)
    assert np.abs(error).max() < 1e-4
    assert report.kept == 1 and report.error_after is not None and report.error_before is not None
    assert report.error_after < 1e-6 < 0.1 < report.error_before


def test_what_is_like_nothing_else_is_left_out() -> None:
    proto, size = copies(-1.0)  # a filter that is active where another is not stands in for nothing
    _, report, _ = merged(proto, (0, 1, 2), size)
    assert report.kept == 0 and report.error_after == report.error_before


def test_merging_takes_no_data() -> None:
    proto, _ = copies(1.0)
    models = [
        onnxprune.apply(proto, onnxprune.plan(proto, ratio=0.5), calib=calib, repair="merge").proto.SerializeToString()
        for calib in (None, [{"x": normal(2, 3, 6, 6, seed=3)}])
    ]
    assert models[0] == models[1]
