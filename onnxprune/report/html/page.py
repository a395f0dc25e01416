"""Puts the page together: its parts lie beside this file, the data are JSON in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from onnxprune.report.html.payload import make_models, shorten_number
from onnxprune.report.rows import COLUMNS, JobLike, make_rows
from onnxprune.version import __version__

SCRIPTS = ("core.js", "best.js", "plot.js", "charts.js", "table.js", "why.js", "model.js", "main.js")
MARK = re.compile(r"\{\{([A-Z]+)\}\}")
UNSEEN = {"settings", "started"}  # of the columns, what the page does not show


def render_run_page(jobs: Sequence[JobLike], title: str) -> str:
    """The page of these jobs; with a single model it opens on that model."""
    parts = files(__package__)
    script = "".join(parts.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    filled = {
        "TITLE": escape(title),
        "VERSION": escape(__version__),
        "STYLE": parts.joinpath("page.css").read_text(encoding="utf-8"),
        "SCRIPT": script,
        "DATA": "\n".join([_block("rows", _table(jobs)), *(_block("model", m) for m in make_models(jobs))]),
    }
    template = parts.joinpath("page.html").read_text(encoding="utf-8")
    return MARK.sub(lambda mark: filled[mark[1]], template)


def _table(jobs: Sequence[JobLike]) -> dict[str, Any]:
    columns = [c for c in COLUMNS if c not in UNSEEN]
    return {"columns": columns, "rows": [[_cell(getattr(row, c)) for c in columns] for row in make_rows(jobs)]}


def _cell(value: Any) -> Any:
    return shorten_number(value) if isinstance(value, float) else value


def _block(name: str, data: Any) -> str:
    """JSON in a script element: no `<` of a name may end it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" class="{name}">{text}</script>'
