"""An open-division record in the spirit of MLPerf: a result beside its original, with all that it takes to measure it again.

In the open division of MLPerf Inference a model may be changed in any way, pruned for example; task, data and measure stay, and the
record states the quality beside the time. Source: Reddi et al. 2020, MLPerf Inference Benchmark, arXiv 1911.02549, section IV;
https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.calibration import Batches, Preprocess
from onnxprune.calibration.kernels import read_runtime_version
from onnxprune.candidates import name_of
from onnxprune.errors import OnnxPruneError, OutputError
from onnxprune.graph.files import write_text
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import count_saved_bytes, save
from onnxprune.graph.view import read_opsets
from onnxprune.groups import analyze
from onnxprune.machine import count_cores, name_processor, read_total_memory
from onnxprune.measure import load_metric
from onnxprune.pipeline import Data, convert_once, read_batches, runnable
from onnxprune.report.plain import render_json
from onnxprune.report.record import render_page
from onnxprune.report.types import (
    AccuracyRecord,
    DataRecord,
    ModelRecord,
    PerformanceRecord,
    QualityRecord,
    RecordReport,
    SystemRecord,
)
from onnxprune.report.types.base import Settings
from onnxprune.result import Source
from onnxprune.validation import Result
from onnxprune.validation import validate as compare
from onnxprune.version import __version__

SHARE = 0.99  # of the original's quality, as MLPerf asks of its closed division
PROVIDER = "ONNX Runtime, CPUExecutionProvider"
NO_MEASURE = "a record states the accuracy, and the data have no array 'labels'; add one, or give a --metric"
ACCURACY, PERFORMANCE, PAGE = "accuracy.json", "performance.json", "README.md"


def write_record(
    original: Source,
    result: Source,
    out: str | PathLike[str],
    *,
    data: Data,
    target_accuracy: float | None = None,
    target_share: float | None = None,
    preprocess: Preprocess | Sequence[str] | None = None,
    metric: Any = None,
    threads: int = 1,
    profile: bool = False,
    made_by: str | PathLike[str] | None = None,
) -> RecordReport:
    """Measure quality and time of a model and of what became of it, and write a record with all that it takes to do so again.

    The folder gets the result itself, `accuracy.json` (which another run with the same files and software writes again, byte for
    byte), `performance.json` (what this machine takes) and `README.md` for people.

    Args:
        original: whatever `load` takes.
        result: the model that was made of it, of any of these kinds too.
        out: the folder; it is made where it is not there.
        data: whatever `calibration.load_data` takes, with an array `labels`, or for a `metric` that needs none.
        target_accuracy: the least quality that the result may have.
        target_share: the same as a share of the original's quality; 0.99 where neither is given.
        preprocess: how pictures become inputs: a Preprocess, or the parts of one as text.
        metric: your own measure, a function of outputs and labels, higher is better; or the text "FILE.py:function".
        threads: of ONNX Runtime, for quality and time.
        profile: measure peak memory too; each model runs once in a process of its own.
        made_by: the report of `prune` or `sparsify`, as JSON, whose settings made the result.

    Returns:
        The record. `accuracy.quality.met` says whether the target was reached.

    Raises:
        OnnxPruneError: there is nothing to measure quality by, a model does not run, or both targets are given.
        OutputError: the folder cannot be written.
    """
    if target_accuracy is not None and target_share is not None:
        raise OnnxPruneError("target-accuracy and target-share: give one, each decides what quality is enough")
    folder, made_with = _make_folder(Path(out)), _read_settings(made_by)
    original, result = convert_once(original), convert_once(result)
    models = [load(original), load(result)]
    batches = read_batches(data, models[0], preprocess)
    assert batches is not None
    if metric is None and not batches.has_labels:
        raise OnnxPruneError(NO_MEASURE)
    measured = compare(runnable(original), runnable(result), data=batches, threads=threads, timed=True, profile=profile,
                       metric=load_metric(metric))  # fmt: skip
    copied = _copy(models[1], folder)
    software = name_software()
    accuracy = AccuracyRecord(
        division="open",
        original=_describe_model(models[0], [f.path for f in models[0].files]),
        result=_describe_model(models[1], copied),
        data=_describe_data(data, batches, measured.samples, preprocess),
        quality=judge_quality(measured, target_accuracy, target_share),
        threads=threads,
        software=software,
    )
    performance = PerformanceRecord(
        "single stream", describe_system(), software, measured.latency, measured.peak_memory
    )
    report = RecordReport(str(folder), [], accuracy, performance, made_with)
    texts = {ACCURACY: render_json(accuracy), PERFORMANCE: render_json(performance), PAGE: render_page(report)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return replace(report, files=[str(p) for p in (*copied, *(folder / n for n in texts))])


def judge_quality(measured: Result, target: float | None, share: float | None) -> QualityRecord:
    """The quality of both models against the target. Raises OnnxPruneError where there is no measure."""
    if measured.metric is not None:
        name, before, after = measured.metric.name, measured.metric.before, measured.metric.after
    elif measured.accuracy is not None and measured.accuracy.before is not None and measured.accuracy.after is not None:
        name, before, after = "accuracy", measured.accuracy.before, measured.accuracy.after
    else:
        raise OnnxPruneError(NO_MEASURE)
    wanted = target if target is not None else before * (SHARE if share is None else share)
    return QualityRecord(name, wanted, wanted / before if before else None, before, after, after >= wanted)


def describe_system() -> SystemRecord:
    """This machine, without its name."""
    system = f"{platform.system()} {platform.release()}"
    return SystemRecord(name_processor(), platform.machine(), count_cores(), read_total_memory(), system, PROVIDER)


def name_software() -> dict[str, str]:
    """The versions of what computes."""
    versions = {"onnxruntime": read_runtime_version(), "onnx": onnx.__version__, "numpy": np.__version__}
    return {"onnxprune": __version__, **versions, "python": platform.python_version()}


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{folder}: {e.strerror}; name a folder that can be written") from e
    return folder


def _read_settings(made_by: str | PathLike[str] | None) -> Settings | None:
    """The settings in a report of `prune`. Raises OnnxPruneError where it is none."""
    if made_by is None:
        return None
    try:
        settings = json.loads(Path(made_by).read_text(encoding="utf-8"))["options"]
        if settings is not None and not isinstance(settings, dict):
            raise ValueError("options are no table")
    except OSError as e:
        raise OnnxPruneError(f"made-by '{made_by}': {e.strerror}; give a file that prune --report wrote") from None
    except (KeyError, TypeError, ValueError) as e:
        raise OnnxPruneError(
            f"made-by '{made_by}' is no report of prune ({e}); give a file that --report wrote"
        ) from None
    return settings


def _copy(model: Model, folder: Path) -> list[Path]:
    """The result's files in the folder, as they are; of a model in memory, a new file."""
    if not model.files:
        return save(model, folder / "result.onnx")
    copies = []
    for source in (f.path for f in model.files):
        target = folder / source.name
        if not (target.exists() and target.samefile(source)):
            try:
                shutil.copyfile(source, target)
            except OSError as e:
                raise OutputError(f"{target}: {e.strerror}; the record is not complete") from e
        copies.append(target)
    return copies


