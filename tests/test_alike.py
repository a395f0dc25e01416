"""Hashing of weights and merging of channels that are nearly alike (RED), and allocation by redundancy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tiny import model, tensor

import onnxprune
from onnxprune.free import make_alike
from onnxprune.free.hashing import hash_array
from onnxprune.graph.save import build_full_proto
from onnxprune.scoring import count_distinct_channels

Array = np.ndarray[Any, Any]
MODELS = Path(__file__).parents[1] / "models"


def hash_by_climbing(x: Array, bandwidth: float) -> Array:
    """Each weight climbs the density of all weights, in small steps, to its peak."""
    width = bandwidth * x.std()

    def density(at: Array) -> Array:
        return np.exp(-0.5 * ((at[:, None] - x.ravel()) / width) ** 2).sum(1)

    at, step = x.ravel().copy(), width / 64
    for _ in range(20000):
        here, up, down = density(at), density(at + step), density(at - step)
        move = np.where(up > here, step, np.where(down > here, -step, 0.0))
        if not move.any():
            break
        at = at + move
    return at.reshape(x.shape)


@pytest.mark.parametrize("seed", range(4))
def test_weights_move_to_the_peak_uphill(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice([-2.0, -0.5, 0.7, 1.9], size=(6, 8)) + 0.02 * rng.normal(size=(6, 8))
    got = hash_array(x, 0.06)
    np.testing.assert_allclose(got, hash_by_climbing(x, 0.06), atol=0.06 * x.std() / 4)
    assert len(np.unique(got)) == 4


@given(seed=st.integers(0, 2**32), n=st.integers(1, 200), bandwidth=st.floats(1e-4, 2.0))
@settings(max_examples=60, deadline=None)
def test_hashing_keeps_order_range_and_zeros(seed: int, n: int, bandwidth: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).astype(np.float32)
    x[rng.random(n) < 0.2] = 0
    got = hash_array(x, bandwidth)
    assert got.dtype == x.dtype and got.shape == x.shape
    assert (got[x == 0] == 0).all()
    order = np.argsort(x[x != 0], kind="stable")
    assert (np.diff(got[x != 0][order]) >= 0).all(), "the order of weights stays"
    assert got.min() >= x.min() and got.max() <= x.max()


def test_what_has_no_density_stays() -> None:
    for x in (np.full((3, 3), 2.0), np.array([1.0, np.nan, 2.0]), np.zeros(4)):
        np.testing.assert_array_equal(hash_array(x, 0.1), x)


def doubles(noise: float) -> onnx.ModelProto:
    """y = relu(x w1 + b1) w2 with 8 channels, of which 4..7 are 0..3 with a little noise."""
    rng = np.random.default_rng(1)
    half = rng.normal(size=(6, 4))
    w1 = np.concatenate([half, half + noise * rng.normal(size=(6, 4))], axis=1).astype(np.float32)
    b1 = np.tile(rng.normal(size=4), 2).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    w = {"w1": w1, "b1": b1, "w2": rng.normal(size=(8, 3)).astype(np.float32)}
    return model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N", 3])], w)


def run(proto: onnx.ModelProto, x: Array) -> Array:
    w = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    return np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"]


@pytest.mark.parametrize(("noise", "kept"), [(0.0, 4), (0.002, 4), (0.5, 8)])
def test_near_duplicates_are_merged(noise: float, kept: int) -> None:
    proto = doubles(noise)
    done = onnxprune.prune(proto, ratio=0, merge_near=0.02, repair="none", check=False)
    (choice,) = done.plan.groups.values()
    assert len(choice.keep) == kept
    x = np.random.default_rng(2).normal(size=(50, 6))
    w = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    if kept == 4:  # the first of each pair, with what the next layer makes of both
        w["w1"][:, 4:] = w["w1"][:, :4]
    expected = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"]
    np.testing.assert_allclose(run(done.model, x), expected, rtol=1e-4, atol=1e-5)


def test_hashed_duplicates_are_merged_exactly() -> None:
    """The noise is far less than what keeps the weights apart."""
    proto = doubles(1e-4)
    plain = onnxprune.prune(proto, ratio=0, repair="none", check=False)
    done = onnxprune.prune(proto, ratio=0, hash_weights=0.01, repair="none", check=False)
    assert [len(m.plan.groups["w1"].keep) for m in (plain, done)] == [8, 4]
    a = make_alike(onnxprune.analyze(proto), 0.01, None)
    x = np.random.default_rng(2).normal(size=(50, 6))
    np.testing.assert_allclose(run(done.model, x), run(build_full_proto(a.model), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_without_a_distance_nothing_changes(name: str) -> None:
    a = onnxprune.analyze(MODELS / f"{name}.onnx")
    assert make_alike(a, None, None) is a
    equal = make_alike(a, None, 0.0)
    for key, w in a.model.weights.items():
        np.testing.assert_array_equal(w.array(), equal.model.weights[key].array())


def test_the_redundant_layer_is_pruned_first() -> None:
    """Two branches of 16 channels: in one they are copies of four with noise, in the other all differ."""
    rng = np.random.default_rng(0)
    few = np.repeat(rng.normal(size=(20, 4)), 4, axis=1) + 0.1 * rng.normal(size=(20, 16))
    w = {"u1": few, "v1": np.linalg.qr(rng.normal(size=(20, 16)))[0]}
    w |= {name: rng.normal(size=(16, 3)) for name in ("u2", "v2")}
    nodes = []
    for name in "uv":
        nodes.append(helper.make_node("MatMul", ["x", f"{name}1"], [f"{name}a"]))
        nodes.append(helper.make_node("Relu", [f"{name}a"], [f"{name}b"]))
        nodes.append(helper.make_node("MatMul", [f"{name}b", f"{name}2"], [f"{name}c"]))
    nodes.append(helper.make_node("Add", ["uc", "vc"], ["y"]))
    proto = model(
        nodes, [tensor("x", ["N", 20])], [tensor("y", ["N", 3])], {k: v.astype(np.float32) for k, v in w.items()}
    )
    a = onnxprune.analyze(proto)
    assert [count_distinct_channels(a, g) for g in a.groups] == [4, 16]
    done = onnxprune.plan(a, params=0.7, allocation="redundancy", target="none")
    assert [len(done.groups[g.name].keep) for g in a.groups] == [6, 16]
    less = onnxprune.plan(a, params=0.4, allocation="redundancy", target="none")
    u, v = (len(less.groups[g.name].keep) for g in a.groups)
    assert v < 16 and u * 4 <= v + 4
