"""Work that runs ahead of who takes its results, on the cores that there are."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 2  # results for each thread that may wait to be taken, so that no thread waits for the next item


def make_ahead(make: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Generator[Made, None, None]:
    """Yield the result of `make` for each item, in order, computed by `threads` threads while earlier results are used.

    It pays where `make` spends its time in the system or in numpy, which let other threads run.
    """
    if threads < 2:
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
