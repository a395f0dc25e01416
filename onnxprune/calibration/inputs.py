"""The inputs of a model as specifications, and random arrays for them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array, is_float

Dim = int | str | None

MOST = 1 << 40  # elements of an input
_ANONYMOUS = frozenset({"", "?", "-1", "None"})  # what exporters write for "unknown": not a shared symbol
_BATCH = re.compile(r"n|b|bs|bsz|.*batch.*")
_TIME = re.compile(r".*(seq|past|len|time|frames|steps|tokens|samples).*")


@dataclass(frozen=True)
class InputSpec:
    """A graph input that must be fed: each axis is a size, a symbol, or None (dynamic, without a name)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]


def list_input_specs(proto: onnx.ModelProto) -> list[InputSpec]:
    """The inputs that a caller must feed: graph inputs that no initializer provides.

    Raises OnnxPruneError for an input that is no tensor of known rank, or one of strings.
    """
    stored = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return [_spec(value) for value in proto.graph.input if value.name not in stored]


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        what = (
            f"a tensor of {'strings' if tensor.elem_type else 'no type'}"
            if kind == "tensor_type"
            else f"of kind {kind or 'unknown'}"
        )
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


def draw_inputs(
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

    Floats are standard normal, 8 bit integers use their whole range (quantized pictures), other
    integers are below `integers`, unless the name says more: mask and length (ones), token_type
    (zeros), position (0, 1, ..), sample rate (16000), ids and tokens (below `tokens`).

    Raises OnnxPruneError for a name in `sizes` that the model does not have, or a size below 1.
    """
    chosen = _choose_sizes(specs, sizes or {}, batch, sequence, image)
    rng = np.random.default_rng(seed)
    arrays = {}
    for s in specs:
        shape = tuple(d if isinstance(d, int) else chosen[label(s, a)] for a, d in enumerate(s.shape))
        if math.prod(shape) > MOST:
            raise OnnxPruneError(
                f"input '{s.name}' is {list(shape)}, more than fits any memory; correct its shape in the file"
            )
        arrays[s.name] = _values(s, shape, rng, tokens, integers)
    return arrays, chosen


def label(spec: InputSpec, axis: int) -> str:
    d = spec.shape[axis]
    return d if isinstance(d, str) else f"{spec.name}[{axis}]"


def list_dynamic_axes(specs: Sequence[InputSpec]) -> list[tuple[InputSpec, int]]:
    return [(s, a) for s in specs for a, d in enumerate(s.shape) if not isinstance(d, int)]


def _choose_sizes(
    specs: Sequence[InputSpec], given: Mapping[str, int], batch: int, sequence: int, image: int
) -> dict[str, int]:
    axes = sorted(list_dynamic_axes(specs), key=lambda sa: sa[1])  # a symbol of some axis 0 is a batch everywhere
    labels = {label(s, a) for s, a in axes}
    for name, size in given.items():
        if name not in labels or size < 1:
            why = f"is {size}, but sizes start at 1" if name in labels else "names no dynamic axis"
            raise OnnxPruneError(f"size '{name}' {why}; the dynamic axes are {sorted(labels) or 'none'}")
    chosen = dict(given)
    for s, a in axes:
        chosen.setdefault(label(s, a), _axis_size(s, a, batch, sequence, image))
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
    if len(terms) < 2 or not all((t.isdecimal() and len(t) < 10) or t in known for t in terms):
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
