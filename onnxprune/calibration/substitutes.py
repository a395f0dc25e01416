"""Substitute calibration data: drawn scenes for a network of images, else random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto

from onnxprune.calibration.data import RANDOM_SAMPLES, Batches, Streamed, draw_batches
from onnxprune.calibration.inputs import InputSpec, list_input_specs
from onnxprune.calibration.scenes import draw_scenes
from onnxprune.calibration.sessions import Feeds
from onnxprune.calibration.statistics import gather
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.ops.records import get_record
from onnxprune.signals import StatisticKey

LEAST_SIDE = 8  # of a picture, in pixels
PIXELS, LEAST_SAMPLES = 1 << 20, 8  # of all scenes together; more scenes of small ones
RANGE_SAMPLES = 16  # that tell which range a network expects
MEAN, DEVIATION = 0.45, 0.27  # of the pixels of pictures, from 0 to 1
Range = tuple[float, float]  # deviation and mean of the pixels that a network is fed
RANGES: tuple[Range, ...] = (
    (1.0, 0.0),
    (2 * DEVIATION, 2 * MEAN - 1),
    (DEVIATION, MEAN),
    (255 * DEVIATION, 255 * MEAN),
)
"""Standardized, from -1 to 1, from 0 to 1, from 0 to 255."""
FLOATS = 3  # the first of them are of numbers near 1
LIKELY = 2.0  # times the least strangeness: such ranges are used side by side


def takes_images(model: Model) -> bool:
    """Is there an input that looks like pictures: floats with 1 or 3 channels and two sides of some pixels?"""
    try:
        return any(map(_is_picture, list_input_specs(model.proto)))
    except OnnxPruneError:  # an input that cannot be fed
        return False


def _is_picture(spec: InputSpec) -> bool:
    return is_float(spec.dtype) and len(spec.shape) == 4 and any(_sides(spec.shape, axis) for axis in (1, 3))


def find_picture_axis(spec: InputSpec) -> int | None:
    """The axis of the channels of an input that looks like pictures; None of another one."""
    return _channels(spec.shape) if _is_picture(spec) else None


def _sides(shape: Sequence[object], channels: int) -> bool:
    """Are those the channels of a picture, and the other axes its sides?"""
    sides = [n for axis, n in enumerate(shape) if axis not in (0, channels)]
    return shape[channels] in (1, 3) and all(not isinstance(n, int) or n >= LEAST_SIDE for n in sides)


def substitute_batches(a: Analysis, seed: int, samples: int | None = None) -> Batches:
    """Seeded inputs that the model runs on, so many of them. Raises OnnxPruneError where it runs on none."""
    plain = draw_batches(a.model, seed, samples or RANDOM_SAMPLES)
    if not takes_images(a.model):
        return plain
    specs = list_input_specs(a.model.proto)
    pictures = [plain.first()[s.name] for s in specs if _is_picture(s)]
    sides = max(x[0].size // x.shape[_channels(x.shape)] for x in pictures)
    least = max(LEAST_SAMPLES, *(len(x) for x in pictures))  # a batch of a model that takes no smaller one
    few = plain if samples else plain.limit(min(max(PIXELS // sides, least), max(RANDOM_SAMPLES, least)))
    return _scenes(few, specs, seed, _find_ranges(a, few, specs, seed))


def _find_ranges(a: Analysis, plain: Batches, specs: Sequence[InputSpec], seed: int) -> Sequence[Range]:
    """The ranges that the network may expect, those that it is less surprised by. None of them is certain."""
    cut = list(dict.fromkeys(_cut(a)))
    if not cut:
        return RANGES[:FLOATS]
    some = plain.limit(max(RANGE_SAMPLES, len(plain.first()[specs[0].name])))
    strange = [_measure_strangeness(a, _scenes(some, specs, seed, [pixels]), cut) for pixels in RANGES]
    if not np.isfinite(strange).any():
        return RANGES[:FLOATS]
    return [pixels for pixels, value in zip(RANGES, strange, strict=True) if value <= LIKELY * min(strange)]


def _scenes(plain: Batches, specs: Sequence[InputSpec], seed: int, ranges: Sequence[Range]) -> Batches:
    """The same batches with scenes for pictures, of each range in turn."""
    pictures = [s.name for s in specs if _is_picture(s)]

    def start() -> Iterator[Feeds]:
        for at, feeds in enumerate(plain):
            rng = np.random.default_rng([seed, at])
            yield {**feeds, **{n: _draw(feeds[n], rng, ranges, at * len(feeds[n])) for n in pictures}}

    first = plain.first()
    return Streamed(
        source=f"drawn scenes, seed {seed}", samples=plain.samples, sizes=plain.sizes, start=start, specs=specs,
        step=len(first[pictures[0]]),
    )  # fmt: skip


def _channels(shape: Sequence[object]) -> int:
    """The axis of a picture's channels."""
    return 1 if _sides(shape, 1) else 3


def _draw(like: Array, rng: np.random.Generator, ranges: Sequence[Range], first: int) -> Array:
    """Scenes in the shape of an input; `first` is the number of the first one."""
    axis = _channels(like.shape)
    samples, channels, height, width = np.moveaxis(like, axis, 1).shape
    turns = (first + np.arange(samples)) % len(ranges)
    deviation, mean = np.array(ranges, np.float32)[turns].T[:, :, None, None, None]
    scenes = draw_scenes(samples, channels, height, width, rng) * deviation + mean
    return np.ascontiguousarray(np.moveaxis(scenes, 1, axis), like.dtype)


def _measure_strangeness(a: Analysis, batches: Batches, cut: Sequence[str]) -> float:
    """Measure how far the inputs of clipping activations are from a standard normal distribution, which training makes of them.

    That is the mean over layers of the median over channels of KL(N(mean, variance) || N(0, 1)): normalizations, initial
    weights and weight decay all see to it that it is small, and inputs of another range upset it.
    """
    ranks = {name: len(a.coupling.layouts[name] or ()) for name in cut}
    axes = {name: 1 if rank == 4 else rank - 1 for name, rank in ranks.items()}
    wants: list[StatisticKey] = [(name, axis, what) for name, axis in axes.items() for what in ("mean", "mean_sq")]
    statistics = gather(a, batches, wants)
    return float(np.mean([_diverge(statistics, name, axis) for name, axis in axes.items()]))


def _diverge(statistics: Mapping[StatisticKey, Array], tensor: str, axis: int) -> float:
    mean, square = (statistics[tensor, axis, what].astype(np.float64) for what in ("mean", "mean_sq"))
    if not np.isfinite(square).all():
        return np.inf
    variance = np.maximum(square - mean**2, 1e-12)
    alive = variance > 1e-6 * variance.max()  # the others are constant whatever the range is
    return float(np.median((square - 1 - np.log(variance))[alive] / 2))


def _cut(a: Analysis) -> Iterator[str]:
    """The activations of floats that activation functions cut off."""
    outputs = {name for n in a.flat.proto.graph.node for name in n.output}
    for node in a.flat.proto.graph.node:
        if get_record(node).traits.clips and node.input[0] in outputs and _is_watchable(a, node):
            yield node.input[0]


def _is_watchable(a: Analysis, node: NodeProto) -> bool:
    c, name = a.coupling, node.input[0]
    elem = c.trace.dtype(name)
    outside = name in a.outside and name not in c.weights and name not in c.computed
    return outside and bool(elem and is_float(dtype_of(elem))) and len(c.layouts.get(name) or ()) >= 2
