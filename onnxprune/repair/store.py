"""Activations of all calibration samples, batch by batch: in memory up to a limit, beyond it in files that are mapped."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from onnxprune.graph.files import temporary_folder

Array = np.ndarray[Any, np.dtype[Any]]
MEMORY_BYTES = 2 << 30


class ArrayStore:
    """Arrays under (tensor, batch). What does not fit into `limit` bytes goes to a temporary folder; `close` removes it."""

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.limit, self.bytes = limit, 0
        self._arrays: dict[str, dict[int, Array | Path]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = self._batches = 0

    def __enter__(self) -> ArrayStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def put(self, name: str, batch: int, array: Array) -> None:
        self._dtypes[name] = array.dtype
        fits = array.nbytes <= self.limit - self.bytes
        self._arrays.setdefault(name, {})[batch] = array if fits else self._spill(array)
        self.bytes += array.nbytes if fits else 0

    def put_all(self, batch: int, arrays: Mapping[str, Array]) -> None:
        """All arrays of a batch; batches come in order."""
        self._batches = batch + 1
        for name, array in arrays.items():
            self.put(name, batch, array)

    def __len__(self) -> int:
        """How many batches `put_all` has seen."""
        return self._batches

    def _spill(self, array: Array) -> Path:
        self._folder = self._folder or temporary_folder()
        self._files += 1
        path = Path(self._folder.name, f"{self._files}.npy")
        np.save(path, array.view(np.dtype(f"V{array.itemsize}")) if array.dtype.kind == "V" else array)
        return path

    def get(self, name: str, batch: int) -> Array:
        held = self._arrays[name][batch]
        if not isinstance(held, Path):
            return held
        array: Array = np.load(held, mmap_mode="r")
        return array.view(self._dtypes[name])

    def drop(self, name: str, batch: int) -> None:
        held = self._arrays[name].pop(batch)
        if isinstance(held, Path):
            held.unlink()
        else:
            self.bytes -= held.nbytes

    def __contains__(self, name: str) -> bool:
        return bool(self._arrays.get(name))

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._dtypes[name]

    def close(self) -> None:
        self._arrays.clear()
        if self._folder is not None:
            self._folder.cleanup()
