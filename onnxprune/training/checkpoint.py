"""The state of training in a file, from which the same training goes on exactly."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.files import write_file
from onnxprune.graph.weights import Array


class Checkpoint:
    """A file, None for none; `key` says of which training it is."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key

    def save(self, state: dict[str, Any]) -> None:
        """All or nothing. Raises OutputError where it cannot be written."""
        if self.path is None:
            return
        buffer = io.BytesIO()
        torch.save({**state, "key": self.key}, buffer)
        write_file(self.path, lambda sink: sink.write(buffer.getbuffer()))

    def read(self) -> dict[str, Any] | None:
        """The state; None where there is no file yet. Raises OnnxPruneError for a file of another training, or of anything else."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            same = state["key"] == self.key
        except Exception as e:  # whatever torch says of a file that it did not write
            raise OnnxPruneError(
                f"checkpoint '{self.path}' is none of onnxprune; choose another name, or remove it"
            ) from e
        if not same:
            raise OnnxPruneError(
                f"checkpoint '{self.path}' is of other models, data or settings; choose another name, or remove it"
            )
        return state


def make_key(settings: object, arrays: Iterable[Array]) -> str:
    """A hash of what decides how training goes."""
    h = hashlib.sha256(repr(settings).encode())
    for x in arrays:
        h.update(f"{x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return h.hexdigest()
