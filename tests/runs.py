"""A run to make pages of: real results of models/, and jobs that came to nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import onnxprune

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
    report: dict[str, Any] | None = None
    seconds: float | None = 1.5
    started: str | None = "2026-01-01T00:00:00+00:00"
    output: str | None = None

    @property
    def model(self) -> str:
        return f"zoo/{self.name}.onnx"


SPARSE = [
    ("conv1", "Conv", "conv1.weight", False, False, "1 input channel is no multiple of 4", False, 1.0, None),
    ("conv2", "Conv", "conv2.weight", True, True, "", True, 0.82, 0.05),
]  # fmt: skip
SPARSE_KEYS = ("name", "op", "tensor", "eligible", "likely", "reason", "sparse", "kept_magnitude", "error")


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
    done[1] = Job(**{**vars(done[1]), "report": {**(done[1].report or {}), "sparsity": _sparsity()}})
    return (
        *done,
        Job("job8", "cut", {"ratio": 0.3}, "failed", "cut.onnx: the file ends too early; export it again", seconds=0.1),
        Job("job9", "slow", {"ratio": 0.3}, "timeout", "took more than 60 s and was stopped", seconds=60.0),
        Job("job10", HOSTILE, {"ratio": 0.3}, "pending", seconds=None, started=None),
    )


def _sparsity() -> dict[str, Any]:
    return {"pattern": "2:4", "layers": [dict(zip(SPARSE_KEYS, values, strict=True)) for values in SPARSE]}


def _pruned(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data = {"data": TEST, "samples": 64 if "calib" in settings else None}
        return onnxprune.prune(MODELS / f"{name}.onnx", Path(folder) / "o.onnx", **data, **settings).report
