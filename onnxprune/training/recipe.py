"""How a candidate is trained: the numbers, each as it was set on small networks of pictures (see README.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

HELD_OUT = 10  # one of so many samples is held out
LEAST_BATCH, STEPS = 16, 32  # a batch has that many samples at least, where a pass has fewer steps
PLAIN_VERSIONS = 4  # of data that are not augmented: other orders
LEAST_CHECKS = 10  # times that the held-out samples are looked at, though there be fewer passes
MIXED_IN = 0.5  # the share of labels in the loss, where somebody gives some
RATE, HIGHEST = 0.05, 5e-3  # the rate of a network of one layer; with more of them, each moves the less
TRIALS, TRIAL_SHARE, RATE_STEP = (
    4,
    0.05,
    3.0,
)  # short trainings that look for a rate: how many, their steps, the factor between


@dataclass(frozen=True)
class TrainingRecipe:
    """`passes` over the data; all else but `seed` is as it was tuned.

    rate          how far weights move in a step at the highest, relative to the root mean square of their tensor; None: the best
                  of some short trainings
    batch         samples a step, where the model leaves that open; fewer of few data, so that a pass has some steps
    warmup        the share of the steps in which the rate rises; then it falls as a cosine to zero
    average       how much of the averaged weights stays at each step
    clip          the largest norm of all gradients together
    versions      how many augmented forms of the data there are before they come again; what the original makes of one is kept
    label_weight  the share of cross-entropy with labels in the loss
    """

    passes: int
    seed: int = 0
    augment: bool = True
    label_weight: float = 0.0
    rate: float | None = None
    batch: int = 64
    warmup: float = 0.05
    average: float = 0.99
    clip: float = 1.0
    versions: int = 30

    @property
    def forms(self) -> int:
        """How many versions of the data there are."""
        return self.versions if self.augment else PLAIN_VERSIONS

    def schedule_rate(self, highest: float, done: int, of: int) -> float:
        """The rate of a step: up in a line to the highest, then down as a cosine."""
        rising = max(1, round(self.warmup * of))
        if done < rising:
            return highest * (done + 1) / rising
        return highest * 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, of - rising)))


def guess_rate(layers: int) -> float:
    """The highest rate that suits networks of images with so many matrices trained."""
    return min(RATE / max(layers, 1), HIGHEST)
