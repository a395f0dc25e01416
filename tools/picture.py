#!/usr/bin/env python3
"""Draw a pruned model beside its original, from the report of `onnxprune prune`: the picture of the README.

    onnxprune prune models/digits_vit.onnx -o smaller.onnx --macs 0.5 --calib models/digits_calib.npz \\
        --data models/digits_test.npz --report report.json
    python tools/picture.py report.json -o onnxprune/docs/images/before-after.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, ROW, BAR, TOP = 800, 26, 16, 40
LEFT, RIGHT, LONGEST = 200, 510, 256  # where the bars begin, and how long the widest group is
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .head { font-weight: 600 } .number { font-size: 11px; fill: #57606a }
  .original { fill: #8c959f } .kept { fill: #2da44e } .removed { fill: none; stroke: #8c959f; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .number { fill: #9198a1 } .original { fill: #656c76 } .kept { fill: #3fb950 }
    .removed { stroke: #656c76 }
  }
"""


def draw(report: dict[str, Any]) -> str:
    """One row a group: its channels before and after; then a row for each measure of the whole model."""
    groups = report["groups"]
    widest = max(g["size"] for g in groups)
    head = [_text(LEFT, 24, "before", "head"), _text(RIGHT, 24, "after", "head")]
    rows = [part for i, g in enumerate(groups) for part in _draw_group(g, TOP + i * ROW, widest)]
    below = TOP + len(groups) * ROW + 22
    sums = [part for i, row in enumerate(_sums(report)) for part in _draw_sum(row, below + i * 22)]
    height = below + len(_sums(report)) * 22
    parts = "\n".join([f"<style>{STYLE}</style>", *head, *rows, *sums])
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n{parts}\n</svg>\n'


def _draw_group(g: dict[str, Any], y: int, widest: int) -> list[str]:
    before, after = (max(3, LONGEST * n // widest) for n in (g["size"], g["kept"]))
    name = g["name"].replace(":", " ").replace("_", " ")
    return [
        _text(LEFT - 12, y + 13, name.removeprefix("blocks."), "name", "end"),
        _bar(LEFT, y, before, "original"),
        _text(LEFT + before + 6, y + 12, str(g["size"]), "number"),
        *([_bar(RIGHT, y, before, "removed")] if after < before else []),
        _bar(RIGHT, y, after, "kept"),
        _text(RIGHT + before + 6, y + 12, str(g["kept"]), "number"),
    ]


def _sums(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    accuracy, latency = report["error"]["accuracy"], report["latency"]
    return [
        ("parameters", *(f"{report['params'][k]:,}" for k in ("before", "after"))),
        ("multiply-accumulates", *(f"{report['macs'][k]:,}" for k in ("before", "after"))),
        ("time, one thread", *(f"{1e6 * latency[k]:.0f} µs" for k in ("before", "after"))),
        ("accuracy", *(f"{100 * accuracy[k]:.1f} %" for k in ("before", "after"))),
    ]


def _draw_sum(row: tuple[str, str, str], y: int) -> list[str]:
    name, before, after = row
    return [_text(LEFT - 12, y, name, "head", "end"), _text(LEFT, y, before), _text(RIGHT, y, after)]


def _bar(x: int, y: int, width: int, kind: str) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{BAR}" rx="2"/>'


def _text(x: int, y: int, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(draw(json.loads(args.report.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
