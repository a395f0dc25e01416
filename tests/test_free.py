"""Channels that cost nothing: what is planted is removed and changes no output, and nothing else goes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import run_ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import Plan
from onnxprune.graph.save import build_full_proto

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

from fuzzing.graph import build

Array = NDArray[Any]
LAX = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
POINTS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSwish", "")


class Builder:
    """Writes a network node by node; `rng` makes its weights."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = self.rng.standard_normal(shape).astype(np.float32)
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], f"n{len(self.nodes)}", **attributes))
        return output

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int = 3, pad: int = 0, group: int = 1
    ) -> tuple[str, str, str]:
        w, b = self.weight(outputs, inputs // group, kernel, kernel), self.weight(outputs)
        return self.add("Conv", x, w, b, pads=[pad] * 4, group=group), w, b

    def norm(self, x: str, size: int) -> tuple[str, str, str]:
        """A BatchNorm with its scale and its shift."""
        names = [self.weight(size) for _ in range(4)]
        self.weights[names[3]] = np.abs(self.weights[names[3]]) + 0.5
        return self.add("BatchNormalization", x, *names), names[0], names[1]

    def proto(self, y: str, x_shape: Sequence[Any], y_shape: Sequence[Any]) -> ModelProto:
        ends = helper.make_tensor_value_info("x", 1, x_shape), helper.make_tensor_value_info(y, 1, y_shape)
        arrays = [numpy_helper.from_array(a, n) for n, a in self.weights.items()]
        graph = helper.make_graph(self.nodes, "planted", ends[:1], ends[1:], arrays)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(proto: ModelProto, x: Array) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return np.asarray(ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0])


def removed_by_ratio_0(proto: ModelProto, shape: Sequence[int], tolerance: float = 1e-5) -> dict[str, list[int]]:
    """The channels that go, after a look at the outputs; of groups that lose some."""
    analysis = onnxprune.analyze(proto)
    plan = onnxprune.plan(analysis, ratio=0)
    small = build_full_proto(onnxprune.apply(analysis, plan))
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    want, got = run(proto, x), run(small, x)
    assert np.abs(want - got).max() <= tolerance * max(1.0, np.abs(want).max())
    gone = {name: sorted(set(range(c.size)) - set(c.keep)) for name, c in plan.groups.items()}
    for name, choice in plan.groups.items():
        assert sorted(i for some in choice.free.values() for i in some) == gone[name]
    return {name: some for name, some in gone.items() if some}


def pick(rng: np.random.Generator, size: int, count: int) -> list[int]:
    return [int(i) for i in rng.choice(size, count, replace=False)]


@LAX
@given(
    seed=st.integers(0, 10**6), point=st.sampled_from(POINTS), pad=st.sampled_from([0, 1]), normed=st.booleans(),
    pool=st.sampled_from(["", "MaxPool", "AveragePool"]), dead=st.integers(0, 3), constant=st.integers(0, 3),
    doubled=st.integers(0, 3), unread=st.integers(0, 2),
)  # fmt: skip
def test_all_that_is_planted_goes_and_nothing_else(
    seed: int, point: str, pad: int, normed: bool, pool: str, dead: int, constant: int, doubled: int, unread: int
) -> None:
    """conv [-> BatchNorm] -> f [-> pool] -> conv with or without padding -> Relu -> mean -> Gemm."""
    net, size = Builder(seed), 16
    h, w, b = net.conv("x", 3, size, pad=1)
    if normed:
        h, scale, shift = net.norm(h, size)
    h = net.add(point, h) if point else h
    h = net.add(pool, h, kernel_shape=[2, 2], strides=[2, 2]) if pool else h
    h, w2, _ = net.conv(h, size, 8, pad=pad)
    h = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", h)))
    y = net.add("Gemm", h, net.weight(8, 5), net.weight(5))
    at = pick(net.rng, size, dead + constant + 2 * doubled + unread)
    zeros, constants, pairs = at[:dead], at[dead : dead + constant], at[dead + constant : len(at) - unread]
    values = net.rng.uniform(0.5, 2.0, constant)
    if normed:  # as a mask does it: the scale is 0, and the convolution is as it was
        net.weights[scale][zeros + constants] = 0
        net.weights[shift][zeros] = 0
        net.weights[shift][constants] = values
    else:
        net.weights[w][zeros + constants] = 0
        net.weights[b][zeros] = 0
        net.weights[b][constants] = values
    scales = point in ("Relu", "LeakyRelu", "")
    for i, j in zip(pairs[::2], pairs[1::2], strict=True):
        times = (
            net.rng.uniform(0.5, 2.0) * (-1 if point == "" and pool != "MaxPool" else 1)
            if scales and not normed
            else 1.0
        )
        net.weights[w][j], net.weights[b][j] = times * net.weights[w][i], times * net.weights[b][i]
        for name in [net.nodes[1].input[k] for k in range(1, 5)] if normed else []:
            net.weights[name][j] = net.weights[name][i]
    net.weights[w2][:, at[len(at) - unread :]] = 0
    gone = removed_by_ratio_0(net.proto(y, ["n", 3, 12, 12], ["n", 5]), (2, 3, 12, 12))
    at_zero = {"Sigmoid": dead}.get(point, 0)  # f(0) is not 0: those hold constants, too
    stays = 1 if pad and constant + at_zero else 0  # of all constants one stays, where zeros are put around them
    assert sum(map(len, gone.values())) == dead + constant + doubled + unread - stays
    assert set(gone) <= {w}
    assert set(gone.get(w, [])) <= set(at)


