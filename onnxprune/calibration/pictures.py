"""Pictures as inputs: files or arrays of pixels, resized, cropped and normalized when a batch asks for them."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.inputs import InputSpec
from onnxprune.errors import DataError
from onnxprune.graph.weights import Array, is_float

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}  # Pillow's
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preprocess:
    """From pixels of 0 to 255 to a network's input: resize, crop the center, (pixel / scale - mean) / std.

    resize  the shorter side, or [height, width]; without resize and crop, the size that the model declares
    crop    a side, or [height, width]
    scale   255 for inputs of floats, 1 for integers, unless given
    mean, std  one number, or one a channel, in the color order that the network sees
    color  rgb, bgr or gray: by the channels that the model declares, unless given
    layout  nchw or nhwc: likewise
    filter  nearest, bilinear, bicubic or lanczos
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str = ""
    layout: str = ""
    filter: str = "bilinear"

    def check(self) -> None:
        """Raise DataError for what cannot be."""
        for name in ("resize", "crop"):
            value = getattr(self, name)
            sizes = (value,) if isinstance(value, int) else value or (1,)
            if len(sizes) > 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
                raise _wrong(name, value, "a side in pixels, or [height, width]")
        for name, known in (("color", CHANNELS), ("layout", ("nchw", "nhwc")), ("filter", FILTERS)):
            value = getattr(self, name)
            if value not in known and (value or name == "filter"):
                raise _wrong(name, value, f"one of {', '.join(known)}")
        if self.scale is not None and not (isinstance(self.scale, int | float) and self.scale > 0):
            raise _wrong("scale", self.scale, "a number above 0")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not value or not all(isinstance(x, int | float) for x in value) or (name == "std" and min(value) <= 0):
                raise _wrong(name, value, "one number, or one a channel" + (", above 0" if name == "std" else ""))


def _wrong(name: str, value: object, expected: str) -> DataError:
    shown = list(value) if isinstance(value, tuple) else value
    return DataError(f"preprocess: {name} is {shown!r}; give {expected}")


