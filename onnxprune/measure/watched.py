"""The tensors that two versions of a model are compared by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from onnx import NodeProto, ValueInfoProto

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import replace_outputs
from onnxprune.graph.unsettled import find_unsettled
from onnxprune.graph.view import map_makers
from onnxprune.graph.weights import dtype_of, is_float
from onnxprune.groups import Analysis


def find_judges(a: Analysis) -> dict[str, list[str]]:
    """For each output the tensors that it is judged by: itself, as a rule.

    An output may be as long as the data decide: what NonMaxSuppression selects, say. One row more at its start moves all
    others, so it says little of a small change. It is judged by the last floats of a settled shape that it is made of, if no
    weight that loses channels is read behind them; else by itself. So is an output that is no tensor, else by nothing.
    """
    nodes = a.flat.proto.graph.node
    made_by = {name: nodes[i] for name, i in map_makers(nodes).items()}
    open_ones = find_unsettled(a.coupling.live, a.coupling.trace)
    out: dict[str, list[str]] = {}
    for v in a.model.proto.graph.output:
        is_tensor = v.type.WhichOneof("value") in (None, "tensor_type")
        known = is_tensor and v.name not in open_ones
        out[v.name] = [] if known else _made_of(a, v.name, made_by, open_ones)
        if not out[v.name] and is_tensor:
            out[v.name] = [v.name]
    return out


def list_judged(a: Analysis) -> list[str]:
    """The tensors that two versions of a model are compared by."""
    return list(dict.fromkeys(name for names in find_judges(a).values() for name in names))


def find_stand_ins(a: Analysis) -> dict[str, list[str]]:
    """The outputs that are not judged by themselves, and what they are judged by."""
    return {name: names for name, names in find_judges(a).items() if names != [name]}


def _made_of(a: Analysis, name: str, made_by: Mapping[str, NodeProto], open_ones: set[str]) -> list[str]:
    pruned = {m.tensor for g in a.groups for m in g.members}
    lost = {v for g in a.groups for v in g.vars}
    sources: list[str] = []
    seen, todo = {name}, [name]
    while todo:
        at = todo.pop()
        if at not in made_by:
            continue
        if at not in open_ones and _is_float(a, at):
            if at not in a.outside or lost.intersection(
                v for axis in a.coupling.layouts.get(at) or () for v in axis.leaves
            ):
                return []
            sources.append(at)
            continue
        if not pruned.isdisjoint(made_by[at].input):
            return []
        before = [n for n in made_by[at].input if n and n not in a.coupling.computed and n not in seen]
        seen.update(before)
        todo.extend(before)
    return sorted(sources)


def _is_float(a: Analysis, name: str) -> bool:
    elem = a.coupling.trace.dtype(name)
    return bool(elem) and a.coupling.trace.shape(name) is not None and is_float(dtype_of(elem))


def show_tensors(model: Model, names: Iterable[str]) -> Model:
    """The model with these tensors for its outputs; without any, its own stay."""
    known = {v.name: v for v in model.proto.graph.output}
    wanted = list(dict.fromkeys(names))
    if not wanted or wanted == list(known):
        return model
    outputs = [known.get(name, ValueInfoProto(name=name)) for name in wanted]
    return replace(model, proto=replace_outputs(model.proto, outputs))