@LAX
@given(
    seed=st.integers(0, 10**6), point=st.sampled_from(["Relu", "Sigmoid", "Tanh"]), pad=st.sampled_from([0, 1]),
    dead=st.integers(0, 3), constant=st.integers(0, 2), doubled=st.integers(0, 2),
)  # fmt: skip
def test_depthwise_convolutions_and_their_norms_pass_what_is_planted(
    seed: int, point: str, pad: int, dead: int, constant: int, doubled: int
) -> None:
    """conv -> f -> depthwise conv -> BatchNorm -> Relu -> 1x1 conv: an inverted residual's middle."""
    net, size = Builder(seed), 12
    h, w, b = net.conv("x", 3, size, kernel=1)
    h, d, e = net.conv(net.add(point, h), size, size, pad=pad, group=size)
    h, scale, shift = net.norm(h, size)
    h, _, _ = net.conv(net.add("Relu", h), size, 4, kernel=1)
    at = pick(net.rng, size, dead + constant + 2 * doubled)
    zeros, constants, pairs = at[:dead], at[dead : dead + constant], at[dead + constant :]
    norms = [net.nodes[3].input[k] for k in range(1, 5)]
    net.weights[w][zeros], net.weights[b][zeros] = 0, 0
    for name in (d, e, scale, shift):  # behind f(0) != 0 the depthwise convolution is masked as well
        net.weights[name][zeros] = 0
    net.weights[w][constants], net.weights[b][constants] = 0, 0.7
    net.weights[shift][constants] = 9.0  # above what the Relu cuts
    for i, j in zip(pairs[::2], pairs[1::2], strict=True):
        for name in (w, b, d, e, *norms):
            net.weights[name][j] = net.weights[name][i]
        net.weights[d][j], net.weights[e][j] = 3 * net.weights[d][i], 3 * net.weights[e][i]
        net.weights[norms[2]][j], net.weights[scale][j] = 3 * net.weights[norms[2]][i], net.weights[scale][i] / 3
        net.weights[norms[3]][j] = net.weights[norms[3]][i]
    gone = removed_by_ratio_0(net.proto(h, ["n", 3, 8, 8], ["n", 4, None, None]), (2, 3, 8, 8), 2e-5)
    lost = constant if pad else 0  # what is constant before the depthwise convolution is not behind it, at the border
    assert sum(map(len, gone.values())) == dead + constant + doubled - lost


def _residual(seed: int, zero: Sequence[Sequence[int]]) -> ModelProto:
    """Two convolutions into one sum; channels `zero` of each make zeros."""
    net = Builder(seed)
    h, w, b = net.conv("x", 3, 8, kernel=1)
    inner, _w1, _ = net.conv(net.add("Relu", h), 8, 8, pad=1)
    inner, w2, b2 = net.conv(net.add("Relu", inner), 8, 8, pad=1)
    y, _, _ = net.conv(net.add("Relu", net.add("Add", h, inner)), 8, 4)
    for (weight, bias), channels in zip(((w, b), (w2, b2)), zero, strict=True):
        net.weights[weight][list(channels)], net.weights[bias][list(channels)] = 0, 0
    return net.proto(y, ["n", 3, 8, 8], ["n", 4, None, None])


