"""NaN and infinite values in calibration data, which would spoil statistics and least squares without a word."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from onnxprune.calibration.data import Batches, Stored
from onnxprune.calibration.sessions import Feeds, open_session, run
from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array


def check_finite(batches: Batches, model: Model) -> None:
    """Raise DataError where an input has NaN or infinite values, unless the model makes finite outputs of them.

    Some models expect such values: -inf in masks, NaN for what is missing. Images and Python iterables are not looked at.
    """
    if not isinstance(batches, Stored) or not all(isinstance(x, np.ndarray) for x in batches.columns.values()):
        return
    samples, open_once = 0, cache(partial(open_session, model, "original"))
    for feeds in batches:
        bad = {name: rows for name, x in feeds.items() if (rows := _find_bad_rows(x)).size}
        if bad and not _has_finite_outputs(open_once, feeds):
            name, rows = next(iter(bad.items()))
            first = samples + int(rows[0]) if batches.axes[name] == 0 else samples
            raise DataError(
                f"data '{batches.source}': input '{name}' has NaN or infinite values, first in sample {first} (from 0); "
                "remove such samples, or replace the values"
            )
        samples += batches.step


def _find_bad_rows(x: Array) -> Array:
    """The positions on axis 0 with values that are not finite."""
    if x.dtype.kind != "f" or not x.ndim or np.isfinite(x).all():
        return np.zeros(0, np.int64)
    return np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))


def _has_finite_outputs(open_once: Callable[[], Any], feeds: Feeds) -> bool:
    """Does the model cope with them? Where it does not run, something else says so later."""
    try:
        outputs = run(open_once(), feeds)
    except OnnxPruneError:
        return True
    return all(np.isfinite(y).all() for y in outputs.values() if isinstance(y, np.ndarray) and y.dtype.kind == "f")
