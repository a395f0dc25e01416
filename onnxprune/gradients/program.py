"""A graph as a list of steps that torch runs: compiled once, constants computed once, values dropped after their last use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from onnx import ModelProto, NodeProto

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients.operators import Entry, Node, State, find_entry, make_node
from onnxprune.gradients.ops import load_table
from onnxprune.gradients.steps import ABSENT, Body, Step, Values, find_filters, find_host_only, find_sized, free_values
from onnxprune.gradients.types import to_tensor
from onnxprune.graph.flat import CALL_CLOSE, CALL_OPEN, CLOSE, FLAT, flatten, get_flat_id
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import collect_weights, get_constant
from onnxprune.graph.view import get_domain, is_constant, list_subgraphs, read_attribute, read_opsets
from onnxprune.ops.records import MICROSOFT

SIZES, SIZED_BYTES = 8, 1 << 26  # how many sizes of inputs are remembered, and how much of each at most
HOST_ENTRIES = 64  # integer constants of no more entries than this stay on the CPU, where shapes are computed


def unsupported(source: str | os.PathLike[str] | ModelProto | Model) -> list[str]:
    """The operators of a model that torch has no form of here, each with its domain, opset and first node."""
    model = source if isinstance(source, Model) else load(source)
    return list_unsupported(flatten(model))


def list_unsupported(flat: Model) -> list[str]:
    """The same of a model without bodies (see graph/flat.py)."""
    load_table()
    versions = read_opsets(flat.proto.opset_import)
    descriptions: dict[tuple[str, str], str] = {}
    for node in flat.proto.graph.node:
        if node.domain == FLAT or get_constant(node) is not None:
            continue
        domain, version = get_domain(node), versions.get(get_domain(node), 1)
        if _entry_of(node, version) is None or any(True for _ in list_subgraphs(node)):
            label = node.name or next(filter(None, node.output), "")
            text = f"{node.op_type} of {domain or 'ai.onnx'} {version} (node '{label}')"
            descriptions.setdefault((domain, node.op_type), text)
    return list(descriptions.values())


def _entry_of(node: NodeProto, version: int) -> Entry | None:
    """The entry of a node. ONNX Runtime takes its own operators under ONNX's name too, and old ones at any opset."""
    domain = get_domain(node)
    entry = find_entry(domain, node.op_type, version)
    return entry or (find_entry(MICROSOFT, node.op_type, 1) if domain == "" else None)


Sizes = tuple[tuple[str, tuple[int, ...]], ...]  # of the inputs of a run


