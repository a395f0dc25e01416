"""What to feed a model: its inputs as specifications, random arrays for them, or the user's files."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.validation.metrics import Array, is_float

Dim = int | str | None

_ANONYMOUS = frozenset({"", "?", "-1", "None"})  # what exporters write for "unknown": not a shared symbol
_BATCH = re.compile(r"n|b|bs|bsz|.*batch.*")
_TIME = re.compile(r".*(seq|past|len|time|frames|steps|tokens|samples).*")


@dataclass(frozen=True)
class InputSpec:
    """A graph input that must be fed: each axis is a size, a symbol, or None (dynamic, without a name)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]


def input_specs(proto: onnx.ModelProto) -> list[InputSpec]:
    """The inputs that a caller must feed: graph inputs that no initializer provides.

    Raises OnnxPruneError for an input that is no tensor of known rank, or one of strings.
    """
    stored = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return [_spec(value) for value in proto.graph.input if value.name not in stored]


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type == onnx.TensorProto.STRING:
        what = "a tensor of strings" if kind == "tensor_type" else f"of kind {kind or 'unknown'}"
        raise OnnxPruneError(
            f"input '{value.name}' is {what}; only numeric and boolean tensors can be fed: cut that part off "
            "the model (onnx.utils.extract_model), or compare it in your own program"
        )
    if not tensor.HasField("shape"):
        raise OnnxPruneError(f"input '{value.name}' declares no shape; declare one in the file (symbols will do)")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return InputSpec(value.name, np.dtype(dtype), tuple(_dim(d) for d in tensor.shape.dim))


def _dim(d: onnx.TensorShapeProto.Dimension) -> Dim:
    if d.HasField("dim_value") and d.dim_value > 0:  # 0 and -1 are some exporters' "unknown"
        return d.dim_value
    return None if d.dim_param in _ANONYMOUS else d.dim_param


def random_inputs(
    specs: Sequence[InputSpec],
    *,
    seed: int,
    batch: int = 2,
    sequence: int = 16,
    image: int = 224,
    tokens: int = 100,
    integers: int = 2,
    sizes: Mapping[str, int] | None = None,
) -> tuple[dict[str, Array], dict[str, int]]:
    """Random arrays for all inputs, and the sizes chosen for the dynamic axes.

    A size is named by its symbol, or `input[axis]` where it has none; `sizes` overrides by the same
    names. One symbol has one size; a sum ("past + 1") follows its terms. Else axis 0 gets `batch`,
    picture axes `image` (channels 3), all others `sequence`.

    Floats are standard normal, 8 bit integers use their whole range (quantised pictures), other
    integers are below `integers`, unless the name says more: mask and length (ones), token_type
    (zeros), position (0, 1, ..), sample rate (16000), ids and tokens (below `tokens`).

    Raises OnnxPruneError for a name in `sizes` that the model does not have, or a size below 1.
    """
    chosen = _choose_sizes(specs, sizes or {}, batch, sequence, image)
    rng = np.random.default_rng(seed)
    arrays = {}
    for s in specs:
        shape = tuple(d if isinstance(d, int) else chosen[_label(s, a)] for a, d in enumerate(s.shape))
        arrays[s.name] = _values(s, shape, rng, tokens, integers)
    return arrays, chosen


def _label(spec: InputSpec, axis: int) -> str:
    d = spec.shape[axis]
    return d if isinstance(d, str) else f"{spec.name}[{axis}]"


def _dynamic_axes(specs: Sequence[InputSpec]) -> list[tuple[InputSpec, int]]:
    return [(s, a) for s in specs for a, d in enumerate(s.shape) if not isinstance(d, int)]


def _choose_sizes(
    specs: Sequence[InputSpec], given: Mapping[str, int], batch: int, sequence: int, image: int
) -> dict[str, int]:
    axes = sorted(_dynamic_axes(specs), key=lambda sa: sa[1])  # a symbol of some axis 0 is a batch everywhere
    labels = {_label(s, a) for s, a in axes}
    for name, size in given.items():
        if name not in labels or size < 1:
            why = f"is {size}, but sizes start at 1" if name in labels else "names no dynamic axis"
            raise OnnxPruneError(f"size '{name}' {why}; the dynamic axes are {sorted(labels) or 'none'}")
    chosen = dict(given)
    for s, a in axes:
        chosen.setdefault(_label(s, a), _axis_size(s, a, batch, sequence, image))
    sums = {name: _sum(name, chosen) for name in labels - set(given)}
    return chosen | {name: n for name, n in sums.items() if n is not None}


