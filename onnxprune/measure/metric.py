"""The user's own measure of a model: a function of its outputs and the labels, higher is better."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array
from onnxprune.measure.metrics import find_class_scores, measure_agreement, predict_classes

EXAMPLE = "def top1(outputs, labels): return (outputs['logits'].argmax(1) == labels).mean()"


@dataclass(frozen=True)
class Metric:
    """`function(outputs, labels)` is a number: outputs are arrays by name, of all samples, labels an array, None without.

    What the function does to its arguments stays there, and what it prints goes to stderr.
    """

    name: str
    function: Callable[[dict[str, Array], Array | None], Any]

    def measure(self, outputs: Mapping[str, Array], labels: Array | None) -> float:
        """Raises OnnxPruneError where the function fails, or what it returns is no finite number."""
        try:
            with redirect_stdout(sys.stderr):
                value = float(self.function(dict(outputs), None if labels is None else labels.copy()))
        except (Exception, SystemExit) as e:  # whatever the user's code raises
            given = ", ".join(f"{name} {x.dtype.name} {list(x.shape)}" for name, x in outputs.items()) or "no outputs"
            given += f", labels {'None' if labels is None else f'{labels.dtype.name} {list(labels.shape)}'}"
            raise OnnxPruneError(f"metric '{self.name}' fails on {given}: {type(e).__name__}: {e}") from e
        if not np.isfinite(value):
            raise OnnxPruneError(f"metric '{self.name}' is {value}; it must return a finite number, higher is better")
        return value


def load_metric(source: Any) -> Metric | None:
    """A function, or the text `FILE.py:function`, as a metric; None for None. Raises OnnxPruneError where it does not exist."""
    if source is None or isinstance(source, Metric):
        return source
    if callable(source):
        return Metric(getattr(source, "__name__", type(source).__name__), source)
    file, _, name = str(source).rpartition(":")
    if not file or not name.isidentifier():
        raise OnnxPruneError(f"metric '{source}': expected FILE.py:function, as in 'metrics.py:top1'; {EXAMPLE}")
    function = getattr(_import_file(Path(file)), name, None)
    if not callable(function):
        raise OnnxPruneError(f"metric '{source}': '{file}' has no function '{name}'; {EXAMPLE}")
    return Metric(name, function)


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"onnxprune_metric_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise OnnxPruneError(f"metric: there is no Python file '{path}'")
    module = importlib.util.module_from_spec(spec)
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:  # whatever the user's code raises
        raise OnnxPruneError(f"metric: '{path}' cannot be imported: {type(e).__name__}: {e}") from e
    return module


def _measure_accuracy(outputs: Mapping[str, Array], labels: Array | None) -> float:
    scores = next((s for x in outputs.values() if (s := find_class_scores(x)) is not None), None)
    if scores is None or labels is None or labels.shape != scores.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError("it needs class scores [N, C] and N integers as labels")
    return measure_agreement(predict_classes(scores), labels) or 0.0


ACCURACY = Metric("accuracy", _measure_accuracy)
