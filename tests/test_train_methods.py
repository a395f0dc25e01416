"""Training that prunes: each hook against a reference of a few lines, and models that are really pruned at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny import model, tensor

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.plans import Choice, Plan
from onnxprune.settings import Sparsity
from onnxprune.settings.training import OF_WEIGHTS, TRAIN_METHODS

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'onnxprune[torch]'")
from onnxprune.training.methods import METHODS, MethodContext  # noqa: E402
from onnxprune.training.recipe import TrainingRecipe  # noqa: E402
from onnxprune.training.student import Student  # noqa: E402
from onnxprune.training.zeros import find_zeros  # noqa: E402

ROOT = Path(__file__).parents[1]
CNN, RESNET, CALIB = (ROOT / "models" / f"digits_{n}" for n in ("cnn.onnx", "resnet.onnx", "calib.npz"))
RNG = np.random.default_rng(0)
FEW = {"x": RNG.normal(size=(80, 6)).astype(np.float32)}
HOW: dict[str, Any] = {"calib": FEW, "distill": True, "augment": False, "check": False}


def network(seed: int = 0) -> onnx.ModelProto:
    """x [N, 6] -> Gemm [8], LayerNormalization, Relu, Gemm [5] -> y."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (6, 8), "b": (8,), "gamma": (8,), "beta": (8,), "v": (8, 5)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "gamma", "beta"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N", 5])], weights)


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def start(name: str, proto: onnx.ModelProto | None = None, **more: Any) -> tuple[Any, Student, dict[str, np.ndarray]]:
    """A method at its first step, with its student and the weights as they are in the file."""
    proto = proto or network()
    a = onnxprune.analyze(proto)
    if name in OF_WEIGHTS:
        asked = Sparsity(
            "unstructured", more.pop("sparsity", 0.5), "magnitude", target="none", layers="all", repair="none"
        )
        more["zeros"] = find_zeros(a, asked)
    student = Student(onnxprune.load(proto), TrainingRecipe(1))
    method = METHODS[name](MethodContext(a, a.groups, **more))
    method.begin(student)
    return method, student, arrays(proto)


def test_the_methods_of_the_settings_are_those_that_there_are() -> None:
    assert sorted(METHODS) == sorted(TRAIN_METHODS)
    for kind in METHODS.values():
        assert "Source: " in (kind.__doc__ or "") and (kind.__doc__ or "").splitlines()[0]


# Hooks next to their formulas


def test_slimming_is_l1_on_scales() -> None:
    method, student, w = start("slimming", penalty=0.5)
    changed = w["gamma"] * np.linspace(-1, 2, 8, dtype=np.float32)
    with torch.no_grad():
        student.weights["gamma"].copy_(torch.from_numpy(changed))
    penalty = method.penalize(student, 0.3)
    assert float(penalty.detach()) == pytest.approx(0.5 * np.abs(changed).sum() / np.abs(w["gamma"]).sum(), rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, [student.weights["gamma"]])
    np.testing.assert_allclose(gradient, 0.5 * np.sign(changed) / np.abs(w["gamma"]).sum(), rtol=1e-5)


def test_slimming_needs_scales() -> None:
    with pytest.raises(OnnxPruneError, match=r"no group has one .*; use train-method 'group-lasso'"):
        start("slimming", onnx.load(RESNET))


@pytest.mark.parametrize("name", ["slimming", "group-lasso"])
def test_no_penalty_is_none(name: str) -> None:
    method, student, _ = start(name, penalty=0.0)
    assert float(method.penalize(student, 0.5).detach()) == 0.0
    with pytest.raises(OnnxPruneError, match="penalty is 0; it is a weight above 0"):
        onnxprune.prune(network(), **HOW, train_method=name, penalty=0)


