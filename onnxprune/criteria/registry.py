"""The registry: what a criterion is, how it is declared, and how a name such as `l2` or `lp:1.5` finds it."""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import OnnxPruneError

Scores = NDArray[np.float64]
Array = NDArray[Any]

ROLES = ("out", "in", "scale", "bias", "stat", "other")
"""What a slice does for its channels: produce, consume, multiply, shift, running mean or variance, anything else."""


@dataclass(frozen=True)
class Slice:
    """One member of a group, seen from the group's channels.

    `name` is the initializer, `role` one of ROLES, `array` is [n, k]: row c holds all the entries of channel c.
    """

    name: str
    role: str
    array: Array


@dataclass(frozen=True)
class Rows:
    """What a criterion gets: the matrix [n, k1 + k2 + ..] as column blocks [n, k1], [n, k2], ..

    The blocks are never concatenated: the residual stream of a language model is most of the model.
    `seed` is for drawing at random, `p` is the parameter of a family such as `lp:P`.
    """

    blocks: tuple[Array, ...]
    seed: int = 0
    p: float = math.nan

    @property
    def n(self) -> int:
        """The number of channels."""
        return int(self.blocks[0].shape[0])


@dataclass(frozen=True)
class Signal:
    """An activation that carries a group's channels, as a criterion sees it.

    `name` is the tensor, `role` whether a consumer reads it or a producer made it. `values` has what was gathered, [n, k]:
    row c holds the k positions of channel c on the tensor's axis; `pooled` is [samples, n, k], `gram` [n * k, n * k], and
    `classes` the network's own scores, [samples, classes]. For those of patches, k counts kernel positions too.
    `weights` [n, k * m] are the consumer's, in the order of the positions; empty, [n, 0], for what a producer made. The Gram matrix
    is of so many `samples`; 0 where that is not known.
    """

    name: str
    role: str
    values: Mapping[str, Array]
    weights: Array
    samples: int = 0

    def __getitem__(self, statistic: str) -> Scores:
        return np.asarray(self.values[statistic], np.float64)

    def consumers(self, like: Scores) -> Scores:
        """The consumer's weights [n, k, m] beside statistics [n, k]; ones where it is not known what consumes.

        A grouped convolution reads several positions of a channel with one weight: then k of the result is 1.
        """
        n, k = like.shape
        if not self.weights.size:
            return np.ones((n, 1, 1))
        fits = self.weights.shape[1] % k == 0
        return np.asarray(self.weights, np.float64).reshape(n, k if fits else 1, -1)


Function = Callable[[Rows], Scores]
Watcher = Callable[[Any], Scores]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion: its function, the roles it looks at, its default reduce, and its fallback.

    One of activations has no roles, but `statistics`: what has to be gathered for it; `joint` says that it takes all of a
    group's activations at once. `cumulative`: a score is the error that the channel makes together with all that score less.
    `gradients`: its statistics need passes backward.
    """

    name: str
    function: Callable[[Any], Scores]
    roles: tuple[str, ...]
    reduce: str
    fallback: str | None
    short: str | None
    statistics: tuple[str, ...] = ()
    joint: bool = False
    cumulative: bool = False
    gradients: bool = False

    @property
    def formula(self) -> str:
        """The first line of the docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0].strip()

    @property
    def source(self) -> str:
        """The docstring's `Source:` line."""
        match = re.search(r"^\s*Source:\s*(.+)$", self.function.__doc__ or "", re.MULTILINE)
        return match[1].strip() if match else ""


@dataclass(frozen=True)
class TableRow:
    """One line of `onnxprune criteria`."""

    name: str
    formula: str
    source: str
    reduce: str
    needs_data: bool
    needs_torch: bool


_REGISTRY: dict[str, Criterion] = {}


def criterion(
    name: str,
    *,
    roles: Sequence[str],
    reduce: str = "sides",
    fallback: str | None = None,
    short: str | None = None,
) -> Callable[[Function], Function]:
    """Register a criterion; its docstring's first line is the formula and its `Source:` line the source.

    `roles` are the slices it takes. A group with none of them is scored by the criterion `fallback`, or, without
    one, on all of its slices. A name with a colon (`lp:P`) is a family with one number; `short` is a pattern for
    another way to write it, whose group 1 is the number.
    """

    def register(function: Function) -> Function:
        _register(Criterion(name, function, tuple(roles), reduce, fallback, short))
        return function

    return register


def activation_criterion(
    name: str,
    *,
    statistics: Sequence[str],
    reduce: str = "mean",
    joint: bool = False,
    cumulative: bool = False,
    gradients: bool = False,
) -> Callable[[Watcher], Watcher]:
    """Register a criterion of one activation: scores [n] from the `statistics` of a Signal, docstring as for `criterion`.

    `reduce` says how the scores of the several activations that carry a group's channels become one; a `joint` criterion
    takes a list of Signals, all of those (with its own reduce). A group none of whose activations can be watched is scored
    with l2.
    """

    def register(function: Watcher) -> Watcher:
        _register(Criterion(name, function, (), reduce, "l2", None, tuple(statistics), joint, cumulative, gradients))
        return function

    return register


def _register(criterion: Criterion) -> None:
    if criterion.name in _REGISTRY:
        raise ValueError(f"criterion '{criterion.name}' is registered twice")
    if not criterion.function.__doc__ or not criterion.source:
        raise ValueError(f"criterion '{criterion.name}': the docstring needs its formula (line 1) and a 'Source:' line")
    _REGISTRY[criterion.name] = criterion


def list_names() -> list[str]:
    """The registered names, sorted; a family is written with its parameter, `lp:P`."""
    return sorted(_REGISTRY)


def list_criteria() -> list[TableRow]:
    """Name, formula, source and default reduce of every criterion, and whether it needs calibration data and torch; by name."""
    criteria = map(_REGISTRY.__getitem__, list_names())
    return [TableRow(c.name, c.formula, c.source, c.reduce, bool(c.statistics), c.gradients) for c in criteria]


def resolve(text: str) -> tuple[Criterion, float]:
    """The criterion that `text` names and its parameter (NaN where it takes none): `l2`, `lp:1.5`, `l1.5`.

    Raises OnnxPruneError for an unknown name (with a suggestion and all the names) and a bad parameter.
    """
    if text in _REGISTRY and ":" not in text:
        return _REGISTRY[text], math.nan
    for c in _REGISTRY.values():
        number = _parameter(c, text)
        if number is not None:
            return c, _positive(number, text, c)
    near = difflib.get_close_matches(text.lower(), list_names(), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise OnnxPruneError(f"unknown criterion '{text}'.{hint} Known criteria: {', '.join(list_names())}")


def _parameter(c: Criterion, text: str) -> str | None:
    family, colon, _ = c.name.partition(":")
    if not colon:
        return None
    if text.partition(":")[0] == family:
        return text.partition(":")[2]
    match = re.fullmatch(c.short, text) if c.short else None
    return match[1] if match else None


def _positive(number: str, text: str, c: Criterion) -> float:
    try:
        p = float(number)
    except ValueError:
        p = math.nan
    if not 0 < p < math.inf:
        example = c.name.partition(":")[0] + ":1.5"
        raise OnnxPruneError(f"criterion '{text}': '{number}' is not a finite number above 0; an example: {example}")
    return p
