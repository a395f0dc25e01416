"""A model as a torch module: nothing is lost on the way there and back, and training it works."""

from __future__ import annotations

import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from laws import run_ort
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import onnxprune
from onnxprune import gradients
from onnxprune.errors import OnnxPruneError
from onnxprune.gradients import trainable_weights

torch = pytest.importorskip("torch", reason="gradients need torch: pip install 'onnxprune[torch]'")
from onnxprune.gradients import Module, unsupported  # noqa: E402

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
NAMES = ["digits_cnn", "digits_resnet", "digits_vit"]
IMAGES = np.load(MODELS / "digits_test.npz")["image"]


def same_bytes(a: ModelProto, b: ModelProto) -> bool:
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def arrays(proto: ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def make(text: str, **weights: Any) -> ModelProto:
    """A model in onnx's text form, with those initializers."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items())
    return proto


def test_import_does_not_import_torch() -> None:
    code = "import sys, onnxprune, onnxprune.gradients; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_values_and_round_trip(name: str, tmp_path: Path) -> None:
    proto = onnx.load(MODELS / f"{name}.onnx")
    module = Module(MODELS / f"{name}.onnx")
    want = run_ort(proto, [{"image": IMAGES[:8]}])[0][0]
    np.testing.assert_allclose(module.predict({"image": IMAGES[:8]})["logits"], want, atol=1e-5)
    assert same_bytes(module.to_onnx(), proto)
    ours, plain = tmp_path / "module.onnx", tmp_path / "plain.onnx"
    module.save(ours)
    onnxprune.save(onnxprune.load(MODELS / f"{name}.onnx"), plain)
    assert ours.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_only_the_changed_weight_differs(name: str) -> None:
    proto = onnx.load(MODELS / f"{name}.onnx")
    module = Module(proto)
    changed = sorted(module.named_weights())[0]
    with torch.no_grad():
        module.named_weights()[changed].add_(1)
    new = module.to_onnx()
    before, after = arrays(proto), arrays(new)
    assert [n for n in before if not np.array_equal(before[n], after[n])] == [changed]
    for tensor in (*proto.graph.initializer, *new.graph.initializer):
        if tensor.name == changed:
            tensor.Clear()
    assert same_bytes(new, proto)


@pytest.mark.parametrize("name", NAMES)
def test_after_a_step_onnxruntime_equals_torch(name: str) -> None:
    module = Module(MODELS / f"{name}.onnx")
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    module({"image": IMAGES[:16]})["logits"].square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
    optimizer.step()
    want = run_ort(module.to_onnx(), [{"image": IMAGES[:16]}])[0][0]
    got = module.predict({"image": IMAGES[:16]})["logits"]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_fine_tuning_as_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the page on training, on a network that was pruned without repair."""
    page = (ROOT / "onnxprune" / "docs" / "train.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from onnxprune\.gradients import Module.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small = onnxprune.prune(MODELS / "digits_cnn.onnx", ratio=0.5, criterion="random", repair="none").model
    onnxprune.save(small, "pruned.onnx")
    data = np.load(MODELS / "digits_test.npz")
    torch.manual_seed(0)
    before = accuracy("pruned.onnx", data)
    exec(code, {"images": data["image"][:300], "labels": data["labels"][:300]})
    after = accuracy("tuned.onnx", data)
    assert before < 0.7 and after > before + 0.2 and after > 0.85, (before, after)


def accuracy(path: str, data: Any) -> float:
    """The share of right answers on the images that training did not see."""
    logits = run_ort(onnx.load(path), [{"image": data["image"][300:]}])[0][0]
    return float((logits.argmax(1) == data["labels"][300:]).mean())


def test_trainable_are_weights_of_layers_alone() -> None:
    cnn, vit = (onnx.load(MODELS / f"{n}.onnx") for n in ("digits_cnn", "digits_vit"))
    statistics = {i for n in cnn.graph.node if n.op_type == "BatchNormalization" for i in n.input[3:]}
    assert statistics and set(trainable_weights(cnn)) == set(arrays(cnn)) - statistics
    floats = {n for n, a in arrays(vit).items() if a.dtype == np.float32 and a.size > 1}
    left = floats - set(trainable_weights(vit))
    assert len(left) <= 2 and all(arrays(vit)[n].ndim == 3 for n in left), left  # class token, position table


def test_what_is_no_weight_is_not_trained() -> None:
    positions = np.arange(16)[:, None] / 10.0 ** np.arange(4)
    proto = make(
        """g (int64[n] ids, float[n, 4] x) => (float[n, 4] y) {
          words = Gather(table, ids)
          turn = Gather(sines, ids)
          a = Mul(words, turn)
          whole = MatMul(x, w)
          half = Cast<to=1>(v)
          vt = Transpose(half)
          more = MatMul(whole, vt)
          biased = Add(more, bias)
          scaled = Mul(biased, scale)
          kept = Mul(m, mask)
          c = MatMul(scaled, kept)
          y = Add(a, c)
        }""",
        table=np.ones((16, 4), np.float32), sines=np.cos(positions).astype(np.float32), w=np.ones((4, 4), np.float32),
        v=np.ones((4, 4), np.float16), bias=np.ones(4, np.float32), scale=np.ones(4, np.float32),
        m=np.full((4, 4), 2, np.float32), mask=np.eye(4, dtype=np.float32),
    )  # fmt: skip
    assert trainable_weights(proto) == ["table", "w", "v", "bias", "m"]
    assert sorted(Module(proto).named_weights()) == ["bias", "m", "table", "v", "w"]
    assert set(Module(proto, trainable="all").named_weights()) == {t.name for t in proto.graph.initializer}
    assert [*Module(proto, trainable=["scale"]).named_weights()] == ["scale"]
    with pytest.raises(OnnxPruneError, match="no initializer"):
        Module(proto, trainable=["ids"])


def test_norms_that_are_written_out_are_trained() -> None:
    """RMSNorm and LayerNorm in single operators: their scale and shift, not what else is multiplied or added."""
    vectors = dict.fromkeys(("gamma", "scale", "shift", "gate", "place"), np.ones(4, np.float32))
    proto = make(
        """g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y) {
          square = Mul(x, x)
          power = ReduceMean<keepdims = 1>(square, last)
          safe = Add(power, epsilon)
          root = Sqrt(safe)
          rms = Div(x, root)
          a = Mul(rms, gamma)
          mean = ReduceMean<keepdims = 1>(z, last)
          d = Sub(z, mean)
          square2 = Pow(d, two)
          var = ReduceMean<keepdims = 1>(square2, last)
          safe2 = Add(var, epsilon)
          root2 = Sqrt(safe2)
          normed = Div(d, root2)
          scaled = Mul(scale, normed)
          b = Add(scaled, shift)
          c = Add(a, b)
          open = Sigmoid(c)
          silu = Mul(c, open)
          gated = Mul(silu, gate)
          y = Add(gated, place)
        }""",
        last=np.array([-1]), epsilon=np.float32(1e-5), two=np.float32(2), **vectors,
    )  # fmt: skip
    assert trainable_weights(proto) == ["gamma", "scale", "shift"]


def test_shared_weights_are_one_parameter_and_get_both_gradients() -> None:
    text = "g (int64[n] ids) => (float[n, 5] y) { e = Gather(table, ids) t = Transpose(table) y = MatMul(e, t) }"
    module = Module(make(text, table=np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)))
    (table,) = module.parameters()
    module({"ids": np.array([1])})["y"][0, 2].backward()
    assert torch.equal(table.grad[1], table[2]) and torch.equal(table.grad[2], table[1])


def test_half_floats_are_trained_in_float32_and_rounded_when_written() -> None:
    w = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float16)
    proto = make("g (float16[n, 3] x) => (float16[n, 2] y) { y = MatMul(x, w) }", w=w)
    proto.graph.node[0].input[1] = proto.graph.initializer[0].name = "w.a"  # torch allows no dot in a parameter's name
    module = Module(proto)
    (parameter,) = module.parameters()
    assert parameter.dtype == torch.float32 and same_bytes(module.to_onnx(), proto)
    with torch.no_grad():
        parameter += 1e-6
        assert same_bytes(module.to_onnx(), proto)  # less than half a step of float16
        parameter += 1
    assert np.array_equal(arrays(module.to_onnx())["w.a"], parameter.detach().numpy().astype(np.float16))
    assert module.predict({"x": np.ones((1, 3), np.float16)})["y"].dtype == np.float16


