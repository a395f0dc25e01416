"""Terms: refinements that meet each other, and layouts that must not contain themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.layout import LayoutError, factor, find, kept, leaves, owner, pick, prod, show, split, unify, var


def test_refinements_that_do_not_nest_end_without_a_cycle() -> None:
    d = var(24)
    _, right = split(d, 11)
    split(right, 3)
    factor(d, 2)
    factor(d, 4)
    assert len(kept(d, {})) == 24 and len(show(d)) < 200


def test_a_plain_axis_that_meets_a_product_is_refined_everywhere() -> None:
    flat, h, d = var(12), var(3), var(4)
    unify(flat, prod(h, d))
    assert find(flat).kind == "prod" and leaves(flat) == [h, d]
    assert owner(flat, h).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert kept(flat, {d: np.array([1, 3])}).tolist() == [1, 3, 5, 7, 9, 11]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["split", "factor", "pick"]), st.integers(1, 23)), max_size=6))
def test_any_refinements_keep_the_size(steps: list[tuple[str, int]]) -> None:
    d = var(24)
    for what, n in steps:
        try:
            if what == "split":
                split(d, n)
            elif what == "factor":
                factor(d, n)
            else:
                pick(d, np.random.default_rng(n).permutation(24)[:n])
        except LayoutError:
            continue
    assert kept(d, {}).tolist() == list(range(24))


def test_factorisations_that_do_not_nest_share_their_innermost_rows() -> None:
    x, y = prod(var(2), var(6)), prod(var(3), var(4))
    unify(x, y)
    (v,) = leaves(x)
    assert leaves(y) == [v] and owner(x, v).tolist() == owner(y, v).tolist() == [0, 1] * 6


def test_coprime_factors_are_frozen() -> None:
    x, y = prod(var(5), var(3)), prod(var(3), var(5))
    unify(x, y)
    assert not leaves(x) and not leaves(y)


def test_cutting_and_factoring_commute() -> None:
    first, last = var(12), var(12)
    factor(first, 3)
    for d in (first, last):
        split(d, 6)
        split(d, 9)
    factor(last, 3)
    assert show(first) == "((v2 + v1 + v1) v3)" and show(last) == "(v2 v3) + (v1 v3) + (v1 v3)"
    assert len(leaves(last)) == 4


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(LayoutError):
        unify(var(3), var(4))
