"""Repair a candidate that any tool has made of an original, from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

from onnxprune.calibration import Batches, InputSpec, list_input_specs
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import save
from onnxprune.groups import analyze
from onnxprune.pipeline import Clock, choose_memory, convert_once, make_calibration_batches, read_batches, runnable
from onnxprune.progress import StageProgress
from onnxprune.repair.candidate import repair_candidate
from onnxprune.report.types import CalibrationReport, CandidateReport, ErrorReport
from onnxprune.result import CandidateResult, Source
from onnxprune.settings import RunSettings
from onnxprune.settings.data import is_own
from onnxprune.validation import validate as compare


def run_repair(
    original: Source,
    candidate: Source,
    out: str | PathLike[str] | None,
    settings: RunSettings,
    seed: int = 0,
    progress: StageProgress | None = None,
) -> CandidateResult:
    """Load, compare, repair, save, compare again; `out` None writes no file."""
    settings.check_values()
    clock, given = Clock(progress or (lambda *_: None)), type(original)
    with clock.time("load"):
        original, candidate = (convert_once(m) for m in (original, candidate))
        models = [load(m) for m in (original, candidate)]
        calibration, data = read_data(settings, models, seed, clock.progress)
    before, after = None, None
    if settings.check:
        with clock.time("validate"):
            before = compare_models(original, candidate, data, seed)
    with clock.time("analyze"):
        whole, part = (analyze(m, calibration.measure_sizes()) for m in models)
    with clock.time("repair"):
        repaired, report = repair_candidate(
            whole, part, calibration, seed=seed, progress=lambda done, of: clock.progress("repair", done, of),
            memory=choose_memory(settings),
        )  # fmt: skip
        repaired = replace(repaired, files=(*models[1].files, *models[0].files))  # neither is ever written over
    with clock.time("save"):
        files = [] if out is None else save(repaired, out)
    if settings.check:
        with clock.time("validate"):
            after = compare_models(original, files[0] if files else repaired, data, seed)
    for model in models:  # ONNX Runtime has opened them by their paths
        model.check_unchanged()
    candidate_report = CandidateReport(
        original=name_of(models[0]),
        candidate=name_of(models[1]),
        output=str(files[0]) if files else None,
        files=[str(f) for f in files],
        calibration=CalibrationReport(calibration.source, calibration.samples),
        repair=report,
        error_before=before,
        error_after=after,
        seconds={stage: round(seconds, 4) for stage, seconds in clock.seconds.items()},
    )
    return CandidateResult(files, repaired, given, candidate_report)


def read_data(
    settings: RunSettings, models: Sequence[Model], seed: int, progress: StageProgress | None
) -> tuple[Batches, Batches]:
    """The data for fitting layers, and the data for comparing an original and its candidate."""
    model, original = check_same_kind(*models), models[0]
    calibration = make_calibration_batches(settings, original if is_own(settings.calib) else model, seed, progress)
    if calibration is None:
        raise OnnxPruneError("this takes data, and there are none; give calib")
    return calibration, read_batches(settings.data, model, settings.preprocess) or calibration


def name_of(model: Model) -> str:
    """The path of a model, or the name of its graph if it has no file."""
    return str(model.path) if model.path else model.proto.graph.name


def compare_models(original: Source, candidate: Source, data: Batches, seed: int) -> ErrorReport:
    """The error of the candidate's outputs on data; neither model is timed."""
    return compare(runnable(original), runnable(candidate), data=data, seed=seed).error


def check_same_kind(original: Model, candidate: Model) -> Model:
    """The one whose inputs leave less open. Raises OnnxPruneError where inputs or outputs are not the same."""
    originals, inputs = ({s.name: s for s in list_input_specs(m.proto)} for m in (original, candidate))
    for name in originals.keys() | inputs.keys():
        if name not in originals or name not in inputs:
            raise OnnxPruneError(
                f"candidate: its inputs are {sorted(inputs)}, the original's {sorted(originals)}; give two versions of one model"
            )
        if not _fit(originals[name], inputs[name]):
            raise OnnxPruneError(
                f"candidate: input '{name}' is {_say(inputs[name])}, the original's {_say(originals[name])}; "
                "give two versions of one model"
            )
    outputs = [{v.name for v in m.proto.graph.output} for m in (original, candidate)]
    if outputs[0] != outputs[1]:
        raise OnnxPruneError(
            f"candidate: its outputs are {sorted(outputs[1])}, the original's {sorted(outputs[0])}; "
            "give two versions of one model"
        )
    return max((original, candidate), key=lambda m: _count_static(list_input_specs(m.proto)))


def _fit(a: InputSpec, b: InputSpec) -> bool:
    """Can both be fed the same?"""
    return (
        a.dtype == b.dtype
        and len(a.shape) == len(b.shape)
        and all(m == n for m, n in zip(a.shape, b.shape, strict=True) if isinstance(m, int) and isinstance(n, int))
    )


def _say(spec: InputSpec) -> str:
    return f"{spec.dtype.name} [{', '.join('?' if n is None else str(n) for n in spec.shape)}]"


def _count_static(specs: Sequence[InputSpec]) -> int:
    return sum(isinstance(n, int) for s in specs for n in s.shape)
