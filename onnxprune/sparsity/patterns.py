"""Sparsity patterns: which weights of a layer may stay, given how much each is worth.

A pattern looks at scores [B, O, I, P] (batch, outputs, inputs, kernel positions) and says which weights stay. `PATTERNS` has a
reader for each notation; a new kind is one class and one line there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxPruneError
from onnxprune.sparsity.ranks import mark_largest

Array = npt.NDArray[Any]
Shape = tuple[int, int, int, int]

DICTIONARY = 8  # kernel shapes of one layer (Niu et al. 2020, PatDNN, use 8)
CANDIDATES = 256  # that a dictionary is chosen from
FEW = 16  # columns of a group up to which ranks are counted pair by pair


class Pattern(Protocol):
    """A sparsity pattern: `keep` chooses the remaining weights, `broken` checks them."""

    @property
    def name(self) -> str:
        """The notation, as `parse` reads it."""

    @property
    def runs_on(self) -> str:
        """The hardware and libraries that run it fast."""

    @property
    def group(self) -> int:
        """The number of adjacent inputs that are decided together and apart from all others; 0 if the whole layer counts."""

    def unfit(self, shape: Shape) -> str:
        """Why a layer of this shape cannot have the pattern; '' where it can."""

    def keep(self, scores: Array) -> Array:
        """A mask of the remaining weights: bool [B, O, I, P]."""

    def broken(self, there: Array) -> int:
        """The number of units of a layer that break the pattern; `there` is False where a weight is zero."""


@dataclass(frozen=True)
class NofM:
    """At most n of every m inputs in a row, for each output and kernel position; of the inputs left over, at most n too.

    Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv 2104.08378, sec. 3.1 (2:4)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m <= 256:
            raise OnnxPruneError(f"pattern {self.n}:{self.m}: expected N:M with 0 < N < M <= 256, as in 2:4")

    @property
    def name(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def runs_on(self) -> str:
        if (self.n, self.m) == (2, 4):
            return "sparse tensor cores (NVIDIA Ampere and later): TensorRT, cuSPARSELt, PyTorch"
        return "libraries of N:M kernels (nmSPARSE and the like); TensorRT takes 2:4 only"

    @property
    def group(self) -> int:
        return self.m

    def unfit(self, shape: Shape) -> str:
        return "" if shape[2] > self.n else f"no more than {self.n} inputs for each output, and that many may be kept"

    def keep(self, scores: Array) -> Array:
        inputs = scores.shape[2]
        whole = inputs - inputs % self.m
        out = np.empty_like(scores, bool)  # in the same order in memory
        for part, width in ((slice(0, whole), self.m), (slice(whole, inputs), inputs - whole)):
            if part.start < part.stop:
                self._top(scores[:, :, part], width, out[:, :, part])
        return out

    def _top(self, scores: Array, width: int, out: Array) -> None:
        """The n largest of every `width` inputs, the first ones where they are equal."""
        if width > FEW:
            b, o, i, p = scores.shape
            split = scores.reshape(b, o, i // width, width, p)
            worth = split.astype(np.float64) if split.dtype.kind in "iu" else split
            order = np.argsort(-worth, axis=3, kind="stable")
            kept_of_split = np.zeros(split.shape, bool)
            np.put_along_axis(kept_of_split, order[:, :, :, : self.n], True, axis=3)
            out[...] = kept_of_split.reshape(scores.shape)
            return
        groups, kept = ([x[:, :, i::width] for i in range(width)] for x in (scores, out))
        mark_largest(groups, self.n, kept)

    def broken(self, there: Array) -> int:
        b, o, i, p = there.shape
        padded = np.concatenate([there, np.zeros((b, o, -i % self.m, p), bool)], axis=2)
        counts = padded.reshape(b, o, -1, self.m, p).sum(axis=3, dtype=np.uint16)
        return int((counts > self.n).sum())


@dataclass(frozen=True)
class Units:
    """Whole units of weights go, the least first, until `sparsity` of a layer's units are gone.

    A unit is so many outputs x inputs x kernel positions (0: all of them); units at the edges are smaller. It is worth
    the mean of its scores.
    """

    name: str
    extents: tuple[int, int, int]
    sparsity: float
    runs_on: str

    group = 0

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise OnnxPruneError(f"sparsity {self.sparsity:g}: expected a fraction between 0 and 1")

    def unfit(self, shape: Shape) -> str:
        units = [1 if e == 0 else -(-n // e) for e, n in zip(self.extents, shape[1:], strict=True)]
        if int(np.prod(units)) < 2:
            return f"it is a single unit of pattern {self.name}"
        if self.extents[2] == 0 and self.extents[1] != 0 and shape[3] == 1:
            return "its kernels have one position"
        return ""

    def worth(self, scores: Array) -> Array:
        """The mean score of each unit, [B, units of O, of I, of P]."""
        worth = self._sum(scores.astype(np.float32, copy=False))
        for axis, extent in enumerate(self.extents, 1):
            if extent != 1:
                lone = [n if a == axis else 1 for a, n in enumerate(scores.shape)]
                worth = worth / self._sum(np.ones(lone, np.float32), axis)
        return worth

    def _sum(self, x: Array, *axes: int) -> Array:
        for axis in axes or (1, 2, 3):
            extent = self.extents[axis - 1]
            if extent != 1:
                x = np.add.reduceat(x, np.arange(0, x.shape[axis], extent or x.shape[axis]), axis=axis)
        return x

    def spread(self, units: Array, shape: Sequence[int]) -> Array:
        """Expand a mask of units to a mask of their weights."""
        for axis, extent in enumerate(self.extents, 1):
            if extent != 1:
                units = np.repeat(units, extent or shape[axis], axis=axis)
                units = np.take(units, np.arange(shape[axis]), axis=axis)
        return units

    def keep(self, scores: Array) -> Array:
        worth = self.worth(scores)
        return self.spread(mask_largest(worth, worth.size - int(self.sparsity * worth.size)), scores.shape)

    def broken(self, there: Array) -> int:
        units = self._sum(there.astype(np.float32)) > 0
        return max(0, int(units.sum()) - (units.size - int(self.sparsity * units.size)))


@dataclass(frozen=True)
class Above:
    """Units that are worth more than a threshold stay: one for many layers."""

    units: Units
    threshold: float

    group = 0

    def keep(self, scores: Array) -> Array:
        return self.units.spread(~(self.units.worth(scores) <= self.threshold), scores.shape)  # NaN stays


def mask_largest(x: Array, count: int) -> Array:
    """A mask of the `count` largest, the first ones if equal, NaN first of all: bool, the shape of `x`."""
    flat = x.reshape(-1)
    if np.isnan(flat.max(initial=0)):
        flat = np.where(np.isnan(flat), np.inf, flat)
    gone = flat.size - count
    if gone <= 0:
        return np.ones(x.shape, bool)
    threshold = np.partition(flat, gone - 1)[gone - 1]
    stays = flat > threshold
    equal = np.flatnonzero(flat == threshold)
    stays[equal[: count - int(stays.sum())]] = True
    return np.asarray(stays.reshape(x.shape))


@dataclass(frozen=True)
class KernelShapes:
    """k of the n positions of each kernel, in one of a few shapes that the layer's kernels have in common.

    The shapes are chosen greedily: each next one adds most to what is kept of all kernels.
    Source: Niu et al. 2020, PatDNN, arXiv 2001.00138, sec. 4.1
    """

    k: int
    n: int

    runs_on = "compilers that unroll a few kernel shapes (PatDNN, on mobile CPUs and GPUs)"
    group = 0

    def __post_init__(self) -> None:
        if not 0 < self.k < self.n:
            raise OnnxPruneError(f"pattern {self.k}of{self.n}: expected K positions of N with 0 < K < N, as in 4of9")

    @property
    def name(self) -> str:
        return f"{self.k}of{self.n}"

    def unfit(self, shape: Shape) -> str:
        return "" if shape[3] == self.n else f"its kernels have {shape[3]} positions, not {self.n}"

    def keep(self, scores: Array) -> Array:
        kernels = scores.reshape(-1, self.n).astype(np.float32)
        shapes = self._dictionary(kernels)
        best = np.argmax(kernels @ shapes.T.astype(np.float32), axis=1)
        return np.asarray(shapes[best].reshape(scores.shape))

    def _dictionary(self, kernels: Array) -> Array:
        order = np.argsort(-kernels, axis=1, kind="stable")[:, : self.k]
        own = np.zeros(kernels.shape, bool)
        np.put_along_axis(own, order, True, axis=1)
        shapes, counts = np.unique(own, axis=0, return_counts=True)
        shapes = shapes[np.argsort(-counts, kind="stable")[:CANDIDATES]]
        kept = kernels @ shapes.T.astype(np.float32)
        chosen: list[int] = []
        best = np.zeros(len(kernels), np.float32)
        for _ in range(min(DICTIONARY, len(shapes))):
            gains = np.maximum(kept, best[:, None]).sum(axis=0, dtype=np.float64)
            gains[chosen] = -np.inf
            chosen.append(int(np.argmax(gains)))
            best = np.maximum(best, kept[:, chosen[-1]])
        return np.asarray(shapes[chosen])

    def broken(self, there: Array) -> int:
        """Kernels with too many positions, and those that have none of the most common shapes."""
        kernels = there.reshape(-1, self.n)
        many = kernels.sum(axis=1) > self.k
        shapes, counts = np.unique(kernels[~many], axis=0, return_counts=True)
        shapes, counts = (x[np.argsort(-counts, kind="stable")] for x in (shapes, counts))
        spare = np.array([not self._covered(s, shapes[:DICTIONARY]) for s in shapes[DICTIONARY:]], bool)
        return int(many.sum() + counts[DICTIONARY:][spare].sum())

    @staticmethod
    def _covered(shape: Array, dictionary: Array) -> bool:
        """A kernel that is zero in places where its shape is not has that shape all the same."""
        return bool((~shape | dictionary).all(axis=1).any())


# outputs, inputs and kernel positions of a unit, and who can run it fast
NAMED = {
    "unstructured": (  # Han et al. 2015, Learning both Weights and Connections, arXiv 1506.02626
        (1, 1, 1),
        "no GPU: it compresses the file, and CPU runtimes with sparse kernels (DeepSparse, XNNPACK) can use it",
    ),
    # Mao et al. 2017, Exploring the Granularity of Sparsity, arXiv 1705.08922
    "kernel": ((1, 1, 0), "engines that skip whole 2-D kernels"),
    # Lebedev and Lempitsky 2016, Fast ConvNets Using Group-wise Brain Damage, arXiv 1506.02515
    "shared-kernel": ((0, 1, 1), "convolutions by im2col, without the columns that are zero"),
    # Meng et al. 2020, Pruning Filter in Filter, arXiv 2009.14410
    "stripe": ((1, 0, 1), "engines that compute a filter as 1x1 stripes"),
    # Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710
    "filter": ((1, 0, 0), "nothing as it is: `onnxprune prune` removes filters, and that is fast everywhere"),
}
# Gray et al. 2017, GPU Kernels for Block-Sparse Weights, arXiv 1711.09224
BLOCKS = "block-sparse kernels (Triton, OpenVINO, TVM), and CPUs whose vectors are as long as a block"


def _units(name: str, sparsity: float) -> Units:
    extents, runs_on = NAMED[name]
    return Units(name, extents, sparsity, runs_on)


def _block(rows: int, columns: int, sparsity: float) -> Units:
    if rows * columns < 2:
        raise OnnxPruneError("pattern 1x1 is 'unstructured'")
    return Units(f"{rows}x{columns}", (rows, columns, 1), sparsity, BLOCKS)


# notation: what reads it (its groups are whole numbers), and what makes the pattern of them and of a sparsity
PATTERNS: dict[str, tuple[str, Callable[..., Pattern]]] = {
    "N:M": (r"(\d+):(\d+)", lambda n, m, _: NofM(n, m)),
    "RxC": (r"(\d+)x(\d+)", _block),
    "KofN": (r"(\d+)of(\d+)", lambda k, n, _: KernelShapes(k, n)),
}


def parse(text: str, sparsity: float = 0.5) -> Pattern:
    """The pattern that a notation stands for. Raises OnnxPruneError."""
    if text in NAMED:
        return _units(text, sparsity)
    for expression, make in PATTERNS.values():
        match = re.fullmatch(expression, text)
        if match:
            return make(*map(int, match.groups()), sparsity)
    known = ", ".join((*PATTERNS, *NAMED))
    raise OnnxPruneError(f"pattern '{text}' is unknown; there are {known}, as in --pattern 2:4")