def test_a_channel_of_a_sum_is_dead_where_all_make_zeros_of_it() -> None:
    assert removed_by_ratio_0(_residual(0, [[1, 2, 5], [2, 5, 6]]), (2, 3, 8, 8)) == {"w0": [2, 5]}


def test_a_channel_that_only_dead_channels_read_is_dead_too() -> None:
    net = Builder(0)
    h, w, _ = net.conv("x", 3, 8)
    h, w1, _ = net.conv(net.add("Sigmoid", h), 8, 8)
    y, w2, _ = net.conv(net.add("Sigmoid", h), 8, 4)
    net.weights[w2][:, [1, 2]] = 0  # nobody reads what conv 1 makes of these ..
    net.weights[w1][[0, 3, 4, 5, 6, 7], 5] = 0  # .. and nothing else reads this
    assert removed_by_ratio_0(net.proto(y, ["n", 3, 9, 9], ["n", 4, None, None]), (2, 3, 9, 9)) == {w: [5], w1: [1, 2]}


@pytest.mark.parametrize("pad", [0, 1])
def test_parts_of_a_concatenation(pad: int) -> None:
    net = Builder(3)
    left, w, b = net.conv("x", 3, 6, kernel=1)
    right, v, c = net.conv("x", 3, 6, kernel=1)
    y, _, _ = net.conv(net.add("Concat", net.add("Relu", left), net.add("Tanh", right), axis=1), 12, 4, pad=pad)
    net.weights[w][[1, 2]], net.weights[b][[1, 2]] = 0, [0, -1]
    net.weights[v][[3, 4]], net.weights[c][[3, 4]] = 0, [0, 1]
    net.weights[v][5], net.weights[c][5] = net.weights[v][0], net.weights[c][0]
    gone = removed_by_ratio_0(net.proto(y, ["n", 3, 6, 6], ["n", 4, None, None]), (2, 3, 6, 6))
    assert gone == {w: [1, 2], v: [3, 5] if pad else [3, 4, 5]}


def test_pictures_that_are_flattened() -> None:
    net = Builder(4)
    h, w, b = net.conv("x", 3, 8, kernel=1)
    h = net.add("Flatten", net.add("Elu", h))
    y = net.add("Gemm", h, net.weight(32, 5), net.weight(5), alpha=0.5, beta=2.0)
    net.weights[w][[1, 2]], net.weights[b][[1, 2]] = 0, [0, -1]
    net.weights[w][6], net.weights[b][6] = net.weights[w][0], net.weights[b][0]
    assert removed_by_ratio_0(net.proto(y, ["n", 3, 2, 2], ["n", 5]), (2, 3, 2, 2)) == {w: [1, 2, 6]}


def test_a_gated_feed_forward_layer() -> None:
    """down(silu(gate x) * up x), without biases: multiples of `up` are merged, whatever their sign."""
    net = Builder(5)
    gate, up = net.weight(6, 10), net.weight(6, 10)
    g = net.add("MatMul", "x", gate)
    h = net.add("Mul", net.add("Mul", g, net.add("Sigmoid", g)), net.add("MatMul", "x", up))
    y = net.add("MatMul", h, net.weight(10, 4))
    net.weights[up][:, [1, 2]] = 0
    net.weights[gate][:, 3] = 0
    net.weights[up][:, 7], net.weights[gate][:, 7] = -2 * net.weights[up][:, 0], net.weights[gate][:, 0]
    net.weights[up][:, 8] = net.weights[up][:, 0]  # with a gate of its own
    assert removed_by_ratio_0(net.proto(y, ["n", 5, 6], ["n", 5, 4]), (2, 5, 6)) == {gate: [1, 2, 3, 7]}


@pytest.mark.parametrize("biased", [False, True])
def test_neurons_behind_a_bias_of_their_own(biased: bool) -> None:
    """A constant needs a bias to move into: a node behind the product that adds one will do."""
    net = Builder(6)
    w, b = net.weight(6, 10), net.weight(10)
    h = net.add("Sigmoid", net.add("Add", net.add("MatMul", "x", w), b))
    y = net.add("MatMul", h, net.weight(10, 4))
    y = net.add("Add", y, net.weight(4)) if biased else y
    net.weights[w][:, [1, 2, 3]] = 0
    assert removed_by_ratio_0(net.proto(y, ["n", 6], ["n", 4]), (2, 6)) == {w: [1, 2, 3] if biased else [2, 3]}


