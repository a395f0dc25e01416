"""A model whose weights are read where they lie, and the tensors inside its message."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from onnxprune.graph.files import SourceFile
from onnxprune.graph.weights import Weight

SMALL_BYTES = 1024  # an initializer of more bytes than this is taken out of the message


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        name = self.path.name if self.path else self.proto.graph.name
        return f"Model({name!r}, {len(self.proto.graph.node)} nodes, {len(self.weights)} initializers, {self.size_bytes:,} bytes)"

    def check_unchanged(self) -> None:
        """Raise ModelError where a file that it is read from has changed, or another one has taken its place."""
        for file in self.files:
            file.check()


def list_inner_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
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
