"""Text that a model writes itself: drawn from its own probabilities, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from laws import run_ort
from onnx import TensorProto, helper
from test_cli import call, fails
from tiny import model, tensor

import onnxprune
from onnxprune.calibration.data import Stored
from onnxprune.calibration.own import write_text
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.caches import find_caches
from onnxprune.graph.io import load

Array = np.ndarray[Any, Any]
MODELS = Path(__file__).parents[1] / "models"
V, WORDS = 5, 80  # tokens; a table of positions is shorter
IDS = TensorProto.INT64


def bigrams(batch: Any = "batch", length: Any = "seq") -> onnx.ModelProto:
    """The scores of the next token are a row of a table: what comes next depends on the last token alone."""
    table = 2 * np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["logits"])]
    inputs, outputs = [tensor("ids", [batch, length], IDS)], [tensor("logits", [batch, length, V])]
    return model(nodes, inputs, outputs, {"table": table})


def network(positions: int = 12) -> onnx.ModelProto:
    """An embedding, positions that end, a mask, a product and a Relu that can be pruned."""
    rng = np.random.default_rng(1)
    shapes = {"e": (WORDS, 8), "p": (positions, 8), "w1": (8, 16), "w2": (16, WORDS)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Gather", ["e", "ids"], ["a"]),
        helper.make_node("Gather", ["p", "position_ids"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "w1"], ["d"]),
        helper.make_node("Relu", ["d"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["z"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "axis"], ["n"]),
        helper.make_node("Mul", ["z", "n"], ["logits"]),
    ]
    weights["axis"] = np.array([2])
    names = ("ids", "position_ids", "attention_mask")
    inputs = [tensor(name, ["batch", "seq"], IDS) for name in names]
    return model(nodes, inputs, [tensor("logits", ["batch", "seq", WORDS])], weights)


def texts(proto: onnx.ModelProto, **how: Any) -> Array:
    found = write_text(load(proto), **how)
    assert isinstance(found, Stored)
    ids = found.columns["ids"]
    assert isinstance(ids, np.ndarray)
    return ids


def test_tokens_come_as_often_as_the_model_says() -> None:
    proto = bigrams()
    written = texts(proto, texts=64, length=200)
    table = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    expected = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    counts = np.zeros((V, V))
    np.add.at(counts, (written[:, :-1].ravel(), written[:, 1:].ravel()), 1)
    rows = counts.sum(1, keepdims=True)
    assert np.abs(counts - rows * expected).max() < 5 * np.sqrt(rows * expected * (1 - expected)).max()


def test_the_same_seed_writes_the_same() -> None:
    first, second, other = (texts(bigrams(), texts=40, length=20, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (40, 20)
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert len({row.tobytes() for row in first}) > 30


def test_texts_begin_with_the_token_that_is_said_or_with_any() -> None:
    assert set(texts(bigrams(), texts=40, length=4, start=2)[:, 0]) == {2}
    assert set(texts(bigrams(), texts=40, length=4)[:, 0]) == set(range(V))


@pytest.mark.parametrize(("batch", "length", "shape"), [(3, "seq", (9, 6)), ("batch", 7, (8, 7)), (2, 7, (8, 7))])
def test_static_sizes_are_kept(batch: Any, length: Any, shape: tuple[int, int]) -> None:
    written = texts(bigrams(batch, length), texts=8, length=6)
    assert written.shape == shape
    if length == 7:  # the same tokens as where shorter texts are read: what stands behind a position does not count
        np.testing.assert_array_equal(written, texts(bigrams(batch), texts=8, length=7))


def test_other_inputs_are_masks_and_positions_and_texts_are_as_long_as_the_model_takes() -> None:
    found = write_text(load(network()), texts=4)
    assert isinstance(found, Stored)
    assert found.columns["ids"].shape == (4, 8)  # of 12 positions: 256 / 2 / 2 / ..
    assert (found.columns["attention_mask"][...] == 1).all()
    assert (found.columns["position_ids"][...] == np.arange(8)).all()


def test_prune_on_its_own_text(tmp_path: Path) -> None:
    path, made = tmp_path / "m.onnx", list[bytes]()
    onnx.save(network(64), path)
    for name in ("a.onnx", "b.onnx"):
        out = tmp_path / name
        typed = ("--calib", "self", "--samples", "12", "--text-length", "10", "--start-token", "1", "--params", "0.7")
        report = json.loads(call("prune", str(path), "-o", str(out), *typed, "--json").stdout)
        assert report["calibration"]["data"].startswith("the model's own text")
        assert report["repair"]["error_after"] < report["repair"]["error_before"]
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_a_model_of_pictures_draws_scenes() -> None:
    made = onnxprune.prune(MODELS / "digits_cnn.onnx", calib="self", samples=24, macs=0.6)
    assert made.report.calibration is not None
    assert made.report.calibration.samples == 24
    assert "scenes" in made.report.calibration.data


def test_a_recipe_may_ask_for_it(tmp_path: Path) -> None:
    onnx.save(network(64), tmp_path / "m.onnx")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('models = ["m.onnx"]\n[settings]\ncalib = "self"\nsamples = 6\ntext_length = 8\nparams = 0.7\n')
    call("batch", str(recipe), "-o", str(tmp_path / "out"))
    assert list((tmp_path / "out").rglob("*.onnx"))


def test_mistakes() -> None:
    path = str(MODELS / "digits_cnn.onnx")
    with pytest.raises(OnnxPruneError, match="start-token is 5; the model knows the tokens 0 to 4"):
        onnxprune.prune(bigrams(), calib="self", start_token=5)
    with pytest.raises(OnnxPruneError, match="an input of tokens"):
        write_text(
            load(model([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", ["N", 3])], [tensor("y", ["N", 3])]))
        )
    fails(call("prune", path, "-o", "x.onnx", "--text-length", "9"), "give --calib self")


# Decoders with a cache

D = 8  # width
DECODER = """<ir_version: 10, opset_import: ["" : 18]>
decoder (int64[batch, {seq}] input_ids, int64[batch, {total}] attention_mask, int64[batch, {seq}] position_ids{inputs})
    => (float[batch, {seq}, {words}] logits{outputs})
