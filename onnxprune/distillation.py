"""Train a candidate that any tool has made of an original, from file to file."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike

from onnxprune.candidates import compare_models, name_of, read_data
from onnxprune.forecast import forecast_training
from onnxprune.graph.io import load
from onnxprune.graph.save import save
from onnxprune.groups import analyze
from onnxprune.pipeline import Clock, choose_memory, convert_once
from onnxprune.progress import StageProgress
from onnxprune.report.types import TrainedReport
from onnxprune.result import DistilledResult, Source
from onnxprune.settings import RunSettings, Training
from onnxprune.training import add_labels, check_training, hold_out, make_recipe, make_task, train


def run_distillation(
    original: Source,
    candidate: Source,
    out: str | PathLike[str] | None,
    settings: RunSettings,
    training: Training,
    seed: int = 0,
    progress: StageProgress | None = None,
) -> DistilledResult:
    """Load, compare, train, save, compare again; `out` None writes no file."""
    settings.check_values()
    check_training(training, settings.calib is not None)
    clock, given = Clock(progress or (lambda *_: None)), type(original)
    recipe = make_recipe(training, seed)
    with clock.time("load"):
        original, candidate = (convert_once(m) for m in (original, candidate))
        models = [load(m) for m in (original, candidate)]
        calibration, data = read_data(settings, models, seed, clock.progress)
        calibration = add_labels(calibration, training, recipe.label_weight)
    before, after = None, None
    if settings.check:
        with clock.time("validate"):
            before = compare_models(original, candidate, data, seed)
    with clock.time("analyze"):
        task = make_task(
            analyze(models[0], calibration.measure_sizes()), models[1], *hold_out(calibration), choose_memory(settings)
        )
    if (expect := getattr(clock.progress, "expect", None)) and (
        expected := forecast_training(models[0], calibration, recipe.passes)
    ):
        expect(expected)
    with clock.time("distill"):
        trained, training_report = train(task, recipe, training.checkpoint, clock.progress)
        trained = replace(trained, files=(*models[1].files, *models[0].files))  # neither is ever written over
    with clock.time("save"):
        files = [] if out is None else save(trained, out)
    if settings.check:
        with clock.time("validate"):
            after = compare_models(original, files[0] if files else trained, data, seed)
    for model in models:  # ONNX Runtime has opened them by their paths
        model.check_unchanged()
    report = TrainedReport(
        original=name_of(models[0]),
        candidate=name_of(models[1]),
        output=str(files[0]) if files else None,
        files=[str(f) for f in files],
        data=calibration.source,
        distillation=training_report,
        error_before=before,
        error_after=after,
        seconds={stage: round(seconds, 4) for stage, seconds in clock.seconds.items()},
    )
    return DistilledResult(files, trained, given, report)
