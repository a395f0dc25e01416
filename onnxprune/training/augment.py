"""Inputs made different on purpose, the same for the same seed. What the original makes of them is what is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.calibration import InputSpec
from onnxprune.calibration.sessions import Feeds
from onnxprune.calibration.substitutes import find_picture_axis
from onnxprune.graph.weights import Array, is_float

SHIFT = 0.125  # of a picture's side, at the most
ENLARGED, LEAST_SHARE = 0.5, 0.5  # how many pictures are, and how much of a side is left of them at the least
CONTRAST, BRIGHTNESS = 0.2, 0.2  # deviations: of the factor, and of what is added, in deviations of the pixels
NOISE = 0.1  # in deviations of the input
MIXED = 0.5  # the share of pictures that another one shines through


def augment(feeds: Feeds, specs: Sequence[InputSpec], rng: np.random.Generator, blend: bool = True) -> dict[str, Array]:
    """Pictures mirrored, moved, enlarged, blended, of other colors, each its own way; noise on other floats; integers stay."""
    return {s.name: _change(feeds[s.name], s, rng, blend) for s in specs}


def _change(x: Array, spec: InputSpec, rng: np.random.Generator, blend: bool) -> Array:
    axis = find_picture_axis(spec)
    if axis is not None:
        pictures = np.moveaxis(x, axis, 1)
        changed = _recolor(_move(pictures, rng), rng)
        changed = _blend(changed, rng) if blend else changed
        return np.ascontiguousarray(np.moveaxis(changed, 1, axis), x.dtype)
    if is_float(x.dtype) and x.size and (x != np.round(x)).any():  # masks and numbers of tokens may be floats
        return np.asarray(x + rng.standard_normal(x.shape) * (NOISE * float(np.std(x))), x.dtype)
    return x


def _move(x: Array, rng: np.random.Generator) -> Array:
    """Each of the pictures [N, C, H, W] mirrored or not, shifted, and some enlarged; what comes in at its sides is a reflection."""
    samples, height, width = len(x), *x.shape[2:]
    shares = np.where(rng.random(samples) < ENLARGED, rng.uniform(LEAST_SHARE, 1.0, samples), 1.0)
    rows, columns = (_draw_places(side, shares, rng) for side in (height, width))
    columns = np.where(rng.random((samples, 1)) < 0.5, columns[:, ::-1], columns)
    down, across = (_interpolate(places).astype(np.float32) for places in (rows, columns))
    moved: Array = down[:, None] @ x.astype(np.float32) @ across[:, None].swapaxes(2, 3)
    return moved


def _draw_places(side: int, shares: Array, rng: np.random.Generator) -> Array:
    """Where each of the new pixels along a side lies in the old picture, [N, side]: on pixels where nothing is enlarged."""
    reach = int(SHIFT * side)
    room = side * (1 - shares)
    starts = np.floor(rng.uniform(-reach, room + reach + 1))
    return np.asarray(starts[:, None] + shares[:, None] * np.arange(side))


def _interpolate(places: Array) -> Array:
    """The matrices [N, side, side] that take the pixels at those places: mixed where one lies between two, mirrored outside."""
    side = places.shape[1]
    last = max(side - 1, 1)
    inside = np.abs((places + last) % (2 * last) - last)
    return np.maximum(0.0, 1.0 - np.abs(inside[:, :, None] - np.arange(side)))


def _recolor(x: Array, rng: np.random.Generator) -> Array:
    """Other contrast for each picture, other brightness for each of its channels."""
    samples, channels = x.shape[:2]
    factor = np.exp(CONTRAST * rng.standard_normal((samples, 1, 1, 1)))
    shift = BRIGHTNESS * float(np.std(x)) * rng.standard_normal((samples, channels, 1, 1))
    means = x.mean((2, 3), keepdims=True)
    changed: Array = (x - means) * factor.astype(np.float32) + means + shift.astype(np.float32)
    return changed


def _blend(x: Array, rng: np.random.Generator) -> Array:
    """Some pictures are blended with another one of the batch: there are not many, and so they become many.

    Source: Zhang et al. 2018, mixup, arXiv 1710.09412; with what the original makes of the blend for a target, Beyer et al. 2022,
    Knowledge distillation: a good teacher is patient and consistent, arXiv 2106.05237.
    """
    stays = np.where(rng.random(len(x)) < MIXED, rng.random(len(x)), 1.0)[:, None, None, None].astype(np.float32)
    mixed: Array = stays * x + (1 - stays) * x[rng.permutation(len(x))]
    return mixed
