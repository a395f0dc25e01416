"""Read files that other processes may change at any time: as one state, or not at all."""

import os
import time
import weakref
from pathlib import Path

from onnxprune.errors import ModelError

WINDOW_BYTES = 1 << 16  # what is read at once where a few bytes are asked for
TICK_SECONDS = 0.01  # the clock of a file system: two changes within one tick have the same time


class SourceFile:
    """A file that is open for reading; ModelError from every read after a change.

    It is read, not memory-mapped: a map of a file that is cut short kills the process that looks at it, and pages that were
    looked at once stay in its memory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self._place = Path(path), os.path.abspath(path)
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._fd)
        if 0 <= time.time() - os.fstat(self._fd).st_mtime < TICK_SECONDS:
            time.sleep(TICK_SECONDS)
        self._state = _state(os.fstat(self._fd))
        self._window_at, self._window = 0, b""

    def __len__(self) -> int:
        return self._state[2]

    def __getitem__(self, span: slice) -> bytes:
        """The bytes `start:stop`; neighbors of short spans are read with them."""
        start, stop, _ = span.indices(len(self))
        if stop - start > WINDOW_BYTES:
            return self.read(start, stop - start)
        if not self._window_at <= start <= stop <= self._window_at + len(self._window):
            self._window_at = start
            self._window = self.read(start, min(WINDOW_BYTES, len(self) - start))
        return self._window[start - self._window_at : stop - self._window_at]

    def read(self, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        done = 0
        while done < length and (piece := _read_at(self._fd, length - done, offset + done)):  # at most 2 GiB a call
            pieces.append(piece)
            done += len(piece)
        if done < length or _state(os.fstat(self._fd)) != self._state:
            raise self._changed()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self) -> None:
        """Raise ModelError where the file has changed, or another one has taken its place."""
        try:
            same = _state(os.stat(self._place)) == self._state
        except OSError:
            same = False
        if not same:
            raise self._changed()

    def _changed(self) -> ModelError:
        return ModelError(f"{self.path} was changed while it was read; start again when nothing writes to it")


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read_at(fd: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)  # Windows: one thread at a time
    return os.read(fd, length)