def lasso_by_hand(w: dict[str, np.ndarray], before: dict[str, np.ndarray]) -> float:
    rows = {"w": w["w"].T, "b": w["b"][:, None], "gamma": w["gamma"][:, None], "beta": w["beta"][:, None], "v": w["v"]}
    power = sum(
        (x.astype(np.float64) ** 2).sum(1) / (before[n].astype(np.float64) ** 2).mean() for n, x in rows.items()
    )
    assert isinstance(power, np.ndarray)
    return float(sum(2 ** (4 * (power.max() - p) / np.ptp(power)) * np.sqrt(p) for p in power))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_group_lasso_is_of_coupled_channels_and_grows(share: float) -> None:
    method, student, w = start("group-lasso", penalty=0.5)
    changed = {name: x * (1 + 0.3 * RNG.normal(size=x.shape).astype(np.float32)) for name, x in w.items()}
    with torch.no_grad():
        for name, x in changed.items():
            student.weights[name].copy_(torch.from_numpy(x))
    want = 0.5 * share * lasso_by_hand(changed, w) / lasso_by_hand(w, w)
    assert float(method.penalize(student, share).detach()) == pytest.approx(want, rel=1e-4, abs=1e-9)


def test_soft_pruning_clears_filters_after_each_pass_and_they_come_back() -> None:
    method, student, w = start("soft")
    (group,) = method.context.groups
    keep = (0, 2, 3, 7)
    object.__setattr__(method.context, "plan", lambda m: Plan("", {group.name: Choice(8, keep)}))
    method.after_step(student, 3, 4)
    np.testing.assert_array_equal(student.weights["w"].detach(), w["w"])
    method.after_step(student, 4, 4)
    want = w["w"] * np.isin(np.arange(8), keep)
    np.testing.assert_array_equal(student.weights["w"].detach(), want)
    for name in ("b", "gamma", "beta", "v"):
        np.testing.assert_array_equal(student.weights[name].detach(), w[name])
    loss = student.module.run(FEW, ["y"])["y"].square().mean()
    student.move(student.measure_gradients(loss), 0, 10)
    assert (student.weights["w"].detach().numpy()[:, 1] != 0).all()


def test_surgery_keeps_the_largest_and_lets_them_come_back() -> None:
    method, student, w = start("surgery")
    mask = {name: np.ones_like(w[name]) for name in ("w", "v")}
    came_back = 0
    for share in (0.1, 0.3, 0.5, 0.7):
        with torch.no_grad():
            for name in mask:
                student.weights[name].add_(torch.from_numpy(RNG.normal(size=w[name].shape).astype(np.float32)))
        dense = {name: student.weights[name].detach().numpy().copy() for name in mask}
        method.before_step(student, share)
        zeros = 0.5 * (1 - (1 - min(share / 0.5, 1)) ** 3)
        for name, x in dense.items():
            scores = np.where(mask[name] == 1, 1.1, 0.9) * np.abs(x)
            limit = np.sort(scores.ravel())[int(zeros * x.size)]
            came_back += int(((mask[name] == 0) & (scores >= limit)).sum())
            mask[name] = (scores >= limit).astype(np.float32)
            np.testing.assert_array_equal(student.weights[name].detach(), x * mask[name])
        method.take_gradients(student, [])
        for name, x in dense.items():
            np.testing.assert_array_equal(student.weights[name].detach(), x)
    assert came_back
    method.before_step(student, 0.9)  # settled
    np.testing.assert_array_equal(method.masks["w"], mask["w"])


def test_the_gradient_of_masked_weights_moves_those_behind_the_mask() -> None:
    method, student, _ = start("surgery")
    method.before_step(student, 0.6)
    loss = student.module.run(FEW, ["y"])["y"].square().mean()
    gradients = dict(zip(student.weights, student.measure_gradients(loss), strict=True))
    assert (gradients["w"][method.masks["w"] == 0] != 0).any()


