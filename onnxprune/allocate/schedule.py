"""Pruning in steps: how much is gone after each, and the plan that plans one after the other amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.plans import Choice, Plan

SCHEDULES: Mapping[str, Callable[[float, float], float]] = {
    "linear": lambda t, rest: t,
    "cubic": lambda t, rest: t**3,  # slowly at first
    "agp": lambda t, rest: (
        1 - (1 - t) ** 3
    ),  # Zhu and Gupta 2017, To prune, or not to prune, arXiv 1710.01878, equation 1
    "geometric": lambda t, rest: (1 - rest**t) / (1 - rest) if 0 < rest < 1 else t,  # the same part of what is left
}


def plan_shares(steps: int, schedule: str, rest: float) -> list[float]:
    """The share of all that is to go that is gone after each step; the last is 1. A fraction `rest` stays in the end."""
    return [SCHEDULES[schedule]((i + 1) / steps, rest) for i in range(steps)]


def compose_plans(first: Plan, second: Plan) -> Plan:
    """One plan that does what `first` does, and then `second` to what is left; groups are known by their names."""
    both = dict(first.groups)
    for name, choice in second.groups.items():
        if name not in both:  # it has another name by now; it stays as the first plan left it
            continue
        before = first.groups[name]
        keep = tuple(before.keep[i] for i in choice.keep)
        why = before.reason if len(keep) == len(before.keep) and len(keep) < before.size else choice.reason
        both[name] = Choice(before.size, keep, why)
    return Plan(first.model, both, units=(*first.units, *second.units))