def _axis_size(spec: InputSpec, axis: int, batch: int, sequence: int, image: int) -> int:
    rank, name = len(spec.shape), str(spec.shape[axis] or "").lower()
    if axis == 0 or _BATCH.fullmatch(name):
        return batch
    if rank < 4 or _TIME.fullmatch(name):
        return image if re.match(r"height|width", name) else sequence
    channels_last = spec.shape[-1] in (1, 3, 4)
    if axis == (rank - 1 if channels_last else 1) or "channel" in name:
        return 3
    return image if rank == 4 else min(image, 32)  # a clip or a volume of 224 cubed would be 11 million


def _sum(symbol: str, known: Mapping[str, int]) -> int | None:
    """The value of a symbol that is a sum of others and of numbers ("past + 1"); None for any other."""
    terms = [t.strip() for t in symbol.split("+")]
    if len(terms) < 2 or not all(t.isdecimal() or t in known for t in terms):
        return None
    return sum(int(t) if t.isdecimal() else known[t] for t in terms)


_HINTS: tuple[tuple[str, Callable[[tuple[int, ...]], Array]], ...] = (  # values that a name asks for
    (r".*(mask|length).*", np.ones),
    (r".*(token_type|segment_ids).*", np.zeros),
    (r".*position.*", lambda shape: np.broadcast_to(np.arange(shape[-1] if shape else 1), shape)),
    (r"sr|sampl(e|ing)_?rate", lambda shape: np.full(shape, 16000)),
)


def _values(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, tokens: int, integers: int) -> Array:
    name = spec.name.lower()
    hinted = next((make(shape) for pattern, make in _HINTS if re.fullmatch(pattern, name)), None)
    if hinted is not None and (hinted.all() or not is_float(spec.dtype)):  # a float input is never all zero
        return hinted.astype(spec.dtype)
    if is_float(spec.dtype):
        return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
    low, high = 0, tokens if re.search(r"ids|token", name) else integers
    if spec.dtype == np.bool_:
        high = 2
    elif spec.dtype in (np.int8, np.uint8):
        low, high = np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max + 1
    return np.asarray(rng.integers(low, high, shape)).astype(spec.dtype)


@dataclass(frozen=True)
class Batches:
    """Inputs to feed, one dict of arrays a batch, and where they came from."""

    feeds: Sequence[Mapping[str, Array]]
    source: str
    samples: int
    sizes: Mapping[str, int]  # of the dynamic axes, in a full batch
    dropped: int = 0  # samples left over by a static batch axis
    labels: Array | None = None  # [samples], int64

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return iter(self.feeds)


def load_data(path: str | Path, specs: Sequence[InputSpec], *, batch_size: int = 32) -> Batches:
    """Read an .npz (keys are input names) or a folder of .npy (one an input), checked against `specs`.

    A model of one input takes one array under any name, a bare .npy too. `labels` (or `label`), one
    integer a sample, may stand beside them. File names may have `_` for characters outside `A-Za-z0-9_.:-`.

    Batches: a dynamic axis 0 (and its symbol on other inputs' axes) is cut into `batch_size` samples,
    the last batch smaller; a static axis 0 into its own size, and the remainder is `dropped`. An array
    that already has the input's static shape is fed whole to every batch. Where an input has a
    dynamic axis but no batch axis (a graph's edges beside its nodes), everything is one batch.

    Raises DataError for files that are no plain arrays, and for wrong names, dtypes and shapes.
    """
    path = Path(path)
    found = _read(path)
    labels = next((found.pop(k) for k in ("labels", "label") if k in found and all(k != s.name for s in specs)), None)
    arrays = {name: _checked(spec, array, path) for name, spec, array in _match(found, specs, path)}
    sizes = _sizes(specs, arrays, path)
    axes = _batch_axes(specs, arrays)
    total, step, dropped = _steps(specs, arrays, axes, batch_size, path)
    sizes |= {_label(s, a): min(step, total) for s, a in _dynamic_axes(specs) if a == axes[s.name]}
    if labels is not None and (labels.size != total or labels.dtype.kind not in "iu"):
        raise _bad(path, f"labels are {labels.dtype.name} {list(labels.shape)}; give {total} integers, one a sample")
    kept = total - dropped
    feeds = [_cut(arrays, axes, slice(i, min(i + step, kept))) for i in range(0, kept, step)]
    labels = None if labels is None else labels.reshape(total)[:kept].astype(np.int64)
    return Batches(feeds, str(path), kept, sizes, dropped, labels)


def _cut(arrays: Mapping[str, Array], axes: Mapping[str, int | None], part: slice) -> dict[str, Array]:
    return {n: x if (a := axes[n]) is None else x[(slice(None),) * a + (part,)] for n, x in arrays.items()}


def _bad(path: Path, why: str) -> DataError:
    return DataError(f"data '{path}': {why}")


