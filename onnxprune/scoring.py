"""A group's weights as slices: one row a channel, for criteria that know nothing of layouts or operators."""

from __future__ import annotations

import zlib

import numpy as np
from onnx import NodeProto

from onnxprune.criteria import Slice, score
from onnxprune.graph.weights import dtype_of
from onnxprune.groups import PARAM_TYPES, Analysis, Group, Member
from onnxprune.layout import owner


def score_group(a: Analysis, group: Group, criterion: str, reduce: str | None, seed: int) -> np.ndarray:
    """The importance of each channel of a group, float64 [n]; higher stays longer."""
    mixed = zlib.crc32(f"{seed}/{group.name}".encode())
    return score(slices(a, group), criterion, reduce=reduce, seed=mixed)


def slices(a: Analysis, group: Group) -> list[Slice]:
    """Each member as [n, k] float rows; the first is the one that the group is named after."""
    out: list[Slice] = []
    seen: set[tuple[str, int, str]] = set()
    for m in sorted(group.members, key=lambda m: m.role != "out"):
        if (m.tensor, m.axis, m.role) in seen or a.coupling.weights[m.tensor].data_type not in PARAM_TYPES:
            continue
        seen.add((m.tensor, m.axis, m.role))
        out.append(Slice(m.tensor, m.role, _rows(a, group, m)))
    return out


def _rows(a: Analysis, group: Group, m: Member) -> np.ndarray:
    array = np.moveaxis(_float(a, m.tensor), m.axis, 0)
    order = np.full(len(array), -1)
    at = 0
    for v in group.vars:
        mine = owner(m.dim, v)
        order = np.where(mine >= 0, mine + at, order)
        assert isinstance(v.size, int)
        at += v.size
    if at == len(array) and np.array_equal(order, np.arange(at)):
        return array.reshape(at, -1)
    positions = np.flatnonzero(order >= 0)
    positions = positions[np.argsort(order[positions], kind="stable")]
    return array[positions].reshape(at, -1)


def _float(a: Analysis, name: str) -> np.ndarray:
    """The weight as float32 or float64; integers are dequantised with the scale that their DequantizeLinear reads."""
    array = a.coupling.weights[name].array()
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype.kind == "f" or a.coupling.weights[name].data_type not in INTEGERS:
        return array.astype(np.float32)
    node = a.dequantizers.get(name)
    if node is not None:
        scale, zero, axis = _dequantiser(a, node)
        shape = [1] * array.ndim
        if scale.ndim == 1 and scale.size > 1:
            shape[axis] = scale.size
        if scale.ndim <= 1:
            return (array.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.astype(
                np.float32
            ).reshape(shape)
    return array.astype(np.float32)


INTEGERS = {t for t in PARAM_TYPES if "int" in dtype_of(t).name}


def _dequantiser(a: Analysis, proto: NodeProto) -> tuple[np.ndarray, np.ndarray, int]:
    weights = a.coupling.weights
    scale = weights[proto.input[1]].array()
    zero = (
        weights[proto.input[2]].array() if len(proto.input) > 2 and proto.input[2] in weights else np.zeros_like(scale)
    )
    axis = next((x.i for x in proto.attribute if x.name == "axis"), 1)
    return scale, zero, axis


__all__ = ["score_group", "slices"]
