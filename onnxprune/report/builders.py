"""The reports of `inspect`, `prune` and `validate`, from what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np

from onnxprune.allocate import Evaluator
from onnxprune.allocate.align import find_multiples
from onnxprune.experts import Expert, find_experts
from onnxprune.explain import Route, explain
from onnxprune.graph.view import read_opsets
from onnxprune.graph.weights import dtype_of, is_float
from onnxprune.groups import Analysis, Group, Member
from onnxprune.measure import find_stand_ins
from onnxprune.plans import Choice, Plan, find_removed_experts, read_units
from onnxprune.report.plain import to_json
from onnxprune.report.sensitivity import list_measured_groups
from onnxprune.report.sparsity import make_sparsity_report
from onnxprune.report.types import (
    CalibrationReport,
    CompressedSize,
    Counts,
    DistillationReport,
    EngineReport,
    FrozenAxis,
    GroupReport,
    GuardedNode,
    HeldOutReport,
    InspectReport,
    Latency,
    Measures,
    MemberReport,
    PrunedGroup,
    PruneReport,
    QuantizationReport,
    Reconstruction,
    RepairReport,
    Shares,
    UnitReport,
    ValidateReport,
    WeightReport,
)
from onnxprune.settings import Options
from onnxprune.sparsity import Sparsified
from onnxprune.targets import TARGETS
from onnxprune.units import Unit, find_units
from onnxprune.validation import Result


def inspect_report(a: Analysis) -> InspectReport:
    """The groups of a model that can be pruned, and the frozen axes with their reasons."""
    proto = a.model.proto
    return InspectReport(
        model=_name(a),
        opset={domain or "ai.onnx": v for domain, v in read_opsets(proto.opset_import).items()},
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        nodes=len(proto.graph.node),
        params=a.params(),
        macs=a.macs(),
        sizes={name: first for name, (first, _) in a.coupling.trace.sizes.items()},
        bytes=a.model.size_bytes,
        prunable_params=a.prunable_params(),
        groups=[_group(a, g) for g in a.groups],
        frozen=_frozen(a),
        guarded=[_guarded(a, index, why) for index, why in a.coupling.guarded.items()],
        units=[*(_unit(a, u) for u in find_units(a)), *(_expert(a, e) for e in find_experts(a))],
    )


def _unit(a: Analysis, unit: Unit) -> UnitReport:
    node = a.flat.proto.graph.node[unit.node]
    params = sum(map(a.param_count, unit.weights))
    return UnitReport(unit.name, unit.kind, node.name or node.output[0], len(unit.goes), params)


def _expert(a: Analysis, expert: Expert) -> UnitReport:
    node = a.flat.proto.graph.node[expert.node]
    params = sum(map(a.param_count, {m.tensor for m in a.by_name[expert.group].members})) // expert.size
    return UnitReport(expert.name, expert.kind, node.name or node.output[0], 0, params)


def _name(a: Analysis) -> str:
    return str(a.model.path) if a.model.path else a.model.proto.graph.name


def _guarded(a: Analysis, index: int, why: str) -> GuardedNode:
    node = a.flat.proto.graph.node[index]
    return GuardedNode(node.name or next(iter(node.output), ""), node.op_type, why)


def _frozen(a: Analysis) -> list[FrozenAxis]:
    routes = explain(a)
    out: list[FrozenAxis] = []
    for f in a.frozen:
        route = routes.get((f.tensor, f.axis), Route())
        out.append(
            FrozenAxis(
                tensor=f.tensor,
                axis=f.axis,
                size=f.size,
                layout=a.layout(a.coupling.uses[f.use][f.axis]),
                reason=f.reason.text,
                node=f.reason.node,
                operator=f.reason.op,
                structural=f.reason.structural,
                route=list(route.stops),
                route_left_out=route.left_out,
            )
        )
    return out


def _weights(a: Analysis) -> list[WeightReport]:
    """Parameters, and whatever else has channels: the nodes that read it, for each axis the groups that lie along it."""
    owners: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for g in a.groups:
        for m in g.members:
            owners[m.tensor, m.axis][g.name] = None
    listed = {tensor for tensor, _ in owners} | {n for n in a.coupling.weights if a.param_count(n) > 1}
    return [
        WeightReport(
            name=name,
            nodes=list(a.readers.get(name, ())),
            shape=list(w.shape),
            groups=[list(owners.get((name, axis), ())) for axis in range(len(w.shape))],
        )
        for name, w in a.coupling.weights.items()
        if name in listed
    ]


def _group(a: Analysis, g: Group) -> GroupReport:
    distinct: dict[tuple[str, int, str], Member] = {}
    for m in g.members:
        distinct.setdefault((m.tensor, m.axis, m.role), m)
    return GroupReport(
        name=g.name,
        kind=g.kind,
        size=g.size,
        exact=g.exact,
        mixed_by=g.mixed or None,
        params=sum(a.param_count(t) for t in {m.tensor for m in g.members}),
        members=[MemberReport(*key, layout=a.layout(m.dim)) for key, m in distinct.items()],
    )


def prune_report(
    before: Analysis,
    plan: Plan,
    after: Analysis,
    files: list[Path],
    size: int | None,
    result: Result | None,
    seconds: Mapping[str, float],
    options: Options | None,
    evaluator: Evaluator | None = None,
    repaired: RepairReport | None = None,
    reconstruction: Reconstruction | None = None,
    sparse: Sparsified | None = None,
    not_compared: str | None = None,
    quantization: QuantizationReport | None = None,
    compressed: CompressedSize | None = None,
    held_out: HeldOutReport | None = None,
    trained: DistillationReport | None = None,
    engines: EngineReport | None = None,
) -> PruneReport:
    """The report of `prune`. `error` is None where validation was left out; no `files`: nothing was written.

    `size` is what the pruned model takes as files, None of a prediction.
    `options` None says that a plan was given; `evaluator` has the data that it was made or repaired with.
    """
    latency = result.latency if result else None
    return PruneReport(
        model=_name(before),
        output=str(files[0]) if files else None,
        files=[str(f) for f in files],
        options=to_json(asdict(options)) if options else None,
        calibration=_calibration(evaluator),
        judged_by=find_stand_ins(before),
        params=Counts(before.params(), after.params()),
        macs=Counts(before.macs(), after.macs()),
        bytes=Counts(before.model.size_bytes, size),
        groups=_planned(before, plan, options),
        weights=_weights(before),
        frozen=_frozen(before),
        sparsity=make_sparsity_report(sparse, compressed) if sparse else None,
        sensitivity=list_measured_groups(evaluator.tables) if evaluator and evaluator.tables else None,
        repair=repaired,
        error=result.error if result else None,
        measures=_measures(before, after, size, latency, sparse.nonzero() if sparse else ({}, {})),
        latency=latency,
        peak_memory=result.peak_memory if result else None,
        reconstruction=reconstruction,
        seconds={k: round(v, 4) for k, v in seconds.items()},
        not_compared=not_compared,
        quantization=quantization,
        timing=evaluator.timing if evaluator and options else None,
        held_out=held_out,
        distillation=trained,
        engines=engines,
        units=[
            *(_unit(before, u) for u in read_units(plan, before)),
            *(_expert(before, e) for e in find_removed_experts(plan, before)),
        ],
    )


def _calibration(evaluator: Evaluator | None) -> CalibrationReport | None:
    """The data that were used, if any."""
    used = evaluator.used if evaluator else None
    return CalibrationReport(used.source, used.samples) if used else None


def validate_report(
    before: Analysis,
    after: Analysis,
    result: Result,
    reconstruction: Reconstruction,
    engines: EngineReport | None = None,
) -> ValidateReport:
    """The report of `validate`."""
    return ValidateReport(
        **vars(result.error),
        original=str(before.model.path),
        candidate=str(after.model.path),
        params=Counts(before.params(), after.params()),
        macs=Counts(before.macs(), after.macs()),
        bytes=Counts(before.model.size_bytes, after.model.size_bytes),
        measures=_measures(before, after, after.model.size_bytes, result.latency),
        latency=result.latency,
        peak_memory=result.peak_memory,
        reconstruction=reconstruction,
        engines=engines,
    )


def _measures(
    before: Analysis,
    after: Analysis,
    size: int | None,
    latency: Latency | None,
    counted: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {}),
) -> Measures:
    return Measures(
        weight_sparsity=Shares(measure_weight_sparsity(before, counted[0]), measure_weight_sparsity(after, counted[1])),
        compression_ratio=_over(before.model.size_bytes, size),
        params_reduction=_less(before.params(), after.params()),
        macs_reduction=_less(before.macs(), after.macs()),
        speedup_theoretical=_over(before.macs(), after.macs()),
        speedup_measured=latency.ratio if latency and latency.verdict != "noisy" else None,
    )


def measure_weight_sparsity(a: Analysis, counted: Mapping[str, int] = MappingProxyType({})) -> float | None:
    """The share of zeros among the parameters that are floats; None where there are none.

    `counted` has the weights whose numbers that are not zero were counted before, so that they need not be read again.
    """
    floats = {n: w for n, w in a.coupling.weights.items() if a.param_count(n) and is_float(dtype_of(w.data_type))}
    total = sum(map(a.param_count, floats))

    known = sum(counted[n] for n in floats.keys() & counted.keys())
    read = sum(int(np.count_nonzero(w.array())) for n, w in floats.items() if n not in counted)
    return 1 - (known + read) / total if total else None


def _over(before: int | None, after: int | None) -> float | None:
    return before / after if before is not None and after else None


def _less(before: int | None, after: int | None) -> float | None:
    """The fraction that is gone."""
    return 1 - after / before if before and after is not None else None


def _planned(a: Analysis, plan: Plan, options: Options | None) -> list[PrunedGroup]:
    multiples = (
        find_multiples(a, TARGETS[options.target or "none"], options.has_fine_steps, options.has_measured_steps)
        if options and not options.only_free
        else {}
    )
    groups = []
    for g in a.groups:
        choice = plan.groups.get(g.name)
        kept = len(choice.keep) if choice else g.size
        reason = choice.reason if choice else "not in the plan"
        by = multiples.get(g.name, 1)
        groups.append(
            PrunedGroup(g.name, g.kind, g.size, kept, g.exact, reason or None, multiple=by, free=_free(choice))
        )
    return groups


def _free(choice: Choice | None) -> dict[str, int]:
    return {why: len(some) for why, some in choice.free.items()} if choice else {}
