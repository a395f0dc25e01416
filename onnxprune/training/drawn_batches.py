"""Batches to train on: drawn anew for each version of the data, the same for the same seed."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration import Batches, InputSpec
from onnxprune.calibration.array_store import Memory, StoredBatches
from onnxprune.calibration.data import Stored
from onnxprune.calibration.sessions import Feeds, count
from onnxprune.graph.weights import Array
from onnxprune.training.augment import augment
from onnxprune.training.recipe import LEAST_BATCH, STEPS, TrainingRecipe


class DrawnBatches:
    """The data in batches, in as many versions as the recipe has forms; `version` and `number` say which one.

    Samples that lie in arrays are put together anew in each version, what is left over of a batch is not used in it. Data that
    come as batches stay so. With `augment`, each version is augmented in its own way.
    """

    def __init__(self, batches: Batches, specs: list[InputSpec], recipe: TrainingRecipe, memory: Memory) -> None:
        self.specs, self.recipe = specs, recipe
        self._stored = batches if isinstance(batches, Stored) else None
        self._labels: list[Array | None] = []
        self._batches = StoredBatches(memory)
        if self._stored is None:
            for feeds, labels in batches.pairs():
                self._batches.append(feeds)
                self._labels.append(labels)
            self.count, self.total = len(self._batches), sum(map(count, self._batches))
        else:
            self.total = len(self._stored.rows)
            self.step = self._stored.step if self._stored.static else find_batch(recipe.batch, self.total)
            self.count = self.total // self.step

    def find(self, at: int) -> tuple[int, int]:
        """The version and the number of the batch of a step."""
        passed, place = divmod(at, self.count)
        order = np.random.default_rng([self.recipe.seed, 1, passed]).permutation(self.count)
        return passed % self.recipe.forms, int(order[place])

    def take(self, version: int, number: int) -> tuple[Feeds, Array | None]:
        """A batch, and its labels where it has some."""
        feeds, labels = self._take(version, number)
        labeled = self.recipe.label_weight > 0  # a blend has no class
        if self.recipe.augment:
            feeds = augment(
                feeds, self.specs, np.random.default_rng([self.recipe.seed, 2, version, number]), blend=not labeled
            )
        return feeds, labels

    def _take(self, version: int, number: int) -> tuple[Feeds, Array | None]:
        if self._stored is None:
            return self._batches[number], self._labels[number]
        order = np.random.default_rng([self.recipe.seed, 0, version]).permutation(len(self._stored.rows))
        part = self._stored.take(order[number * self.step : (number + 1) * self.step])
        return next(iter(part.pairs()))


def find_batch(most: int, samples: int) -> int:
    """How many samples a step has: up to `most`, as long as a pass has some steps."""
    return min(samples, most, max(LEAST_BATCH, samples // STEPS))
