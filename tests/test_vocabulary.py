"""Vocabulary pruning: the scores of the remaining tokens are the original's, and nothing is guessed of who reads ids."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from documents import blocks
from laws import run_ort
from onnx import TensorProto, helper
from test_cli import call, fails
from test_schema import assert_schema, printed
from test_zoo import load as load_zoo
from test_zoo import needs_zoo
from tiny import model, tensor

import onnxprune
from onnxprune.calibration import draw_inputs, list_input_specs
from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import compute_fingerprint
from onnxprune.vocabulary import IdMap
from onnxprune.vocabulary.corpus import read_corpus
from onnxprune.vocabulary.ids import read_ranges
from onnxprune.vocabulary.open import open_vocabulary

Array = np.ndarray[Any, Any]
V, WIDTH, IDS = 40, 8, TensorProto.INT64
KEPT = [0, 1, 3, 7, 8, 20, 31, 39]
N = helper.make_node


def network(
    before: list[Any], after: list[Any], *, weights: dict[str, Array] | None = None, ids: int = IDS
) -> onnx.ModelProto:
    """Embedding `e` -> Relu(h W) -> `hidden`; `before` makes `looked` of ids, `after` makes `logits` of `hidden`."""
    rng = np.random.default_rng(0)
    known = {"e": (V, WIDTH), "w": (WIDTH, WIDTH), "head": (WIDTH, V), "b": (V,)}
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in known.items()}
    nodes = [*before, N("MatMul", ["looked", "w"], ["z"]), N("Relu", ["z"], ["hidden"]), *after]
    read = {name for node in nodes for name in node.input}
    stored = {name: x for name, x in {**made, **(weights or {})}.items() if name in read}
    return model(nodes, [tensor("ids", ["batch", "seq"], ids)], [tensor("logits", ["batch", "seq", V])], stored)


LOOKUP = [N("Gather", ["e", "ids"], ["looked"], "embedding")]
HEAD = [N("MatMul", ["hidden", "head"], ["s"]), N("Add", ["s", "b"], ["logits"])]
TIED = [N("Transpose", ["e"], ["t"], perm=[1, 0]), N("MatMul", ["hidden", "t"], ["logits"])]
FLAT = np.array([-1, WIDTH])
PADDED = [  # a mask of positions that are not the token 7
    N("Equal", ["ids", "pad"], ["is_pad"]),
    N("Not", ["is_pad"], ["is_word"]),
    N("Cast", ["is_word"], ["mask"], to=TensorProto.FLOAT),
    N("Unsqueeze", ["mask", "last"], ["mask3"]),
    N("Gather", ["e", "ids"], ["raw"]),
    N("Mul", ["raw", "mask3"], ["looked"]),
]
RESHAPED = [
    N("Reshape", ["hidden", "flat"], ["rows"]),
    N("Gemm", ["rows", "e", "b"], ["flat_logits"], transB=1),
    N("Shape", ["ids"], ["sizes"]),
    N("Concat", ["sizes", "tokens"], ["shape"], axis=0),
    N("Reshape", ["flat_logits", "shape"], ["logits"]),
]
MOVED = [
    N("Cast", ["ids"], ["wide"], to=IDS),
    N("Slice", ["wide", "zero", "many", "axis"], ["part"]),
    N("Gather", ["e", "part"], ["looked"]),
]
BIAS = [  # a number for each token of the text, read element by element
    *HEAD[:1],
    N("Expand", ["column", "size"], ["columns"]),
    N("Reshape", ["ids", "flat1"], ["line"]),
    N("GatherElements", ["column", "line"], ["each"], axis=0),
    N("ReduceSum", ["each"], ["sum"], keepdims=0),
    N("Add", ["s", "sum"], ["logits"]),
]
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "a head of its own, with a bias": lambda: network(LOOKUP, HEAD),
    "a tied head": lambda: network(LOOKUP, TIED),
    "a tied head with a bias, reshaped": lambda: network(
        LOOKUP, RESHAPED, weights={"flat": FLAT, "tokens": np.array([V])}
    ),
    "ids of 32 bits that are moved": lambda: network(
        MOVED, HEAD, ids=TensorProto.INT32,
        weights={"zero": np.array([0]), "many": np.array([99]), "axis": np.array([1])},
    ),
    "a token that the graph knows": lambda: network(
        PADDED, TIED, weights={"pad": np.array(7), "last": np.array([2])}
    ),
    "elements of a table": lambda: network(
        LOOKUP, [BIAS[0], *BIAS[2:]],
        weights={"column": np.arange(V, dtype=np.float32), "flat1": np.array([-1])},
    ),
}  # fmt: skip


def check_law(proto: onnx.ModelProto, kept: list[int], outputs: tuple[str, ...] = ("logits",)) -> onnx.ModelProto:
    """For texts of the tokens that stay, of two sizes: the outputs are the original's, of scores those of these tokens."""
    result = onnxprune.prune_vocabulary(proto, np.array(kept), check=False)
    assert list(result.ids.kept) == sorted(kept) and result.report.outputs == sorted(outputs)
    small = result.proto
    onnx.checker.check_model(small, full_check=True)
    kind = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    rng = np.random.default_rng(1)
    new = [rng.integers(0, len(kept), shape) for shape in ((2, 5), (3, 9))]
    old = [np.array(sorted(kept))[x] for x in new]
    want = run_ort(proto, [{"ids": x.astype(kind)} for x in old])
    got = run_ort(small, [{"ids": x.astype(kind)} for x in new])
    for before, after in zip(want, got, strict=True):
        for value, x, y in zip(proto.graph.output, before, after, strict=True):
            expected = x[..., sorted(kept)] if value.name in outputs else x
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    return small


