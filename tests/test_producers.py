"""Layers before an elementwise chain that change together with the layer behind it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from test_repair import Array, build, normal, op, outputs, plan_of

import onnxprune
from onnxprune.calibration.array_store import ArrayStore
from onnxprune.graph.save import build_full_proto
from onnxprune.repair import producers as producers_module
from onnxprune.repair import repair
from onnxprune.repair.chains import Chain
from onnxprune.repair.network import Network, restore_calls
from onnxprune.repair.producers import ChainFit, Linear
from onnxprune.repair.refit import find_chains
from onnxprune.repair.segments import Walk
from onnxprune.repair.tasks import find_tasks
from onnxprune.surgery import apply_flat


def gated(length: int | str = "t", **more: Array) -> ModelProto:
    """(silu(x w1) * (x w3)) w2, behind a layer of its own and before another one."""
    nodes = [
        op("MatMul", ["x", "w0"], ["h"]), op("MatMul", ["h", "w1"], ["a"]), op("Sigmoid", ["a"], ["s"]),
        op("Mul", ["a", "s"], ["g"]), op("MatMul", ["h", "w3"], ["u"]), op("Mul", ["g", "u"], ["m"]),
        op("MatMul", ["m", "w2"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w0": normal(8, 8) / 2,
        "w1": normal(8, 32),
        "w3": normal(8, 32, seed=1),
        "w2": normal(32, 8) / 4,
        **more,
    }
    return build(nodes, weights, ["n", length, 8])


def perceptron() -> ModelProto:
    nodes = [op("Gemm", ["x", "w1", "b1"], ["a"]), op("Tanh", ["a"], ["h"]), op("Gemm", ["h", "w2", "b2"], ["y"])]
    return build(nodes, {"w1": normal(8, 32) / 2, "b1": normal(32), "w2": normal(32, 8), "b2": normal(8)}, ["n", 8])


def convolutions() -> ModelProto:
    """With strides and padding, a normalization between them, and a Relu behind."""
    scales = {"s": np.abs(normal(16)) + 0.5, "b": normal(16), "m": normal(16), "v": np.abs(normal(16)) + 0.5}
    nodes = [
        op("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        op("BatchNormalization", ["a", *scales], ["n"]),
        op("Relu", ["n"], ["h"]),
        op("Conv", ["h", "w2"], ["c"], pads=[1] * 4, strides=[2, 2]),
        op("Relu", ["c"], ["y"]),
    ]
    return build(nodes, {"w1": normal(16, 3, 3, 3) / 3, "w2": normal(8, 16, 3, 3) / 9, **scales}, ["n", 3, 8, 8])


def depthwise() -> ModelProto:
    nodes = [
        op("Conv", ["x", "w1"], ["e"]),
        op("Conv", ["e", "d"], ["a"], pads=[1] * 4, group=16),
        op("Clip", ["a", "low", "high"], ["h"]),
        op("Conv", ["h", "w2", "b2"], ["y"]),
    ]
    limits = {"low": np.float32(0), "high": np.float32(6)}
    weights = {
        "w1": normal(16, 4, 1, 1),
        "d": normal(16, 1, 3, 3),
        "w2": normal(8, 16, 1, 1),
        "b2": normal(8),
        **limits,
    }
    return build(nodes, weights, ["n", 4, 8, 8])


def bias_behind() -> ModelProto:
    """The bias of the first layer is added by a node of its own, an activation that nobody may change joins."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]), op("Add", ["a", "b1"], ["c"]), op("Erf", ["c"], ["g"]), op("MatMul", ["x", "w3"], ["u"]),
        op("Abs", ["u"], ["v"]), op("Mul", ["g", "v"], ["m"]), op("MatMul", ["m", "w2"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": normal(8, 32) / 2, "b1": normal(32), "w3": normal(8, 32, seed=1), "w2": normal(32, 8)}
    return build(nodes, weights, ["n", "t", 8])


MODELS: dict[str, tuple[Callable[[], ModelProto], Sequence[int], int]] = {
    "gated": (gated, (32, 64, 8), 32),
    "perceptron": (perceptron, (2048, 8), 32),
    "convolutions": (convolutions, (64, 3, 8, 8), 16),
    "depthwise": (depthwise, (64, 4, 8, 8), 16),
    "bias behind": (bias_behind, (32, 64, 8), 32),
}


def halved(model: ModelProto, size: int) -> tuple[onnxprune.Analysis, onnxprune.Plan]:
    analysis = onnxprune.analyze(model)
    (group,) = (g for g in analysis.groups if g.size == size)
    return analysis, plan_of(analysis, {group.name: range(0, size, 2)})


def error(model: ModelProto, small: Any, x: Array) -> float:
    (want,), (got,) = outputs(model, {"x": x}), outputs(build_full_proto(small), {"x": x})
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("name", MODELS)
def test_what_was_held_out_comes_nearer(name: str) -> None:
    make, shape, size = MODELS[name]
    model = make()
    analysis, plan = halved(model, size)
    feeds, unseen = [{"x": normal(*shape, seed=i)} for i in range(3)], normal(*shape, seed=9)
    plain, better = (repair(analysis, plan, feeds, threads=1, producers=p, convolutions=p) for p in (False, True))
    assert error(model, better[0], unseen) < 0.98 * error(model, plain[0], unseen)
    assert better[1].error_after < 0.98 * plain[1].error_after  # type: ignore[operator]
    assert better[1].layers[-1].after < plain[1].layers[-1].after
    again = repair(analysis, plan, feeds, threads=1, convolutions=True)[0]
    assert build_full_proto(again).SerializeToString() == build_full_proto(better[0]).SerializeToString()


def find(model: ModelProto, size: int) -> list[Chain]:
    analysis, plan = halved(model, size)
    net = _network(analysis, plan)
    return list(find_chains(net, find_tasks(net, "lstsq", {}), convolutions=True).values())


def _network(analysis: onnxprune.Analysis, plan: onnxprune.Plan) -> Network:
    keep = onnxprune.plans.read_keep(plan, analysis)
    flats = analysis.flat, apply_flat(analysis, keep)
    return Network(analysis, keep, *(restore_calls(m, analysis.model) for m in flats))


@pytest.mark.parametrize(
    ("name", "leaves", "nodes"),
    [
        ("gated", ["a", "u"], ["s", "g", "m"]),
        ("perceptron", ["a"], ["h"]),
        ("convolutions", ["a"], ["n", "h"]),
        ("depthwise", ["a"], ["h"]),
        ("bias behind", ["c", "u"], ["g", "v", "m"]),
    ],
)
def test_chains(name: str, leaves: list[str], nodes: list[str]) -> None:
    make, _, size = MODELS[name]
    model = make()
    (chain,) = find(model, size)
    assert list(chain.leaves) == leaves
    assert [model.graph.node[i].output[0] for i in chain.nodes] == nodes


def test_nothing_removed_is_nothing_changed() -> None:
    model = gated()
    analysis = onnxprune.analyze(model)
    small, report = repair(analysis, plan_of(analysis, {}), [{"x": normal(32, 64, 8)}], threads=1)
    assert not report.layers
    for old, new in zip(model.graph.initializer, build_full_proto(small).graph.initializer, strict=True):
        assert old.raw_data == new.raw_data


def _read_elsewhere() -> ModelProto:
    model = gated()
    model.graph.node.append(op("ReduceSum", ["m"], ["total"], keepdims=0))
    model.graph.output.add().name = "total"
    return model


def _different_at_each_place() -> ModelProto:
    model = gated(64, places=normal(64, 32))
    model.graph.node.insert(5, op("Add", ["u", "places"], ["u2"]))
    model.graph.node[6].input[1] = "u2"
    return model


def _shared() -> ModelProto:
    """Both layers before the product read one weight."""
    model = gated()
    model.graph.node[4].input[1] = "w1"
    return model


@pytest.mark.parametrize("make", [_read_elsewhere, _shared], ids=["read elsewhere", "shared"])
def test_what_others_need_stays(make: Callable[[], ModelProto]) -> None:
    assert not find(make(), 32)


def test_a_layer_behind_constants_that_differ_from_place_to_place_stays() -> None:
    (chain,) = find(_different_at_each_place(), 32)
    assert list(chain.leaves) == ["a"]
    assert list(chain.fixed) == ["u2"]


def test_too_few_rows_leave_all_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gated()
    analysis, plan = halved(model, 32)
    feeds = [{"x": normal(8, 16, 8)}]
    monkeypatch.setattr(producers_module, "WORK", 0)
    plain, same = (build_full_proto(repair(analysis, plan, feeds, threads=1, producers=p)[0]) for p in (False, True))
    assert plain.SerializeToString() == same.SerializeToString()


@pytest.mark.parametrize("name", ["gated", "convolutions"])
def test_the_linear_model_is_the_derivative_and_its_transpose(name: str) -> None:
    make, shape, size = MODELS[name]
    f, w = _fit(make(), shape, size)
    linear = Linear(f, w, [], [])
    rng = np.random.default_rng(0)
    d = [rng.standard_normal(v.shape) * 1e-3 for v in w]
    before, after = (f.compute_outputs(f.read_rows(v), v[-1]) for v in (w, [a + b for a, b in zip(w, d, strict=True)]))
    moved = linear.push_forward(d)
    fitted = linear.free != 0
    assert np.linalg.norm((after - before - moved)[fitted]) < 0.05 * np.linalg.norm(moved)
    u = rng.standard_normal(moved.shape).astype(np.float32)
    pulled = sum(np.vdot(a, b) for a, b in zip(linear.pull_back(u), d, strict=True))
    np.testing.assert_allclose(np.vdot(u, moved), pulled, rtol=1e-3)


def _fit(model: ModelProto, shape: Sequence[int], size: int) -> tuple[ChainFit, list[Array]]:
    """The rows of a chain as a repair takes them, and the weights."""
    analysis, plan = halved(model, size)
    net = _network(analysis, plan)
    found = find_tasks(net, "lstsq", {})
    ((at, chain),) = find_chains(net, found, convolutions=True).items()
    x = normal(*shape)
    stop = {*found[at].pruned_stop(), *chain.reads, chain.x}
    with ArrayStore() as before, ArrayStore() as after:
        for store in (before, after):
            store.put("x", 0, x)
        walk = Walk(net.model, [stop, {"y"}], ["x"], 1)
        pairs = zip(
            Walk(net.original, [found[at].original_stop()], ["x"], 1).run(0, before), walk.run(0, after), strict=True
        )
        watch = producers_module.ChainWatch(chain, found[at], net, 1)
        assert len(list(watch.watch(pairs))) == 1
    layers = [*watch.makers, watch.reader]
    f = ChainFit(watch.take_rows(), chain, layers, found[at].tail, walk, len(shape))
    return f, [producers_module._matrix(layer) for layer in layers]
