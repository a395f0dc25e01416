"""Work on the parts of something large side by side, in order: numpy lets other threads run while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

A = TypeVar("A")
B = TypeVar("B")

MOST = 4  # more threads wait for memory
LARGEST = 31 << 20  # bytes; glibc's allocator learns up to 32 MiB


def threads() -> int:
    """How many threads may run here at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST))


def keep_memory() -> None:
    """Have the allocator keep what arrays free for the next ones, instead of giving it back and faulting it in again.

    glibc does so up to the size of the largest mapped piece that was freed so far (mallopt(3), M_MMAP_THRESHOLD): without
    it, blocks of a megabyte take three times as long. Elsewhere this does nothing.
    """
    np.empty(LARGEST, np.uint8)


def ordered(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`work` of each item, in their order; no more than a few results are there before somebody takes them."""
    keep_memory()
    todo, count = iter(items), threads()
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[B]] = deque(pool.submit(work, item) for item in islice(todo, 2 * count))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(todo, 1))
            yield result
