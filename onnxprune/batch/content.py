"""Digests of files: of models with the data files that they name, of data, of folders.

Models are not parsed, for they may be broken in any way: the names of data files are found by the bytes that stand before
them. Digests are remembered by path, size and time of the last change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# The entry `location` of a tensor's external_data: field 1 (the key), then the tag of field 2 (its value).
# Source: StringStringEntryProto in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
LOCATION = b"\x0a\x08location\x12"
LONGEST = 4096  # bytes of a file name
SEAM = len(LOCATION) + 2 + LONGEST
CHUNK_BYTES = 1 << 22

Stamp = tuple[int, int]  # size in bytes, time of the last change in ns


@dataclass(frozen=True)
class Seen:
    """The digest of one file, and the data files that it names."""

    digest: str
    refers: tuple[str, ...] = ()


class DigestMemory(Protocol):
    """Where digests are remembered."""

    def recall(self, path: str, stamp: Stamp) -> Seen | None: ...
    def keep(self, path: str, stamp: Stamp, seen: Seen) -> None: ...


class ContentDigests:
    """Digests of files and folders. `stop` is asked between pieces of a file, and may raise."""

    def __init__(self, memory: DigestMemory, stop: Callable[[], None] = lambda: None) -> None:
        self.memory, self.stop = memory, stop

    def model(self, path: Path) -> str:
        """Of a model and its data files; a data file that is missing counts as such."""
        seen = self._file(path)
        parts = [seen.digest]
        for name in seen.refers:
            beside = path.parent / name
            parts.append(f"{name}={self._file(beside).digest if beside.is_file() else 'missing'}")
        return _digest("\n".join(parts))

    def refers(self, path: Path) -> tuple[str, ...]:
        """The data files that a model names, by paths from its folder; none that would lie outside."""
        return tuple(n for n in self._file(path).refers if not Path(n).is_absolute() and ".." not in Path(n).parts)

    def data(self, path: Path) -> str:
        """Of a file, or of all files in a folder with their names."""
        if not path.is_dir():
            return self._file(path).digest
        files = sorted(f for f in path.rglob("*") if f.is_file())
        return _digest("\n".join(f"{f.relative_to(path).as_posix()}={self._file(f).digest}" for f in files))

    def _file(self, path: Path) -> Seen:
        status, key = path.stat(), os.path.realpath(path)
        stamp = (status.st_size, status.st_mtime_ns)
        seen = self.memory.recall(key, stamp)
        if seen is None:
            seen = self._read(path)
            self.memory.keep(key, stamp, seen)
        return seen

    def _read(self, path: Path) -> Seen:
        digest = hashlib.sha256()
        names = dict[str, None]()
        tail = b""
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                self.stop()
                digest.update(chunk)
                seam = tail + chunk[:SEAM]  # a name may begin in one piece and end in the next
                names |= dict.fromkeys((*find_locations(seam), *find_locations(chunk)))
                tail = (chunk if len(chunk) >= SEAM else seam)[-SEAM:]
        return Seen(digest.hexdigest(), tuple(sorted(names)))


def find_locations(data: bytes) -> Iterator[str]:
    """The names of data files in a piece of a model, as far as they are in it whole."""
    at = data.find(LOCATION)
    while at >= 0:
        start = at + len(LOCATION)
        length, start = _varint(data, start)
        name = data[start : start + length]
        if 0 < length <= LONGEST and len(name) == length and b"\0" not in name:
            yield name.decode(errors="surrogateescape")
        at = data.find(LOCATION, start)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to two bytes of seven bits, and where it ends."""
    value = shift = 0
    for byte in data[at : at + 2]:
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    return 0, at


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
