"""Patterns, methods and masks: what stays is the most that may, what goes is made up for, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import run_ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sparse_checker import operands, violations
from tiny import linear, model, tensor
from typer.testing import CliRunner, Result

import onnxprune
from onnxprune.cli import commands
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.forms import Form, Misfit, regroup, start
from onnxprune.graph.save import build_full_proto
from onnxprune.graph.weights import ArrayWeight
from onnxprune.repair.support import fit_on
from onnxprune.sparsity import Sparsity, masked_weights, sparsify
from onnxprune.sparsity.masked_weights import MaskedWeight, Numbers
from onnxprune.sparsity.methods import METHODS
from onnxprune.sparsity.patterns import NAMED, KernelShapes, NofM, Pattern, Units, mask_largest, parse
from onnxprune.sparsity.threshold import find_threshold

Array = NDArray[Any]
MODELS = Path(__file__).parent.parent / "models"
CNN, CALIB, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
RESNET = MODELS / "digits_resnet.onnx"
SHAPES = ["2:4", "1:4", "4:8", "3:5", "2:20", "1x4", "4x1", "4x4", "16x16", "4of9", *NAMED]


def scores(*shape: int, seed: int = 0) -> Array:
    return np.abs(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def call(*args: object) -> Result:
    return CliRunner().invoke(commands(), [str(a) for a in args])


# where numbers are


@given(st.data())
def test_a_form_shows_what_transposes_and_reshapes_make(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))
    array, axes = np.arange(np.prod(shape)).reshape(shape), start(shape)
    moved = array
    for _ in range(data.draw(st.integers(0, 3))):
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(moved.ndim)))
            moved, axes = moved.transpose(perm), [axes[p] for p in perm]
        else:
            new = data.draw(
                st.sampled_from([[*moved.shape, 1], [1, *moved.shape], _merged(moved.shape), _split(moved.shape)])
            )
            try:
                axes = regroup(axes, new)
            except Misfit:
                return
            moved = moved.reshape(new)
    inputs = data.draw(st.integers(0, moved.ndim - 1))
    outputs = [a for a in range(moved.ndim) if a != inputs][:1]
    form = Form.of(axes, [inputs], outputs, shape)
    seen = form.view(array)
    assert np.array_equal(form.back(seen), array)
    want = np.moveaxis(moved, inputs, -1).reshape(-1, moved.shape[inputs])
    got = np.moveaxis(seen, 2, -1).reshape(-1, seen.shape[2])
    assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, want.tolist()))


def _merged(shape: tuple[int, ...]) -> list[int]:
    return [shape[0] * shape[1], *shape[2:]] if len(shape) > 1 else list(shape)


def _split(shape: tuple[int, ...]) -> list[int]:
    return [n for s in shape for n in ((2, s // 2) if s % 2 == 0 else (s,))]


@pytest.mark.parametrize("inputs", [0, 1, 2])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e5m2, np.int8]
)
def test_a_weight_is_masked_in_parts_as_it_is_at_once(inputs: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    array = (20 * np.random.default_rng(0).standard_normal((26, 24, 30))).astype(dtype)
    form = Form.of(start(array.shape), [inputs], [0 if inputs else 1], array.shape)
    pattern = parse("2:4")
    whole = MaskedWeight(ArrayWeight(array), form, pattern)
    once, tally = whole.array(), whole.tally
    monkeypatch.setattr(masked_weights, "BLOCK_BYTES", 5000)
    parts = [p.size for p in whole.parts()]
    assert len(parts) > 3 and sum(parts) == array.size
    assert np.array_equal(whole.array().view(np.uint8), once.view(np.uint8))
    assert (whole.tally.nonzero, whole.tally.weights) == (tally.nonzero, array.size)
    assert whole.tally.nonzero == np.count_nonzero(once) < whole.tally.nonzero_before == np.count_nonzero(array)
    assert whole.tally.kept_magnitude == pytest.approx(tally.kept_magnitude, rel=1e-5)
    rows = np.moveaxis(once, inputs, -1).astype(np.float32)
    assert violations(rows, 2, 4) == 0
    best = np.sort(np.abs(np.moveaxis(array, inputs, -1)[..., :24].astype(np.float64)).reshape(-1, 4), axis=1)[
        :, 2:
    ].sum()
    assert np.abs(rows[..., :24].astype(np.float64)).sum() == pytest.approx(best, rel=1e-6)
    assert b"".join(map(bytes, whole.pieces())) == bytes(whole.raw())


# patterns


@pytest.mark.parametrize("name", SHAPES)
def test_what_stays_has_the_pattern_and_anything_more_breaks_it(name: str) -> None:
    pattern, s = parse(name), scores(1, 24, 18, 9)
    keep = pattern.keep(s)
    assert keep.shape == s.shape and keep.dtype == bool
    assert pattern.broken(keep) == 0 and pattern.broken(np.ones_like(keep)) > 0
    assert 0.02 < keep.mean() < 0.7
    assert pattern.name == name and pattern.runs_on and parse(pattern.name).keep(s).tolist() == keep.tolist()
    assert (s * keep).sum() > keep.mean() * s.sum()  # more than chance


@pytest.mark.parametrize("n", [1, 2, 3])
def test_n_of_m_keeps_the_most_and_the_first_of_equals(n: int) -> None:
    s = np.array([[3, 1, 3, 3], [0, 0, 0, 0], [1, 2, 2, 1]], np.float32)[None, :, :, None]
    keep = NofM(n, 4).keep(s)[0, :, :, 0]
    assert (keep.sum(axis=1) == n).all()
    assert np.array_equal(np.flatnonzero(keep[0]), [[0], [0, 2], [0, 2, 3]][n - 1])
    assert np.array_equal(np.flatnonzero(keep[1]), range(n))


def test_wide_groups_are_ranked_as_narrow_ones_are() -> None:
    s = scores(2, 3, 40, 2).round(1)  # with equal ones
    narrow, wide = NofM(3, 10).keep(s), NofM(3, 20).keep(s)
    for keep, m in ((narrow, 10), (wide, 20)):
        groups = (s * keep).transpose(0, 1, 3, 2).reshape(-1, m)
        best = np.sort(s.transpose(0, 1, 3, 2).reshape(-1, m), axis=1)[:, -3:].sum(axis=1)
        assert np.allclose(groups.sum(axis=1), best)


@pytest.mark.parametrize(
    ("name", "axes"), [("kernel", (3,)), ("stripe", (2,)), ("filter", (2, 3)), ("shared-kernel", (1,))]
)
def test_units_go_as_a_whole_and_the_least_go(name: str, axes: tuple[int, ...]) -> None:
    s = scores(1, 8, 6, 9)
    keep = parse(name, 0.25).keep(s)
    whole = keep.all(axis=axes)
    assert np.array_equal(whole, keep.any(axis=axes))
    worth = s.mean(axis=axes)
    assert (~whole).sum() == whole.size // 4 and worth[~whole].max() <= worth[whole].min()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_what_is_no_number_is_not_hidden_by_a_zero(scope: str) -> None:
    w = scores(8, 8)
    w[2, 3], w[5, 1] = np.nan, np.inf
    a = onnxprune.analyze(linear(w))
    out = build_full_proto(sparsify(a, Sparsity(pattern="unstructured", scope=scope, layers="all")).model)
    left = numpy_helper.to_array(out.graph.initializer[0])
    assert np.isnan(left[2, 3]) and np.isinf(left[5, 1]) and (left != 0).sum() == 32


def test_blocks_at_the_edges_are_smaller_and_compete_all_the_same() -> None:
    s = np.ones((1, 6, 6, 1), np.float32)
    s[:, 4:, 4:] = 9  # the corner, 2 x 2 of a 4 x 4 block, is worth most
    keep = parse("4x4", 0.75).keep(s)
    assert keep.sum() == 4 and keep[0, 4:, 4:].all()


def test_kernel_shapes_are_few_and_have_k_positions() -> None:
    keep = KernelShapes(4, 9).keep(scores(1, 32, 16, 9)).reshape(-1, 9)
    assert (keep.sum(axis=1) == 4).all() and len(np.unique(keep, axis=0)) <= 8


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=40), st.integers(0, 40))
def test_the_largest_are_so_many_and_the_largest(values: list[float], count: int) -> None:
    x = np.array(values, np.float32)
    keep = mask_largest(x, min(count, len(x)))
    assert keep.sum() == min(count, len(x))
    assert not keep.any() or keep.all() or x[keep].min() >= x[~keep].max()


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(1, 4))
def test_the_threshold_of_many_is_that_of_all_at_once(values: list[float], fraction: float, pieces: int) -> None:
    x = np.array(values, np.float32)

    def parts() -> Iterator[Array]:
        yield from np.array_split(x, pieces)

    limit, room = find_threshold(parts, fraction), int(fraction * len(x))
    assert (x <= limit).sum() <= room
    above = x[x > limit]
    assert not above.size or (x <= above.min()).sum() > room  # the next larger number would be too many


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "2-4", "1x1", "9of9", "", "x", "2:400"])
def test_a_pattern_that_is_none_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(OnnxPruneError, match=r"pattern|sparsity"):
        parse(text)


# methods


def layer(inputs: int, outputs: int, rows: int = 600, seed: int = 0) -> tuple[Array, Array, Array]:
    """Inputs of a layer that depend on each other and are not all equally large, their Gram matrix, and weights."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ (rng.standard_normal((inputs, inputs)) / inputs**0.5 + np.eye(inputs))
    x *= np.exp(rng.standard_normal(inputs))
    gram = (x.T @ x)[None]
    return x, gram, rng.standard_normal((1, inputs, outputs))


