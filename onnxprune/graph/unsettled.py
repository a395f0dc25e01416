"""The tensors whose size depends on the data, or is unknown."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from onnxprune.axes import Dynamic
from onnxprune.graph.facts import Facts


def find_unsettled(nodes: Iterable[NodeProto], trace: Facts, guesses: Iterable[str] | None = None) -> set[str]:
    """The tensors with a size that the data decide, as NonZero's, or that is computed from one; and all behind an empty sample.

    The trace gives such a size two sample sizes of its own. So a dynamic size that a tensor before them has too (the batch, say)
    is that one, and settled by the inputs. `guesses` are those of the trace's that matter; all, unless said otherwise.
    """
    doubtful, others = set(trace.guesses if guesses is None else guesses), set[str]()
    missing = set(trace.short)
    for node in nodes:
        if not missing.isdisjoint(node.input):
            missing.update(filter(None, node.output))
        if not doubtful.isdisjoint(node.input):
            doubtful.update(filter(None, node.output))
        others.update(node.input, node.output)
    known = {s for name in others - doubtful for s in trace.shape(name) or ()}

    def is_open(name: str) -> bool:
        shape = trace.shape(name)
        return shape is None or any(isinstance(s, Dynamic) and s not in known for s in shape)

    return missing.union(filter(is_open, doubtful))
