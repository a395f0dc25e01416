"""Importance criteria: expected values from plain loops, and laws that every registered criterion has to keep."""

import math
import random
import subprocess
import sys
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxprune.criteria import (
    REDUCES,
    Rows,
    Slice,
    TableRow,
    criterion,
    list_criteria,
    list_names,
    normalize,
    note,
    pairwise,
    registry,
    score,
)
from onnxprune.criteria.structure import count_distinct
from onnxprune.errors import OnnxPruneError

Floats = NDArray[np.float64]
Matrix = list[list[float]]

# a family is tested at a few of its members
WATCHERS = {row.name for row in list_criteria() if row.needs_data}  # criteria of activations have tests of their own
ALL = [name for name in list_names() if ":" not in name and name not in WATCHERS] + ["lp:0.5", "l1.5", "l3", "lp:7"]
DETERMINISTIC = [name for name in ALL if name != "random"]
TWO_SIDED = [n for n in ALL if {"out", "in"} <= set(registry.resolve(n)[0].roles) and n != "random"]
SIMILARITY = ["cosine", "fpgm", "kernel_info", "kmeans", "pca", "pearson"]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def out(w: Matrix | Floats, role: str = "out", name: str = "w") -> Slice:
    """One slice; rows are channels."""
    return Slice(name, role, np.asarray(w, dtype=np.float64))


def random_slices(n: int, seed: int, dtype: type = np.float64) -> list[Slice]:
    """A group with two producers, two consumers, a norm and what goes with it; widths differ."""
    rng = np.random.default_rng(seed)
    layout = [("out", 9), ("scale", 1), ("bias", 1), ("stat", 1), ("in", 4), ("out", 3), ("in", 1), ("other", 2)]
    arrays: list[Floats] = [rng.normal(size=(n, k)).astype(np.float32).astype(dtype) for _, k in layout]
    return [Slice(f"t{i}", role, array) for i, ((role, _), array) in enumerate(zip(layout, arrays, strict=True))]


def rescaled(slices: list[Slice], factor: float) -> list[Slice]:
    """Every weight times `factor`."""
    return [Slice(s.name, s.role, s.array * factor) for s in slices]


# ---------------------------------------------------------------- formulas, in plain Python


def loop_lp(w: Matrix, p: float) -> list[float]:
    """(sum |w|^p)^(1/p) by the book."""
    return [sum(abs(x) ** p for x in row) ** (1 / p) for row in w]


def loop_fpgm(w: Matrix) -> list[float]:
    """Sum of distances."""
    return [sum(math.dist(a, b) for b in w) for a in w]


def loop_cosine(w: Matrix) -> list[float]:
    """1 - max |cos|, zero rows 0."""

    def cos(a: list[float], b: list[float]) -> float:
        size = math.hypot(*a) * math.hypot(*b)
        return abs(math.fsum(x * y for x, y in zip(a, b, strict=True))) / size if size else 0.0

    def unlike(i: int) -> float:
        return 1 - max((cos(w[i], w[j]) for j in range(len(w)) if j != i), default=0.0)

    return [unlike(i) if any(w[i]) else 0.0 for i in range(len(w))]


def loop_pearson(w: Matrix) -> list[float]:
    """loop_cosine of the rows less their means."""
    means = [math.fsum(row) / len(row) for row in w]
    return loop_cosine([[x - m for x in row] for row, m in zip(w, means, strict=True)])


def loop_halves(w: Matrix) -> list[float]:
    """Halve and halve again with k-means in coordinates; each time the nearest to a center stays, of a pair the larger."""
    x = np.array(w)
    found, left = np.zeros(len(x)), list(range(len(x)))
    for level in range(len(x)):
        if len(left) < 2 or (x == x[0]).all():
            break
        y, count = x[left], (len(left) + 1) // 2
        centers = y[[int(((y - x.mean(0)) ** 2).sum(1).argmax())]]
        while len(centers) < count:
            far = np.min([((y - c) ** 2).sum(1) for c in centers], axis=0).argmax()
            centers = np.vstack([centers, y[far]])
        for _ in range(100):
            of = np.array([int(((p - centers) ** 2).sum(1).argmin()) for p in y])
            centers = np.array(
                [y[of == k].mean(0) if (of == k).any() else np.full(x.shape[1], 1e9) for k in range(count)]
            )
        distances = np.linalg.norm(y - centers[of], axis=1)
        found[left] = level + 1 / (1 + distances / (distances.mean() or 1))
        stay = []
        for k in sorted(set(of.tolist())):
            some = [i for i in range(len(left)) if of[i] == k]
            best = min(distances[i] for i in some) + 1e-7 * distances.max()
            stay.append(left[max((i for i in some if distances[i] <= best), key=lambda i: float(np.linalg.norm(y[i])))])
        found[stay] += 1
        left = sorted(stay)
    return found.tolist()


