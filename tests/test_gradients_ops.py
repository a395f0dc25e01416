"""Every operator in torch: values against ONNX's node tests and ONNX Runtime, gradients against finite differences.

The table is enumerated: an entry that no node test, case or test of its own here reaches is a failure.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import cases  # noqa: F401  (registers every case)
import numpy as np
import onnx
import pytest
from cases.base import CASES, Built, CaseOf
from hypothesis import HealthCheck, Phase, given, settings
from laws import run_ort, run_reference
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from test_backend_nodes import node_tests

from onnxprune.errors import OnnxPruneError

torch = pytest.importorskip("torch", reason="gradients need torch: pip install 'onnxprune[torch]'")
from onnxprune.gradients import Module, unsupported  # noqa: E402
from onnxprune.gradients.operators import TABLE  # noqa: E402
from onnxprune.gradients.ops import load_table  # noqa: E402

load_table()
Key = tuple[str, str]
SHARDS = 6
WITHOUT_ENTRY = {  # operators of the node tests and cases that torch has no form of here, and why
    "TfIdfVectorizer StringSplit StringNormalizer StringConcat RegexFullMatch LabelEncoder CategoryMapper": "strings",
    "ImageDecoder": "it reads compressed pictures",
    "FlexAttention Adagrad Adam Momentum": "previews that ONNX Runtime does not have",
    "TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor SVMClassifier SVMRegressor": "no layers to train",
    "Binarizer ArrayFeatureExtractor Scaler Imputer Normalizer FeatureVectorizer LinearClassifier LinearRegressor":
        "classic machine learning on tables",
    "BitCast": "it has no gradient, and reads a number's bits",
    "SequenceMap Scan": "a body that is not laid out in one line (of Scan: opset 8)",
    "QMoE MatMulBnb4 GatherBlockQuantized QEmbedLayerNormalization DynamicQuantizeLSTM": "weights of integers alone",
}  # fmt: skip
NO_ENTRY = {op for names in WITHOUT_ENTRY for op in names.split()}
OTHER_VALUES = {  # node tests whose values are not ours, and why
    "test_bernoulli": "random",
    "test_training_dropout": "a module computes what the network does at inference",
    "test_cast_e8m0": "a type of powers of two, with rounding modes",
}
OTHER_GRADIENTS = {  # operators whose gradient is not that of their value, and why
    "QuantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul": "rounding is straight through",
    "Cast CastLike": "rounding to a narrow type is straight through",
    "Bernoulli": "random",
    "RoiAlign": "regions are where to look, which has no gradient here",
}
STEPS = {op for names in OTHER_GRADIENTS for op in names.split()}
OWN = {("", op) for op in ("MemcpyFromHost", "MemcpyToHost", "SpatialBN", "Optional")}  # tested in this file alone


def key_of(node: onnx.NodeProto) -> Key:
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


def names(shard: int) -> list[str]:
    return list(node_tests())[shard::SHARDS]


def value_of(x: Any) -> Any:
    return numpy_helper.to_array(x) if isinstance(x, TensorProto) else x


def collect(items: Iterable[Any], check: Callable[[Any], object]) -> list[str]:
    """What is wrong with each of them."""
    wrong = []
    for item in items:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(item)
        except Exception as e:
            wrong.append(f"{getattr(item, 'name', item)}: {type(e).__name__} {str(e)[:400]}")
    return wrong


def is_excused(proto: ModelProto) -> bool:
    """Does an operator that is listed above stand in the way? No other may."""
    missing = {text.split()[0] for text in unsupported(proto)}
    assert missing <= NO_ENTRY, missing - NO_ENTRY
    return bool(missing)


def has_strings(proto: ModelProto) -> bool:
    return any(v.type.tensor_type.elem_type == TensorProto.STRING for v in (*proto.graph.input, *proto.graph.output))


# Values


def check_node_test(name: str) -> None:
    test = node_tests()[name]
    proto: Any = test.model
    if any(name.startswith(prefix) for prefix in OTHER_VALUES) or is_excused(proto):
        return
    if has_strings(proto):
        with pytest.raises(OnnxPruneError, match=r"strings|STRING"):
            run_node_test(test)
        return
    for wants, outputs in run_node_test(test):
        for want, got in zip(wants, outputs, strict=False):  # the last outputs may be left out of the data
            compare(want, got)


def run_node_test(test: TestCase) -> list[tuple[list[Any], list[Any]]]:
    proto: Any = test.model
    module = Module(proto, trainable=())
    results = []
    for inputs, outputs in test.data_sets or ():
        feeds = {v.name: value_of(x) for v, x in zip(proto.graph.input, inputs, strict=True)}
        with suppress(OnnxPruneError):  # other numbers first: nothing of them may be taken for a fact of the sizes
            module.predict({n: np.zeros_like(x) if isinstance(x, np.ndarray) else x for n, x in feeds.items()})
        results.append(([value_of(y) for y in outputs], list(module.predict(feeds).values())))
    return results


def compare(want: Any, got: Any) -> None:
    if isinstance(want, list):
        assert len(want) == len(got)
        for a, b in zip(want, got, strict=True):
            compare(a, b)
        return
    want, got = np.asarray(want), np.asarray(got)
    assert (want.shape, want.dtype) == (got.shape, got.dtype)
    rough = {"float16": 2e-3, "bfloat16": 2e-2}.get(want.dtype.name, 1e-3)  # ONNX's own; some data have four digits
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=rough, atol=rough / 100)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_values_of_node_tests(shard: int) -> None:
    wrong = collect(names(shard), check_node_test)
    assert not wrong, "\n".join(wrong)


CHECKED = [c for c in CASES if c.op[1] not in NO_ENTRY]
RANDOM = ("Random", "Multinomial", "Bernoulli")


def check_case(case: CaseOf, examples: int) -> None:
    @settings(max_examples=examples, database=None, deadline=None, phases=[Phase.generate], derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case.strategy())
    def check(built: Built) -> None:
        if not is_excused(built.proto):
            check_built(case, built)

    check()


def check_built(case: CaseOf, built: Built) -> None:
    """All values of the case's outputs, at both sizes; quantized ones may be one step apart."""
    module = Module(built.proto, trainable=())
    rounds = case.op[1].startswith("Q") or any(n.op_type.startswith("QLinear") for n in built.proto.graph.node)
    halves = {t.data_type for t in built.proto.graph.initializer} & {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    tolerance = 0.1 if rounds else 0.02 if halves else max(built.tolerance or 0, 1e-4)
    run = run_reference if case.reference else run_ort
    for feeds, want in zip(built.feeds, run(observed(built.proto), built.feeds), strict=True):
        for a, (name, b) in zip(want, module.predict(feeds).items(), strict=False):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert a.shape == b.shape, name
            error = np.abs(a - b).max() / max(np.abs(a).max(), 1e-6) if a.size else 0
            assert error <= tolerance, (name, error, built.drawn)


def observed(proto: ModelProto) -> ModelProto:
    """With the inputs of MoE as outputs: ONNX Runtime 1.31 computes something else where it may write over them."""
    held = [n.input[0] for n in proto.graph.node if n.op_type == "MoE"]
    copy = ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in held)
    return copy