<int64[1] one = {{1}}, int64[1] two = {{2}}, float low = {{-10000}}, float zero = {{0}}, int64 first = {{1}}>
{{
    word = Gather(words, input_ids)
    place = Gather(places, position_ids)
    x = Add(word, place)
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    {caches}
    counted = CumSum(attention_mask, first)
    of_keys = Unsqueeze(counted, one)
    of_queries = Unsqueeze(position_ids, two)
    later = Greater(of_keys, of_queries1)
    hidden = Where(later, low, zero)
    keys_turned = Transpose<perm: ints = [0, 2, 1]>(keys)
    raw = MatMul(q, keys_turned)
    masked = Add(raw, hidden)
    attention = Softmax<axis: int = -1>(masked)
    mixed = MatMul(attention, values)
    h = Add(x, mixed)
    up = MatMul(h, w1)
    act = Relu(up)
    logits = MatMul(act, w2)
}}"""
CACHED = {
    "inputs": f", float[batch, past, {D}] past_key, float[batch, past, {D}] past_value",
    "outputs": f", float[batch, all, {D}] key, float[batch, all, {D}] value",
    "caches": """keys = Concat<axis: int = 1>(past_key, k)
    values = Concat<axis: int = -2>(past_value, v)
    key = Identity(keys)
    value = Identity(values)""",
    "total": "past + seq",
}
WHOLE = {"inputs": "", "outputs": "", "caches": "keys = Identity(k)\n    values = Identity(v)", "total": "seq"}


def decoder(cached: bool, seq: str = "seq", total: str | None = None) -> onnx.ModelProto:
    """One layer of attention to all tokens up to the own one: with a cache of those before, or without."""
    parts = CACHED | {"total": f'"{total or "past + seq"}"'} if cached else WHOLE
    text = DECODER.format(seq=seq, words=WORDS, **parts).replace("of_queries1", "of_next")
    text = text.replace("later =", "of_next = Add(of_queries, first)\n    later =")
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(5)
    shapes = {"words": (WORDS, D), "places": (64, D), "w1": (D, 24), "w2": (24, WORDS)}
    for name, shape in (shapes | dict.fromkeys(("wq", "wk", "wv"), (D, D))).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return proto


@pytest.mark.parametrize(("seq", "total"), [("seq", "past + seq"), ("seq", "total"), ("1", "total")])
def test_a_decoder_with_a_cache_writes_what_one_without_does(seq: str, total: str) -> None:
    whole = write_text(load(decoder(False)), texts=6, length=16)
    cached = write_text(load(decoder(True, seq, total)), texts=6, length=16)
    assert isinstance(whole, Stored) and isinstance(cached, Stored)
    ids = whole.columns["input_ids"][...]
    given = {name: x[...] for name, x in cached.columns.items()}
    prompt = 15 if seq == "1" else 4
    np.testing.assert_array_equal(given["input_ids"], ids[:, prompt:])
    assert given["past_key"].shape == (6, prompt, D) and given["attention_mask"].shape == (6, 16)
    assert (given["position_ids"] == np.arange(prompt, 16)).all()
    feeds = {name: x[...] for name, x in whole.columns.items()}
    ((expected,),) = run_ort(decoder(False), [feeds])
    ((scores, *_),) = run_ort(decoder(True, seq, total), [given])
    np.testing.assert_allclose(scores, expected[:, prompt:], rtol=1e-4, atol=1e-4)


def test_a_decoder_with_a_cache_is_pruned_on_its_own_text() -> None:
    made = onnxprune.prune(decoder(True), params=0.9, calib="self", samples=16, text_length=24, check=False)
    repair = made.report.repair
    assert repair is not None and repair.error_after is not None and repair.error_after < repair.error_before


def test_a_cache_that_nobody_knows_how_to_begin() -> None:
    proto = decoder(True)
    proto.graph.input[3].type.tensor_type.shape.dim[2].dim_param = "width"
    with pytest.raises(OnnxPruneError, match=r"past_key.*how to begin it; give data"):
        write_text(load(proto), texts=2, length=8)


def test_caches_are_found_by_what_the_graph_does() -> None:
    assert [(c.input, c.output, c.axis) for c in find_caches(decoder(True))] == [
        ("past_key", "key", 1),
        ("past_value", "value", 1),
    ]
    assert find_caches(decoder(False)) == find_caches(network()) == []
