"""Run models in ONNX Runtime: sessions, feeds of every type, and random inputs that a model turns out to run on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.calibration.inputs import InputSpec, draw_inputs
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.lent import lend_bytes
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array, is_float
from onnxprune.machine import read_wanted_threads

Source = str | Path | onnx.ModelProto | bytes | Model
Feeds = Mapping[str, Array]

# Sizes of random inputs tried on the original, in this order: (sequence, image), each with the requested batch, two, then one.
_SIZES = ((16, 224), (8, 64), (32, 256), (128, 32), (512, 128), (1024, 320))
_SOUND = (4096, 32768)  # sequences that are tried last, where all inputs are numbers with a point: seconds of sound
_GUESSES = [
    *({"batch": b, "sequence": s, "image": i, "tokens": 100, "integers": 2} for s, i in _SIZES for b in (2, 1)),
    *({"batch": b, "tokens": 2, "integers": 2} for b in (2, 1)),  # a vocabulary under 100
    *({"batch": b, "tokens": 100, "integers": 100} for b in (2, 1)),  # token ids under another name
]
_IDENTITY = '<ir_version: 8, opset_import: ["": 13]> identity (float[1] x) => (float[1] y) { y = Identity(x) }'
_LONG_GUESSES = [{"batch": b, "sequence": s, "image": 320} for s in _SOUND for b in (2, 1)]


@dataclass(frozen=True)
class Guess:
    """Random inputs that a model ran on, what came out, and what they were drawn with."""

    feeds: dict[str, Array]
    outputs: dict[str, Any]
    sizes: dict[str, int]  # of the dynamic axes
    settings: dict[str, int]  # of `draw_inputs`


@cache
def _share_arena() -> None:
    """One pool of memory for the sessions of this process: with one each, mapping it anew takes a quarter of the time."""
    import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_requested = 1  # rather than twice as much each time, the default
    with suppress(Exception):  # somebody registered a pool before
        ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, as_requested, -1, -1))


def trim_pool() -> None:
    """Give back what that pool holds and no session uses: as much as the largest run took. Only a run can ask for it."""
    import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    open_session(onnx.parser.parse_model(_IDENTITY), "a pool's model").run(None, {"x": np.ones(1, np.float32)}, options)


def open_session(
    model: Source, role: str, threads: int | None = None, profile: Path | None = None, optimized: Path | None = None
) -> Any:
    """An ONNX Runtime session on the CPU, deterministic; `role` names the model in errors.

    `profile` is the beginning of the profiler's file, `optimized` the file to write the optimized graph to.
    Raises OnnxPruneError with ONNX Runtime's first line if it refuses the model.
    """
    import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    options.intra_op_num_threads = threads or read_wanted_threads()
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False  # it has the second batch allocate all memory anew; a session sees few batches
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # threads that wait leave the cores to others
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 4  # it warns that such a file fits this machine only
    with ExitStack() as while_opening:
        source, entries = _read(model, role, while_opening)
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime's exceptions share no base class
            raise OnnxPruneError(f"{role}: ONNX Runtime does not load the model: {_first_line(e)}") from e


def _read(model: Source, role: str, while_opening: ExitStack) -> tuple[str | bytes, Mapping[str, str]]:
    """The model in a form that ONNX Runtime loads, and configuration entries; its files exist `while_opening`."""
    if isinstance(model, Model):
        return while_opening.enter_context(lend_bytes(model))
    return serialize(model, role), {}


def serialize(model: str | Path | onnx.ModelProto | bytes, role: str) -> str | bytes:
    """Convert a model to a form that ONNX Runtime loads: a path, or bytes that include the weights.

    Raises OnnxPruneError for a message with external data, or beyond 2 GB.
    """
    if isinstance(model, str | Path):
        return str(model)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in get_proto(model, role).graph.initializer):
        raise OnnxPruneError(f"{role}: its weights are in external files, so give the path of the model file instead")
    try:
        return model if isinstance(model, bytes) else model.SerializeToString()
    except Exception as e:  # protobuf's EncodeError, or ValueError, by its version
        raise OnnxPruneError(f"{role}: larger than 2 GB ({e}); save it with external data and give the path") from e


def get_proto(model: Source, role: str) -> onnx.ModelProto:
    """The message of a model; that of a Model, and of a file with external data, has no weights in it."""
    if isinstance(model, Model):
        return model.proto
    try:
        if isinstance(model, bytes):
            return onnx.load_from_string(model)
        return onnx.load(model, load_external_data=False) if isinstance(model, str | Path) else model
    except Exception as e:  # OSError, or protobuf's DecodeError
        raise OnnxPruneError(f"{role}: cannot be read as an ONNX file: {_first_line(e)}") from e


def _first_line(e: Exception) -> str:
    return next(iter(str(e).splitlines()), type(e).__name__)


def run(session: Any, feeds: Feeds) -> dict[str, Any]:
    """The session's outputs by name, for types that numpy lacks (bfloat16, float8) too.

    Raises OnnxPruneError with ONNX Runtime's first line if the model does not run on `feeds`.
    """
    names = [o.name for o in session.get_outputs()]
    values = prepare_run(session, feeds)()
    return dict(zip(names, map(_from_ort, values) if _needs_values(session) else values, strict=True))


def prepare_run(session: Any, feeds: Feeds) -> Callable[[], list[Any]]:
    """A function that runs the session on `feeds`, and does nothing else that takes time: outputs as ONNX Runtime gives them.

    It raises OnnxPruneError with ONNX Runtime's first line if the model does not run on `feeds`.
    """
    import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

    names = [o.name for o in session.get_outputs()]
    options = ort.RunOptions()
    options.log_severity_level = 4  # the exception says it; ONNX Runtime would print it as well
    call, fed = session.run, dict[str, Any](feeds)

    def go() -> list[Any]:
        try:
            outputs: list[Any] = call(names, fed, options)
        except Exception as e:  # ONNX Runtime's exceptions share no base class
            raise OnnxPruneError(_first_line(e)) from e
        return outputs

    if _needs_values(session):
        try:
            call, fed = session.run_with_ort_values, {name: _to_ort(x) for name, x in feeds.items()}
        except Exception as e:
            raise OnnxPruneError(_first_line(e)) from e
    return go


def _needs_values(session: Any) -> bool:
    """Has it inputs or outputs of a type that numpy lacks?"""
    types = [v.type for v in (*session.get_inputs(), *session.get_outputs())]
    return any(t.startswith(("tensor(bfloat", "tensor(float8", "tensor(float4")) for t in types)


def count(feeds: Feeds) -> int:
    """Count the samples of a batch: the length of the first input that has axes."""
    return next((len(x) for x in feeds.values() if x.ndim), 1)


def take_batches(batches: Iterable[Feeds], samples: int | None) -> Iterator[Feeds]:
    """Batches until there are so many samples; all of them for None."""
    seen = 0
    for feeds in batches:
        if samples is not None and seen >= samples:
            return
        seen += count(feeds)
        yield feeds


def _to_ort(x: Array) -> Any:
    import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.asarray(x, order="C"), kind)


def _from_ort(value: Any) -> Any:
    if not value.is_tensor() or value.element_type() == onnx.TensorProto.STRING:
        return value
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
    shape = value.shape()
    raw = ctypes.string_at(value.data_ptr(), int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def run_as(role: str, session: Any, feeds: Feeds) -> dict[str, Any]:
    try:
        return run(session, feeds)
    except OnnxPruneError as e:
        fed = ", ".join(f"{name} {x.dtype.name} {list(x.shape)}" for name, x in feeds.items())
        raise OnnxPruneError(f"{role}: ONNX Runtime does not run the model on {fed}: {e}") from e


def find_runnable_inputs(
    session: Any, specs: Sequence[InputSpec], seed: int, sizes: Mapping[str, int] | None = None, batch: int = 2
) -> Guess:
    """The first guess at random inputs that the model runs on: `batch` samples, or two or one where it takes no more.

    Raises OnnxPruneError where none of them runs.
    """
    failures: dict[tuple[Any, ...], OnnxPruneError] = {}
    guesses = _GUESSES + (_LONG_GUESSES if all(is_float(s.dtype) for s in specs) else [])
    for settings in (s | {"batch": n} for s in guesses for n in ((batch, min(batch, 2)) if s["batch"] > 1 else (1,))):
        feeds, chosen = draw_inputs(specs, seed=seed, sizes=sizes, **settings)
        key = (settings.get("tokens"), settings.get("integers"), *sorted(chosen.items()))
        if key in failures:
            continue
        try:
            return Guess(feeds, run_as("original", session, feeds), chosen, settings)
        except OnnxPruneError as e:
            failures[key] = e
    first = next(iter(failures.values()))
    raise OnnxPruneError(
        f"{first} (nor with {len(failures) - 1} other guesses); give data that fit, or sizes for the dynamic axes"
    ) from first
