"""What the original makes of the inputs: run in ONNX Runtime, kept for the next time."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.calibration.array_store import ArrayStore, Memory
from onnxprune.calibration.sessions import Feeds, open_session, run_as
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array
from onnxprune.measure import show_tensors


class Teacher:
    """The original's values of those names. They are kept up to the limit of `memory`, and what finds no room there waits in files.

    What is more, as the scores of all words at each place of long texts are, is made anew each time.
    """

    def __init__(self, original: Model, names: Sequence[str], memory: Memory) -> None:
        self.names = names
        self._session = open_session(show_tensors(original, names), "original")
        self._kept = ArrayStore(memory)
        self._known: set[int] = set()
        self._left = memory.limit

    def ask(self, key: int, feeds: Feeds) -> dict[str, Array]:
        """The values for the feeds of that key, which are the same each time."""
        if key in self._known:
            return {name: self._kept.get(name, key) for name in self.names}
        values = run_as("original", self._session, feeds)
        self._left -= sum(x.nbytes for x in values.values())
        if self._left > 0:
            self._known.add(key)
            for name, x in values.items():
                self._kept.put(name, key, x)
        return values
