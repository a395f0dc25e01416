"""The report of `sensitivity`, for people to read."""

from __future__ import annotations

from rich.console import Group

from onnxprune.cli.console import facts, table, text
from onnxprune.cli.render.pruned import render_stand_ins
from onnxprune.report.types import SensitivityReport


def render_sensitivities(report: SensitivityReport) -> Group:
    """A line for each group, a column for each ratio; the most sensitive first."""
    groups = sorted(report.groups, key=lambda g: -max((p.error for p in g.points), default=0.0))
    most = max((len(g.points) for g in groups), default=0)
    rows = [
        [text(g.name), g.size, *(f"{p.error:.4g} ({p.kept})" for p in g.points)] + [""] * (most - len(g.points))
        for g in groups
    ]
    columns = [">error (channels kept)" if not i else ">" for i in range(most)]
    judged = [facts(render_stand_ins(report.judged_by))] if report.judged_by else []
    return Group(table(("group", ">channels", *columns), rows), *judged)
