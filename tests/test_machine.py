"""What the environment says of the machine."""

import pytest

from onnxprune.machine import count_cores, count_threads, read_wanted_threads


@pytest.mark.parametrize(
    ("own", "openmp", "number"),
    [("", "", 0), ("3", "", 3), ("", "2", 2), ("3", "2", 3), ("", "4,2", 4), ("0", "2", 2), ("many", "", 0)],
)
def test_threads_are_those_of_the_environment(
    own: str, openmp: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPRUNE_THREADS", own)
    monkeypatch.setenv("OMP_NUM_THREADS", openmp)
    assert read_wanted_threads() == number and count_threads() == (number or count_cores())


def test_nothing_asked_is_a_thread_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONNXPRUNE_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert count_threads() == count_cores() >= 1