def error(x: Array, w: Array, new: Array) -> float:
    return float(np.linalg.norm(x @ (new[0] - w[0])) / np.linalg.norm(x @ w[0]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", [NofM(2, 4), NofM(4, 8), NofM(1, 4)], ids=lambda p: p.name)
def test_the_more_a_method_knows_the_smaller_the_error(pattern: NofM, seed: int) -> None:
    x, gram, w = layer(36, 16, seed=seed)
    errors = []
    for name in ("magnitude", "wanda", "sparsegpt"):
        keep, new = METHODS[name](pattern, 1, gram, w)
        assert pattern.broken(keep.transpose(0, 2, 1)[..., None]) == 0 and not new[~keep].any()
        errors.append(error(x, w, new))
    assert errors[0] > errors[1] > errors[2] and errors[2] < errors[0] * 2 / 3


@pytest.mark.parametrize("name", ["unstructured", "4x4", "stripe", "4of9"])
def test_other_patterns_are_chosen_by_what_they_cost(name: str) -> None:
    x, gram, w = layer(36, 16)
    pattern = parse(name)
    found = {m: METHODS[m](pattern, 9, gram, w) for m in METHODS}
    assert error(x, w, found["sparsegpt"][1]) < error(x, w, found["magnitude"][1])


def test_sparsegpt_of_one_group_is_optimal() -> None:
    """Four inputs, two of which stay: no pair with any weights does better."""
    x, gram, w = layer(4, 30)
    _, new = METHODS["sparsegpt"](NofM(2, 4), 1, gram, w)
    costs = np.linalg.norm(x @ (new[0] - w[0]), axis=0)
    y = x @ w[0]
    best = np.full(30, np.inf)
    for i in range(4):
        for j in range(i):
            fitted = np.linalg.lstsq(x[:, [i, j]], y, rcond=None)[0]
            best = np.minimum(best, np.linalg.norm(x[:, [i, j]] @ fitted - y, axis=0))
    assert np.isclose(costs, best, rtol=0.02).mean() > 0.9 and (costs >= best - 1e-9).all()  # it damps a little


@pytest.mark.parametrize("outputs", [1, 7])
def test_least_squares_on_a_support_is_that_of_each_output_alone(outputs: int) -> None:
    x, gram, w = layer(20, outputs)
    keep = np.random.default_rng(1).random(w.shape) < 0.5
    got = fit_on(keep, gram, gram @ w, w * keep)
    for o in range(outputs):
        on = keep[0, :, o]
        want = np.linalg.lstsq(x[:, on], x @ w[0, :, o], rcond=None)[0]
        assert np.allclose(got[0, on, o], want, rtol=1e-3, atol=1e-5) and not got[0, ~on, o].any()


# whole models


def test_calibration_and_repair_keep_what_magnitude_loses(tmp_path: Path) -> None:
    plain = onnxprune.sparsify(RESNET, tmp_path / "a.onnx", layers="eligible", data=TEST)
    fitted = onnxprune.sparsify(
        RESNET, tmp_path / "b.onnx", layers="eligible", data=TEST, calib=CALIB, samples=200, permute=True
    )
    for made in (plain, fitted):
        proto = onnx.load(made.files[0])
        rows = {x.name: x for x in made.report.sparsity.layers}
        for name, w in operands(proto).items():
            assert rows[name].sparse == (violations(w, 2, 4) == 0) or w.shape[-1] <= 2, name
    errors = [m.report.error.relative_l2 for m in (plain, fitted)]
    assert errors[1] < errors[0] / 2
    accuracy = fitted.report.error.accuracy
    assert accuracy.after > accuracy.before - 0.01
    chosen = [x for x in fitted.report.sparsity.layers if x.sparse]
    assert {x.method for x in chosen} == {"sparsegpt"} and all(x.error < 0.6 for x in chosen)
    assert all(0.5 < x.kept_magnitude < 1 and x.zeros == pytest.approx(0.5, abs=0.01) for x in chosen)
    gains = fitted.report.sparsity.permuted
    assert gains and all(g.after > g.before for g in gains)


def test_a_permutation_changes_no_output_and_a_mask_after_it_keeps_more() -> None:
    analysis = onnxprune.analyze(RESNET)
    plain = sparsify(analysis, Sparsity(layers="eligible"))
    found = sparsify(analysis, Sparsity(layers="eligible", permute=True))
    assert found.plan is not None
    permuted = onnxprune.apply(analysis, found.plan)
    name = analysis.model.proto.graph.input[0].name
    feeds = {name: np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)}
    (a,), (b,) = run_ort(onnx.load(RESNET), [feeds])[0], run_ort(build_full_proto(permuted), [feeds])[0]
    assert np.allclose(a, b, atol=1e-4)
    for s in (plain, found):
        s.measure()
    kept = [sum(x.tally.kept_magnitude for x in s.layers if x.tally) for s in (plain, found)]
    assert kept[1] > kept[0] * 1.003


def test_errors_of_layers_know_the_permutation(tmp_path: Path) -> None:
    """One layer changes, and channels change places all over the network: the layers before it have no error."""
    made = onnxprune.sparsify(
        RESNET, tmp_path / "o.onnx", layers="all", target="none", include=["node_linear", "node_conv2d_14"],
        permute=True, method="magnitude", repair="none", calib=CALIB, samples=32,
    )  # fmt: skip
    assert len(made.report.sparsity.permuted) == 2
    errors = {x.name: x.relative_l2 for x in made.report.reconstruction.layers}
    names = list(errors)
    before = names[: names.index("node_conv2d_14")]
    assert "node_conv2d_13" in before and max(errors[n] for n in before) < 1e-5
    assert 0 < errors["node_conv2d_14"] < 0.5
    result = call("validate", RESNET, made.files[0], "--data", CALIB, "--json")  # which is told of no permutation
    seen = {x["name"]: x["relative_l2"] for x in json.loads(result.stdout)["reconstruction"]["layers"]}
    assert seen == pytest.approx(errors, abs=5e-3)  # on more samples


def test_groups_that_a_nan_reads_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((8, 8)).astype(np.float32) for n in ("w1", "w2", "w3")}
    weights["w2"][3, 3] = np.nan
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]), helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 8])], weights)
    found = sparsify(onnxprune.analyze(proto), Sparsity(layers="all", target="none", permute=True))
    assert set(found.gains) <= {"w2"}  # the group that w3 reads