def _read(path: Path) -> dict[str, Array]:
    if not path.exists():
        raise _bad(path, "there is no such file; give an .npz with one array an input, or a folder of .npy")
    try:
        if path.is_dir():
            return {f.stem: np.load(f, mmap_mode="r", allow_pickle=False) for f in sorted(path.glob("*.npy"))}
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            found = {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error) as e:
        how = "write them with numpy.savez(file, **{input_name: array}), without objects (pickles are never loaded)"
        raise _bad(path, f"cannot be read as plain numpy arrays: {e}; {how}") from e
    return {key: value for key, value in found.items() if isinstance(value, np.ndarray)}


def _match(found: Mapping[str, Array], specs: Sequence[InputSpec], path: Path) -> list[tuple[str, InputSpec, Array]]:
    if len(specs) == 1 and len(found) == 1:
        return [(specs[0].name, specs[0], next(iter(found.values())))]
    keys = [s.name if s.name in found else re.sub(r"[^\w.:-]", "_", s.name) for s in specs]
    missing, unknown = sorted(set(keys) - set(found)), sorted(set(found) - set(keys))
    if missing or unknown:
        how = f"give one array for each input of the model, {[s.name for s in specs]}, and 'labels' if there are any"
        raise _bad(path, f"missing {missing}, not understood {unknown}; {how}")
    return [(s.name, s, found[key]) for s, key in zip(specs, keys, strict=True)]


def _checked(spec: InputSpec, array: Array, path: Path) -> Array:
    if array.dtype.kind == "V" and spec.dtype.kind == "V" and array.itemsize == spec.dtype.itemsize:
        array = array.view(spec.dtype)  # .npy files forget the names of bfloat16 and its like
    fits = array.ndim == len(spec.shape) and all(
        n == d if a else n >= d
        for a, (n, d) in enumerate(zip(array.shape, spec.shape, strict=True))
        if isinstance(d, int)
    )
    if array.dtype == spec.dtype and fits and array.size:
        return array
    expected = f"{spec.dtype.name} [{', '.join('?' if d is None else str(d) for d in spec.shape)}]"
    expected += " (or several such batches on axis 0)" if spec.shape and isinstance(spec.shape[0], int) else ""
    how = f"convert it with .astype('{spec.dtype.name}')" if fits and array.size else "reshape or resize it"
    raise _bad(path, f"input '{spec.name}' expects {expected}, got {array.dtype.name} {list(array.shape)}; {how}")


def _sizes(specs: Sequence[InputSpec], arrays: Mapping[str, Array], path: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for s, a in _dynamic_axes(specs):
        name, n = _label(s, a), arrays[s.name].shape[a]
        if sizes.setdefault(name, n) != n:
            raise _bad(
                path, f"'{name}' is {n} on axis {a} of input '{s.name}', but {sizes[name]} before; give one size"
            )
    return sizes


def _batch_axes(specs: Sequence[InputSpec], arrays: Mapping[str, Array]) -> dict[str, int | None]:
    symbol = next((s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], str)), None)
    axes = {s.name: _batch_axis(s, arrays[s.name].shape, symbol) for s in specs}
    lengths = {arrays[s.name].shape[0] for s, a in _dynamic_axes(specs) if a == axes[s.name] == 0}
    tied = any(axes[s.name] is None for s, _ in _dynamic_axes(specs)) or len(lengths) > 1  # nodes and edges, say
    return dict.fromkeys(axes) if tied else axes


def _batch_axis(spec: InputSpec, shape: tuple[int, ...], symbol: str | None) -> int | None:
    if symbol is not None and symbol in spec.shape:
        return spec.shape.index(symbol)
    return None if not shape or shape[0] == spec.shape[0] else 0


def _steps(
    specs: Sequence[InputSpec], arrays: Mapping[str, Array], axes: Mapping[str, int | None], batch_size: int, path: Path
) -> tuple[int, int, int]:
    """How many samples there are, how many go into a batch, and how many a static batch leaves over."""
    cut = [(s, a) for s in specs if (a := axes[s.name]) is not None]
    if not cut:
        total = next((arrays[s.name].shape[0] for s in specs if s.shape), 1)
        return total, total, 0
    totals = {s.name: arrays[s.name].shape[a] for s, a in cut}
    static = {d for s, a in cut if isinstance(d := s.shape[a], int)}
    if len(set(totals.values())) > 1 or len(static) > 1:
        sizes = f", in batches of {sorted(static)}" if static else ""
        raise _bad(path, f"the inputs do not hold the same number of samples: {totals}{sizes}; give as many of each")
    total, step = next(iter(totals.values())), min(static, default=batch_size)
    return total, step, total % step if static else 0
