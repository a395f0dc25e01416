"""What became of a vocabulary: the report of `vocabulary`."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Counts, Report


@dataclass(frozen=True)
class KeptTokens:
    """How many tokens stay for each reason; a token may have several.

    `corpus` are those that the texts use, `asked` those of --keep-ids, `graph` those that the graph compares ids with, `tokenizer`
    those that the tokenizer needs to write the others.
    """

    corpus: int
    asked: int
    graph: int
    tokenizer: int


@dataclass(frozen=True)
class VocabularyReport(Report):
    """What `vocabulary` removed. No `output`: nothing was written.

    `inputs` hold ids, `outputs` have a score for each token. `error` is the relative L2 distance between the outputs of both
    models, for the tokens that stay, on random texts of these; None where the comparison was left out.
    """

    model: str
    output: str | None
    files: list[str]
    id_map: str | None
    tokenizer: str | None
    inputs: list[str]
    outputs: list[str]
    tokens: Counts
    kept: KeptTokens
    corpus_ids: int
    params: Counts
    macs: Counts
    bytes: Counts
    error: float | None
