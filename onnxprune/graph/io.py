"""Read and write ONNX files without holding their weights in memory.

`load` gives a small message, whose large initializers are empty, and a dictionary of weights that are read
where they lie; `save` streams them into a new file, about one tensor at a time.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, checker, defs, numpy_helper

from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import files, wire
from onnxprune.graph.calls import check_calls
from onnxprune.graph.files import SourceFile
from onnxprune.graph.nodes import sort_nodes
from onnxprune.graph.sparse import SparseWeight, encode
from onnxprune.graph.view import bodies, domain_of, opsets, value_names
from onnxprune.graph.weights import (
    TYPED_FIELDS,
    ArrayWeight,
    DataFiles,
    FileWeight,
    TensorWeight,
    Weight,
    check_length,
    is_external,
    keep_memory,
    needed_bytes,
)
from onnxprune.ops.records import record_of

SMALL_BYTES = 1024  # an initializer of more bytes than this is taken out of the message
PROTOBUF_BYTES = 2**31 - 1  # no protobuf message may be longer
MARGIN_BYTES = 1 << 20  # kept free below that limit
ALIGN_BYTES, PAGE_BYTES, LARGE_BYTES = 64, 4096, 1 << 20  # in a data file, tensors of LARGE_BYTES start on a page

DIVISORS = ("group", "num_groups", "num_heads", "blocksize")  # attributes that count, of whatever operator
DATA_FIELDS = (*TYPED_FIELDS, "raw_data", "external_data", "data_location")
# Operators without a record that ONNX Runtime takes in the default domain: of before ONNX 1.0, and plugins of TensorRT.
RUNTIME_ONLY = {
    "ATen", "ConstantFill", "DisentangledAttention_TRT", "DynamicSlice", "EfficientNMS_TRT", "GRUUnit", "GivenTensorFill",
    "MultilevelCropAndResize_TRT", "PyramidROIAlign_TRT", "Scale",
}  # fmt: skip
EXPERIMENTAL = "experimental"  # the domain that they have while the checker looks
RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")  # ONNX Runtime's own


@dataclass
class Model:
    """An ONNX model, its weights apart.

    Every main-graph initializer of more than 1 KiB is empty in `proto` (name, data_type and dims stay);
    `weights` has the data of all main-graph initializers, small ones and strings too. To change an
    initializer, replace its weight (dims and type follow on saving); a small one may also be changed in `proto`.
    A sparse initializer is one like others; it is written as `sparse_initializer` again where that is smaller.
    """

    proto: onnx.ModelProto
    weights: dict[str, Weight]
    path: Path | None
    size_bytes: int  # on disk, data files included
    external: bool = False  # initializers came from data files
    files: tuple[SourceFile, ...] = ()  # what it is read from: the model file and its data files
    sparse: tuple[str, ...] = ()  # initializers that the source stores sparse

    def check_unchanged(self) -> None:
        """Raise ModelError where a file that it is read from has changed, or another one has taken its place."""
        for file in self.files:
            file.check()


# Load


def load(source: str | os.PathLike[str] | onnx.ModelProto) -> Model:
    """Read and check a model; weights are left in the file; a change of it is an error
    wherever they are read after it, and in `save`.

    A ModelProto is not changed and its weights are not copied: the model reads them from there. Fields
    of it that the installed onnx does not know are dropped at the level of the model and the graph.

    Raises ModelError: a file that is missing, unreadable, cut short or not ONNX; data that do not fit
    their shape; external data outside the model's folder; whatever onnx.checker finds.
    """
    if isinstance(source, onnx.ModelProto):
        return _from_proto(source)
    path = Path(source)
    try:
        return _from_file(path)
    except OSError as e:
        raise ModelError(f"{e.filename or path}: {files.why(e)}; check the path and its permissions") from e
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
        if needed_bytes(tensor, where) <= SMALL_BYTES or is_external(tensor):
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
    model.size_bytes = _layout(model, None).size
    return model


def _finish_load(proto: onnx.ModelProto, weights: dict[str, Weight], files: DataFiles, where: str) -> tuple[str, ...]:
    """Check the model, and make its sparse initializers ones like others; gives back their names."""
    _check_text(proto, where)
    check_calls(proto, where)
    sort_nodes(proto.graph)
    for tensor in inner_tensors(proto):
        if is_external(tensor):
            _inline(tensor, files.weight(tensor, needed_bytes(tensor, where)))
        else:
            check_length(tensor, None, where)
    _run_checker(proto, where)
    _check_divisors(proto, where)
    sparse = [SparseTensorProto.FromString(t.SerializeToString()) for t in proto.graph.sparse_initializer]
    del proto.graph.sparse_initializer[:]
    for tensor in sparse:
        head = TensorProto(name=tensor.values.name, data_type=tensor.values.data_type, dims=tensor.dims)
        proto.graph.initializer.append(head)
        _add(weights, head, SparseWeight(tensor), where)
    return tuple(t.values.name for t in sparse)


def _check_text(proto: onnx.ModelProto, where: str) -> None:
    """Refuse names that are not text: protobuf hands bytes out where text is damaged."""
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    names: set[Any] = {d.dim_param for v in values for d in v.type.tensor_type.shape.dim}
    names |= value_names(proto) | {proto.producer_name, proto.producer_version, proto.graph.name}
    names |= {x for o in (*proto.opset_import, *proto.functions) for x in (o.domain, getattr(o, "name", ""))}
    for node in (*nodes, *(inner for n in nodes for body in bodies(n) for inner in body.node)):
        names.update((node.name, node.op_type, node.domain), node.input, node.output, (a.name for a in node.attribute))
    if wrong := sorted(n for n in names if isinstance(n, bytes)):
        raise ModelError(
            f"{where}: the name {wrong[0][:40]!r} is not UTF-8 text; the file is damaged, copy or export it again"
        )


def _check_divisors(proto: onnx.ModelProto, where: str) -> None:
    """Refuse counts below 1 that runtimes divide by: ONNX Runtime dies of some, where no exception can be caught."""
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    for node in (*nodes, *(inner for n in nodes for body in bodies(n) for inner in body.node)):
        for a in (
            a for a in node.attribute if a.name in DIVISORS and a.type == a.INT and a.i < 1 and not a.ref_attr_name
        ):
            name = node.name or next(iter(node.output), "")
            raise ModelError(
                f"{where}: {node.op_type} {name!r} has {a.name} {a.i}, but counts start at 1; export it again"
            )


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
    nbytes = needed_bytes(tensor, where)
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
    _clear(tensor)
    return weight


def _add(weights: dict[str, Weight], tensor: TensorProto, weight: Weight, where: str) -> None:
    if tensor.name in weights:
        raise ModelError(f"{where}: two initializers are named {tensor.name!r}; export the model again")
    weights[tensor.name] = weight


def _clear(tensor: TensorProto) -> None:
    for field in DATA_FIELDS:
        tensor.ClearField(field)


def _inline(tensor: TensorProto, weight: Weight) -> None:
    _clear(tensor)
    tensor.raw_data = bytes(weight.raw())


def inner_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model, except the dense initializers of the main graph."""
    yield from _graph_tensors(proto.graph, main=True)
    for graph in (g for t in proto.training_info for g in (t.initialization, t.algorithm)):
        yield from _graph_tensors(graph, main=False)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: GraphProto, main: bool) -> Iterator[TensorProto]:
    yield from () if main else graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Sequence[NodeProto]) -> Iterator[TensorProto]:
    for a in (a for node in nodes for a in node.attribute):
        yield from (*([a.t] if a.HasField("t") else ()), *a.tensors)
        for sparse in (*([a.sparse_tensor] if a.HasField("sparse_tensor") else ()), *a.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (*([a.g] if a.HasField("g") else ()), *a.graphs):
            yield from _graph_tensors(graph, main=False)


def _run_checker(proto: onnx.ModelProto, where: str) -> None:
    """Run onnx.checker on a copy in which emptied initializers have no elements, and so need no data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if not _has_data(tensor):
            tensor.ClearField("dims")
            tensor.dims.append(0)
    _excuse(copy, where)
    try:
        checker.check_model(copy)
    except (checker.ValidationError, ValueError, RuntimeError) as e:
        what = " ".join(str(e).partition("\n\n")[0].split())
        raise ModelError(f"{where} is not valid ONNX: {what}; correct the model, or export it again") from e


def _excuse(copy: onnx.ModelProto, where: str) -> None:
    """Take out of a copy what ONNX Runtime accepts and the checker does not."""
    copy.graph.name = copy.graph.name or "graph"
    for v in (*copy.graph.input, *copy.graph.output):  # a type or a shape that only the run will tell
        if not v.HasField("type"):
            v.type.tensor_type.elem_type = TensorProto.FLOAT
        if v.type.HasField("tensor_type"):
            v.type.tensor_type.shape.SetInParent()
    if (
        copy.ir_version < 4
    ):  # such a file lists its initializers as inputs; the optimizer adds some that it does not list
        copy.ir_version = 4
    for item in (copy, *copy.functions):
        _excuse_domains(item.graph.node if isinstance(item, onnx.ModelProto) else item.node, item.opset_import, where)


def is_runtime_only(node: NodeProto) -> bool:
    """Does ONNX Runtime take the operator in the default domain at opsets at which ONNX does not have it?"""
    return node.op_type in RUNTIME_ONLY or record_of(node).traits.any_opset


def _excuse_domains(nodes: Iterable[NodeProto], imports: Any, where: str) -> None:
    """Import what nodes use and ONNX Runtime imports by itself; give operators that it alone knows a domain of their own."""
    versions = opsets(imports)
    newest = defs.C.schema_version_map()
    own = {**{d: high for d, (_, high) in newest.items() if d}, **dict.fromkeys(RUNTIME_DOMAINS, 1), EXPERIMENTAL: 1}
    for node in (*nodes, *(inner for n in nodes for body in bodies(n) for inner in body.node)):
        node.domain = domain_of(node)
        if not node.domain and is_runtime_only(node) and not _has_schema(node.op_type, versions.get("", 1)):
            node.domain = EXPERIMENTAL
        domain = node.domain
        if domain in versions:
            continue
        if domain not in own:
            file = repr(where if where.endswith(".onnx") else "FILE.onnx")
            raise ModelError(
                f"{where} has no opset import for domain {domain!r} of its operator {node.op_type}; add it: "
                f'python -c "import onnx; model = onnx.load({file}, load_external_data=False); '
                f'model.opset_import.add(domain={domain!r}, version=1); onnx.save(model, {file})"'
            )
        versions[domain] = own[domain]
        imports.add(domain=domain, version=own[domain])


def _has_schema(op: str, version: int) -> bool:
    return defs.has(op, version) and not defs.get_schema(op, version).deprecated


# Save


def save(model: Model, path: str | os.PathLike[str], *, external: bool | None = None) -> list[Path]:
    """Write a model, all or nothing, and return the files written: the model, then its data file if it has one.

    With `external`, initializers of 1 KiB and more go to `<name>.<hash of its bytes>.data` beside the model, so a model never
    has data that were written for another; the data file of the model that is replaced is removed. None keeps what the source
    did. A model that would pass 2 GiB has a data file whatever was asked. The bytes depend on nothing but the model and the
    name. Initializers come in their order; small ones that were not changed keep their field.

    Raises OutputError: the target is the source, a folder, or in a folder that does not exist; the disk is full. ModelError:
    the source was changed since it was loaded.
    """
    target = Path(path)
    unnamed = files.data_file(target, "").name  # the name is known when the data are written; it is as long
    layout = _layout(model, unnamed if (model.external if external is None else external) else None)
    if layout.size > PROTOBUF_BYTES - MARGIN_BYTES and not layout.blocks:
        layout = _layout(model, unnamed)
    _refuse_source(model, target)
    with files.drafts(target) as draft:
        moves: list[tuple[Path, Path]] = []
        if layout.blocks:
            digest = hashlib.sha256()
            written = draft(lambda file: layout.write_data(wire.Hashed(file, digest)))
            moves.append((written, files.data_file(target, digest.hexdigest())))
            _refuse_source(model, moves[0][1])
            layout = _layout(model, moves[0][1].name)
        moves.append((draft(layout.write_model), target))
        with files.locked(target.parent):
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
    old = files.data_files(target)
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
    tensors = (*proto.graph.initializer, *inner_tensors(proto))
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing; raises OutputError."""
    files.write_file(path, lambda file: file.write(text.encode()))


def fits_message(model: Model) -> bool:
    """Can the model, with all its data, be one message of less than 2 GiB?"""
    return _layout(model, None).size <= PROTOBUF_BYTES


def full_proto(model: Model) -> onnx.ModelProto:
    """The model as one message, with all its data; raises OutputError where that would pass 2 GiB."""
    if not fits_message(model):
        raise OutputError("a model of more than 2 GiB does not fit one message; save it to a file and use that")
    proto = onnx.ModelProto()
    proto.CopyFrom(_stored(model))
    for tensor in proto.graph.initializer:
        weight = _changed(tensor, model.weights)
        if weight is not None:
            tensor.CopyFrom(_head(tensor, weight))
            if weight.data_type != TensorProto.STRING:
                tensor.raw_data = bytes(weight.raw())
    return proto


def saved_bytes(model: Model) -> int:
    """The bytes of the one file that `save` would write, were there no limit to a message."""
    return _layout(model, None).size


def _layout(model: Model, data_name: str | None) -> wire.Layout:
    """Decide where every byte goes; with a `data_name`, initializers of 1 KiB and more go to that file."""
    parts: list[wire.Part] = []
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
            parts.append(_part(_external_head(tensor, weight, data_name, at), None))
        else:
            weight = _changed(tensor, model.weights)
            head = tensor if weight is None else _head(tensor, weight)
            parts.append(_part(head, weight if head.data_type != TensorProto.STRING else None))
    return wire.Layout(wire.cut(proto.SerializeToString(deterministic=True)), parts, blocks)


def _stored(model: Model) -> onnx.ModelProto:
    """The message with sparse initializers as such, where that is smaller."""
    found = {name: encode(name, model.weights[name]) for name in model.sparse if name in model.weights}
    if not any(found.values()):
        return model.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    dense = [t for t in model.proto.graph.initializer if not found.get(t.name)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(dense)
    proto.graph.sparse_initializer.extend(filter(None, found.values()))
    return proto


def _part(head: TensorProto, weight: Weight | None) -> wire.Part:
    fields = bytes(head.SerializeToString(deterministic=True))
    if weight is not None:
        fields += wire.prefix(wire.RAW_DATA, weight.nbytes)
    length = len(fields) + (weight.nbytes if weight is not None else 0)
    return wire.Part(wire.prefix(wire.INITIALIZER, length) + fields, weight)


def _changed(tensor: TensorProto, weights: dict[str, Weight]) -> Weight | None:
    """The weight to write for an initializer; None where the message itself has the data."""
    weight, in_message = weights.get(tensor.name), _has_data(tensor) or 0 in tensor.dims
    if in_message and (weight is None or (isinstance(weight, TensorWeight) and weight.tensor.name == tensor.name)):
        return None
    if weight is None:
        raise OutputError(f"initializer {tensor.name!r} has no data: it is empty and not among the model's weights")
    return weight


def _has_data(tensor: TensorProto) -> bool:
    return tensor.HasField("raw_data") or any(len(getattr(tensor, f)) for f in TYPED_FIELDS)


def _head(tensor: TensorProto, weight: Weight) -> TensorProto:
    """`tensor` with the type and the dims of `weight` and no data, except strings, which have no other place."""
    head = TensorProto()
    head.CopyFrom(tensor)
    _clear(head)
    head.ClearField("dims")
    head.dims.extend(weight.shape)
    head.data_type = weight.data_type
    if weight.data_type == TensorProto.STRING:
        head.string_data.extend(numpy_helper.from_array(weight.array()).string_data)
    return head


def _external_head(tensor: TensorProto, weight: Weight, location: str, offset: int) -> TensorProto:
    head = _head(tensor, weight)
    head.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", weight.nbytes)):
        head.external_data.add(key=key, value=str(value))
    return head


def _refuse_source(model: Model, out: Path) -> None:
    for source in (file.path for file in model.files):
        if out.exists() and source.exists() and out.samefile(source):
            raise OutputError(f"{out} is the model that is being read, or its data; choose another name")
