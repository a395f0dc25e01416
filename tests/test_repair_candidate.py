"""Candidates of any tool are fitted to their original: pruned, masked, renamed or folded ones; others are refused in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from test_cli import call, fails
from tiny import model, tensor

import onnxprune
from onnxprune.errors import OnnxPruneError, OutputError
from onnxprune.graph.save import build_full_proto
from onnxprune.repair.channel_matching import assign, assign_in_order, match_channels

MODELS = Path(__file__).parents[1] / "models"
CNN, VIT, CALIB = MODELS / "digits_cnn.onnx", MODELS / "digits_vit.onnx", MODELS / "digits_calib.npz"
TEST = MODELS / "digits_test.npz"
RNG = np.random.default_rng(0)
PICTURES = RNG.normal(size=(64, 3, 8, 8)).astype(np.float32)


def network(widths: tuple[int, int] = (16, 12), outputs: str = "y") -> onnx.ModelProto:
    """x [N, 3, 8, 8] -> Conv, BatchNormalization, Relu, twice -> mean -> Gemm -> y [N, 5]."""
    rng = np.random.default_rng(1)
    weights: dict[str, np.ndarray] = {}
    nodes, value, inputs = [], "x", 3
    for at, width in enumerate(widths):
        weights[f"w{at}"] = rng.normal(size=(width, inputs, 3, 3)) / np.sqrt(9 * inputs)
        for name, low, high in (("gamma", 0.5, 1.5), ("beta", -0.5, 0.5), ("mean", -0.2, 0.2), ("var", 0.5, 1.5)):
            weights[f"{name}{at}"] = rng.uniform(low, high, width)
        statistics = [f"{name}{at}" for name in ("gamma", "beta", "mean", "var")]
        nodes += [
            helper.make_node("Conv", [value, f"w{at}"], [f"conv{at}"], f"conv{at}", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"conv{at}", *statistics], [f"bn{at}"], f"bn{at}"),
            helper.make_node("Relu", [f"bn{at}"], [f"relu{at}"], f"relu{at}"),
        ]
        value, inputs = f"relu{at}", width
    weights |= {"w": rng.normal(size=(inputs, 5)), "b": rng.normal(size=5)}
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w", "b"], [outputs], "head"),
    ]
    stored = {name: w.astype(np.float32) for name, w in weights.items()}
    return model(nodes, [tensor("x", ["N", 3, 8, 8])], [tensor(outputs, ["N", 5])], stored)


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def with_arrays(proto: onnx.ModelProto, new: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model with other contents of these initializers, which may be new."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    kept = [t for t in made.graph.initializer if t.name not in new]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *(numpy_helper.from_array(w.astype(np.float32), n) for n, w in new.items())])
    return made


def pruned(proto: onnx.ModelProto, ratio: float = 0.5) -> onnx.ModelProto:
    return build_full_proto(onnxprune.apply(proto, onnxprune.plan(proto, ratio=ratio, target="none")))


def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Other names for all nodes and tensors but inputs and outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    taken = {v.name: v.name for v in (*made.graph.input, *made.graph.output)} | {"": ""}
    for at, node in enumerate(made.graph.node):
        node.name = f"op{at}"
        for names in (node.input, node.output):
            names[:] = [taken.setdefault(name, f"t{len(taken)}") for name in names]
    for t in made.graph.initializer:
        t.name = taken.setdefault(t.name, f"t{len(taken)}")
    del made.graph.value_info[:]
    return made


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Each BatchNormalization in the convolution before it."""
    w = arrays(proto)
    new: dict[str, np.ndarray] = {}
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for at, node in enumerate(nodes):
        if node.op_type == "BatchNormalization":
            gamma, beta, mean, var = (w[name] for name in node.input[1:])
            scale, before = gamma / np.sqrt(var + 1e-5), nodes[at - 1]
            new |= {before.input[1]: w[before.input[1]] * scale[:, None, None, None], f"b{at}": beta - mean * scale}
            made.graph.node[-1].input[1:] = [before.input[1], f"b{at}"]
            made.graph.node[-1].output[0] = node.output[0]
        else:
            made.graph.node.append(node)
    return with_arrays(made, new)


