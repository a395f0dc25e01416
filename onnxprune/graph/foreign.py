"""Models that other libraries hold in memory: as a message, and back.

Nobody has such an object without its library, so none is imported to recognize one.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import onnx

from onnxprune.errors import ModelError, OnnxPruneError

CARRIED = "carried_by_onnxprune"  # the attribute of a graphsurgeon graph that holds what it has no place for
MODEL_FIELDS = ("domain", "model_version", "doc_string", "metadata_props", "training_info")
GRAPH_FIELDS = ("metadata_props", "quantization_annotation")
TORCH_OPSET = 17


def to_graphsurgeon(proto: onnx.ModelProto) -> Any:
    """The model as an `onnx_graphsurgeon.Graph`.

    What such a graph has no place for (metadata, quantization annotations) waits in an attribute of it, and is in the model again
    when the graph comes back to `load`. It is lost where onnx_graphsurgeon exports the graph itself.
    """
    graph = import_module("onnx_graphsurgeon").import_onnx(proto)
    rest = onnx.ModelProto()
    _copy(proto, rest, MODEL_FIELDS)
    _copy(proto.graph, rest.graph, GRAPH_FIELDS)
    setattr(graph, CARRIED, rest)
    return graph


def to_ir(proto: onnx.ModelProto) -> Any:
    """The model as an `onnx_ir.Model`."""
    try:
        return import_module("onnx_ir").from_proto(proto)
    except ModuleNotFoundError as e:
        raise OnnxPruneError("onnx_ir is not installed; run pip install onnx-ir") from e


def _from_graphsurgeon(graph: Any) -> onnx.ModelProto:
    proto: onnx.ModelProto = import_module("onnx_graphsurgeon").export_onnx(graph)
    rest = getattr(graph, CARRIED, None)
    if rest is not None:
        _copy(rest, proto, MODEL_FIELDS)
        _copy(rest.graph, proto.graph, GRAPH_FIELDS)
        there = {name for node in proto.graph.node for name in (*node.input, *node.output)}
        kept = [q for q in proto.graph.quantization_annotation if q.tensor_name in there]
        del proto.graph.quantization_annotation[:]
        proto.graph.quantization_annotation.extend(kept)
    return proto


def _copy(source: Any, to: Any, fields: Sequence[str]) -> None:
    for name in fields:
        value = getattr(source, name)
        if isinstance(value, int | str):
            setattr(to, name, value)
        else:
            del getattr(to, name)[:]
            getattr(to, name).extend(value)


def _from_ir(model: Any) -> onnx.ModelProto:
    proto: onnx.ModelProto = import_module("onnx_ir").to_proto(model)
    return proto


def _from_bytes(data: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(bytes(data))
    except Exception as e:  # protobuf's DecodeError, whose module has no type stubs
        raise ModelError(f"{len(data)} bytes are no ONNX model; give those of an .onnx file") from e


def _of_program(program: Any) -> onnx.ModelProto:
    proto: onnx.ModelProto = program.model_proto
    return proto


# By the name of the class: how it becomes a message, and how a message becomes one; None where it does not.
KINDS: dict[str, tuple[Callable[[Any], onnx.ModelProto], Callable[[onnx.ModelProto], Any] | None]] = {
    "builtins.bytes": (_from_bytes, onnx.ModelProto.SerializeToString),
    "onnx_graphsurgeon.ir.graph.Graph": (_from_graphsurgeon, to_graphsurgeon),
    "onnx_ir.Model": (_from_ir, to_ir),
    "torch.onnx.ONNXProgram": (_of_program, None),
}
TORCH_MODULE = "torch.nn.modules.module.Module"


def list_class_names(kind: type) -> set[str]:
    """The full names of a class and of those that it is derived from."""
    return {f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__}


def to_proto(source: Any, example_inputs: Any = None) -> onnx.ModelProto | None:
    """A model of another library as a message; None where it is none that is known here.

    Args:
        source: bytes of a file, an onnx_graphsurgeon.Graph, an onnx_ir.Model, a torch.onnx.ONNXProgram, or a torch.nn.Module.
        example_inputs: for a torch.nn.Module what it is called with when it is exported: a tensor, or a tuple of arguments.

    Raises:
        OnnxPruneError: a torch.nn.Module without inputs, or one that torch does not export.
    """
    names = list_class_names(type(source))
    if TORCH_MODULE in names:
        return _export(source, example_inputs)
    return next((KINDS[name][0](source) for name in names if name in KINDS), None)


def convert_back(kind: type, proto: onnx.ModelProto) -> Any:
    """A message as another model of the kind; the message itself where there is no way back."""
    back = next((KINDS[name][1] for name in list_class_names(kind) if name in KINDS), None)
    return proto if back is None else back(proto)


def _export(module: Any, example_inputs: Any) -> onnx.ModelProto:
    """Export a module by `torch.onnx.export`; the first axis of its inputs is dynamic if all inputs are tensors."""
    if example_inputs is None:
        raise OnnxPruneError(
            "a torch module is exported first, with inputs to call it with: give example_inputs=(tensor, ..)"
        )
    torch = sys.modules["torch"]
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    out, mode = io.BytesIO(), module.training
    names = [f"input{i}" if i else "input" for i in range(len(args))]
    tensors = all(isinstance(x, torch.Tensor) and x.dim() for x in args)
    more = {"input_names": names, "dynamic_axes": {n: {0: "batch"} for n in names}} if tensors else {}
    try:
        with warnings.catch_warnings():  # of the exporter that needs no other package, that it is the older one
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(module.eval(), args, out, dynamo=False, opset_version=TORCH_OPSET, **more)
    except Exception as e:  # torch has many kinds
        reason = next(iter(str(e).splitlines()), type(e).__name__)
        raise OnnxPruneError(f"torch does not export the module: {reason}; export it yourself and give the file") from e
    finally:
        module.train(mode)
    return onnx.load_model_from_string(out.getvalue())