@pytest.mark.parametrize("name", MODELS)
def test_the_scores_of_the_remaining_tokens_are_the_originals(name: str) -> None:
    small = check_law(MODELS[name](), KEPT)
    assert [d.dim_value for d in small.graph.output[0].type.tensor_type.shape.dim][-1] == len(KEPT)
    assert not any(V in t.dims for t in small.graph.initializer), "a weight still has all tokens"


def test_a_tied_table_stays_one() -> None:
    small = check_law(MODELS["a tied head"](), KEPT)
    assert [list(t.dims) for t in small.graph.initializer if t.name == "e"] == [[len(KEPT), WIDTH]]


def test_other_outputs_stay_as_they_are() -> None:
    proto = network(LOOKUP, HEAD)
    proto.graph.output.append(tensor("hidden", ["batch", "seq", WIDTH]))
    check_law(proto, KEPT)


def test_a_model_without_scores_loses_rows_of_its_table() -> None:
    proto = network(LOOKUP, [N("Identity", ["hidden"], ["logits"])])
    proto.graph.output[0].CopyFrom(tensor("logits", ["batch", "seq", WIDTH]))
    small = check_law(proto, KEPT, ())
    assert [list(t.dims) for t in small.graph.initializer if t.name == "e"] == [[len(KEPT), WIDTH]]


def embed_layer_norm() -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    shapes = {"e": (V, WIDTH), "p": (16, WIDTH), "g": (WIDTH,), "c": (WIDTH,), "head": (WIDTH, V)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        N("EmbedLayerNormalization", ["ids", "", "e", "p", "", "g", "c"], ["y", "mask"], domain="com.microsoft"),
        N("MatMul", ["y", "head"], ["logits"]),
    ]
    made = model(
        nodes, [tensor("ids", ["batch", "seq"], TensorProto.INT32)], [tensor("logits", ["batch", "seq", V])], weights
    )
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def test_a_fused_embedding_loses_its_rows() -> None:
    result = onnxprune.prune_vocabulary(embed_layer_norm(), np.array(KEPT), check=False)
    new = np.random.default_rng(1).integers(0, len(KEPT), (2, 5)).astype(np.int32)
    (want,), (got,) = (
        run_ort(proto, [{"ids": ids.astype(np.int32)}])[0]
        for proto, ids in ((embed_layer_norm(), np.array(KEPT)[new]), (result.proto, new))
    )
    np.testing.assert_allclose(got, want[..., KEPT], rtol=1e-5, atol=1e-5)
    assert {t.name: list(t.dims) for t in result.proto.graph.initializer}["p"] == [16, WIDTH]