PRESETS = {
    "imagenet": Preprocess(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "unit": Preprocess(),
    "raw": Preprocess(scale=1.0),
}
"""torchvision's classifiers; pixels of 0 to 1; pixels of 0 to 255."""


def read_preprocess(parts: Sequence[str]) -> Preprocess:
    """Combine presets, TOML files and lines such as `crop=224`; later parts override earlier ones.

    Raises DataError, naming the part that is not understood.
    """
    preprocess = Preprocess()
    for part in parts:
        if part in PRESETS:
            preprocess = PRESETS[part]
            continue
        given = _settings(part)
        known = {f.name for f in fields(Preprocess)}
        if unknown := sorted(set(given) - known):
            raise DataError(f"preprocess '{part}': unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        preprocess = replace(preprocess, **{name: _tuple(name, value) for name, value in given.items()})
    preprocess.check()
    return preprocess


def _settings(part: str) -> dict[str, Any]:
    path = Path(part)
    try:
        if path.suffix == ".toml":
            return tomllib.loads(path.read_text(encoding="utf-8"))
        name, equals, value = part.partition("=")
        if not equals:
            raise DataError(
                f"preprocess '{part}': neither a preset ({', '.join(PRESETS)}), nor a .toml file, nor NAME=VALUE"
            )
        quoted = value if value[:1] in "[0123456789.-\"'" else f'"{value}"'
        return tomllib.loads(f"{name.strip()} = {quoted}")
    except OSError as e:
        raise DataError(f"preprocess '{part}': {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"preprocess '{part}': not TOML: {e}; an example: mean=[0.485, 0.456, 0.406]") from e


def _tuple(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return (value,) if name in ("mean", "std") else value


def find_pictures(folder: Path) -> list[Path]:
    """The picture files in a folder and its subfolders, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


class Pictures:
    """An input [n, C, H, W] (or [n, H, W, C]) made from pixels batch by batch; indexed like an array on axis 0.

    `frames` are files, or pixels [n, H, W, C], [n, C, H, W] or [n, H, W] of 0 to 255.
    """

    def __init__(self, frames: Sequence[Path] | Array, spec: InputSpec, preprocess: Preprocess) -> None:
        if len(spec.shape) != 4:
            raise DataError(f"input '{spec.name}' has {len(spec.shape)} axes; images make inputs of 4: N, C, H, W")
        self.frames, self.dtype = frames, spec.dtype
        layout = preprocess.layout or ("nhwc" if spec.shape[3] in (1, 3) and spec.shape[1] not in (1, 3) else "nchw")
        at = 1 if layout == "nchw" else 3
        self.first = at == 1
        self.color = preprocess.color or ("gray" if spec.shape[at] == 1 else "rgb")
        for name in ("mean", "std"):
            if len(getattr(preprocess, name)) not in (1, CHANNELS[self.color]):
                raise _wrong(name, getattr(preprocess, name), f"one number, or {CHANNELS[self.color]} for {self.color}")
        height, width = spec.shape[2:] if self.first else spec.shape[1:3]
        if preprocess.resize is None and preprocess.crop is None and isinstance(height, int) and isinstance(width, int):
            preprocess = replace(preprocess, resize=(height, width))
        self.preprocess = preprocess
        self.shape = (len(frames), *self._frame(0).shape) if len(frames) else (0, 0, 0, 0)

    @property
    def ndim(self) -> int:
        return 4

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> Array:
        (part,) = key if isinstance(key, tuple) else (key,)
        at = np.arange(len(self.frames))[part]
        out = np.empty((len(at), *self.shape[1:]), self.dtype)
        for i, index in enumerate(at):
            frame = self._frame(int(index))
            if frame.shape != out.shape[1:]:
                raise DataError(
                    f"image {self._name(int(index))} becomes {list(frame.shape)}, the first one "
                    f"{list(out.shape[1:])}; give resize or crop, so that all have one size"
                )
            out[i] = frame
        return out

    def _name(self, index: int) -> str:
        return str(index) if isinstance(self.frames, np.ndarray) else f"'{self.frames[index]}'"

    def _frame(self, index: int) -> Array:
        pixels = self._pixels(index)
        scale = self.preprocess.scale or (255.0 if is_float(self.dtype) else 1.0)
        mean, std = (np.array(v, np.float32) for v in (self.preprocess.mean, self.preprocess.std))
        x = (pixels / np.float32(scale) - mean) / std
        x = x if is_float(self.dtype) else np.rint(x)
        return np.asarray(x.transpose(2, 0, 1) if self.first else x).astype(self.dtype)

    def _pixels(self, index: int) -> Array:
        """The picture [H, W, C] of 0 to 255, of its final size and colors."""
        frame = self.frames[index]
        pixels = _decoded(frame, self.color) if isinstance(frame, Path) else _colored(frame, self.color)
        pixels = _resized(pixels, self.preprocess)
        return pixels[..., ::-1] if self.color == "bgr" else pixels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as e:
        raise DataError("images need Pillow; pip install 'onnxprune[images]'") from e
    return Image


def _decoded(path: Path, color: str) -> Array:
    image = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of very many pixels; of yet more it is an error
            with image.open(path) as file:
                pixels = np.asarray(file.convert(MODES[color]))
    except (
        Exception
    ) as e:  # damaged files make Pillow raise almost anything; one that unpacks to too much, a kind of its own
        raise DataError(f"image '{path}' cannot be read: {e}; take it out of the folder, or write it again") from e
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _colored(pixels: Array, color: str) -> Array:
    """Pixels [H, W, C], [C, H, W] or [H, W] as [H, W, C], gray ones repeated where colors are asked for."""
    if pixels.dtype != np.uint8:
        raise DataError(f"images of {pixels.dtype.name}; pixels are uint8, other arrays need no preprocess")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, CHANNELS[color]):
        raise DataError(f"images of shape {list(pixels.shape)}; give [H, W, {CHANNELS[color]}] for {color}")
    return np.broadcast_to(pixels, (*pixels.shape[:2], CHANNELS[color]))


def _resized(pixels: Array, preprocess: Preprocess) -> Array:
    """Resized and cropped; the center as torchvision finds it, a picture smaller than the crop padded with black."""
    if preprocess.resize is not None:
        to = preprocess.resize if isinstance(preprocess.resize, tuple) else _shorter(pixels.shape, preprocess.resize)
        pixels = pixels if pixels.shape[:2] == to else _resample(pixels, to, preprocess.filter)
    if preprocess.crop is None:
        return pixels
    crop = preprocess.crop if isinstance(preprocess.crop, tuple) else (preprocess.crop, preprocess.crop)
    short = [max(0, c - n) for c, n in zip(crop, pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [(s // 2, s - s // 2) for s in short] + [(0, 0)]) if any(short) else pixels
    top, left = (round((n - c) / 2) for n, c in zip(pixels.shape[:2], crop, strict=True))
    return pixels[top : top + crop[0], left : left + crop[1]]


def _shorter(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    h, w = shape[:2]
    return (side, int(side * w / h)) if h <= w else (int(side * h / w), side)


def _resample(pixels: Array, to: tuple[int, int], resampling: str) -> Array:
    image = _pillow()
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    resized = image.fromarray(np.ascontiguousarray(flat)).resize((to[1], to[0]), image.Resampling[resampling.upper()])
    return np.asarray(resized).reshape(*to, pixels.shape[2])