def _describe_model(model: Model, files: Sequence[Path]) -> ModelRecord:
    analysis = analyze(model)
    return ModelRecord(
        name=Path(name_of(model)).name,
        files={path.name: _digest_file(path) for path in files},
        opset=read_opsets(model.proto.opset_import),
        params=analysis.params(),
        macs=analysis.macs(),
        bytes=sum(p.stat().st_size for p in files) or count_saved_bytes(model),
    )


def _describe_data(
    source: Any, batches: Batches, samples: int, preprocess: Preprocess | Sequence[str] | None
) -> DataRecord:
    path = Path(source) if isinstance(source, str | PathLike) and Path(source).exists() else None
    parts = [preprocess] if isinstance(preprocess, str | Preprocess) else preprocess or ()
    labels = batches.read_labels()
    return DataRecord(
        name=path.name if path else "in memory",
        file=_digest_file(path) if path and path.is_file() else None,
        samples=samples,
        preprocess=[*map(str, parts)],
        inputs=_digest_inputs(batches),
        labels=None if labels is None else _digest_arrays(labels),
    )


def _digest_inputs(batches: Batches) -> dict[str, str]:
    """Of all that each input is fed, however it is cut into batches along its first axis."""
    digests = dict[str, Any]()
    for feeds in batches:
        for name, x in feeds.items():
            _update(digests.setdefault(name, hashlib.sha256(_describe_array(x))), x)
    return {name: digest.hexdigest() for name, digest in sorted(digests.items())}


def _digest_arrays(arrays: Sequence[Any]) -> str:
    digest = hashlib.sha256(_describe_array(np.asarray(arrays[0])) if arrays else b"")
    for x in arrays:
        _update(digest, np.asarray(x))
    return digest.hexdigest()


def _describe_array(x: Any) -> bytes:
    """Type and shape of a sample."""
    return f"{x.dtype.name} {list(x.shape[1:])}".encode()


def _update(digest: Any, x: Any) -> None:
    digest.update(np.ascontiguousarray(x).tobytes())


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