def svd_energy(w: Matrix) -> list[float]:
    """What each row has in the components that hold 95 % of the energy."""
    x = np.array(w) - np.mean(w, axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    rank = next(r for r in range(1, len(s) + 1) if (s[:r] ** 2).sum() >= 0.95 * (s**2).sum())
    return np.linalg.norm(u[:, :rank] * s[:rank], axis=1).tolist()


def loop_information(w: Matrix) -> list[float]:
    """H - max I of pairs of histograms, by counting."""
    bins = min(8, max(2, math.isqrt(len(w[0]))))

    def bin_of(x: float, row: list[float]) -> int:
        spread = (max(row) - min(row)) or 1.0
        return min(bins - 1, int((x - min(row)) / spread * bins))

    def entropy(symbols: Sequence[object]) -> float:
        return -math.fsum(c / len(symbols) * math.log(c / len(symbols)) for c in Counter(symbols).values())

    rows = [[bin_of(x, row) for x in row] for row in w]

    def shared(a: list[int], b: list[int]) -> float:
        return entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))

    return [
        entropy(a) - max((shared(a, b) for j, b in enumerate(rows) if j != i), default=0.0) for i, a in enumerate(rows)
    ]


FORMULAS: dict[str, Callable[[Matrix], list[float]]] = {
    "l0": lambda w: [float(sum(x != 0 for x in row)) for row in w],
    "l1": lambda w: [math.fsum(map(abs, row)) for row in w],
    "l2": lambda w: [math.hypot(*row) for row in w],
    "linf": lambda w: [max(map(abs, row)) for row in w],
    "lp:0.5": lambda w: loop_lp(w, 0.5),
    "l1.5": lambda w: loop_lp(w, 1.5),
    "l3": lambda w: loop_lp(w, 3.0),
    "lp:7": lambda w: loop_lp(w, 7.0),
    "fpgm": loop_fpgm,
    "cosine": loop_cosine,
    "pearson": loop_pearson,
    "kernel_info": loop_information,
    "kmeans": loop_halves,
    "pca": svd_energy,
    "bn_scale": lambda w: [math.fsum(map(abs, row)) for row in w],
}


@pytest.mark.parametrize("name", DETERMINISTIC)
@given(n=st.integers(1, 7), k=st.integers(3, 9), seed=st.integers(0, 2**32), sparse=st.floats(0, 0.6))
@settings(max_examples=40, deadline=None)
def test_formula(name: str, n: int, k: int, seed: int, sparse: float) -> None:
    rng = random.Random(seed)
    w = [[0.0 if rng.random() < sparse else rng.gauss(0, 1) for _ in range(k)] for _ in range(n)]
    if name == "pearson":  # a constant row is its own test
        w = [[*row[:-1], 5.0 + i] for i, row in enumerate(w)]
    if name == "kmeans":  # equal rows are its own test
        w = [[x + rng.gauss(0, 1) for x in row] for row in w]
    role = registry.resolve(name)[0].roles[0]
    got = score([out(w, role)], name)
    assert got.dtype == np.float64
    assert got.shape == (n,)
    np.testing.assert_allclose(got, FORMULAS[name](w), rtol=1e-9, atol=1e-9)


def test_every_criterion_has_an_independent_formula() -> None:
    assert set(DETERMINISTIC) == set(FORMULAS), "a new criterion needs a plain loop in FORMULAS"


