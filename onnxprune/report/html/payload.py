"""What a page holds of each model, as small as it can be said: strings once, lists that settings share once, four digits."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from onnxprune.report.rows import JobLike, describe_settings, drop_nonfinite
from onnxprune.report.stages import compare_stages
from onnxprune.report.types import (
    EngineReport,
    ErrorReport,
    FrozenAxis,
    GroupSensitivity,
    PruneReport,
    RepairReport,
    SparseLayerReport,
    WeightReport,
)

DIGITS = 4
RISE = 0.25  # of the largest error: a rise of so much is where the error enters


def shorten_number(x: float | None) -> float | int | None:
    """A number of DIGITS digits; None for what is not finite."""
    if drop_nonfinite(x) is None or isinstance(x, int):
        return drop_nonfinite(x)
    return float(f"{x:.{DIGITS}g}")


def make_models(jobs: Sequence[JobLike]) -> list[dict[str, Any]]:
    """One object a model, in the order of the jobs: `settings` has one for each job that has a report, by its row."""
    by_model: dict[str, list[tuple[int, JobLike]]] = defaultdict(list)
    for i, job in enumerate(jobs):
        by_model[job.name].append((i, job))
    return [_model(name, jobs_of_model) for name, jobs_of_model in by_model.items()]


def _model(name: str, jobs: Sequence[tuple[int, JobLike]]) -> dict[str, Any]:
    model = _SharedParts()
    settings = [model.setting(i, job, job.report) for i, job in jobs if job.report is not None]
    return {
        "name": name,
        "settings": settings,
        "strings": list(model.strings),
        "shared": {kind: list(map(json.loads, texts)) for kind, texts in model.shared.items()},
    }


class _SharedParts:
    """What the settings of a model have in common is kept once, and each says which of it is its own."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.shared: dict[str, dict[str, int]] = {k: {} for k in ("groups", "weights", "frozen", "curves")}

    def text(self, s: object) -> int:
        return self.strings.setdefault(str(s or ""), len(self.strings))

    def share(self, kind: str, value: list[Any]) -> int:
        known = self.shared[kind]
        return known.setdefault(json.dumps(value, separators=(",", ":")), len(known))

    def setting(self, row: int, job: JobLike, report: PruneReport) -> dict[str, Any]:
        groups, curves, sparsity = report.groups, report.sensitivity, report.sparsity
        layers = report.reconstruction.layers if report.reconstruction else []
        return {
            "row": row,
            "facts": make_facts(job, report),
            "kept": [g.kept for g in groups],
            "why": [self.text(g.reason) for g in groups],
            "groups": self.share("groups", [[*map(self.text, (g.name, g.kind)), g.size, int(g.exact)] for g in groups]),
            "weights": self.share("weights", [self.weight(w) for w in report.weights]),
            "frozen": self.share("frozen", [self.frozen(f) for f in report.frozen]),
            "curves": self.share("curves", [self.curve(c) for c in curves]) if curves else None,
            "layers": [[self.text(x.name), self.text(x.operator), shorten_number(x.relative_l2)] for x in layers],
            "rise": find_first_rise([x.relative_l2 for x in layers]),
            "stages": [
                [x.name, x.unit, *map(shorten_number, (x.original, x.pruned, x.quantized))] for x in compare_stages(report)
            ],
            "pattern": sparsity.pattern if sparsity else "",
            "sparsity": [self.sparse(x) for x in (sparsity.layers if sparsity else ())],
        }  # fmt: skip

    def weight(self, w: WeightReport) -> list[Any]:
        nodes, groups = ([self.text(n) for n in w.nodes], [[self.text(g) for g in axis] for axis in w.groups])
        return [self.text(w.name), w.shape, nodes, groups]

    def frozen(self, f: FrozenAxis) -> list[Any]:
        stops = [self.text(f"{s.operator} '{s.name}'") for s in f.route]
        known = [self.text(f.tensor), f.axis, f.size, self.text(_reason(f))]
        return [*known, int(f.structural), stops, f.route_left_out]

    def curve(self, c: GroupSensitivity) -> list[Any]:
        points = [[shorten_number(p.ratio), shorten_number(p.error), p.kept] for p in c.points]
        return [self.text(c.name), c.size, points]

    def sparse(self, x: SparseLayerReport) -> list[Any]:
        texts = map(self.text, (x.name, x.op, x.reason))
        flags = (int(bool(flag)) for flag in (x.eligible, x.likely, x.sparse))
        return [*texts, *flags, shorten_number(x.kept_magnitude), shorten_number(x.error)]


