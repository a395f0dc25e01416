"""If, Loop and Scan: their bodies are steps on the values of the graph around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator


@operator("If", control=True, host=(0,))
def branch(node: Node, values: list[Any], condition: Tensor) -> tuple[Any, ...]:
    return tuple(node.bodies["then_branch" if condition.item() else "else_branch"](values))


@operator("Loop", control=True, host=(0, 1))
def loop(
    node: Node, values: list[Any], trips: Tensor | None, condition: Tensor | None, *states: Any
) -> tuple[Any, ...]:
    """[iteration, condition, states][condition, states, scans] -> [states, scans]"""
    body, at, goes_on = node.bodies["body"], 0, condition
    limit = None if trips is None else int(trips.item())
    count = len(states)
    scans: list[list[Tensor]] = [[] for _ in body.outs[1 + count :]]
    while (limit is None or at < limit) and (goes_on is None or bool(goes_on.item())):
        given = torch.tensor(True) if goes_on is None else goes_on
        goes_on, *results = body(values, torch.tensor(at), given, *states)
        states = tuple(results[:count])
        for rows, x in zip(scans, results[count:], strict=True):
            rows.append(x)
        at += 1
        if condition is None and trips is not None:
            goes_on = None
    return (*states, *(_stack(rows, 0, node) for rows in scans))


@operator("Scan", since=9, control=True)
def scan(node: Node, values: list[Any], *inputs: Tensor) -> tuple[Any, ...]:
    """[states, inputs] -> [states, scans]: the body runs once for each position along the inputs' axes."""
    body, count = node.bodies["body"], node.num_scan_inputs
    states, sources = list(inputs[: len(inputs) - count]), inputs[len(inputs) - count :]
    axes = node.scan_input_axes or [0] * count
    turned = node.scan_input_directions or [0] * count
    parts = [x.unbind(a)[:: -1 if back else 1] for x, a, back in zip(sources, axes, turned, strict=True)]
    rows: list[list[Tensor]] = [[] for _ in body.outs[len(states) :]]
    for step in zip(*parts, strict=True):
        results = body(values, *states, *step)
        for kept, x in zip(rows, results[len(states) :], strict=True):
            kept.append(x)
        states = results[: len(states)]
    out_axes = node.scan_output_axes or [0] * len(rows)
    backwards = node.scan_output_directions or [0] * len(rows)
    ends = [
        _stack(kept[::-1] if back else kept, axis, node)
        for kept, axis, back in zip(rows, out_axes, backwards, strict=True)
    ]
    return (*states, *ends)


def _stack(rows: list[Tensor], axis: int, node: Node) -> Tensor:
    return torch.stack(rows, axis) if rows else torch.zeros(0, dtype=node.state.dtype)
