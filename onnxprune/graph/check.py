"""Checks of a model before any other step: onnx's checker, and checks that it lacks."""

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, checker, defs

from onnxprune.errors import ModelError
from onnxprune.graph.view import get_domain, list_bodies, list_value_names, read_opsets
from onnxprune.graph.weights import has_data
from onnxprune.ops.records import get_record

DIVISORS = ("group", "num_groups", "num_heads", "blocksize")  # attributes that count, of whatever operator
# Operators without a record that ONNX Runtime takes in the default domain: of before ONNX 1.0, and plugins of TensorRT.
RUNTIME_ONLY = {
    "ATen", "ConstantFill", "DisentangledAttention_TRT", "DynamicSlice", "EfficientNMS_TRT", "GRUUnit", "GivenTensorFill",
    "MultilevelCropAndResize_TRT", "PyramidROIAlign_TRT", "Scale",
}  # fmt: skip
EXPERIMENTAL = "experimental"  # the domain that they have while the checker looks
RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")  # ONNX Runtime's own


def run_checker(proto: onnx.ModelProto, where: str) -> None:
    """Run onnx.checker on a copy in which emptied initializers have no elements, and so need no data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if not has_data(tensor):
            tensor.ClearField("dims")
            tensor.dims.append(0)
    _excuse(copy, where)
    try:
        checker.check_model(copy)
    except (checker.ValidationError, ValueError, RuntimeError) as e:
        what = " ".join(str(e).partition("\n\n")[0].split())
        raise ModelError(f"{where} is not valid ONNX: {what}; correct the model, or export it again") from e


def check_text(proto: onnx.ModelProto, where: str) -> None:
    """Refuse names that are not text: protobuf hands bytes out where text is damaged."""
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    names: set[Any] = {d.dim_param for v in values for d in v.type.tensor_type.shape.dim}
    names |= list_value_names(proto) | {proto.producer_name, proto.producer_version, proto.graph.name}
    names |= {x for o in (*proto.opset_import, *proto.functions) for x in (o.domain, getattr(o, "name", ""))}
    for node in (*nodes, *(inner for n in nodes for body in list_bodies(n) for inner in body.node)):
        names.update((node.name, node.op_type, node.domain), node.input, node.output, (a.name for a in node.attribute))
    if wrong := sorted(n for n in names if isinstance(n, bytes)):
        raise ModelError(
            f"{where}: the name {wrong[0][:40]!r} is not UTF-8 text; the file is damaged, copy or export it again"
        )


def check_divisors(proto: onnx.ModelProto, where: str) -> None:
    """Refuse counts below 1 that runtimes divide by: ONNX Runtime dies of some, where no exception can be caught."""
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    for node in (*nodes, *(inner for n in nodes for body in list_bodies(n) for inner in body.node)):
        for a in (
            a for a in node.attribute if a.name in DIVISORS and a.type == a.INT and a.i < 1 and not a.ref_attr_name
        ):
            name = node.name or next(iter(node.output), "")
            raise ModelError(
                f"{where}: {node.op_type} {name!r} has {a.name} {a.i}, but counts start at 1; export it again"
            )


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
    return node.op_type in RUNTIME_ONLY or get_record(node).traits.any_opset


def _excuse_domains(nodes: Iterable[NodeProto], imports: Any, where: str) -> None:
    """Import what nodes use and ONNX Runtime imports by itself; give operators that it alone knows a domain of their own."""
    versions = read_opsets(imports)
    newest = defs.C.schema_version_map()
    own = {**{d: high for d, (_, high) in newest.items() if d}, **dict.fromkeys(RUNTIME_DOMAINS, 1), EXPERIMENTAL: 1}
    for node in (*nodes, *(inner for n in nodes for body in list_bodies(n) for inner in body.node)):
        node.domain = get_domain(node)
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
