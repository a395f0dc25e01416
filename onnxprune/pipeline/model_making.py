"""A plan becomes a model: applied, repaired, or with zeros in a pattern."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxprune.allocate import Evaluator
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import Analysis
from onnxprune.pipeline.work import Clock, PipelineState, Work
from onnxprune.plans import Plan
from onnxprune.settings import Options, Sparsity
from onnxprune.sparsity import sparsify
from onnxprune.sparsity.patterns import NofM
from onnxprune.sparsity.resolve import check_sparsity, resolve_sparsity
from onnxprune.surgery import apply_plan


def fit_together(options: Options, sparsity: Sparsity, work: Work, calibrated: bool) -> tuple[Options, Sparsity]:
    """Options that fit each other: channel counts that the pattern divides, one way of repair."""
    pattern = check_sparsity(sparsity)
    if isinstance(pattern, NofM):
        options = replace(options, round_to=math.lcm(options.round_to, pattern.m))
    if options.repair == "merge":
        raise OnnxPruneError(
            "repair merge moves weights of channels, not single ones; choose another --repair beside a pattern"
        )
    if work.options is not None and work.options.target is not None and sparsity.target is None:
        sparsity = replace(sparsity, target=work.options.target)
    if work.options is not None and sparsity.repair is None and sparsity.scope == "local":
        sparsity = replace(sparsity, repair=options.repair if calibrated else None)
    return options, resolve_sparsity(sparsity, calibrated)


def make_model(
    analysis: Analysis, plan: Plan, evaluator: Evaluator, sparsity: Sparsity | None, clock: Clock, dry: bool
) -> PipelineState:
    """The model of a plan; `dry`: as large as it would be, but nothing is fitted."""
    if sparsity is not None:
        with clock.time("sparsify"):
            if dry:  # nothing is fitted
                sparsity = replace(sparsity, method="magnitude", repair="none")
            sparse = sparsify(
                analysis, sparsity, None if dry else evaluator.batches, plan=plan, progress=clock.progress,
                memory=evaluator.memory,
            )  # fmt: skip
        return PipelineState(sparse.model, sparse.repair, sparse)
    if evaluator.repair != "none" and not dry:
        with clock.time("repair"):
            return PipelineState(*evaluator.finish(plan))
    with clock.time("apply"):
        return PipelineState(apply_plan(analysis, plan))
