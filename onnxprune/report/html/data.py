"""What a page holds of each model, as small as it can be said: strings once, lists that settings share once, four digits."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from onnxprune.report.rows import JobLike, finite, setting_text

DIGITS = 4
RISE = 0.25  # of the largest error: a rise of so much is where the error enters
Report = Mapping[str, Any]


def short(x: float | None) -> float | int | None:
    """A number of DIGITS digits; None for what is not finite."""
    if finite(x) is None or isinstance(x, int):
        return finite(x)
    return float(f"{x:.{DIGITS}g}")


def models(jobs: Sequence[JobLike]) -> list[dict[str, Any]]:
    """One object a model, in the order of the jobs: `settings` has one for each job that has a report, by its row."""
    by_model: dict[str, list[tuple[int, JobLike]]] = defaultdict(list)
    for i, job in enumerate(jobs):
        by_model[job.name].append((i, job))
    return [_model(name, mine) for name, mine in by_model.items()]


def _model(name: str, jobs: Sequence[tuple[int, JobLike]]) -> dict[str, Any]:
    made = _Model()
    settings = [made.setting(i, job, job.report) for i, job in jobs if job.report is not None]
    return {
        "name": name,
        "settings": settings,
        "strings": list(made.strings),
        "shared": {kind: list(map(json.loads, found)) for kind, found in made.shared.items()},
    }


class _Model:
    """What the settings of a model have in common is kept once, and each says which of it is its own."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.shared: dict[str, dict[str, int]] = {k: {} for k in ("groups", "weights", "frozen", "curves")}

    def text(self, s: object) -> int:
        return self.strings.setdefault(str(s or ""), len(self.strings))

    def share(self, kind: str, value: list[Any]) -> int:
        known = self.shared[kind]
        return known.setdefault(json.dumps(value, separators=(",", ":")), len(known))

    def setting(self, row: int, job: JobLike, report: Report) -> dict[str, Any]:
        groups, curves = report["groups"], report.get("sensitivity")
        layers, sparsity = _layers(report), report.get("sparsity") or {"pattern": "", "layers": []}
        return {
            "row": row,
            "facts": facts(job, report),
            "kept": [g["kept"] for g in groups],
            "why": [self.text(g["reason"]) for g in groups],
            "groups": self.share("groups", [[*map(self.text, (g["name"], g["kind"])), g["size"], int(g["exact"])] for g in groups]),
            "weights": self.share("weights", [self.weight(w) for w in report.get("weights") or ()]),
            "frozen": self.share("frozen", [self.frozen(f) for f in report["frozen"]]),
            "curves": self.share("curves", [self.curve(c) for c in curves]) if curves else None,
            "layers": [[self.text(x["name"]), self.text(x["operator"]), short(x["relative_l2"])] for x in layers],
            "rise": first_rise([x["relative_l2"] for x in layers]),
            "pattern": sparsity["pattern"],
            "sparsity": [self.sparse(x) for x in sparsity["layers"]],
        }  # fmt: skip

    def weight(self, w: Report) -> list[Any]:
        nodes, groups = ([self.text(n) for n in w["nodes"]], [[self.text(g) for g in axis] for axis in w["groups"]])
        return [self.text(w["name"]), w["shape"], nodes, groups]

    def frozen(self, f: Report) -> list[Any]:
        stops = [self.text(f"{s['operator']} '{s['name']}'") for s in f["route"]]
        known = [self.text(f["tensor"]), f["axis"], f["size"], self.text(_reason(f))]
        return [*known, int(f["structural"]), stops, f["route_left_out"]]

    def curve(self, c: Report) -> list[Any]:
        points = [[short(p["ratio"]), short(p["error"]), p["kept"]] for p in c["points"]]
        return [self.text(c["name"]), c["size"], points]

    def sparse(self, x: Report) -> list[Any]:
        said = [self.text(x[k]) for k in ("name", "op", "reason")]
        flags = [int(bool(x[k])) for k in ("eligible", "likely", "sparse")]
        return [*said, *flags, short(x["kept_magnitude"]), short(x["error"])]


def _reason(f: Report) -> str:
    return f"{f['operator']}: {f['reason']}" if f["operator"] else f["reason"]


def _layers(report: Report) -> list[Report]:
    found = report.get("reconstruction")
    return list(found["layers"]) if found else []


def first_rise(errors: Sequence[float | None]) -> int | None:
    """The first layer whose error is above all before it by RISE of the largest; None where there is no error."""
    known = [finite(e) or 0.0 for e in errors]
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


def facts(job: JobLike, report: Report) -> list[tuple[str, str]]:
    """Lines of a name and what there is to say of it."""
    said = [("set", setting_text(job.settings))] if job.settings else []
    if job.message:
        said.append(("message", job.message))
    if data := report["calibration"]:
        said.append(("calibrated on", f"{data['samples']:,} samples, {PurePath(data['data']).name}"))
    said += [("repaired", t) for t in _repaired(report["repair"])]
    said += _compared(report["error"]) if report["error"] else [("compared", "no")]
    said += [("layers left out", t) for t in _left_out(report)]
    if job.output:
        said.append(("file", job.output))
    return [*said, ("took", f"{sum(report['seconds'].values()):.3g} s")]


def _repaired(repair: Report | None) -> Iterable[str]:
    if repair:
        before, after = (f"{repair[k]:.3g}" for k in ("error_before", "error_after"))
        yield f"{repair['kept']} layers by {repair['method']}: relative L2 {before} → {after} on the calibration data"


def _compared(error: Report) -> list[tuple[str, str]]:
    data = str(error["data"])
    where = data.replace("random seed", "random inputs, seed") if data.startswith("random") else PurePath(data).name
    known = [("relative L2", "relative_l2", ""), ("cosine", "cosine", ""), ("SQNR", "sqnr_db", " dB")]
    known.append(("largest difference", "max_abs", ""))
    numbers = [f"{name} {error[k]:.3g}{unit}" for name, k, unit in known if finite(error.get(k)) is not None]
    return [("compared on", f"{error['samples']:,} samples, {where}"), ("outputs", ", ".join(numbers) or "no floats")]


def _left_out(report: Report) -> Iterable[str]:
    """Layers that could not be compared, and why."""
    left = (report.get("reconstruction") or {}).get("left_out") or {}
    if left:
        yield "; ".join(f"{name}: {why}" for name, why in list(left.items())[:8]) + ("; ..." if len(left) > 8 else "")
