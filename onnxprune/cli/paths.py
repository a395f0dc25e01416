"""Look at the places of results before the long work, so that nobody waits for a file that cannot be written."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxprune.errors import OutputError


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Path | None]) -> None:
    """Raise OutputError where an output (by the option that names it) is an input, another output, or not writable."""
    taken = {_real(p): f"the input {p}" for p in inputs if p is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        what = f"{option} {path}"
        if (real := _real(path)) in taken:
            raise OutputError(f"{what} is {taken[real]}, which is never overwritten; choose another name")
        taken[real] = f"the file of {option}"
        _check_place(path, what)


def _real(path: Path) -> object:
    """What two names of one file have in common, hard links included."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino)


def _check_place(path: Path, what: str) -> None:
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{what} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{what} is not a plain file; give the name of one")
    if not folder.exists():
        raise OutputError(f"{what}: there is no folder {folder}; create it first")
    if not folder.is_dir():
        raise OutputError(f"{what}: {folder} is not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{what}: no permission to write in {folder}; choose another place")