def test_a_mean_over_channels_depends_on_all_of_them() -> None:
    net = Builder(7)
    w, b = net.weight(6, 8), net.weight(8)
    h = net.add("Add", net.add("MatMul", "x", w), b)
    h = net.add("LayerNormalization", h, net.weight(8), net.weight(8))
    y = net.add("MatMul", h, net.weight(8, 4))
    net.weights[w][:, [1, 2]], net.weights[b][[1, 2]] = 0, 0
    net.weights[w][:, 3], net.weights[b][3] = net.weights[w][:, 0], net.weights[b][0]
    assert removed_by_ratio_0(net.proto(y, ["n", 6], ["n", 4]), (2, 6)) == {}


def test_filters_in_groups_and_transposed_ones() -> None:
    net = Builder(8)
    h, w, b = net.conv("x", 4, 8, kernel=1)
    h, v, c = net.conv(net.add("Relu", h), 8, 8, pad=1, group=2)  # (g 4): a channel is one of each group
    k = net.weight(8, 6, 3, 3)
    h = net.add("ConvTranspose", net.add("Relu", h), k, net.weight(6), strides=[2, 2])
    y, _, _ = net.conv(net.add("Relu", h), 6, 4)
    net.weights[w][[1, 5]], net.weights[b][[1, 5]] = 0, 0
    net.weights[v][[2, 6]], net.weights[c][[2, 6]] = 0, 0
    net.weights[v][[3]], net.weights[c][[3]] = 0, 0  # only in one of the groups
    net.weights[k][:, 4] = 0
    gone = removed_by_ratio_0(net.proto(y, ["n", 4, 6, 6], ["n", 4, None, None]), (2, 4, 6, 6))
    assert list(gone.values()) == [[1], [2], [4]]


