"""A vocabulary as channels: the rows of tables that ids are looked up in, and the scores of tokens in the outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxprune.axes import Axis, Var
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.tokens import TokenUse, add_scores, find_tokens
from onnxprune.groups import Analysis, analyze
from onnxprune.surgery import remove


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, as the channels that they are once nothing but the corpus asks for them."""

    analysis: Analysis  # of the model with its tokens as channels
    use: TokenUse
    tokens: Var

    def keep(self, kept: Sequence[int]) -> Model:
        """The model that has these tokens alone, in their order. Raises OnnxPruneError where it cannot be rewritten."""
        if len(kept) == self.use.size:
            return self.analysis.model
        model = remove(self.analysis, {self.tokens: np.asarray(kept, np.int64)})
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        for v in proto.graph.output:
            dims = v.type.tensor_type.shape.dim
            if v.name in self.use.outputs and dims and dims[-1].HasField("dim_value"):
                dims[-1].dim_value = len(kept)
        return replace(model, proto=proto)


def open_vocabulary(model: Model, inputs: Collection[str] = ()) -> Vocabulary:
    """Find the tokens of a model, and all that belongs to them.

    Args:
        model: it is not changed.
        inputs: the inputs that hold ids; empty: those that are looked up in the largest table.

    Returns:
        The vocabulary.

    Raises:
        OnnxPruneError: there is none, or something reads ids or scores in a way that removing tokens would change.
    """
    plain = analyze(model)
    graph, trace = plain.flat.proto.graph, plain.coupling.trace
    known = [v.name for v in graph.input if v.name not in plain.coupling.weights]
    if unknown := sorted(set(inputs) - set(known)):
        raise OnnxPruneError(f"the model has no input '{unknown[0]}'; its inputs are {', '.join(known)}")
    use = find_tokens(graph.node, [v.name for v in graph.output], trace, list(inputs) or known)
    if use.size < 2:
        raise OnnxPruneError("the table of tokens has a single row, so there is no vocabulary to prune")
    use = add_scores(use, {v.name: trace.shape(v.name) for v in graph.output})
    analysis = analyze(model, tokens=use)
    return Vocabulary(analysis, use, _check_tokens(analysis, use))


def _check_tokens(a: Analysis, use: TokenUse) -> Var:
    """The tokens as channels. Raises OnnxPruneError where they are not, or removing some would change what others give."""
    tokens = a.coupling.tokens
    assert tokens is not None
    if not isinstance(tokens, Var):
        raise OnnxPruneError(f"the vocabulary stays as it is: {_explain(tokens)}")
    for name in sorted(use.outputs):
        (*_, last) = a.coupling.layouts.get(name) or (None,)
        if last is not tokens:
            why = _explain(last) if isinstance(last, Axis) else "its layout is unknown"
            raise OnnxPruneError(
                f"output '{name}' has {use.size} entries on its last axis, as many as there are tokens, but {why}; "
                "cut that part off the model (onnx.utils.extract_model)"
            )
    for group in a.groups:
        if tokens not in group.vars:
            continue
        reader = next((m.tensor for m in group.members if m.role == "in"), None)
        if len(group.vars) > 1:
            raise OnnxPruneError("the vocabulary stays as it is: tokens stand beside other entries on every axis")
        if reader is not None:
            raise OnnxPruneError(f"the vocabulary stays as it is: '{reader}' sums over its {use.size} entries")
        if group.mixed:
            raise OnnxPruneError(f"the vocabulary stays as it is: {group.mixed}")
    return tokens


def _explain(axis: Axis) -> str:
    if axis.reason is None:
        return f"tokens are laid out as {axis}"
    node = f" ({axis.reason.op} '{axis.reason.node}')" if axis.reason.op else ""
    return f"{axis.reason.text}{node}"
