"""Outputs of batches as arrays with one entry per sample, in the order of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxprune.calibration.data import Batches, Stored
from onnxprune.graph.weights import Array


def split_samples(outputs: Sequence[Sequence[Any]], counts: Sequence[Sequence[int]]) -> list[list[Array]] | None:
    """An output of batches, part by part, with the samples of each batch on axis 0; `counts` says how many these are.

    A batch of one sample is that sample's entry, whatever its shape. None where it cannot be told what belongs to which
    sample, and of what is no tensor.
    """
    flat = [(x, n) for part, some in zip(outputs, counts, strict=True) for x, n in zip(part, some, strict=True)]
    if not all(isinstance(x, np.ndarray) for x, _ in flat):
        return None
    if all(x.ndim and len(x) == n for x, n in flat):
        return [list(part) for part in outputs]
    if all(n == 1 for _, n in flat):
        return [[x[None] for x in part] for part in outputs]
    return [list(part) for part in outputs] if len(flat) == 1 else None


def join(arrays: Sequence[Array]) -> Array:
    """Arrays end to end; where their entries differ in shape, as what a detector finds does, an array of arrays."""
    if len(arrays) == 1 or len({x.shape[1:] for x in arrays}) == 1:
        return np.concatenate(arrays) if arrays[0].ndim else arrays[0].copy()
    entries = [entry for x in arrays for entry in x]
    joined = np.empty(len(entries), object)
    for at, entry in enumerate(entries):  # numpy would try to make one array of them
        joined[at] = entry
    return joined


def reunite(parts: Sequence[Batches], outputs: Sequence[Sequence[Array]]) -> Array:
    """Join the outputs of the batches of each part (see `Batches.hold_out`), in the order of the data."""
    if len(parts) == 1:
        return join(outputs[0])
    stored = [p for p in parts if isinstance(p, Stored)]
    if len(stored) == len(parts):
        order = np.argsort(np.concatenate([p.rows for p in stored]), kind="stable")
        united: Array = join([x for part in outputs for x in part])[order]
        return united
    return join([part[at] for at in range(max(map(len, outputs))) for part in outputs if at < len(part)])
