"""Resize by taps along one axis after another, in all modes; torch's kernels where they do the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onnxprune.gradients.operators import Node, operator

Array = NDArray[Any]
NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5), "round_prefer_ceil": lambda x: np.floor(x + 0.5), "floor": np.floor,
    "ceil": np.ceil, "simple": np.floor,
}  # fmt: skip


def _coordinates(mode: str, size: int, scale: float, out: int, roi: tuple[float, float]) -> Array:
    """Where each output position lies on the input's axis."""
    x, length = np.arange(out, dtype=np.float64), scale * size
    if mode == "align_corners":
        return x * (size - 1) / (length - 1) if length != 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        step = (roi[1] - roi[0]) * (size - 1)
        return (x * step / (length - 1) if length != 1 else np.full(out, step / 2)) + roi[0] * (size - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return np.full(out, -0.5)
    start = size / 2 * (1 - out / length) if mode == "half_pixel_symmetric" else 0.0
    return start + (x + 0.5) / scale - 0.5


def _cubic(x: Array, a: float) -> Array:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


@lru_cache(maxsize=256)
def _taps(
    size: int, out: int, scale: float, mode: str, coordinates: str, nearest: str, a: float, exclude: bool, antialias: bool,
    roi: tuple[float, float],
) -> tuple[Array, Array, Array]:  # fmt: skip
    """For each output position the input positions [taps, out] and their weights, and whether it lies outside."""
    x = _coordinates(coordinates, size, scale, out, roi)
    outside = ((x < 0) | (x > size - 1)) & (coordinates == "tf_crop_and_resize")
    if mode == "nearest":
        at = np.clip(NEAREST[nearest](x), 0, size - 1).astype(np.int64)
        return at[None], np.ones((1, out)), outside
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = (1 if mode == "linear" else 2) / stretch
    base = np.ceil(x) - 1  # the distance to it is in (0, 1]
    steps = np.arange(math.floor(-reach) + 1, math.ceil(reach) + 1)
    at = base[None] + steps[:, None]
    away = (at - x[None]) * stretch
    weights = np.clip(1 - np.abs(away), 0, 1) if mode == "linear" else _cubic(away, a)
    if exclude:
        weights = np.where((at < 0) | (at >= size), 0, weights)
    if exclude or antialias:
        weights = weights / weights.sum(0)
    return np.clip(at, 0, size - 1).astype(np.int64), weights, outside


def _resize_axis(x: Tensor, axis: int, at: Array, weights: Array) -> Tensor:
    parts = []
    shape = [1] * x.dim()
    shape[axis] = -1
    for positions, weight in zip(at, weights, strict=True):
        part = x.index_select(axis, torch.from_numpy(positions).to(x.device))
        parts.append(
            part if len(at) == 1 else part * torch.as_tensor(weight, dtype=x.dtype, device=x.device).reshape(shape)
        )
    return sum(parts[1:], parts[0])


def _by_torch(
    node: Node, x: Tensor, sizes: list[int], scales: list[float], coordinates: str, nearest: str
) -> Tensor | None:
    """torch's kernel, where it has one that does the same on the last two axes of a picture."""
    moved = [i for i in range(x.dim()) if sizes[i] != x.shape[i] or scales[i] != 1]
    exact = all(abs(scales[i] * x.shape[i] - sizes[i]) < 1e-6 for i in moved)
    if x.dim() != 4 or not exact or not set(moved) <= {2, 3} or not x.is_floating_point():
        return None
    if node.get("exclude_outside", 0) or node.get("antialias", 0):
        return None
    if node.mode == "nearest":
        whole = all(sizes[i] % x.shape[i] == 0 for i in moved)
        plain = coordinates == "asymmetric" and nearest in ("floor", "simple")
        centered = coordinates in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round")
        return F.interpolate(x, sizes[2:]) if whole and (plain or centered) else None
    if node.mode not in ("linear", "bilinear") or coordinates not in ("half_pixel", "align_corners"):
        return None
    return F.interpolate(x, sizes[2:], mode="bilinear", align_corners=coordinates == "align_corners")


def _resize(node: Node, x: Tensor, axes: list[int], sizes: list[int], scales: list[float], roi: list[float]) -> Tensor:
    coordinates = node.get("coordinate_transformation_mode", "asymmetric" if node.version < 11 else "half_pixel")
    if node.version == 10:
        coordinates = "asymmetric"
    nearest = node.get("nearest_mode", "round_prefer_floor") if node.version >= 11 else "simple"
    if node.version == 10 and node.mode == "nearest" and any(s < 1 for s in scales):
        nearest = "ceil"
    mode = {"bilinear": "linear"}.get(node.mode, node.mode)
    all_sizes, all_scales = list(x.shape), [1.0] * x.dim()
    for i, axis in enumerate(axes):
        all_sizes[axis], all_scales[axis] = sizes[i], scales[i]
    if coordinates != "tf_crop_and_resize":
        y = _by_torch(node, x, all_sizes, all_scales, coordinates, nearest)
        if y is not None:
            return y
    dtype, outside = x.dtype, torch.zeros((), dtype=torch.bool, device=x.device)
    y = x if x.is_floating_point() or mode == "nearest" else x.to(node.state.dtype)
    for i, axis in enumerate(axes):
        span = (roi[i], roi[len(axes) + i]) if len(roi) == 2 * len(axes) else (0.0, 1.0)
        if sizes[i] == x.shape[axis] and scales[i] == 1 and coordinates != "tf_crop_and_resize":
            continue
        at, weights, out = _taps(
            x.shape[axis], sizes[i], scales[i], mode, coordinates, nearest, node.get("cubic_coeff_a", -0.75),
            bool(node.get("exclude_outside", 0)), bool(node.get("antialias", 0)), span,
        )  # fmt: skip
        y = _resize_axis(y, axis, at, weights)
        if out.any():
            shape = [1] * x.dim()
            shape[axis] = -1
            outside = outside | torch.from_numpy(out).to(x.device).reshape(shape)
    if bool(outside.any()):
        y = torch.where(outside, torch.full_like(y, node.get("extrapolation_value", 0.0)), y)
    return y if y.dtype == dtype else y.round().to(dtype)


@operator("Resize", since=11, host=(1, 2, 3))
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    axes = [a % x.dim() for a in node.axes] if node.axes is not None else list(range(x.dim()))
    lengths = [x.shape[a] for a in axes]
    if sizes is not None and sizes.numel():
        wanted = [int(s) for s in sizes.tolist()]
        factors = [w / n for w, n in zip(wanted, lengths, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(axes)
            wanted = [math.floor(factors[0] * n + 0.5) for n in lengths]
    else:
        assert scales is not None
        factors = [float(s) for s in scales.tolist()]
        wanted = [math.floor(n * s) for n, s in zip(lengths, factors, strict=True)]
    region = [float(v) for v in roi.tolist()] if roi is not None else []
    return _resize(node, x, axes, wanted, factors, region)


@operator("Resize", until=10, host=(1,))
@operator("Upsample", host=(1,))
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Scales are an attribute below opset 9; in opset 1 there are two of them, for height and width."""
    if scales is not None:
        factors = [float(s) for s in scales.tolist()]
    elif node.scales is not None:
        factors = list(node.scales)
    else:
        factors = [1.0, 1.0, node.height_scale, node.width_scale]
    sizes = [math.floor(n * s) for n, s in zip(x.shape, factors, strict=True)]
    return _resize(node, x, list(range(x.dim())), sizes, factors, [])
