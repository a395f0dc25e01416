"""The steps of a program: what each reads, makes and lets go of, and which of them depend on the inputs' sizes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from onnxprune.gradients.operators import Entry, Node

Values = list[Any]
ABSENT = 0  # the slot of an input that is not there: always None


def _bind(entry: Entry, node: Node, ins: tuple[int, ...]) -> Callable[[Values], Any]:
    """An operator as a function of the values of a run; most have one or two inputs."""
    run = entry.run
    if entry.control:
        return lambda values: run(node, values, *[values[i] for i in ins])
    if len(ins) == 1:
        (only,) = ins
        return lambda values: run(node, values[only])
    if len(ins) == 2:
        first, second = ins
        return lambda values: run(node, values[first], values[second])
    return lambda values: run(node, *[values[i] for i in ins])


@dataclass
class Step:
    """One operator: where its inputs are among the values of a run, and where its outputs go."""

    entry: Entry
    node: Node
    ins: tuple[int, ...]
    outs: tuple[int, ...]  # ABSENT for an output that nobody reads
    captured: tuple[int, ...] = ()  # outer values that its bodies read
    frees: tuple[int, ...] = ()
    call: Callable[[Values], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.call = _bind(self.entry, self.node, self.ins)

    def call_on(self, device: torch.device, values: Values) -> Any:
        """The same on a device: where one input is there all go there, but for those that are read as numbers."""
        inputs = [values[i] for i in self.ins]
        tensors = [i for i, x in enumerate(inputs) if isinstance(x, torch.Tensor) and i not in self.entry.host]
        if len({inputs[i].device for i in tensors}) > 1:
            for i in tensors:
                inputs[i] = inputs[i].to(device)
        return self.entry.run(self.node, values, *inputs) if self.entry.control else self.entry.run(self.node, *inputs)

    @property
    def reads(self) -> tuple[int, ...]:
        return (*self.ins, *self.captured)

    def copy(self) -> Step:
        """The step in another list, in which other values may be dropped after it."""
        return Step(self.entry, self.node, self.ins, self.outs, self.captured)


@dataclass
class Body:
    """A body of If, Loop or Scan: its steps work on the values of the graph around it."""

    execute: Callable[[list[Step], Values], None]
    steps: list[Step]
    ins: tuple[int, ...]
    outs: tuple[int, ...]

    def __call__(self, values: Values, *inputs: Any) -> list[Any]:
        for slot, x in zip(self.ins, inputs, strict=True):
            values[slot] = x
        self.execute(self.steps, values)
        return [values[slot] for slot in self.outs]

    @property
    def captured(self) -> set[int]:
        """The outer values that it reads."""
        computed = {*self.ins, *(o for s in self.steps for o in s.outs)}
        return {i for s in self.steps for i in s.reads}.union(self.outs) - computed - {ABSENT}


def free_values(steps: list[Step], keep: set[int]) -> None:
    """Have each step drop the values that no later one reads."""
    live = {ABSENT, *keep}
    for step in reversed(steps):
        touched = {*step.reads, *step.outs}
        step.frees = tuple(sorted(touched - live)) + ((ABSENT,) if ABSENT in step.outs else ())
        live |= touched


def iterate_inner_steps(step: Step) -> Iterator[Step]:
    for body in step.node.bodies.values():
        for inner in body.steps:
            yield inner
            yield from iterate_inner_steps(inner)


def find_host_only(steps: Sequence[Step]) -> set[int]:
    """The values that are read as Python numbers alone."""
    host: set[int] = set()
    other: set[int] = set()
    for step in (s for top in steps for s in (top, *iterate_inner_steps(top))):
        for at, slot in enumerate(step.ins):
            (host if at in step.entry.host else other).add(slot)
        other.update(step.captured)
    return host - other


def find_filters(steps: Sequence[Step]) -> set[int]:
    """The values that are read as filters alone."""
    filters: set[int] = set()
    other: set[int] = set()
    for step in (s for top in steps for s in (top, *iterate_inner_steps(top))):
        for at, slot in enumerate(step.ins):
            (filters if at in step.entry.filters else other).add(slot)
    return filters - other


def find_sized(steps: Sequence[Step], constants: Iterable[int], others: Iterable[int]) -> set[int]:
    """The values that depend on nothing but constants and the sizes of the graph's inputs.

    Args:
        steps: of the whole graph, in order.
        constants: slots of values that never change.
        others: slots of inputs and parameters, whose sizes alone count.
    """
    sized = {ABSENT, *constants}
    shaped = sized | set(others)  # their shapes depend on nothing else
    for step in steps:
        entry, fixed = step.entry, not (step.entry.control or step.entry.random)
        if fixed and (sized.issuperset(step.ins) or (entry.sizes and shaped.issuperset(step.ins))):
            sized.update(step.outs)
        elif fixed and not entry.dynamic and shaped.issuperset(step.ins):
            if not sized.issuperset(slot for i, slot in enumerate(step.ins) if i in entry.host):
                continue
        else:
            continue
        shaped.update(step.outs)
    return sized
