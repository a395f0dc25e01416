"""Sampling of pictures: grids, regions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.ops.records import MICROSOFT

MODES = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample")
@operator("GridSample", domain=MICROSOFT)
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = node.get("mode", "bilinear")
    padding = node.get("padding_mode", "zeros")
    return F.grid_sample(x, grid, MODES.get(mode, mode), padding, bool(node.get("align_corners", 0)))


@operator("AffineGrid", host=(1,))
def affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    return F.affine_grid(theta, size.tolist(), align_corners=bool(node.align_corners))


@operator("MaxRoiPool")
def max_roi_pool(node: Node, x: Tensor, rois: Tensor) -> Tensor:
    """rois [n, 5]: which sample, and the corners in pixels times `spatial_scale`, both of them inside."""
    ph, pw = node.pooled_shape
    rows = []
    for which, *corners in rois.tolist():
        x1, y1, x2, y2 = (math.floor(v * node.spatial_scale + 0.5) for v in corners)
        h, w = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        cells = []
        for i in range(ph):
            top, bottom = (
                min(max(f + y1, 0), x.shape[2]) for f in (math.floor(i * h / ph), math.ceil((i + 1) * h / ph))
            )
            for j in range(pw):
                left, right = (
                    min(max(f + x1, 0), x.shape[3]) for f in (math.floor(j * w / pw), math.ceil((j + 1) * w / pw))
                )
                part = x[int(which), :, top:bottom, left:right]
                cells.append(part.amax((1, 2)) if part.numel() else x.new_zeros(x.shape[1]))
        rows.append(torch.stack(cells, -1).reshape(x.shape[1], ph, pw))
    return torch.stack(rows) if rows else x.new_zeros(0, x.shape[1], ph, pw)


def _bilinear(x: Tensor, ys: Tensor, xs: Tensor) -> list[Tensor]:
    """The four weighted corners of x [C, h, w] at points, which are zero beyond one pixel outside."""
    h, w = x.shape[1:]
    inside = (ys >= -1) & (ys <= h) & (xs >= -1) & (xs <= w)
    ys, xs = ys.clamp(0, h - 1), xs.clamp(0, w - 1)
    y0, x0 = ys.floor().long(), xs.floor().long()
    y1, x1 = (y0 + 1).clamp(max=h - 1), (x0 + 1).clamp(max=w - 1)
    ly, lx = ys - y0, xs - x0
    corners = [(y0, x0, (1 - ly) * (1 - lx)), (y0, x1, (1 - ly) * lx), (y1, x0, ly * (1 - lx)), (y1, x1, ly * lx)]
    return [x[:, a, b] * (weight * inside) for a, b, weight in corners]


@operator("RoiAlign")
def roi_align(node: Node, x: Tensor, rois: Tensor, which: Tensor) -> Tensor:
    """The mean, or the largest corner, of points that lie evenly in each cell of a region."""
    oh, ow = node.get("output_height", 1), node.get("output_width", 1)
    mode = node.get("coordinate_transformation_mode", "half_pixel") if node.version >= 16 else "output_half_pixel"
    shift, ratio = (0.5 if mode == "half_pixel" else 0.0), node.get("sampling_ratio", 0)
    rows = []
    for roi, sample in zip(rois, which.tolist(), strict=True):
        x1, y1, x2, y2 = (roi * node.get("spatial_scale", 1.0) - shift).tolist()
        w, h = x2 - x1, y2 - y1
        if mode != "half_pixel":
            w, h = max(w, 1.0), max(h, 1.0)
        ny, nx = (ratio, ratio) if ratio > 0 else (max(math.ceil(h / oh), 1), max(math.ceil(w / ow), 1))
        ys = y1 + (torch.arange(oh * ny, device=x.device, dtype=x.dtype) + 0.5) * (h / oh / ny)
        xs = x1 + (torch.arange(ow * nx, device=x.device, dtype=x.dtype) + 0.5) * (w / ow / nx)
        corners = _bilinear(x[sample], *torch.meshgrid(ys, xs, indexing="ij"))
        if node.get("mode", "avg") == "avg":
            cells = sum(corners[1:], corners[0]).reshape(-1, oh, ny, ow, nx).mean((2, 4))
        else:
            cells = torch.stack(corners).amax(0).reshape(-1, oh, ny, ow, nx).amax((2, 4))
        rows.append(cells)
    return torch.stack(rows) if rows else x.new_zeros(0, x.shape[1], oh, ow)
