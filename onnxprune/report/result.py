"""What `inspect` and `prune` say, as plain data. These keys are a contract."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxprune.allocate import Evaluator, Options
from onnxprune.explain import Route, explain
from onnxprune.graph.view import opsets
from onnxprune.graph.weights import dtype_of, is_float
from onnxprune.groups import Analysis, Group
from onnxprune.measure import stand_ins
from onnxprune.plans import Plan
from onnxprune.repair import RepairReport
from onnxprune.report.sensitivity import measured_groups
from onnxprune.report.sparsity import sparsity_report
from onnxprune.sparsity import Sparsified
from onnxprune.validation import Reconstruction, Result


def inspect_report(a: Analysis) -> dict[str, Any]:
    """The object that `inspect --json` prints."""
    proto = a.model.proto
    return {
        "model": str(a.model.path) if a.model.path else proto.graph.name,
        "opset": {domain or "ai.onnx": v for domain, v in opsets(proto.opset_import).items()},
        "ir_version": proto.ir_version,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "nodes": len(proto.graph.node),
        "params": a.params(),
        "macs": a.macs(),
        "sizes": {name: first for name, (first, _) in a.coupling.trace.sizes.items()},
        "bytes": a.model.size_bytes,
        "prunable_params": a.prunable_params(),
        "groups": [_group(a, g) for g in a.groups],
        "frozen": _frozen(a),
        "guarded": [_guarded(a, index, why) for index, why in a.coupling.guarded.items()],
    }


def _guarded(a: Analysis, index: int, why: str) -> dict[str, str]:
    """A node on which a rule failed, so that all it touches is frozen."""
    node = a.flat.proto.graph.node[index]
    return {"node": node.name or next(iter(node.output), ""), "operator": node.op_type, "reason": why}


def _frozen(a: Analysis) -> list[dict[str, Any]]:
    routes = explain(a)
    return [
        {
            "tensor": f.tensor,
            "axis": f.axis,
            "size": f.size,
            "layout": a.layout(a.coupling.uses[f.use][f.axis]),
            "reason": f.reason.text,
            "node": f.reason.node,
            "operator": f.reason.op,
            "structural": f.reason.structural,
            **_route(routes.get((f.tensor, f.axis), Route())),
        }
        for f in a.frozen
    ]


def _route(route: Route) -> dict[str, Any]:
    return {
        "route": [{"operator": s.operator, "name": s.name} for s in route.stops],
        "route_left_out": route.left_out,
    }


def _weights(a: Analysis) -> list[dict[str, Any]]:
    """Parameters, and whatever else has channels: the nodes that read it, for each axis the groups that lie along it."""
    owners: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for g in a.groups:
        for m in g.members:
            owners[m.tensor, m.axis][g.name] = None
    listed = {tensor for tensor, _ in owners} | {n for n in a.coupling.weights if a.param_count(n) > 1}
    return [
        {
            "name": name,
            "nodes": a.readers.get(name, []),
            "shape": list(w.shape),
            "groups": [list(owners.get((name, axis), ())) for axis in range(len(w.shape))],
        }
        for name, w in a.coupling.weights.items()
        if name in listed
    ]


def _group(a: Analysis, g: Group) -> dict[str, Any]:
    return {
        "name": g.name,
        "kind": g.kind,
        "size": g.size,
        "exact": g.exact,
        "mixed_by": g.mixed or None,
        "params": sum(a.param_count(t) for t in {m.tensor for m in g.members}),
        "members": [
            {"tensor": m.tensor, "axis": m.axis, "role": m.role, "layout": a.layout(m.dim)} for m in _distinct(g)
        ],
    }


def _distinct(g: Group) -> list[Any]:
    seen: dict[tuple[str, int, str], Any] = {}
    for m in g.members:
        seen.setdefault((m.tensor, m.axis, m.role), m)
    return list(seen.values())


def prune_report(
    before: Analysis,
    plan: Plan,
    after: Analysis,
    files: list[Path],
    result: Result | None,
    seconds: Mapping[str, float],
    options: Options | None,
    evaluator: Evaluator | None = None,
    repaired: RepairReport | None = None,
    reconstruction: Reconstruction | None = None,
    sparse: Sparsified | None = None,
) -> dict[str, Any]:
    """The report of `prune`. `error` is null where validation was left out; no `files`: a dry run.

    `options` None says that a plan was given; `evaluator` has the data that it was made or repaired with.
    """
    size = sum(f.stat().st_size for f in files) if files else None
    return {
        "model": str(before.model.path) if before.model.path else before.model.proto.graph.name,
        "output": str(files[0]) if files else None,
        "files": [str(f) for f in files],
        "options": asdict(options) if options else None,
        "calibration": _calibration(evaluator),
        "judged_by": stand_ins(before),
        "params": _pair(before.params(), after.params()),
        "macs": _pair(before.macs(), after.macs()),
        "bytes": _pair(before.model.size_bytes, size),
        "groups": [_planned(g, plan) for g in before.groups],
        "weights": _weights(before),
        "frozen": _frozen(before),
        "sparsity": sparsity_report(sparse) if sparse else None,
        "sensitivity": measured_groups(evaluator.tables) if evaluator and evaluator.tables else None,
        "repair": repaired.to_json() if repaired else None,
        "error": error_report(result) if result else None,
        **_measured(before, after, size, result, reconstruction, sparse.nonzero() if sparse else ({}, {})),
        "seconds": {k: round(v, 4) for k, v in seconds.items()},
    }


def _calibration(evaluator: Evaluator | None) -> dict[str, Any] | None:
    """The data that were used, if any."""
    used = evaluator.used if evaluator else None
    return {"data": used.source, "samples": used.samples} if used else None


def error_report(result: Result) -> dict[str, Any]:
    """How far the outputs moved: the numbers over all (also as `overall`), and those of each of the `outputs`."""
    data = result.to_json()
    return {**data["overall"], **data}


def validate_report(
    before: Analysis, after: Analysis, result: Result, reconstruction: Reconstruction
) -> dict[str, Any]:
    """The object that `validate --json` prints."""
    return {
        "original": str(before.model.path),
        "candidate": str(after.model.path),
        "params": _pair(before.params(), after.params()),
        "macs": _pair(before.macs(), after.macs()),
        "bytes": _pair(before.model.size_bytes, after.model.size_bytes),
        **error_report(result),
        **_measured(before, after, after.model.size_bytes, result, reconstruction),
    }


def _measured(
    before: Analysis,
    after: Analysis,
    size: int | None,
    result: Result | None,
    reconstruction: Reconstruction | None,
    counted: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {}),
) -> dict[str, Any]:
    """What both commands measure; null where nothing was run, or nobody asked for it."""
    latency = result.latency if result else None
    return {
        "measures": {
            "weight_sparsity": {
                "before": weight_sparsity(before, counted[0]),
                "after": weight_sparsity(after, counted[1]),
            },
            "compression_ratio": _over(before.model.size_bytes, size),
            "params_reduction": _less(before.params(), after.params()),
            "macs_reduction": _less(before.macs(), after.macs()),
            "speedup_theoretical": _over(before.macs(), after.macs()),
            "speedup_measured": latency.before / latency.after if latency else None,
        },
        "latency": latency.to_json() if latency else None,
        "peak_memory": result.peak_memory if result else None,
        "reconstruction": reconstruction.to_json() if reconstruction else None,
    }


def weight_sparsity(a: Analysis, counted: Mapping[str, int] = MappingProxyType({})) -> float | None:
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


def _pair(before: int | None, after: int | None) -> dict[str, int | None]:
    return {"before": before, "after": after}


def _planned(g: Group, plan: Plan) -> dict[str, Any]:
    choice = plan.groups.get(g.name)
    kept = len(choice.keep) if choice else g.size
    reason = choice.reason if choice else "not in the plan"
    return {
        "name": g.name,
        "kind": g.kind,
        "size": g.size,
        "kept": kept,
        "exact": g.exact,
        "reason": reason or None,
    }
