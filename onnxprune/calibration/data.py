"""Calibration and validation data: files, folders, pictures, Python iterables or random arrays, one batch at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.arrays import read_arrays
from onnxprune.calibration.inputs import InputSpec, draw_inputs, label, list_dynamic_axes, list_input_specs
from onnxprune.calibration.mistakes import explain_names, explain_shape, find_labels
from onnxprune.calibration.pictures import Pictures, Preprocess, find_pictures
from onnxprune.calibration.sessions import Feeds, Guess, count, find_runnable_inputs, open_session
from onnxprune.errors import DataError
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array

RANDOM_SAMPLES, RANDOM_BATCH = 64, 8
Column = Array | Pictures  # all the samples of one input
Axes = Mapping[str, int | None]  # on which axis of each input the samples lie; None: every batch has all of it


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Inputs to feed, one dict of arrays a batch, as often as they are iterated; nothing is kept between batches."""

    source: str
    samples: int | None = None  # None: not known before the data were read
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the dynamic axes, in a full batch
    dropped: int = 0  # samples left over by a static batch axis
    labels: Array | None = None  # [samples, ..], of classes int64

    def __iter__(self) -> Iterator[Feeds]:
        raise NotImplementedError

    def first(self) -> Feeds:
        """The first batch. Raises DataError where there is none."""
        for feeds in self:
            return feeds
        raise _bad(self.source, "no batches; give at least one")

    def measure_sizes(self) -> Mapping[str, int]:
        """The sizes of the dynamic axes in the first batch."""
        return self.sizes

    def limit(self, samples: int) -> Batches:
        """At most so many samples: spread evenly over data of known size (files are often sorted by class), else the first.

        Raises DataError for a number below one batch of a model whose batch size is static.
        """
        raise NotImplementedError

    def pairs(self) -> Iterator[tuple[Feeds, Array | None]]:
        """The batches with their labels, where they have some."""
        raise NotImplementedError

    def hold_out(self, fold: int, folds: int) -> tuple[Batches, Batches]:
        """All samples but those of one of the folds, and these: of data in any order every so many samples, else batches."""
        raise NotImplementedError

    def count_parts(self, most: int) -> int:
        """Into how many parts the samples can be divided, up to so many."""
        raise NotImplementedError

    @property
    def has_labels(self) -> bool:
        return self.labels is not None

    def read_labels(self) -> list[Array] | None:
        """The labels in the order of the batches, in pieces; None where a sample has none."""
        return None if self.labels is None else [self.labels]