def test_pruned_and_then_sparse_in_one_run(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = call("prune", RESNET, "-o", out, "--macs", 0.7, "--calib", CALIB, "--samples", 200, "--then-sparsify", "2:4",
                  "--permute", "--layers", "eligible", "--data", TEST, "--steps", 1, "--allocation", "uniform")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2:4 in" in result.stdout
    widths = [w.shape[0] for w in operands(onnx.load(out)).values()]
    assert all(n % 4 == 0 for n in widths[:-1])
    checked = call("validate", out, "--pattern", "2:4", "--layers", "eligible")
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("name", ["4x4", "shared-kernel", "unstructured", "2:4"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_groups_of_a_convolution_are_fitted_in_the_pattern_of_the_whole_weight(
    op: str, name: str, tmp_path: Path
) -> None:
    """Blocks go across its groups, of three outputs; so do runs of four inputs, where it is a transposed one."""
    shape = (12, 6, 3, 3) if op == "Conv" else (12, 3, 3, 3)
    node = helper.make_node(op, ["x", "w"], ["y"], group=2)
    inputs = 12
    size = 4 if op == "Conv" else 8
    source = model([node], [tensor("x", ["N", inputs, 6, 6])], [tensor("y", ["N", shape[0] if op == "Conv" else 6, size, size])],
                   {"w": scores(*shape) - 0.5})  # fmt: skip
    calib = [{"x": scores(8, inputs, 6, 6, seed=i)} for i in range(4)]
    made = onnxprune.sparsify(source, tmp_path / "o.onnx", pattern=name, layers="all", calib=calib, check=False)
    (row,) = made.report.sparsity.layers
    w = numpy_helper.to_array(onnx.load(made.files[0]).graph.initializer[0])
    assert row.zeros == pytest.approx((w == 0).mean(), abs=1e-6)
    plain = onnxprune.sparsify(source, tmp_path / "p.onnx", pattern=name, layers="all", check=False)
    assert row.zeros == pytest.approx(plain.report.sparsity.layers[0].zeros, abs=0.03)  # some blocks are smaller


@pytest.mark.parametrize("calib", [(), ("--calib", CALIB, "--samples", 20)])
def test_merging_channels_is_no_repair_of_single_weights(calib: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = call("prune", RESNET, "-o", out, "--ratio", 0.2, "--then-sparsify", "2:4", "--repair", "merge", *calib)
    assert result.exit_code == 2 and "choose another --repair" in result.stderr and not any(tmp_path.iterdir())
    result = call("sparsify", RESNET, "-o", out, "--all", "--repair", "merge", *calib)
    assert result.exit_code == 2 and "unknown repair 'merge'; choose one of none, bias" in result.stderr


@pytest.mark.parametrize("name", ["unstructured", "4x4", "1x4", "stripe", "kernel", "filter", "shared-kernel", "4of9"])
def test_every_granularity_is_written_and_checked(name: str, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    share = () if "of" in name else ("--sparsity", 0.4)
    made = call("sparsify", RESNET, "-o", out, "--pattern", name, *share, "--no-validate")
    assert made.exit_code == 0, made.output
    assert call("validate", out, "--pattern", name, "--sparsity", 0.4).exit_code == 0
    assert call("validate", RESNET, "--pattern", name, "--sparsity", 0.4).exit_code == 1


@pytest.mark.parametrize("calib", [None, CALIB])
def test_layers_compete_where_that_is_asked_for(calib: Path | None, tmp_path: Path) -> None:
    made = onnxprune.sparsify(
        RESNET,
        tmp_path / "o.onnx",
        pattern="unstructured",
        sparsity=0.6,
        scope="global",
        calib=calib,
        samples=20,
        check=False,
    )
    layers = [x for x in made.report.sparsity.layers if x.sparse]
    zeros = [x.zeros for x in layers]
    total = sum(z * x.params for z, x in zip(zeros, layers, strict=True)) / sum(x.params for x in layers)
    assert total == pytest.approx(0.6, abs=1e-3) and max(zeros) - min(zeros) > 0.1


@pytest.mark.parametrize("chosen", ["vwr", "vr", "vw"])
def test_both_matrices_of_a_recurrent_layer_are_told_apart(chosen: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("GRU", ["h", "w", "r"], ["", "y"], hidden_size=8, name="gru"),
    ]
    weights = {"v": scores(12, 12) - 0.5, "w": scores(1, 24, 12) - 0.5, "r": scores(1, 24, 8) - 0.5}
    source = model(nodes, [tensor("x", [4, 2, 12])], [tensor("y", [1, 2, 8])], weights)
    batches = [{"x": scores(4, 2, 12, seed=i)} for i in range(8)]
    for repair in ("lstsq", "none"):
        made = onnxprune.sparsify(
            source, tmp_path / "o.onnx", layers="all", include=list(chosen), calib=batches, repair=repair, check=False
        )
        out = {t.name: numpy_helper.to_array(t) for t in onnx.load(made.files[0]).graph.initializer if len(t.dims) > 1}
        rows = {x.tensor: x for x in made.report.sparsity.layers}
        for name, w in out.items():
            assert (w == 0).mean() == (0.5 if name in chosen else 0) and rows[name].zeros == (
                0.5 if name in chosen else None
            )
        assert rows["r"].method == ("magnitude" if "r" in chosen else None) and rows["r"].error is None
        assert rows["w"].method == ("sparsegpt" if "w" in chosen else None)


def test_data_that_make_no_numbers_fit_nothing(tmp_path: Path) -> None:
    """An infinite input makes the Gram matrix of no use: the layer goes by magnitude, and gets no NaN.

    Arrays in files are refused before (test_mistakes.py); batches from Python are not looked at.
    """
    x = scores(64, 16)
    x[3, 5] = np.inf
    onnx.save(linear(scores(16, 8)), tmp_path / "m.onnx")
    made = onnxprune.sparsify(tmp_path / "m.onnx", tmp_path / "o.onnx", layers="all", calib=[x], check=False)
    (w,) = operands(onnx.load(made.files[0])).values()
    assert np.isfinite(w).all() and violations(w, 2, 4) == 0
    assert [x.method for x in made.report.sparsity.layers] == ["magnitude"]
    assert "not finite" in str(made.report.repair.left_out)


def test_a_dry_run_with_data_only_says_what_magnitude_would_do(tmp_path: Path) -> None:
    result = call("sparsify", RESNET, "--all", "--calib", CALIB, "--dry-run")
    assert result.exit_code == 0 and "chosen by" in result.stdout and "magnitude" in result.stdout, result.output


def test_a_comparison_and_a_check_are_one_json(tmp_path: Path) -> None:
    onnx.save(linear(scores(16, 8)), tmp_path / "m.onnx")
    result = call("validate", tmp_path / "m.onnx", tmp_path / "m.onnx", "--pattern", "2:4", "--layers", "all", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and report["sparsity"]["holds"] is False and "measures" in report


# what stops it


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--pattern", "3:2"), "expected N:M with 0 < N < M"),
        (("--pattern", "two:four"), "pattern 'two:four' is unknown"),
        (("--method", "wanda"), "give inputs with --calib"),
        (("--method", "best"), "unknown method 'best'; choose one of magnitude, wanda, sparsegpt"),
        (("--pattern", "4:8", "--target", "tensorrt"), "2:4 only"),
        (("--scope", "global"), "layers do not compete"),
        (("--pattern", "4x4", "--permute"), "leave --permute out"),
        (("--sparsity", 1.5, "--pattern", "4x4"), "sparsity 1.5"),
        (("--layers", "some"), "unknown layers 'some'"),
        (("--all", "--layers", "likely"), "contradict"),
        (("--pattern", "4:8", "--layers", "likely"), "asks a target that has kernels for 4:8, and there is none"),
        (("--sparsity", 0.9), "implies the fraction of zeros"),
        (("--repair", "lstsq"), "give inputs with --calib"),
        (("--pattern", "unstructured", "--scope", "global", "--repair", "lstsq", "--calib", CALIB), "are not repaired"),
        (("--include", "nobody*"), "no layer matches 'nobody*'"),
        (("--cast", "fp4"), "unknown cast 'fp4'"),
        (("--samples", 5), "--samples is the number of --calib inputs"),
    ],
)
def test_what_cannot_be_is_one_line(args: tuple[object, ...], said: str, tmp_path: Path) -> None:
    result = call("sparsify", RESNET, "-o", tmp_path / "o.onnx", *args)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1, result.output
    assert not any(tmp_path.iterdir())


def test_a_model_on_which_nothing_would_be_faster_says_so(tmp_path: Path) -> None:
    result = call("sparsify", RESNET, "-o", tmp_path / "o.onnx")
    assert result.exit_code == 0 and "nothing was made sparse" in result.stderr
    assert "'--layers eligible' takes every layer that the target can run" in result.stderr
    checked = call("validate", tmp_path / "o.onnx", "--pattern", "2:4")
    assert checked.exit_code == 1
    assert "'--layers eligible' or '--layers all' checks more" in checked.stderr


@pytest.mark.parametrize(("which", "said"), [("eligible", "'--layers all' checks more"), ("all", "must have 2:4\n")])
def test_no_advice_is_what_was_given(which: str, said: str, tmp_path: Path) -> None:
    onnx.save(
        model([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", [2])], [tensor("y", [2])]), tmp_path / "m.onnx"
    )
    result = call("validate", tmp_path / "m.onnx", "--pattern", "2:4", "--layers", which)
    assert result.exit_code == 1
    assert said in result.stderr and f"'--layers {which}'" not in result.stderr


def test_every_pattern_is_a_pattern() -> None:
    for name in SHAPES:
        pattern: Pattern = parse(name)
        assert isinstance(pattern, NofM | Units | KernelShapes)
    assert isinstance(Numbers().sizes(np.array([-1.5], np.float32)), np.ndarray)
