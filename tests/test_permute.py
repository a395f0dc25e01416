"""The order of columns under N:M sparsity: against brute force, against what is known, and never worse than none."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from onnxprune.sparsity import permute
from onnxprune.sparsity.permute import find_best_order, measure_kept

PATTERNS = [(2, 4), (1, 4), (4, 8), (1, 2), (3, 5)]


def normal(seed: int, *shape: int) -> Any:
    return np.abs(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def plain(scores: Sequence[Any], n: int, m: int, order: Any) -> float:
    """`kept`, group by group."""
    total = sum(
        np.sort(s[:, order[at : at + m]], axis=1)[:, -n:].sum() for s in scores for at in range(0, len(order), m)
    )
    return float(total / sum(s.sum() for s in scores))


def partitions(columns: tuple[int, ...], m: int) -> Iterator[tuple[int, ...]]:
    """Every way to make groups of m columns, as orders."""
    if not columns:
        yield ()
        return
    first, *others = columns
    for chosen in combinations(others, m - 1):
        left = tuple(c for c in others if c not in chosen)
        yield from ((first, *chosen, *rest) for rest in partitions(left, m))


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("columns", [3, 8, 11, 16])
def test_kept_is_what_the_pattern_keeps(n: int, m: int, columns: int) -> None:
    scores = [normal(0, 7, columns).astype(np.float64), normal(1, 1, columns).astype(np.float64)]
    order = np.random.default_rng(2).permutation(columns)
    assert measure_kept(scores, n, m) == pytest.approx(plain(scores, n, m, np.arange(columns)), rel=1e-12)
    assert measure_kept(scores, n, m, order) == pytest.approx(plain(scores, n, m, order), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "groups"), [(2, 4, 2), (1, 4, 2), (2, 4, 3), (1, 2, 4), (1, 3, 3), (4, 8, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_of_a_small_matrix_is_found(n: int, m: int, groups: int, seed: int) -> None:
    scores = [normal(seed, 6, groups * m)]
    optimum = max(plain(scores, n, m, np.array(p)) for p in partitions(tuple(range(groups * m)), m))
    assert measure_kept(scores, n, m, find_best_order(scores, n, m)) == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("columns", [1, 4, 9, 24, 30, 35])
def test_an_order_is_a_permutation_that_keeps_no_less(n: int, m: int, columns: int) -> None:
    scores = [normal(columns, 12, columns)]
    order = find_best_order(scores, n, m)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(columns))
    found, before = measure_kept(scores, n, m, order), measure_kept(scores, n, m)
    assert found > before if columns > 2 * m else found >= before


def test_a_short_last_group_is_used() -> None:
    """It keeps both of its two columns: large ones belong there, where other groups have more than two of them."""
    scores = [np.array([[9, 9, 9, 1, 1, 1, 1, 1, 9, 1]], np.float32)]
    assert measure_kept(scores, 2, 4) == pytest.approx(30 / 42)
    order = find_best_order(scores, 2, 4)
    assert measure_kept(scores, 2, 4, order) == pytest.approx((9 * 4 + 2) / 42)
    scores = [np.array([[9, 9, 9, 9, 9, 9, 1, 1, 1, 1]], np.float32)]
    assert measure_kept(scores, 2, 4) == pytest.approx((9 * 4 + 2) / 58)
    assert measure_kept(scores, 2, 4, find_best_order(scores, 2, 4)) == pytest.approx(54 / 58)


def test_columns_that_are_large_in_the_same_rows_are_spread() -> None:
    """Of four neighbors all are large in the same rows, and none elsewhere: two of four is the most that a group should get."""
    scores = [
        np.repeat(np.kron(np.eye(8), np.ones((3, 4))), 2, axis=0).astype(np.float32) * 10 + normal(0, 48, 32) / 100
    ]
    assert measure_kept(scores, 2, 4) < 0.51
    order = find_best_order(scores, 2, 4)
    assert measure_kept(scores, 2, 4, order) > 0.99
    assert all(np.bincount(group // 4).max() <= 2 for group in order.reshape(-1, 4))


def test_all_matrices_vote_with_their_weight() -> None:
    one, other = normal(0, 16, 32), normal(1, 16, 32)
    both = [one, other]
    alone, together, mostly = (
        find_best_order([one], 2, 4),
        find_best_order(both, 2, 4),
        find_best_order([one, other / 1000], 2, 4),
    )
    assert measure_kept(both, 2, 4, together) > measure_kept(both, 2, 4, alone) + 0.005
    assert measure_kept([one], 2, 4, alone) > measure_kept([one], 2, 4, together) + 0.005
    assert measure_kept([one], 2, 4, mostly) == pytest.approx(measure_kept([one], 2, 4, alone), abs=0.002)


@pytest.mark.parametrize("sizes", [[16, 8, 24], [3, 3, 3, 3, 4, 8], [10, 22], [7, 6, 0, 12], [1] * 12, [5, 12, 20]])
def test_columns_stay_inside_their_blocks(sizes: list[int]) -> None:
    columns = sum(sizes)
    scores = [normal(3, 20, columns)]
    order = find_best_order(scores, 2, 4, sizes=sizes)
    block = np.repeat(np.arange(len(sizes)), sizes)
    assert sorted(order) == list(range(columns))
    assert np.array_equal(block[order], block)
    if max(sizes) > 1:
        assert measure_kept(scores, 2, 4, order) > measure_kept(scores, 2, 4)


def test_blocks_that_straddle_groups_are_solved_together() -> None:
    """Two blocks of 6: the optimum over all 6! x 6! orders, by which columns stand in the group that both reach into."""
    scores = [normal(5, 6, 12)]
    halves = [((*set(range(6)).difference(pair),), pair) for pair in combinations(range(6), 2)]
    orders = [(*a, *pair, *(6 + k for k in other), *(6 + k for k in c)) for a, pair in halves for c, other in halves]
    optimum = max(plain(scores, 2, 4, np.array(p)) for p in orders)
    assert measure_kept(scores, 2, 4, find_best_order(scores, 2, 4, sizes=[6, 6])) == pytest.approx(optimum, abs=1e-6)


def test_the_same_seed_gives_the_same_order() -> None:
    scores = [normal(0, 32, 64)]
    first, again, other = (find_best_order(scores, 2, 4, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "scores", [np.zeros((5, 16)), np.ones((5, 16)), np.zeros((0, 16)), np.eye(16)[:4], np.zeros((3, 0))]
)
def test_nothing_to_gain_means_the_identity(scores: Any) -> None:
    assert np.array_equal(find_best_order([scores], 2, 4), np.arange(scores.shape[1]))


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_a_matrix_of_64_by_128(seed: int) -> None:
    """Pool and Yu's size. Uniform scores keep 70 % in any order, normal ones 74.5 %."""
    uniform = [np.random.default_rng(seed).random((64, 128), np.float32)]
    assert measure_kept(uniform, 2, 4) < 0.707
    assert measure_kept(uniform, 2, 4, find_best_order(uniform, 2, 4)) > 0.724
    gaussian = [normal(seed, 64, 128)]
    assert measure_kept(gaussian, 2, 4) < 0.75
    assert measure_kept(gaussian, 2, 4, find_best_order(gaussian, 2, 4)) > measure_kept(gaussian, 2, 4) + 0.023


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("power", [1, 4])
def test_scores_of_any_float_and_of_few_outliers(dtype: Any, power: int) -> None:
    scores = [(normal(0, 48, 64) ** power).astype(dtype)]
    assert measure_kept(scores, 2, 4, find_best_order(scores, 2, 4)) > measure_kept(scores, 2, 4) + 0.014


