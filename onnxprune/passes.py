"""One call for frameworks that chain passes over files (Olive, Optimum): paths in, a path out, settings as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from onnxprune.api import prune
from onnxprune.errors import OnnxPruneError, OutputError
from onnxprune.plain_settings import check, check_all, make_arguments
from onnxprune.report import render_json

MODEL, REPORT = "model.onnx", "report.json"


def run_pass(
    model_path: str | PathLike[str],
    output_path: str | PathLike[str],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Prune a file, and write the new one and its report.

    Args:
        model_path: the model, or a folder with one model in it.
        output_path: a file where it ends in .onnx, else a folder, which gets `model.onnx` and `report.json`.
        config: settings as in a recipe of `batch`: `{"macs": 0.5, "calib": "pictures.npz", "then_sparsify": "2:4"}`.

    Returns:
        The path of the new model; the report lies beside it.

    Raises:
        OnnxPruneError: there is no such setting, and whatever `prune` raises.
    """
    settings = {name: str(v) if isinstance(v, PathLike) else v for name, v in (config or {}).items()}
    source, target = _source(Path(model_path)), _target(Path(output_path))
    for name, value in settings.items():
        check(name, value, Path())
    check_all(settings)
    result = prune(source, target, **make_arguments(settings, Path()))
    report = target.with_name(REPORT if target.name == MODEL else f"{target.stem}.{REPORT}")
    report.write_text(render_json(result.report), encoding="utf-8")
    return target


def _source(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.onnx"))
    if len(files) != 1:
        raise OnnxPruneError(f"{path} holds {len(files)} .onnx files; name the one to prune")
    return files[0]


def _target(path: Path) -> Path:
    if path.suffix == ".onnx":
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{path}: {e.strerror}; name a folder, or a file that ends in .onnx") from e
    return path / MODEL
