"""Write ONNX files, weight after weight, all or nothing."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from onnxprune.errors import OutputError
from onnxprune.graph import files, wire
from onnxprune.graph.files import SourceFile
from onnxprune.graph.model import SMALL_BYTES, Model, list_inner_tensors
from onnxprune.graph.sparse_weights import encode
from onnxprune.graph.weights import TensorWeight, Weight, clear_data, has_data

PROTOBUF_BYTES = 2**31 - 1  # no protobuf message may be longer
MARGIN_BYTES = 1 << 20  # kept free below that limit
ALIGN_BYTES, PAGE_BYTES, LARGE_BYTES = 64, 4096, 1 << 20  # in a data file, tensors of LARGE_BYTES start on a page


def save(model: Model, path: str | os.PathLike[str], *, external: bool | None = None) -> list[Path]:
    """Write a model, all or nothing.

    The bytes depend on nothing but the model and the name. Initializers come in their order; small ones that were not changed
    keep their field.

    Args:
        model: it is not changed.
        path: where the model goes.
        external: initializers of 1 KiB and more go to `<name>.<hash of its bytes>.data` beside the model, so a model never has
            data that were written for another; the data file of the model that is replaced is removed. None keeps what the
            source did. A model that would pass 2 GiB has a data file whatever was asked.

    Returns:
        The files written: the model, then its data file if it has one.

    Raises:
        OutputError: the target is the source, a folder, or in a folder that does not exist; the disk is full.
        ModelError: the source was changed since it was loaded.
    """
    target = Path(path)
    unnamed = files.name_data_file(target, "").name  # the name is known when the data are written; it is as long
    layout = _layout(model, unnamed if (model.external if external is None else external) else None)
    if layout.size > PROTOBUF_BYTES - MARGIN_BYTES and not layout.blocks:
        layout = _layout(model, unnamed)
    _refuse_source(model, target)
    with files.open_drafts(target) as draft:
        moves: list[tuple[Path, Path]] = []
        if layout.blocks:
            digest = hashlib.sha256()
            written = draft(lambda file: layout.write_data(wire.Hashed(file, digest)))
            moves.append((written, files.name_data_file(target, digest.hexdigest())))
            _refuse_source(model, moves[0][1])
            layout = _layout(model, moves[0][1].name)
        moves.append((draft(layout.write_model), target))
        with files.lock_folder(target.parent):
            _put_in_place(model, moves)
    return [new for _, new in reversed(moves)]


def _put_in_place(model: Model, moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename the data file, then the model: a model file is never there without its data. Then the old data can go."""
    model.check_unchanged()
    draft, target = moves[-1]
    old = _data_to_remove(model, target)
    new = [data for _, data in moves[:-1] if not data.exists()]
    try:
        for move in moves:
            os.replace(*move)
    except BaseException:
        for data in new if draft.exists() else ():  # else the model is in place: it was Ctrl-C
            data.unlink(missing_ok=True)
        raise
    for data in old.difference(data for _, data in moves):
        with suppress(OSError):
            data.unlink(missing_ok=True)


def _data_to_remove(model: Model, target: Path) -> set[Path]:
    """Data that `save` wrote for the model at `target`, which will be replaced, and that no other model here names."""
    old = files.find_data_files(target)
    if old:
        others = {*target.parent.glob("*.onnx"), *(file.path for file in model.files[:1])} - {target}
        named = _locations(target).difference(*map(_locations, others))
        old = {data for data in old if data.name in named}
    return old


def _locations(path: Path) -> set[str]:
    """The data files that the model at `path` names; none where it is no model."""
    try:
        proto = onnx.ModelProto.FromString(wire.strip(SourceFile(path), SMALL_BYTES)[0])
    except Exception:  # OSError, WireError, ModelError, or protobuf's DecodeError, whose module has no type stubs
        return set()
    tensors = (*proto.graph.initializer, *list_inner_tensors(proto))
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def fits_message(model: Model) -> bool:
    """Can the model, with all its data, be one message of less than 2 GiB?"""
    return _layout(model, None).size <= PROTOBUF_BYTES


