"""The script that times convolutions against channel counts."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "channel_times.py"


def test_every_kind_and_type_has_a_time_at_every_count() -> None:
    how = ["--channels", "5", "16", "--size", "4", "--layers", "2", "--seconds", "0.01", "--rounds", "1"]
    done = subprocess.run([sys.executable, TOOL, *how], capture_output=True, text=True, check=True)
    head, units, *rows = done.stdout.splitlines()
    assert head.split() == [
        "channels", *(x for kind in ("3x3", "depthwise", "1x1") for t in ("float32", "int8") for x in (kind, t))
    ]  # fmt: skip
    assert units.split() == ["us", "GMAC/s"] * 6 and done.stderr == ""
    assert [row.split()[0] for row in rows] == ["5", "16"]
    assert all(float(cell) >= 0 for row in rows for cell in row.split()) and len(rows[0].split()) == 13
