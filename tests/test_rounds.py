"""Pruning and training in turns: the budget is met in the end, and the plan names channels of the original."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_cli import call, fails

import onnxprune
from onnxprune.allocate.rounds import Rounds
from onnxprune.errors import OnnxPruneError
from onnxprune.settings import Options

MODELS = Path(__file__).parents[1] / "models"
CNN, RESNET = MODELS / "digits_cnn.onnx", MODELS / "digits_resnet.onnx"
IMAGES = np.load(MODELS / "digits_test.npz")["image"]
torch_only = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="training needs torch: pip install 'onnxprune[torch]'"
)


def test_what_is_left_after_each_round_follows_the_schedule() -> None:
    a = onnxprune.analyze(CNN)
    rounds = Rounds(a, Options(macs=0.25, schedule="geometric"), 2)
    np.testing.assert_allclose(rounds.fractions, [0.5, 0.25])
    np.testing.assert_allclose(Rounds(a, Options(ratio=0.6), 3).fractions, [0.8, 0.6, 0.4])
    ((_, first, _), (_, last, before)) = rounds.ask()
    assert rounds.options_of(a, first, 1.0).macs == 0.5
    made = onnxprune.prune(CNN, macs=first, check=False)
    smaller = onnxprune.analyze(made.model)
    asked = rounds.options_of(smaller, last, before).macs
    assert asked is not None
    np.testing.assert_allclose(asked * made.report.macs.after, 0.25 * made.report.macs.before)


@pytest.mark.parametrize("options", [Options(max_error=0.1), Options(max_ratio=0.5), Options(ratio=0)])
def test_what_cannot_be_divided_into_rounds(options: Options) -> None:
    with pytest.raises(OnnxPruneError, match="iterative prunes in rounds"):
        Rounds(onnxprune.analyze(CNN), options, 2)


@torch_only
@pytest.mark.parametrize("asked", [{"macs": 0.4}, {"params": 0.4, "schedule": "agp"}, {"ratio": 0.5, "target": "none"}])
def test_the_plan_is_of_the_original(asked: dict[str, object]) -> None:
    how = {"calib": [IMAGES[:96]], "distill": True, "iterative": 3, "passes": 2, "check": False, **asked}
    made = onnxprune.prune(RESNET, **how)
    r = made.report
    for kind in ("macs", "params"):
        if kind in asked:
            count = getattr(r, kind)
            assert count.after <= asked[kind] * count.before
            assert count.after > 0.8 * asked[kind] * count.before
    original = onnxprune.analyze(RESNET)
    assert {name: choice.size for name, choice in made.plan.groups.items()} == {g.name: g.size for g in original.groups}
    if "ratio" in asked:
        assert all(len(c.keep) in (c.size // 2, c.size // 2 + 1) for c in made.plan.groups.values())
    again = onnxprune.apply(original, made.plan)
    shapes = {n: w.shape for n, w in onnxprune.analyze(again).model.weights.items()}
    found = {n: w.shape for n, w in onnxprune.analyze(made.model).model.weights.items()}
    assert shapes.items() <= found.items()  # a repair may add biases
    assert made.report.distillation is not None


@torch_only
def test_from_the_command_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=IMAGES[:64])
    typed = ["prune", str(CNN), "--calib", str(tmp_path / "x.npz"), "--macs", "0.5", "--passes", "1", "--no-validate"]
    written = []
    for name in ("a", "b"):
        out, plan = tmp_path / f"{name}.onnx", tmp_path / f"{name}.json"
        call(*typed, "--distill", "--iterative", "2", "-o", str(out), "--plan-out", str(plan))
        onnx.checker.check_model(str(out), full_check=True)
        call("prune", str(CNN), "--plan", str(plan), "-o", str(tmp_path / "planned.onnx"), "--no-validate")
        assert (tmp_path / "planned.onnx").exists()
        written.append(out.read_bytes())
    assert written[0] == written[1]
    fails(call(*typed[:4], "--macs", "0.5", "--iterative", "2", "-o", str(tmp_path / "c.onnx")), "distill")
