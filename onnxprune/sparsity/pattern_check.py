"""Does a file have a pattern? Layer by layer, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.graph.model import Model
from onnxprune.groups import analyze
from onnxprune.settings import Sparsity
from onnxprune.sparsity.apply import SparseLayer, decide, mark
from onnxprune.sparsity.constants import fold
from onnxprune.sparsity.matrices import open_numbers
from onnxprune.sparsity.resolve import check_sparsity, resolve_sparsity


@dataclass(frozen=True)
class Checked:
    """A layer, how many units of its weight break the pattern (None where that cannot be told), and the share of zeros."""

    layer: SparseLayer
    broken: int | None
    sparsity: float | None

    @property
    def holds(self) -> bool:
        return self.broken == 0


def check_pattern(model: Model, options: Sparsity) -> list[Checked]:
    """Every layer of a model against the pattern of `options`; those count whose layer is `chosen`."""
    options = resolve_sparsity(options, False)
    pattern, known = check_sparsity(options), analyze(model)
    a = mark(known, fold(known))
    out = []
    for layer in decide(a, options):
        m, broken, zeros = layer.matrix, None, None
        if m.form is not None:
            weight = a.coupling.weights[m.weight]
            there = open_numbers(a, m).there(weight.array())
            zeros = 1 - float(np.count_nonzero(there)) / max(there.size, 1)
            broken = None if pattern.unfit(m.shape) else pattern.broken(m.form.view(there))
        out.append(Checked(layer, broken, zeros))
    return out
