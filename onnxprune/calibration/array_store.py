"""Arrays that wait for their next use, as activations of all calibration samples do: in memory up to a limit, beyond it in files.

What is in a file is mapped when it is asked for, and is the same to the last bit. So a limit changes no result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from onnxprune.errors import OutputError
from onnxprune.graph.files import explain_os_error, make_temporary_folder

Array = np.ndarray[Any, np.dtype[Any]]
Key = TypeVar("Key", bound=Hashable)
MEMORY_BYTES = 4 << 30  # where nobody says another limit
LARGE_SHARE = 10  # an array of more than a tenth of the limit waits in a file, as Gram matrices of 8,192 channels do
SMALL_BYTES = 4096  # an array of no more is not worth a file


class Memory:
    """The memory limit of calibration data: one half for stored arrays, one half for the arrays in use."""

    def __init__(self, limit: int = MEMORY_BYTES, most: int | None = None) -> None:
        """`most` is what a piece of work may take that cannot be done with less: all of the limit, unless somebody knows better."""
        self.limit, self.most, self.waiting = limit, limit if most is None else most, 0

    @property
    def working(self) -> int:
        """The bytes that one piece of work may take."""
        return self.limit // 2

    def take(self, nbytes: int) -> bool:
        """Is there room for one more array in a store? Then it is taken; for a very large one there is none: files do as well."""
        fits = nbytes <= self.limit // LARGE_SHARE and self.waiting + nbytes <= self.limit - self.working
        self.waiting += nbytes if fits else 0
        return fits

    def give_back(self, nbytes: int) -> None:
        self.waiting -= nbytes


class ArrayStore:
    """Arrays under (tensor, batch). What finds no room in `memory` goes to a temporary folder; `close` removes it."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory, self.bytes = memory or Memory(), 0
        self._arrays: dict[Hashable, dict[int, Array | Path]] = {}
        self._dtypes: dict[Hashable, np.dtype[Any]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = self._batches = 0

    def __enter__(self) -> ArrayStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be at its end
            self.close()

    def put(self, name: Hashable, batch: int, array: Array) -> None:
        """Raises OutputError where the disk is full."""
        self._dtypes[name] = array.dtype
        stays = _is_small(array) or self.memory.take(array.nbytes)
        self.bytes += 0 if _is_small(array) or not stays else array.nbytes
        self._arrays.setdefault(name, {})[batch] = array if stays else self._spill(array)

    def put_all(self, batch: int, arrays: Mapping[str, Array]) -> None:
        """All arrays of a batch; batches come in order."""
        self._batches = batch + 1
        for name, array in arrays.items():
            self.put(name, batch, array)

    def __len__(self) -> int:
        """The number of batches stored by `put_all`."""
        return self._batches

    def _spill(self, array: Array) -> Path:
        self._folder = self._folder or make_temporary_folder()
        self._files += 1
        path = Path(self._folder.name, f"{self._files}.npy")
        try:
            np.save(path, array.view(np.dtype(f"V{array.itemsize}")) if array.dtype.kind == "V" else array)
        except OSError as e:
            reason = (
                explain_os_error(e) if e.errno else f"no space is left ({e})"
            )  # numpy tells how much it wrote, not why
            text = f"{path.parent}: {reason}; make room there, name another folder in TMPDIR, or give more --memory"
            raise OutputError(text) from e
        return path

    def get(self, name: Hashable, batch: int) -> Array:
        stored = self._arrays[name][batch]
        if not isinstance(stored, Path):
            return stored
        array: Array = np.load(stored, mmap_mode="r")
        return array.view(self._dtypes[name])

    def drop(self, name: Hashable, batch: int) -> None:
        stored = self._arrays[name].pop(batch)
        if isinstance(stored, Path):
            stored.unlink()
        elif not _is_small(stored):
            self._give_back(stored.nbytes)

    def _give_back(self, nbytes: int) -> None:
        self.bytes -= nbytes
        self.memory.give_back(nbytes)

    def __contains__(self, name: Hashable) -> bool:
        return bool(self._arrays.get(name))

    def dtype(self, name: Hashable) -> np.dtype[Any]:
        return self._dtypes[name]

    def close(self) -> None:
        """Forget all arrays; one that was handed out may still be used, but for Windows."""
        self._arrays.clear()
        self._give_back(self.bytes)
        if self._folder is not None:
            self._folder.cleanup()


def _is_small(array: Array) -> bool:
    """Does it stay in memory whatever the limit? So do objects, which no file can be mapped to."""
    return array.nbytes <= SMALL_BYTES or array.dtype.hasobject


class StoredArrays(Mapping[Key, Array]):
    """Arrays by key, in a store of their own."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._store, self._keys = ArrayStore(memory), dict[Key, None]()

    def __setitem__(self, key: Key, array: Array) -> None:
        self._keys[key] = None
        self._store.put(key, 0, array)

    def __getitem__(self, key: Key) -> Array:
        return self._store.get(key, 0)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class StoredBatches(Sequence[Mapping[str, Array]]):
    """Arrays by name, batch after batch, in a store of their own."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._store, self._names = ArrayStore(memory), list[Sequence[str]]()

    def append(self, arrays: Mapping[str, Array]) -> None:
        self._names.append(list(arrays))
        self._store.put_all(len(self._names) - 1, arrays)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        index = range(len(self))[at]
        return {name: self._store.get(name, index) for name in self._names[index]}

    def __len__(self) -> int:
        return len(self._names)
