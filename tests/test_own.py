"""Text that a model writes itself: drawn from its own probabilities, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_cli import call, fails
from tiny import model, tensor

import onnxprune
from onnxprune.calibration.data import Stored
from onnxprune.calibration.own import write_text
from onnxprune.errors import OnnxPruneError
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
