"""Run two models side by side in ONNX Runtime on the same inputs, and compare what comes out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

from onnxprune.errors import OnnxPruneError
from onnxprune.validation.data import Batches, InputSpec, input_specs, random_inputs
from onnxprune.validation.metrics import Array, ErrorSums, Metrics, agreement, class_scores, is_float, predictions

Model = str | Path | onnx.ModelProto | bytes
Feeds = Mapping[str, Array]

# What random inputs try on the original, in this order: (sequence, image), each with batch 2, then 1.
_SIZES = ((16, 224), (8, 64), (32, 256), (128, 32), (512, 128), (1024, 320))
_GUESSES = [
    *({"batch": b, "sequence": s, "image": i, "tokens": 100, "integers": 2} for s, i in _SIZES for b in (2, 1)),
    *({"batch": b, "tokens": 2, "integers": 2} for b in (2, 1)),  # a vocabulary under 100
    *({"batch": b, "tokens": 100, "integers": 100} for b in (2, 1)),  # token ids under another name
]


@dataclass(frozen=True)
class Result:
    """What `validate` measured. Every field is plain data; `to_json` is the stable form."""

    outputs: dict[str, dict[str, Any]]
    overall: Metrics
    top1_agreement: float | None
    class_output: str | None
    accuracy: dict[str, float | None] | None
    inputs: dict[str, dict[str, Any]]
    dynamic_sizes: dict[str, int]
    samples: int
    dropped: int
    data: str
    nonfinite: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The fields by name; numbers that do not exist are None (see `metrics.compare`)."""
        return asdict(self)