def test_by_hand() -> None:
    w = [[3.0, -4.0], [0.0, 2.0], [0.0, 0.0]]
    assert score([out(w)], "l0").tolist() == [2, 1, 0]
    assert score([out(w)], "l1").tolist() == [7, 2, 0]
    np.testing.assert_allclose(score([out(w)], "l2"), [5, 2, 0])
    assert score([out(w)], "linf").tolist() == [4, 2, 0]
    np.testing.assert_allclose(score([out(w)], "lp:0.5"), [(3**0.5 + 2) ** 2, 2, 0])
    # distances: 0-1 sqrt(9 + 36), 0-2 5, 1-2 2
    np.testing.assert_allclose(score([out(w)], "fpgm"), [45**0.5 + 5, 45**0.5 + 2, 7])
    # cos(0, 1) = -8 / 10; the zero row is redundant
    np.testing.assert_allclose(score([out(w)], "cosine"), [0.2, 0.2, 0])
    assert score([out([[-2.0], [0.5], [0.0]], "scale")], "bn_scale").tolist() == [2, 0.5, 0]


# ---------------------------------------------------------------- how members combine


def test_reduces_by_hand() -> None:
    group = [out([[3.0, 4.0], [1.0, 0.0]]), out([[12.0], [2.0]]), out([[2.0], [5.0]], "in")]
    expected: dict[str, list[float]] = {
        "sides": [math.sqrt(13 * 2), math.sqrt(math.sqrt(5) * 5)],
        "joint": [math.sqrt(173), math.sqrt(30)],
        "sum": [19, 8],
        "mean": [19 / 3, 8 / 3],
        "max": [12, 5],
        "product": [120 ** (1 / 3), 10 ** (1 / 3)],
        "first": [5, 1],
    }
    assert set(expected) == set(REDUCES)
    for how, values in expected.items():
        np.testing.assert_allclose(score(group, "l2", reduce=how), values, rtol=1e-12, err_msg=how)


@pytest.mark.parametrize("name", SIMILARITY)
def test_producers_are_compared_side_by_side(name: str) -> None:
    a, b = np.random.default_rng(5).normal(size=(2, 6, 4))
    together = score([out(np.concatenate([a, b], axis=1))], name)
    np.testing.assert_allclose(score([out(a), out(b)], name), together, rtol=1e-9)


def test_norms_ignore_biases_and_statistics() -> None:
    slices = random_slices(6, 1)
    weights = [s for s in slices if s.role in ("out", "in", "scale")]
    for name in TWO_SIDED:
        np.testing.assert_array_equal(score(slices, name), score(weights, name))


def test_many_members_do_not_underflow() -> None:
    slices = [out([[1e-20], [2e-20]], "in", f"w{i}") for i in range(60)]
    np.testing.assert_allclose(score(slices, "l2", reduce="product"), [1e-20, 2e-20])


# ---------------------------------------------------------------- laws, for every registered criterion


