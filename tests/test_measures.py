"""What the reports measure: where a network first goes wrong, latency, peak memory, and the field's numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import laws
import numpy as np
import onnx
import pytest
from documents import read_page
from onnx import TensorProto, helper
from test_cli import CNN, MODELS, TEST, call
from tiny import linear, model, tensor

import onnxprune
from onnxprune.calibration import draw_batches, list_input_specs, load_data
from onnxprune.cli.console import duration
from onnxprune.cli.render.compared import _layers as said
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import ArrayWeight
from onnxprune.measure import metrics
from onnxprune.report.builders import measure_weight_sparsity
from onnxprune.validation import LayerError, Reconstruction, by_layer, latency, measure_layer_errors, memory, validate

op = helper.make_node
RNG = np.random.default_rng(0)
W = {n: RNG.standard_normal(s).astype(np.float32) for n, s in {"w1": (4, 6), "w2": (6, 8), "w3": (8, 3)}.items()}
B = {"b1": np.full(6, 0.3, np.float32), "b2": np.full(8, -0.2, np.float32)}
X = RNG.standard_normal((20, 4)).astype(np.float32)


def chain() -> onnx.ModelProto:
    """x [N, 4] -> fc1, Add, Relu [N, 6] -> fc2, Add, Relu [N, 8] -> fc3 [N, 3]"""
    nodes = [op("MatMul", ["x", "w1"], ["m1"], "fc1"), op("Add", ["m1", "b1"], ["a1"]), op("Relu", ["a1"], ["r1"])]
    nodes += [op("MatMul", ["r1", "w2"], ["m2"], "fc2"), op("Add", ["b2", "m2"], ["a2"]), op("Relu", ["a2"], ["r2"])]
    nodes += [op("MatMul", ["r2", "w3"], ["y"], "fc3")]
    return model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", 3])], W | B)


def batches(m: onnx.ModelProto, x: np.ndarray = X, size: int = 8) -> Any:
    return load_data({"x": x}, list_input_specs(m), batch_size=size)


def errors(source: Any, keeps: Mapping[str, Sequence[int]], data: Any = None) -> Reconstruction:
    """The layers of a model whose groups keep those channels."""
    analysis = onnxprune.analyze(source)
    plan = laws.plan_of(analysis, keeps)
    return measure_layer_errors(
        analysis, onnxprune.apply(analysis, plan), data or draw_batches(analysis.model, 0), plan
    )


def by_name(found: Reconstruction) -> dict[str, float | None]:
    return {layer.name: layer.relative_l2 for layer in found.layers}


# layers


def test_errors_begin_behind_the_channels_that_went() -> None:
    (first, second) = onnxprune.analyze(chain()).groups
    assert (first.size, second.size) == (6, 8)
    keep = [0, 2, 3, 7]
    found = errors(chain(), {second.name: keep}, batches(chain()))
    assert [(x.name, x.operator, x.tensor) for x in found.layers] == [
        ("fc1", "MatMul", "r1"), ("fc2", "MatMul", "r2"), ("fc3", "MatMul", "y")
    ]  # fmt: skip
    assert by_name(found)["fc1"] == by_name(found)["fc2"] == 0.0
    x = X[np.arange(8) * 20 // 8].astype(np.float64)  # a quarter of 20 is below the least
    hidden = np.maximum(np.maximum(x @ W["w1"] + B["b1"], 0) @ W["w2"] + B["b2"], 0)
    y, smaller = hidden @ W["w3"], hidden[:, keep] @ W["w3"][keep]
    assert by_name(found)["fc3"] == pytest.approx(np.linalg.norm(y - smaller) / np.linalg.norm(y), rel=1e-5)
    assert (found.samples, found.left_out) == (8, {})


def test_the_first_wrong_layer_reads_the_group() -> None:
    (first, _) = onnxprune.analyze(chain()).groups
    found = by_name(errors(chain(), {first.name: [1, 4]}, batches(chain())))
    assert found["fc1"] == 0.0 and (found["fc2"] or 0) > 0.1 and (found["fc3"] or 0) > 0.1


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_an_untouched_network_has_no_error_anywhere(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    found = errors(analysis.model, {})
    assert found.layers and not found.left_out
    assert {layer.relative_l2 for layer in found.layers} == {0.0}


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_in_real_networks_only_what_follows_is_wrong(name: str) -> None:
    """One group after the other: layers before the first consumer are exact, that one is not, and none is lost."""
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    nodes = analysis.flat.proto.graph.node
    for group in analysis.groups:
        found = errors(analysis.model, {group.name: range(group.size // 2)})
        reads = {nodes[site[0]].name for m in group.members if m.role == "in" for site in m.sites}
        order = [layer.name for layer in found.layers]
        first = min((order.index(n) for n in reads if n in order), default=len(order))
        assert not found.left_out, group.name
        if group.exact and reads:
            assert all(layer.relative_l2 == 0.0 for layer in found.layers[:first]), group.name
            assert (found.layers[first].relative_l2 or 0) > 0.01, group.name
        assert any(layer.relative_l2 for layer in found.layers), group.name


def shortcut() -> onnx.ModelProto:
    """y = relu(fc2(relu(fc1(x))) + fc0(x)): the shortcut has a layer of its own, that comes last."""
    w = {"w0": RNG.standard_normal((4, 8)).astype(np.float32), "w1": W["w1"], "w2": W["w2"]}
    nodes = [op("MatMul", ["x", "w1"], ["m1"], "fc1"), op("Relu", ["m1"], ["r1"])]
    nodes += [op("MatMul", ["r1", "w2"], ["m2"], "fc2"), op("MatMul", ["x", "w0"], ["m0"], "fc0")]
    nodes += [op("Add", ["m2", "m0"], ["s"]), op("Relu", ["s"], ["y"])]
    return model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", 8])], w)


def test_a_sum_belongs_to_the_last_layer_that_adds_to_it() -> None:
    (group,) = onnxprune.analyze(shortcut()).groups
    found = errors(shortcut(), {group.name: [0, 1, 2]}, batches(shortcut()))
    assert [(x.name, x.tensor) for x in found.layers] == [("fc1", "r1"), ("fc2", "m2"), ("fc0", "y")]
    one, two, both = (x.relative_l2 or 0 for x in found.layers)
    assert one == 0.0 and 0.0 < both < two, "the shortcut is right, so the sum is less wrong than what is added"


def test_layers_of_bodies_of_calls_are_compared() -> None:
    body = [op("MatMul", ["a", "w"], ["h"], "inner"), op("Relu", ["h"], ["b"])]
    function = helper.make_function("local", "Block", ["a", "w"], ["b"], body, [helper.make_opsetid("", 17)])
    m = chain()
    m.functions.append(function)
    m.opset_import.append(helper.make_opsetid("local", 1))
    del m.graph.node[:]
    m.graph.node.extend(
        [
            op("Block", ["x", "w1"], ["r1"], "one", domain="local"),
            op("Block", ["r1", "w2"], ["r2"], "two", domain="local"),
            op("MatMul", ["r2", "w3"], ["y"], "fc3"),
        ]
    )
    (first, _) = onnxprune.analyze(m).groups
    found = errors(m, {first.name: [1, 4]}, batches(m))
    assert len(found.layers) == 3 and not found.left_out
    values = [x.relative_l2 or 0 for x in found.layers]
    assert values[0] == 0.0 and min(values[1:]) > 0.1


def test_channels_beside_a_dynamic_size_are_picked() -> None:
    """Heads go into the batch, [(N h), 3, 4], as exporters of attention have it."""
    w = {n: RNG.standard_normal(s).astype(np.float32) for n, s in {"q": (8, 8), "k": (4, 4), "o": (8, 5)}.items()}
    shapes = {"apart": (0, 3, 2, 4), "batched": (-1, 3, 4), "back": (-1, 2, 3, 4), "joined": (0, 3, 8)}
    nodes = [op("MatMul", ["x", "q"], ["a"], "q"), op("Reshape", ["a", "apart"], ["b"])]
    nodes += [op("Transpose", ["b"], ["c"], perm=[0, 2, 1, 3]), op("Reshape", ["c", "batched"], ["d"])]
    nodes += [op("MatMul", ["d", "k"], ["e"], "k"), op("Reshape", ["e", "back"], ["f"])]
    nodes += [op("Transpose", ["f"], ["g"], perm=[0, 2, 1, 3]), op("Reshape", ["g", "joined"], ["h"])]
    nodes += [op("MatMul", ["h", "o"], ["y"], "o")]
    m = model(
        nodes, [tensor("x", ["N", 3, 8])], [tensor("y", ["N", 3, 5])], w | {n: np.array(s) for n, s in shapes.items()}
    )
    heads = next(g for g in onnxprune.analyze(m).groups if g.size == 2)
    found = errors(m, {heads.name: [1]}, batches(m, RNG.standard_normal((8, 3, 8)).astype(np.float32)))
    assert [(x.name, x.relative_l2) for x in found.layers[:2]] == [("q", 0.0), ("k", 0.0)]
    assert found.layers[2].name == "o" and (found.layers[2].relative_l2 or 0) > 0.1


def test_two_files_are_compared_where_shapes_agree() -> None:
    analysis = onnxprune.analyze(chain())
    (_, second) = analysis.groups
    keep = [0, 2, 3, 7]
    pruned = onnxprune.apply(analysis, laws.plan_of(analysis, {second.name: keep}))
    found = measure_layer_errors(analysis, pruned, batches(chain()))
    assert list(by_name(found)) == ["fc1", "fc3"]
    assert found.left_out == {"fc2": "shape [8, 8] of the original became [8, 4]"}
    other = chain()
    other.graph.node[0].output[0] = other.graph.node[1].input[0] = "elsewhere"
    found = measure_layer_errors(analysis, onnxprune.load(other), batches(chain()))
    assert found.left_out == {"fc1": "the original has no such tensor"}


@pytest.mark.parametrize("moved", [True, False])
def test_a_permutation_is_seen_without_a_plan_and_damage_is_none(moved: bool) -> None:
    """A candidate with noise in its weights, and its channels in another order or not."""
    analysis = onnxprune.analyze(MODELS / "digits_cnn.onnx")
    rng = np.random.default_rng(3)
    orders = {g.name: rng.permutation(g.size).tolist() for g in analysis.groups} if moved else {}
    plan = laws.plan_of(analysis, orders)
    candidate = onnxprune.apply(analysis, plan)
    for name, w in candidate.weights.items():
        if len(w.shape) > 1:
            x = w.array()
            noise = rng.standard_normal(x.shape).astype(np.float32)
            candidate.weights[name] = ArrayWeight(x + (0.2 if moved else 2) * x.std() * noise)
    calib = np.load(MODELS / "digits_calib.npz")
    data = load_data(
        {n: calib[n][:64] for n in calib if n != "labels"}, list_input_specs(analysis.model.proto), batch_size=64
    )
    told, seen = (by_name(measure_layer_errors(analysis, candidate, data, p)) for p in (plan, None))
    assert seen == pytest.approx(told, rel=1e-6) and min(told.values()) > 0.2


def test_memory_bounds_the_pieces_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = onnxprune.analyze(MODELS / "digits_resnet.onnx")
    plan = onnxprune.plan(analysis, ratio=0.5)
    pruned, data = onnxprune.apply(analysis, plan), draw_batches(analysis.model, 0)
    whole = measure_layer_errors(analysis, pruned, data, plan)
    pieces: list[int] = []

    def counted(*args: Any) -> Iterator[Any]:
        found = list(chunks(*args))
        pieces.append(len(found))
        yield from found

    chunks = by_layer._chunks
    monkeypatch.setattr(by_layer, "MEMORY_BYTES", 1 << 14)
    monkeypatch.setattr(metrics, "BLOCK", 1 << 9)
    monkeypatch.setattr(by_layer, "_chunks", counted)
    parts = measure_layer_errors(analysis, pruned, data, plan)
    assert pieces[0] > 3 and by_name(parts).keys() == by_name(whole).keys()
    for name, error in by_name(whole).items():
        assert by_name(parts)[name] == pytest.approx(error, rel=1e-3, abs=1e-6)


def test_what_does_not_run_in_pieces_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [op("ReduceMax", ["x"], ["top"], keepdims=0), op("Greater", ["top", "most"], ["over"])]  # never
    nodes += [op("Cast", ["over"], ["zero"], to=7), op("Add", ["zero", "unit"], ["one"])]
    nodes += [op("SequenceConstruct", ["x", "x"], ["s"]), op("SequenceAt", ["s", "zero"], ["e"])]
    nodes += [op("MatMul", ["e", "w1"], ["m1"], "fc1"), op("MatMul", ["m1", "w2"], ["m2"], "fc2")]
    nodes += [
        op("SequenceAt", ["s", "one"], ["f"]),
        op("MatMul", ["f", "w0"], ["m0"], "fc0"),
        op("Sub", ["m2", "m0"], ["y"]),
    ]
    weights = {"w0": RNG.standard_normal((4, 8)).astype(np.float32), "w1": W["w1"], "w2": W["w2"]}
    weights |= {"most": np.array(1e9, np.float32), "unit": np.array(1)}
    m = model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", 8])], weights)
    whole = errors(m, {}, batches(m))
    assert by_name(whole) == {"fc1": 0.0, "fc2": 0.0, "fc0": 0.0}
    monkeypatch.setattr(by_layer, "MEMORY_BYTES", 1)  # a piece for each layer
    cut = errors(m, {}, batches(m))
    why = "'s' is not a tensor, so the model cannot be cut there"
    assert not cut.layers and cut.left_out == {"fc1": why, "fc2": why, "fc0": why}


@pytest.mark.parametrize(("size", "batch", "used"), [(20, "N", 8), (100, "N", 25), (1000, "N", 64), (200, 100, 100)])
def test_a_quarter_of_the_data_is_enough(size: int, batch: Any, used: int) -> None:
    m = linear(np.eye(4), batch)
    x = np.ones((size, 4), np.float32)
    assert errors(m, {}, batches(m, x)).samples == used


# latency and memory


def heats(before: float, after: float, n: int, noise: float, seed: int = 0, turns: int = 20) -> list[latency.Heat]:
    """Made-up heats: turns are never faster than the truth, most a little slower, some twice as slow; and heats differ."""
    rng = np.random.default_rng(seed)

    def some(truth: float) -> list[float]:
        slow = 1 + noise * rng.exponential(size=turns) + (rng.random(turns) < 0.3) * rng.random(turns)
        return list(truth * rng.normal(1, noise / 4) * slow)

    return [(some(before), some(after)) for _ in range(n)]


def test_a_difference_is_found_in_what_is_disturbed() -> None:
    for noise in (0.01, 0.05):
        same = [latency.judge(heats(1e-4, 1e-4, 30, noise, seed)) for seed in range(20)]
        assert sum(x.verdict == "same" for x in same) == 20 and all(abs(x.ratio - 1) < 0.03 for x in same)
        slower = [latency.judge(heats(1e-4, 1.1e-4, 30, noise, seed)) for seed in range(20)]
        assert all(x.verdict == "slower" for x in slower) and all(abs(1.1 * x.ratio - 1) < 0.03 for x in slower)
        assert sum(x.low <= 1 / 1.1 <= x.high for x in slower) >= 17, "the interval has the truth"
    assert latency.judge(heats(2e-3, 1e-3, 10, 0.05)).verdict == "faster"


def test_too_noisy_says_so_and_more_heats_help() -> None:
    few, many = (latency.judge(heats(1.0, 1.0, n, 0.5, turns=3)) for n in (8, 400))
    assert few.verdict == "noisy" and not few.narrow and few.low < 1 < few.high
    assert many.spread < few.spread / 3 and many.verdict == "same"
    one = latency.judge(heats(2.0, 1.0, 1, 0.01)).report(1, 1, 1)
    assert (one.low, one.high, one.verdict) == (None, None, "noisy"), "one heat says nothing of the spread"


def test_heats_that_went_wrong_do_not_count() -> None:
    good = heats(1.0, 1.1, 12, 0.01)
    jumped: list[latency.Heat] = [([1.0, 0.0], [1.1]), ([1.0], [1.1, 1e-5])]
    wrong = latency.judge([*good, *jumped])
    assert wrong.ratio == pytest.approx(1 / 1.1, abs=0.02) and wrong.verdict == "slower"


def test_models_take_turns_in_random_order_until_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told, opened = [0.0], list[str](), list[str]()

    def prepare(role: str, feeds: Any) -> Any:
        def go() -> None:
            told.append(role)
            now[0] += {"original": 0.02, "candidate": 0.01}[role]

        return go

    def open_session(source: Any, role: str, threads: int) -> str:
        opened.append(role)
        return role

    monkeypatch.setattr(latency, "open_session", open_session)
    monkeypatch.setattr(latency, "prepare_run", prepare)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(latency.time, "thread_time", lambda: now[0])
    found = latency.measure_latency("a", "b", {"x": np.zeros((3, 1))}, limit=60.0)
    assert (found.ratio, found.verdict, found.samples, found.threads) == (pytest.approx(2.0), "faster", 3, 1)
    assert (
        found.ratio == found.before / found.after
        and found.low
        and found.high
        and found.low <= 2.0001 <= found.high * 1.001
    )
    assert len(opened) == 2 * latency.LEAST_HEATS, "each heat has its own sessions"
    assert {tuple(told[i : i + 2]) for i in range(0, len(told), 2)} == {
        ("original", "candidate"),
        ("candidate", "original"),
    }
    again = list(told)
    told.clear()
    now[0] = 0.0
    assert latency.measure_latency("a", "b", {"x": np.zeros((3, 1))}, limit=60.0) == found and told == again, (
        "the order is seeded"
    )
    told.clear()
    late = latency.measure_latency("a", "b", {}, limit=0.0)
    assert (late.runs, late.verdict) == (1, "noisy"), "what is slow is run less often"


def test_the_environment_says_how_long_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(latency.LIMIT, "2.5")
    assert latency.read_limit() == 2.5
    monkeypatch.delenv(latency.LIMIT)
    assert latency.read_limit() == latency.SECONDS
    monkeypatch.setenv(latency.LIMIT, "soon")
    with pytest.raises(OnnxPruneError, match="ONNXPRUNE_CLOCK_SECONDS=soon: expected a number of seconds"):
        latency.read_limit()


def test_wall_time_is_taken_where_several_threads_run() -> None:
    assert latency.choose_clock(2) is time.perf_counter
    assert latency.choose_clock(1) in (time.perf_counter, time.thread_time)


def test_one_sample_is_timed_where_the_model_takes_one() -> None:
    for batch, samples in (("N", 1), (5, 5)):
        m = linear(np.eye(4), batch)
        found = validate(m, m, data=batches(m), timed=True).latency
        assert found is not None and found.samples == samples and found.before > 0 and found.after > 0
    assert validate(m, m).latency is None


def test_peak_memory_tells_a_large_model_from_a_small_one(tmp_path: Path) -> None:
    small, large = linear(np.eye(4)), linear(np.ones((4, 1 << 22)))  # 64 MiB of weights
    large_path = tmp_path / "large.onnx"
    onnx.save(large, large_path)
    feeds = {"x": np.ones((1, 4), np.float32)}
    few, many = memory.measure_peak_memory(small, feeds), memory.measure_peak_memory(large_path, feeds)
    if few is None or many is None:
        pytest.skip("this platform does not tell")
    assert many - few > 64 << 20 and many < 1 << 30
    found = validate(small, small, profile=True).peak_memory
    assert found is not None and all(0 <= (v or 0) < 64 << 20 for v in (found.before, found.after))
    with pytest.raises(OnnxPruneError, match=r"peak memory could not be measured.*x float32|peak memory"):
        memory.measure_peak_memory(small, {"x": np.ones((1, 5), np.float32)})


def test_where_no_peak_is_told_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert memory.read_peak_bytes()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.read_peak_bytes() is None
    silent = subprocess.CompletedProcess[bytes]([], 0, b"", b"")
    monkeypatch.setattr(memory.subprocess, "run", lambda *a, **k: silent)
    assert memory.measure_peak_memory(linear(np.eye(2)), {}) is None


# the field's numbers


def test_weight_sparsity_counts_zeros_of_float_parameters() -> None:
    w = np.ones((4, 6), np.float32)
    w[:, :3] = 0
    node = op("MatMulInteger", ["q", "v"], ["z"])
    inputs = [tensor("x", ["N", 4]), tensor("q", ["N", 2], TensorProto.UINT8)]
    outputs = [tensor("y", ["N", 6]), tensor("z", ["N", 2], TensorProto.INT32)]
    nodes = [op("MatMul", ["x", "w"], ["m"]), op("Add", ["m", "b"], ["y"]), node]
    m = model(nodes, inputs, outputs, {"w": w, "b": np.ones(6, np.float32), "v": np.zeros((2, 2), np.int8)})
    assert measure_weight_sparsity(onnxprune.analyze(m)) == 12 / 30
    assert (
        measure_weight_sparsity(onnxprune.analyze(model([op("Relu", ["x"], ["y"])], inputs[:1], outputs[:1]))) is None
    )


def test_prune_reports_every_measure(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    done = call("prune", CNN, "-o", out, "--ratio", 0.3, "--repair", "none", "--data", TEST, "--json")
    report = json.loads(done.stdout, parse_constant=pytest.fail)
    measures, left = report["measures"], {k: report[k]["after"] / report[k]["before"] for k in ("params", "macs")}
    assert measures["params_reduction"] == pytest.approx(1 - left["params"]) and 0.3 < 1 - left["params"] < 0.7
    assert measures["macs_reduction"] == pytest.approx(1 - left["macs"])
    assert measures["speedup_theoretical"] == pytest.approx(1 / left["macs"])
    assert measures["compression_ratio"] == CNN.stat().st_size / out.stat().st_size
    assert measures["weight_sparsity"] == {"before": 0.0, "after": 0.0}
    latency = report["latency"]
    assert latency["ratio"] == latency["before"] / latency["after"] > 0 and latency["threads"] == 1
    assert measures["speedup_measured"] == (None if latency["verdict"] == "noisy" else latency["ratio"])
    assert (latency["samples"], report["peak_memory"]) == (1, None)
    accuracy = report["error"]["accuracy"]
    assert report["error"]["accuracy_drop"] == accuracy["before"] - accuracy["after"] > 0
    layers = report["reconstruction"]["layers"]
    assert [x["name"] for x in layers] == ["/conv1/Conv", "/conv2/Conv", "/conv3/Conv", "/conv4/Conv", "/head/Gemm"]
    assert layers[0]["relative_l2"] == 0.0 and layers[1]["relative_l2"] > 0.1
    dry = json.loads(call("prune", CNN, "--dry-run", "--json").stdout)
    assert dry["latency"] is dry["reconstruction"] is dry["measures"]["speedup_measured"] is None
    assert dry["measures"]["compression_ratio"] is None and dry["measures"]["macs_reduction"] > 0


def test_every_key_is_in_the_page(tmp_path: Path) -> None:
    done = call("prune", CNN, "-o", tmp_path / "o.onnx", "--data", TEST, "--json")
    report = json.loads(done.stdout)
    named = read_page("json.md")
    parts = (report, report["error"], report["measures"], report["latency"], report["reconstruction"])
    keys = {key for part in (*parts, report["reconstruction"]["layers"][0]) for key in part}
    missing = [key for key in keys if f"`{key}`" not in named]
    assert not missing


def test_the_same_command_reports_the_same_but_for_the_clock(tmp_path: Path) -> None:
    first, second = (
        json.loads(call("prune", CNN, "-o", tmp_path / "o.onnx", "--data", TEST, "--json").stdout) for _ in range(2)
    )
    for report in (first, second):
        for layer in report["repair"]["layers"]:
            del layer["seconds"]
        del report["repair"]["seconds"]
        del report["seconds"], report["latency"], report["measures"]["speedup_measured"]
    assert first == second


def test_repair_with_calibration_data_is_judged_on_them(tmp_path: Path) -> None:
    calib = ("--calib", MODELS / "digits_calib.npz", "--criterion", "l2", "--ratio", 0.3)
    plain, repaired = (
        json.loads(call("prune", CNN, "-o", tmp_path / "o", *calib, "--repair", how, "--json").stdout)["reconstruction"]
        for how in ("none", "lstsq")
    )
    assert plain["data"] == repaired["data"] == str(MODELS / "digits_calib.npz")
    for a, b in list(zip(plain["layers"], repaired["layers"], strict=True))[1:]:
        assert b["relative_l2"] < a["relative_l2"], a["name"]


def test_validate_says_the_same_of_two_files(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    made = json.loads(call("prune", CNN, "-o", out, "--data", TEST, "--json").stdout)
    report = json.loads(call("validate", CNN, out, "--data", TEST, "--profile", "--json").stdout)
    for key in ("params", "macs", "bytes"):
        assert report[key] == made[key]
    for key in made["measures"].keys() - {"speedup_measured"}:
        assert report["measures"][key] == made["measures"][key]
    assert report["accuracy_drop"] == made["error"]["accuracy_drop"]
    assert set(report["peak_memory"]) == {"before", "after"}
    assert [x["name"] for x in report["reconstruction"]["layers"]] == ["/head/Gemm"], "the others lost channels"
    said = call("validate", CNN, out, "--data", TEST).stdout
    for part in ("latency", "points less", "x by MACs", "first error above 0.1: /head/Gemm"):
        assert part in said


def test_validate_takes_pictures(tmp_path: Path) -> None:
    nodes = [op("GlobalAveragePool", ["x"], ["p"]), op("Flatten", ["p"], ["y"])]
    onnx.save(model(nodes, [tensor("x", ["N", 3, 8, 8])], [tensor("y", ["N", 3])]), tmp_path / "m.onnx")
    pictures = np.full((6, 8, 8, 3), 255, np.uint8)
    np.savez(tmp_path / "d.npz", x=pictures, labels=np.zeros(6, np.int64))
    args = ("validate", tmp_path / "m.onnx", tmp_path / "m.onnx", "--data", tmp_path / "d.npz")
    assert call(*args).exit_code == 2
    done = call(*args, "--preprocess", "unit", "--preprocess", "mean=[0, 1, 1]", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["samples"], report["accuracy"]) == (6, {"before": 1.0, "after": 1.0})
    assert report["reconstruction"]["layers"] == [] and report["macs"] == {"before": 0, "after": 0}
    assert report["measures"]["speedup_theoretical"] is report["measures"]["params_reduction"] is None


# what is printed


def printed(layers: list[LayerError], **left_out: str) -> str:
    return said(Reconstruction("d", 1, layers, left_out))


def test_the_summary_names_the_first_and_the_worst() -> None:
    made = [LayerError(n, "Conv", n, e) for n, e in [("a", 0.0), ("b", None), ("c", 0.2), ("d", 0.05), ("e", 0.9)]]
    assert printed(made) == "first error above 0.1: c 0.2 (2 of 4); worst: e 0.9, c 0.2, d 0.05"
    assert printed(made[:2]) == "no error above 0.1; the largest is a 0"
    assert printed([], a="it broke") == "none could be compared: it broke"


def test_durations_have_a_unit() -> None:
    assert [duration(s) for s in (2.5, 0.0123456, 0.00042)] == ["2.5 s", "12.3 ms", "420 us"]
