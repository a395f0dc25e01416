"""What training did: a part of the reports of `prune` and `sparsify`, and the report of `distill` and `finetune`."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Report
from onnxprune.report.types.comparison import ErrorReport


@dataclass(frozen=True)
class DistillationReport:
    """A candidate that learned what the original makes of inputs, before and after, on `held_out` samples that it did not learn.

    `loss` is what training made small: `error`, which is how far the outputs are from the original's (see `measure.shift`), or
    with a `label_weight` that and cross-entropy with the labels. `agreement` is the share of the same class. `losses` has the loss
    at each look, the first one before training; None where it is no number. The weights are those of `best_pass`; 0: no look was
    better than the start, and the candidate is as it was.
    """

    passes: int
    passes_done: float
    best_pass: float
    samples: int
    held_out: int
    loss_before: float | None
    loss_after: float | None
    error_before: float | None
    error_after: float | None
    agreement_before: float | None
    agreement_after: float | None
    learning_rate: float  # the highest, relative to the root mean square of a tensor
    label_weight: float
    augmented: bool
    weights: int  # how many tensors were trained
    losses: list[float | None]
    interrupted: bool
    seconds: float

    @property
    def improved(self) -> bool:
        return self.best_pass > 0


@dataclass(frozen=True)
class TrainedReport(Report):
    """What `distill` or `finetune` did. No `output`: nothing was written.

    `error_before` and `error_after` are the candidate and the trained model next to the original, None where they were not
    compared.
    """

    original: str
    candidate: str
    output: str | None
    files: list[str]
    data: str
    distillation: DistillationReport
    error_before: ErrorReport | None
    error_after: ErrorReport | None
    seconds: dict[str, float]
