"""Scenes drawn at random, for want of pictures: shapes of all sizes that hide each other, as things do before a camera.

White noise has no edges and no large areas, so that a network fitted on it forgets what it does with those. Shapes whose sizes
follow a power law have the spectrum of natural pictures and their edges, at any scale (Lee, Mumford and Huang 2001, Occlusion
models for natural images, sec. 4; networks learn from nothing else: Baradad et al. 2021, Learning to see by looking at noise,
arXiv 2106.05963).
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph.weights import Array

SHAPES = 60  # of a scene
SMALLEST, LARGEST = 0.04, 0.6  # radii, of the scene's sides
COLOR = 0.8  # the share of the variance that channels have in common
SHADE = 0.15  # what a color changes by from the middle of a shape to its edge
GRAIN = 0.05  # the noise of each pixel
ROUND = 0.6  # the share of ellipses; the others are rectangles


def draw_scenes(samples: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Scenes [samples, channels, height, width], float32; each number has a mean of about 0 and a deviation of about 1."""
    scenes = np.empty((samples, channels, height, width), np.float32)
    for scene in scenes:
        scene[:] = _draw_color(channels, rng)[:, None, None]
        radii = 1 / np.sqrt(rng.uniform(LARGEST**-2, SMALLEST**-2, SHAPES))  # as many of twice the size as a quarter
        for radius in radii:
            _draw_shape(scene, radius, rng)
    scenes += GRAIN * rng.standard_normal(scenes.shape, np.float32)
    return scenes


def _draw_color(channels: int, rng: np.random.Generator) -> Array:
    common, own = rng.standard_normal(), rng.standard_normal(channels)
    return np.asarray(np.sqrt(COLOR) * common + np.sqrt(1 - COLOR) * own)


def _draw_shape(scene: Array, radius: float, rng: np.random.Generator) -> None:
    """Paint an ellipse or a rectangle, turned and shaded, over what is there."""
    _, height, width = scene.shape
    middle, angle, flat = rng.uniform(size=2), rng.uniform(0, np.pi), rng.uniform(0.4, 1)
    slopes, is_round = SHADE * rng.standard_normal(2), rng.uniform() < ROUND
    color = _draw_color(len(scene), rng)
    rows, columns = (_near(m, 1.5 * radius, size) for m, size in zip(middle, (height, width), strict=True))
    y, x = np.ogrid[rows, columns]
    y, x = (y + 0.5) / height - middle[0], (x + 0.5) / width - middle[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / radius
    across = (y * np.cos(angle) - x * np.sin(angle)) / (radius * flat)
    inside = along**2 + across**2 < 1 if is_round else np.maximum(np.abs(along), np.abs(across)) < 1
    shaded = color[:, None, None] + (slopes[0] * along + slopes[1] * across)
    part = scene[:, rows, columns]
    np.copyto(part, shaded, where=inside, casting="same_kind")


def _near(middle: float, reach: float, size: int) -> slice:
    """The positions within a reach, which covers the corners of a turned square."""
    return slice(max(0, int((middle - reach) * size)), min(size, int((middle + reach) * size) + 1))