def test_integers_in_blocks_keep_their_scales() -> None:
    rng = np.random.default_rng(3)
    weights = {
        "e": rng.integers(0, 256, (V, 16)).astype(np.uint8),  # 32 numbers of 4 bits
        "scale": rng.random((V, 2)).astype(np.float32),
        "w": rng.normal(size=(32, WIDTH)).astype(np.float32),
    }
    nodes = [
        N("GatherBlockQuantized", ["e", "ids", "scale"], ["x"], domain="com.microsoft", block_size=16, bits=4,
          gather_axis=0, quantize_axis=1),
        N("MatMul", ["x", "w"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [tensor("ids", ["batch", "seq"], IDS)], [tensor("y", ["batch", "seq", WIDTH])], weights)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    check_law(proto, KEPT, ())


def test_the_report_counts_what_is_gone() -> None:
    r = onnxprune.prune_vocabulary(MODELS["a head of its own, with a bias"](), [[3, 7], [8, 8]], keep_ids=(0, 3)).report
    assert (r.tokens.before, r.tokens.after, r.corpus_ids) == (V, 4, 4)
    assert (r.kept.corpus, r.kept.asked, r.kept.graph) == (3, 2, 0)
    assert r.params.before - (r.params.after or 0) == (V - 4) * (2 * WIDTH + 1)  # type: ignore[operator]
    assert r.macs.before - (r.macs.after or 0) == (V - 4) * WIDTH * (r.macs.before or 0) // (WIDTH * (WIDTH + V))  # type: ignore[operator]
    assert r.error is not None and r.error < 1e-6


def test_a_token_that_the_graph_compares_with_stays() -> None:
    result = onnxprune.prune_vocabulary(MODELS["a token that the graph knows"](), np.array([3, 20]))
    assert result.ids.kept == (3, 7, 20) and result.report.kept.graph == 1


def test_all_tokens_used_changes_nothing() -> None:
    proto = MODELS["a tied head"]()
    assert onnxprune.prune_vocabulary(proto, np.arange(V)).proto.SerializeToString() == proto.SerializeToString()


# what is refused


def softmax() -> onnx.ModelProto:
    return network(LOOKUP, [*HEAD[:1], N("Softmax", ["s"], ["logits"], axis=-1)])


def read_on() -> onnx.ModelProto:
    """Scores that another product sums over."""
    rng = np.random.default_rng(0)
    back = [N("Relu", ["logits"], ["r"]), N("MatMul", ["r", "back"], ["y"])]
    proto = network(LOOKUP, [*HEAD, *back], weights={"back": rng.normal(size=(V, 3)).astype(np.float32)})
    proto.graph.output.append(tensor("y", ["batch", "seq", 3]))
    return proto


def computed(op: str, *more: str, **weights: Array) -> onnx.ModelProto:
    return network([N(op, ["ids", *more], ["other"]), N("Gather", ["e", "other"], ["looked"])], HEAD, weights=weights)


def returned() -> onnx.ModelProto:
    proto = network(LOOKUP, HEAD)
    proto.graph.node.append(N("Identity", ["ids"], ["same"]))
    proto.graph.output.append(tensor("same", ["batch", "seq"], IDS))
    return proto


def as_truth() -> onnx.ModelProto:
    """Is it the token 0? Cast says so without naming it."""
    nodes = [N("Cast", ["ids"], ["m"], to=TensorProto.BOOL), *PADDED[2:]]
    nodes[1] = N("Cast", ["m"], ["mask"], to=TensorProto.FLOAT)
    return network(nodes, HEAD, weights={"last": np.array([2])})


def as_wide_as_its_vocabulary() -> onnx.ModelProto:
    """An output of features that happen to be as many as there are tokens."""
    rng = np.random.default_rng(0)
    shapes = {"e": (V, V), "w": (V, V), "back": (V, 3)}
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    nodes = [
        N("Gather", ["e", "ids"], ["x"]),
        N("MatMul", ["x", "w"], ["logits"]),
        N("MatMul", ["logits", "back"], ["y"]),
    ]
    outputs = [tensor("logits", ["batch", "seq", V]), tensor("y", ["batch", "seq", 3])]
    return model(nodes, [tensor("ids", ["batch", "seq"], IDS)], outputs, weights)


def no_table() -> onnx.ModelProto:
    nodes = [N("Cast", ["ids"], ["logits"], to=TensorProto.FLOAT)]
    return model(nodes, [tensor("ids", ["batch", V], IDS)], [tensor("logits", ["batch", V])])


REFUSED = {
    "scores behind a Softmax": (softmax, "Softmax"),
    "scores that are summed": (read_on, "'back' sums over its 40 entries"),
    "ids that are added to": (lambda: computed("Add", "one", one=np.array(1)), "looked up"),
    "ids that are returned": (returned, "the graph returns its ids as 'same'"),
    "ids as truth values": (as_truth, "Cast 'm' computes with its ids"),
    "features as many as tokens": (as_wide_as_its_vocabulary, "sums over its 40 entries"),
    "no table": (no_table, "no input of integers is looked up"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_other_numbers_is_refused(name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises(OnnxPruneError, match=why):
        onnxprune.prune_vocabulary(make(), np.array(KEPT))


def test_an_input_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(OnnxPruneError, match="no input 'text'; its inputs are ids"):
        onnxprune.prune_vocabulary(MODELS["a tied head"](), np.array(KEPT), inputs=["text"])


# ids


def test_ids_are_renumbered_and_back() -> None:
    ids = IdMap(V, tuple(KEPT))
    old = np.array([[3, 39], [0, 8]], np.int32)
    new = ids.encode(old)
    assert new.tolist() == [[2, 7], [0, 4]] and new.dtype == np.int32
    assert ids.decode(new).tolist() == old.tolist()
    assert ids.encode([2, 3], missing=1).tolist() == [1, 2]
    with pytest.raises(DataError, match="token 2 was removed"):
        ids.encode([3, 2])
    with pytest.raises(DataError, match="the tokens 0 to 39"):
        ids.encode([40])
    with pytest.raises(DataError, match="the tokens 0 to 7"):
        ids.decode([8])


def test_an_id_map_is_read_back(tmp_path: Path) -> None:
    ids, path = IdMap(V, tuple(KEPT)), tmp_path / "m.ids.json"
    ids.save(path)
    assert IdMap.load(path) == ids
    for text, why in (('{"format": 1}', "no id map"), ("[", "no id map"), ('{"format": 2}', "format 2"),
                      ('{"format": 1, "tokens": 2, "kept": [0, 0]}', "repeated")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=why):
            IdMap.load(path)


def test_ranges_of_ids_are_read() -> None:
    assert read_ranges("0-2, 7") == (0, 1, 2, 7) and read_ranges("") == ()
    for wrong in ("a", "1-", "-1", "1-b"):
        with pytest.raises(DataError, match="no id of a token"):
            read_ranges(wrong)


def test_a_corpus_has_many_forms(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", ids=np.array([[1, 2]]), labels=np.array([9, 9]))
    np.savez(tmp_path / "only.npz", text=np.array([[1, 2]]), x=np.zeros(3))
    np.save(tmp_path / "a.npy", np.array([2, 1], np.uint16))
    (tmp_path / "a.txt").write_text("1 2,1\n2")
    sources = [*(tmp_path / n for n in ("named.npz", "only.npz", "a.npy", "a.txt")), np.array([1, 2]), [[1], [2, 2]],
               [1, 2], {"ids": [1, 2], "n": [5]}, [tmp_path / "a.txt", np.array([1])]]  # fmt: skip
    for source in sources:
        assert read_corpus(source, ["ids"], V).used == {1, 2}
    assert read_corpus([[1], [2, 2]], ["ids"], V).ids == 3


def test_a_corpus_that_is_none_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.array([1]), b=np.array([2]))
    (tmp_path / "words.txt").write_text("hello")
    wrong = [(tmp_path / "two.npz", "which array has the ids"), (tmp_path / "words.txt", "text has to be tokenized"),
             (np.array([0.5]), "whole numbers"), (np.array([-1]), "id -1; the model has the tokens 0 to 39"),
             (np.array([40]), "id 40"), ([], "empty"), (5, "no path")]  # fmt: skip
    for source, why in wrong:
        with pytest.raises(DataError, match=why):
            read_corpus(source, ["ids"], V)


# the command


def test_the_command_writes_the_model_and_its_map(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(MODELS["a tied head"](), source)
    (tmp_path / "ids.txt").write_text("3 7 8 20")
    data = printed("vocabulary", source, "--corpus", tmp_path / "ids.txt", "--keep-ids", "0-1", "-o", out, "--json")
    assert_schema("vocabulary", data)
    assert data["tokens"] == {"before": V, "after": 6} and data["error"] < 1e-6
    assert json.loads((tmp_path / "small.ids.json").read_text()) == {
        "format": 1,
        "tokens": V,
        "kept": [0, 1, 3, 7, 8, 20],
    }
    shown = call("vocabulary", source, "--corpus", tmp_path / "ids.txt", "-o", out).stdout
    assert "40 -> 4" in shown and "used by the corpus (4 ids)" in shown and "small.ids.json" in shown


def test_mistakes_at_the_command_are_one_line(tmp_path: Path) -> None:
    source, out, ids = tmp_path / "m.onnx", tmp_path / "small.onnx", tmp_path / "ids.txt"
    onnx.save(MODELS["a tied head"](), source)
    ids.write_text("3 7 41")
    fails(call("vocabulary", source, "--corpus", ids, "-o", out), "id 41; the model has the tokens 0 to 39")
    ids.write_text("3 7")
    fails(call("vocabulary", source, "--corpus", ids, "-o", source), "never overwritten")
    fails(call("vocabulary", source, "--corpus", ids, "-o", out, "--keep-ids", "40"), "keep-ids 40")
    fails(call("vocabulary", source, "--corpus", ids, "-o", out, "--keep-ids", "x"), "'x' is no id of a token")
    assert not out.exists()


# a trained model

ZOO = os.environ.get("ONNXPRUNE_ZOO")


@pytest.mark.skipif(not ZOO, reason="ONNXPRUNE_ZOO names no folder of models")
def test_stories_of_the_remaining_tokens_have_the_same_scores() -> None:
    path = Path(ZOO or "") / "trained" / "transformer" / "stories260K_llama_ts.onnx"
    data = Path(ZOO or "").parent / "data" / "tinystories_tokens.npz"
    if not path.exists() or not data.exists():
        pytest.skip(f"{path} or {data} is not there")
    stories = np.load(data)["real_ids"]
    result = onnxprune.prune_vocabulary(path, stories, keep_ids=(0, 1, 2))
    kept = list(result.ids.kept)
    assert kept == sorted({0, 1, 2, *np.unique(stories).tolist()}) and len(kept) < 200
    (want,), (got,) = (
        run_ort(proto, [{"ids": ids}])[0]
        for proto, ids in (
            (onnx.load(path), stories[:2, :64]),
            (build_full_proto(result.stored), result.ids.encode(stories[:2, :64])),
        )
    )
    np.testing.assert_allclose(got, want[..., kept], rtol=1e-5, atol=1e-5)


def test_the_vocabulary_is_found() -> None:
    found = open_vocabulary(onnxprune.load(MODELS["a tied head"]()))
    assert (found.use.inputs, found.use.size, found.use.outputs) == (("ids",), V, frozenset({"logits"}))


def test_the_lines_of_the_page_run() -> None:
    page = (Path(onnxprune.__file__).parent / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    (code,) = blocks(page, "python")
    names: dict[str, Any] = {}
    exec(code, names)
    assert (names["new"].tolist(), names["old"].tolist(), names["replaced"].tolist()) == ([[1, 3]], [[1, 13]], [1, 0])


@pytest.mark.parametrize("name", ["a head of its own, with a bias", "a tied head"])
def test_tokens_and_channels_go_in_any_order(name: str) -> None:
    """Half of the hidden neurons by their index, and the tokens that are not used: the same network either way."""
    proto = deeper(MODELS[name]())

    def prune(model: onnx.ModelProto) -> onnx.ModelProto:
        a = onnxprune.analyze(model)
        group = next(g for g in a.groups if any(m.tensor == "in" for m in g.members) and g.kind == "neurons")
        choices = {group.name: onnxprune.Choice(group.size, tuple(range(0, group.size, 2)))}
        return build_full_proto(onnxprune.apply(a, onnxprune.Plan(compute_fingerprint(a.model), choices)))

    def shorten(model: onnx.ModelProto) -> onnx.ModelProto:
        return onnxprune.prune_vocabulary(model, np.array(KEPT), check=False).proto

    ids = np.random.default_rng(1).integers(0, len(KEPT), (2, 5))
    (one,), (two,) = (run_ort(made, [{"ids": ids}])[0] for made in (shorten(prune(proto)), prune(shorten(proto))))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def deeper(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with two layers more behind the embedding, with neurons between."""
    rng = np.random.default_rng(5)
    for name, shape in (("in", (WIDTH, 12)), ("out", (12, WIDTH))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    at = next(i for i, node in enumerate(proto.graph.node) if node.output[0] == "z")
    proto.graph.node[at].input[0] = "wide"
    layers = [
        N("MatMul", ["looked", "in"], ["more"]),
        N("Relu", ["more"], ["neurons"]),
        N("MatMul", ["neurons", "out"], ["wide"]),
    ]
    for node in reversed(layers):
        proto.graph.node.insert(at, node)
    return proto


@needs_zoo
@pytest.mark.parametrize(
    "name", ["hf_bert.ts", "hf_gpt2.ts", "hf_llama_gqa.dy", "hf_opt.ts", "hf_roberta.dy", "hf_t5.dy"]
)
def test_exported_language_models_lose_tokens_without_loss(name: str) -> None:
    proto = load_zoo(name)
    kept = [0, 1, 2, *range(5, 60, 3)]
    result = onnxprune.prune_vocabulary(proto, np.array(kept), check=False)
    stays = np.array(result.ids.kept)  # some graphs compare ids with a token that they know
    assert set(kept) <= set(stays.tolist()) and len(stays) <= len(kept) + 1
    feeds, _ = draw_inputs(list_input_specs(proto), seed=0, batch=2, sequence=6)
    new = dict(feeds)
    for value in result.report.inputs:
        new[value] = np.random.default_rng(3).integers(0, len(stays), feeds[value].shape).astype(feeds[value].dtype)
        feeds[value] = stays[new[value]].astype(feeds[value].dtype)
    (want,), (got,) = (run_ort(model, [given]) for model, given in ((proto, feeds), (result.proto, new)))
    for v, x, y in zip(proto.graph.output, want, got, strict=True):
        np.testing.assert_allclose(y, x[..., stays] if v.name in result.report.outputs else x, rtol=1e-3, atol=1e-4)
