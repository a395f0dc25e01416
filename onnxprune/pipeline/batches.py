"""The data of a pipeline, and the memory that they may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from os import PathLike
from typing import Any

from onnxprune.calibration import (
    Batches,
    Preprocess,
    check_finite,
    draw_batches,
    list_input_specs,
    load_data,
    read_preprocess,
)
from onnxprune.calibration.array_store import MEMORY_BYTES, Memory
from onnxprune.calibration.own import write_text
from onnxprune.calibration.substitutes import substitute_batches, takes_images
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.groups import analyze
from onnxprune.machine import read_free_memory
from onnxprune.progress import StageProgress
from onnxprune.settings import Options, RunSettings
from onnxprune.settings.data import is_own
from onnxprune.settings.quantities import read_size

Data = str | PathLike[str] | Batches | Iterable[Any] | Callable[[], Iterable[Any]]
COPIES = 2.5  # of both models together that comparing them takes, at the least


def make_calibration_batches(
    run: RunSettings, model: Model, seed: int = 0, progress: StageProgress | None = None
) -> Batches | None:
    """The calibration data that the settings name, or what the model makes itself; None without."""
    if is_own(run.calib):
        return _own_batches(run, model, seed, progress)
    if run.text_length is not None or run.start_token is not None:
        raise OnnxPruneError(
            "text-length and start-token are for texts that the model writes itself; give --calib self"
        )
    batches = read_batches(run.calib, model, run.preprocess)
    if batches is not None and run.samples is not None:
        batches = batches.limit(run.samples)
    if batches is not None:
        check_finite(batches, model)
    return batches


def _own_batches(run: RunSettings, model: Model, seed: int, progress: StageProgress | None) -> Batches:
    """Texts of a language model, scenes for one of pictures."""
    if takes_images(model):
        return substitute_batches(analyze(model), seed, run.samples)
    report = progress and partial(progress, "write")
    return write_text(
        model, texts=run.samples, length=run.text_length, start=run.start_token, seed=seed, progress=report
    )


def read_batches(source: Data | None, model: Model, preprocess: Preprocess | Sequence[str] | None) -> Batches | None:
    """The data that `load_data` reads from a source; a text is a list of one part of the preprocessing."""
    if source is None:
        return None
    parsed = preprocess if isinstance(preprocess, Preprocess) else None
    if preprocess and not isinstance(preprocess, Preprocess):
        parsed = read_preprocess([preprocess] if isinstance(preprocess, str) else preprocess)
    return load_data(source, list_input_specs(model.proto), preprocess=parsed)


def draws_inputs(options: Options, model: Model, batches: Batches | None) -> bool:
    """May a repair that nobody asked for be made on drawn inputs: are there no data, pictures, and does the model run here?"""
    room = read_free_memory()
    fits = room is None or 2 * COPIES * model.size_bytes <= room  # with the original beside it
    if batches is not None or options.repair is not None or not fits or not takes_images(model):
        return False
    try:
        draw_batches(model, options.seed, 1)
    except OnnxPruneError:
        return False
    return True


def choose_memory(run: RunSettings) -> Memory:
    """The memory for data: the setting, else half of the free memory, up to the limit above which files are no slower."""
    free = read_free_memory()
    if run.memory is not None:
        return Memory(read_size(run.memory))
    return Memory() if free is None else Memory(min(free // 2, MEMORY_BYTES), free)
