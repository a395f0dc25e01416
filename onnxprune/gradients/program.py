"""A graph as a list of steps that torch runs: compiled once, constants computed once, values dropped after their last use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from onnx import ModelProto, NodeProto

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients.ops import load_table
from onnxprune.gradients.table import Entry, Node, State, find_entry, make_node
from onnxprune.gradients.types import to_tensor
from onnxprune.graph.flat import CALL_CLOSE, CALL_OPEN, CLOSE, FLAT, flat_id, flatten
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import all_weights, constant_of
from onnxprune.graph.view import attribute, domain_of, is_constant, opsets, subgraphs
from onnxprune.ops.records import MICROSOFT

Values = list[Any]
ABSENT = 0  # the slot of an input that is not there: always None
HOST_ENTRIES = 64  # integer constants of no more entries than this stay on the CPU, where shapes are computed


def unsupported(source: str | os.PathLike[str] | ModelProto | Model) -> list[str]:
    """The operators of a model that torch has no form of here, each with its domain, opset and first node."""
    model = source if isinstance(source, Model) else load(source)
    return list_unsupported(flatten(model))


def list_unsupported(flat: Model) -> list[str]:
    """The same of a model without bodies (see graph/flat.py)."""
    load_table()
    versions = opsets(flat.proto.opset_import)
    found: dict[tuple[str, str], str] = {}
    for node in flat.proto.graph.node:
        if node.domain == FLAT or constant_of(node) is not None:
            continue
        domain, version = domain_of(node), versions.get(domain_of(node), 1)
        if _entry_of(node, version) is None or any(True for _ in subgraphs(node)):
            label = node.name or next(filter(None, node.output), "")
            text = f"{node.op_type} of {domain or 'ai.onnx'} {version} (node '{label}')"
            found.setdefault((domain, node.op_type), text)
    return list(found.values())


def _entry_of(node: NodeProto, version: int) -> Entry | None:
    """The entry of a node. ONNX Runtime takes its own operators under ONNX's name too, and old ones at any opset."""
    domain = domain_of(node)
    found = find_entry(domain, node.op_type, version)
    return found or (find_entry(MICROSOFT, node.op_type, 1) if domain == "" else None)


@dataclass
class Step:
    """One operator: where its inputs are among the values of a run, and where its outputs go."""

    entry: Entry
    node: Node
    ins: tuple[int, ...]
    outs: tuple[int, ...]  # ABSENT for an output that nobody reads
    captured: tuple[int, ...] = ()  # outer values that its bodies read
    frees: tuple[int, ...] = ()
    run: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        self.run = self.entry.run

    @property
    def reads(self) -> tuple[int, ...]:
        return (*self.ins, *self.captured)


@dataclass
class Body:
    """A body of If, Loop or Scan: its steps work on the values of the graph around it."""

    program: Program
    steps: list[Step]
    ins: tuple[int, ...]
    outs: tuple[int, ...]

    def __call__(self, values: Values, *inputs: Any) -> list[Any]:
        for slot, x in zip(self.ins, inputs, strict=True):
            values[slot] = x
        self.program.execute(self.steps, values)
        return [values[slot] for slot in self.outs]

    @property
    def captured(self) -> set[int]:
        """The outer values that it reads."""
        made = {*self.ins, *(o for s in self.steps for o in s.outs)}
        return {i for s in self.steps for i in s.reads}.union(self.outs) - made - {ABSENT}


