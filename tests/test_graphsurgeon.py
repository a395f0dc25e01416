"""A pruned file is an ordinary one: onnx-graphsurgeon, which people go on to edit it with, takes it in and gives it back."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.validation import validate

gs = pytest.importorskip("onnx_graphsurgeon")
MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_pruned_model_survives_the_round_trip(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    onnxprune.prune(path, out, ratio=0.5, check=False)
    graph = gs.import_onnx(onnx.load(out))
    again = gs.export_onnx(graph.cleanup().toposort())
    result = validate(out, again)
    assert result.overall.max_abs is not None and np.isclose(result.overall.max_abs, 0, atol=1e-5)
