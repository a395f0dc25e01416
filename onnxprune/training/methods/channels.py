"""The weights of channels as torch sees them: which entries of which tensors belong to which channel of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from onnxprune.groups import Analysis, Group
from onnxprune.signals import find_channel_order

PARAMETERS = ("out", "in", "scale", "bias")  # the roles of members that are trained


@dataclass(frozen=True)
class ChannelRows:
    """One axis of a weight along which the n channels of a group lie: `owners` [positions], n where no channel owns one."""

    weight: str
    axis: int
    role: str
    owners: torch.Tensor
    channels: int

    def sum(self, w: torch.Tensor) -> torch.Tensor:
        """The sum of the entries of each channel, [n]."""
        rows = w.movedim(self.axis, 0).flatten(1).sum(1) if w.dim() > 1 else w
        return rows.new_zeros(self.channels + 1).index_add(0, self.owners, rows)[:-1]

    def spread(self, values: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """A value for each channel [n], in a form that multiplies the weight; 1 where no channel owns an entry."""
        line = torch.cat([values, values.new_ones(1)])[self.owners]
        return line.reshape([-1 if axis == self.axis else 1 for axis in range(w.dim())])


def find_rows(
    analysis: Analysis, group: Group, weights: Mapping[str, torch.Tensor], roles: Sequence[str] = PARAMETERS
) -> list[ChannelRows]:
    """The members of a group that are trained, each once."""
    rows = dict[tuple[str, int, str], ChannelRows]()
    for m in group.members:
        if m.role in roles and m.tensor in weights:
            order = torch.from_numpy(find_channel_order(group, m.dim)).long()
            owners = torch.where(order < 0, group.size, order)
            rows[m.tensor, m.axis, m.role] = ChannelRows(m.tensor, m.axis, m.role, owners, group.size)
    return list(rows.values())