@dataclass
class StepPlan:
    """The steps that some values need. What depends on the inputs' sizes alone is computed once for each of them."""

    steps: list[Step]  # all of them
    rest: list[Step]  # without those
    kept: tuple[int, ...]  # what the rest reads of them
    seen: dict[Sizes, list[Any]] = field(default_factory=dict)


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
        self.opsets = read_opsets(flat.proto.opset_import)
        self.parameters = tuple(parameters)
        self.outputs = tuple(o.name for o in graph.output)
        weights = collect_weights(flat)
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
        variable = [self.slots[name] for name in (*self.inputs, *self.parameters)]
        self._sized = find_sized(self.steps, (*self.constants, *self._unread), variable)
        self._plans: dict[tuple[str, ...], StepPlan] = {}

    # Compile

    def _slot(self, name: str) -> int:
        return self.slots.setdefault(name, len(self.slots))

    def _compile(self, nodes: Iterator[NodeProto], until: int | None = None) -> list[Step]:
        """The steps of the nodes up to the Close of a scope; it is taken from `nodes` with them, and kept in `self._closed`."""
        steps: list[Step] = []
        bodies: dict[int, dict[str, Body]] = {}
        opened: dict[int, NodeProto] = {}
        for node in nodes:
            ident = get_flat_id(node)
            if node.domain == FLAT and node.op_type == CLOSE:
                self._closed = tuple(self._slot(i) for i in node.input)
                return steps
            if node.domain == FLAT and node.op_type in (CALL_OPEN, CALL_CLOSE):
                continue
            if node.domain == FLAT:
                assert ident is not None
                ins = tuple(self._slot(o) for o in node.output)
                inner = self._compile(nodes, ident)
                body = Body(self.execute, inner, ins, self._closed)
                bodies.setdefault(ident, {})[read_attribute(node, "branch")] = body
                opened[ident] = node
                free_values(inner, keep={*body.outs, *body.captured})
            elif ident is not None:
                steps.append(self._control(node, opened[ident], bodies[ident]))
            else:
                steps.append(self._step(node, list(node.input)))
        return steps

    def _step(self, node: NodeProto, ins: Sequence[str]) -> Step:
        entry = _entry_of(node, self.opsets.get(get_domain(node), 1))
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
        self.host = find_host_only(left)
        self.filters = find_filters(left)
        self._placed: dict[
            int, tuple[Any, int, Any]
        ] = {}  # filters, their versions, and their copies for runs without gradients

    # Run

    def run(self, feeds: Mapping[str, Any], parameters: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        """The values of those names, given the graph's inputs and the parameters as tensors. Raises OnnxPruneError."""
        values: Values = [None] * len(self.slots)
        for slot, x in self.constants.items():
            values[slot] = x
        for name, x in (*parameters.items(), *feeds.items()):
            values[self.slots[name]] = x
        if not torch.is_grad_enabled():
            values = self._with_placed(values)
        plan = self._plan(tuple(names))
        sizes = _sizes_of(feeds) if plan.kept else None
        if sizes in plan.seen:
            for slot, x in zip(plan.kept, plan.seen[sizes], strict=True):
                values[slot] = x
            self.execute(plan.rest, values)
        else:
            self.execute(plan.steps, values)
            _remember(plan, sizes, [values[slot] for slot in plan.kept])
        return [self._unread.get(self.slots[n], values[self.slots[n]]) for n in names]

    def _with_placed(self, values: Values) -> Values:
        """With constant filters [O, I, h, w] whose channels lie last in memory: convolutions take half to nine tenths of the time.

        For runs without gradients: torch 2.13 writes beyond its memory in the gradient of some such filters (of 3 input channels,
        1x1, stride 2, on AVX-512).
        """
        if not self._placed:
            filters = {slot: self.constants[slot] for slot in self.filters & self.constants.keys()}
            self._placed = {i: x.to(memory_format=torch.channels_last) for i, x in filters.items() if x.dim() == 4}
        for slot, x in self._placed.items():
            values[slot] = x
        return values

    def _plan(self, names: tuple[str, ...]) -> StepPlan:
        """The steps that those values need, each with what is not needed after it."""
        if names not in self._plans:
            unknown = [n for n in names if n not in self.slots]
            if unknown:
                raise OnnxPruneError(f"the model has no value named {unknown[0]!r}")
            wanted = {self.slots[n] for n in names}
            steps = _needed(self.steps, wanted)
            rest = [s.copy() for s in steps if not self._sized.issuperset(s.outs)]
            read = {i for s in rest for i in s.reads} | wanted
            kept = tuple(sorted({o for s in steps for o in s.outs if o in self._sized and o in read} - {ABSENT}))
            free_values(steps, keep={*wanted, *kept})
            free_values(rest, keep=wanted)
            self._plans[names] = StepPlan(steps, rest, kept)
        return self._plans[names]

    def execute(self, steps: Iterable[Step], values: Values) -> None:
        """Run steps on the values of a run."""
        device = None if self.state.device.type == "cpu" else self.state.device
        step = None
        try:
            for step in steps:
                results = step.call(values) if device is None else step.call_on(device, values)
                if type(results) is tuple:
                    for slot, x in zip(step.outs, results, strict=False):
                        values[slot] = x
                else:
                    values[step.outs[0]] = results
                for slot in step.frees:
                    values[slot] = None
        except OnnxPruneError:
            raise
        except Exception as e:  # torch has many kinds
            assert step is not None
            raise OnnxPruneError(_explain(step.node, [values[i] for i in step.ins], e)) from e

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Move or convert the constants as `torch.nn.Module.to` does parameters; what shapes are computed from stays."""
        probe = change(torch.empty(0, dtype=self.state.dtype, device=self.state.device))
        self.state.device, self.state.dtype = probe.device, probe.dtype
        self._plans.clear()
        self._placed.clear()
        for constants in (self.constants, self._unread):
            for slot, x in constants.items():
                constants[slot] = x if self._stays(slot, x) else change(x)

    def _stays(self, slot: int, x: Any) -> bool:
        if not isinstance(x, torch.Tensor):
            return True
        if x.is_floating_point():
            return slot in self.host and x.dtype == self.state.dtype
        return slot in self.host or x.numel() <= HOST_ENTRIES


def _needed(steps: Sequence[Step], wanted: set[int]) -> list[Step]:
    """Copies of the steps that some values need."""
    copies: list[Step] = []
    needed = set(wanted)
    for step in reversed(steps):
        if needed.intersection(step.outs):
            copies.append(step.copy())
            needed.update(step.reads)
    return copies[::-1]


def _sizes_of(feeds: Mapping[str, Any]) -> Sizes | None:
    """The inputs' sizes; None where one is a sequence."""
    if not all(isinstance(x, torch.Tensor) for x in feeds.values()):
        return None
    return tuple((name, tuple(x.shape)) for name, x in sorted(feeds.items()))


def _remember(plan: StepPlan, sizes: Sizes | None, kept: list[Any]) -> None:
    """Keep what depends on sizes alone. Tensors of inference mode could not be used where gradients are wanted."""
    if sizes is None or torch.is_inference_mode_enabled():
        return
    if sum(x.nbytes for x in kept if isinstance(x, torch.Tensor)) <= SIZED_BYTES:
        if len(plan.seen) >= SIZES:
            del plan.seen[next(iter(plan.seen))]
        plan.seen[sizes] = kept


def _explain(node: Node, inputs: Sequence[Any], error: Exception) -> str:
    shapes = ", ".join(str(list(x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__ for x in inputs)
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"{node.op_type} '{node.label}' (opset {node.version}) on inputs {shapes}: {reason}"