@pytest.mark.parametrize("shard", range(SHARDS))
def test_values_of_cases(shard: int) -> None:
    wrong = collect(CHECKED[shard::SHARDS], lambda case: check_case(case, 1))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_values_of_more_cases(shard: int) -> None:
    wrong = collect(CHECKED[shard::SHARDS], lambda case: check_case(case, 8))
    assert not wrong, "\n".join(wrong)


def test_every_entry_is_exercised() -> None:
    """By a node test whose values are compared, by a case, or by a test of its own."""
    reached = {case.op for case in CHECKED} | OWN
    for name, test in node_tests().items():
        if test.model is not None and not any(name.startswith(prefix) for prefix in OTHER_VALUES):
            reached |= set() if has_strings(test.model) else {key_of(n) for n in test.model.graph.node}
    missing = sorted(set(TABLE) - reached)
    assert not missing, missing


def test_what_is_excused_is_not_there() -> None:
    assert not {op for _, op in TABLE if op in NO_ENTRY - {"Scan"}}


def test_operators_that_no_runtime_here_has() -> None:
    """Copies between devices are none, an optional value is the value, and SpatialBN is an old name."""
    x = torch.arange(3.0)
    for op in ("MemcpyFromHost", "MemcpyToHost", "Optional"):
        (entry,) = TABLE["", op]
        assert entry.run(None, x) is x
    assert TABLE["", "SpatialBN"][0].run is TABLE["", "BatchNormalization"][0].run


