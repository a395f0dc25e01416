"""Read ONNX files without holding their weights in memory.

`load` gives a small message, whose large initializers are empty, and a dictionary of weights that are read
where they lie; `save` (save.py) streams them into a new file, about one tensor at a time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import SparseTensorProto, TensorProto, defs, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph import files, wire
from onnxprune.graph.calls import check_calls
from onnxprune.graph.check import check_divisors, check_text, run_checker
from onnxprune.graph.files import SourceFile
from onnxprune.graph.foreign import to_proto
from onnxprune.graph.model import SMALL_BYTES, Model, list_inner_tensors
from onnxprune.graph.nodes import sort_nodes
from onnxprune.graph.save import count_saved_bytes
from onnxprune.graph.sparse_weights import SparseWeight
from onnxprune.graph.weights import (
    ArrayWeight,
    DataFiles,
    FileWeight,
    TensorWeight,
    Weight,
    check_length,
    clear_data,
    count_needed_bytes,
    is_external,
    keep_memory,
)

# Load


def load(source: Any, example_inputs: Any = None) -> Model:
    """Read and check a model; weights are left in the file.

    Args:
        source: a path, or a model in memory: a ModelProto, the bytes of a file, an onnx_graphsurgeon.Graph, an onnx_ir.Model, a
            torch.onnx.ONNXProgram, or a torch.nn.Module; it is not changed. The weights of a ModelProto are not copied: the
            model reads them from there. Fields of it that the installed onnx does not know are dropped at the level of the
            model and the graph.
        example_inputs: for a torch.nn.Module what it is called with when it is exported: a tensor, or a tuple of arguments.

    Returns:
        The model. A change of its file is an error wherever weights are read after it, and in `save`.

    Raises:
        ModelError: a file that is missing, unreadable, cut short or not ONNX; data that do not fit their shape; external data
            outside the model's folder; whatever onnx.checker finds.
    """
    if isinstance(source, Model):
        return source
    proto = source if isinstance(source, onnx.ModelProto) else to_proto(source, example_inputs)
    if proto is not None:
        return _from_proto(proto)
    try:
        path = Path(source)
    except TypeError as e:
        raise TypeError(
            f"{type(source).__name__} is no model; give a path, a ModelProto, or what another library has of one"
        ) from e
    try:
        return _from_file(path)
    except OSError as e:
        raise ModelError(
            f"{e.filename or path}: {files.explain_os_error(e)}; check the path and its permissions"
        ) from e
    except UnicodeDecodeError as e:
        raise ModelError(f"{path} has text that is not UTF-8 ({e}); it is damaged, copy or export it again") from e


def _from_file(path: Path) -> Model:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; name the .onnx file in it")
    keep_memory()  # for the arrays that weights are read into, one after another
    file, data, where = SourceFile(path), DataFiles(path.parent), str(path)
    if not len(file):
        raise ModelError(f"{path} is empty; copy or download it again")
    proto, extents = _parse(file, where)
    _check_header(proto, where)
    external = any(map(is_external, proto.graph.initializer))
    weights: dict[str, Weight] = {}
    for tensor, extent in zip(proto.graph.initializer, extents, strict=True):
        lying = None if extent is None else FileWeight(file, *extent, tensor.data_type, tensor.dims)
        _add(weights, tensor, _take(tensor, lying, data, where), where)
    sparse = _finish_load(proto, weights, data, where)
    sources = (file, *data.files.values())
    return Model(proto, weights, path, sum(map(len, sources)), external, sources, sparse)


def _from_proto(source: onnx.ModelProto) -> Model:
    where = f"model {source.graph.name!r}"
    _check_header(source, where)
    proto, weights, files = onnx.ModelProto(), dict[str, Weight](), DataFiles(None)
    _copy_fields(source, proto, skip="graph")
    _copy_fields(source.graph, proto.graph, skip="initializer")
    for tensor in source.graph.initializer:
        own = proto.graph.initializer.add()
        if count_needed_bytes(tensor, where) <= SMALL_BYTES or is_external(tensor):
            own.CopyFrom(tensor)
            _add(weights, own, _take(own, None, files, where), where)
        else:
            check_length(tensor, None, where)
            own.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
            for field in ("doc_string", "metadata_props"):
                _copy_field(tensor, own, field)
            _add(weights, tensor, TensorWeight(tensor), where)
    sparse = _finish_load(proto, weights, files, where)
    model = Model(proto, weights, None, 0, sparse=sparse)
    model.size_bytes = count_saved_bytes(model)
    return model


def _finish_load(proto: onnx.ModelProto, weights: dict[str, Weight], files: DataFiles, where: str) -> tuple[str, ...]:
    """Check the model, and make its sparse initializers ones like others; gives back their names."""
    check_text(proto, where)
    check_calls(proto, where)
    sort_nodes(proto.graph)
    for tensor in list_inner_tensors(proto):
        if is_external(tensor):
            _inline(tensor, files.weight(tensor, count_needed_bytes(tensor, where)))
        else:
            check_length(tensor, None, where)
    run_checker(proto, where)
    check_divisors(proto, where)
    sparse = [SparseTensorProto.FromString(t.SerializeToString()) for t in proto.graph.sparse_initializer]
    del proto.graph.sparse_initializer[:]
    for tensor in sparse:
        head = TensorProto(name=tensor.values.name, data_type=tensor.values.data_type, dims=tensor.dims)
        proto.graph.initializer.append(head)
        _add(weights, head, SparseWeight(tensor), where)
    return tuple(t.values.name for t in sparse)


def _copy_fields(source: Any, target: Any, skip: str) -> None:
    for field, _ in source.ListFields():
        if field.name != skip:
            _copy_field(source, target, field.name)


def _copy_field(source: Any, target: Any, name: str) -> None:
    value = getattr(source, name)
    if hasattr(value, "MergeFrom") or hasattr(value, "extend"):
        getattr(target, name).MergeFrom(value)
    elif source.HasField(name):
        setattr(target, name, value)


def _parse(file: SourceFile, where: str) -> tuple[onnx.ModelProto, Sequence[wire.Extent | None]]:
    problem = ""
    try:
        small, extents = wire.strip(file, SMALL_BYTES)
    except wire.WireError as e:  # perhaps a record of an old kind that the walk does not know: protobuf decides
        small, extents, problem = file[:], [], str(e)
    try:
        proto = onnx.ModelProto.FromString(small)
    except Exception as e:  # protobuf's DecodeError, whose module has no type stubs
        if small[:1] == b"\x08" and problem:  # an ONNX file begins with its ir_version, which is field 1
            raise ModelError(f"{where} is cut short or damaged ({problem}); copy or download it again") from e
        pointer = " (a Git LFS pointer: run git lfs pull)" if small.startswith(b"version https://git-lfs") else ""
        raise ModelError(f"{where} is not an ONNX model{pointer}; give a .onnx file") from e
    return proto, extents or [None] * len(proto.graph.initializer)


def _check_header(proto: onnx.ModelProto, where: str) -> None:
    missing = "ir_version" if not proto.ir_version else "graph" if not proto.HasField("graph") else ""
    if missing:
        raise ModelError(f"{where} is not an ONNX model, it has no {missing}; give a .onnx file")
    if proto.ir_version >= 3 and not proto.opset_import:
        raise ModelError(f"{where} has no opset_import, so its operators have no meaning; export it again")
    for value in (v for v in proto.graph.input if v.type.HasField("tensor_type")):
        if value.type.tensor_type.elem_type not in TensorProto.DataType.values():
            kind = value.type.tensor_type.elem_type
            raise ModelError(
                f"{where}: input {value.name!r} has type {kind}, which onnx {onnx.__version__} does not know"
            )
    used = [("IR", proto.ir_version), *((f"opset {o.domain or 'ai.onnx'}", o.version) for o in proto.opset_import)]
    newest = {f"opset {d or 'ai.onnx'}": high for d, (_, high) in defs.C.schema_version_map().items()}
    for what, version in used:
        known = {"IR": int(onnx.IR_VERSION), **newest}.get(what, version)  # other domains are nobody's to judge here
        if version > known:
            raise ModelError(
                f"{where} has {what} version {version}, but onnx {onnx.__version__} knows up to {known}; "
                "upgrade onnx, or export with an older version"
            )


def _take(tensor: TensorProto, lying: Weight | None, files: DataFiles, where: str) -> Weight:
    """The data of an initializer; a large one is emptied, a small external one is moved into the message."""
    nbytes = count_needed_bytes(tensor, where)
    if is_external(tensor):
        weight = files.weight(tensor, nbytes)
        if nbytes <= SMALL_BYTES:
            _inline(tensor, weight)
            return TensorWeight(tensor)
    else:
        check_length(tensor, lying, where)
        if nbytes <= SMALL_BYTES:
            return TensorWeight(tensor)
        weight = lying or ArrayWeight(numpy_helper.to_array(tensor), tensor.data_type)
    clear_data(tensor)
    return weight


def _add(weights: dict[str, Weight], tensor: TensorProto, weight: Weight, where: str) -> None:
    if tensor.name in weights:
        raise ModelError(f"{where}: two initializers are named {tensor.name!r}; export the model again")
    weights[tensor.name] = weight


def _inline(tensor: TensorProto, weight: Weight) -> None:
    clear_data(tensor)
    tensor.raw_data = bytes(weight.raw())
