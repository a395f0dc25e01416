"""A tokenizer for the tokens that stay: the `tokenizer.json` of Hugging Face's tokenizers, as plain data.

A tokenizer makes tokens of others: one of byte pairs (BPE) merges them step by step, so what it passes on its way has to stay too.
With that a text whose tokens all stay is cut as before: WordPiece takes the longest token there is, Unigram the likeliest cut,
and neither changes where only unused tokens are removed.
Source: https://huggingface.co/docs/tokenizers/components
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from onnxprune.errors import DataError
from onnxprune.vocabulary.ids import IdMap

KINDS = ("BPE", "WordPiece", "WordLevel", "Unigram")


def read_tokenizer(path: str | PathLike[str]) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises DataError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"cannot read the tokenizer '{path}': {e.strerror}") from None
    except ValueError as e:
        raise DataError(f"the tokenizer '{path}' is not JSON: {e}") from None
    _kind(data)
    return dict(data)


def find_needed(tokenizer: Mapping[str, Any], used: Collection[int]) -> frozenset[int]:
    """The ids that a tokenizer needs beside those that are used.

    Added tokens (special ones among them), the unknown token, single characters and bytes, and all that merges pass on their way to
    a token that stays. Raises DataError for a kind that is not known.
    """
    ids = _ids(tokenizer)
    words = {i: word for word, i in ids.items()}
    needed = {token["id"] for token in tokenizer.get("added_tokens") or ()}
    needed |= {i for word, i in ids.items() if len(word.removeprefix("##")) == 1 or _is_byte(word)}
    unknown = tokenizer["model"].get("unk_token")
    needed |= {ids[unknown]} if unknown in ids else set()
    unknown_id = tokenizer["model"].get("unk_id")
    needed |= {unknown_id} if unknown_id is not None else set()
    parts = dict[str, list[tuple[str, str]]]()
    for first, second in _merges(tokenizer):
        parts.setdefault(first + second, []).append((first, second))
    todo = [words[i] for i in {*used, *needed} if i in words]
    while todo:
        for pair in parts.get(todo.pop(), ()):
            new = [word for word in pair if word in ids and ids[word] not in needed]
            needed.update(ids[word] for word in new)
            todo.extend(new)
    return frozenset(needed) - frozenset(used)


def remap_tokenizer(tokenizer: Mapping[str, Any], ids: IdMap) -> dict[str, Any]:
    """The tokenizer with the new ids, without the removed tokens and the merges that make them.

    Raises DataError where a token that it names elsewhere (padding, a template) was removed.
    """
    new, remapped = _Renumber(ids), copy.deepcopy(dict(tokenizer))
    model = remapped["model"]
    if _kind(remapped) == "Unigram":
        model["vocab"] = [piece for i, piece in enumerate(model["vocab"]) if new.of(i) is not None]
        if model.get("unk_id") is not None:
            model["unk_id"] = new.must(model["unk_id"], "the unknown token")
    else:
        model["vocab"] = {word: at for word, i in model["vocab"].items() if (at := new.of(i)) is not None}
    if "merges" in model:
        stay = model["vocab"]
        lines = zip(model["merges"], _merges(tokenizer), strict=True)
        model["merges"] = [line for line, (a, b) in lines if a in stay and b in stay and a + b in stay]
    for token in remapped.get("added_tokens") or ():
        token["id"] = new.must(token["id"], f"the added token {token['content']!r}")
    if padding := remapped.get("padding"):
        padding["pad_id"] = new.must(padding["pad_id"], "the padding token")
    _renumber_processor(remapped.get("post_processor"), new)
    return remapped


class _Renumber:
    """The new ids, one at a time."""

    def __init__(self, ids: IdMap) -> None:
        self._new = {old: at for at, old in enumerate(ids.kept)}

    def of(self, old: int) -> int | None:
        return self._new.get(old)

    def must(self, old: int, what: str) -> int:
        if old not in self._new:
            raise DataError(f"the tokenizer needs {what} ({old}), which was removed; keep it with --keep-ids {old}")
        return self._new[old]


def _renumber_processor(processor: Any, new: _Renumber) -> None:
    """Templates and pairs that put special tokens around a text."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or ():  # a sequence of them
        _renumber_processor(inner, new)
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            word, old = processor[key]
            processor[key] = [word, new.must(old, f"the token {word!r}")]
    special = processor.get("special_tokens")
    for name, token in special.items() if isinstance(special, dict) else ():
        token["ids"] = [new.must(old, f"the token {name!r}") for old in token["ids"]]


def _kind(tokenizer: Any) -> str:
    model = tokenizer.get("model") if isinstance(tokenizer, Mapping) else None
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    kind = (model.get("type") or _guess_kind(model)) if isinstance(model, Mapping) else None
    if kind not in KINDS or not isinstance(vocab, list if kind == "Unigram" else dict):
        raise DataError(
            f"the tokenizer is no tokenizer.json of {', '.join(KINDS)} ({kind}); remap it in code, see the page on vocabularies"
        )
    return str(kind)


def _guess_kind(model: Mapping[str, Any]) -> str:
    """Files of early versions do not say it."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The id of each token of the model."""
    vocab = tokenizer["model"]["vocab"]
    if _kind(tokenizer) == "Unigram":
        return {piece[0]: i for i, piece in enumerate(vocab)}
    return dict(vocab)


def _merges(tokenizer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of tokens; older files have them as one text with a space."""
    merges = tokenizer["model"].get("merges") or ()
    pairs = (line.split(" ") if isinstance(line, str) else line for line in merges)
    return [(first, second) for first, second in pairs]


def _is_byte(word: str) -> bool:
    """Is it a byte that characters without a token fall back to, `<0x0A>`?"""
    return len(word) == 6 and word.startswith("<0x") and word.endswith(">")