# Gradients

RNG = torch.Generator()


@functools.cache
def differentiable(name: str) -> bool:
    test = node_tests()[name]
    ops = {n.op_type for n in test.model.graph.node}
    plain = not any(name.startswith(prefix) for prefix in OTHER_VALUES) and not ops & STEPS
    return plain and not name.endswith("_expanded") and not is_excused(test.model) and not has_strings(test.model)


def check_gradient(name: str) -> None:
    """The gradient of a weighted sum of the outputs along random directions, in float64, against central differences."""
    proto: Any = node_tests()[name].model
    if not differentiable(name):
        return
    feeds = movable_feeds(node_tests()[name])
    moving = [x for x in feeds.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    module = Module(proto, trainable=()).double()
    if moving:
        compare_gradients(lambda: module(feeds).values(), moving)


def movable_feeds(test: TestCase) -> dict[str, Any]:
    """The inputs of a node test; floats that its entry does not read as numbers are moved off their kinks, and may vary."""
    proto: Any = test.model
    RNG.manual_seed(0)
    fixed = host_inputs(proto)
    feeds: dict[str, Any] = {}
    for value, x in zip(proto.graph.input, test.data_sets[0][0], strict=True):  # type: ignore[index]
        x = value_of(x)
        if isinstance(x, np.ndarray) and x.size and x.dtype in (np.float32, np.float64):
            x = torch.tensor(x, dtype=torch.float64)
            if value.name not in fixed and bool(x.isfinite().all()):
                x = (x + 1e-3 * torch.rand(x.shape, generator=RNG, dtype=torch.float64)).requires_grad_()
        feeds[value.name] = x
    return feeds


def host_inputs(proto: ModelProto) -> set[str]:
    found = set()
    for node in proto.graph.node:
        for entry in TABLE.get(key_of(node), ()):
            found |= {x for i, x in enumerate(node.input) if i in entry.host}
    return found


def compare_gradients(run: Callable[[], Iterable[Any]], moving: Sequence[Any], step: float = 1e-6) -> None:
    def outputs() -> list[Any]:
        found = [y for y in run() if isinstance(y, torch.Tensor) and y.is_floating_point()]
        return [torch.where(y.isfinite(), y, torch.zeros_like(y)) for y in found]

    made = outputs()
    weights = [torch.randn(y.shape, generator=RNG, dtype=torch.float64) for y in made]

    def loss(ys: Sequence[Any]) -> Any:
        return sum((w * y).sum() for w, y in zip(weights, ys, strict=True))

    total = loss(made)
    if isinstance(total, int) or not total.requires_grad:
        return
    got = torch.autograd.grad(total, list(moving), allow_unused=True)
    for x, grad in zip(moving, got, strict=True):
        along = torch.randn(x.shape, generator=RNG, dtype=torch.float64)
        ends = []
        with torch.no_grad():
            for move in (step, -2 * step, step):
                x += move * along
                ends.append(loss(outputs()).item())
        want = (ends[0] - ends[1]) / (2 * step)
        exact = 0.0 if grad is None else (grad * along).sum().item()
        assert exact == pytest.approx(want, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_gradients_of_node_tests(shard: int) -> None:
    wrong = collect(names(shard), check_gradient)
    assert not wrong, "\n".join(wrong)


def check_case_gradient(case: CaseOf) -> None:
    """The same for the weights and inputs of a case of an operator that ONNX itself has no node test of."""

    @settings(max_examples=1, database=None, deadline=None, phases=[Phase.generate], derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case.strategy())
    def check(built: Built) -> None:
        RNG.manual_seed(0)
        if any(n.op_type in STEPS or n.op_type.startswith("Q") for n in built.proto.graph.node):
            return
        module = Module(built.proto).double()
        feeds = {n: torch.tensor(x.astype(np.float64)) if x.dtype.kind == "f" else x for n, x in built.feeds[0].items()}
        moving = list(module.parameters())
        if moving:
            compare_gradients(lambda: module(feeds).values(), moving)

    check()


STRAIGHT = ("Q", "DynamicQuantize", "MatMulInteger", "ConvInteger", "MatMulNBits", *RANDOM)
WITH_WEIGHTS = [c for c in CHECKED if c.op[0] and not c.op[1].startswith(STRAIGHT)] + [
    c
    for c in CHECKED
    if c.op[1] in ("LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Conv", "ConvTranspose", "Gemm", "MatMul")
]


def test_gradients_of_cases() -> None:
    wrong = collect(WITH_WEIGHTS, check_case_gradient)
    assert not wrong, "\n".join(wrong)


# Straight through


def run_quantizer(x: Any) -> Any:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    weights = {"scale": np.float32(0.5), "zero": np.uint8(10)}
    infos = [helper.make_tensor_value_info(n, 1, [None]) for n in "xy"]
    inits = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Module(proto)({"x": x})["y"]


def test_rounding_is_straight_through_within_the_range() -> None:
    """Codes are 10 + 2 x within 0 and 255: the gradient is 1 inside, and 0 where the code is cut."""
    x = torch.tensor([-6.0, -4.9, 0.2, 0.3, 122.0, 123.0], requires_grad=True)
    y = run_quantizer(x)
    y.sum().backward()
    assert y.tolist() == [-5.0, -5.0, 0.0, 0.5, 122.0, 122.5]
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_weight_behind_a_quantizer_is_trained() -> None:
    w = np.array([[0.3], [0.6]], np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    inits = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.float32(0.25), "scale")]
    infos = [helper.make_tensor_value_info("x", 1, [None, 2]), helper.make_tensor_value_info("y", 1, [None, 1])]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    module = Module(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    y = module({"x": np.array([[1, 2]], np.float32)})["y"]
    y.sum().backward()
    assert y.item() == 0.25 + 2 * 0.5 and [*module.named_weights()] == ["w"]
    assert module.named_weights()["w"].grad.tolist() == [[1.0], [2.0]]


def test_statistics_that_the_graph_computes_get_gradients() -> None:
    """Weight standardization: BatchNormalization whose mean and variance depend on what is trained."""
    nodes = [
        helper.make_node("ReduceMean", ["w"], ["mean"], axes=[0], keepdims=0),
        helper.make_node("Mul", ["mean", "mean"], ["var"]),
        helper.make_node("BatchNormalization", ["x", "one", "zero", "mean", "var"], ["y"]),
    ]
    values: Mapping[str, Any] = {"w": [[1.0, 2.0], [3.0, 5.0]], "one": [1.0, 1.0], "zero": [0.0, 0.0]}
    inits = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in values.items()]
    infos = [helper.make_tensor_value_info(n, 1, [None, 2]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    module = Module(proto, trainable=["w"]).double()
    x = torch.randn(3, 2, generator=RNG, dtype=torch.float64)
    compare_gradients(lambda: module({"x": x}).values(), list(module.parameters()))
