"""Real models in torch: their outputs against ONNX Runtime without optimizations, and gradients that are finite.

Where a model is ill-conditioned, its outputs may differ as far as those of ONNX Runtime do between its own levels of
optimization, or where every number that goes in moves by a rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from laws import Feeds, as_array, difference, run_ort
from onnx import ModelProto, TensorProto
from rounding import measure_noise
from test_zoo import SAMPLE, every_model, feeds, load, needs_zoo

from onnxprune.errors import OnnxPruneError

torch = pytest.importorskip("torch", reason="gradients need torch: pip install 'onnxprune[torch]'")
from onnxprune.gradients import Module  # noqa: E402

EXACT = 1e-4  # relative L2
STEPPED = 1e-5  # the same after a step
LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")


def run_optimized(proto: ModelProto, fed: Feeds, level: str) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [as_array(y) for y in session.run(None, dict(fed))]


def distance(want: Sequence[Any], got: Sequence[Any]) -> float:
    """The largest relative L2 distance of an output."""
    return max((difference(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(want, got, strict=True)),
               default=0.0)  # fmt: skip


def conditioning(proto: ModelProto, fed: Feeds, want: Sequence[Any]) -> float:
    levels = max(distance(want, run_optimized(proto, fed, level)) for level in LEVELS)
    noise = measure_noise(proto, [fed], run_ort, lambda a, b: distance([a], [b]))
    return max(levels, noise)


def check(name: str) -> None:
    proto = load(name)
    (fed, *_) = feeds(name, proto)
    want = run_ort(proto, [fed])[0]
    if not all(np.isfinite(y).all() for y in want if y.dtype.kind == "f"):
        pytest.skip("the original's outputs are not finite")
    module = Module(proto)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(OnnxPruneError):  # nothing of it may be remembered but the sizes
            module.predict({n: np.zeros_like(x) for n, x in fed.items()})
        error = distance(want, list(module.predict(fed).values()))
    assert error <= EXACT or error <= 3 * conditioning(proto, fed, want), error
    check_gradients(module, fed)
    check_step(module, fed, error)


def check_gradients(module: Any, fed: Feeds) -> None:
    outputs = [y for y in module(fed).values() if y.requires_grad]
    if not list(module.parameters()) or not outputs:  # integers alone, or classes
        return
    sum(y.square().mean() for y in outputs).backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert grads and all(bool(g.isfinite().all()) for g in grads)
    assert any(bool(g.any()) for g in grads)


def check_step(module: Any, fed: Feeds, error: float) -> None:
    """After a step of each weight by a thousandth of its length, the written file gives what torch gives.

    A weight that the file has in half precision is rounded there: such a file is read again.
    """
    with torch.no_grad():
        for p in module.parameters():
            if p.grad is not None and float(p.grad.norm()) > 0:  # that of the least numbers is 0
                p -= 1e-3 * p.norm() * p.grad / p.grad.norm()
    proto = module.to_onnx()
    halves = any(t.data_type == TensorProto.FLOAT16 for t in proto.graph.initializer)
    module = Module(proto) if halves else module
    want, got = run_ort(proto, [fed])[0], list(module.predict(fed).values())
    moved = distance(want, got)
    assert moved <= max(STEPPED, 3 * error) or moved <= 3 * conditioning(proto, fed, want), moved


def check_devices(name: str) -> None:
    """On torch's device without data every tensor of a run and of its gradient must be on one device, as on a GPU."""
    proto = load(name)
    (fed, *_) = feeds(name, proto)
    module = Module(proto).to("meta")
    try:
        outputs = [y for y in module(fed).values() if y.requires_grad]
    except OnnxPruneError as e:
        assert "item()" in str(e) or "nonzero" in str(e), e  # what depends on data has none
        return
    assert all(y.device.type == "meta" for y in outputs)
    if outputs:
        sum(y.mean() for y in outputs).backward()


@needs_zoo
@pytest.mark.parametrize("name", SAMPLE)
def test_devices(name: str) -> None:
    if name not in every_model():
        pytest.skip(f"the zoo has no '{name}'")
    check_devices(name)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", every_model())
def test_devices_of_every_model(name: str) -> None:
    check_devices(name)


@needs_zoo
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name: str) -> None:
    if name not in every_model():
        pytest.skip(f"the zoo has no '{name}'")
    check(name)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", every_model())
def test_every_model(name: str) -> None:
    check(name)
