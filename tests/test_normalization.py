"""Scores of different groups made comparable: values by hand, and laws that every normalization has to keep."""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.criteria import NORMALIZERS, normalize
from onnxprune.errors import OnnxPruneError


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_normalize_by_hand() -> None:
    scores = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([4.0, 0.0])}
    root = math.sqrt(2 / 3)
    expected: dict[str, tuple[list[float], list[float]]] = {
        "none": ([1, 2, 3], [4, 0]),
        "mean": ([0.5, 1, 1.5], [2, 0]),
        "max": ([1 / 3, 2 / 3, 1], [1, 0]),
        "sum": ([1 / 6, 2 / 6, 3 / 6], [1, 0]),
        "standardize": ([-1 / root, 0, 1 / root], [1, -1]),
        "lamp": ([1 / 14, 4 / 13, 1], [1, 0]),
    }
    assert set(expected) == set(NORMALIZERS)
    for how, (a, b) in expected.items():
        got = normalize(scores, how)
        np.testing.assert_allclose(got["a"], a, rtol=1e-12, err_msg=how)
        np.testing.assert_allclose(got["b"], b, rtol=1e-12, err_msg=how)
    assert scores["a"].tolist() == [1, 2, 3]
    assert normalize(scores, "none")["a"] is not scores["a"]


def loop_lamp(s: list[float]) -> list[float]:
    """s_c^2 over the sum of the squares that are at least as large."""
    return [x * x / math.fsum(y * y for y in s if y >= x) if x else 0.0 for x in s]


@given(st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0]) | st.floats(1e-3, 1e3), min_size=1, max_size=30))
@settings(deadline=None)
def test_lamp(s: list[float]) -> None:
    got = normalize({"g": np.array(s)}, "lamp")["g"]
    np.testing.assert_allclose(got, loop_lamp(s), rtol=1e-9)


def test_lamp_of_distinct_scores_spares_one_channel_of_each_group() -> None:
    scores = {f"g{i}": np.random.default_rng(i).exponential(10.0**i, size=8) for i in range(5)}
    for s in normalize(scores, "lamp").values():
        assert s.max() == pytest.approx(1)
        assert (np.sort(s)[:-1] < 1).all()


@pytest.mark.parametrize("how", NORMALIZERS)
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_normalize_is_finite_and_keeps_the_order(how: str, s: list[float]) -> None:
    before = np.array(s)
    after = normalize({"g": before}, how)["g"]
    assert np.isfinite(after).all()
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= -1e-15).all()


@pytest.mark.parametrize("how", NORMALIZERS)
@pytest.mark.parametrize("value", [0.0, 5e-324, 0.1, 1.7e308])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_normalize_constants(how: str, value: float, n: int) -> None:
    got = normalize({"g": np.full(n, value)}, how)["g"]
    expected = {"none": value, "mean": 1.0, "max": 1.0, "sum": 1 / max(n, 1), "standardize": 0.0, "lamp": 1 / max(n, 1)}
    np.testing.assert_allclose(got, np.full(n, expected[how] if value else 0.0), rtol=1e-9)


def test_normalize_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(OnnxPruneError, match="group 'g'"):
        normalize({"g": np.array([1.0, math.nan])}, "mean")
    with pytest.raises(OnnxPruneError, match="at least 0"):
        normalize({"g": np.array([1.0, -1.0])}, "lamp")


def test_normalize_keeps_the_order_of_negative_scores() -> None:
    s = np.array([-3.0, -1.0, -2.0])
    for how in set(NORMALIZERS) - {"lamp"}:
        assert np.argsort(normalize({"g": s}, how)["g"]).tolist() == [0, 2, 1], how
