"""Tokenizers for fewer tokens: texts whose tokens all stay are cut as before, by an independent tokenizer of each kind."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_vocabulary import MODELS, V

import onnxprune
from onnxprune.errors import DataError
from onnxprune.vocabulary.ids import IdMap, unite
from onnxprune.vocabulary.tokenizer import find_needed, read_tokenizer, remap_tokenizer

Cut = Callable[[dict[str, Any], str], list[str]]
TEXTS = ("low lower lowest newest", "wide wider low", "new low newer")
SPECIAL = [{"id": i, "content": word, "special": True} for i, word in enumerate(("<pad>", "<unk>", "</s>"))]
TEMPLATE = {"type": "TemplateProcessing", "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}


def learn_merges(words: str, count: int) -> list[tuple[str, str]]:
    """Byte pair encoding, learned: the most frequent pair of neighbors becomes a token, again and again."""
    cuts, merges = [list(word) for word in words.split()], list[tuple[str, str]]()
    for _ in range(count):
        pairs = [pair for cut in cuts for pair in itertools.pairwise(cut)]
        best = max(sorted(set(pairs)), key=pairs.count)
        merges.append(best)
        cuts = [merge(cut, best) for cut in cuts]
    return merges


def merge(cut: list[str], pair: tuple[str, str]) -> list[str]:
    made = list[str]()
    for part in cut:
        if made and (made[-1], part) == pair:
            made[-1] += part
        else:
            made.append(part)
    return made


def bpe() -> dict[str, Any]:
    merges = learn_merges("low lower lowest newest wide wider newer new flow flower widest slower slow", 14)
    words = ["<pad>", "<unk>", "</s>", *sorted({c for t in (*TEXTS, "fs") for c in t if c != " "})]
    words += [a + b for a, b in merges]
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": {w: i for i, w in enumerate(words)}}
    return {"added_tokens": SPECIAL, "post_processor": TEMPLATE, "padding": {"pad_id": 0},
            "model": model | {"merges": [f"{a} {b}" for a, b in merges]}}  # fmt: skip


def cut_bpe(tokenizer: dict[str, Any], word: str) -> list[str]:
    """The pair that was learned first is merged first."""
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(tokenizer["model"]["merges"])}
    cut = list(word)
    while True:
        found = [pair for pair in itertools.pairwise(cut) if pair in ranks]
        if not found:
            return cut
        cut = merge(cut, min(found, key=lambda pair: ranks[pair]))


def word_piece() -> dict[str, Any]:
    words = [
        "<pad>",
        "<unk>",
        "</s>",
        "low",
        "##er",
        "##est",
        "new",
        "wid",
        "##e",
        "##r",
        "wide",
        "flow",
        "##lower",
        "l",
        "##w",
    ]
    model = {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
             "vocab": {w: i for i, w in enumerate(words)}}  # fmt: skip
    processor = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<pad>", 0]}
    return {"added_tokens": SPECIAL, "post_processor": {"type": "Sequence", "processors": [processor]}, "model": model}


def cut_word_piece(tokenizer: dict[str, Any], word: str) -> list[str]:
    """The longest piece that there is, from left to right."""
    vocab, at, cut = tokenizer["model"]["vocab"], 0, list[str]()
    while at < len(word):
        ends = [n for n in range(len(word), at, -1) if ("##" if at else "") + word[at:n] in vocab]
        if not ends:
            return ["<unk>"]
        cut.append(("##" if at else "") + word[at : ends[0]])
        at = ends[0]
    return cut


def unigram() -> dict[str, Any]:
    pieces = [
        "<pad>",
        "<unk>",
        "</s>",
        *"lowernstid",
        "low",
        "er",
        "est",
        "new",
        "wide",
        "lo",
        "we",
        "wi",
        "flow",
        "ne",
    ]
    vocab = [[piece, -1.0 - 0.37 * i] for i, piece in enumerate(pieces)]
    return {"added_tokens": SPECIAL, "post_processor": None, "model": {"type": "Unigram", "unk_id": 1, "vocab": vocab}}


def cut_unigram(tokenizer: dict[str, Any], word: str) -> list[str]:
    """The likeliest of all cuts."""
    scores = dict(tokenizer["model"]["vocab"][3:])
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(word) + 1):
        ways = [
            (best[at][0] + scores[word[at:end]], [*best[at][1], word[at:end]])
            for at in range(end)
            if word[at:end] in scores
        ]
        best.append(max(ways, default=(-math.inf, [])))
    return best[-1][1]


KINDS: dict[str, tuple[Callable[[], dict[str, Any]], Cut]] = {
    "BPE": (bpe, cut_bpe), "WordPiece": (word_piece, cut_word_piece), "Unigram": (unigram, cut_unigram),
}  # fmt: skip


def ids_of(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocab = tokenizer["model"]["vocab"]
    return {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab


def tokenize(tokenizer: dict[str, Any], cut: Cut, text: str) -> list[int]:
    known = ids_of(tokenizer)
    return [known[piece] for word in text.split() for piece in cut(tokenizer, word)]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_whose_tokens_stay_are_cut_as_before(kind: str) -> None:
    make, cut = KINDS[kind]
    tokenizer = make()
    used = {i for text in TEXTS for i in tokenize(tokenizer, cut, text)}
    needed = find_needed(tokenizer, used)
    size = len(ids_of(tokenizer))
    ids = IdMap(size, unite(used, needed))
    smaller = remap_tokenizer(tokenizer, ids)
    assert needed.isdisjoint(used) and len(ids.kept) < size, "there is nothing to remove"
    assert sorted(ids_of(smaller).values()) == list(range(len(ids.kept)))
    for text in TEXTS:
        assert tokenize(smaller, cut, text) == ids.encode(tokenize(tokenizer, cut, text)).tolist()
    for token in tokenizer["added_tokens"]:
        assert ids.decode([t["id"] for t in smaller["added_tokens"] if t["content"] == token["content"]]) == [
            token["id"]
        ]


def test_merges_on_the_way_to_a_token_stay() -> None:
    tokenizer = bpe()
    known = tokenizer["model"]["vocab"]
    merged = [word for line in tokenizer["model"]["merges"] if len(word := line.replace(" ", "")) > 3]
    needed = find_needed(tokenizer, {known[merged[0]]})
    first, second = next(line.split(" ") for line in tokenizer["model"]["merges"] if line.replace(" ", "") == merged[0])
    assert {known[first], known[second]} <= needed


def test_special_tokens_get_their_new_numbers_everywhere() -> None:
    tokenizer = word_piece() | {"padding": {"pad_id": 0, "pad_token": "<pad>"}}
    smaller = remap_tokenizer(tokenizer, IdMap(15, (2, 1, 0, 3)))
    (processor,) = smaller["post_processor"]["processors"]
    assert (processor["sep"], processor["cls"]) == (["</s>", 0], ["<pad>", 2])
    assert smaller["padding"]["pad_id"] == 2 and smaller["model"]["vocab"]["low"] == 3
    template = remap_tokenizer(bpe(), IdMap(len(bpe()["model"]["vocab"]), (0, 2, 1)))
    assert template["post_processor"]["special_tokens"]["</s>"]["ids"] == [1]
    assert tokenizer["post_processor"]["processors"][0]["sep"] == ["</s>", 2], "the original was changed"


def test_what_the_tokenizer_names_must_stay() -> None:
    with pytest.raises(DataError, match="the added token '</s>' \\(2\\), which was removed; keep it with --keep-ids 2"):
        remap_tokenizer(word_piece(), IdMap(15, (0, 1, 3)))


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for text, why in (
        ("[", "not JSON"),
        ("{}", "no tokenizer.json"),
        ('{"model": {"type": "CharBPE", "vocab": {}}}', "CharBPE"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=why):
            read_tokenizer(path)
    with pytest.raises(DataError, match="cannot read"):
        read_tokenizer(tmp_path / "absent.json")


def test_the_tokenizer_is_written_beside_the_model(tmp_path: Path) -> None:
    path, source = tmp_path / "tokenizer.json", tmp_path / "m.onnx"
    onnx.save(MODELS["a tied head"](), source)
    path.write_text(json.dumps(bpe()))
    used = tokenize(bpe(), cut_bpe, TEXTS[0])
    result = onnxprune.prune_vocabulary(source, np.array(used), tmp_path / "small.onnx", tokenizer=path)
    written = json.loads((tmp_path / "small.tokenizer.json").read_text())
    assert written == result.tokenizer and result.report.tokenizer == str(tmp_path / "small.tokenizer.json")
    assert tokenize(written, cut_bpe, TEXTS[0]) == result.ids.encode(used).tolist()
    assert result.report.kept.tokenizer == len(result.ids.kept) - len(set(used)) and len(result.ids.kept) < V
