"""Weights that stay where they are until they are read: in a file, in a message, behind a slice.

`array()` unpacks (one element each, ml_dtypes for the types that numpy lacks); `raw()` packs as the ONNX
specification does for `TensorProto.raw_data`: little-endian, 2- and 4-bit elements several to a byte.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph.files import SourceFile

Array = npt.NDArray[Any]
Keep = Sequence[tuple[int, npt.NDArray[np.integer[Any]]]]

LARGEST = 31 << 20  # bytes; glibc's allocator learns up to 32 MiB
MAX_RANK, MAX_BYTES = 64, 2**63 - 1  # of a numpy array, axes of no elements counted as one
BLOCK_BYTES = 1 << 22  # a slice is read in blocks of about this size, so that nothing larger is ever copied twice

TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
DATA_FIELDS = (*TYPED_FIELDS, "raw_data", "external_data", "data_location")
_NARROW = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
BITS = {TensorProto.DataType.Value(k): bits for k, bits in _NARROW.items() if k in TensorProto.DataType.keys()}


def has_data(tensor: TensorProto) -> bool:
    """Are there any data in the message itself?"""
    return tensor.HasField("raw_data") or any(len(getattr(tensor, f)) for f in TYPED_FIELDS)


def clear_data(tensor: TensorProto) -> None:
    """Take the data out of a tensor, wherever they are; name, type and dims stay."""
    for field in DATA_FIELDS:
        tensor.ClearField(field)


class Weight(Protocol):
    """The data of one initializer."""

    @property
    def data_type(self) -> int:
        """A TensorProto.DataType."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int:
        """Bytes of the `raw_data` form; for strings, of the strings."""

    def array(self) -> Array:
        """The elements, read-only."""

    def raw(self) -> bytes | memoryview:
        """The `raw_data` form; strings have none (ValueError)."""


@cache  # numpy makes up the names of types each time that they are asked for
def dtype_of(data_type: int) -> np.dtype[Any]:
    """The numpy or ml_dtypes type of a TensorProto.DataType; KeyError where onnx has none."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))


@cache
def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` is a float of any width, bfloat16 and the 8 and 4 bit floats included."""
    return dtype.name.startswith(("float", "bfloat"))  # ml_dtypes' types are no subtypes of np.floating


def count_packed_bytes(data_type: int, shape: Sequence[int]) -> int:
    """Bytes of the `raw_data` form of a tensor; KeyError for a type that onnx does not know."""
    bits = BITS.get(data_type) or dtype_of(data_type).itemsize * 8
    return (math.prod(shape) * bits + 7) // 8


def _unpack(data: bytes | memoryview, data_type: int, shape: Sequence[int]) -> Array:
    if data_type in BITS:
        return _frozen(numpy_helper.to_array(TensorProto(data_type=data_type, dims=shape, raw_data=bytes(data))))
    return _frozen(np.frombuffer(data, dtype_of(data_type).newbyteorder("<")).reshape(shape))


def _pack(array: Array, data_type: int) -> bytes | memoryview:
    if data_type == TensorProto.STRING:
        raise ValueError("strings have no raw_data form")
    if data_type in BITS or array.dtype.newbyteorder("<") != array.dtype:
        return numpy_helper.from_array(array).raw_data
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data