def build_full_proto(model: Model) -> onnx.ModelProto:
    """The model as one message, with all its data; raises OutputError where that would pass 2 GiB."""
    if not fits_message(model):
        raise OutputError("a model of more than 2 GiB does not fit one message; save it to a file and use that")
    proto = onnx.ModelProto()
    proto.CopyFrom(_stored(model))
    for tensor in proto.graph.initializer:
        weight = find_changed_weight(tensor, model.weights)
        if weight is not None:
            tensor.CopyFrom(copy_head(tensor, weight))
            if weight.data_type != TensorProto.STRING:
                tensor.raw_data = bytes(weight.raw())
    return proto


def count_saved_bytes(model: Model) -> int:
    """The bytes of the one file that `save` would write, were there no limit to a message."""
    return _layout(model, None).size


def write_bytes(model: Model, sink: files.Sink) -> None:
    """Write to a sink what a file of the model would have, weights in it whatever their size."""
    _layout(model, None).write_model(sink)


def _layout(model: Model, data_name: str | None) -> wire.Layout:
    """Decide where every byte goes; with a `data_name`, initializers of 1 KiB and more go to that file."""
    parts: list[wire.FilePart] = []
    blocks: list[tuple[int, Weight]] = []
    end = 0
    proto = _stored(model)
    for tensor in proto.graph.initializer:
        weight = model.weights.get(tensor.name)
        if data_name and weight and weight.data_type != TensorProto.STRING and weight.nbytes >= SMALL_BYTES:
            step = PAGE_BYTES if weight.nbytes >= LARGE_BYTES else ALIGN_BYTES
            at = -(-end // step) * step
            end = at + weight.nbytes
            blocks.append((at, weight))
            parts.append(_part(make_external_head(tensor, weight, data_name, at), None))
        else:
            weight = find_changed_weight(tensor, model.weights)
            head = tensor if weight is None else copy_head(tensor, weight)
            parts.append(_part(head, weight if head.data_type != TensorProto.STRING else None))
    return wire.Layout(wire.cut(proto.SerializeToString(deterministic=True)), parts, blocks)


def _stored(model: Model) -> onnx.ModelProto:
    """The message with sparse initializers as such, where that is smaller."""
    encoded = {name: encode(name, model.weights[name]) for name in model.sparse if name in model.weights}
    if not any(encoded.values()):
        return model.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    dense = [t for t in model.proto.graph.initializer if not encoded.get(t.name)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(dense)
    proto.graph.sparse_initializer.extend(filter(None, encoded.values()))
    return proto


def _part(head: TensorProto, weight: Weight | None) -> wire.FilePart:
    fields = bytes(head.SerializeToString(deterministic=True))
    if weight is not None:
        fields += wire.encode_prefix(wire.RAW_DATA, weight.nbytes)
    length = len(fields) + (weight.nbytes if weight is not None else 0)
    return wire.FilePart(wire.encode_prefix(wire.INITIALIZER, length) + fields, weight)


def find_changed_weight(tensor: TensorProto, weights: dict[str, Weight]) -> Weight | None:
    """The weight to write for an initializer; None where the message itself has the data."""
    weight, in_message = weights.get(tensor.name), has_data(tensor) or 0 in tensor.dims
    if in_message and (weight is None or (isinstance(weight, TensorWeight) and weight.tensor.name == tensor.name)):
        return None
    if weight is None:
        raise OutputError(f"initializer {tensor.name!r} has no data: it is empty and not among the model's weights")
    return weight


def copy_head(tensor: TensorProto, weight: Weight) -> TensorProto:
    """`tensor` with the type and the dims of `weight` and no data, except strings, which have no other place."""
    head = TensorProto()
    head.CopyFrom(tensor)
    clear_data(head)
    head.ClearField("dims")
    head.dims.extend(weight.shape)
    head.data_type = weight.data_type
    if weight.data_type == TensorProto.STRING:
        head.string_data.extend(numpy_helper.from_array(weight.array()).string_data)
    return head


def make_external_head(tensor: TensorProto, weight: Weight, location: str, offset: int) -> TensorProto:
    """The tensor without its data, which are in the file `location` from byte `offset` on."""
    head = copy_head(tensor, weight)
    head.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", weight.nbytes)):
        head.external_data.add(key=key, value=str(value))
    return head


def _refuse_source(model: Model, out: Path) -> None:
    for source in (file.path for file in model.files):
        if out.exists() and source.exists() and out.samefile(source):
            raise OutputError(f"{out} is the model that is being read, or its data; choose another name")
