"""The bytes of ONNX files: just enough of the protobuf wire format to leave weights where they are.

A protobuf message is a run of records: a key (field number and wire type, one varint), then a varint,
4 or 8 bytes, or a length and that many bytes. Nested messages are of the last kind, so a model is
walked as ModelProto.graph -> GraphProto.initializer -> TensorProto.raw_data without reading the rest.

Source: https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from onnxprune.errors import OutputError
from onnxprune.graph.files import Sink, SourceFile
from onnxprune.graph.weights import Weight, iterate_pieces

Buffer = bytes | SourceFile

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 (groups) are not used by ONNX

VARINT_BYTES = 10  # the longest number

GRAPH = 7  # ModelProto.graph
INITIALIZER = 5  # GraphProto.initializer
RAW_DATA = 9  # TensorProto.raw_data


class WireError(Exception):
    """The bytes are not a run of protobuf records that this module can walk."""


class WireRecord(NamedTuple):
    """One record: its key is at `at`, its value is `buf[start:end]`."""

    number: int
    wire_type: int
    at: int
    start: int
    end: int


class Extent(NamedTuple):
    """Where a value lies in its file, in bytes."""

    offset: int
    length: int


def read_varint(buf: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return the varint at `at` and the position after it."""
    value = 0
    for i, byte in enumerate(buf[at : min(at + VARINT_BYTES, end)]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise WireError(f"byte {at}: a number is {'cut short' if end < at + VARINT_BYTES else 'longer than 64 bits'}")


def iterate_records(buf: Buffer, at: int, end: int) -> Iterator[WireRecord]:
    """Walk the records of the message `buf[at:end]`; raises WireError where that is impossible."""
    while at < end:
        key, start = read_varint(buf, at, end)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError(f"byte {at}: there is no field 0")
        if wire_type == VARINT:
            stop = read_varint(buf, start, end)[1]
        elif wire_type == LENGTH:
            size, start = read_varint(buf, start, end)
            stop = start + size
        elif wire_type in (FIXED32, FIXED64):
            stop = start + (4 if wire_type == FIXED32 else 8)
        else:
            raise WireError(f"byte {at}: wire type {wire_type} is not used by ONNX")
        if stop > end:
            raise WireError(f"byte {at}: field {number} needs {stop - start} bytes, {end - start} are left")
        yield WireRecord(number, wire_type, at, start, stop)
        at = stop


def encode_varint(value: int) -> bytes:
    """Encode a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_prefix(number: int, length: int) -> bytes:
    """The key and the length that stand before a nested message or a bytes field."""
    return encode_varint(number << 3 | LENGTH) + encode_varint(length)


def strip(buf: Buffer, limit: int) -> tuple[bytes, list[Extent | None]]:
    """Copy a serialized ModelProto without the `raw_data` of its large initializers.

    Returns the copy, and for each initializer of the main graph, in file order, where its `raw_data`
    lies in `buf` when it is longer than `limit` bytes and was left out (None when it was copied).
    A graph given in several records keeps them: protobuf merges them on parsing, in this order.
    """
    extents: list[Extent | None] = []

    def tensor(record: WireRecord) -> bytes | None:
        raw = [
            r for r in iterate_records(buf, record.start, record.end) if (r.number, r.wire_type) == (RAW_DATA, LENGTH)
        ]
        if not raw or raw[-1].end - raw[-1].start <= limit:  # of a repeated scalar field the last one counts
            extents.append(None)
            return None
        extents.append(Extent(raw[-1].start, raw[-1].end - raw[-1].start))
        return _rebuild(buf, record.start, record.end, {r.at: (r.end, b"") for r in raw})

    def graph(record: WireRecord) -> bytes:
        inner = (
            r
            for r in iterate_records(buf, record.start, record.end)
            if (r.number, r.wire_type) == (INITIALIZER, LENGTH)
        )
        return _nested(buf, record, ((r, tensor(r)) for r in inner))

    outer = [r for r in iterate_records(buf, 0, len(buf)) if (r.number, r.wire_type) == (GRAPH, LENGTH)]
    return _rebuild(buf, 0, len(buf), {r.at: (r.end, _framed(GRAPH, graph(r))) for r in outer}), extents


def _framed(number: int, body: bytes) -> bytes:
    return encode_prefix(number, len(body)) + body


def _nested(buf: Buffer, record: WireRecord, edits: Iterator[tuple[WireRecord, bytes | None]]) -> bytes:
    changed = {r.at: (r.end, _framed(r.number, body)) for r, body in edits if body is not None}
    return _rebuild(buf, record.start, record.end, changed)


def _rebuild(buf: Buffer, at: int, end: int, edits: dict[int, tuple[int, bytes]]) -> bytes:
    """Copy `buf[at:end]`, with each span `start: (stop, new)` of `edits` replaced."""
    out = bytearray()
    for start, (stop, new) in edits.items():
        out += buf[at:start]
        out += new
        at = stop
    out += buf[at:end]
    return bytes(out)


class ModelFrame(NamedTuple):
    """A serialized ModelProto cut at its initializers.

    `before` and `after` are the records of the model around its graph, `gaps` those of the graph: gaps[i]
    stands before initializer i, the last one after them all. Nothing is lost: unknown fields stay.
    """

    before: bytes
    gaps: list[bytes]
    after: bytes


def cut(model: bytes) -> ModelFrame:
    """Cut a serialized ModelProto, which has one graph record, at the initializers of that graph."""
    (graph,) = (r for r in iterate_records(model, 0, len(model)) if r.number == GRAPH)
    gaps, at = [], graph.start
    for r in iterate_records(model, graph.start, graph.end):
        if r.number == INITIALIZER:
            gaps.append(model[at : r.at])
            at = r.end
    gaps.append(model[at : graph.end])
    return ModelFrame(model[: graph.at], gaps, model[graph.end :])


class FilePart(NamedTuple):
    """An initializer in the model file: bytes, then the data of a weight."""

    head: bytes
    weight: Weight | None

    @property
    def size(self) -> int:
        return len(self.head) + (self.weight.nbytes if self.weight else 0)


class Layout(NamedTuple):
    """All the bytes to be written: those of the model file, and (offset, weight) for the data file."""

    frame: ModelFrame
    parts: list[FilePart]
    blocks: list[tuple[int, Weight]]

    @property
    def graph_size(self) -> int:
        return sum(p.size for p in self.parts) + sum(map(len, self.frame.gaps))

    @property
    def size(self) -> int:
        """Bytes of the model file."""
        graph = self.graph_size
        return len(self.frame.before) + len(encode_prefix(GRAPH, graph)) + graph + len(self.frame.after)

    def write_model(self, file: Sink) -> None:
        file.write(self.frame.before + encode_prefix(GRAPH, self.graph_size))
        for gap, part in zip(self.frame.gaps, self.parts, strict=False):  # there is one gap more
            file.write(gap + part.head)
            if part.weight:
                _put(file, part.weight)
        file.write(self.frame.gaps[-1] + self.frame.after)

    def write_data(self, file: Sink) -> None:
        at = 0
        for offset, weight in self.blocks:
            file.write(bytes(offset - at))
            _put(file, weight)
            at = offset + weight.nbytes


class Hashed:
    """A file, and the hash of what is written to it."""

    def __init__(self, file: Sink, digest: "hashlib._Hash") -> None:
        self.file, self.digest = file, digest

    def write(self, data: bytes | memoryview, /) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _put(file: Sink, weight: Weight) -> None:
    written = sum(file.write(piece) for piece in iterate_pieces(weight))
    if written != weight.nbytes:
        raise OutputError(f"a weight of {weight.nbytes} bytes now has {written}; its source changed, load it again")
