"""Units: residual branches and layers that can go, found from the graph, in plans, repair and budgets; law 8 is in `laws.py`."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from laws import check, run_ort
from onnx import ModelProto, numpy_helper, parser
from test_cli import call, fails

import onnxprune
from onnxprune import Plan, PlanError
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import compute_fingerprint
from onnxprune.units import BRANCH, LAYER, find_units

MODELS = Path(__file__).parents[1] / "models"
RESNET, VIT, CALIB = MODELS / "digits_resnet.onnx", MODELS / "digits_vit.onnx", MODELS / "digits_calib.npz"
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def block(tail: str, after: str = "", outputs: str = "float[N,4,5,5] z") -> ModelProto:
    """A stem, a branch of two convolutions with a tail, the sum, and a convolution."""
    proto = parser.parse_model(f"""{HEAD}
      g (float[N,3,5,5] input) => ({outputs})
      {{
        s = Conv<pads=[1,1,1,1]>(input, "stem.weight")
        x = Relu(s)
        a = Conv<pads=[1,1,1,1]>(x, "block.0.weight")
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, "block.1.weight")
        {tail}
        y = Add(d, x)
        r = Relu(y)
        z = Conv<pads=[1,1,1,1]>(r, "head.weight")
        {after}
      }}""")
    rng = np.random.default_rng(0)
    shapes = {"stem": (4, 3, 3, 3), "block.0": (6, 4, 3, 3), "block.1": (4, 6, 3, 3), "head": (4, 4, 3, 3)}
    for name, shape in shapes.items():
        w = (0.3 * rng.standard_normal(shape)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(w, f"{name}.weight"))
    return proto


FEEDS = [
    {"input": np.random.default_rng(i).standard_normal((n, 3, 5, 5)).astype(np.float32)} for i, n in ((0, 2), (1, 3))
]


def units(proto: ModelProto | Path) -> list[tuple[str, str]]:
    return [(u.kind, u.name) for u in find_units(onnxprune.analyze(onnxprune.load(proto)))]


@pytest.mark.parametrize(
    "tail", ["d = Identity(c)", "d = LeakyRelu(c)", "d = Mul(c, c)", "g = Sigmoid(b2) d = Mul(c, g)"]
)
def test_a_branch_that_would_add_nothing_is_a_unit(tail: str) -> None:
    gated = 'b2 = Conv<pads=[1,1,1,1]>(b, "block.1.weight") ' if "b2" in tail else ""
    proto = block(gated + tail)
    assert units(proto) == [(BRANCH, "block")]
    check(proto, FEEDS)


@pytest.mark.parametrize("tail", ["d = Sigmoid(c)", "d = Exp(c)", "d = Softmax<axis=1>(c)"])
def test_a_branch_that_ends_in_more_than_zero_is_none(tail: str) -> None:
    assert (BRANCH, "block") not in units(block(tail))


def test_a_branch_that_others_read_stays() -> None:
    outputs = "float[N,4,5,5] z, float[N,4,5,5] e"
    assert (BRANCH, "block") not in units(block("d = Identity(c)", "e = Relu(c)", outputs))
    assert (BRANCH, "block") in units(block("d = Identity(c)", "e = Relu(x)", outputs))


def test_a_layer_that_keeps_its_layout_is_a_unit() -> None:
    proto = parser.parse_model(f"""{HEAD}
      g (float[N,3,5,5] input) => (float[N,2,5,5] z)
      {{
        x = Conv(input, "stem.weight")
        y = Conv<pads=[1,1,1,1], group=4>(x, "depth.weight")
        z = Conv(y, "head.weight")
      }}""")
    rng = np.random.default_rng(0)
    for name, shape in {"stem": (4, 3, 1, 1), "depth": (4, 1, 3, 3), "head": (2, 4, 1, 1)}.items():
        w = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(w, f"{name}.weight"))
    assert units(proto) == [(LAYER, "depth")]
    check(proto, FEEDS)


def test_attention_and_mlp_are_units_of_their_own() -> None:
    assert [kind for kind, _ in units(VIT)] == [BRANCH] * 6
    a = onnxprune.analyze(onnxprune.load(VIT))
    for unit in find_units(a):
        small = build_full_proto(onnxprune.apply(a, Plan(compute_fingerprint(a.model), units=(unit.name,))))
        assert len(small.graph.node) < len(a.model.proto.graph.node)
        assert not any(n.op_type == "Identity" for n in small.graph.node)


def test_of_two_cuts_in_a_row_one_is_left() -> None:
    proto = block("d = Identity(c)")
    a = onnxprune.analyze(onnxprune.load(proto))
    small = build_full_proto(onnxprune.apply(a, Plan(compute_fingerprint(a.model), units=("block",))))
    assert [n.op_type for n in small.graph.node] == ["Conv", "Relu", "Conv"]


def test_a_plan_says_which_units_go(tmp_path: Path) -> None:
    a = onnxprune.analyze(onnxprune.load(RESNET))
    plan = Plan(compute_fingerprint(a.model), units=("blocks.1",))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(PlanError, match=r"removes a unit 'blocks.9' that the model does not have"):
        onnxprune.apply(a, Plan(compute_fingerprint(a.model), units=("blocks.9",)))
    data = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps(data | {"units": "blocks.1"}))
    fails(call("prune", RESNET, "-o", tmp_path / "o.onnx", "--plan", tmp_path / "bad.json"), "expected a list of names")
    run = call("prune", RESNET, "-o", tmp_path / "o.onnx", "--plan", tmp_path / "plan.json", "--json")
    (unit,) = json.loads(run.stdout)["units"]
    assert unit["name"] == "blocks.1" and unit["kind"] == BRANCH


def idle(folder: Path) -> Path:
    """The network of residual blocks, where the last weights of one block are zero: it adds nothing."""
    proto = onnx.load(RESNET)
    a = onnxprune.analyze(onnxprune.load(RESNET))
    unit = next(u for u in find_units(a) if u.name == "blocks.4")
    for index in unit.ends:
        for t in proto.graph.initializer:
            if t.name in list(a.flat.proto.graph.node[index].input)[1:3]:  # weight and bias, scale and shift
                t.CopyFrom(numpy_helper.from_array(np.zeros(tuple(t.dims), np.float32), t.name))
    onnx.save(proto, folder / "idle.onnx")
    return folder / "idle.onnx"


def test_within_a_budget_a_block_that_adds_nothing_goes(tmp_path: Path) -> None:
    model = idle(tmp_path)
    left = build_full_proto(
        onnxprune.apply(
            a := onnxprune.analyze(onnxprune.load(model)), Plan(compute_fingerprint(a.model), units=("blocks.4",))
        )
    )
    share = onnxprune.analyze(onnxprune.load(left)).macs() / a.macs()
    options = ("--macs", share, "--calib", CALIB, "--samples", 64, "--json", "--no-validate")
    run = call("prune", model, "-o", tmp_path / "o.onnx", *options)
    report = json.loads(run.stdout)
    assert [u["name"] for u in report["units"]] == ["blocks.4"], run.stderr
    assert all(g["kept"] == g["size"] for g in report["groups"])
    run = call("prune", model, "-o", tmp_path / "o.onnx", "--no-depth", *options)
    assert json.loads(run.stdout)["units"] == []
    run = call("prune", model, "-o", tmp_path / "o.onnx", "--exclude", "blocks.4*", *options)
    assert "blocks.4" not in [u["name"] for u in json.loads(run.stdout)["units"]]


def test_the_layers_around_a_block_make_up_for_it() -> None:
    a = onnxprune.analyze(onnxprune.load(RESNET))
    data = dict(np.load(CALIB))
    x = data[a.model.proto.graph.input[0].name][:256]
    feeds = [{a.model.proto.graph.input[0].name: x}]
    plan = Plan(compute_fingerprint(a.model), units=("blocks.1",))
    plain = build_full_proto(onnxprune.apply(a, plan))
    repaired = build_full_proto(onnxprune.apply(a, plan, calib=feeds))
    want, bad, good = (run_ort(m, feeds)[0][0] for m in (build_full_proto(a.model), plain, repaired))
    assert np.linalg.norm(good - want) < 0.5 * np.linalg.norm(bad - want)


def two_blocks() -> ModelProto:
    """A branch that computes something, then one whose outputs are the same for all inputs, and large."""
    proto = parser.parse_model(f"""{HEAD}
      g (float[N,4,5,5] input) => (float[N,4,5,5] z)
      {{
        a = Conv<pads=[1,1,1,1]>(input, "stem.weight")
        x = Relu(a)
        b = Conv<pads=[1,1,1,1]>(x, "first.0.weight")
        c = Relu(b)
        d = Conv<pads=[1,1,1,1]>(c, "first.1.weight")
        e = Add(d, x)
        y = Relu(e)
        f = Conv<pads=[1,1,1,1]>(y, "second.0.weight")
        h = Relu(f)
        i = Conv<pads=[1,1,1,1]>(h, "second.1.weight", "second.1.bias")
        j = Add(i, y)
        k = Relu(j)
        z = Conv(k, "head.weight", "head.bias")
      }}""")
    rng = np.random.default_rng(0)
    for name in ("stem", "first.0", "first.1", "second.0", "second.1", "head"):
        w = 0.3 * rng.standard_normal((4, 4, *([1, 1] if name == "head" else [3, 3])))
        w = np.zeros_like(w) if name == "second.1" else w
        proto.graph.initializer.append(numpy_helper.from_array(w.astype(np.float32), f"{name}.weight"))
    for name, bias in (("second.1", 30.0), ("head", 0.0)):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(4, bias, np.float32), f"{name}.bias"))
    return proto


def test_a_branch_whose_loss_the_next_layers_make_up_for_goes_first() -> None:
    proto, rng = two_blocks(), np.random.default_rng(0)
    a = onnxprune.analyze(onnxprune.load(proto))
    feeds = {"input": rng.standard_normal((64, 4, 5, 5)).astype(np.float32)}
    plain = {
        u.name: build_full_proto(onnxprune.apply(a, Plan(compute_fingerprint(a.model), units=(u.name,))))
        for u in find_units(a)
    }
    want, *made = (run_ort(m, [feeds])[0][0] for m in (proto, plain["first"], plain["second"]))
    assert np.linalg.norm(made[1] - want) > 5 * np.linalg.norm(made[0] - want)
    left = onnxprune.analyze(onnxprune.load(plain["second"])).macs() / a.macs()
    small = onnxprune.prune(proto, macs=left, calib=feeds, check=False)
    assert small.plan.units == ("second",)
    assert np.linalg.norm(run_ort(small.model, [feeds])[0][0] - want) < 0.05 * np.linalg.norm(want)


def test_sizes_that_follow_a_plan_go_with_the_branch_that_reads_them() -> None:
    """What is put before a node, to make a computed size follow the channels, has nothing to read once the branch is removed."""
    proto = parser.parse_model(f"""{HEAD}
      g (float[N,8] x) => (float[N,4] z)
      <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] eight = {{8}}, int64[2] ones = {{1, 1}}>
      {{
        s = MatMul(x, stem)
        a = MatMul(s, first)
        sizes = Shape(s)
        rows = Slice(sizes, zero, one, zero)
        both = Concat<axis=0>(rows, eight)
        target = Mul(both, ones)
        b = Expand(a, target)
        c = Relu(b)
        d = MatMul(c, second)
        y = Add(s, d)
        z = MatMul(y, head)
      }}""")
    rng = np.random.default_rng(0)
    for name, shape in {"stem": (8, 8), "first": (8, 8), "second": (8, 8), "head": (8, 4)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    analysis = onnxprune.analyze(proto)
    assert [u.kind for u in find_units(analysis)].count(BRANCH) == 1 and len(analysis.groups) == 2
    check(proto, [{"x": rng.standard_normal((n, 8)).astype(np.float32)} for n in (2, 3)])


def test_a_layer_with_strides_is_no_unit() -> None:
    """Where the samples have one pixel there, it seems to keep the size; larger inputs would come out larger."""
    proto = parser.parse_model(f"""{HEAD}
      g (float[N,4,8,8] x) => (float[N,4,P,Q] z)
      {{
        a = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(x, "w")
        b = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(a, "w")
        c = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(b, "w")
        d = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(c, "w")
        e = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(d, "w")
        z = Conv<group=4, pads=[1,1,1,1]>(e, "w")
      }}""")
    w = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    analysis = onnxprune.analyze(proto)
    assert [analysis.flat.proto.graph.node[u.node].output[0] for u in find_units(analysis)] == ["z"]
