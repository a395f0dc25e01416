"""Where the ids of tokens go in a graph: the tables that they are looked up in, and whoever else reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto

from onnxprune.axes import Size
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.facts import Facts
from onnxprune.graph.flat import CALL_CLOSE, CALL_OPEN, FLAT
from onnxprune.graph.view import find_captured, read_attribute
from onnxprune.graph.vocabulary import IDS
from onnxprune.ops.records import get_record


@dataclass(frozen=True)
class TokenUse:
    """How a flat graph reads the ids of a vocabulary.

    inputs    the graph inputs of ids
    size      how many tokens there are
    nodes     the nodes that look ids up in a table, or compare them with constants
    compared  those constants: tokens that the graph knows by their ids
    outputs   the graph outputs whose last axis has a score for each token
    """

    inputs: tuple[str, ...]
    size: int
    nodes: frozenset[int]
    compared: frozenset[int] = frozenset()
    outputs: frozenset[str] = frozenset()


@dataclass
class _TokenWalk:
    """What the ids of one input reach."""

    trace: Facts
    ids: set[str]
    rows: dict[int, Size] = field(default_factory=dict)  # of the table that a node looks up
    compared: dict[int, frozenset[int]] = field(default_factory=dict)
    wrong: str = ""  # who reads ids in a way that nothing is known of


def find_tokens(
    nodes: Sequence[NodeProto], outputs: Collection[str], trace: Facts, inputs: Collection[str]
) -> TokenUse:
    """How a flat graph reads its tokens; of several inputs of ids, those of the largest table are meant.

    Args:
        nodes: of the flat graph, in order.
        outputs: the names of its outputs.
        trace: shapes, types and contents of its values.
        inputs: the inputs that may hold ids of tokens.

    Returns:
        The use of ids, without the outputs of scores.

    Raises:
        OnnxPruneError: no input is looked up in a table, or something reads ids of which nothing is known.
    """
    walks = {name: _follow(nodes, outputs, trace, name) for name in inputs if trace.dtype(name) in IDS}
    looked_up = {name: walk for name, walk in walks.items() if walk.rows}
    sizes = {n for walk in looked_up.values() for n in walk.rows.values() if isinstance(n, int)}
    if not sizes:
        raise OnnxPruneError(
            "no input of integers is looked up in a table of the model, so it has no vocabulary to prune"
        )
    chosen = {name: walk for name, walk in looked_up.items() if max(sizes) in walk.rows.values()}
    for name, walk in chosen.items():
        if walk.wrong:
            raise OnnxPruneError(f"input '{name}': {walk.wrong}; the vocabulary stays as it is")
        if set(walk.rows.values()) != {max(sizes)}:
            raise OnnxPruneError(f"input '{name}' is looked up in tables of {sorted(map(str, walk.rows.values()))} rows; "
                                 "the vocabulary stays as it is")  # fmt: skip
    nodes_of_ids = frozenset(i for walk in chosen.values() for i in (*walk.rows, *walk.compared))
    compared = frozenset(i for walk in chosen.values() for ids in walk.compared.values() for i in ids)
    return TokenUse(tuple(chosen), max(sizes), nodes_of_ids, frozenset(i for i in compared if 0 <= i < max(sizes)))


def add_scores(use: TokenUse, shapes: Mapping[str, tuple[Size, ...] | None]) -> TokenUse:
    """The same with those of the outputs whose last axis is as long as the vocabulary."""
    return replace(use, outputs=frozenset(name for name, shape in shapes.items() if shape and shape[-1] == use.size))


def _follow(nodes: Sequence[NodeProto], outputs: Collection[str], trace: Facts, name: str) -> _TokenWalk:
    walk = _TokenWalk(trace, {name})
    for index, node in enumerate(nodes):
        if walk.ids & find_captured(node):
            walk.wrong = walk.wrong or f"a body of {_name(node)} reads its ids"
        for slot in [i for i, n in enumerate(node.input) if n in walk.ids]:
            if not _read(walk, index, node, slot):
                walk.wrong = walk.wrong or f"{_name(node)} computes with its ids, which would be other numbers"
    if returned := walk.ids & set(outputs):
        walk.wrong = walk.wrong or f"the graph returns its ids as '{min(returned)}'"
    return walk


def _read(walk: _TokenWalk, index: int, node: NodeProto, slot: int) -> bool:
    """Follow ids into one node. Whether it is known what it does with them."""
    traits, name = get_record(node).traits, node.input[slot]
    if traits.reads_sizes:
        return True
    if traits.table and slot == traits.table[1]:
        shape = walk.trace.shape(node.input[traits.table[0]])
        axis = int(read_attribute(node, "axis", read_attribute(node, "gather_axis", 0)))
        walk.rows[index] = shape[axis] if shape else 0
        return True
    if traits.equates:
        other = walk.trace.value(node.input[1 - slot])
        if other is not None:
            walk.compared[index] = frozenset(int(i) for i in np.unique(other))
        return other is not None
    if node.domain == FLAT and node.op_type in (CALL_OPEN, CALL_CLOSE):
        walk.ids.add(node.output[slot])
        return True
    moved = slot == 0 and (traits.moves or traits.takes) and all(walk.trace.dtype(o) in IDS for o in node.output if o)
    if moved and name:
        walk.ids.update(filter(None, node.output))
    return bool(moved)


def _name(node: NodeProto) -> str:
    return f"{node.op_type} '{node.name or node.output[0]}'"