@pytest.mark.parametrize("reduce", [None, *REDUCES])
@pytest.mark.parametrize("name", DETERMINISTIC)
@given(n=st.integers(1, 12), seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_permutation(name: str, reduce: str | None, n: int, seed: int) -> None:
    slices = random_slices(n, seed)
    order = np.random.default_rng(seed + 1).permutation(n)
    permuted = [Slice(s.name, s.role, s.array[order]) for s in slices]
    expected = score(slices, name, reduce=reduce)[order]
    np.testing.assert_allclose(score(permuted, name, reduce=reduce), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
@given(n=st.integers(2, 12), seed=st.integers(0, 2**32), exponent=st.sampled_from([-40, -3, 1, 30]))
@settings(max_examples=15, deadline=None)
def test_scaling_all_weights_changes_no_proportion(name: str, n: int, seed: int, exponent: int) -> None:
    slices = random_slices(n, seed)
    before, after = (score(s, name) for s in (slices, rescaled(slices, 2.0**exponent)))
    np.testing.assert_allclose(after / (after.max() or 1), before / (before.max() or 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_scale_degree(name: str) -> None:
    slices = random_slices(9, 3)
    factor = 1.0 if name in ("l0", "cosine", "pearson", "kmeans", "kernel_info") else 8.0
    np.testing.assert_allclose(score(rescaled(slices, -8.0), name), score(slices, name) * factor, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
@given(n=st.integers(1, 9), seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_dtype_and_layout_do_not_matter(name: str, n: int, seed: int) -> None:
    single, double = random_slices(n, seed, np.float32), random_slices(n, seed, np.float64)
    turned = [Slice(s.name, s.role, np.asfortranarray(s.array)) for s in double]
    np.testing.assert_allclose(score(single, name), score(double, name), rtol=1e-13)
    np.testing.assert_allclose(score(turned, name), score(double, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_deterministic_finite_non_negative_and_pure(name: str) -> None:
    slices = random_slices(17, 8)
    for s in slices:
        s.array.flags.writeable = False
    first, second = score(slices, name, seed=4), score(slices, name, seed=4)
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
    assert (first >= 0).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.0, 1.0, 3e38, 1e-45])
def test_degenerate_weights(name: str, value: float) -> None:
    for n in (1, 5):
        group = [Slice(r, r, np.full((n, 3), value, dtype=np.float32)) for r in ("out", "in", "scale")]
        got = score(group, name)
        assert np.isfinite(got).all()
        assert (got >= 0).all()
        if name != "random":
            assert got.min() == got.max()


# ---------------------------------------------------------------- dead channels


@pytest.mark.parametrize("name", TWO_SIDED)
@given(half=st.integers(1, 16), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_dead_half_ranks_strictly_lowest(name: str, half: int, seed: int) -> None:
    """Dead: the filters are zero, or the consumers' columns, or both; what is left is random, and larger."""
    rng = np.random.default_rng(seed)
    slices = random_slices(2 * half, seed)
    dead = rng.permutation(2 * half) < half
    how = rng.choice(["out", "in", "both"], size=2 * half)
    for s in slices:
        s.array[dead] *= 100.0
        s.array[dead & ((how == s.role) | (how == "both"))] = 0.0
    got = score(slices, name)
    assert (got[dead] == 0).all()
    assert (got[~dead] > 0).all()


def test_two_sided_covers_the_norms() -> None:
    assert {"l0", "l1", "l2", "linf", "l3"} <= set(TWO_SIDED)


def test_one_zero_producer_of_several_is_not_death() -> None:
    group = [out([[0.0], [1.0]]), out([[3.0], [1.0]]), out([[1.0], [1.0]], "in")]
    assert (score(group, "l2") > 0).all()
    assert score(group, "l2", reduce="product")[0] == 0


@pytest.mark.parametrize("reduce", ["joint", "sum", "mean", "max", "first"])
def test_why_sides_is_the_default(reduce: str) -> None:
    """Channel 0 is large and nobody reads it: every other reduce but product keeps it."""
    group = [out([[9.0, 9.0], [1.0, 1.0]]), out([[0.0], [1.0]], "in")]
    assert np.argmin(score(group, "l2", reduce=reduce)) == 1
    assert np.argmin(score(group, "l2")) == 0


# ---------------------------------------------------------------- similarity


def test_a_copy_is_redundant_at_any_width() -> None:
    w = np.random.default_rng(0).normal(size=(40, 200))
    w[7] = -3.0 * w[30]
    got = score([out(w)], "cosine")
    assert set(np.argsort(got)[:2]) == {7, 30}
    assert got[[7, 30]].max() < 1e-12
    w[7] += 10.0  # an offset hides it from the cosine, not from the correlation
    assert score([out(w)], "cosine")[7] > 0.1
    assert score([out(w)], "pearson")[7] < 1e-12


def test_pearson_of_constant_rows() -> None:
    w = [[0.1] * 7, [0.3] * 7, [0.0] * 7, [1.0, 2, 3, 4, 5, 6, 7.5], [2.0, 1, 0, -1, -2, 3, 1]]
    assert score([out(w)], "pearson")[:3].tolist() == [1, 1, 0]


@pytest.mark.parametrize("name", SIMILARITY)
def test_tiles_and_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = random_slices(23, 2)
    whole = score(slices, name)
    monkeypatch.setattr(pairwise, "TILE_ENTRIES", 23 * 5)
    monkeypatch.setattr(pairwise, "CHUNK_ENTRIES", 23 * 2)
    np.testing.assert_allclose(score(slices, name), whole, rtol=1e-9)


def test_memory_stays_below_a_square_of_channels() -> None:
    n, k = 12_000, 8
    w = np.random.default_rng(0).normal(size=(n, k)).astype(np.float32)
    tracemalloc.start()
    score([Slice("w", "out", w)], "fpgm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n * 8 / 2


def test_fpgm_keeps_digits_under_a_common_offset() -> None:
    w = np.random.default_rng(1).normal(size=(12, 8))
    np.testing.assert_allclose(score([out(w + 2.0**20)], "fpgm"), loop_fpgm((w + 2.0**20).tolist()), rtol=1e-8)


def test_half_of_the_filters_are_those_nearest_to_the_centers() -> None:
    """Four clear clusters of one, two, two and three: one filter of each is among the best four."""
    rng = np.random.default_rng(3)
    centers = 10 * rng.normal(size=(4, 6))
    of = [0, 1, 1, 2, 2, 3, 3, 3]
    w = centers[of] + 0.1 * rng.normal(size=(8, 6))
    best = np.argsort(-score([out(w)], "kmeans"))[:4]
    assert sorted(of[i] for i in best) == [0, 1, 2, 3]
    nearest = np.linalg.norm(w[5:] - w[5:].mean(0), axis=1).argmin() + 5
    assert nearest in best


def test_distinct_filters_by_hand() -> None:
    """A chain a-b-c of neighbors 45 degrees apart is one component, covered by b; d stands alone; two are zero."""
    rows = [[1.0, 0, 0], [1, 1, 0], [0, 3, 0], [0, 0, -2], [0, 0, 0], [0, 0, 0]]
    assert count_distinct(Rows((np.array(rows),))) == 3
    longer = [
        [math.cos(x), math.sin(x)] for x in np.arange(4) * math.radians(50)
    ]  # one component, two filters cover it
    assert count_distinct(Rows((np.array(longer),))) == (1 + 2) / 2
    assert count_distinct(Rows((np.eye(5),))) == 5


# ---------------------------------------------------------------- random, fallbacks, names, errors


def test_random_depends_on_the_seed_alone() -> None:
    a, b = random_slices(50, 1), random_slices(50, 2)
    np.testing.assert_array_equal(score(a, "random", seed=3), score(b, "random", seed=3))
    assert (score(a, "random", seed=3) != score(a, "random", seed=4)).all()
    with pytest.raises(OnnxPruneError, match="negative"):
        score(a, "random", seed=-1)


def test_bn_scale_averages_norms_and_falls_back_with_a_note() -> None:
    two = [out([[2.0], [-1.0]], "scale"), out([[4.0], [3.0]], "scale")]
    assert score(two, "bn_scale").tolist() == [3, 2]
    assert note(two, "bn_scale") is None
    folded = [s for s in random_slices(5, 1) if s.role != "scale"]
    np.testing.assert_array_equal(score(folded, "bn_scale"), score(folded, "l2"))
    np.testing.assert_array_equal(score(folded, "bn_scale", reduce="max"), score(folded, "l2", reduce="max"))
    assert note(folded, "bn_scale") == "bn_scale: the group has no 'scale' slice; scored with l2 instead"


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("bn_scale", "random")])
def test_a_group_without_the_roles_is_scored_on_what_it_has(name: str) -> None:
    group = [out([[1.0, 2.0, 4.0], [3.0, -2.0, 0.5]], "other")]
    np.testing.assert_allclose(score(group, name), FORMULAS[name](group[0].array.tolist()), rtol=1e-9)
    assert "all of its slices" in (note(group, name) or "")


def test_names_and_table() -> None:
    assert set(list_names()) - WATCHERS == {
        "bn_scale",
        "cosine",
        "fpgm",
        "kernel_info",
        "kmeans",
        "l0",
        "l1",
        "l2",
        "linf",
        "lp:P",
        "pca",
        "pearson",
        "random",
    }
    assert [row.name for row in list_criteria()] == list_names()
    for row in list_criteria():
        assert row.formula.startswith("s_c"), row
        assert row.source, row
        assert row.reduce in REDUCES, row
        assert "\n" not in row.formula + row.source
    assert {r.name: r.formula for r in list_criteria()}["l2"] == "s_c = sqrt(sum_i w_ci^2)"


def test_lp_spellings() -> None:
    slices = random_slices(6, 1)
    for a, b in [("lp:2", "l2"), ("l1.0", "l1"), ("lp:3", "l3"), ("lp:1e0", "l1"), ("lp:0.5", "l0.5")]:
        np.testing.assert_allclose(score(slices, a), score(slices, b), rtol=1e-12)


@pytest.mark.parametrize("text", ["lp:", "lp:abc", "lp:0", "lp:-1", "lp:nan", "lp:inf", "lp:P", "l0.0", "lp"])
def test_bad_parameters(text: str) -> None:
    with pytest.raises(OnnxPruneError, match="not a finite number above 0"):
        score(random_slices(2, 0), text)


def test_lp_too_small_to_take_a_root() -> None:
    with pytest.raises(OnnxPruneError, match="use l0"):
        score(random_slices(2, 0), "lp:0.01")


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(OnnxPruneError, match=r"unknown criterion 'cosin'\. Did you mean 'cosine'\?") as e:
        score(random_slices(2, 0), "cosin")
    assert all(name in str(e.value) for name in list_names())
    with pytest.raises(OnnxPruneError, match=r"unknown reduce 'median'.*sides"):
        score(random_slices(2, 0), reduce="median")
    with pytest.raises(OnnxPruneError, match=r"unknown normalization 'l2'.*lamp"):
        normalize({}, "l2")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "cosine", "l3"])
def test_non_finite_weights_name_the_initializer(name: str, bad: float) -> None:
    w = np.ones((4, 3), dtype=np.float32)
    w[2, 1] = bad
    with pytest.raises(OnnxPruneError, match=r"NaN or infinite values in initializer 'conv\.w': 1 of 12 "):
        score([Slice("conv.w", "out", w)], name)


def test_only_what_is_used_has_to_be_finite() -> None:
    group = [out([[1.0], [2.0]]), out([[math.nan], [1.0]], name="v"), out([[math.inf], [1.0]], "bias")]
    assert score(group, "l1", reduce="first").tolist() == [1, 2]
    with pytest.raises(OnnxPruneError, match="'v'"):
        score(group, "l1")


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([], "without slices"),
        ([out(np.ones((2, 3))), out(np.ones((3, 3)), name="v")], "initializer 'v'.*expected \\[2, k\\]"),
        ([out(np.ones(3))], "initializer 'w'.*shape \\[3\\]"),
        ([out(np.ones((2, 0)))], "k >= 1"),
        ([out(np.ones((0, 2)))], "expected \\[1, k\\]"),
        ([out(np.ones((2, 2)), "gate")], "unknown role 'gate'"),
        ([Slice("q", "out", np.ones((2, 2), dtype=np.int8))], "'q': int8"),
    ],
)
def test_slices_that_do_not_fit(slices: list[Slice], message: str) -> None:
    with pytest.raises(OnnxPruneError, match=message):
        score(slices)


def test_a_new_criterion_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @criterion("range", roles=("out",))
    def spread(rows: registry.Rows) -> Floats:
        """s_c = max w_c - min w_c

        Source: this test
        """
        width: Floats = rows.blocks[0].max(axis=1) - rows.blocks[0].min(axis=1)
        return width

    assert score([out([[1.0, 5.0], [2.0, 2.0]])], "range").tolist() == [4, 0]
    assert TableRow("range", "s_c = max w_c - min w_c", "this test", "sides", False, False) in list_criteria()
    with pytest.raises(ValueError, match="twice"):
        criterion("range", roles=("out",))(spread)
    with pytest.raises(ValueError, match="Source"):
        criterion("undocumented", roles=("out",))(lambda rows: np.zeros(rows.n))


def test_importing_the_package_is_enough() -> None:
    code = "import onnxprune.criteria as c; print(len(c.list_names()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(list_names()))
