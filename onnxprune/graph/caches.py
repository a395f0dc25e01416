"""The caches of keys and values that a decoder reads and gives back."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from onnxprune.graph.view import get_domain, map_makers, read_attribute


@dataclass(frozen=True)
class DecoderCache:
    """An input that comes back as an output, with the new tokens behind those before along an axis."""

    input: str
    output: str
    axis: int


def find_caches(proto: ModelProto) -> list[DecoderCache]:
    """The outputs that concatenate an input of open length and what the model computes: `present` behind `past`."""
    dims = {v.name: v.type.tensor_type.shape.dim for v in proto.graph.input if v.type.HasField("tensor_type")}
    nodes = proto.graph.node
    maker, caches = map_makers(nodes), list[DecoderCache]()
    for output in proto.graph.output:
        index = maker.get(output.name)
        while index is not None and nodes[index].op_type == "Identity":
            index = maker.get(nodes[index].input[0])
        if index is None or nodes[index].op_type != "Concat" or get_domain(nodes[index]):
            continue
        first = nodes[index].input[0]
        if first in dims and len(dims[first]) > 1:
            axis = read_attribute(nodes[index], "axis", 0) % len(dims[first])
            if axis and not dims[first][axis].dim_value:
                caches.append(DecoderCache(first, output.name, axis))
    return caches
