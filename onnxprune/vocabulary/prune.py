"""Remove the tokens that a corpus never uses, from file to file: rows of embeddings, columns of the head, and an id map."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration import list_input_specs
from onnxprune.calibration.sessions import find_runnable_inputs, open_session, run_as
from onnxprune.candidates import name_of
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.files import write_text
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import count_saved_bytes, save
from onnxprune.groups import analyze
from onnxprune.measure.metrics import ErrorSums
from onnxprune.pipeline import convert_once, runnable
from onnxprune.report.types import Counts, KeptTokens, VocabularyReport
from onnxprune.result import ModelResult, Source
from onnxprune.vocabulary.corpus import read_corpus
from onnxprune.vocabulary.ids import IdMap, unite
from onnxprune.vocabulary.open import Vocabulary, open_vocabulary
from onnxprune.vocabulary.tokenizer import find_needed, read_tokenizer, remap_tokenizer


@dataclass(frozen=True, repr=False, eq=False)
class VocabularyResult(ModelResult):
    """A model with fewer tokens.

    ids        the map between old and new ids
    tokenizer  the tokenizer for the new ids, where one was given
    report     what was removed
    """

    ids: IdMap
    tokenizer: dict[str, Any] | None
    report: VocabularyReport

    def __repr__(self) -> str:
        return f"VocabularyResult({len(self.ids.kept)} of {self.ids.tokens} tokens kept)"


def prune_vocabulary(
    source: Source,
    corpus: Any,
    out: str | PathLike[str] | None = None,
    *,
    keep_ids: Iterable[int] = (),
    inputs: Collection[str] = (),
    tokenizer: str | PathLike[str] | None = None,
    check: bool = True,
    seed: int = 0,
) -> VocabularyResult:
    """Remove the tokens that a corpus never uses: rows of the embedding, columns of the head and its bias, tied or not.

    Nothing else changes: for texts of the remaining tokens the model computes what the original does, and of the scores those of
    these tokens. Ids change: `result.ids.encode(ids)` makes new ones of old ones, and the same map is written beside the model.

    Args:
        source: whatever `load` takes; it is not changed.
        corpus: the ids of texts, as the model sees them: a path (.npz, .npy, .txt), an array, or an iterable of lists of ids.
        out: where the model goes; the map goes to `NAME.ids.json` beside it. None writes no file.
        keep_ids: tokens that stay whether they are used or not: special ones.
        inputs: the inputs that hold ids; empty: those that are looked up in the largest table.
        tokenizer: a tokenizer.json of Hugging Face's tokenizers; what it needs stays, and it is written with the new ids to
            `NAME.tokenizer.json`.
        check: compare both models on random texts of the remaining tokens.
        seed: of these texts.

    Returns:
        The model, the map, and what was removed.

    Raises:
        DataError: the corpus or the tokenizer is not what it should be.
        OnnxPruneError: the model has no vocabulary, or reads ids or scores in a way that removing tokens would change.
        OutputError: a file cannot be written.
    """
    given, source = type(source), convert_once(source)
    model = load(source)
    vocabulary = open_vocabulary(model, inputs)
    use = vocabulary.use
    read = read_corpus(corpus, use.inputs, use.size)
    asked = _check_asked(keep_ids, use.size)
    written = None if tokenizer is None else read_tokenizer(tokenizer)
    base = unite(read.used, asked, use.compared)
    needed = find_needed(written, base) if written else frozenset()
    ids = IdMap(use.size, unite(base, (i for i in needed if i < use.size)))
    remapped = None if written is None else remap_tokenizer(written, ids)
    small = vocabulary.keep(ids.kept)
    files = [] if out is None else _write(small, ids, remapped, Path(out))
    models = [f for f in files if f.suffix != ".json"]
    result: Model = load(models[0]) if models else small
    before, after = analyze(model), analyze(result)
    report = VocabularyReport(
        model=name_of(model),
        output=str(models[0]) if models else None,
        files=[str(f) for f in files],
        id_map=str(name_map(Path(out))) if out is not None else None,
        tokenizer=str(name_tokenizer(Path(out))) if out is not None and remapped else None,
        inputs=sorted(use.inputs),
        outputs=sorted(use.outputs),
        tokens=Counts(use.size, len(ids.kept)),
        kept=KeptTokens(len(read.used), len(asked), len(use.compared), len(needed)),
        corpus_ids=read.ids,
        params=Counts(before.params(), after.params()),
        macs=Counts(before.macs(), after.macs()),
        bytes=Counts(model.size_bytes, sum(f.stat().st_size for f in models) or count_saved_bytes(result)),
        error=measure_loss(source, models[0] if models else result, vocabulary, ids, seed) if check else None,
    )
    return VocabularyResult(models, result, given, ids, remapped, report)


def name_map(out: Path) -> Path:
    """Where the id map of a model goes."""
    return out.with_suffix(".ids.json")


def name_tokenizer(out: Path) -> Path:
    """Where its tokenizer goes."""
    return out.with_suffix(".tokenizer.json")


def _write(small: Model, ids: IdMap, tokenizer: Any, out: Path) -> list[Path]:
    """The model, then its map, then its tokenizer."""
    files = save(small, out)
    ids.save(name_map(out))
    files.append(name_map(out))
    if tokenizer is not None:
        write_text(name_tokenizer(out), json.dumps(tokenizer, ensure_ascii=False, indent=2) + "\n")
        files.append(name_tokenizer(out))
    return files


def _check_asked(keep_ids: Iterable[int], tokens: int) -> Sequence[int]:
    asked = unite(keep_ids)
    wrong = [i for i in asked if not 0 <= i < tokens]
    if wrong:
        raise OnnxPruneError(f"keep-ids {wrong[0]}: the model has the tokens 0 to {tokens - 1}")
    return asked


def measure_loss(
    original: Source, candidate: Source, vocabulary: Vocabulary, ids: IdMap, seed: int = 0
) -> float | None:
    """The relative L2 distance between the outputs of both models on random texts of the tokens that stay.

    Raises OnnxPruneError where one of the models does not run.
    """
    use, rng = vocabulary.use, np.random.default_rng(seed)
    session = open_session(runnable(original), "original")
    feeds = dict(find_runnable_inputs(session, list_input_specs(vocabulary.analysis.model.proto), seed).feeds)
    for name in use.inputs:
        feeds[name] = rng.choice(np.asarray(ids.kept), feeds[name].shape).astype(feeds[name].dtype)
    want = run_as("original", session, feeds)
    del session  # of two large models, one after the other is in memory
    feeds |= {name: ids.encode(feeds[name]) for name in use.inputs}
    got = run_as("candidate", open_session(runnable(candidate), "candidate"), feeds)
    sums = ErrorSums()
    for name, x in want.items():
        sums.add(x[..., list(ids.kept)] if name in use.outputs else x, got[name])
    return sums.result().relative_l2
