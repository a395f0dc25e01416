"""Without torch: everything else works, and who asks for gradients is told what to install. Runs with torch as well."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune import gradients
from onnxprune.errors import OnnxPruneError
from onnxprune.gradients import trainable_weights

MODEL = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"


def test_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def hide(name: str, *more: Any) -> Any:
        return None if name == "torch" else find(name, *more)

    monkeypatch.setattr(gradients, "find_spec", hide)
    for ask in (gradients.require_torch, lambda: gradients.Module, lambda: gradients.unsupported):
        with pytest.raises(OnnxPruneError, match=r"pip install 'onnxprune\[torch\]'") as caught:
            ask()
        assert "\n" not in str(caught.value)
    data = {"image": np.zeros((4, 1, 8, 8), np.float32)}
    for ask in (
        lambda: onnxprune.distill(MODEL, MODEL, calib=data),
        lambda: onnxprune.prune(MODEL, calib=data, distill=True),
        lambda: onnxprune.sparsify(MODEL, calib=data, distill=True),
    ):
        with pytest.raises(OnnxPruneError, match=r"pip install 'onnxprune\[torch\]'"):
            ask()


def test_which_weights_are_trained_needs_no_torch() -> None:
    assert "head.weight" in trainable_weights(MODEL)