def test_rows_are_drawn_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [normal(0, 1, 32) + normal(1, 400, 32) / 4, np.zeros((3, 32), np.float32), normal(2, 50, 32)]
    full = permute.encode_scores(scores, 4, np.random.default_rng(0))
    assert full.codes.shape == (32, 450)
    monkeypatch.setattr(permute, "WORK", 8 * 8 * 90)
    drawn = permute.encode_scores(scores, 4, np.random.default_rng(0))
    assert drawn.codes.shape == (32, 90)
    assert measure_kept(scores, 2, 4, find_best_order(scores, 2, 4)) > measure_kept(scores, 2, 4)


def test_part_of_many_groups_trades_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [normal(0, 24, 96)]
    whole = measure_kept(scores, 2, 4, find_best_order(scores, 2, 4))
    monkeypatch.setattr(permute, "TRADERS", 10)
    order = find_best_order(scores, 2, 4)
    assert sorted(order) == list(range(96))
    assert measure_kept(scores, 2, 4, order) == pytest.approx(whole, abs=0.005)


def test_gains_say_how_columns_compare() -> None:
    """Their differences of differences are those of the sums of maxima, nearly: the rest is the same for every assignment."""
    scores = [normal(0, 500, 32) * np.exp(normal(1, 500, 1))]
    c = permute.encode_scores(scores, 4, np.random.default_rng(0))
    got = permute.compute_gains(c, c.codes[:16], c.codes[16:])
    assert np.array_equal(got, np.rint(got)), "sums of whole numbers, so that no library rounds them in its own way"
    want = np.maximum(scores[0].T[:16, None], scores[0].T[None, 16:]).sum(axis=2)
    got, want = (g - g.mean(axis=0) - g.mean(axis=1, keepdims=True) + g.mean() for g in (got, want))
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("seed", range(5))
def test_trades_are_permutations_near_the_best(seed: int) -> None:
    gain = np.random.default_rng(seed).standard_normal((7, 7)).astype(np.float32)
    best = np.full(1 << 7, -np.inf)
    best[0] = 0.0
    for used in range(1 << 7):  # the assignment problem by dynamic programming over the columns that are given away
        row = used.bit_count()
        for column in range(7):
            if row < 7 and not used >> column & 1:
                best[used | 1 << column] = max(best[used | 1 << column], best[used] + gain[row, column])
    taken = permute.assign_columns(gain)
    assert sorted(taken) == list(range(7))
    assert gain[np.arange(7), taken].sum() == pytest.approx(best[-1], abs=1e-4)


def test_who_may_not_trade_keeps_what_it_has() -> None:
    gain = np.array([[0, 5, -np.inf], [4, 0, -np.inf], [-np.inf, -np.inf, 0]], np.float32)
    assert permute.assign_columns(gain).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("scores", "n", "m", "sizes", "words"),
    [
        ([np.ones((2, 8))], 5, 4, None, "5:4"),
        ([np.ones((2, 8))], 0, 4, None, "0:4"),
        ([np.ones((2, 8)), np.ones((2, 9))], 2, 4, None, "as many columns"),
        ([], 2, 4, None, "as many columns"),
        ([np.ones(8)], 2, 4, None, "as many columns"),
        ([-np.ones((2, 8))], 2, 4, None, "not negative"),
        ([np.full((2, 8), np.nan)], 2, 4, None, "finite"),
        ([np.ones((2, 8))], 2, 4, [4, 5], "do not sum"),
    ],
)
def test_what_cannot_be_ordered(scores: Any, n: int, m: int, sizes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_best_order(scores, n, m, sizes=sizes)
