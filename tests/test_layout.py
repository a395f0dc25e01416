"""AxisTerms: refinements that meet each other, and layouts that must not contain themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.axes import PLAIN, Axis, Dynamic, Fixed, Prod, Reason, Size, Sum, Var, div, first, pair, size_of
from onnxprune.layout import (
    AxisTerms,
    Dim,
    LayoutError,
    concat,
    factor,
    find,
    fixed,
    leaves,
    pick,
    prod,
    split,
    unify,
    var,
)


def term(d: Dim) -> Axis:
    return AxisTerms().of(d)


def test_refinements_that_do_not_nest_end_without_a_cycle() -> None:
    d = var(24)
    _, right = split(d, 11)
    split(right, 3)
    factor(d, 2)
    factor(d, 4)
    assert len(term(d).kept({})) == 24 and len(repr(d)) < 200


def test_a_plain_axis_that_meets_a_product_is_refined_everywhere() -> None:
    flat, h, d = var(12), var(3), var(4)
    unify(flat, prod(h, d))
    assert find(flat).kind == "prod" and leaves(flat) == [h, d]
    axis = term(flat)
    head, feature = axis.leaves
    assert axis.owner(head).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert axis.kept({feature: np.array([1, 3])}).tolist() == [1, 3, 5, 7, 9, 11]


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
    assert term(d).kept({}).tolist() == list(range(24))


def test_factorisations_that_do_not_nest_share_their_innermost_rows() -> None:
    x, y = prod(var(2), var(6)), prod(var(3), var(4))
    unify(x, y)
    terms = AxisTerms()
    assert terms.of(x) is terms.of(y)
    (v,) = terms.of(x).leaves
    assert terms.of(x).owner(v).tolist() == [0, 1] * 6


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
    assert repr(first) == "((v2 + v1 + v1) v3)" and repr(last) == "(v2 v3) + (v1 v3) + (v1 v3)"
    assert len(leaves(last)) == 4


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(LayoutError):
        unify(var(3), var(4))


def test_terms_are_made_once_and_do_not_change() -> None:
    a, b, terms = var(6), var(2), AxisTerms()
    one, other = (terms.of(prod(concat(a, b), fixed(49))) for _ in range(2))
    assert one is other and isinstance(one, Prod) and isinstance(one.parts[0], Sum) and isinstance(one.parts[1], Fixed)
    assert one.leaves == (terms.of(a), terms.of(b)) and one.parts[0].parts[0] is terms.of(a)
    with pytest.raises(AttributeError):
        one.size = 3  # type: ignore[misc]


def test_terms_answer_for_a_plan() -> None:
    a, rest, tokens = Var(3), Fixed(2, Reason("a pad", "p", "Pad")), Fixed(Dynamic(4, 6), PLAIN)
    axis = Sum(8, (a, rest, a))
    keep = {a: np.array([2, 0])}
    assert axis.kept(keep).tolist() == [2, 0, 3, 4, 7, 5] and axis.size_after(keep) == 6 and axis.moves(keep)
    assert not axis.owned and axis.reason == rest.why and a.reason is None
    flat = Prod(Dynamic(12, 18), (tokens, a))
    assert flat.size_after(keep) == Dynamic(8, 12) and repr(flat) == "(? v3)"
    run = flat.at_length(6, keep)
    assert run is not None and run.kept(keep).tolist() == [2, 0, 5, 3] and flat.at_length(6, {}) is not None
    assert Prod(Dynamic(24, 54), (tokens, tokens, a)).at_length(6, keep) is None


def test_a_size_is_an_int_or_dynamic() -> None:
    tokens: Size = Dynamic(4, 6)
    assert 3 * tokens == tokens * 3 == Dynamic(12, 18) and tokens * tokens == Dynamic(16, 36) and tokens * 0 == 0
    assert tokens + 1 == 1 + tokens == Dynamic(5, 7) and sum([tokens, 2, tokens]) == Dynamic(10, 14)
    assert div(tokens, 2) == Dynamic(2, 3) and div(Dynamic(8, 12), tokens) == 2 and div(tokens, 4) is None
    assert size_of(5, 5) == 5 and (pair(7), first(7)) == ((7, 7), 7) and (pair(tokens), first(tokens)) == ((4, 6), 4)
    assert f"{(tokens, 3)}" == "(?, 3)"
