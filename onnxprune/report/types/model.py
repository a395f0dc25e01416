"""What of a model can be pruned, and what cannot and why: the report of `inspect`, and parts that `prune` has too."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Report, Stop, added


@dataclass(frozen=True)
class MemberReport:
    """One axis of a weight that has channels of a group."""

    tensor: str
    axis: int
    role: str
    layout: str


@dataclass(frozen=True)
class GroupReport:
    """A group of channels; `params` are those of its weights, `mixed_by` says why it is approximate where it is not `exact`."""

    name: str
    kind: str
    size: int
    exact: bool
    mixed_by: str | None
    params: int
    members: list[MemberReport]


@dataclass(frozen=True)
class FrozenAxis:
    """A weight axis that no group reaches, or not wholly; `structural`: kernel positions and the like, which nobody would prune.

    `route` leads from the node that reads the weight to what freezes it, without `route_left_out` stops after the first eight.
    """

    tensor: str
    axis: int
    size: int
    layout: str
    reason: str
    node: str
    operator: str
    structural: bool
    route: list[Stop]
    route_left_out: int


@dataclass(frozen=True)
class GuardedNode:
    """A node on which a rule failed, so that all it touches is frozen."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class UnitReport:
    """What can go beside channels: a residual branch, a layer that keeps its layout, or an expert.

    `node` is the sum behind a branch, the layer, or the mixture of an expert; `nodes` is the number of nodes that go with it,
    `params` that of the parameters.
    """

    name: str
    kind: str
    node: str
    nodes: int
    params: int


@dataclass(frozen=True)
class InspectReport(Report):
    """What `inspect` finds: the model, its groups of channels, and what is frozen."""

    model: str
    opset: dict[str, int]  # by domain
    ir_version: int
    producer: str
    nodes: int
    params: int
    macs: int | None  # of one sample; None where shapes are unknown
    sizes: dict[str, int]  # of the dynamic axes there, by symbol
    bytes: int
    prunable_params: int  # of the weights that go or shrink when every group keeps one channel
    groups: list[GroupReport]
    frozen: list[FrozenAxis]
    guarded: list[GuardedNode]
    units: list[UnitReport] | None = added()  # noqa: RUF009
