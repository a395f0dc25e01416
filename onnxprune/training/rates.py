"""The learning rate: the best of some short trainings, since networks differ by a factor of ten in what suits them."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.training.recipe import RATE_STEP, TRIALS


def climb_rates(first: float, measure: Callable[[float], float]) -> float:
    """The rate of the least loss, uphill from the first one in factors of RATE_STEP, else downhill; TRIALS losses at most.

    Args:
        first: the rate to begin with.
        measure: the loss on held-out samples after a short training at a rate.
    """
    losses = {first: measure(first)}
    for factor in (RATE_STEP, 1 / RATE_STEP):
        rate = first
        while len(losses) < TRIALS:
            losses[rate * factor] = measure(rate * factor)
            if not losses[rate * factor] < losses[rate]:
                break
            rate *= factor
        if rate != first:
            break
    return min(losses, key=lambda rate: losses[rate])