class Program:
    """The steps of a flat model, and its constants.

    Args:
        flat: a model without bodies (see graph/flat.py).
        parameters: the initializers that each run gets, as they are then; all others are constants.

    Raises:
        OnnxPruneError: an operator without an entry.
    """

    def __init__(self, flat: Model, parameters: Iterable[str], state: State) -> None:
        missing = list_unsupported(flat)
        if missing:
            raise OnnxPruneError(
                f"no gradients through {', '.join(missing)}; prune or repair without gradients instead"
            )
        graph = flat.proto.graph
        self.state = state
        self.slots: dict[str, int] = {"": ABSENT}
        self.opsets = opsets(flat.proto.opset_import)
        self.parameters = tuple(parameters)
        self.outputs = tuple(o.name for o in graph.output)
        weights = all_weights(flat)
        self.elems = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
        self.elems |= {name: w.data_type for name, w in weights.items()}
        self.inputs = tuple(v.name for v in graph.input if v.name not in flat.weights)
        for name in (*self.inputs, *weights):
            self._slot(name)
        nodes = [n for n in graph.node if not (is_constant(n) and n.output[0] in weights)]
        self.steps = self._compile(iter(nodes))
        self.constants: dict[int, Any] = {}
        read = {i for s in self.steps for i in s.reads} | {self.slots[o] for o in self.outputs}
        for name, weight in weights.items():
            if name not in self.parameters and self.slots[name] in read:
                self.constants[self.slots[name]] = to_tensor(weight.array(), state)
        self._fold()
        self._plans: dict[tuple[str, ...], list[Step]] = {}

    # Compile

    def _slot(self, name: str) -> int:
        return self.slots.setdefault(name, len(self.slots))

    def _compile(self, nodes: Iterator[NodeProto], until: int | None = None) -> list[Step]:
        """The steps of the nodes up to the Close of a scope; it is taken from `nodes` with them, and kept in `self._closed`."""
        steps: list[Step] = []
        bodies: dict[int, dict[str, Body]] = {}
        opened: dict[int, NodeProto] = {}
        for node in nodes:
            ident = flat_id(node)
            if node.domain == FLAT and node.op_type == CLOSE:
                self._closed = tuple(self._slot(i) for i in node.input)
                return steps
            if node.domain == FLAT and node.op_type in (CALL_OPEN, CALL_CLOSE):
                continue
            if node.domain == FLAT:
                assert ident is not None
                ins = tuple(self._slot(o) for o in node.output)
                inner = self._compile(nodes, ident)
                body = Body(self, inner, ins, self._closed)
                bodies.setdefault(ident, {})[attribute(node, "branch")] = body
                opened[ident] = node
                _free(inner, keep={*body.outs, *body.captured})
            elif ident is not None:
                steps.append(self._control(node, opened[ident], bodies[ident]))
            else:
                steps.append(self._step(node, list(node.input)))
        return steps

    def _step(self, node: NodeProto, ins: Sequence[str]) -> Step:
        entry = _entry_of(node, self.opsets.get(domain_of(node), 1))
        assert entry is not None
        seen = make_node(node, self.opsets, [self.elems.get(i, 0) for i in ins], self.state)
        return Step(entry, seen, tuple(map(self._slot, ins)), tuple(map(self._slot, node.output)))

    def _control(self, node: NodeProto, opener: NodeProto, bodies: dict[str, Body]) -> Step:
        step = self._step(node, list(opener.input))
        step.node.bodies = dict(bodies)
        step.captured = tuple(sorted({i for body in bodies.values() for i in body.captured}))
        return step

    @torch.no_grad()
    def _fold(self) -> None:
        """Run what depends on no input and no parameter once, and keep the results."""
        left: list[Step] = []
        values: Values = [None] * len(self.slots)
        known = {ABSENT, *self.constants}
        for slot, x in self.constants.items():
            values[slot] = x
        for step in self.steps:
            if step.entry.random or not known.issuperset(step.reads):
                left.append(step)
                continue
            self.execute([step], values)
            self.constants.update((o, values[o]) for o in step.outs if o)
            known.update(step.outs)
        self.steps = left
        read = {i for s in left for i in s.reads} | {self.slots[o] for o in self.outputs}
        self._unread = {i: x for i, x in self.constants.items() if i not in read}
        self.constants = {i: x for i, x in self.constants.items() if i in read}
        self.host = _host_only(left)

    # Run

    def run(self, feeds: Mapping[str, Any], parameters: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        """The values of those names, given the graph's inputs and the parameters as tensors. Raises OnnxPruneError."""
        values: Values = [None] * len(self.slots)
        for slot, x in self.constants.items():
            values[slot] = x
        for name, x in (*parameters.items(), *feeds.items()):
            values[self.slots[name]] = x
        self.execute(self._plan(tuple(names)), values)
        return [self._unread.get(self.slots[n], values[self.slots[n]]) for n in names]

    def _plan(self, names: tuple[str, ...]) -> list[Step]:
        """The steps that those values need, each with what is not needed after it."""
        if names not in self._plans:
            unknown = [n for n in names if n not in self.slots]
            if unknown:
                raise OnnxPruneError(f"the model has no value named {unknown[0]!r}")
            wanted = {self.slots[n] for n in names}
            steps: list[Step] = []
            needed = set(wanted)
            for step in reversed(self.steps):
                if needed.intersection(step.outs):
                    steps.append(Step(step.entry, step.node, step.ins, step.outs, step.captured))
                    needed.update(step.reads)
            steps.reverse()
            _free(steps, keep=wanted)
            self._plans[names] = steps
        return self._plans[names]

    def execute(self, steps: Iterable[Step], values: Values) -> None:
        """Run steps on the values of a run."""
        align = self.state.device.type != "cpu"
        for step in steps:
            inputs = [values[i] for i in step.ins]
            if align:
                inputs = _aligned(step.entry, inputs, self.state.device)
            try:
                made = step.run(step.node, values, *inputs) if step.entry.control else step.run(step.node, *inputs)
            except OnnxPruneError:
                raise
            except Exception as e:  # torch has many kinds
                raise OnnxPruneError(_explain(step.node, inputs, e)) from e
            if isinstance(made, tuple):
                for slot, x in zip(step.outs, made, strict=False):
                    values[slot] = x
            else:
                values[step.outs[0]] = made
            for slot in step.frees:
                values[slot] = None

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Move or convert the constants as `torch.nn.Module.to` does parameters; what shapes are computed from stays."""
        probe = change(torch.empty(0, dtype=self.state.dtype, device=self.state.device))
        self.state.device, self.state.dtype = probe.device, probe.dtype
        for constants in (self.constants, self._unread):
            for slot, x in constants.items():
                constants[slot] = x if self._stays(slot, x) else change(x)

    def _stays(self, slot: int, x: Any) -> bool:
        if not isinstance(x, torch.Tensor):
            return True
        if x.is_floating_point():
            return slot in self.host and x.dtype == self.state.dtype
        return slot in self.host or x.numel() <= HOST_ENTRIES


def _free(steps: list[Step], keep: set[int]) -> None:
    """Have each step drop the values that no later one reads."""
    live = {ABSENT, *keep}
    for step in reversed(steps):
        touched = {*step.reads, *step.outs}
        step.frees = tuple(sorted(touched - live)) + ((ABSENT,) if ABSENT in step.outs else ())
        live |= touched


def _inner_steps(step: Step) -> Iterator[Step]:
    for body in step.node.bodies.values():
        for inner in body.steps:
            yield inner
            yield from _inner_steps(inner)


def _host_only(steps: Sequence[Step]) -> set[int]:
    """The values that are read as Python numbers alone."""
    host: set[int] = set()
    other: set[int] = set()
    for step in (s for top in steps for s in (top, *_inner_steps(top))):
        for at, slot in enumerate(step.ins):
            (host if at in step.entry.host else other).add(slot)
        other.update(step.captured)
    return host - other


def _aligned(entry: Entry, inputs: list[Any], device: torch.device) -> list[Any]:
    """The inputs where one of them is on the device: all there, but for those that are read as numbers."""
    tensors = [i for i, x in enumerate(inputs) if isinstance(x, torch.Tensor) and i not in entry.host]
    if len({inputs[i].device for i in tensors}) > 1:
        for i in tensors:
            inputs[i] = inputs[i].to(device)
    return inputs


def _explain(node: Node, inputs: Sequence[Any], error: Exception) -> str:
    shapes = ", ".join(str(list(x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__ for x in inputs)
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"{node.op_type} '{node.label}' (opset {node.version}) on inputs {shapes}: {reason}"