def test_movement_adds_up_what_moves_away_from_zero() -> None:
    method, student, w = start("movement")
    names, total = list(student.weights), dict.fromkeys(("w", "v"), 0.0)
    for share in (0.0, 0.2, 0.4, 0.6):
        method.before_step(student, share)
        gradients = [torch.from_numpy(RNG.normal(size=student.weights[n].shape).astype(np.float32)) for n in names]
        method.take_gradients(student, gradients)
        for name in total:
            total[name] = total[name] - gradients[names.index(name)].numpy() * w[name]
    method.before_step(student, 0.7)
    for name, score in total.items():
        assert isinstance(score, np.ndarray)
        np.testing.assert_allclose(method.moved[name], score, rtol=1e-5)
        kept = score >= np.sort(score.ravel())[score.size // 2]
        np.testing.assert_array_equal(student.weights[name].detach() != 0, kept)


def test_a_lottery_ticket_has_early_weights_where_late_ones_are_large() -> None:
    early = network(1)
    method, student, w = start("lottery", rewind=onnxprune.load(early), rounds=2, sparsity=0.75)
    first = arrays(early)
    for name in ("w", "v"):  # half goes in each of two rounds
        half = np.abs(w[name]) >= np.median(np.abs(w[name]))
        np.testing.assert_array_equal(student.weights[name].detach(), first[name] * half)
    with torch.no_grad():
        student.weights["w"].mul_(torch.from_numpy(1 + RNG.random((6, 8)).astype(np.float32)))
    late = student.weights["w"].detach().numpy().copy()
    method.end_round(student)
    limit = np.sort(np.abs(late).ravel())[36]
    np.testing.assert_array_equal(student.weights["w"].detach(), first["w"] * (np.abs(late) >= limit))
    np.testing.assert_array_equal(student.weights["b"].detach(), first["b"])


def test_checkpoints_tell_early_weights_with_equal_sums_apart() -> None:
    one = network(1)
    other = onnx.ModelProto.FromString(one.SerializeToString())
    for t in other.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t)[::-1].copy(), t.name))
    settings = [start("lottery", rewind=onnxprune.load(early))[0].settings for early in (one, one, other)]
    assert settings[0] == settings[1] != settings[2]


def test_early_weights_must_fit() -> None:
    other = network()
    del other.graph.initializer[1:2]
    other.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "b"))
    with pytest.raises(
        OnnxPruneError, match=r"rewind: initializer 'b' is \[1\], in the model \[8\]; give the same network"
    ):
        start("lottery", rewind=onnxprune.load(other))
    with pytest.raises(OnnxPruneError, match="give --rewind"):
        start("lottery")


@pytest.mark.parametrize("together", [False, True])
def test_masks_are_those_of_the_pattern(together: bool) -> None:
    a = onnxprune.analyze(network())
    scope = "global" if together else "local"
    zeros = find_zeros(
        a, Sparsity("unstructured", 0.5, "magnitude", scope=scope, target="none", layers="all", repair="none")
    )
    scores = {name: RNG.normal(size=form.file_shape).astype(np.float32) for name, form in zeros.forms.items()}
    keeps = zeros.masks(scores, 0.5)
    whole = np.concatenate([x.ravel() for x in scores.values()])
    for name, x in scores.items():
        among = whole if together else x.ravel()
        np.testing.assert_array_equal(keeps[name], x >= np.sort(among)[int(0.25 * among.size)])
    assert all(keep.all() for keep in zeros.masks(scores, 0.0).values())


# The whole way


@pytest.mark.parametrize("name", ["slimming", "group-lasso", "soft"])
def test_channels_are_really_removed(name: str) -> None:
    made = onnxprune.prune(network(), ratio=0.5, train_method=name, passes=3, target="none", **HOW)
    shapes = {n: x.shape for n, x in arrays(made.proto).items()}
    assert shapes["w"] == (6, 4) and shapes["v"] == (4, 5) and shapes["gamma"] == (4,)
    assert made.report.distillation is not None
    plain = onnxprune.prune(network(), ratio=0.5, passes=3, target="none", **HOW)
    assert plain.proto.SerializeToString() != made.proto.SerializeToString()


