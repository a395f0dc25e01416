"""Work ahead: in order, no further than agreed, and with errors where they belong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from onnxprune.graph.ahead import AHEAD, make_ahead


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def make(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(make_ahead(make, range(40), threads)) == [item * item for item in range(40)]


def test_no_more_is_made_than_may_wait() -> None:
    given: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            given.append(item)
            yield item

    for taken, _ in enumerate(make_ahead(lambda item: item, items(), 2), 1):
        assert len(given) <= taken + 2 * AHEAD


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_is_raised_where_its_result_was_due(threads: int) -> None:
    def make(item: int) -> int:
        if item == 5:
            raise OSError("no more")
        return item

    found: list[int] = []
    with pytest.raises(OSError, match="no more"):
        for made in make_ahead(make, range(50), threads):
            found.append(made)
    assert found == [0, 1, 2, 3, 4]


def test_threads_end_when_nobody_takes_the_rest() -> None:
    before = threading.active_count()
    made = make_ahead(lambda item: item, range(1000), 2)
    assert next(made) == 0 and threading.active_count() > before
    made.close()
    assert threading.active_count() == before
