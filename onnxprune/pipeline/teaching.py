"""Training in a pipeline: before channels are removed, after it, or in turns with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.allocate import Evaluator, make_plan
from onnxprune.allocate.rounds import Rounds
from onnxprune.allocate.schedule import compose_plans
from onnxprune.allocate.selection import list_left_out
from onnxprune.calibration import Batches
from onnxprune.errors import OnnxPruneError
from onnxprune.free import settle
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis, analyze
from onnxprune.pipeline.batches import choose_memory
from onnxprune.pipeline.model_making import make_model
from onnxprune.pipeline.plan_making import find_plan, make_evaluator
from onnxprune.pipeline.sources import settle_weights
from onnxprune.pipeline.work import Clock, Work
from onnxprune.plans import Plan
from onnxprune.report.types import DistillationReport
from onnxprune.settings import Options, Sparsity
from onnxprune.settings.training import OF_WEIGHTS, SOFT
from onnxprune.training import TrainingRecipe, make_task, train, train_before_pruning

# What a plan takes that is made after each pass of a training.
QUICK_PLAN: dict[str, Any] = {
    "criterion": "l2",
    "repair": "none",
    "effort": "low",
    "depth": False,
    "steps": 1,
    "scope": "local",
}


@dataclass(frozen=True)
class Teaching:
    """The original, and what it teaches on: candidates learn what it makes of the data."""

    original: Analysis
    batches: Batches
    unseen: Batches
    recipe: TrainingRecipe
    work: Work
    clock: Clock

    def prepare(self, options: Options, sparsity: Sparsity | None) -> Analysis:
        """The original, trained so that less is lost, or with zeros already; the same groups and layers."""
        a, training = self.original, self.work.training
        if training.train_method == SOFT and (options.limit or options.latency is not None):
            raise OnnxPruneError(
                "train-method 'soft' plans after each pass, for a ratio, --macs, --params or --bytes; give one"
            )
        stays = list_left_out(a, options)
        quick = replace(options, **QUICK_PLAN, allocation="uniform" if options.budget else None)

        def plan(model: Model) -> Plan:
            return make_plan(analyze(model, a.data), quick)

        of_weights = training.train_method in OF_WEIGHTS
        with self.clock.time("distill"):
            task = make_task(a, settle_weights(a.model), self.batches, self.unseen, choose_memory(self.work.run))
            trained = train_before_pruning(
                task, self.recipe, training, a, [g for g in a.groups if g.name not in stays], plan,
                sparsity if of_weights else None, self.clock.progress,
            )  # fmt: skip
        return analyze(settle_weights(trained), a.data)

    def train(
        self, candidate: Model, evaluator: Evaluator, round: int | None = None
    ) -> tuple[Model, DistillationReport]:
        """Each round has a checkpoint of its own."""
        kept = self.work.training.checkpoint
        path = Path(f"{kept}.{round + 1}") if kept is not None and round is not None else kept
        with self.clock.time("distill"):
            task = make_task(self.original, settle_weights(candidate), self.batches, self.unseen, evaluator.memory)
            return train(task, self.recipe, path, self.clock.progress)


def prune_in_rounds(
    original: Analysis, options: Options, work: Work, teach: Teaching | None
) -> tuple[Analysis, Plan | None, Options]:
    """All rounds of pruning and training but the last: what they leave, their plan, and what the last one is asked for."""
    rounds = Rounds(original, options, work.training.iterative if work.options and not work.plan else 1)
    rest, done = original, None
    several = rounds.number > 1 and teach is not None and not work.dry_run
    for at, fraction, before in rounds.ask() if several else ():
        options_of_round = rounds.options_of(rest, fraction, before)
        if at == rounds.number - 1:
            return rest, done, options_of_round
        assert teach is not None
        evaluator = make_evaluator(rest, options_of_round, teach.batches, work.run, teach.clock.progress)
        used = find_plan(rest, evaluator, replace(work, options=options_of_round, plan_out=None), teach.clock)
        settled, plan = settle(rest, used, evaluator.free)
        evaluator.turn_to(settled)
        state = make_model(settled, plan, evaluator, None, teach.clock, dry=False)
        trained, _ = teach.train(state.model, evaluator, at)
        rest, done = (
            analyze(settle_weights(trained), original.data),
            used if done is None else compose_plans(done, used),
        )
    return rest, done, options