def test_a_method_is_not_tried_at_several_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would remember the trials: masks, sums and scores are its own."""
    from onnxprune.training.loop import TrainingLoop

    chosen, original = list[str](), TrainingLoop._choose_rate

    def choose(loop: TrainingLoop) -> None:
        chosen.append(type(loop.method).__name__)
        original(loop)

    monkeypatch.setattr(TrainingLoop, "_choose_rate", choose)
    onnxprune.prune(network(), ratio=0.5, train_method="soft", passes=2, target="none", **HOW)
    assert chosen == ["TrainMethod"]  # the training of the result


def test_soft_pruning_removes_the_filters_that_it_cleared() -> None:
    """What the mask of the last pass left at zero is what the plan removes."""
    seen = list[tuple[int, ...]]()
    from onnxprune.training.methods.soft import SoftPruning

    original = SoftPruning._clear

    def watch(self: SoftPruning, student: Student) -> None:
        original(self, student)
        seen.append(tuple(np.flatnonzero(np.abs(student.weights["w"].detach().numpy()).sum(0)).tolist()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoftPruning, "_clear", watch)
        made = onnxprune.prune(
            network(), ratio=0.5, train_method="soft", passes=3, target="none", criterion="l2", **HOW
        )
    (choice,) = made.plan.groups.values()
    assert choice.keep == seen[-1] and len(seen) == 4


@pytest.mark.parametrize(
    ("name", "pattern"), [(n, p) for n in ("surgery", "movement") for p in ("unstructured", "1:4")]
)
def test_weights_are_zero_in_the_pattern(name: str, pattern: str, tmp_path: Path) -> None:
    made = onnxprune.sparsify(network(), pattern=pattern, layers="all", train_method=name, passes=4, **HOW)
    share = 0.5 if pattern == "unstructured" else 0.75
    for n in ("w", "v"):
        w = arrays(made.proto)[n]
        assert (w == 0).mean() >= share - 0.25 * (pattern == "1:4")
    assert made.report.sparsity is not None


def test_a_ticket_is_trained_at_the_end(tmp_path: Path) -> None:
    onnx.save(network(1), tmp_path / "early.onnx")
    how = {**HOW, "passes": 4, "pattern": "unstructured", "sparsity": 0.5, "train_method": "lottery", "layers": "all"}
    made = onnxprune.sparsify(network(), rewind=tmp_path / "early.onnx", iterative=2, **how)
    for n in ("w", "v"):
        assert (arrays(made.proto)[n] == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert made.report.distillation is not None


@pytest.mark.parametrize("name", ["group-lasso", "surgery"])
def test_it_is_the_same_each_time_and_goes_on_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    def make(**more: Any) -> bytes:
        how = {**HOW, "train_method": name, "passes": 3, **more}
        if name == "surgery":
            return onnxprune.sparsify(network(), pattern="unstructured", layers="all", **how).proto.SerializeToString()
        return onnxprune.prune(network(), ratio=0.5, target="none", **how).proto.SerializeToString()

    def stop(stage: str, done: int, of: int) -> None:
        if (stage, done) == ("distill", of // 2 + 1):
            raise KeyboardInterrupt

    whole = make()
    assert make() == whole
    with pytest.raises(KeyboardInterrupt):
        make(checkpoint=tmp_path / "state.pt", progress=stop)
    assert (tmp_path / f"state.pt.{name}").exists()
    assert make(checkpoint=tmp_path / "state.pt") == whole


# Mistakes


@pytest.mark.parametrize(
    ("call", "settings", "message"),
    [
        (onnxprune.prune, {"train_method": "movement"}, "belongs to 'onnxprune sparsify'; here choose one of slimming"),
        (onnxprune.sparsify, {"train_method": "soft"}, "belongs to 'onnxprune prune'; here choose one of surgery"),
        (onnxprune.prune, {"train_method": "soft", "penalty": 1.0}, "penalty is a weight of train-method slimming or"),
        (onnxprune.sparsify, {"train_method": "surgery", "iterative": 2}, "rewind goes with train-method lottery"),
        (onnxprune.sparsify, {"train_method": "surgery", "method": "wanda"}, "chooses the zeros; leave out method"),
        (onnxprune.prune, {"train_method": "soft", "max_error": 0.1}, "plans after each pass"),
    ],
)
def test_what_does_not_go_together(call: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OnnxPruneError, match=message):
        call(network(), **HOW, **settings)
    with pytest.raises(OnnxPruneError, match="train-method says how 'distill' trains; give both"):
        onnxprune.prune(network(), train_method="soft")
