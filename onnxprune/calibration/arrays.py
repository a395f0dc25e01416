"""Arrays in .npy and .npz files, left on the disk until a batch of them is asked for."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.graph.weights import Array

SMALL_BYTES = 1 << 20  # arrays below this are read at once
LOCAL_HEADER_BYTES = (
    30  # of a zip file, before the name: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz, of a folder of .npy (named by file), or of one .npy; large ones are memory-mapped.

    Raises DataError for files that are no plain arrays.
    """
    if not path.exists():
        raise DataError(
            f"data '{path}': there is no such file; give an .npz with one array an input, or a folder of .npy"
        )
    try:
        if path.is_dir():
            return {f.stem: np.load(f, mmap_mode="r", allow_pickle=False) for f in sorted(path.glob("*.npy"))}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
                return {m.filename.removesuffix(".npy"): _member(path, archive, m) for m in members}
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error) as e:
        how = "write them with numpy.savez(file, **{input_name: array}), without objects (pickles are never loaded)"
        raise DataError(f"data '{path}': cannot be read as plain numpy arrays: {e}; {how}") from e


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """One array of an .npz: mapped where it lies, or, where it is compressed, in a temporary copy."""
    if member.file_size < SMALL_BYTES:
        with archive.open(member) as file:
            return _array(np.lib.format.read_array(file, allow_pickle=False))
    if member.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(member.header_offset + LOCAL_HEADER_BYTES - 4)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(name + extra, 1)
            return _mapped(file)
    with tempfile.TemporaryFile() as copy:  # the map keeps it alive
        with archive.open(member) as file:
            shutil.copyfileobj(file, copy, 1 << 20)
        copy.seek(0)
        return _mapped(copy)


def _mapped(file: IO[bytes]) -> Array:
    """The .npy that begins where `file` stands, memory-mapped."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _array(x: Any) -> Array:
    return np.asarray(x)
