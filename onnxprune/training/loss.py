"""What training makes small: the measure that plans are judged by (`measure.shift`), in torch; with labels, cross-entropy too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array, is_float
from onnxprune.measure import OutputShift, ShiftSums, find_class_scores
from onnxprune.measure.shift import LEAST, OF_TOKENS, TEMPERATURE, is_probabilities

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Judgment:
    """How good a model is on samples: `loss` is what training makes small, `shift` how far the outputs are from the original's."""

    loss: float
    shift: OutputShift


@dataclass(frozen=True)
class Objective:
    """(1 - w) T^2 shift + w cross-entropy with w the weight of labels, T the temperature of the shift; the shift alone for w = 0.

    `tokens` as `graph.vocabulary` finds them.
    Source: Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2.
    """

    tokens: int | None
    label_weight: float = 0.0

    def measure(self, reference: Outputs, outputs: Mapping[str, Any], labels: Array | None) -> torch.Tensor:
        """The loss of one batch: tensors next to what the original made of the same inputs."""
        shift = measure_shift(reference, outputs, self.tokens)
        if not self.label_weight:
            return shift
        entropy = self._cross_entropy(reference, outputs, labels)
        combined: torch.Tensor = self._combine(shift, entropy, self._find_scores(reference)[1].shape[1])
        return combined

    def judge(
        self, references: Sequence[Outputs], outputs: Iterable[Outputs], labels: Sequence[Array | None]
    ) -> Judgment:
        """The same of arrays, over all batches together, exactly as plans are judged."""
        sums, entropy, rows, classes = ShiftSums(self.tokens), 0.0, 0, 0
        for before, after, wanted in zip(references, outputs, labels, strict=True):
            sums.add(before, after)
            if self.label_weight:
                tensors = {
                    name: torch.from_numpy(np.array(x, np.float32)) for name, x in after.items() if is_float(x.dtype)
                }
                n, classes = self._find_scores(before)[1].shape
                entropy += n * float(self._cross_entropy(before, tensors, wanted))
                rows += n
        shift = sums.value()
        return Judgment(self._combine(shift.error, entropy / rows, classes) if rows else shift.error, shift)

    def _combine(self, shift: Any, entropy: Any, classes: int) -> Any:
        scale = find_temperature(classes, self.tokens) ** 2
        return (1 - self.label_weight) * scale * shift + self.label_weight * entropy

    def _find_scores(self, reference: Outputs) -> tuple[str, Array]:
        """The output of class scores that labels speak of. Raises OnnxPruneError where there is none."""
        for name, x in reference.items():
            if (scores := find_class_scores(x, self.tokens)) is not None:
                return name, scores
        raise OnnxPruneError("no output has class scores, so there is nothing to learn from labels; leave them out")

    def _cross_entropy(self, reference: Outputs, outputs: Mapping[str, Any], labels: Array | None) -> torch.Tensor:
        name, scores = self._find_scores(reference)
        if labels is None or labels.dtype.kind not in "iu" or labels.size != len(scores):
            what = "missing" if labels is None else f"{labels.dtype.name} {list(labels.shape)}"
            raise OnnxPruneError(
                f"labels of a batch are {what}; output '{name}' wants {len(scores)} integers, one a row"
            )
        rows = outputs[name].float().reshape(scores.shape)
        rows = rows.clamp_min(LEAST).log() if is_probabilities(np.asarray(scores, np.float32)) else rows
        wanted = torch.from_numpy(labels.reshape(-1).astype(np.int64)).to(rows.device)
        if int(wanted.max()) >= scores.shape[1]:
            raise OnnxPruneError(f"label {int(wanted.max())} is no class; output '{name}' has {scores.shape[1]}")
        return F.cross_entropy(rows, wanted.clamp_min(-1), ignore_index=-1)


def measure_shift(reference: Outputs, outputs: Mapping[str, Any], tokens: int | None) -> torch.Tensor:
    """The `error` of `ShiftSums` of tensors next to what the original made of the same inputs; integers have no gradient, so they
    count for nothing.
    """
    errors = [measure_output(r, outputs[name], tokens) for name, r in reference.items() if is_float(r.dtype) and r.size]
    return torch.stack(errors).mean()


def measure_output(reference: Array, output: torch.Tensor, tokens: int | None) -> torch.Tensor:
    """KL(reference || output) of class scores at their temperature, in the mean over rows; relative L2, squared, of others.

    What is no finite number on either side counts for nothing.
    """
    scores = find_class_scores(reference, tokens)
    wide = np.array(reference if scores is None else scores, np.float32)
    r = torch.from_numpy(wide).to(output.device)
    c = output.float().reshape(r.shape)
    fine = torch.isfinite(r) & torch.isfinite(c)
    r, c = torch.where(fine, r, 0), torch.where(fine, c, 0)
    if scores is None:
        return (c - r).square().sum() / r.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    if is_probabilities(wide):
        r, c = r.clamp_min(LEAST).log(), c.clamp_min(LEAST).log()
    temperature = find_temperature(scores.shape[1], tokens)
    p, q = (F.log_softmax(x / temperature, 1) for x in (r, c))
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def find_temperature(classes: int, tokens: int | None) -> float:
    return OF_TOKENS if classes == tokens else TEMPERATURE
