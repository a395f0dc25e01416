"""The command line from outside: exit statuses, what is on stdout and what on stderr, and the files left behind."""

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_explain import build, rolled
from typer.testing import CliRunner, Result

import onnxprune
from onnxprune.cli import commands
from onnxprune.cli.render.compared import _accuracy
from onnxprune.cli.render.pruned import INSPECTED, explain_nothing
from onnxprune.cli.render.reasons import join_reasons, say_where
from onnxprune.report.types import PrunedGroup, Shares

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
CNN, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
REPORT_KEYS = {"calibration", "params", "macs", "bytes", "groups", "error", "seconds", "frozen", "model", "output"}
INSPECT_KEYS = {"model", "opset", "producer", "params", "macs", "prunable_params", "groups", "frozen"}


def call(*args: object) -> Result:
    return CliRunner().invoke(commands(), [str(a) for a in args], prog_name="onnxprune")


def shell(*args: object, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "onnxprune", *map(str, args)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        check=False,
    )


UNKNOWN = "note: without data the remaining accuracy is unknown; give a hundred inputs with --calib"


def fails(result: Result, *said: str) -> None:
    """Status 2, nothing on stdout, one line on stderr that says what and what to do."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    lines = [line for line in result.stderr.splitlines() if line != UNKNOWN]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for part in said:
        assert part in lines[0]


def mlp(path: Path, op: str = "Relu", domain: str = "", first: str = "w1") -> Path:
    """x [N, 4] @ w1 [4, 6] -> op -> @ w2 [6, 3] -> y."""
    rng = np.random.default_rng(0)
    weights = {first: (4, 6), "w2": (6, 3)}
    initializers = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    nodes = [
        helper.make_node("MatMul", ["x", first], ["a"], "fc1"),
        helper.make_node(op, ["a"], ["b"], "act", domain=domain),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "fc2"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", k]) for n, k in (("x", 4), ("y", 3)))
    graph = helper.make_graph(nodes, "mlp", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


# prune


def test_prune_writes_a_smaller_model_and_says_what_it_did(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = call("prune", CNN, "-o", out, "--ratio", 0.3, "--target", "none", "--repair", "none", "--data", TEST)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: the result is degraded: the relative L2 error of 0.7"), (
        "a third of the classes changed"
    )
    for said in (
        "conv1",
        "parameters",
        "MACs",
        "85 of 288",
        "relative L2",
        "100.0% -> ",
        "of 500 samples",
        "wrote",
        str(out),
    ):
        assert said in result.stdout
    assert out.stat().st_size < CNN.stat().st_size
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_ruined_model_is_written_and_said_to_be_degraded(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    made = call("prune", CNN, "-o", out, "--ratio", 0.7, "--data", TEST)
    assert made.exit_code == 0 and out.is_file() and "degraded" in made.stdout
    judged = call("validate", CNN, out, "--data", TEST, "--json")
    assert judged.exit_code == 0 and "warning: the candidate is degraded: the relative L2" in judged.stderr
    assert json.loads(judged.stdout)["degraded"] is True
    random = call("validate", CNN, out)
    assert "same class" not in random.stdout, "two random samples say nothing"
    same = call("validate", CNN, CNN, "--data", TEST)
    assert "the same class for 100.0% of 500 samples" in same.stdout and same.stderr == ""


@pytest.mark.parametrize(("given", "seen"), [((TEST, 50), (50, str(TEST))), (None, (64, "drawn scenes, seed 0"))])
def test_a_criterion_of_activations_says_what_it_watched(
    tmp_path: Path, given: tuple[Path, int] | None, seen: tuple[int, str]
) -> None:
    options = ("--calib", given[0], "--samples", given[1]) if given else ()
    said = call(
        "prune", CNN, "-o", tmp_path / "o.onnx", "--criterion", "flap", *options, "--report", tmp_path / "r.json"
    )
    assert said.exit_code == 0 and (UNKNOWN in said.stderr) == (given is None), said.output
    assert f"{seen[0]} samples, {seen[1]}" in said.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["calibration"] == {"data": seen[1], "samples": seen[0]}


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_the_printed_and_the_written_report_are_one(tmp_path: Path, name: str) -> None:
    report = tmp_path / "report.json"
    given = ("--repair", "none", "--data", TEST, "--json", "--report", report)
    result = call("prune", MODELS / f"{name}.onnx", "-o", tmp_path / "o", *given)
    assert result.exit_code == 0 and result.stderr.startswith("warning: the result is degraded: ")
    data = json.loads(result.stdout, parse_constant=pytest.fail)
    assert data == json.loads(report.read_text())
    assert set(data) >= REPORT_KEYS
    assert set(data["error"]) >= {
        "relative_l2",
        "max_abs",
        "cosine",
        "sqnr_db",
        "top1_agreement",
        "outputs",
        "accuracy",
    }
    assert set(data["error"]["outputs"]["logits"]) >= {"relative_l2", "max_abs", "cosine", "sqnr_db"}
    assert data["bytes"] == {
        "before": (MODELS / f"{name}.onnx").stat().st_size,
        "after": (tmp_path / "o").stat().st_size,
    }
    assert data["params"]["after"] < data["params"]["before"]
    assert all(g["reason"] for g in data["groups"] if g["kept"] == g["size"])
    assert data["options"]["ratio"] == 0.5


def test_a_dry_run_writes_the_plan_only_and_the_plan_gives_the_same_model(tmp_path: Path) -> None:
    plan, direct, planned = tmp_path / "plan.json", tmp_path / "direct.onnx", tmp_path / "planned.onnx"
    result = call("prune", CNN, "--dry-run", "--plan-out", plan, "--json")
    assert result.exit_code == 0 and sorted(tmp_path.iterdir()) == [plan]
    predicted = json.loads(result.stdout)
    assert predicted["output"] is None and predicted["error"] is None
    assert call("prune", CNN, "-o", direct, "--no-validate").exit_code == 0
    result = call("prune", CNN, "-o", planned, "--plan", plan, "--json")
    # The repair gives a layer that has none a bias, which a dry run does not make.
    assert 0 <= json.loads(result.stdout)["params"]["after"] - predicted["params"]["after"] <= 256
    assert json.loads(result.stdout)["macs"] == predicted["macs"]
    assert direct.read_bytes() == planned.read_bytes()


def test_options_reach_the_plan(tmp_path: Path) -> None:
    def kept(*args: object) -> dict[str, int]:
        result = call("prune", CNN, "--dry-run", "--json", *args)
        assert result.exit_code == 0, result.stderr
        return {g["name"]: g["kept"] for g in json.loads(result.stdout)["groups"]}

    assert kept("--ratio", 0.25) == {"conv1": 24, "conv2": 48, "conv3": 48, "conv4": 96}
    assert kept("--include", "conv1", "--include", "conv3") == {"conv1": 16, "conv2": 64, "conv3": 32, "conv4": 128}
    assert kept("--exclude", "conv[12]") == {"conv1": 32, "conv2": 64, "conv3": 32, "conv4": 64}
    assert kept("--group-ratio", "conv4=0.75")["conv4"] == 32
    assert kept("--round-to", 16, "--ratio", 0.3) == {"conv1": 32, "conv2": 48, "conv3": 48, "conv4": 96}
    pooled = kept(
        "--target",
        "none",
        "--scope",
        "global",
        "--max-ratio",
        0.6,
        "--normalize",
        "max",
        "--reduce",
        "max",
        "--criterion",
        "l1",
    )
    assert sum(pooled.values()) == 144 and pooled["conv4"] >= 52


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--ratio", 0), "no channel of it is free"),
        (("--exclude", "*"), "excluded by '*'"),
        (("--ratio", 0.1, "--round-to", 64), "round-to 64"),
    ],
)
def test_nothing_to_do_is_said_loudly(tmp_path: Path, args: tuple[object, ...], why: str) -> None:
    result = call("prune", CNN, "-o", tmp_path / "same.onnx", "--json", *args)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{UNKNOWN}\nwarning: nothing was removed") and why in result.stderr
    assert json.loads(result.stdout)["error"]["max_abs"] == 0


def test_a_model_without_groups_says_why(tmp_path: Path) -> None:
    model = mlp(tmp_path / "custom.onnx", "Mystery", "somebody")
    result = call("prune", model, "-o", tmp_path / "o.onnx", "--no-validate")
    assert result.exit_code == 0
    assert "no group that could be pruned" in result.stderr and "Mystery" in result.stderr


def test_a_model_that_does_not_run_is_written_and_said_to_be_uncompared(tmp_path: Path) -> None:
    model, report = mlp(tmp_path / "custom.onnx", "Mystery", "somebody"), tmp_path / "report.json"
    result = call("prune", model, "-o", tmp_path / "o.onnx", "--report", report, "--json")
    assert result.exit_code == 2
    assert "error: original: " in result.stderr and "o.onnx is written, but not compared" in result.stderr
    assert json.loads(result.stdout) == json.loads(report.read_text())
    assert json.loads(result.stdout)["error"] is None


def test_a_plan_is_a_line_for_each_list(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for path in (first, second):
        assert call("prune", CNN, "--dry-run", "--include", "conv1", "--plan-out", path).exit_code == 0
    text = first.read_text()
    assert text == second.read_text() and text.endswith("}\n")
    keep = [c["keep"] for c in json.loads(text)["groups"].values()]
    lines = [line.strip() for line in text.splitlines()]
    assert len(keep) == 4 and all(f'"keep": {k}' in [line.rstrip(",") for line in lines] for k in keep)
    odd = onnxprune.Plan("m", {'a[\n1]"]': onnxprune.Choice(3, (2, 0), "[\n0"), "b": onnxprune.Choice(1, ())})
    odd.save(first)
    assert onnxprune.Plan.load(first) == odd


def test_a_report_that_does_not_fit_says_that_the_model_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, out, report = iter([None]), tmp_path / "o.onnx", tmp_path / "r.json"

    def replace(source: Path, target: Path) -> None:
        if next(room, "full"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr("onnxprune.graph.files.os.replace", replace)
    result = call("prune", CNN, "-o", out, "--report", report)
    fails(result, f"{report}: No space left on device; it was not written", f"{out} is there")
    assert sorted(tmp_path.iterdir()) == [out]


# what stops a command


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--ratio", 1.5), "ratio is 1.5; it is the fraction of channels to remove, from 0 to below 1"),
        (("--max-ratio", 1.5), "max-ratio is 1.5; it is the fraction of channels to remove, from 0 to 1"),
        (("--ratio", "nan"), "ratio is nan"),
        (("--ratio", "much"), "--ratio"),
        (("--ratio", 1), "every channel"),
        (("--seed", -1), "seed is -1; it is a whole number, 0 or more"),
        (("--round-to", 0), "round-to is 0"),
        (("--max-ratio", -1), "max-ratio is -1"),
        (("--criterion", "l-two"), "unknown criterion 'l-two'"),
        (("--scope", "galaxy"), "local, global, isomorphic"),
        (("--reduce", "nope"), "unknown reduce 'nope'"),
        (("--include", "nope*"), "'nope*' matches no group"),
        (("--exclude", "nope"), "'nope' matches no group"),
        (("--group-ratio", "conv1"), "expected GLOB=R"),
        (("--group-ratio", "=0.5"), "expected GLOB=R"),
        (("--group-ratio", "conv1=half"), "expected GLOB=R"),
        (("--no-such-option",), "no such option"),
        (("--data", MODELS / "nowhere.npz"), "nowhere.npz': there is no such file"),
        (("--data", CNN), "digits_cnn.onnx"),
        (("--calib", MODELS / "nowhere.npz"), "nowhere.npz"),
        (("--preprocess", "imagnet"), "neither a preset"),
        (("--samples", 5), "--samples is the number of --calib inputs"),
        (("--calib", TEST, "--samples", 0), "samples is 0; expected a whole number"),
        (("--repair", "magic"), "unknown repair 'magic'"),
        (("--plan", "nowhere.json"), "nowhere.json"),
        (("--plan", CNN), "not JSON"),
        (("--plan", CNN, "--ratio", 0.5), "--plan already has the channels to remove, so --ratio"),
        (("--plan", CNN, "--plan-out", "x.json"), "--plan-out"),
    ],
)
def test_wrong_options_stop_it(tmp_path: Path, args: tuple[object, ...], said: str) -> None:
    fails(call("prune", CNN, "-o", tmp_path / "o.onnx", *args), said)
    assert not list(tmp_path.iterdir())


def test_sensitivity_removes_no_more_than_all() -> None:
    for ratio in (2, -0.5):
        fails(call("sensitivity", CNN, "--calib", TEST, "--ratio", ratio), "--ratio")


def test_bad_models_stop_it(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("hello\n")
    (tmp_path / "cut.onnx").write_bytes(CNN.read_bytes()[:9000])
    before = set(tmp_path.iterdir())
    for name, said in (("nope", "No such file"), ("empty", "is empty"), ("text", "not an ONNX"), ("cut", "cut short")):
        model = tmp_path / f"{name}.onnx"
        for args in (("inspect", model), ("prune", model, "-o", tmp_path / "o"), ("validate", CNN, model)):
            fails(call(*args), said, f"{name}.onnx")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", ["-o", "--report", "--plan-out"])
def test_impossible_outputs_stop_it_before_the_work(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxprune, "prune", lambda *a, **k: pytest.fail("the work began"))
    model = mlp(tmp_path / "m.onnx")
    os.link(model, tmp_path / "link.onnx")
    data = model.read_bytes()
    start = ("prune", model, *(() if option == "-o" else ("-o", tmp_path / "o.onnx")), option)
    for target in (model, tmp_path / "." / "m.onnx", tmp_path / "link.onnx"):
        fails(call(*start, target), "never overwritten")
    fails(call(*start, tmp_path), "is a folder")
    fails(call(*start, tmp_path / "no" / "o"), "there is no folder")
    fails(call(*start, model / "o"), "is not a folder")
    fails(call(*start, os.devnull), "not a plain file")
    assert model.read_bytes() == data


def test_two_outputs_in_one_file_stop_it(tmp_path: Path) -> None:
    one = tmp_path / "o"
    fails(call("prune", CNN, "-o", one, "--report", one), "--report", "-o")
    fails(call("prune", CNN), "give -o OUT")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_stops_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    fails(call("prune", CNN, "-o", tmp_path / "o.onnx"), "no permission")


def test_a_plan_for_another_model_stops_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert call("prune", CNN, "--dry-run", "--plan-out", plan).exit_code == 0
    other = MODELS / "digits_vit.onnx"
    fails(call("prune", other, "-o", tmp_path / "o.onnx", "--plan", plan), "another model")
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("the plan is in 'p.json'"), 130, "error: interrupted; the plan is in 'p.json'"),
        (MemoryError(), 2, "out of memory"),
        (ZeroDivisionError("division by zero"), 2, "defect of onnxprune"),
        (OSError(28, "No space left on device", "disk"), 2, "disk: No space left"),
        (onnxprune.OnnxPruneError("two\nlines \x1b[31m"), 2, "two lines \\x1b[31m"),
    ],
)
def test_every_exception_is_one_line(
    error: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(onnxprune, "analyze", fail)
    result = call("inspect", CNN)
    assert (result.exit_code, result.stdout) == (status, "")
    assert len(result.stderr.splitlines()) == 1 and said in result.stderr
    if status == 2:
        assert "Traceback" in call("inspect", CNN, "--debug").stderr
        monkeypatch.setenv("ONNXPRUNE_DEBUG", "1")
        assert "Traceback" in call("inspect", CNN).stderr


# inspect


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_inspect_json_keeps_its_contract(name: str) -> None:
    result = call("inspect", MODELS / f"{name}.onnx", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout, parse_constant=pytest.fail)
    assert set(data) >= INSPECT_KEYS
    assert all(set(g) >= {"name", "kind", "size", "exact", "params", "members"} for g in data["groups"])
    assert all(set(m) >= {"tensor", "axis", "layout"} for g in data["groups"] for m in g["members"])
    assert all(set(f) >= {"tensor", "axis", "size", "reason", "node", "operator", "route"} for f in data["frozen"])
    assert all(f["structural"] or f["route"][-1]["operator"] for f in data["frozen"])
    assert data["opset"]["ai.onnx"] >= 17


def test_inspect_shows_the_layout_of_each_weight_and_what_is_frozen() -> None:
    said = " ".join(call("inspect", CNN).stdout.split())
    for part in (
        "out conv4.weight [d, c, 3, 3]",
        "in head.weight [10, (d 4)]",
        "frozen: 2 weight axes, 1 weight whole: 10 parameters (0.0%)",
        "head.bias[0] [10] <- Gemm",
        "<- graph output 'logits'",
        "kernel position (8)",
    ):
        assert part in said


def test_inspect_names_the_route_to_an_unknown_operator(tmp_path: Path) -> None:
    said = call("inspect", mlp(tmp_path / "m.onnx", "Mystery", "somebody")).stdout
    assert "Mystery: no rule for operator somebody::Mystery" in said
    assert "w1[1]  [4, 6] <- MatMul 'fc1' <- Mystery 'act'" in said


def test_inspect_shows_the_layout_of_the_use_that_is_frozen(tmp_path: Path) -> None:
    nodes = "a = MatMul(x, w1) y = Add(a, b) c = MatMul(x, v1) d = Add(c, b) e = Relu(d) z = MatMul(e, w2)"
    onnx.save(build(nodes, "y z", w1=(4, 8), v1=(4, 8), w2=(8, 3), b=(8,)), tmp_path / "m.onnx")
    said = " ".join(call("inspect", tmp_path / "m.onnx").stdout.split())
    assert "bias b [a]" in said and "b[0] [8] <- Add 'y' <- graph output 'y'" in said


def test_inspect_tells_of_an_axis_that_a_single_channel_owns(tmp_path: Path) -> None:
    onnx.save(rolled(), tmp_path / "m.onnx")
    said = " ".join(call("inspect", tmp_path / "m.onnx").stdout.split())
    assert "a single channel owns all of it, and the last of a group is always kept 2 axes, 2 weights whole" in said
    assert "w1[1] [4, 8] w2[0] [8, 3]" in said
    frozen = json.loads(call("inspect", tmp_path / "m.onnx", "--json").stdout)["frozen"]
    assert {(f["tensor"], f["axis"], f["layout"]) for f in frozen} >= {("w1", 1, "8"), ("w2", 0, "8")}


def test_long_lists_are_cut_and_verbose_shows_them_all() -> None:
    vit = MODELS / "digits_vit.onnx"
    short, full = call("inspect", vit).stdout, call("inspect", vit, "--verbose").stdout
    assert "more uses of weights (--verbose lists them)" in short and "--verbose" not in full
    assert " alike: " in short and " alike: " not in full
    assert "blocks.2.norm2.bias" in full and "blocks.2.norm2.bias" not in short


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    model = mlp(tmp_path / "m.onnx", first="w\x1b[31m[bold]é\n")
    result = call("inspect", model)
    assert "\x1b" not in result.stdout and "w\\x1b[31m[bold]é\\n" in result.stdout
    plain = shell("inspect", model, PYTHONIOENCODING="ascii")
    assert plain.returncode == 0 and b"[bold]\\xe9\\n" in plain.stdout


# validate


def test_validate_exits_with_1_where_the_error_is_too_large(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    assert call("prune", CNN, "-o", out, "--no-validate").exit_code == 0
    assert call("validate", CNN, out).exit_code == 0
    assert call("validate", CNN, CNN, "--max-error", 0).exit_code == 0
    result = call("validate", CNN, out, "--data", TEST, "--max-error", 0.01, "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout, parse_constant=pytest.fail)
    assert data["relative_l2"] > 0.01 and set(data["accuracy"]) == {"before", "after"}
    assert "above 0.01" in result.stderr


def test_validate_counts_nan_as_a_failure(tmp_path: Path) -> None:
    good = mlp(tmp_path / "good.onnx")
    broken = onnx.load(good)
    w = numpy_helper.to_array(broken.graph.initializer[1]).copy()
    w[:, 0] = np.nan
    broken.graph.initializer[1].CopyFrom(numpy_helper.from_array(w, "w2"))
    onnx.save(broken, tmp_path / "nan.onnx")
    result = call("validate", good, tmp_path / "nan.onnx", "--max-error", 1000)
    assert result.exit_code == 1 and "NaN or infinite" in result.stderr
    assert "non-finite" in result.stdout


def test_validate_does_not_call_nan_equal(tmp_path: Path) -> None:
    model = onnx.load(mlp(tmp_path / "m.onnx"))
    w = numpy_helper.to_array(model.graph.initializer[1]).copy()
    w[:, 0] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(w, "w2"))
    onnx.save(model, tmp_path / "nan.onnx")
    said = " ".join(call("validate", tmp_path / "nan.onnx", tmp_path / "nan.onnx").stdout.split())
    assert "none where both are finite; 2 values cannot be compared" in said and "are equal" not in said


def test_validate_refuses_what_is_no_number() -> None:
    fails(call("validate", CNN, CNN, "--max-error", "nan"), "--max-error")
    fails(call("validate", CNN), "there is no model to judge")


def test_reasons_that_are_left_out_are_where_it_says() -> None:
    whole = Counter(f"because of {i}" for i in range(5))
    assert join_reasons(whole, say_where(False)).endswith("; 2 more reasons, see --verbose")
    assert join_reasons(whole, INSPECTED).endswith("; 2 more reasons, see 'onnxprune inspect'")
    groups = [PrunedGroup("g", "filters", 4, 4, exact=True, reason=reason) for reason in whole]
    report = replace(onnxprune.prune(CNN, dry_run=True).report, groups=groups)
    assert explain_nothing(report).endswith("see --verbose")


# lists and help


def test_lists() -> None:
    rows = json.loads(call("criteria", "--json").stdout)
    assert {"l1", "l2", "fpgm", "random"} <= {r["name"] for r in rows} and all(r["formula"] for r in rows)
    listed = call("criteria").stdout
    assert all(r["name"] in listed and r["formula"] in listed for r in rows)
    rows = json.loads(shell("ops", "--json").stdout)  # a process of its own: here other tests have filled the table
    assert {("ai.onnx", "Conv"), ("ai.onnx", "Relu")} <= {(r["domain"], r["operator"]) for r in rows}
    assert all(r["rule"] and r["since"] >= 1 for r in rows)
    markdown = call("ops", "--markdown").stdout.splitlines()
    assert len(markdown) == len(rows) + 2
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in markdown)


def test_help_version_and_no_command() -> None:
    assert call("--version").stdout.strip() == f"onnxprune {onnxprune.__version__}"
    for command in ("inspect", "prune", "validate", "criteria", "ops"):
        assert command in call("--help").stdout
        assert call(command, "--help").exit_code == 0
    assert "onnxprune prune model.onnx -o smaller.onnx" in call("--help").stdout
    assert "0 done, 1 a check failed, 2 an error, 130 interrupted, 141 closed pipe" in " ".join(
        call("--help").stdout.split()
    )
    assert call().exit_code == 2
    fails(call("frobnicate"), "no such command 'frobnicate'", "see 'onnxprune --help'")


# real processes


def test_a_process_keeps_stdout_for_results_and_is_silent_in_a_pipe(tmp_path: Path) -> None:
    done = shell("prune", CNN, "-o", tmp_path / "o.onnx", "--data", TEST, "--ratio", 0.25, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["output"] == str(tmp_path / "o.onnx")
    text = shell("prune", CNN, "-o", tmp_path / "o.onnx", "--ratio", 0.25)
    assert (text.returncode, text.stderr.decode().splitlines()) == (0, [UNKNOWN]) and b"\x1b" not in text.stdout
    failed = shell("prune", tmp_path / "nope.onnx", "-o", tmp_path / "p.onnx")
    assert (failed.returncode, failed.stdout) == (2, b"") and failed.stderr.count(b"\n") == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "o.onnx"]


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"'{sys.executable}' -m onnxprune ops --json | head -1; echo ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environ, check=False)
    assert done.stderr == "" and done.stdout.split()[-1] in ("0", "141")


@pytest.mark.parametrize("module", ["typer", "numpy", "onnx", "onnxruntime"])
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt\n")
    done = shell("prune", CNN, "-o", tmp_path / "o.onnx", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"error: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_stdout_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "onnxprune", "criteria"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("columns", [40, 200])
def test_a_terminal_shows_progress_on_stderr_and_whole_names(tmp_path: Path, columns: int) -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "onnxprune", "prune", str(MODELS / "digits_vit.onnx"), "-o", str(tmp_path / "o")]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environ, check=False)
        os.close(theirs)
        shown = terminal.read(1 << 16)
    assert done.returncode == 0
    assert b"comparing outputs" in shown
    assert b"\x1b" not in done.stdout and b"blocks.0.attn.qkv:head_features" in done.stdout


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    """`--help`, completion and Ctrl-C must not wait for it."""
    code = "import sys; from onnxprune.cli import commands; commands(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "onnxprune.cli.batch" in loaded
    assert not {"numpy", "onnx", "onnxruntime", "pydantic", "onnxprune.api", "onnxprune.report"} & set(loaded)


@pytest.mark.parametrize(
    ("drop", "said"), [(0.02, ", 2.0 points less"), (-0.003, ", 0.3 points more"), (0.0, ""), (None, "")]
)
def test_accuracy_falls_or_rises(drop: float | None, said: str) -> None:
    assert _accuracy(Shares(0.9, 0.9), drop) == "90.0% -> 90.0%" + said
