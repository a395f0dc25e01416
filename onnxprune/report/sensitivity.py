"""The results of `sensitivity`: its report, and one self-contained page with a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from onnxprune.allocate import Table
from onnxprune.groups import Analysis
from onnxprune.measure import find_stand_ins
from onnxprune.report.types import GroupSensitivity, SensitivityPoint, SensitivityReport
from onnxprune.settings import Options

WIDTH, HEIGHT, LEFT, BOTTOM = 900, 460, 70, 40
FLOOR = 1e-6  # smaller errors are drawn here


def make_sensitivity_report(
    a: Analysis, data: Path, samples: int, options: Options, tables: Mapping[str, Table]
) -> SensitivityReport:
    """The report of `sensitivity`."""
    return SensitivityReport(
        model=str(a.model.path),
        data=str(data),
        samples=samples,
        criterion=str(options.criterion),
        groups=list_measured_groups(tables),
        judged_by=find_stand_ins(a) or None,
    )


def list_measured_groups(tables: Mapping[str, Table]) -> list[GroupSensitivity]:
    """The measurements of each group."""
    return [GroupSensitivity(t.group, t.kind, t.size, _points(t)) for t in tables.values()]


def _points(t: Table) -> list[SensitivityPoint]:
    return [
        SensitivityPoint(n, 1 - n / t.size, m.error, m.relative_l2, m.agreement)
        for n, m in zip(t.counts, t.moved, strict=True)
    ]


def render_sensitivity_page(report: SensitivityReport) -> str:
    """An HTML page that needs no other file: the errors of every group against the fraction removed."""
    title = f"Sensitivity of {Path(report.model).name}"
    about = f"criterion {report.criterion}, first {report.samples} samples of {Path(report.data).name}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p>Each group pruned alone, {escape(about)}. Point at a line for its name.</p>\n"
        f"{_plot(report.groups)}\n{_table(report.groups)}\n</body></html>\n"
    )


STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:60em}td,th{padding:.1em .8em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}polyline{fill:none;stroke-width:2}"
    "g.line:hover polyline{stroke-width:5}text{font-size:12px}.grid{stroke:#ddd}"
)


def _plot(groups: Sequence[GroupSensitivity]) -> str:
    errors = [max(p.error, FLOOR) for g in groups for p in g.points if math.isfinite(p.error)]
    low, high = (math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))) if errors else (0, 1)
    high = max(high, low + 1)

    def x(ratio: float) -> float:
        return LEFT + ratio * (WIDTH - LEFT - 10)

    def y(error: float) -> float:
        at = (math.log10(min(max(error, FLOOR), 10.0**high)) - low) / (high - low)
        return 10 + (1 - at) * (HEIGHT - BOTTOM - 10)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="error against the fraction removed">']
    for e in range(low, high + 1):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(10**e):.1f}" y2="{y(10**e):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(10**e) + 4:.1f}" text-anchor="end">1e{e}</text>')
    for r in range(0, 11, 2):
        parts.append(f'<text x="{x(r / 10):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10 * r} %</text>')
    for i, g in enumerate(groups):
        points = " ".join(f"{x(p.ratio):.1f},{y(p.error):.1f}" for p in g.points)
        color = f"hsl({round(360 * i / len(groups))} 70% 45%)"
        parts.append(
            f'<g class="line"><title>{escape(g.name)}</title><polyline points="{points}" stroke="{color}"/></g>'
        )
    return "\n".join([*parts, "</svg>"])


def _table(groups: Sequence[GroupSensitivity]) -> str:
    rows = [
        f"<tr><td>{escape(g.name)}</td><td>{g.size}</td><td>{p.kept}</td><td>{p.error:.4g}</td></tr>"
        for g in groups
        for p in g.points
    ]
    return "<table><tr><th>group</th><th>channels</th><th>kept</th><th>error</th></tr>\n" + "\n".join(rows) + "</table>"