def quantized_model(form: str) -> ModelProto:
    """x [n, 3] times int8 weights [3, 2] with a scale for each column: behind a dequantizer, or inside QLinearMatMul."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-90, 90, (3, 2)).astype(np.int8), "ws": np.array([0.02, 0.05], np.float32),
        "wz": np.array([0, 0], np.int8), "s": np.float32(0.1), "z": np.uint8(128),
    }  # fmt: skip
    if form == "dequantized":
        body = "d = DequantizeLinear<axis = 1>(w, ws, wz) y = MatMul(x, d)"
    else:
        body = "q = QuantizeLinear(x, s, z) p = QLinearMatMul(q, s, z, w, ws, wz, s, z) y = DequantizeLinear(p, s, z)"
    return make(f"g (float[n, 3] x) => (float[n, 2] y) {{ {body} }}", **weights)


@pytest.mark.parametrize("form", ["dequantized", "integer product"])
def test_integers_are_trained_as_the_numbers_they_stand_for(form: str) -> None:
    proto = quantized_model(form)
    module, before = Module(proto), arrays(proto)
    (w,) = module.parameters()
    np.testing.assert_allclose(w.detach(), before["w"] * before["ws"], rtol=1e-6)
    assert [*module.named_weights()] == ["w"] and same_bytes(module.to_onnx(), proto)
    x = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    module({"x": x})["y"].square().mean().backward()
    assert bool(w.grad.all())
    with torch.no_grad():
        w -= 0.3 * w.grad
    new = module.to_onnx()
    after = arrays(new)
    assert (after["w"] != before["w"]).any() and [n for n in before if not np.array_equal(before[n], after[n])] == ["w"]
    assert np.array_equal(after["w"], np.clip(np.rint(w.detach().numpy() / before["ws"]), -128, 127))
    np.testing.assert_allclose(module.predict({"x": x})["y"], run_ort(new, [{"x": x}])[0][0], atol=1e-5)


def test_constants_bodies_and_functions_are_trained_and_written_back() -> None:
    """A weight may be a Constant node, belong to a branch, or stand in a local function."""
    w = numpy_helper.from_array(np.eye(3, dtype=np.float32) * 2, "w")
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", f"{n}_w"], [f"{n}_y"])], n,
            [], [helper.make_tensor_value_info(f"{n}_y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.eye(3, dtype=np.float32) * k, f"{n}_w")],
        )
        for k, n in enumerate(("no", "yes"), start=3)
    ]  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["w"], value=w),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("If", ["flag"], ["b"], else_branch=branches[0], then_branch=branches[1]),
        helper.make_node("Layer", ["b"], ["c"], domain="local"),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    layer = helper.make_function(
        "local", "Layer", ["i"], ["o"],
        [helper.make_node("Constant", [], ["f"], value=w), helper.make_node("MatMul", ["i", "f"], ["o"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    infos = [helper.make_tensor_value_info("x", 1, ["n", 3]), helper.make_tensor_value_info("flag", 9, [])]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", 1, ["n", 3])])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    proto = helper.make_model(graph, opset_imports=imports, functions=[layer], ir_version=10)
    module, feeds = Module(proto), {"x": np.ones((2, 3), np.float32), "flag": np.array(True)}
    assert len(module.named_weights()) == 4 and same_bytes(module.to_onnx(), proto)
    np.testing.assert_allclose(module.predict(feeds)["y"], 2 + 4 * 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 3
    np.testing.assert_allclose(module.predict(feeds)["y"], 6 + 12 * 6)
    np.testing.assert_allclose(run_ort(module.to_onnx(), [feeds])[0][0], 6 + 12 * 6)


def test_large_models_keep_their_data_file(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto = make("g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=w)
    onnx.save(proto, tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    module = Module(tmp_path / "a.onnx")
    with torch.no_grad():
        module.named_weights()["w"].mul_(2)
    written = module.save(tmp_path / "b.onnx")
    assert len(written) == 2 and np.array_equal(arrays(onnx.load(tmp_path / "b.onnx"))["w"], 2 * w)


def test_inner_values_can_be_asked_for() -> None:
    module = Module(MODELS / "digits_cnn.onnx")
    node = next(n for n in module.model.proto.graph.node if n.op_type == "Conv")
    found = module.run({"image": IMAGES[:2]}, [node.output[0], "logits"])
    assert list(found) == [node.output[0], "logits"] and found[node.output[0]].shape[:2] == (2, 32)
    (grad,) = torch.autograd.grad(found["logits"].sum(), found[node.output[0]])
    assert bool(grad.abs().sum() > 0)
    with pytest.raises(OnnxPruneError, match="no value named"):
        module.run({"image": IMAGES[:2]}, ["nowhere"])


def test_copies_have_weights_of_their_own() -> None:
    module = Module(MODELS / "digits_cnn.onnx").double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 1.5
    copy = deepcopy(module)
    want = module.predict({"image": IMAGES[:2]})["logits"]
    assert np.array_equal(copy.predict({"image": IMAGES[:2]})["logits"], want)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    copy.float()
    np.testing.assert_allclose(copy.predict({"image": IMAGES[:2]})["logits"], want, rtol=1e-4, atol=1e-4)
    assert not module.predict({"image": IMAGES[:2]})["logits"].any()


def test_what_depends_on_sizes_is_computed_once_for_each() -> None:
    """Shape arithmetic is left out of later runs; what numbers decide is not."""
    text = """g (float[n, m] x) => (float[k] y, int64[2] s) {
      shape = Shape(x)
      one = Constant<value = int64[1] {1}>()
      rows = Gather<axis = 0>(shape, one)
      ones = ConstantOfShape(rows)
      found = NonZero(x)
      count = Shape(found)
      wide = Expand(ones, rows)
      sum = ReduceSum<keepdims = 0>(x)
      y = Add(wide, sum)
      s = Identity(count)
    }"""
    module, rng = Module(make(text)), np.random.default_rng(0)
    for shape in ((2, 3), (4, 5), (2, 3), (2, 3)):
        x = np.maximum(rng.standard_normal(shape), 0).astype(np.float32)
        found = module.predict({"x": x})
        np.testing.assert_allclose(found["y"], np.full(shape[1], x.sum()), rtol=1e-6)
        assert found["s"].tolist() == [2, np.count_nonzero(x)]
    (plan,) = module.program._plans.values()
    assert len(plan.seen) == 2 and {s.node.op_type for s in plan.steps} - {s.node.op_type for s in plan.rest} == {
        "Gather", "ConstantOfShape", "Expand",
    }  # fmt: skip


def test_frozen_filters_are_laid_out_for_speed_where_no_gradient_is_wanted() -> None:
    frozen, trained = Module(MODELS / "digits_cnn.onnx", trainable=()), Module(MODELS / "digits_cnn.onnx")
    want = trained({"image": IMAGES[:4]})["logits"].detach()
    x = torch.tensor(IMAGES[:4], requires_grad=True)
    for _ in range(2):
        np.testing.assert_allclose(frozen.predict({"image": IMAGES[:4]})["logits"], want, atol=1e-5)
        torch.testing.assert_close(frozen({"image": x})["logits"], want, atol=1e-5, rtol=1e-5)
    assert frozen.program._placed and not trained.program._placed
    filters = [x for x in frozen.program._placed.values() if x.shape[2] > 1 < x.shape[1]]
    assert all(not f.is_contiguous() and f.is_contiguous(memory_format=torch.channels_last) for f in filters)


def test_inputs_are_checked_and_may_need_gradients() -> None:
    module = Module(MODELS / "digits_cnn.onnx", trainable=())
    assert not list(module.parameters())
    x = torch.tensor(IMAGES[:2], requires_grad=True)
    module(image=x)["logits"].sum().backward()
    assert bool(x.grad.isfinite().all()) and bool(x.grad.abs().sum() > 0)
    for feeds, message in (({}, "missing"), ({"image": x, "other": x}, "no input")):
        with pytest.raises(OnnxPruneError, match=message):
            module(feeds)
    with pytest.raises(OnnxPruneError, match=r"(?s)'.*opset 17.*\[2, 3, 8, 8\]"):
        module({"image": np.zeros((2, 3, 8, 8), np.float32)})


def test_an_unknown_operator_is_named_before_anything_runs() -> None:
    proto = make("g (float[n] x) => (float[n] y) { a = com.microsoft.Unheard(x) y = Relu(a) }")
    assert unsupported(proto) == ["Unheard of com.microsoft 1 (node 'a')"]
    with pytest.raises(OnnxPruneError, match=r"Unheard of com\.microsoft 1"):
        Module(proto)


def test_gradients_equal_finite_differences_of_a_whole_network() -> None:
    module = Module(MODELS / "digits_vit.onnx").double()
    feeds = {"image": torch.tensor(IMAGES[:2], dtype=torch.float64, requires_grad=True)}
    loss = module(feeds)["logits"].square().sum()
    weights = dict(list(module.named_weights().items())[::5])
    got = torch.autograd.grad(loss, [feeds["image"], *weights.values()])
    rng = torch.Generator().manual_seed(0)
    for x, grad in zip([feeds["image"], *weights.values()], got, strict=True):
        direction = torch.randn(x.shape, generator=rng, dtype=torch.float64)
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                x += step * direction
                ends.append(module(feeds)["logits"].square().sum().item())
                x -= step * direction
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((grad * direction).sum().item(), rel=1e-5, abs=1e-6)


def test_bfloat16_and_devices() -> None:
    module = Module(MODELS / "digits_cnn.onnx", device="auto", precision="bfloat16")
    logits = module({"image": IMAGES[:64]})["logits"]
    want = Module(MODELS / "digits_cnn.onnx")({"image": IMAGES[:64]})["logits"]
    assert logits.dtype == torch.bfloat16 or (logits - want.to(logits.device)).abs().max() > 0
    assert (logits.float().cpu().argmax(1) == want.argmax(1)).float().mean() > 0.9
    if not torch.cuda.is_available():
        with pytest.raises(OnnxPruneError, match="no GPU"):
            Module(MODELS / "digits_cnn.onnx", device="cuda")


@pytest.mark.parametrize("name", NAMES)
def test_a_module_moves_as_a_whole(name: str) -> None:
    """torch's device without data stands in for a GPU: nothing of a run may stay behind on the CPU but shapes."""
    module = Module(MODELS / f"{name}.onnx").to("meta")
    logits = module({"image": IMAGES[:3]})["logits"]
    logits.sum().backward()
    assert logits.device.type == "meta" and logits.shape == (3, 10)
    assert all(p.device.type == "meta" and p.grad is not None for p in module.parameters())


def test_what_runs_a_model_is_there_by_name() -> None:
    assert gradients.Module is Module and set(gradients.__all__) <= set(dir(gradients)) | set(gradients.LAZY)
    with pytest.raises(AttributeError):
        _ = gradients.nothing
