"""Read and write files that other processes may read and write at any time: as one state, or not at all."""

import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from onnxprune.errors import ModelError, OutputError

WINDOW_BYTES = 1 << 16  # what is read at once where a few bytes are asked for
BUFFER_BYTES = 1 << 16  # larger pieces are written without being copied first
TICK_SECONDS = 0.01  # the clock of a file system: two changes within one tick have the same time
DIGITS = 16  # of the hash in the name of a data file
_SEEKING = threading.Lock()
TEMPORARY = re.compile(r"\.?onnxprune-([0-9a-f]{8})-(\d+)-\w+(\.tmp)?")  # machine, process, something random


class Sink(Protocol):
    """A destination for bytes."""

    def write(self, data: bytes | memoryview, /) -> int: ...


Writer = Callable[[Sink], object]


class SourceFile:
    """A file that is open for reading; ModelError from every read after a change.

    It is read, not memory-mapped: a map of a file that is cut short kills the process that looks at it, and pages that were
    looked at once stay in its memory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.place = Path(path), os.path.abspath(path)
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
            same = _state(os.stat(self.place)) == self._state
        except OSError:
            same = False
        if not same:
            raise self._changed()

    def _changed(self) -> ModelError:
        return ModelError(f"{self.path} was changed while it was read; start again when nothing writes to it")


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_at(fd: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    with _SEEKING:  # Windows: one thread at a time
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def write_file(target: Path, write: Writer) -> None:
    """Write a file, all or nothing.

    When the bytes reach the disk is left to the system, as by most programs that copy files: a power failure may take them.
    Raises OutputError for whatever the system refuses.
    """
    with open_drafts(target) as draft:
        os.replace(draft(write), target)


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing; raises OutputError."""
    write_file(path, lambda file: file.write(text.encode()))


@contextmanager
def open_drafts(target: Path) -> Iterator[Callable[[Writer], Path]]:
    """A function that writes a file beside `target` and gives back its path, for it to be renamed.

    Files that were not renamed are removed at the end, and first those that processes left behind that were killed.
    Raises OutputError for whatever the system refuses within.
    """
    if target.is_dir():
        raise OutputError(f"{target} is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: there is no folder {target.parent}; create it first")
    paths: list[Path] = []

    def draft(write: Writer) -> Path:
        paths.append(target.with_name(f".{_prefix()}{secrets.token_hex(8)}.tmp"))
        with open(paths[-1], "xb", buffering=BUFFER_BYTES) as file:
            write(file)
        return paths[-1]

    try:
        remove_abandoned(target.parent)
        yield draft
    except OSError as e:
        raise OutputError(
            f"{target}: {explain_os_error(e)}; it was not written, make room or choose another place"
        ) from e
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def name_data_file(target: Path, digest: str) -> Path:
    """Where the data with a hash go that belong to the model file `target`; its name is always as long."""
    return target.with_name(f"{target.name}.{digest[:DIGITS]:0>{DIGITS}}.data")


def find_data_files(target: Path) -> set[Path]:
    """The files there that have such a name."""
    own = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]{{{DIGITS}}}\.data")
    return {path for path in target.parent.iterdir() if own.fullmatch(path.name)}


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders of processes of this machine that are no more."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if match and match[1] == _machine() and not _is_alive(int(match[2])):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def make_temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for as long as it is used; those of processes that were killed are removed first."""
    remove_abandoned(Path(tempfile.gettempdir()))
    return tempfile.TemporaryDirectory(prefix=_prefix(), ignore_cleanup_errors=True)


def _prefix() -> str:
    return f"onnxprune-{_machine()}-{os.getpid()}-"


def _machine() -> str:
    """This machine, or a container of it, whose processes have numbers of their own."""
    numbers = ""
    with suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    if os.name == "posix":  # elsewhere `kill` ends it
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # somebody else's
            pass
    return True


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for renaming files in it, one process at a time; where a system has no such lock, it is done without."""
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def explain_os_error(error: OSError) -> str:
    """The system's words for an error."""
    return error.strerror or str(error)
