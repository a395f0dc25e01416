"""Score a group: choose the slices, check them, evaluate the criterion, combine."""

from collections.abc import Sequence

import numpy as np

from onnxprune.criteria.reduction import REDUCES, combine
from onnxprune.criteria.registry import ROLES, Array, Criterion, Rows, Scores, Signal, Slice, resolve
from onnxprune.errors import OnnxPruneError


def score(slices: Sequence[Slice], criterion: str = "l2", *, reduce: str | None = None, seed: int = 0) -> Scores:
    """The importance of each channel of one group, [n] float64, higher = more important.

    `criterion` is a name of `list_names()`, `lp:P` or `l3`; `reduce` one of REDUCES (the criterion's own by default);
    `seed` matters to `random` only and should already be mixed with the group's name. A group without the roles
    that the criterion takes is scored otherwise: `note` says so. Scores are at least 0.

    Raises OnnxPruneError for an unknown criterion or reduce, slices that do not fit together, and NaN or infinite
    weights among the slices that are used.
    """
    c, p, members, _ = _choose(slices, criterion)
    reduction = reduce or c.reduce
    if reduction not in REDUCES:
        raise OnnxPruneError(f"unknown reduce '{reduction}'; choose one of {', '.join(REDUCES)}")
    if reduction == "first":
        members = members[:1]
    for m in members:
        _check_finite(m)
    return combine(members, reduction, lambda ms: c.function(Rows(tuple(m.array for m in ms), seed, p)))


def score_signals(signals: Sequence[Signal], criterion: str, *, reduce: str | None = None) -> Scores:
    """The importance of each channel of one group, [n] float64, by a criterion of activations; higher = more important.

    Activations side by side (`reduce` sides and joint) count as the mean of their scores.
    Raises OnnxPruneError for an unknown criterion or reduce, and for NaN or infinite activations.
    """
    c, _ = resolve(criterion)
    reduction = reduce or c.reduce
    if reduction not in REDUCES:
        raise OnnxPruneError(f"unknown reduce '{reduction}'; choose one of {', '.join(REDUCES)}")
    for s in signals:
        _check_gathered(s)
    if c.joint and reduction == c.reduce:
        return c.function(signals)
    return combine(signals, reduction, lambda some: np.mean([c.function([s] if c.joint else s) for s in some], axis=0))


def _check_gathered(s: Signal) -> None:
    for name, values in s.values.items():
        if not np.isfinite(values).all():
            raise OnnxPruneError(
                f"activation '{s.name}': NaN or infinite {name}; calibrate on other data, or exclude the group"
            )


def note(slices: Sequence[Slice], criterion: str = "l2") -> str | None:
    """What a report should say about scoring this group: the criterion's fallback, or None when there is none."""
    return _choose(slices, criterion)[3]


def _choose(slices: Sequence[Slice], text: str) -> tuple[Criterion, float, list[Slice], str | None]:
    c, p = resolve(text)
    _check_slices(slices)
    members = [m for m in slices if m.role in c.roles]
    if members:
        return c, p, members, None
    lacks = f"{text}: the group has no {' or '.join(repr(r) for r in c.roles)} slice"
    if c.fallback is None:
        return c, p, list(slices), f"{lacks}; scored on all of its slices"
    other, q, members, _ = _choose(slices, c.fallback)
    return other, q, members, f"{lacks}; scored with {c.fallback} instead"


def _check_slices(slices: Sequence[Slice]) -> None:
    if not slices:
        raise OnnxPruneError("a group without slices cannot be scored; leave it out of the plan")
    n = max(1, len(slices[0].array))
    for m in slices:
        if m.role not in ROLES:
            raise OnnxPruneError(f"initializer '{m.name}': unknown role '{m.role}'; known roles: {', '.join(ROLES)}")
        if m.array.ndim != 2 or m.array.shape[0] != n or m.array.shape[1] < 1:
            raise OnnxPruneError(
                f"initializer '{m.name}' ({m.role}): slices of shape {list(m.array.shape)}, expected [{n}, k] with "
                f"k >= 1 (n from '{slices[0].name}')"
            )
        if m.array.dtype.kind in "biuc":
            raise OnnxPruneError(f"initializer '{m.name}': {m.array.dtype} weights; pass floating point, dequantized")


def _check_finite(m: Slice) -> None:
    # min and max carry NaN and infinities without a mask as large as the weights
    if not (np.isfinite(m.array.min()) and np.isfinite(m.array.max())):
        raise OnnxPruneError(f"NaN or infinite values in initializer '{m.name}': {_where(m.array)}")


def _where(a: Array) -> str:
    bad = (~np.isfinite(a)).sum(axis=1)
    return (
        f"{int(bad.sum())} of {a.size} values ({int((bad > 0).sum())} of {len(a)} channels, first channel "
        f"{int(np.flatnonzero(bad)[0])}); channels cannot be ranked, repair the weights or exclude the group"
    )
