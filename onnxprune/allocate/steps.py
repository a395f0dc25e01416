"""Pruning in steps: how much is gone after each, and the plan that plans one after the other amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.plans import Choice, Plan

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cubic": lambda t: t**3,  # slowly at first
    "agp": lambda t: 1 - (1 - t) ** 3,  # Zhu and Gupta 2017, To prune, or not to prune, arXiv 1710.01878, equation 1
}


def shares(steps: int, schedule: str) -> list[float]:
    """The share of all that is to go that is gone after each step; the last is 1."""
    return [SCHEDULES[schedule]((i + 1) / steps) for i in range(steps)]


def composed(first: Plan, second: Plan) -> Plan:
    """One plan that does what `first` does, and then `second` to what is left; groups are known by their names."""
    both = dict(first.groups)
    for name, choice in second.groups.items():
        before = first.groups[name]
        keep = tuple(before.keep[i] for i in choice.keep)
        why = before.reason if len(keep) == len(before.keep) and len(keep) < before.size else choice.reason
        both[name] = Choice(before.size, keep, why)
    return Plan(first.model, both)
