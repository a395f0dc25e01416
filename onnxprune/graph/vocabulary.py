"""The vocabulary size of a language model, from its graph."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.graph.nodes import get_constant
from onnxprune.graph.view import read_attribute
from onnxprune.ops.records import SAME, get_record

IDS = (TensorProto.INT32, TensorProto.INT64)


def find_vocabulary_size(proto: ModelProto) -> int | None:
    """The rows of the table that an integer input is looked up in, of several (positions, types) the largest; None: there is none.

    An output whose last axis is as long holds a score for each token, as a language model's head makes them.
    """
    return max(_tables(proto).values(), default=None)


def find_ids(proto: ModelProto) -> list[str]:
    """The inputs that are looked up in the largest table, as they reach it."""
    tables = _tables(proto)
    return [name for name, rows in tables.items() if rows == max(tables.values())]


def _tables(proto: ModelProto) -> dict[str, int]:
    """For each input of integers that is looked up in a table: the rows of the largest."""
    ids = {
        v.name: v.name for v in proto.graph.input if v.type.tensor_type.elem_type in IDS
    }  # what moves, and the input that it is
    rows = {t.name: t.dims[0] for t in proto.graph.initializer if t.dims}
    tables: dict[str, int] = {}
    for node in proto.graph.node:
        traits = get_record(node).traits
        if (array := get_constant(node)) is not None and array.ndim:
            rows[node.output[0]] = len(array)
        elif traits.moves and node.input[0] in ids:
            ids[node.output[0]] = ids[node.input[0]]
        elif traits.moves == SAME and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif traits.table:
            table, ids_read = (node.input[slot] for slot in traits.table)
            if ids_read in ids and table in rows and not _axis(node):
                tables[ids[ids_read]] = max(rows[table], tables.get(ids[ids_read], 0))
    return tables


def _axis(node: NodeProto) -> int:
    return int(read_attribute(node, "axis", 0))