def test_heads_that_make_nothing_or_are_not_read() -> None:
    """Attention of 4 heads of 3 features; the values of one are zero, the output of another is multiplied with zeros."""
    net, shape = Builder(9), net_constants()
    q, k, v, o = (net.weight(12, 12) for _ in range(4))
    net.weights |= {n: a for n, a in shape.items() if n in ("split", "join")}
    parts = [net.add("Reshape", net.add("MatMul", "x", w), "split") for w in (q, k, v)]
    left, right, values = (
        net.add("Transpose", p, perm=perm)
        for p, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scores = net.add("Softmax", net.add("MatMul", left, right), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", scores, values), perm=[0, 2, 1, 3])
    y = net.add("MatMul", net.add("Reshape", mixed, "join"), o)
    net.weights[v][:, 3:6] = 0
    net.weights[o][9:12] = 0
    net.weights[v][:, [2, 8]] = 0  # of features all heads would have to lose them
    gone = removed_by_ratio_0(net.proto(y, ["n", 5, 12], ["n", 5, 12]), (2, 5, 12))
    assert [some for name, some in gone.items() if "heads" in name or name == q] == [[1, 3]]
    assert sum(map(len, gone.values())) == 2


def net_constants() -> Mapping[str, Array]:
    return {"split": np.array([0, 0, 4, 3], np.int64), "join": np.array([0, 0, 12], np.int64)}


def test_weights_that_others_read_too_are_left_alone() -> None:
    """A consumer whose weight another node reads cannot take over a constant; what is dead goes all the same."""
    net = Builder(10)
    w, b, u = net.weight(6, 8), net.weight(8), net.weight(8, 8)
    h = net.add("Gemm", "x", w, b)
    z = net.add("Gemm", net.add("Sigmoid", h), u, net.weight(8))
    y = net.add("Gemm", net.add("Sigmoid", z), u, net.weight(8))
    net.weights[w][:, [1, 2]] = 0
    net.weights[u][3, :], net.weights[u][:, 3] = 0, 0
    gone = removed_by_ratio_0(net.proto(y, ["n", 6], ["n", 8]), (2, 6))
    assert all(1 not in some and 2 not in some for some in gone.values())


def test_nothing_is_free_in_a_network_as_it_was_trained() -> None:
    analysis = onnxprune.analyze("models/digits_vit.onnx")
    plan = onnxprune.plan(analysis, ratio=0)
    assert all(len(c.keep) == c.size for c in plan.groups.values())


def test_a_plan_tells_what_is_free_and_is_read_back() -> None:
    plan = onnxprune.plan(_residual(0, [[2], [2]]), ratio=0)
    assert plan.groups["w0"].free == {"dead": (2,)}
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(onnxprune.PlanError, match="free"):
        Plan.from_json({"format": 1, "model": "", "groups": {"w0": {"size": 8, "keep": [0], "free": {"odd": [1]}}}})


@pytest.mark.parametrize("pad", [0, 1])
def test_a_consumer_without_a_bias_gets_one(pad: int) -> None:
    net = Builder(11)
    h, w, _ = net.conv("x", 3, 8, kernel=1)
    h = net.add("Conv", net.add("Sigmoid", h), net.weight(6, 8, 3, 3), pads=[pad] * 4)
    y, _, _ = net.conv(net.add("Relu", h), 6, 4)
    net.weights[w][[1, 2, 5]] = 0
    gone = removed_by_ratio_0(net.proto(y, ["n", 3, 8, 8], ["n", 4, None, None]), (2, 3, 8, 8))
    assert gone == {w: [2, 5] if pad else [1, 2, 5]}


def test_weights_behind_a_transpose() -> None:
    net = Builder(12)
    w, b, u = net.weight(10, 6), net.weight(10), net.weight(4, 10)
    h = net.add("Add", net.add("MatMul", "x", net.add("Transpose", w, perm=[1, 0])), b)
    h = net.add("MatMul", net.add("Relu", h), net.add("Transpose", u, perm=[1, 0]))
    y = net.add("Add", h, net.weight(4))
    net.weights[w][[1, 2]], net.weights[b][[1, 2]] = 0, [-1, 1]
    net.weights[w][5], net.weights[b][5] = 2 * net.weights[w][0], 2 * net.weights[b][0]
    net.weights[u][:, 7] = 0
    proto = net.proto(y, ["n", 6], ["n", 4])
    assert removed_by_ratio_0(proto, (2, 6)) == {w: [1, 2, 5, 7]}


def test_integers_take_over_nothing_and_their_zeros_are_dead() -> None:
    """A weight behind a DequantizeLinear holds whole steps alone; filters of zeros go all the same."""
    net = Builder(13)
    q = net.rng.integers(-9, 9, (8, 3, 1, 1)).astype(np.int8)
    q[[1, 2, 5]] = 0
    net.weights |= {
        "q": q,
        "scale": np.array(0.1, np.float32),
        "r": net.rng.integers(-9, 9, (4, 8, 3, 3)).astype(np.int8),
    }
    b = net.weight(8)
    net.weights[b][[1, 2, 5]] = [0, 0, 1]
    h = net.add("Relu", net.add("Conv", "x", net.add("DequantizeLinear", "q", "scale"), b))
    y = net.add("Conv", h, net.add("DequantizeLinear", "r", "scale"), net.weight(4))
    gone = removed_by_ratio_0(net.proto(y, ["n", 3, 6, 6], ["n", 4, None, None]), (2, 3, 6, 6))
    assert list(gone.values()) == [[1, 2]]


def test_a_budget_takes_what_is_free_first(tmp_path: Any) -> None:
    net = Builder(14)
    h, w, b = net.conv("x", 3, 32, kernel=1)
    y, _, _ = net.conv(net.add("Relu", h), 32, 4)
    at = pick(net.rng, 32, 12)
    net.weights[w][at[:10]], net.weights[b][at[:10]] = 0, 0
    net.weights[w][at[10]], net.weights[b][at[10]] = 9 * net.weights[w][at[11]], 9 * net.weights[b][at[11]]
    proto = net.proto(y, ["n", 3, 8, 8], ["n", 4, None, None])
    free = set(at[:10]) | {max(at[10:])}
    halved = onnxprune.plan(proto, ratio=0.5, target="none").groups[w]
    assert len(halved.keep) == 16 and free.isdisjoint(halved.keep)
    little = onnxprune.plan(proto, ratio=0.1, target="none").groups[w]
    assert set(range(32)) - set(little.keep) == free  # more than a tenth of them cost nothing
    filled = onnxprune.plan(proto, ratio=0.1).groups[w]
    assert len(filled.keep) == 24 and "3 of them free" in filled.reason  # three stay for a count that is fast
    assert set(range(32)) - set(filled.keep) < free
    assert len(onnxprune.plan(proto, ratio=0).groups[w].keep) == 21
    whole = onnxprune.plan(proto, ratio=0, exclude=[w]).groups[w]
    assert len(whole.keep) == 32 and not whole.free


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean", "Clip", "Pow"])
def test_numbers_that_all_channels_meet_count_too(op: str) -> None:
    """max(2 x, 0.5) is no multiple of max(x, 0.5), and the sum of zeros and a number is that number."""
    net = Builder(15)
    h, w, b = net.conv("x", 3, 8, kernel=1)
    net.weights["number"] = np.array(2 if op == "Pow" else 0.5, np.float32)
    y, _, _ = net.conv(net.add(op, h, "number"), 8, 4)
    net.weights[w][1], net.weights[b][1] = 0, 0
    net.weights[w][4], net.weights[b][4] = 2 * net.weights[w][0], 2 * net.weights[b][0]
    gone = removed_by_ratio_0(net.proto(y, ["n", 3, 6, 6], ["n", 4, None, None]), (2, 3, 6, 6))
    assert gone == {w: [1, 4] if op == "Sum" else [1]}


def test_masks_of_another_tool_make_a_small_model(tmp_path: Any) -> None:
    """Filters that a pattern made zero go with one command; the file by its plan is the same, byte for byte."""
    masked = onnxprune.sparsify("models/digits_cnn.onnx", pattern="filter", sparsity=0.5, check=False).proto
    done = onnxprune.prune(
        masked, tmp_path / "small.onnx", ratio=0, plan_out=tmp_path / "plan.json", data="models/digits_test.npz"
    )
    report = done.report
    assert report.error is not None and report.error.relative_l2 is not None and report.error.relative_l2 < 2e-6
    assert report.params.after < 0.28 * report.params.before
    assert (
        sum(sum((g.free or {}).values()) for g in report.groups) == sum(g.size - g.kept for g in report.groups) == 141
    )
    onnxprune.prune(masked, tmp_path / "again.onnx", plan=Plan.load(tmp_path / "plan.json"), check=False)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_graphs_with_planted_weights_compute_the_same(first: int) -> None:
    """Slices of the weights of random graphs become zeros, constants and multiples: whatever goes, no output moves."""
    graphs, removed = 0, 0
    for index in range(first, first + 20):
        try:
            built = build(f"free/{index}")
            plant(built.proto, np.random.default_rng(index))
            want = run_ort(built.proto, built.feeds)
        except Exception:  # the graph comes to nothing, or does not survive such weights
            continue
        plan = onnxprune.plan(built.proto, ratio=0)
        graphs += 1
        removed += sum(c.size - len(c.keep) for c in plan.groups.values())
        got = run_ort(build_full_proto(onnxprune.apply(built.proto, plan)), built.feeds)
        for w, g in ((w, g) for ws, gs in zip(want, got, strict=True) for w, g in zip(ws, gs, strict=True)):
            if w.dtype.kind != "f" or not np.isfinite(w).all():
                continue
            assert np.abs(w - g).max(initial=0) <= 1e-4 * max(1.0, np.abs(w).max(initial=0)), (index, plan)
    assert graphs >= 15 and removed >= 3


def plant(proto: ModelProto, rng: np.random.Generator) -> None:
    for t in proto.graph.initializer:
        if t.data_type != TensorProto.FLOAT or not t.dims or max(t.dims) < 2:
            continue
        x = numpy_helper.to_array(t).copy()
        for axis in (a for a in range(x.ndim) if x.shape[a] > 2 and rng.random() < 0.6):
            slices = np.moveaxis(x, axis, 0)
            for i in pick(rng, len(slices), max(1, len(slices) // 3)):
                other = slices[rng.integers(0, len(slices))]
                slices[i] = (0.0, 0.3, 1.0, other, 2 * other, -other)[rng.integers(0, 6)]
        t.CopyFrom(numpy_helper.from_array(x, t.name))
