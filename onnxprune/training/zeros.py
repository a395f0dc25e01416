"""The pattern of zeros that a training is to end with, as masks of the weights in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.graph.forms import Form
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis
from onnxprune.settings import Sparsity
from onnxprune.sparsity.apply import decide, prepare
from onnxprune.sparsity.masked_weights import Selects
from onnxprune.sparsity.patterns import Above, Pattern, Units
from onnxprune.sparsity.resolve import check_sparsity
from onnxprune.sparsity.threshold import find_threshold


@dataclass(frozen=True)
class ZeroPattern:
    """A pattern for some layers, whose weights compete within a layer or (`together`) across all of them.

    forms  where the numbers of each weight stand in its product
    """

    pattern: Pattern
    forms: Mapping[str, Form]
    together: bool = False

    @property
    def sparsity(self) -> float | None:
        """The share of zeros, where the pattern leaves it open."""
        return self.pattern.sparsity if isinstance(self.pattern, Units) else None

    def masks(self, scores: Mapping[str, Array], share: float = 1.0) -> dict[str, Array]:
        """Which weights stay, bool in the shape of each weight.

        Args:
            scores: of each weight, in its shape; those with the highest stay.
            share: of the zeros that there are in the end; a pattern that fixes their number has no part of it.
        """
        pattern = self.pattern
        if isinstance(pattern, Units):
            if (sparsity := pattern.sparsity * share) <= 0:
                return {name: np.ones(scores[name].shape, bool) for name in self.forms}
            pattern = replace(pattern, sparsity=sparsity)
        views = {name: form.view(scores[name]) for name, form in self.forms.items()}
        selects: Selects = pattern
        if self.together and isinstance(pattern, Units):
            worths = [pattern.worth(x).ravel() for x in views.values()]
            lowest = min(float(x.min()) for x in worths)  # a threshold is of numbers that are not negative
            limit = find_threshold(lambda: (x - lowest for x in worths), pattern.sparsity)
            views, selects = {name: x - np.float32(lowest) for name, x in views.items()}, Above(pattern, limit)
        return {name: form.back(selects.keep(views[name])) for name, form in self.forms.items()}


def find_zeros(analysis: Analysis, options: Sparsity) -> ZeroPattern:
    """The layers of a model that `sparsify` would choose; those that are no plain tensors of the file are left to it alone."""
    _, work = prepare(analysis, options)
    chosen = [x.matrix for x in decide(work, options) if x.chosen and x.matrix.inner is None]
    forms = {m.weight: m.form for m in chosen if m.form is not None}
    return ZeroPattern(check_sparsity(options), forms, options.scope == "global")
