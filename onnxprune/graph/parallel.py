"""Work on the parts of something large side by side, in order: numpy lets other threads run while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

MOST = 4  # more threads wait for memory


def threads() -> int:
    """How many threads may run here at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST))


def ordered(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`work` of each item, in their order; no more than a few results are there before somebody takes them."""
    todo, count = iter(items), threads()
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[B]] = deque(pool.submit(work, item) for item in islice(todo, 2 * count))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(todo, 1))
            yield result
