"""Fourier transforms and windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.types import choose_carrier


def _complex(x: Tensor) -> Tensor:
    """The last axis holds real parts, or real and imaginary ones."""
    return torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)


@operator("DFT", host=(1, 2))
def fourier(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Below opset 20 the axis is an attribute. One-sided: half of the frequencies of real input, and back."""
    dim = (node.axis if node.version < 20 else -2 if axis is None else int(axis.item())) % x.dim()
    n = None if length is None else int(length.item())
    y = _complex(x)
    if node.inverse and node.onesided:
        return torch.fft.irfft(y, n, dim).unsqueeze(-1)
    if node.inverse:
        return torch.view_as_real(torch.fft.ifft(y, n, dim))
    if node.onesided:
        return torch.view_as_real(torch.fft.rfft(y.real if y.is_complex() else y, n, dim))
    return torch.view_as_real(torch.fft.fft(y, n, dim))


@operator("STFT", host=(1, 3))
def short_time_fourier(
    node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """x [N, T, 1 or 2] -> [N, frames, frequencies, 2]"""
    y = _complex(x) if x.dim() > 2 else x
    size = int(length.item()) if length is not None else window.shape[0] if window is not None else y.shape[-1]
    frames = y.unfold(-1, size, int(step.item()))
    if window is not None:
        frames = frames * window
    if node.onesided and not frames.is_complex():
        return torch.view_as_real(torch.fft.rfft(frames, dim=-1))
    return torch.view_as_real(torch.fft.fft(frames, dim=-1))


COSINES = {"HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0), "BlackmanWindow": (0.42, 0.5, 0.08)}


@operator("HannWindow", "HammingWindow", "BlackmanWindow", host=(0,))
def make_window(node: Node, size: Tensor) -> Tensor:
    """a - b cos(2 pi n / N) + c cos(4 pi n / N); N is one less where the window is not periodic."""
    n = int(size.item())
    a, b, c = COSINES[node.op_type]
    t = torch.arange(n, dtype=torch.float64) * (2 * math.pi / (n if node.periodic else n - 1))
    return (a - b * torch.cos(t) + c * torch.cos(2 * t)).to(choose_carrier(node.output_datatype, node.state))


@operator("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def mel_weights(node: Node, bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Triangles on the mel scale: [length // 2 + 1, bins]."""
    count, size = int(bins.item()), int(length.item())
    lowest, highest = (2595 * math.log10(1 + float(f.item()) / 700) for f in (low, high))
    steps = [lowest + i * (highest - lowest) / (count + 2) for i in range(count + 2)]
    at = [int((size + 1) * (700 * (10 ** (m / 2595) - 1)) // float(rate.item())) for m in steps]
    y = torch.zeros(size // 2 + 1, count, dtype=torch.float64)
    for i, (left, middle, right) in enumerate(zip(at, at[1:], at[2:], strict=False)):
        if left == middle:
            y[middle, i] = 1
        for k in range(left, middle + 1):
            if left != middle:
                y[k, i] = (k - left) / (middle - left)
        for k in range(middle, right):
            y[k, i] = (right - k) / (right - middle)
    return y.to(choose_carrier(node.output_datatype, node.state))
