"""Least squares of one layer: dampings, activations that cut, rows that say too little."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_repair import normal

from onnxprune.repair.cholesky import Cholesky
from onnxprune.repair.solve import DAMPINGS, FitRows, Ridge, choose_damping, make_ridges, softmax, solve
from onnxprune.repair.tails import Tail

Array = NDArray[Any]


def test_the_solution_is_numpys() -> None:
    x = normal(1, 500, 7)
    t = x @ normal(1, 7, 3, seed=1) + 0.1 * normal(1, 500, 3, seed=2)
    found = solve(FitRows(x, t, None), np.zeros((1, 7, 3)), None, Tail("y", np.ones(3), np.zeros(3)))
    np.testing.assert_allclose(found.w[0], np.linalg.lstsq(x[0], t[0])[0], rtol=1e-2, atol=1e-3)
    assert found.after < found.before


def test_what_the_activation_cuts_off_is_not_fitted() -> None:
    """Behind a Relu only the positive outputs matter: the steps find weights that fit those better."""
    x = normal(1, 2000, 6)
    hidden = np.concatenate([x[0], normal(2000, 4, seed=3)], axis=1)  # four inputs are gone
    t = (hidden @ normal(10, 5, seed=4) - 2)[None]
    plain, relu = (Tail("y", np.ones(5), np.zeros(5), low=low) for low in (-np.inf, 0.0))

    def error(tail: Tail) -> float:
        found = solve(FitRows(x.copy(), t, None), np.zeros((1, 6, 5)), np.zeros((1, 5)), tail)
        assert found.b is not None
        return float(np.square(np.maximum(x @ found.w + found.b, 0) - np.maximum(t, 0)).sum())

    assert error(relu) < 0.95 * error(plain)


def test_scores_of_tokens_are_fitted_to_their_probabilities() -> None:
    x = normal(1, 3000, 6)
    hidden = np.concatenate([x[0], normal(3000, 6, seed=3)], axis=1)  # half of the inputs are gone
    t = 2 * (hidden @ normal(12, 9, seed=4))[None]

    def divergence(scored: bool) -> float:
        found = solve(
            FitRows(x.copy(), t, None), np.zeros((1, 6, 9)), None, Tail("y", np.ones(9), np.zeros(9), scored=scored)
        )
        assert found.after < found.before
        p, q = softmax(t), softmax(x @ found.w)
        return float((p * np.log(p / q)).sum(axis=-1).mean())

    assert divergence(True) < 0.8 * divergence(False)


def test_scale_shift_and_others_are_taken_into_account() -> None:
    x, true, others = normal(1, 800, 5), normal(1, 5, 4, seed=1), normal(1, 800, 4, seed=2)
    scale, shift = np.array([1.0, -2.0, 0.0, 0.5]), np.array([0.0, 1.0, 2.0, 3.0])
    t = (others + shift + scale * (x @ true)).astype(np.float32)
    w0 = np.full((1, 5, 4), 0.25)
    w = solve(FitRows(x, t, others), w0, None, Tail("y", scale, shift)).w
    np.testing.assert_allclose(w[..., [0, 1, 3]], true[..., [0, 1, 3]], atol=5e-3)
    np.testing.assert_array_equal(w[..., 2], w0[..., 2])  # it has no effect, so it stays


def test_inputs_that_say_the_same_are_damped() -> None:
    one = normal(1, 300, 1)
    x = np.concatenate([one, one, np.zeros_like(one)], axis=2)
    found = solve(FitRows(x, one, None), np.zeros((1, 3, 1)), None, Tail("y", np.ones(1), np.zeros(1)))
    assert np.isfinite(found.w).all() and found.after < 1e-3 and found.condition > 1e3


def test_few_rows_and_many_are_solved_alike() -> None:
    """With fewer rows than inputs another, smaller matrix is inverted: the same solution."""
    x, t, w0, b0 = normal(2, 10, 12), normal(2, 10, 3), normal(2, 12, 3).astype(np.float64), np.zeros((2, 3))
    ridge = Ridge(x, w0, 0.3)
    assert ridge.factor is not None and ridge.factor.lower.shape == (2, 10, 10)
    gram = x.transpose(0, 2, 1) @ x + ridge.d * np.eye(12)
    want = np.linalg.solve(gram.astype(np.float64), x.transpose(0, 2, 1) @ t + ridge.d * w0)
    np.testing.assert_allclose(ridge.fit(t), want, rtol=1e-3, atol=1e-4)
    found = solve(FitRows(x, t, None), w0, b0, Tail("y", np.ones(6), np.zeros(6)))
    assert found.b is not None and found.after < found.before


@pytest.mark.parametrize("size", [1, 128, 300])
def test_blocks_of_a_factor_solve_what_the_whole_matrix_does(size: int) -> None:
    x, right = normal(2, 400, size).astype(np.float64), normal(2, size, 3, seed=1)
    matrix = x.transpose(0, 2, 1) @ x + np.eye(size)
    factor = Cholesky(matrix.copy())
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(matrix, right.astype(np.float64)), rtol=1e-9)
    true = np.linalg.cond(matrix, 1)
    assert (factor.estimate_condition() <= true * (1 + 1e-9)).all() and (factor.estimate_condition() > true / 3).all()
    with pytest.raises(np.linalg.LinAlgError):
        Cholesky(-matrix)


@pytest.mark.parametrize("guess", [0.0, DAMPINGS[3], DAMPINGS[6]])
@pytest.mark.parametrize("least", range(len(DAMPINGS)))
def test_a_damping_is_found_in_few_tries(least: int, guess: float) -> None:
    """Where errors fall and rise again, the least one or a lower damping that is nearly as good; flat ones are not all tried."""
    tried = list[float]()

    def measure(damping: float) -> float:
        tried.append(damping)
        return 1 + 0.02 * float(np.log(damping / DAMPINGS[least])) ** 2

    found = choose_damping(measure, guess)
    best = min(map(measure, DAMPINGS[::2]))
    assert measure(found) <= 1.03 * best and found <= DAMPINGS[least] * 7
    tried.clear()
    assert choose_damping(lambda d: tried.append(d) or 1.0, guess) == DAMPINGS[0] and len(tried) == 4


@pytest.mark.parametrize("rows", [8, 40])
def test_many_dampings_at_once_are_as_one_by_one(rows: int) -> None:
    x, t, w0 = normal(2, rows, 12), normal(2, rows, 3, seed=1), normal(2, 12, 3, seed=2).astype(np.float64)
    dampings = (1e-3, 0.1, 5.0)
    gram = x @ x.transpose(0, 2, 1) if rows < 12 else x.transpose(0, 2, 1) @ x
    find = make_ridges(x, t, w0, gram)
    for found, damping in ((find(d), d) for d in dampings):
        np.testing.assert_allclose(found, Ridge(x, w0, damping).fit(t), rtol=1e-2, atol=1e-3)


def test_rows_that_are_held_back_choose_the_damping() -> None:
    """Many rows that say much: hardly any. Few rows of noise: much, so that what was learnt elsewhere stays."""
    tail = Tail("y", np.ones(4), np.zeros(4))
    true = normal(1, 20, 4, seed=1).astype(np.float64)
    x, few = normal(1, 4000, 20), normal(1, 30, 20, seed=2)
    clear = solve(FitRows(x, (x @ true).astype(np.float32), None), 0 * true, None, tail)
    noisy = solve(FitRows(few, (few @ true + 9 * normal(1, 30, 4, seed=3)).astype(np.float32), None), true, None, tail)
    assert clear.damping <= DAMPINGS[1] and noisy.damping >= DAMPINGS[-2]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_rows_that_are_not_finite_change_nothing(rows: int) -> None:
    x, w0, b0 = normal(1, rows, 5), normal(1, 5, 4).astype(np.float64), np.zeros((1, 4))
    x[0, -1, 2] = np.inf
    with np.errstate(all="ignore"):
        found = solve(FitRows(x, normal(1, rows, 4), None), w0, b0, Tail("y", np.ones(4), np.zeros(4), low=0.0))
    np.testing.assert_array_equal(found.w, w0)


def test_large_means_cost_no_digits() -> None:
    x, w = normal(1, 600, 4) * 1e-2 + 100, normal(1, 4, 2, seed=1)
    t = x.astype(np.float64) @ w + 3
    found = solve(
        FitRows(x.copy(), t.astype(np.float32), None),
        np.zeros((1, 4, 2)),
        np.zeros((1, 2)),
        Tail("y", np.ones(2), np.zeros(2)),
    )
    np.testing.assert_allclose(found.w, w, rtol=0.05, atol=0.02)
