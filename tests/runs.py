"""A run to make pages of: real results of models/, and jobs that came to nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.report.types import PruneReport, SparseLayerReport, SparsityReport

MODELS = Path(__file__).parents[1] / "models"
CALIB, TEST = MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
HOSTILE = "</script><img src=x onerror=alert(1)>"  # a model's name may be anything


@dataclass(frozen=True)
class Job:
    """What `onnxprune.report.rows.JobLike` asks for."""

    id: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    status: str = "done"
    message: str = ""
    report: PruneReport | None = None
    seconds: float | None = 1.5
    started: str | None = "2026-01-01T00:00:00+00:00"
    output: str | None = None

    @property
    def model(self) -> str:
        return f"zoo/{self.name}.onnx"


SPARSE = [
    SparseLayerReport(
        "conv1", "Conv", "conv1.weight", "float32", 1, 32, 1, 9, eligible=False, likely=False, sparse=False,
        reason="1 input channel is no multiple of 4", method=None, zeros=None, kept_magnitude=1.0, error=None,
        error_before_repair=None, note=None, params=288,
    ),
    SparseLayerReport(
        "conv2", "Conv", "conv2.weight", "float32", 1, 64, 32, 9, eligible=True, likely=True, sparse=True,
        reason=None, method="magnitude", zeros=0.5, kept_magnitude=0.82, error=0.05,
        error_before_repair=None, note=None, params=18432,
    ),
]  # fmt: skip


@cache
def jobs() -> tuple[Job, ...]:
    """Eight results of three models, one of them with 2:4; and of three more models a failure each."""
    asked: list[tuple[str, dict[str, Any]]] = [
        *(("digits_cnn", {"ratio": r}) for r in (0.1, 0.3, 0.6)),
        ("digits_cnn", {"macs": 0.5, "calib": str(CALIB)}),
        *(("digits_vit", {"ratio": r}) for r in (0.1, 0.3)),
        *(("digits_resnet", {"ratio": r, "exclude": ["stem*"]}) for r in (0.3, 0.6)),
    ]
    done = [Job(f"job{i}", name, s, report=_pruned(name, s), output=f"{i}.onnx") for i, (name, s) in enumerate(asked)]
    assert done[1].report
    done[1] = replace(done[1], report=replace(done[1].report, sparsity=_sparsity()))
    return (
        *done,
        Job("job8", "cut", {"ratio": 0.3}, "failed", "cut.onnx: the file ends too early; export it again", seconds=0.1),
        Job("job9", "slow", {"ratio": 0.3}, "timeout", "took more than 60 s and was stopped", seconds=60.0),
        Job("job10", HOSTILE, {"ratio": 0.3}, "pending", seconds=None, started=None),
    )


def _sparsity() -> SparsityReport:
    return SparsityReport("2:4", "tensorrt", {}, SPARSE, [])


def _pruned(name: str, settings: Mapping[str, Any]) -> PruneReport:
    with tempfile.TemporaryDirectory() as folder:
        data = {"data": TEST, "samples": 64} if "calib" in settings else {"data": TEST, "repair": "none"}
        return onnxprune.prune(MODELS / f"{name}.onnx", Path(folder) / "o.onnx", **data, **settings).report
