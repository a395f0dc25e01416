"""Second-order scores: what least squares over the channels that stay would leave."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from onnxprune.criteria import Signal, reconstruction


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_few_rows_say_little_of_what_could_replace_a_channel() -> None:
    """20 rows of 256 independent numbers can be made from any 20 of them, which says nothing of other rows."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((20, 256)), rng.standard_normal((256, 8))
    known = {"patch_mean": x.mean(axis=0)[:, None], "patch_gram": x.T @ x / len(x)}
    sure, careful = (np.sort(reconstruction.obs([Signal("x", "read", known, w, rows)])) for rows in (0, 20))
    assert sure[127] < 0.01, "half of the channels seem to be for free"
    assert careful[127] > 0.2 * careful[-1]


def test_channels_of_wide_groups_go_several_at_a_time() -> None:
    """Each step of 17 channels against least squares over the channels that stay, which knows of no steps before."""
    rng = np.random.default_rng(1)
    n = 520
    x, w = rng.standard_normal((900, n)) @ rng.standard_normal((n, n)) / n, rng.standard_normal((n, 4))
    known = {"patch_mean": x.mean(axis=0)[:, None], "patch_gram": x.T @ x / len(x)}
    got = reconstruction.obs([Signal("x", "read", known, w)])

    covariance = np.cov(x.T, bias=True)
    damped = covariance + 1e-3 * np.trace(covariance) / n * np.eye(n)
    left, total, want = np.arange(n), 0.0, np.empty(n)
    while len(left):
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        fitted = inverse @ damped[left] @ w
        cost = np.square(fitted).sum(axis=1) / np.diag(inverse)
        out = np.argsort(cost)[:17]
        want[left[out]] = total + np.cumsum(cost[out])
        total += np.sum(np.linalg.inv(inverse[np.ix_(out, out)]) * (fitted[out] @ fitted[out].T))
        left = np.delete(left, out)
    assert np.allclose(got, want / np.sum((covariance @ w) * w), rtol=1e-8)


def test_readers_of_one_activation_are_judged_together() -> None:
    """Queries, keys and values, say; one with more outputs than inputs. With copies of the activation nothing changes."""
    rng = np.random.default_rng(2)
    x = np.maximum(rng.standard_normal((99, 24)), 0)
    known = {"patch_mean": x.mean(axis=0).reshape(12, 2), "patch_gram": x.T @ x / len(x)}
    weights = [rng.standard_normal((12, 2 * outputs)) for outputs in (3, 40, 5)]
    shared = reconstruction.obs([Signal("x", "read", known, w) for w in weights])
    apart = reconstruction.obs([Signal("x", "read", {n: v.copy() for n, v in known.items()}, w) for w in weights])
    assert np.allclose(shared, apart, rtol=1e-9)