@dataclass(frozen=True, kw_only=True)
class Stored(Batches):
    """Samples that can be taken in any order."""

    columns: Mapping[str, Column]
    axes: Axes
    rows: Array  # which samples
    step: int  # samples in a batch
    static: bool = False  # the model takes batches of `step` only

    def __iter__(self) -> Iterator[Feeds]:
        for start in range(0, len(self.rows), self.step):
            part = _part(self.rows[start : start + self.step])
            yield {n: x[...] if (a := self.axes[n]) is None else _take(x, a, part) for n, x in self.columns.items()}

    def pairs(self) -> Iterator[tuple[Feeds, Array | None]]:
        """The batches with their labels."""
        for at, feeds in enumerate(self):
            yield feeds, None if self.labels is None else self.labels[at * self.step : (at + 1) * self.step]

    def limit(self, samples: int) -> Stored:
        if all(a is None for a in self.axes.values()) or samples >= len(self.rows):
            return self
        return self.take(np.arange(self._whole(samples)) * len(self.rows) // self._whole(samples))

    def head(self, samples: int) -> Stored:
        """The first samples."""
        return self.take(np.arange(min(len(self.rows), self._whole(samples))))

    def hold_out(self, fold: int, folds: int) -> tuple[Stored, Stored]:
        is_chosen = np.arange(len(self.rows)) // (self.step if self.static else 1) % folds == fold
        return self.take(np.flatnonzero(~is_chosen)), self.take(np.flatnonzero(is_chosen))

    def count_parts(self, most: int) -> int:
        if all(a is None for a in self.axes.values()):
            return 1
        return min(most, len(self.rows) // (self.step if self.static else 1))

    def _whole(self, samples: int) -> int:
        if samples < (self.step if self.static else 1):
            least = f"the model takes batches of {self.step}" if self.static else "calibration needs at least one"
            raise DataError(f"data '{self.source}': {samples} samples asked for, but {least}")
        return samples - samples % self.step if self.static else samples

    def take(self, which: Array) -> Stored:
        """Those of the samples, in that order."""
        labels = None if self.labels is None else self.labels[which]
        return replace(self, rows=self.rows[which], samples=len(which), labels=labels)


def _part(rows: Array) -> slice | Array:
    """Neighboring rows as a slice: a view of the array, not a copy."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _take(x: Column, axis: int, part: slice | Array) -> Array:
    taken: Array = x[(slice(None),) * axis + (part,)]
    return taken


@dataclass(frozen=True, kw_only=True)
class Streamed(Batches):
    """Batches that `start()` makes anew for each pass: dicts by input name, tuples in the order of the inputs, or arrays."""

    start: Callable[[], Iterable[Any]]
    specs: Sequence[InputSpec]
    step: int
    most: int | None = None

    def __iter__(self) -> Iterator[Feeds]:
        return (feeds for feeds, _ in self.pairs())

    def pairs(self) -> Iterator[tuple[Feeds, Array | None]]:
        """The batches with their labels, where they have some."""
        left = self.most
        for item in self.start():
            batches = _stored(_named(item, self.specs, self.source), self.specs, self.step, self.source)
            if left is not None and left < len(batches.rows):
                if left < (batches.step if batches.static else 1) and left != self.most:
                    return
                batches = batches.head(left)
            left = None if left is None else left - len(batches.rows)
            yield from batches.pairs()

    @property
    def has_labels(self) -> bool:
        return next((labels is not None for _, labels in self.pairs()), False)

    def read_labels(self) -> list[Array] | None:
        batches = [labels for _, labels in self.pairs()]
        some = [labels for labels in batches if labels is not None]
        return some if len(some) == len(batches) else None

    def hold_out(self, fold: int, folds: int) -> tuple[Streamed, Streamed]:
        def pick(inside: bool) -> Streamed:
            def choose() -> Iterator[Feeds]:
                for at, (feeds, labels) in enumerate(self.pairs()):
                    if (at % folds == fold) == inside:
                        yield feeds if labels is None else {**feeds, "labels": labels}

            return replace(self, start=choose, most=None, samples=None)

        return pick(False), pick(True)

    def count_parts(self, most: int) -> int:
        return sum(1 for _ in islice(self, most))

    def measure_sizes(self) -> Mapping[str, int]:
        feeds = {} if self.sizes else self.first()
        return self.sizes or {label(s, a): feeds[s.name].shape[a] for s, a in list_dynamic_axes(self.specs)}

    def limit(self, samples: int) -> Batches:
        if samples < 1:
            raise DataError(f"data '{self.source}': {samples} samples asked for, but calibration needs at least one")
        most = samples if self.most is None else min(samples, self.most)
        return replace(self, most=most, samples=None if self.samples is None else min(most, self.samples))


def load_data(
    source: str | PathLike[str] | Batches | Iterable[Any] | Callable[[], Iterable[Any]],
    specs: Sequence[InputSpec],
    *,
    batch_size: int = 32,
    preprocess: Preprocess | None = None,
) -> Batches:
    """Data for the inputs `specs`, checked against them; read batch by batch, as often as they are iterated.

    .npz, .npy or a folder of .npy   arrays by input name; a model of one input takes one array under any name.
                                     `labels` (or `label`), one integer a sample, may stand beside them. File names may
                                     have `_` for characters outside `A-Za-z0-9_.:-`. With `preprocess`, uint8 arrays
                                     are pictures [n, H, W, C]
    a folder of pictures             for a model of one input, and with `preprocess`
    an iterable, or a function       batches: dicts by input name, tuples in the order of the inputs, or arrays. A
                                     function is called for each pass, since an iterator runs but once

    Batches: a dynamic axis 0 (and its symbol on other inputs' axes) is cut into `batch_size` samples,
    the last batch smaller; a static axis 0 into its own size, and the remainder is `dropped`. An array
    that already has the input's static shape is fed whole to every batch. Where an input has a
    dynamic axis but no batch axis (a graph's edges beside its nodes), everything is one batch.

    Raises DataError for files that are no plain arrays, and for wrong names, dtypes and shapes.
    """
    if isinstance(source, Batches):
        return source
    if not isinstance(source, str | PathLike):
        return _stream(source, specs, batch_size)
    path = Path(source)
    files = find_pictures(path) if path.is_dir() and not any(path.glob("*.npy")) else []
    if files:
        return _stored({"pictures": _pictures(files, specs, preprocess, str(path))}, specs, batch_size, str(path))
    columns: dict[str, Column] = dict(read_arrays(path))
    if not columns:
        what = "folder has no .npy files and no images" if path.is_dir() else "file has no arrays"
        raise _bad(str(path), f"the {what}; give one array for each input of the model, {[s.name for s in specs]}")
    if preprocess is not None:
        columns = _with_pictures(columns, specs, preprocess, str(path))
    return _stored(columns, specs, batch_size, str(path))


def _stream(source: Iterable[Any] | Callable[[], Iterable[Any]], specs: Sequence[InputSpec], step: int) -> Batches:
    what = f"a Python {type(source).__name__}"
    if isinstance(source, np.ndarray | Mapping):
        return _stored(_named(source, specs, what), specs, step, what)
    if isinstance(source, Iterator):
        raise _bad(what, "an iterator runs only once; give a list, or a function that returns a new iterator each time")
    if isinstance(source, Iterable):
        return Streamed(source=what, start=lambda: source, specs=specs, step=step)
    return Streamed(source=what, start=source, specs=specs, step=step)


def draw_batches(model: Model, seed: int, samples: int = RANDOM_SAMPLES) -> Batches:
    """Seeded random inputs that the model runs on, for want of data. Raises OnnxPruneError where it runs on none."""
    specs = list_input_specs(model.proto)
    session = open_session(model, "original")
    return draw_data(find_runnable_inputs(session, specs, seed, batch=RANDOM_BATCH), specs, seed, samples)


def draw_data(guess: Guess, specs: Sequence[InputSpec], seed: int, samples: int | None = None) -> Batches:
    """Random inputs like those of `guess`, which the model runs on: that one batch, or as many as `samples` need."""
    step = count(guess.feeds)
    batches = 1 if samples is None else max(1, -(-samples // step))

    def start() -> Iterator[Feeds]:
        yield guess.feeds
        for i in range(1, batches):
            yield draw_inputs(specs, seed=seed + i, sizes=guess.sizes, **guess.settings)[0]

    streamed = Streamed(
        source=f"random seed {seed}", samples=batches * step, sizes=guess.sizes, start=start, specs=specs, step=step
    )
    return streamed if samples is None else streamed.limit(max(samples, step))


def _named(item: Any, specs: Sequence[InputSpec], source: str) -> dict[str, Column]:
    """One batch from Python as arrays by name; what comes after the inputs in a tuple is taken for labels."""
    if isinstance(item, Mapping):
        return {str(name): np.asarray(x) for name, x in item.items()}
    arrays = list(item) if isinstance(item, tuple | list) else [item]
    if len(arrays) not in (len(specs), len(specs) + 1):
        raise _bad(source, f"a batch of {len(arrays)} arrays; give one for each input, {[s.name for s in specs]}")
    named = {s.name: np.asarray(x) for s, x in zip(specs, arrays, strict=False)}
    return named | _labels_beside(arrays[len(specs) :], named)


def _labels_beside(extra: Sequence[Any], named: Mapping[str, Column]) -> dict[str, Column]:
    """The entries after the inputs in a tuple, if they have one element per sample; other targets are left out."""
    try:
        labels = np.asarray(extra[0]) if extra else None
    except ValueError:  # lists of different lengths
        return {}
    first = next(iter(named.values()))
    fits = (
        labels is not None and labels.dtype != object and labels.ndim and first.ndim and len(labels) == first.shape[0]
    )
    return {"labels": labels} if fits and labels is not None and "labels" not in named else {}


def _pictures(
    frames: Sequence[Path] | Array, specs: Sequence[InputSpec], preprocess: Preprocess | None, source: str
) -> Pictures:
    if len(specs) != 1:
        raise _bad(source, f"images alone do not feed {len(specs)} inputs, {[s.name for s in specs]}; give an .npz")
    if preprocess is None:
        raise _bad(source, "images need preprocess: 'imagenet', 'unit', 'raw' or a TOML file")
    return Pictures(frames, specs[0], preprocess)


def _with_pictures(
    columns: Mapping[str, Column], specs: Sequence[InputSpec], preprocess: Preprocess, source: str
) -> dict[str, Column]:
    """The uint8 arrays for inputs of four axes, as pictures."""
    matched = _match(_split_labels(columns, specs)[0], specs, source)
    turned = {
        s.name: Pictures(x, s, preprocess) for _, s, x in matched if isinstance(x, np.ndarray) and _is_picture(x, s)
    }
    if not turned:
        raise _bad(source, "preprocess is for images: uint8 [n, H, W, C] for an input of four axes; none are there")
    result: dict[str, Column] = {name: turned.get(name, x) for name, _, x in matched}
    return result | {k: columns[k] for k in ("labels", "label") if k in columns}


def _is_picture(x: Column, spec: InputSpec) -> bool:
    return x.dtype == np.uint8 and x.ndim in (3, 4) and len(spec.shape) == 4


def _split_labels(columns: Mapping[str, Column], specs: Sequence[InputSpec]) -> tuple[dict[str, Column], Column | None]:
    inputs = dict(columns)
    names = {s.name for s in specs}
    return inputs, next((inputs.pop(k) for k in ("labels", "label") if k in inputs and k not in names), None)


def _stored(columns: Mapping[str, Column], specs: Sequence[InputSpec], step: int, source: str) -> Stored:
    inputs, labels = _split_labels(columns, specs)
    arrays = {name: _checked(spec, x, source) for name, spec, x in _match(inputs, specs, source)}
    sizes = _sizes(specs, arrays, source)
    axes = _batch_axes(specs, arrays)
    total, step, dropped = _steps(specs, arrays, axes, step, source)
    sizes |= {label(s, a): min(step, total) for s, a in list_dynamic_axes(specs) if a == axes[s.name]}
    kept = total - dropped
    static = all(a is None or isinstance(s.shape[a], int) for s in specs for a in [axes[s.name]])
    return Stored(
        source=source,
        samples=kept,
        sizes=sizes,
        dropped=dropped,
        labels=None if labels is None else _labels(labels[...], total, source)[:kept],
        columns=arrays,
        axes=axes,
        rows=np.arange(kept),
        step=step,
        static=static,
    )


def _labels(labels: Array, total: int, source: str) -> Array:
    """Classes as [samples]; others, which a metric may take, as they are."""
    if labels.size == total and labels.dtype.kind in "iu":
        return labels.reshape(total).astype(np.int64)
    if labels.ndim < 1 or len(labels) != total:
        raise _bad(source, f"labels are {labels.dtype.name} {list(labels.shape)}; give {total} of them, one a sample")
    return labels


def _bad(source: str, why: str) -> DataError:
    return DataError(f"data '{source}': {why}")


def _match(
    columns: Mapping[str, Column], specs: Sequence[InputSpec], source: str
) -> list[tuple[str, InputSpec, Column]]:
    if len(specs) == 1 and len(columns) == 1:
        return [(specs[0].name, specs[0], next(iter(columns.values())))]
    keys = [s.name if s.name in columns else re.sub(r"[^\w.:-]", "_", s.name) for s in specs]
    missing, unknown = sorted(set(keys) - set(columns)), sorted(set(columns) - set(keys))
    if missing or unknown:
        raise _bad(source, _explain_names(columns, missing, unknown, specs))
    return [(s.name, s, columns[key]) for s, key in zip(specs, keys, strict=True)]


def _explain_names(
    columns: Mapping[str, Column], missing: Sequence[str], unknown: Sequence[str], specs: Sequence[InputSpec]
) -> str:
    lengths = {x.shape[0] for name, x in columns.items() if name not in unknown and x.ndim}
    samples = lengths.pop() if len(lengths) == 1 else None
    wrong = explain_names(missing, unknown)
    if labels := find_labels({name: tuple(columns[name].shape) for name in unknown}, None if missing else samples):
        return f"{wrong}; if '{labels}' has the labels, name it 'labels'"
    return (
        f"{wrong}; give one array for each input of the model, {[s.name for s in specs]}, and 'labels' if there are any"
    )


def _checked(spec: InputSpec, x: Column, source: str) -> Column:
    if isinstance(x, np.ndarray) and x.dtype.kind == spec.dtype.kind == "V" and x.itemsize == spec.dtype.itemsize:
        x = x.view(spec.dtype)  # .npy files forget the names of bfloat16 and its like
    fits = x.ndim == len(spec.shape) and all(
        n == d if a else n >= d for a, (n, d) in enumerate(zip(x.shape, spec.shape, strict=True)) if isinstance(d, int)
    )
    if x.dtype == spec.dtype and fits and x.size:
        return x
    expected = f"{spec.dtype.name} [{', '.join('?' if d is None else str(d) for d in spec.shape)}]"
    expected += " (or several such batches on axis 0)" if spec.shape and isinstance(spec.shape[0], int) else ""
    mistake = explain_shape(spec, x.shape) or "reshape or resize it"
    advice = f"convert it with .astype('{spec.dtype.name}')" if fits and x.size else mistake
    advice += " or, if it holds images, give preprocess" if x.size and _is_picture(x, spec) else ""
    raise _bad(source, f"input '{spec.name}' expects {expected}, got {x.dtype.name} {list(x.shape)}; {advice}")


def _sizes(specs: Sequence[InputSpec], arrays: Mapping[str, Column], source: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for s, a in list_dynamic_axes(specs):
        name, n = label(s, a), arrays[s.name].shape[a]
        if sizes.setdefault(name, n) != n:
            why = f"'{name}' is {n} on axis {a} of input '{s.name}', but {sizes[name]} before; give one size"
            raise _bad(source, why)
    return sizes


def _batch_axes(specs: Sequence[InputSpec], arrays: Mapping[str, Column]) -> dict[str, int | None]:
    symbol = next((s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], str)), None)
    axes = {s.name: _batch_axis(s, arrays[s.name].shape, symbol) for s in specs}
    lengths = {arrays[s.name].shape[0] for s, a in list_dynamic_axes(specs) if a == axes[s.name] == 0}
    tied = any(axes[s.name] is None for s, _ in list_dynamic_axes(specs)) or len(lengths) > 1  # nodes and edges, say
    return dict.fromkeys(axes) if tied else axes


def _batch_axis(spec: InputSpec, shape: tuple[int, ...], symbol: str | None) -> int | None:
    if symbol is not None and symbol in spec.shape:
        return spec.shape.index(symbol)
    return None if not shape or shape[0] == spec.shape[0] else 0


def _steps(
    specs: Sequence[InputSpec], arrays: Mapping[str, Column], axes: Axes, batch_size: int, source: str
) -> tuple[int, int, int]:
    """Count the samples, the samples per batch, and the rest that fills no static batch."""
    cut = [(s, a) for s in specs if (a := axes[s.name]) is not None]
    if not cut:
        total = next((arrays[s.name].shape[0] for s in specs if s.shape), 1)
        return total, total, 0
    totals = {s.name: arrays[s.name].shape[a] for s, a in cut}
    static = {d for s, a in cut if isinstance(d := s.shape[a], int)}
    if len(set(totals.values())) > 1 or len(static) > 1:
        sizes = f", in batches of {sorted(static)}" if static else ""
        raise _bad(source, f"the inputs do not hold the same number of samples: {totals}{sizes}; give as many of each")
    total, step = next(iter(totals.values())), min(static, default=batch_size)
    return total, step, total % step if static else 0