def validate(
    original: Model,
    candidate: Model,
    *,
    data: Batches | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> Result:
    """Feed both models the same batches (`data`, or one random batch of `seed`) and compare each output.

    outputs          float outputs: `metrics.compare`; others: `mismatch`, the fraction of unequal elements;
                     {"error": ..} where the two cannot be compared (shape, kind)
    overall          `metrics.compare` over the elements of all float outputs together
    top1_agreement   on `class_output`, the first output that looks like class scores (`metrics.class_scores`)
    accuracy         fraction of `data.labels` hit on `class_output`, {"before", "after"}; None without labels
    inputs           dtype and shape fed in the first batch; `dynamic_sizes` names the dynamic axes' sizes
    nonfinite        NaN and infinite elements of the float outputs, {"reference", "candidate"}

    `sizes` fixes dynamic axes of random inputs; those left are tried at several sizes until the
    original runs. A model beyond 2 GB, or with external data, is given as a path.

    Raises OnnxPruneError where a model does not load or run, or their inputs or outputs differ in name.
    """
    if data is not None and sizes:
        raise OnnxPruneError("sizes are for random inputs; data come with their own, so leave one of the two out")
    before = open_session(original, "original", threads)
    after = open_session(candidate, "candidate", threads)
    _check_names(before, after)
    specs = input_specs(_proto(original, "original"))
    data, pairs = (data, _pairs(before, data)) if data is not None else _random(before, specs, seed, sizes)
    comparison = _Comparison()
    for feeds, reference in pairs:
        comparison.add(reference, _run_as("candidate", after, feeds))
    return comparison.result(data, data.feeds[0])


def open_session(model: Model, role: str, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU, deterministic; `role` names the model in errors.

    Raises OnnxPruneError with ONNX Runtime's first line if it refuses the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    options.intra_op_num_threads = threads or 0
    source = str(model) if isinstance(model, str | Path) else _serialised(model, role)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's exceptions share no base class
        raise OnnxPruneError(f"{role}: ONNX Runtime does not load the model: {_first_line(e)}") from e


def _serialised(model: onnx.ModelProto | bytes, role: str) -> bytes:
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _proto(model, role).graph.initializer):
        raise OnnxPruneError(f"{role}: its weights are in external files, so give the path of the model file instead")
    try:
        return model if isinstance(model, bytes) else model.SerializeToString()
    except Exception as e:  # protobuf's EncodeError, or ValueError, by its version
        raise OnnxPruneError(f"{role}: larger than 2 GB ({e}); save it with external data and give the path") from e


def _proto(model: Model, role: str) -> onnx.ModelProto:
    try:
        if isinstance(model, bytes):
            return onnx.load_from_string(model)
        return onnx.load(model, load_external_data=False) if isinstance(model, str | Path) else model
    except Exception as e:  # OSError, or protobuf's DecodeError
        raise OnnxPruneError(f"{role}: cannot be read as an ONNX file: {_first_line(e)}") from e


def _first_line(e: Exception) -> str:
    return next(iter(str(e).splitlines()), type(e).__name__)


def _check_names(before: Any, after: Any) -> None:
    wanted, found = ({i.name for i in s.get_inputs()} for s in (before, after))
    lost = [o.name for o in before.get_outputs() if o.name not in {p.name for p in after.get_outputs()}]
    if wanted != found or lost:
        what = f"outputs {lost} of the original are missing" if lost else "its inputs are not the original's"
        raise OnnxPruneError(
            f"candidate: {what} (inputs {sorted(wanted)}, now {sorted(found)}); give two versions of one model"
        )


# Running


def run(session: Any, feeds: Feeds) -> dict[str, Any]:
    """The session's outputs by name, for types that numpy lacks (bfloat16, float8) too.

    Raises OnnxPruneError with ONNX Runtime's first line if the model does not run on `feeds`.
    """
    names = [o.name for o in session.get_outputs()]
    options = ort.RunOptions()
    options.log_severity_level = 4  # the exception says it; ONNX Runtime would print it as well
    types = [v.type for v in (*session.get_inputs(), *session.get_outputs())]
    try:
        if not any(t.startswith(("tensor(bfloat", "tensor(float8", "tensor(float4")) for t in types):
            return dict(zip(names, session.run(names, dict(feeds), options), strict=True))
        values = session.run_with_ort_values(names, {name: _to_ort(x) for name, x in feeds.items()}, options)
        return dict(zip(names, map(_from_ort, values), strict=True))
    except Exception as e:  # ONNX Runtime's exceptions share no base class
        raise OnnxPruneError(_first_line(e)) from e


def _to_ort(x: Array) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.asarray(x, order="C"), kind)


