"""Arrays in .npy and .npz files, left on the disk until a batch of them is asked for."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

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
            f"data '{path}': there is no such file or folder; give an .npz with one array per input, a folder of .npy, "
            "or a folder of images"
        )
    try:
        if path.is_dir():
            return {f.stem: np.load(f, mmap_mode="r", allow_pickle=False) for f in sorted(path.glob("*.npy"))}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
                return {m.filename.removesuffix(".npy"): _member(path, archive, m) for m in members}
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
    except Exception as e:  # damaged files make zipfile and numpy raise almost anything
        advice = "write them with numpy.savez(file, **{input_name: array}), without objects (pickles are never loaded)"
        raise DataError(f"data '{path}': cannot be read as plain numpy arrays: {e}; {advice}") from e


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """One array of an .npz: mapped where it lies, or, where it is compressed, in a temporary copy.

    Raises ValueError where the array needs another size than the member has; zipfile, where its checksum is wrong.
    """
    with archive.open(member) as file:
        header = _header(file)
        if file.tell() + header.nbytes != member.file_size:
            raise ValueError(
                f"'{member.filename}' declares {header.nbytes} bytes of data, {member.file_size - file.tell()} are there"
            )
        start = file.tell()
    if member.file_size < SMALL_BYTES:
        data = archive.read(member)[start:]
        return np.ndarray(header.shape, header.dtype, data, order=header.order)
    if member.compress_type == zipfile.ZIP_STORED:
        with archive.open(member) as whole:
            while whole.read(1 << 20):  # at its end the checksum is compared
                pass
        with path.open("rb") as file:
            file.seek(member.header_offset + LOCAL_HEADER_BYTES - 4)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            return _mapped(file, file.tell() + name + extra + start, header)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if member.file_size > free:
        raise ValueError(
            f"'{member.filename}' unpacks to {member.file_size:,} bytes, {free:,} are free in {tempfile.gettempdir()}"
        )
    with tempfile.TemporaryFile() as copy:  # the map keeps it alive
        with archive.open(member) as file:
            shutil.copyfileobj(file, copy, 1 << 20)
        return _mapped(copy, start, header)


class _Header(NamedTuple):
    """Read the shape and the element type from the header of an .npy."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _header(file: IO[bytes]) -> _Header:
    """Read what the .npy that begins where `file` stands declares; its data come next."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return _Header(shape, "F" if fortran else "C", dtype)


def _mapped(file: IO[bytes], at: int, header: _Header) -> Array:
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    return np.memmap(file, header.dtype, "r", at, header.shape, header.order)