def _frozen(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _string_bytes(array: Array) -> int:
    return sum(len(s if isinstance(s, bytes) else str(s).encode()) for s in array.reshape(-1))


class FileWeight:
    """`nbytes` at `offset` of a file, in `raw_data` form."""

    def __init__(self, file: SourceFile, offset: int, nbytes: int, data_type: int, shape: Sequence[int]) -> None:
        self.file, self.offset, self.nbytes = file, offset, nbytes
        self.data_type, self.shape = data_type, tuple(shape)

    def raw(self) -> bytes:
        return self.file.read(self.offset, self.nbytes)

    def array(self) -> Array:
        return _unpack(self.raw(), self.data_type, self.shape)

    def rows(self, start: int, stop: int) -> Array:
        """`array()[start:stop]` of a type without narrow elements; the rest is not read."""
        row = self.nbytes // self.shape[0]
        data = self.file.read(self.offset + start * row, (stop - start) * row)
        return _unpack(data, self.data_type, (stop - start, *self.shape[1:]))

    def elements(self, start: int, stop: int) -> Array:
        """`array().reshape(-1)[start:stop]` of a type without narrow elements; the rest is not read."""
        width = dtype_of(self.data_type).itemsize
        data = self.file.read(self.offset + start * width, (stop - start) * width)
        return _unpack(data, self.data_type, (stop - start,))

    def pieces(self) -> Iterator[bytes]:
        """The `raw_data` form, block by block."""
        for at in range(0, self.nbytes, BLOCK_BYTES):
            yield self.file.read(self.offset + at, min(BLOCK_BYTES, self.nbytes - at))


class ArrayWeight:
    """An array in memory, which must not be changed afterwards; `data_type` defaults to that of its dtype."""

    def __init__(self, array: Array, data_type: int | None = None) -> None:
        self._array = _frozen(np.asarray(array))
        self.data_type = int(helper.np_dtype_to_tensor_dtype(array.dtype)) if data_type is None else data_type
        if self.data_type != TensorProto.STRING and dtype_of(self.data_type) != self._array.dtype.newbyteorder("="):
            raise ValueError(f"{self._array.dtype} is not the dtype of {TensorProto.DataType.Name(self.data_type)}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def nbytes(self) -> int:
        return _string_bytes(self._array) if self.data_type == TensorProto.STRING else count_packed_bytes(*_head(self))

    def array(self) -> Array:
        return self._array

    def raw(self) -> bytes | memoryview:
        return _pack(self._array, self.data_type)


class TensorWeight:
    """The data of a TensorProto, whichever field holds them, read when asked for.

    It follows the message: who changes the message changes the weight.
    """

    def __init__(self, tensor: TensorProto) -> None:
        self.tensor = tensor

    @property
    def data_type(self) -> int:
        return int(self.tensor.data_type)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.dims)

    @property
    def nbytes(self) -> int:
        strings = self.data_type == TensorProto.STRING
        return sum(map(len, self.tensor.string_data)) if strings else count_packed_bytes(*_head(self))

    def array(self) -> Array:
        if self.data_type == TensorProto.STRING:  # numpy_helper would make a str of it, and fail on other bytes
            return _frozen(np.array([*self.tensor.string_data, None], dtype=object)[:-1].reshape(self.shape))
        return _frozen(numpy_helper.to_array(self.tensor))

    def raw(self) -> bytes | memoryview:
        return self.tensor.raw_data if self.tensor.HasField("raw_data") else _pack(self.array(), self.data_type)


class DerivedWeight:
    """A weight that is computed from `base` when it is read: some rows at a time, so that little of it is in memory at once."""

    base: Weight
    data_type: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return count_packed_bytes(*_head(self))

    def parts(self) -> Iterator[Array]:
        """The elements in their order, an array for each part."""
        raise NotImplementedError

    def array(self) -> Array:
        out = np.empty(math.prod(self.shape), dtype_of(self.data_type))
        at = 0
        for part in self.parts():
            out[at : at + part.size] = part.reshape(-1)
            at += part.size
        return _frozen(out.reshape(self.shape))

    def raw(self) -> bytes | memoryview:
        return _pack(self.array(), self.data_type)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The `raw_data` form, piece by piece."""
        if self.data_type in BITS:  # several elements to a byte: a piece might end within one
            yield self.raw()
            return
        for part in self.parts():
            yield _pack(part, self.data_type)


class SlicedWeight(DerivedWeight):
    """The kept indices of some axes of `base`, computed when read, never cached.

    `keep` lists (axis, indices); axes may repeat, later entries index what earlier ones left. Indices may
    be in any order and may repeat. Slices of slices are composed, so that reading stays one pass. Raises
    ValueError for an axis or an index out of range.
    """

    def __init__(self, base: Weight, keep: Keep) -> None:
        taken: dict[int, npt.NDArray[np.int64]] = dict(base.keep) if isinstance(base, SlicedWeight) else {}
        self.base: Weight = base.base if isinstance(base, SlicedWeight) else base
        shape = list(self.base.shape)
        for axis, indices in [*taken.items(), *keep]:
            _check_keep(shape, axis, indices)
            shape[axis] = len(indices)
        for axis, indices in keep:
            index = np.asarray(indices, dtype=np.int64)
            taken[axis] = taken[axis][index] if axis in taken else index
        self.keep: dict[int, npt.NDArray[np.int64]] = taken
        self.shape, self.data_type = tuple(shape), self.base.data_type

    @property
    def nbytes(self) -> int:
        return _string_bytes(self.array()) if self.data_type == TensorProto.STRING else count_packed_bytes(*_head(self))

    def array(self) -> Array:
        return super().array() if self.keep else self.base.array()

    def parts(self) -> Iterator[Array]:
        if not math.prod(self.shape):
            return
        rows = self.keep.get(0, np.arange(self.base.shape[0]))
        row_bytes = math.prod(self.base.shape[1:]) * dtype_of(self.data_type).itemsize
        source, step = self._source(rows), max(1, BLOCK_BYTES // row_bytes)
        for at in range(0, len(rows), step):
            yield self._rows(source, rows[at : at + step])

    def _source(self, rows: npt.NDArray[np.int64]) -> FileWeight | Array:
        """The base where its rows can be read from a file one block after another, else all of its elements."""
        ascending = bool(np.all(rows[1:] > rows[:-1]))
        if isinstance(self.base, FileWeight) and ascending and self.data_type not in BITS:
            return self.base
        return self.base.array()

    def _rows(self, source: FileWeight | Array, rows: npt.NDArray[np.int64]) -> Array:
        first, stop = int(rows[0]), int(rows[-1]) + 1
        if isinstance(source, FileWeight):
            block = source.rows(first, stop)
            block = block if len(block) == len(rows) else block[rows - first]
        else:
            block = source[rows] if 0 in self.keep else source[first:stop]
        for axis in self._inner:
            block = block.take(self.keep[axis], axis)
        return block

    @cached_property
    def _inner(self) -> list[int]:
        """The axes after the first, the one that drops the largest share first."""
        return sorted((a for a in self.keep if a), key=lambda a: (self.shape[a] / self.base.shape[a], a))


def _check_keep(shape: Sequence[int], axis: int, indices: npt.NDArray[np.integer[Any]]) -> None:
    if not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis} is not an axis of {list(shape)}")
    index = np.asarray(indices)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise ValueError(f"axis {axis}: indices must be a list of integers, not {index.dtype}{list(index.shape)}")
    if index.size and not 0 <= index.min() <= index.max() < shape[axis]:
        raise ValueError(f"axis {axis}: indices {index.min()}..{index.max()} leave 0..{shape[axis] - 1}")


def _head(weight: Weight) -> tuple[int, tuple[int, ...]]:
    return weight.data_type, weight.shape


def keep_memory() -> None:
    """Have the allocator keep what arrays free for the next ones, instead of giving it back and faulting it in again.

    glibc does so up to the size of the largest mapped piece that was freed so far (mallopt(3), M_MMAP_THRESHOLD): without
    it, blocks of a megabyte take three times as long. Elsewhere this does nothing.
    """
    np.empty(LARGEST, np.uint8)


def flat_source(weight: Weight) -> Callable[[int, int], Array]:
    """A function that reads the elements from `start` to `stop` of a weight as one row; of a file, only these are read."""
    if isinstance(weight, FileWeight) and weight.data_type not in BITS:
        return weight.elements
    flat = weight.array().reshape(-1)
    return lambda start, stop: flat[start:stop]


def iterate_pieces(weight: Weight) -> Iterator[bytes | memoryview]:
    """The `raw_data` form, in as many pieces as it comes in."""
    if isinstance(weight, FileWeight | DerivedWeight):
        yield from weight.pieces()
    else:
        yield weight.raw()


def is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def count_needed_bytes(tensor: TensorProto, where: str) -> int:
    """Bytes that the shape asks for; 0 for strings, which stay in the message. Raises ModelError for an impossible shape."""
    if any(d < 0 for d in tensor.dims) or tensor.HasField("segment"):
        raise ModelError(f"{where}: tensor {tensor.name!r} has a negative dim or is in segments; export it again")
    try:
        nbytes = count_packed_bytes(tensor.data_type, [d or 1 for d in tensor.dims])
    except KeyError:
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has data type {tensor.data_type}, which onnx {onnx.__version__} does not "
            "know; upgrade onnx, or export the model again"
        ) from None
    if len(tensor.dims) > MAX_RANK or nbytes > MAX_BYTES:
        size = f"{len(tensor.dims)} axes" if len(tensor.dims) > MAX_RANK else f"shape {list(tensor.dims)}"
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has {size}, more than any array can have; export the model again"
        )
    return 0 if tensor.data_type == TensorProto.STRING or 0 in tensor.dims else nbytes


def check_length(tensor: TensorProto, mapped: Weight | None, where: str) -> None:
    """Compare the data with the shape, in bytes for `raw_data`, else in entries of the typed field."""
    need, unit = count_needed_bytes(tensor, where), "bytes"
    if mapped is not None:
        have = mapped.nbytes
    elif tensor.HasField("raw_data"):
        have = len(tensor.raw_data)
    else:
        have, unit = max(len(getattr(tensor, f)) for f in TYPED_FIELDS), "entries"
        need = _entries(tensor)
    if have != need:
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has {have} {unit} of data, but its shape {list(tensor.dims)} needs "
            f"{need}; the file is damaged, export it again"
        )


def _entries(tensor: TensorProto) -> int:
    """Entries of the typed field: 2- and 4-bit elements are packed into bytes there too, complex ones take two."""
    if BITS.get(tensor.data_type) in (2, 4):
        return count_packed_bytes(tensor.data_type, tensor.dims)
    per_element = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    return per_element * count_packed_bytes(TensorProto.UINT8, tensor.dims)


class DataFiles:
    """The external data files of a model, which lie in its folder; None for a model that has no folder.

    Links out of the folder are refused. Hard links cannot be: each of a file's names is as good as the others.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.files: dict[Path, SourceFile] = {}

    def weight(self, tensor: TensorProto, nbytes: int) -> Weight:
        """The `nbytes` of data that `tensor` keeps in a file; raises ModelError, naming both.

        Source: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
        """
        entries = {e.key: e.value for e in tensor.external_data}
        what = f"tensor {tensor.name!r}: external data file {entries.get('location', '')!r}"
        path = self._path(entries.get("location", ""), what)
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or nbytes)
        except ValueError as e:
            raise ModelError(f"{what}: offset and length must be whole numbers; export the model again") from e
        if length != nbytes:
            raise ModelError(
                f"{what}: length {length} does not fit the shape, which needs {nbytes} bytes; export again"
            )
        if path not in self.files:
            self.files[path] = SourceFile(path)
        size = len(self.files[path])
        if offset < 0 or offset + nbytes > size:
            raise ModelError(f"{what} has {size} bytes, but {offset} + {nbytes} are needed; copy or download it again")
        if nbytes == 0:
            return ArrayWeight(np.empty(tuple(tensor.dims), dtype_of(tensor.data_type)), tensor.data_type)
        return FileWeight(self.files[path], offset, nbytes, tensor.data_type, tensor.dims)

    def _path(self, location: str, what: str) -> Path:
        if self.folder is None:
            raise ModelError(f"{what}: a ModelProto does not say in which folder; give the path of the model instead")
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        if not location or posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
            raise ModelError(f"{what} must be a path inside the model's folder; move it there and export again")
        try:
            path = (self.folder / location).resolve()
        except (ValueError, RuntimeError) as e:  # a NUL; links that lead in a circle
            raise ModelError(f"{what} cannot be found: {e}; export the model again") from e
        if not path.is_relative_to(self.folder.resolve()):
            raise ModelError(f"{what} is a link out of the model's folder; put a copy of the file there")
        if not path.is_file():
            raise ModelError(f"{what} is not in {self.folder}; copy it there")
        return path
