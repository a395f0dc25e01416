"""The loop: a candidate learns what the original makes of inputs, and the best that it was on held-out ones is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from onnxprune.calibration import InputSpec, list_input_specs
from onnxprune.calibration.array_store import StoredBatches
from onnxprune.calibration.sessions import count, open_session, run_as
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array, is_float
from onnxprune.machine import count_threads
from onnxprune.measure import show_tensors
from onnxprune.progress import StageProgress
from onnxprune.report.types import DistillationReport
from onnxprune.training.checkpoint import Checkpoint, make_key
from onnxprune.training.drawn_batches import DrawnBatches
from onnxprune.training.loss import Judgment, Objective
from onnxprune.training.methods.base import TrainMethod
from onnxprune.training.rates import climb_rates
from onnxprune.training.recipe import LEAST_CHECKS, TRIAL_SHARE, TRIALS, TrainingRecipe
from onnxprune.training.student import Student, Weights
from onnxprune.training.task import Task
from onnxprune.training.teacher import Teacher

STAGE = "distill"


class _HeldOut:
    """The samples that are not trained on, with what the original makes of them."""

    def __init__(self, task: Task, teacher: Teacher, objective: Objective) -> None:
        self.task, self.objective = task, objective
        self.feeds, self.labels = StoredBatches(task.memory), list[Array | None]()
        for feeds, labels in task.held_out.pairs():
            self.feeds.append(feeds)
            self.labels.append(labels)
        self.references = StoredBatches(task.memory)
        for at, feeds in enumerate(self.feeds):
            self.references.append(teacher.ask(-1 - at, feeds))
        self.samples = sum(map(count, self.feeds))

    def judge(self, student: Student) -> Judgment:
        """By torch, as the weights are now."""
        outputs = (student.module.predict(feeds, self.task.names) for feeds in self.feeds)
        return self.objective.judge(self.references, outputs, self.labels)

    def judge_model(self, model: Model) -> Judgment:
        """By ONNX Runtime, as a file runs."""
        session = open_session(show_tensors(model, self.task.names), "candidate")
        outputs = (run_as("candidate", session, feeds) for feeds in self.feeds)
        return self.objective.judge(self.references, outputs, self.labels)


class TrainingLoop:
    """One training from its first step to its last."""

    def __init__(
        self,
        task: Task,
        recipe: TrainingRecipe,
        path: Path | None,
        progress: StageProgress,
        method: TrainMethod | None = None,
    ) -> None:
        self.task, self.recipe, self.progress = task, recipe, progress
        self.method = method or TrainMethod()
        self.searches_rate = method is None and recipe.rate is None  # a method would remember the trials
        self.objective = Objective(task.tokens, recipe.label_weight)
        specs: list[InputSpec] = list_input_specs(task.original.proto)
        self.samples = DrawnBatches(task.batches, specs, recipe, task.memory)
        self.teacher = Teacher(task.original, task.names, task.memory)
        self.held_out = _HeldOut(task, self.teacher, self.objective)
        if not any(is_float(x.dtype) for reference in self.held_out.references for x in reference.values()):
            raise OnnxPruneError(f"the outputs {list(task.names)} are no floats, so there is nothing to learn from")
        self.student = Student(task.candidate, recipe)
        self.steps = recipe.passes * self.samples.count
        self.every = max(1, min(self.samples.count, self.steps // LEAST_CHECKS))
        self.start = self.held_out.judge_model(task.candidate)
        self.round, self.done, self.tried, self.losses = 0, 0, 0, [self.held_out.judge(self.student).loss]
        self.best, self.best_at = self.student.copy(), 0
        self.checkpoint = Checkpoint(path, self._make_key() if path else "")

    def _make_key(self) -> str:
        seen = [x for reference in self.held_out.references for x in reference.values()]
        weights = [w.detach().contiguous().numpy() for w in self.student.weights.values()]
        settings = (self.recipe, self.samples.count, sorted(self.student.weights), *self.method.settings)
        return make_key(settings, [*seen, *weights])

    def run(self) -> None:
        """Raises KeyboardInterrupt where somebody stops it; the best so far is there then."""
        self.method.begin(self.student)
        if not self._resume() and self.searches_rate:
            self._choose_rate()
        while self.round < self.method.rounds:
            while self.done < self.steps:
                self._step(self.done, self.steps)
                self.done += 1
                if self.done % self.every == 0 or self.done == self.steps:
                    self._check()
                self.progress(STAGE, self.tried + self.done, self.tried + self.steps)
            self.method.end_round(self.student)
            self.round += 1
            self.done = 0 if self.round < self.method.rounds else self.done

    def _choose_rate(self) -> None:
        """Train for some steps at one rate after another, each time from the start, and go on with the best rate."""
        steps, weights = max(1, round(TRIAL_SHARE * self.steps)), self.student.copy()
        self.tried = TRIALS * steps
        trial = 0

        def restart(rate: float) -> None:
            self.student.load(weights)
            self.student.forget()
            self.student.rate = rate

        def measure(rate: float) -> float:
            nonlocal trial
            restart(rate)
            for at in range(steps):
                self._step(at, steps)
                self.progress(STAGE, trial * steps + at + 1, self.tried + self.steps)
            trial += 1
            self.student.load(self.student.average)
            return self.held_out.judge(self.student).loss

        restart(climb_rates(self.student.rate, measure))

    def _step(self, done: int, of: int) -> None:
        version, number = self.samples.find(done)
        feeds, labels = self.samples.take(version, number)
        reference = self.teacher.ask(version * self.samples.count + number, feeds)
        share = done / of
        self.method.before_step(self.student, share)
        outputs = self.student.module.run(feeds, self.task.names)
        loss = self.objective.measure(reference, outputs, labels)
        penalty = self.method.penalize(self.student, share)
        gradients = self.student.measure_gradients(loss if penalty is None else loss + penalty)
        self.method.take_gradients(self.student, gradients)
        self.student.move(gradients, done, of)
        self.method.after_step(self.student, done + 1, self.samples.count)

    def _check(self) -> None:
        """Look at the average on the held-out samples, and keep it if it is the best."""
        now = self.student.copy()
        self.student.load(self.student.average)
        loss = self.held_out.judge(self.student).loss
        if loss < min(self.losses):
            self.best, self.best_at = self.student.copy(), self.done
        self.student.load(now)
        self.losses.append(loss)
        self.checkpoint.save(
            {
                **self.student.state,
                "rate": self.student.rate,
                "done": self.done,
                "round": self.round,
                "method": self.method.state,
                "losses": self.losses,
                "best": self.best,
                "best_at": self.best_at,
            }
        )
        if remark := getattr(self.progress, "remark", None):
            remark(STAGE, f"loss {self.losses[0]:.4g} -> {min(self.losses):.4g}")

    def _resume(self) -> bool:
        """Continue from a checkpoint, if there is one."""
        if state := self.checkpoint.read():
            self.student.resume(state)
            self.student.rate = state["rate"]
            self.method.resume(self.student, state["method"])
            self.round, self.done, self.losses = state["round"], state["done"], state["losses"]
            self.best, self.best_at = state["best"], state["best_at"]
        return state is not None

    def finish(self) -> tuple[Model, Judgment, Weights | None]:
        """The best, if ONNX Runtime finds it better than the candidate too; else the candidate."""
        if self.best_at:
            trained = self.student.export(self.best)
            end = self.held_out.judge_model(trained)
            if end.loss < self.start.loss:
                return trained, end, self.best
        return self.task.candidate, self.start, None


def train_toward_zeros(
    task: Task,
    recipe: TrainingRecipe,
    method: TrainMethod,
    checkpoint: Path | None = None,
    progress: StageProgress = lambda *_: None,
) -> Model:
    """See `training.train_before_pruning`: the last weights, as the method leaves them. Ctrl-C ends the whole run."""
    with _threads(count_threads()):
        training = TrainingLoop(task, recipe, checkpoint, progress, method)
        training.run()
        return training.student.export(training.student.copy())


def run_training(
    task: Task, recipe: TrainingRecipe, checkpoint: Path | None = None, progress: StageProgress = lambda *_: None
) -> tuple[Model, DistillationReport]:
    """See `training.train`."""
    begun, interrupted = time.perf_counter(), False
    with _threads(count_threads()):
        training = TrainingLoop(task, recipe, checkpoint, progress)
        try:
            training.run()
        except KeyboardInterrupt:
            interrupted = True
        model, end, best = training.finish()
    start = training.start
    return model, DistillationReport(
        passes=recipe.passes,
        passes_done=round(training.done / training.samples.count, 2),
        best_pass=round(training.best_at / training.samples.count, 2) if best else 0.0,
        samples=training.samples.total,
        held_out=training.held_out.samples,
        loss_before=_finite(start.loss),
        loss_after=_finite(end.loss),
        error_before=_finite(start.shift.error),
        error_after=_finite(end.shift.error),
        agreement_before=start.shift.agreement,
        agreement_after=end.shift.agreement,
        learning_rate=training.student.rate,
        label_weight=recipe.label_weight,
        augmented=recipe.augment,
        weights=len(training.student.weights),
        losses=[_finite(x) for x in training.losses],
        interrupted=interrupted,
        seconds=round(time.perf_counter() - begun, 4),
    )


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """torch with so many threads, as ONNX Runtime has them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
