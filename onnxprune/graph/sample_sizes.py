"""The two sample sizes of each dynamic axis: what they are at first, and others to try where a layer does not survive them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxprune.axes import Size, size_of

Sizes = dict[str, tuple[int, int]]  # by symbol, or by place for axes without one; axes of one name share their sizes
BATCH = 1  # the first size of a batch axis, which MACs are counted at; the second is another for each name
GROWTH, STEPS = 4, 6  # sizes grow by this factor, so often at most: 64 samples of sound become 262,144


def choose_first_sizes(
    proto: onnx.ModelProto, initializers: Mapping[str, object], small: bool = False, one_batch: bool = False
) -> Sizes:
    """Sizes for all dynamic axes of the graph's real inputs, by their names.

    The leading axes have different second sizes where their names differ: [time, batch, ..] has two. With `one_batch` they are the
    same, since some exporters give the batch of each input a name of its own.
    """
    sizes: Sizes = {}
    for value, axis, name in _dynamic_axes(proto, initializers):
        if name not in sizes and axis == 0:
            sizes[name] = (BATCH, 3 if one_batch else 3 + 2 * sum(map(is_batch, sizes.values())))
        elif name not in sizes:
            sizes[name] = _guess(axis, len(value.type.tensor_type.shape.dim), len(sizes), small)
    return sizes


def is_batch(sizes: tuple[int, int]) -> bool:
    return sizes[0] == BATCH


def sample_shapes(
    proto: onnx.ModelProto, initializers: Mapping[str, object], sizes: Sizes
) -> dict[str, tuple[Size, ...] | None]:
    """Sample shapes of the graph's real inputs; None where the rank is unknown."""
    named = {(v.name, axis): size_of(*sizes[name]) for v, axis, name in _dynamic_axes(proto, initializers)}
    return {
        value.name: tuple(named.get((value.name, axis), d.dim_value) for axis, d in enumerate(t.shape.dim))
        if (t := value.type.tensor_type).HasField("shape")
        else None
        for value in _real_inputs(proto, initializers)
    }


def grow_sizes(sizes: Sizes) -> Iterator[Sizes]:
    """Larger and larger sizes of all axes but the batch."""
    for step in range(1, STEPS + 1):
        yield {n: p if is_batch(p) else (p[0] * GROWTH**step, p[1] * GROWTH**step) for n, p in sizes.items()}


def find_data_sizes(
    proto: onnx.ModelProto, initializers: Mapping[str, object], sizes: Sizes, data: Mapping[str, int]
) -> Iterator[Sizes]:
    """The sizes that data have, by symbol or `input[axis]`, as the first of each pair; the second is a multiple, or half."""
    known = {
        name: data[key]
        for v, axis, name in _dynamic_axes(proto, initializers)
        for key in (name, f"{v.name}[{axis}]")
        if key in data and not is_batch(sizes[name])
    }
    if known:
        yield sizes | {name: (n, n * (2 + i)) for i, (name, n) in enumerate(known.items())}
        yield sizes | {name: (n, max(n // 2, 1)) for name, n in known.items()}


def _real_inputs(proto: onnx.ModelProto, initializers: Mapping[str, object]) -> Iterator[onnx.ValueInfoProto]:
    for value in proto.graph.input:
        if value.name not in initializers and value.type.HasField("tensor_type"):
            yield value


def _dynamic_axes(
    proto: onnx.ModelProto, initializers: Mapping[str, object]
) -> Iterator[tuple[onnx.ValueInfoProto, int, str]]:
    """Each input with a dynamic axis, the axis, and the name that its sizes go by."""
    for value in _real_inputs(proto, initializers):
        dims = value.type.tensor_type.shape.dim
        for axis, d in enumerate(dims):
            if d.dim_value <= 0:
                yield value, axis, d.dim_param or f"axis {axis} of {len(dims)}"


def _guess(axis: int, rank: int, nth: int, small: bool) -> tuple[int, int]:
    if small:
        return (5 + 2 * (nth % 4), 8 + 3 * (nth % 4))
    if rank >= 4:
        return (224, 288) if axis % 2 == 0 else (192, 320)
    return (64 + 16 * (nth % 4), 96 + 32 * (nth % 4))
