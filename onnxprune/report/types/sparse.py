"""Layers whose weights have zeros in a pattern: what became of each, and whether a file has the pattern."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Counts, Report, Settings, Shares, added


@dataclass(frozen=True)
class LayerFacts:
    """A constant that a product multiplies with: `name` and `op` are those of the first node that reads it.

    `eligible` and `likely` say what the target can make of it, None without a target.
    """

    name: str
    op: str
    tensor: str
    dtype: str
    batch: int
    outputs: int
    inputs: int
    positions: int
    eligible: bool | None
    likely: bool | None


@dataclass(frozen=True)
class SparseLayerReport(LayerFacts):
    """What became of a layer when a model was made sparse; `reason` says why it is not `sparse`.

    `zeros` and `kept_magnitude` are shares; errors are of its output on the calibration data, relative L2, behind the
    activation that follows.
    """

    sparse: bool
    reason: str | None
    method: str | None
    zeros: float | None
    kept_magnitude: float | None
    error: float | None
    error_before_repair: float | None
    note: str | None
    params: int | None


@dataclass(frozen=True)
class PermutedGroup:
    """A group whose channels were permuted: the share of its readers' magnitude that is kept, before and after."""

    group: str
    before: float
    after: float


@dataclass(frozen=True)
class CompressedSize:
    """Bytes that the files take when they are compressed: a file has the same size whatever the pattern.

    `before` and `after` are deflated, as gzip does at level 1; `estimated` says that they come from parts of a large file.
    `in_pattern` is the size of the new files with the layers in compressed N:M form, the N values of every M and
    their places in as few bits as they take (2 each for 2:4); None for other patterns.
    """

    before: int
    after: int
    in_pattern: int | None
    estimated: bool


@dataclass(frozen=True)
class SparsityReport:
    """What became of the layers when a model was made sparse; `compressed` where a file was made."""

    pattern: str
    runs_on: str
    options: Settings
    layers: list[SparseLayerReport]
    permuted: list[PermutedGroup]
    compressed: CompressedSize | None = added()  # noqa: RUF009


@dataclass(frozen=True)
class EngineLayer:
    """A product that was counted: its multiplications for one sample, and the share of them with both operands other than zero."""

    name: str
    operator: str
    macs: int
    both_nonzero: float


@dataclass(frozen=True)
class EngineReport:
    """What engines that skip zeros would gain, measured on data.

    `both_nonzero` is the share of multiplications with both operands other than zero, of the `counted` share of all; `bytes` the
    files with 4-bit relative places and a codebook of 16 values for each constant of a product. `layers` are the candidate's.
    """

    data: str
    samples: int
    both_nonzero: Shares
    counted: Shares
    bytes: Counts
    layers: list[EngineLayer]
    left_out: dict[str, str]


@dataclass(frozen=True)
class CheckedLayer(LayerFacts):
    """A layer against a pattern: must it have it (`checked`), does it, and how many units break it; None: it cannot be told."""

    checked: bool
    holds: bool | None
    broken: int | None
    zeros: float | None
    reason: str | None


@dataclass(frozen=True)
class PatternReport(Report):
    """What `validate --pattern` finds of one model."""

    model: str
    pattern: str
    holds: bool
    layers: list[CheckedLayer]
