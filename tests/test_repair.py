"""Repair: pieces of a model, layers as matrix products, least squares, and whole networks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.calibration import array_store
from onnxprune.calibration.array_store import ArrayStore, Memory
from onnxprune.calibration.sessions import open_session, run
from onnxprune.graph.save import build_full_proto
from onnxprune.groups import Analysis
from onnxprune.plans import compute_fingerprint
from onnxprune.repair import RepairReport, repair
from onnxprune.repair.kinds import make_layer
from onnxprune.repair.linear_layers import Change, Site
from onnxprune.repair.segments import Walk
from onnxprune.repair.solve import softmax

Array = NDArray[Any]
op = helper.make_node
MODELS = Path(__file__).parents[1] / "models"


def build(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    x: Sequence[int | str],
    y: str = "y",
    opset: int = 17,
    **more: Any,
) -> ModelProto:
    """A model of one float input `x` and one output."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid(*o) for o in (("", opset), ("local", 1), ("com.microsoft", 1))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, **more)
    return onnx.shape_inference.infer_shapes(model)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def outputs(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return list(run(open_session(model, "test", 1), feeds).values())


# pieces


def branched() -> ModelProto:
    """Two layers, a shortcut around the second, an If on what they make, and a constant that the graph computes."""
    body = helper.make_graph([op("Relu", ["h"], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    nodes = [
        op("Transpose", ["w1"], ["w1t"]),
        op("MatMul", ["x", "w1t"], ["h"]),
        op("Relu", ["h"], ["a"]),
        op("MatMul", ["a", "w2"], ["b"]),
        op("Add", ["a", "b"], ["s"]),
        op("ReduceSum", ["s"], ["total"], keepdims=0),
        op("Greater", ["total", "zero"], ["flag"]),
        op("If", ["flag"], ["c"], then_branch=body, else_branch=body),
        op("Add", ["c", "s"], ["y"]),
    ]
    return build(nodes, {"w1": normal(6, 4), "w2": normal(6, 6), "zero": np.zeros((), np.float32)}, ["n", 4])


@pytest.mark.parametrize("limit", [1 << 20, 0], ids=["in memory", "in files"])
@pytest.mark.parametrize("stops", [["h"], ["h", "b", "s"], ["a", "a", "c"], ["x", "s"], []], ids=str)
def test_pieces_make_what_the_whole_makes(stops: list[str], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_store, "SMALL_BYTES", 0)
    proto = branched()
    seen = ModelProto()
    seen.CopyFrom(proto)
    seen.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(stops) if n != "x")
    feeds = [{"x": normal(n, 4, seed=i)} for i, n in enumerate((3, 3, 2))]
    want = [{**feed, **run(open_session(seen, "test", 1), feed)} for feed in feeds]
    walk = Walk(onnxprune.load(proto), [*({s} for s in stops), {"y"}], ["x"], len(feeds))
    with ArrayStore(Memory(limit)) as store:
        for batch, feed in enumerate(feeds):
            store.put("x", batch, feed["x"])
        for at, stop in enumerate([*stops, "y"]):
            found = list(walk.run(at, store, 1))
            assert len(found) == len(feeds)
            for got, expected in zip(found, want, strict=True):
                assert set(got) == {stop}
                np.testing.assert_allclose(got[stop], expected[stop], rtol=1e-5, atol=1e-6)
        assert store.bytes == 0 and not any(name in store for name in want[0]), "something is kept that nobody reads"


def test_a_piece_has_the_weights_of_the_moment() -> None:
    model = onnxprune.load(branched())
    walk = Walk(model, [{"h"}, {"b"}], ["x"], 1)
    x = normal(3, 4)
    with ArrayStore() as store:
        store.put("x", 0, x)
        (h,) = walk.run(0, store, 1)
        model.weights["w2"] = type(model.weights["w2"])(numpy_helper.from_array(np.eye(6, dtype=np.float32), "w2"))
        model.proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.eye(6, dtype=np.float32), "w2"))
        (b,) = walk.run(1, store, 1)
    np.testing.assert_allclose(b["b"], np.maximum(h["h"], 0), rtol=1e-6)


# layers


def conv_case(o: int, i: int, groups: int, kernel: Sequence[int], size: int, bias: bool = True, **attrs: Any) -> Any:
    weights = {"w": normal(o, i // groups, *kernel), **({"b": normal(o)} if bias else {})}
    return op("Conv", ["x", *weights], ["y"], group=groups, **attrs), weights, [2, i, *[size] * len(kernel)]


def deconv_case(i: int, o: int, groups: int, kernel: Sequence[int], size: int, **attrs: Any) -> Any:
    weights = {"w": normal(i, o // groups, *kernel), "b": normal(o)}
    return op("ConvTranspose", ["x", *weights], ["y"], group=groups, **attrs), weights, [2, i, *[size] * len(kernel)]


LAYER_CASES: dict[str, tuple[NodeProto, dict[str, Array], list[int]]] = {
    "conv": conv_case(6, 4, 1, (3, 3), 7, pads=[1, 1, 1, 1]),
    "conv no bias": conv_case(6, 4, 1, (3, 3), 7, bias=False),
    "strided, dilated": conv_case(6, 4, 1, (3, 2), 11, strides=[2, 3], dilations=[2, 1], pads=[1, 0, 2, 1]),
    "grouped": conv_case(6, 4, 2, (3, 3), 7, pads=[1, 1, 1, 1]),
    "depthwise": conv_case(8, 4, 4, (3, 3), 7, pads=[0, 1, 1, 0], strides=[2, 2]),
    "1-D": conv_case(3, 4, 1, (5,), 9, pads=[2, 2]),
    "3-D": conv_case(3, 4, 1, (2, 3, 1), 5, pads=[1, 1, 0, 0, 1, 0]),
    "same upper": conv_case(3, 4, 1, (2, 3), 8, auto_pad="SAME_UPPER", strides=[2, 1]),
    "same lower": conv_case(3, 4, 1, (2, 4), 8, auto_pad="SAME_LOWER", strides=[1, 2]),
    "valid": conv_case(3, 4, 1, (3, 3), 8, auto_pad="VALID"),
    "transposed": deconv_case(4, 6, 1, (3, 3), 5),
    "transposed, strided": deconv_case(4, 6, 1, (4, 3), 5, strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 0]),
    "transposed, grouped": deconv_case(4, 6, 2, (3, 3), 5, strides=[2, 2], dilations=[2, 1]),
    "transposed, same upper": deconv_case(4, 3, 1, (3, 4), 5, strides=[2, 2], auto_pad="SAME_UPPER"),
    "transposed, output shape": deconv_case(4, 3, 1, (3, 3), 5, strides=[2, 2], output_shape=[10, 9]),
    "norm": (
        op("BatchNormalization", ["x", "w", "b", "m", "v"], ["y"], epsilon=0.01),
        {"w": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4))}, [3, 4, 5],
    ),
    "gemm": (op("Gemm", ["x", "w", "b"], ["y"]), {"w": normal(5, 3), "b": normal(3)}, [4, 5]),
    "gemm turned": (
        op("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0), {"w": normal(3, 5), "b": normal(1)}, [4, 5],
    ),
    "gemm no bias": (op("Gemm", ["x", "w"], ["y"]), {"w": normal(5, 3)}, [4, 5]),
    "matmul": (op("MatMul", ["x", "w"], ["y"]), {"w": normal(5, 3)}, [2, 4, 5]),
    "matmul from the left": (op("MatMul", ["w", "x"], ["y"]), {"w": normal(3, 5)}, [2, 5, 4]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYER_CASES)
def test_a_layer_is_its_matrix_product(name: str) -> None:
    node, weights, shape = LAYER_CASES[name]
    x = normal(*shape)
    (y,) = outputs(build([node], weights, shape), {"x": x})
    layer = make_layer(Site(node, 0, [weights.get(n) for n in node.input], {"x": len(shape)}.get))
    count, each = layer.count_places(y.shape)
    at = np.sort(np.random.default_rng(0).permutation(count)[: max(1, count // 2)])

    def compute_product(rows: Array) -> Array:
        return rows @ layer.w + (0 if layer.b is None else layer.b[:, None])

    assert layer.take_rows(x, y.shape, at).shape[1] == len(at) * each
    np.testing.assert_allclose(
        compute_product(layer.take_rows(x, y.shape, at)), layer.take_outputs(y, at), rtol=1e-4, atol=1e-5
    )
    everywhere = layer.take_outputs(y, np.arange(count))
    assert np.array_equal(np.sort(everywhere.ravel()), np.sort(y.ravel())), "each output is one entry of the rows"
    _other_weights(layer, node, weights, x, at)


def _other_weights(layer: Any, node: NodeProto, weights: Mapping[str, Array], x: Array, at: Array) -> None:
    """What `changes` writes is what the rows are multiplied with."""
    w = normal(*layer.w.shape, seed=5).astype(np.float64)
    b = None if layer.b is None else normal(*layer.b.shape, seed=6).astype(np.float64)
    changed, names = dict(weights), list(node.input)
    for change in layer.list_changes(w, b):
        assert isinstance(change, Change)
        names += ["added"] * (change.slot + 1 - len(names))
        changed[names[change.slot]] = change.array
    again = op(node.op_type, names, ["y"])
    again.attribute.extend(node.attribute)
    (y,) = outputs(build([again], changed, x.shape), {"x": x})
    rows = layer.take_rows(x, y.shape, at) @ w + (0 if b is None else b[:, None])
    np.testing.assert_allclose(rows, layer.take_outputs(y, at), rtol=1e-4, atol=1e-4)


# whole networks


def plan_of(analysis: Analysis, keeps: Mapping[str, Sequence[int]]) -> onnxprune.Plan:
    choices = {n: onnxprune.Choice(analysis.by_name[n].size, tuple(k)) for n, k in keeps.items()}
    return onnxprune.Plan(compute_fingerprint(analysis.model), choices)


def repaired(
    proto: ModelProto, ratio: float, feeds: Sequence[Mapping[str, Array]], **more: Any
) -> tuple[ModelProto, RepairReport]:
    analysis = onnxprune.analyze(proto)
    plan = onnxprune.plan(analysis, ratio=ratio, target="none")
    model, report = repair(analysis, plan, feeds, threads=1, **more)
    small = build_full_proto(model)
    onnx.checker.check_model(small, full_check=True)
    _check_error(proto, small, build_full_proto(onnxprune.apply(analysis, plan)), feeds, report)
    return small, report


def _check_error(proto: ModelProto, small: ModelProto, plain: ModelProto, feeds: Any, report: RepairReport) -> None:
    """The report's errors are those that somebody else measures."""
    sums = np.zeros(3)
    for feed in feeds:
        want, *others = (np.concatenate([y.ravel() for y in outputs(m, feed)]) for m in (proto, plain, small))
        sums += [np.square(want).sum(), *(np.square(want - y).sum() for y in others)]
    before, after = np.sqrt(sums[1:] / sums[0])
    assert after <= before * (1 + 1e-4)
    assert report.error_before == pytest.approx(before, rel=1e-3) and report.error_after == pytest.approx(
        after, rel=1e-3
    )


def redundant() -> ModelProto:
    """A convolution whose second half of filters are sums of the first half's, then two layers that read them."""
    half = normal(4, 3, 3, 3)
    nodes = [
        op("Conv", ["x", "w1", "b1"], ["h"], name="first", pads=[1, 1, 1, 1]),
        op("Conv", ["h", "w2", "b2"], ["s"], name="second"),
        op("Add", ["s", "x"], ["t"]),
        op("Relu", ["t"], ["u"]),
        op("GlobalAveragePool", ["u"], ["p"]),
        op("Flatten", ["p"], ["f"]),
        op("Gemm", ["f", "w3", "b3"], ["y"], name="last"),
    ]
    mixed = np.tensordot(normal(4, 4, seed=1), half, 1).astype(np.float32)
    weights = {
        "w1": np.concatenate([half, mixed]), "b1": normal(8), "w2": normal(3, 8, 1, 1), "b2": normal(3), "w3": normal(3, 5),
        "b3": normal(5),
    }  # fmt: skip
    return build(nodes, weights, ["n", 3, 8, 8])


def test_what_the_others_can_say_is_recovered() -> None:
    """The removed filters are linear in the kept ones and the constant, so nothing is lost."""
    feeds = [{"x": normal(8, 3, 8, 8, seed=i)} for i in range(4)]
    analysis = onnxprune.analyze(redundant())
    (group,) = (g for g in analysis.groups if g.size == 8)
    model, report = repair(analysis, plan_of(analysis, {group.name: range(4)}), feeds, threads=1)
    assert [layer.name for layer in report.layers] == ["second", "last"]
    assert report.error_before > 0.1 and report.error_after < 0.03 * report.error_before
    assert report.kept == 2 and not report.left_out
    held_back = {"x": normal(16, 3, 8, 8, seed=99)}
    (want,), (got,) = outputs(redundant(), held_back), outputs(build_full_proto(model), held_back)
    assert np.linalg.norm(want - got) < 0.05 * np.linalg.norm(want)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_trained_networks_come_closer(name: str) -> None:
    proto = onnx.load(MODELS / f"{name}.onnx")
    with np.load(MODELS / "digits_calib.npz") as data:
        images = next(data[k] for k in data.files if data[k].ndim > 1)[:256]
    feeds = [{proto.graph.input[0].name: images[i : i + 64]} for i in range(0, len(images), 64)]
    _, report = repaired(proto, 0.3, feeds)
    assert report.error_after < 0.6 * report.error_before
    assert all(layer.after <= layer.before for layer in report.layers)


def test_the_same_seed_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.repair.sampling.ENOUGH_ROWS", 100)  # so that rows are sampled
    feeds = [{"x": normal(8, 3, 8, 8, seed=i)} for i in range(3)]
    first, second, other = (
        repaired(redundant(), 0.5, feeds, seed=seed)[0].SerializeToString(deterministic=True) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_nothing_removed_is_nothing_repaired() -> None:
    proto = redundant()
    small, report = repaired(proto, 0.0, [{"x": normal(2, 3, 8, 8)}])
    assert not report.layers and report.error_after == 0
    assert [n.op_type for n in small.graph.node] == [n.op_type for n in proto.graph.node]


@pytest.mark.parametrize("make", [redundant, branched])
def test_one_sample_raises_no_error(make: Callable[[], ModelProto]) -> None:
    shape = [d.dim_value or 1 for d in make().graph.input[0].type.tensor_type.shape.dim]
    repaired(make(), 0.5, [{"x": normal(*shape)}])


def test_samples_take_the_first_batches() -> None:
    feeds = [{"x": normal(4, 3, 8, 8, seed=i)} for i in range(5)]
    analysis = onnxprune.analyze(redundant())
    _, report = repair(analysis, onnxprune.plan(analysis, ratio=0.5), feeds, samples=6, threads=1)
    assert report.samples == 8


@pytest.mark.parametrize("method", ["none", "bias", "affine", "obs", "lstsq"])
def test_methods(method: str) -> None:
    """What each recovers, on a network where all can be recovered."""
    feeds = [{"x": normal(8, 3, 8, 8, seed=i)} for i in range(4)]
    analysis = onnxprune.analyze(redundant())
    (group,) = (g for g in analysis.groups if g.size == 8)
    plan = plan_of(analysis, {group.name: range(4)})
    model, report = repair(analysis, plan, feeds, method, threads=1)
    _check_error(redundant(), build_full_proto(model), build_full_proto(onnxprune.apply(analysis, plan)), feeds, report)
    left = report.error_after / report.error_before
    limits = {"none": (1, 1), "bias": (0.1, 0.99), "affine": (0.1, 0.99), "obs": (0, 0.03), "lstsq": (0, 0.03)}
    assert limits[method][0] <= left <= limits[method][1]


def test_the_head_of_a_language_model_is_fitted_to_probabilities() -> None:
    """A head of the vocabulary's size; one as narrow as any other output is fitted by its numbers."""
    nodes = [
        op("Gather", ["emb", "ids"], ["e"]),
        op("MatMul", ["e", "w1"], ["h"]),
        op("Relu", ["h"], ["r"]),
        op("MatMul", ["r", "w2"], ["y"], name="head"),
    ]

    def divergence(known: int) -> float:
        weights = {"emb": normal(21, 8)[:known], "w1": normal(8, 16) / 3, "w2": normal(16, 20) / 2}
        m = build(nodes, weights, ["n", "t"])
        m.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"]))
        m = onnx.shape_inference.infer_shapes(m)
        feeds = {"ids": np.random.default_rng(0).integers(0, 20, (32, 16))}
        analysis = onnxprune.analyze(m)
        (group,) = (g for g in analysis.groups if g.size == 16)
        model, _ = repair(analysis, plan_of(analysis, {group.name: range(8)}), [feeds], threads=1, producers=False)
        (want,), (got,) = outputs(m, feeds), outputs(build_full_proto(model), feeds)
        p, q = softmax(want), softmax(got)
        return float((p * np.log(p / q)).sum(axis=-1).mean())

    plain = [divergence(known) for known in (20, 21)]
    assert plain[0] < 0.9 * plain[1]


def test_an_unknown_method_is_named() -> None:
    analysis = onnxprune.analyze(redundant())
    with pytest.raises(onnxprune.OnnxPruneError, match="'magic' is unknown"):
        repair(analysis, onnxprune.plan(analysis, ratio=0.5), [{"x": normal(1, 3, 8, 8)}], "magic")


def recurrent(kind: str, direction: str, layout: int, states: bool, **attrs: Any) -> ModelProto:
    """A projection, a recurrent layer on it, and a classifier on its last state or on all of them."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    d = 2 if direction == "bidirectional" else 1
    outs = ["hs"] if states else ["", "hs"]
    weights = {
        "p": normal(5, 8), "w": normal(d, gates * 6, 8) / 3, "r": normal(d, gates * 6, 6) / 3, "b": normal(d, 2 * gates * 6),
        "c": normal(6, 4),
    }  # fmt: skip
    nodes = [
        op("MatMul", ["x", "p"], ["e"]),
        op(kind, ["e", "w", "r", "b"], outs, hidden_size=6, direction=direction, layout=layout, **attrs),
        op("MatMul", ["hs", "c"], ["y"]),
    ]
    return build(nodes, weights, ["a", "b", 5])


@pytest.mark.parametrize("states", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_layers(kind: str, direction: str, states: bool) -> None:
    proto = recurrent(kind, direction, 0, states)
    feeds = [{"x": normal(7, 16, 5, seed=i)} for i in range(4)]
    analysis = onnxprune.analyze(proto)
    plan = onnxprune.plan(analysis, ratio=0.3)
    model, report = repair(analysis, plan, feeds, threads=1)
    _check_error(proto, build_full_proto(model), build_full_proto(onnxprune.apply(analysis, plan)), feeds, report)
    assert report.error_after < report.error_before
    fitted = {layer.op: layer for layer in report.layers}
    assert kind in fitted and fitted[kind].after < fitted[kind].before
    assert sum(layer.op == kind for layer in report.layers) == 2  # its inputs, and its hidden state


def test_weights_behind_a_transpose() -> None:
    nodes = [
        op("Transpose", ["w1"], ["w1t"]), op("MatMul", ["x", "w1t"], ["h"]), op("Relu", ["h"], ["a"]),
        op("Transpose", ["w2"], ["w2t"]), op("MatMul", ["a", "w2t"], ["b"], name="second"), op("Add", ["b", "c"], ["y"]),
    ]  # fmt: skip
    proto = build(nodes, {"w1": normal(12, 6), "w2": normal(4, 12), "c": normal(4)}, ["n", 6])
    small, report = repaired(proto, 0.5, [{"x": normal(64, 6, seed=i)} for i in range(4)])
    assert [layer.name for layer in report.layers] == ["second"]
    assert report.error_after < 0.8 * report.error_before
    assert [n.op_type for n in small.graph.node] == ["MatMul", "Relu", "MatMul", "Add"]


def test_shared_weights_are_left_alone() -> None:
    nodes = [
        op("MatMul", ["x", "w1"], ["h"]), op("Relu", ["h"], ["a"]), op("MatMul", ["a", "w2"], ["b"], name="first"),
        op("Neg", ["a"], ["n"]), op("MatMul", ["n", "w2"], ["d"], name="second"), op("Mul", ["b", "d"], ["y"]),
    ]  # fmt: skip
    _, report = repaired(
        build(nodes, {"w1": normal(6, 12), "w2": normal(12, 4)}, ["n", 6]), 0.5, [{"x": normal(64, 6)}]
    )
    assert not report.layers
    assert report.left_out == dict.fromkeys(("first", "second"), "its weight is shared with other nodes")


def test_calls_and_branches_are_walked_through() -> None:
    """A layer inside a local function is repaired; one inside an If is run as it is."""
    body = helper.make_graph(
        [op("MatMul", ["a", "v"], ["r"])],
        "b",
        [],
        [helper.make_tensor_value_info("r", 1, None)],
        [numpy_helper.from_array(normal(12, 4), "v")],
    )
    imports = [helper.make_opsetid("", 17)]
    dense = helper.make_function(
        "local",
        "Dense",
        ["x", "w", "b"],
        ["y"],
        [op("MatMul", ["x", "w"], ["h"]), op("Add", ["h", "b"], ["y"])],
        imports,
    )
    nodes = [
        op("Dense", ["x", "w1", "b1"], ["h"], domain="local"), op("Relu", ["h"], ["a"]),
        op("Dense", ["a", "w2", "b2"], ["c"], domain="local", name="head"),
        op("ReduceSum", ["x"], ["total"], keepdims=0), op("Greater", ["total", "b3"], ["flag"]),
        op("If", ["flag"], ["i"], then_branch=body, else_branch=body), op("Add", ["c", "i"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w1": normal(6, 12),
        "b1": normal(12),
        "w2": normal(12, 4),
        "b2": normal(4),
        "b3": np.zeros((), np.float32),
    }
    proto = build(nodes, weights, ["n", 6], functions=[dense])
    _, report = repaired(proto, 0.5, [{"x": normal(64, 6, seed=i)} for i in range(4)])
    assert [layer.op for layer in report.layers] == ["MatMul"] and report.error_after < report.error_before


def test_a_repair_that_does_harm_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that come out worse than they were: the first ones stay changed, if that helps, or none."""
    import onnxprune.repair.solve as module

    honest = module.solve
    calls: list[int] = []

    def harmful(*arguments: Any) -> Any:
        calls.append(1)
        found = honest(*arguments)
        return found if len(calls) == 1 else module.Solution(found.w * 50, found.b, 0, 0)

    monkeypatch.setitem(module.FITS, "lstsq", harmful)
    feeds = [{"x": normal(8, 3, 8, 8, seed=i)} for i in range(4)]
    _, report = repaired(redundant(), 0.5, feeds)
    assert len(report.layers) == 2 and report.kept == 1 and report.error_after < report.error_before


def test_a_step_on_the_way_is_repaired_too_and_not_compared() -> None:
    feeds = [{"x": normal(8, 3, 8, 8, seed=i)} for i in range(4)]
    analysis = onnxprune.analyze(redundant())
    (group,) = (g for g in analysis.groups if g.size == 8)
    plan = plan_of(analysis, {group.name: range(4)})
    made, report = repair(analysis, plan, feeds, threads=1, share=0.25, is_step=True)
    assert report.error_before is None and report.error_after is None and report.kept == len(report.layers) == 2
    (want,), (got,) = outputs(redundant(), feeds[0]), outputs(build_full_proto(made), feeds[0])
    (plain,) = outputs(build_full_proto(repair(analysis, plan, feeds, "none", threads=1)[0]), feeds[0])
    assert np.linalg.norm(want - got) < 0.05 * np.linalg.norm(want - plain)
