"""ONNX's backend node tests as a list of operators in all their attribute forms.

Whatever the graph, the analysis comes back; where it finds groups, every prune of them gives a model that is valid,
runs, and has the original's inputs and outputs. The graphs have no weights, so their inputs are turned into
initializers, all but the first: then there is something to prune, and the laws are checked on it.
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from typing import Any

import numpy as np
import onnx
import pytest
from laws import Checker, run_ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import onnxprune
from onnxprune.errors import OnnxPruneError

Array = NDArray[Any]
LAWS = ("identity", "permutation", "removal", "shapes", "determinism")
RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@functools.cache
def node_tests() -> dict[str, TestCase]:
    """The tests by name. Making them takes seconds, so it is not done while pytest collects."""
    with redirect_stdout(io.StringIO()):
        return {t.name: t for t in sorted(load_model_tests(kind="node"), key=lambda t: t.name) if t.model is not None}


def read(test: TestCase) -> tuple[ModelProto, list[Array | None]]:
    """The model, and its first set of inputs (None where one is not a plain tensor)."""
    proto = test.model
    assert proto is not None and test.data_sets
    inputs = test.data_sets[0][0]
    return proto, [x if isinstance(x, np.ndarray) else np.asarray(x) if np.isscalar(x) else None for x in inputs]


def embed(proto: ModelProto, arrays: Sequence[Array | None], axis: int) -> tuple[ModelProto, dict[str, Array]] | None:
    """The graph between two products: its first float input comes from a layer, its first float output goes into one.

    All the other inputs become initializers. None where the graph has no such input or output. `axis` 1 or -1 is where
    both layers act.
    """
    graph, rng = proto.graph, np.random.default_rng(0)
    if not arrays or len(arrays) != len(graph.input) or any(a is None or not a.size for a in arrays):
        return None
    first, last, x = graph.input[0], graph.output[0].type.tensor_type, arrays[0]
    shape = [d.dim_value for d in last.shape.dim]
    if x is None or x.dtype != np.float32 or x.ndim < 2 or not 0 < len(shape) <= 8 or not all(shape):
        return None
    if last.elem_type != TensorProto.FLOAT or not any(o.version >= 12 for o in proto.opset_import if not o.domain):
        return None
    inits = [
        numpy_helper.from_array(a, v.name) for v, a in zip(graph.input[1:], arrays[1:], strict=True) if a is not None
    ]

    def product(
        source: str, weight: str, dims: list[int], to: str, size: int | None
    ) -> tuple[onnx.NodeProto, list[int]]:
        at = axis % len(dims) if len(dims) > 1 else 0
        letters = "abcdefgh"[: len(dims)]
        size = dims[at] if size is None else size
        w = rng.standard_normal((dims[at], size)) * dims[at] ** -0.5
        inits.append(numpy_helper.from_array(w.astype(np.float32), weight))
        equation = f"{letters},{letters[at]}z->{letters.replace(letters[at], 'z')}"
        return helper.make_node("Einsum", [source, weight], [to], equation=equation), [
            *dims[:at],
            size,
            *dims[at + 1 :],
        ]

    before, dims = product("source", "made_by", list(x.shape), first.name, None)
    after, result = product(graph.output[0].name, "used_by", shape, "result", 2)
    new = ModelProto()
    new.CopyFrom(proto)
    del new.graph.input[:], new.graph.output[:], new.graph.node[:]
    new.graph.input.append(helper.make_tensor_value_info("source", TensorProto.FLOAT, dims))
    new.graph.output.append(helper.make_tensor_value_info("result", TensorProto.FLOAT, result))
    new.graph.initializer.extend(inits)
    new.graph.node.extend([before, *graph.node, after])
    return new, {"source": rng.standard_normal(dims).astype(np.float32)}


def analyze(name: str) -> None:
    """Any form of any operator: an analysis, or a refusal that names the cause; and an empty plan changes nothing."""
    proto, _ = read(node_tests()[name])
    try:
        model = onnxprune.load(proto)
    except OnnxPruneError as e:
        assert "not valid ONNX" in str(e), e
        with pytest.raises(onnx.checker.ValidationError):
            onnx.checker.check_model(proto)
        return
    analysis = onnxprune.analyze(model)
    small = onnxprune.apply(analysis, onnxprune.plan(analysis, ratio=0.5, criterion="random"))
    assert small.proto.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def laws(name: str) -> str:
    """Embed the graph between two layers and check the laws; returns what became of it."""
    outcomes = {_laws(name, axis) for axis in (1, -1)}
    return next(o for o in ("checked", "frozen", "not run", "not embedded") if o in outcomes)


def _laws(name: str, axis: int) -> str:
    embedded = embed(*read(node_tests()[name]), axis)
    if embedded is None or RANDOM & {n.op_type for n in embedded[0].graph.node}:
        return "not embedded"
    proto, feeds = embedded
    try:
        run_ort(proto, [feeds])
    except Exception:  # ONNX Runtime cannot run the original
        return "not run"
    checker = Checker(proto, [feeds])
    if not checker.groups:
        return "frozen"
    finite = all(np.isfinite(y).all() for y in checker.reference[0] if y.dtype.kind == "f")
    for law in LAWS if finite else ("identity", "shapes", "determinism"):
        try:
            getattr(checker, law)()
        except AssertionError as e:
            raise AssertionError(f"{name}, axis {axis}: {e}") from e
    return "checked"


SHARDS, SAMPLED = 8, 5  # the fast tests take one node test of five, in eight parts


def broken(names: Sequence[str], check: Callable[[str], object]) -> list[str]:
    out = []
    for name in names:
        try:
            check(name)
        except Exception as e:
            out.append(str(e) if isinstance(e, AssertionError) else f"{name}: {type(e).__name__} {e}")
    return out


@pytest.mark.parametrize("shard", range(SHARDS))
def test_sample(shard: int) -> None:
    names = list(node_tests())[::SAMPLED][shard::SHARDS]
    wrong = broken(names, analyze) + broken(names, laws)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_all(shard: int) -> None:
    names = list(node_tests())[shard::SHARDS]
    wrong = broken(names, analyze) + broken(names, laws)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_enough_is_checked() -> None:
    """The embedding finds groups in many of the graphs: the laws above are not checked on nothing."""
    outcomes: Counter[str] = Counter()
    for name in node_tests():
        with suppress(AssertionError):
            outcomes[laws(name)] += 1
    assert outcomes["checked"] >= 400, outcomes