def _reason(f: FrozenAxis) -> str:
    return f"{f.operator}: {f.reason}" if f.operator else f.reason


def find_first_rise(errors: Sequence[float | None]) -> int | None:
    """The first layer whose error is above all before it by RISE of the largest; None where there is no error."""
    known = [drop_nonfinite(e) or 0.0 for e in errors]
    most = max(known, default=0.0)
    highest = 0.0
    for i, e in enumerate(known):
        if most and e - highest >= RISE * most:
            return i
        highest = max(highest, e)
    return _largest_rise(known) if most else None


def _largest_rise(errors: Sequence[float]) -> int:
    steps = [b - a for a, b in zip((0.0, *errors), errors, strict=False)]
    return steps.index(max(steps))


def make_facts(job: JobLike, report: PruneReport) -> list[tuple[str, str]]:
    """Lines of a name and what there is to say of it."""
    lines = [("set", describe_settings(job.settings))] if job.settings else []
    if job.message:
        lines.append(("message", job.message))
    if seen := report.calibration:
        lines.append(("calibrated on", f"{seen.samples:,} samples, {PurePath(seen.data).name}"))
    lines += [("repaired", _repaired(report.repair))] if report.repair else []
    if report.sparsity and (packed := report.sparsity.compressed):
        lines.append(("by gzip -1", f"{packed.before:,} → {packed.after:,} bytes"))
    lines += _engines(report.engines) if report.engines else []
    lines += _compared(report.error) if report.error else [("compared", "no")]
    lines += [("layers left out", t) for t in _left_out(report)]
    if job.output:
        lines.append(("file", job.output))
    return [*lines, ("took", f"{sum(report.seconds.values()):.3g} s")]


def _repaired(repair: RepairReport) -> str:
    before, after = (f"{error:.3g}" for error in (repair.error_before, repair.error_after))
    return f"{repair.kept} layers by {repair.method}: relative L2 {before} → {after} on the calibration data"


def _engines(engines: EngineReport) -> list[tuple[str, str]]:
    """What engines that skip zeros would multiply and store."""
    shares = (engines.both_nonzero.before, engines.both_nonzero.after)
    before, after = ("unknown" if x is None else f"{100 * x:.1f} %" for x in shares)
    lines = [("both operands non-zero", f"{before} → {after} of the multiplications, {engines.samples:,} samples")]
    if engines.bytes.before is not None and engines.bytes.after is not None:
        lines.append(
            ("as a sparse file", f"{engines.bytes.before:,} → {engines.bytes.after:,} bytes, 16 values per layer")
        )
    return lines


def _compared(error: ErrorReport) -> list[tuple[str, str]]:
    data = error.data
    where = data.replace("random seed", "random inputs, seed") if data.startswith("random") else PurePath(data).name
    known = [("relative L2", error.relative_l2, ""), ("cosine", error.cosine, ""), ("SQNR", error.sqnr_db, " dB")]
    known.append(("largest difference", error.max_abs, ""))
    numbers = [f"{name} {value:.3g}{unit}" for name, value, unit in known if drop_nonfinite(value) is not None]
    return [("compared on", f"{error.samples:,} samples, {where}"), ("outputs", ", ".join(numbers) or "no floats")]


def _left_out(report: PruneReport) -> Iterable[str]:
    """Layers that could not be compared, and why."""
    left = report.reconstruction.left_out if report.reconstruction else {}
    if left:
        yield "; ".join(f"{name}: {why}" for name, why in list(left.items())[:8]) + ("; ..." if len(left) > 8 else "")