def masked(proto: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """The smallest weights of each matrix and filter bank are zero."""
    big = {name: w for name, w in arrays(proto).items() if w.ndim > 1}
    return with_arrays(proto, {n: w * (np.abs(w) >= np.quantile(np.abs(w), share)) for n, w in big.items()})


def errors(original: onnx.ModelProto | Path, candidate: onnx.ModelProto | Path, **more: object) -> tuple[float, float]:
    calib = PICTURES if isinstance(original, onnx.ModelProto) else CALIB
    repair = onnxprune.repair_model(original, candidate, calib=calib, check=False, **more).report.repair  # type: ignore[arg-type]
    assert repair.error_before is not None and repair.error_after is not None
    return repair.error_before, repair.error_after


# what a candidate may be


@pytest.mark.parametrize("change", [lambda m: m, renamed, folded, lambda m: renamed(folded(m))])
def test_a_pruned_candidate_becomes_as_good_as_with_its_plan(change: Callable[..., onnx.ModelProto]) -> None:
    original = network()
    plan = onnxprune.plan(original, ratio=0.5, target="none")
    own = onnxprune.validate(original, onnxprune.apply(original, plan, calib=PICTURES), data=PICTURES).relative_l2
    before, after = errors(original, change(pruned(original)))
    assert own is not None and after < 1.02 * own < 0.5 * before


def test_a_candidate_may_have_what_its_original_has_folded() -> None:
    original = network()
    expected = errors(original, pruned(original))
    assert errors(renamed(folded(original)), pruned(original)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("path", [CNN, VIT])
def test_trained_candidates_become_as_good_as_with_their_plan(path: Path) -> None:
    analysis = onnxprune.analyze(path)
    plan = onnxprune.plan(analysis, ratio=0.25)
    candidate = renamed(build_full_proto(onnxprune.apply(analysis, plan)))
    made = onnxprune.repair_model(path, candidate, calib=CALIB, samples=256, check=False).stored
    models = candidate, made, onnxprune.apply(analysis, plan, calib=CALIB, samples=256)
    before, after, own = (onnxprune.validate(path, m, data=TEST).relative_l2 or 0.0 for m in models)
    assert 0 < after < 1.05 * own < 0.5 * before


def test_a_candidate_in_half_precision_is_matched_behind_its_casts(tmp_path: Path) -> None:
    onnxprune.prune(CNN, tmp_path / "half.onnx", ratio=0.3, cast="fp16", check=False)
    made = onnxprune.repair_model(CNN, tmp_path / "half.onnx", calib=CALIB, samples=128, check=False)
    assert not made.report.repair.left_out and len(made.report.repair.layers) == 5
    assert (made.report.repair.error_after or 1) < 0.5 * (made.report.repair.error_before or 0)
    assert arrays(made.proto)["conv1.weight"].dtype == np.float16


def test_a_candidate_of_integers_is_compared_in_floats(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    onnxprune.prune(CNN, path, ratio=0.3, calib=CALIB, samples=128, repair="none", then_quantize="int8", check=False)
    report = onnxprune.repair_model(CNN, path, calib=CALIB, samples=128).report
    assert report.error_after is not None and report.repair.improved and len(report.repair.layers) == 5
    assert report.repair.error_after == pytest.approx(report.error_after.relative_l2, rel=1e-3)


def test_tuned_and_reordered_channels_are_found() -> None:
    """Weights that are not the original's any more, in another order: only what the channels do is known."""
    original, order = network(), np.random.default_rng(2).permutation(16)[:10]
    w, rng = arrays(original), np.random.default_rng(3)
    cut = {name: w[name][order] for name in ("w0", "gamma0", "beta0", "mean0", "var0")} | {"w1": w["w1"][:, order]}
    tuned = with_arrays(original, {n: x * rng.uniform(0.9, 1.1, x.shape) for n, x in cut.items()})
    exact = with_arrays(original, cut)
    del tuned.graph.value_info[:]
    (before, after), (_, best) = errors(original, tuned), errors(original, exact)
    assert after < 1.02 * best < 0.5 * before


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_zeros_stay_zero_and_the_error_falls(share: float) -> None:
    original = network()
    candidate = masked(original, share)
    made = onnxprune.repair_model(original, candidate, calib=PICTURES, check=False)
    before, after = made.report.repair.error_before, made.report.repair.error_after
    assert before is not None and after is not None and after < 0.7 * before
    new = arrays(made.proto)
    for name, w in arrays(candidate).items():
        assert w.ndim < 2 or np.array_equal(w == 0, new[name] == 0), name
    assert any(not np.array_equal(w, new[name]) for name, w in arrays(candidate).items())


def test_masked_channels_stay_dead() -> None:
    original = folded(network())
    w = arrays(original)
    dead = np.arange(16) < 6
    bias = next(n.input[2] for n in original.graph.node if n.name == "conv0")
    candidate = with_arrays(original, {"w0": w["w0"] * ~dead[:, None, None, None], bias: w[bias] * ~dead})
    made = arrays(onnxprune.repair_model(original, candidate, calib=PICTURES, check=False).proto)
    assert not made[bias][dead].any() and not made["w0"][dead].any() and made["w0"][~dead].all()


def test_the_same_candidate_gives_the_same_bytes(tmp_path: Path) -> None:
    original, candidate = network(), pruned(network())
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        onnxprune.repair_model(original, candidate, file, calib=PICTURES, check=False)
    assert files[0].read_bytes() == files[1].read_bytes()


# what is left


def test_a_layer_whose_channels_cannot_be_told_is_left_and_reported() -> None:
    original = network((16, 12))
    w, rng = arrays(original), np.random.default_rng(4)
    other = {"w1": rng.normal(size=(6, 16, 3, 3)), "w": w["w"][:6]} | {
        f"{name}1": w[f"{name}1"][:6] for name in ("gamma", "beta", "mean", "var")
    }
    report = onnxprune.repair_model(original, with_arrays(original, other), calib=PICTURES).report
    assert list(report.repair.left_out) == ["conv1"] and "unknown" in report.repair.left_out["conv1"]
    assert [layer.name for layer in report.repair.layers] == ["conv0", "head"] and report.repair.improved


def test_an_equal_candidate_is_left_as_it_is(tmp_path: Path) -> None:
    result = call("repair", CNN, CNN, "-o", tmp_path / "o.onnx", "--calib", CALIB, "--samples", 64)
    assert result.exit_code == 0 and "the outputs are the original's" in result.stdout
    before, after = (arrays(onnx.load(path)) for path in (CNN, tmp_path / "o.onnx"))
    assert before.keys() == after.keys() and all(np.array_equal(w, after[name]) for name, w in before.items())


def test_what_nothing_makes_better_is_no_success(tmp_path: Path) -> None:
    dead, out = tmp_path / "dead.onnx", tmp_path / "o.onnx"
    proto = onnx.load(CNN)
    onnx.save(with_arrays(proto, {name: 0 * w for name, w in arrays(proto).items()}), dead)
    result = call("repair", CNN, dead, "-o", out, "--calib", CALIB, "--samples", 64)
    assert result.exit_code == 1 and "nothing was repaired" in result.stderr and "candidate's weights" in result.stderr
    assert not any(w.any() for w in arrays(onnx.load(out)).values())


# the command


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    candidate, out, report = (tmp_path / name for name in ("pruned.onnx", "o.onnx", "r.json"))
    onnxprune.prune(CNN, candidate, ratio=0.5, check=False, repair="none")
    args = ("repair", CNN, candidate, "-o", out, "--calib", CALIB, "--data", TEST)
    result = call(*args, "--report", report)
    assert result.exit_code == 0, result.output
    for said in ("/conv2/Conv", "4 of 5 layers: relative L2 1.1", "accuracy before", f"wrote {out}"):
        assert said in result.stdout
    data = json.loads(report.read_text())
    assert data["error_after"]["accuracy"]["after"] > 0.98 > 0.5 > data["error_before"]["accuracy"]["after"]
    assert data["error_after"]["top1_agreement"] > 0.98 and data["repair"]["kept"] == 5
    quiet = json.loads(call(*args[:-2], "--no-validate", "--json").stdout)
    assert call(*args, "--memory", "1MB", "--quiet").exit_code == 0
    assert quiet["error_before"] is None and quiet["repair"]["error_after"] < quiet["repair"]["error_before"]


def test_bad_input_gets_a_line(tmp_path: Path) -> None:
    out, other = tmp_path / "o.onnx", tmp_path / "other.onnx"
    args = ("-o", out, "--calib", CALIB)
    fails(
        call("repair", CNN, MODELS / "digits_resnet.onnx", *args), "of its 23 layers have a counterpart in the original"
    )
    fails(call("repair", CNN, tmp_path / "none.onnx", *args), "none.onnx: No such file")
    fails(call("repair", CNN, CNN, "-o", out), "missing option '--calib'")
    fails(call("repair", CNN, CNN, "-o", CNN, "--calib", CALIB), "is the input")
    fails(call("repair", CNN, CNN, "-o", out, "--calib", tmp_path / "none.npz"), "none.npz")
    onnx.save(network(), other)
    fails(call("repair", CNN, other, *args), "candidate: its inputs are ['x'], the original's ['image']")
    assert not out.exists()


def test_other_inputs_and_outputs_are_refused() -> None:
    original, wide = network(), network()
    wide.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    with pytest.raises(OnnxPruneError, match=r"candidate: input 'x' is float32 \[N, 4, 8, 8\], the original's"):
        onnxprune.repair_model(original, wide, calib=PICTURES)
    with pytest.raises(OnnxPruneError, match=r"candidate: its outputs are \['z'\], the original's \['y'\]"):
        onnxprune.repair_model(original, network(outputs="z"), calib=PICTURES)


def test_neither_model_is_written_over(tmp_path: Path) -> None:
    paths = tmp_path / "original.onnx", tmp_path / "candidate.onnx"
    for path, proto in zip(paths, (network(), pruned(network())), strict=True):
        onnx.save(proto, path)
    for path in paths:
        with pytest.raises(OutputError, match="choose another name"):
            onnxprune.repair_model(*paths, path, calib=PICTURES, check=False)


# channels


def test_channels_are_told_by_how_they_move() -> None:
    rng = np.random.default_rng(5)
    wanted = rng.normal(size=(2000, 12)) @ rng.normal(size=(12, 12))
    kept = np.array([1, 2, 5, 7, 11])
    noisy = wanted + 0.3 * rng.normal(size=wanted.shape)
    assert match_channels(noisy[:, kept], wanted).tolist() == kept.tolist()  # type: ignore[union-attr]
    assert match_channels(noisy[:, kept[::-1]], wanted).tolist() == kept[::-1].tolist()  # type: ignore[union-attr]
    assert match_channels(noisy[:, ::-1], wanted).tolist() == list(range(12))[::-1]  # type: ignore[union-attr]
    unrelated = rng.normal(size=(2000, 12))
    assert match_channels(unrelated, wanted).tolist() == list(range(12))  # type: ignore[union-attr]
    assert match_channels(unrelated[:, :5], wanted) is None
    assert match_channels(np.zeros((2000, 5)), wanted) is None
    assert match_channels(wanted, wanted[:, :5]) is None


def test_columns_are_assigned_once_and_the_best_in_order() -> None:
    for seed in range(20):
        alike = np.random.default_rng(seed).normal(size=(3, 6))
        free, ordered = assign(alike), assign_in_order(alike)
        assert len(set(free)) == 3 and (np.diff(ordered) > 0).all()
        every = [(a, b, c) for a in range(6) for b in range(a + 1, 6) for c in range(b + 1, 6)]
        assert tuple(ordered) == max(every, key=lambda columns: alike[np.arange(3), list(columns)].sum())