def _from_ort(value: Any) -> Any:
    if not value.is_tensor() or value.element_type() == onnx.TensorProto.STRING:
        return value
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.element_type())
    shape = value.shape()
    raw = ctypes.string_at(value.data_ptr(), int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def _run_as(role: str, session: Any, feeds: Feeds) -> dict[str, Any]:
    try:
        return run(session, feeds)
    except OnnxPruneError as e:
        fed = ", ".join(f"{name} {x.dtype.name} {list(x.shape)}" for name, x in feeds.items())
        raise OnnxPruneError(f"{role}: ONNX Runtime does not run the model on {fed}: {e}") from e


def _pairs(before: Any, data: Batches) -> Iterator[tuple[Feeds, dict[str, Any]]]:
    return ((feeds, _run_as("original", before, feeds)) for feeds in data)


def _random(
    before: Any, specs: list[InputSpec], seed: int, sizes: Mapping[str, int] | None
) -> tuple[Batches, Iterator[tuple[Feeds, dict[str, Any]]]]:
    """The first guess at inputs that the original runs on, and what it made of them."""
    failures: dict[tuple[Any, ...], OnnxPruneError] = {}
    for guess in _GUESSES:
        feeds, chosen = random_inputs(specs, seed=seed, sizes=sizes, **guess)
        key = (guess["tokens"], guess["integers"], *sorted(chosen.items()))
        if key in failures:
            continue
        try:
            outputs = _run_as("original", before, feeds)
        except OnnxPruneError as e:
            failures[key] = e
            continue
        samples = next((x.shape[0] for x in feeds.values() if x.ndim), 1)
        return Batches([feeds], f"random seed {seed}", samples, chosen), iter([(feeds, outputs)])
    first = next(iter(failures.values()))
    raise OnnxPruneError(
        f"{first} (nor with {len(failures) - 1} other guesses); give data that fit, or sizes for the dynamic axes"
    ) from first


# Comparing


class _Output:
    """What one output showed so far."""

    def __init__(self) -> None:
        self.sums: ErrorSums | None = None
        self.unequal = self.elements = 0
        self.error: str | None = None

    def add(self, r: Any, c: Any, overall: ErrorSums) -> None:
        self.error = self.error or _incomparable(r, c)
        if self.error:
            return
        if is_float(r.dtype):
            self.sums = self.sums or ErrorSums()
            self.sums.add(r, c)
            overall.add(r, c)
        self.unequal += int(np.count_nonzero(r != c))
        self.elements += r.size

    def result(self) -> dict[str, Any]:
        if self.error:
            return {"error": self.error}
        if self.sums:
            return dict(self.sums.result())
        return {"mismatch": self.unequal / self.elements if self.elements else None}


def _incomparable(r: Any, c: Any) -> str | None:
    if not isinstance(r, np.ndarray) or not isinstance(c, np.ndarray):
        return "not a tensor (a sequence, a map or an empty optional), so not compared"
    if r.shape != c.shape:
        return f"shape {list(r.shape)} of the original became {list(c.shape)}"
    if is_float(r.dtype) != is_float(c.dtype):
        return f"type {r.dtype.name} of the original became {c.dtype.name}"
    return None


class _Comparison:
    """What all outputs showed so far."""

    def __init__(self) -> None:
        self.outputs: dict[str, _Output] = {}
        self.overall = ErrorSums()
        self.class_output: str | None = None
        self.before: list[Array] = []
        self.after: list[Array] = []

    def add(self, reference: dict[str, Any], candidate: dict[str, Any]) -> None:
        names = [self.class_output] if self.outputs else list(reference)  # the first batch chooses
        for name, r in reference.items():
            self.outputs.setdefault(name, _Output()).add(r, candidate[name], self.overall)
        scored = ((n, class_scores(reference[n]), class_scores(candidate[n])) for n in names if n is not None)
        same = ((n, r, c) for n, r, c in scored if r is not None and c is not None and r.shape == c.shape)
        self.class_output, r, c = next(same, (None, None, None))
        if r is not None and c is not None:
            self.before.append(predictions(r))
            self.after.append(predictions(c))

    def result(self, data: Batches, feeds: Feeds) -> Result:
        scored = self.class_output is not None
        before, after = (np.concatenate(p) if scored else None for p in (self.before, self.after))
        return Result(
            outputs={name: output.result() for name, output in self.outputs.items()},
            overall=self.overall.result(),
            top1_agreement=None if before is None or after is None else agreement(before, after),
            class_output=self.class_output,
            accuracy=_accuracy(before, after, data.labels),
            inputs={name: {"dtype": x.dtype.name, "shape": list(x.shape)} for name, x in feeds.items()},
            dynamic_sizes=dict(data.sizes),
            samples=data.samples,
            dropped=data.dropped,
            data=data.source,
            nonfinite={"reference": self.overall.nonfinite_reference, "candidate": self.overall.nonfinite_candidate},
        )


def _accuracy(before: Array | None, after: Array | None, labels: Array | None) -> dict[str, float | None] | None:
    if labels is None:
        return None
    if before is None or after is None or before.shape != labels.shape:
        rows = (
            "no output looks like class scores [N, C]" if before is None else f"there are {before.size} rows of scores"
        )
        raise OnnxPruneError(
            f"the data hold {labels.size} labels, but {rows}; leave the labels out to compare outputs only"
        )
    return {"before": agreement(before, labels), "after": agreement(after, labels)}
