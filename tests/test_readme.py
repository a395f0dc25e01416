"""The README says what the code does: criteria, commands, options, and the keys of the JSON contracts."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

import onnxprune
from onnxprune.cli import commands
from onnxprune.criteria import TableRow, table
from onnxprune.report import to_json
from onnxprune.report.result import inspect_report

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def options() -> set[str]:
    group: Any = typer.main.get_command(commands())
    all_of_them = [group, *group.commands.values()]
    return {o for c in all_of_them for p in c.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")} | {
        "--help"
    }


@pytest.mark.parametrize("row", table(), ids=lambda r: r.name)
def test_every_criterion_is_in_the_table_with_its_source(row: TableRow) -> None:
    lines = [line for line in README.splitlines() if line.startswith(f"| `{row.name}` |")]
    assert len(lines) == 1 and row.source in lines[0]


def test_every_command_is_named() -> None:
    group: Any = typer.main.get_command(commands())
    for name in group.commands:
        assert re.search(rf"^onnxprune {name}\b", README, re.MULTILINE), f"the README lacks 'onnxprune {name}'"


def test_every_option_that_it_names_exists() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {
        *("--onnx", "--fp", "--polygraphy"),  # trtexec's, --fp16 as far as it is letters; that of a tool
        *("--abs", "--onnxrt", "--load-inputs", "--load-outputs", "--save-inputs", "--save-outputs"),  # polygraphy's
        *("--scheduler-file", "--nworkers", "--nthreads"),  # Dask's
    }
    assert named <= options(), f"the README names {sorted(named - options())}"


def test_every_key_is_documented() -> None:
    report = inspect_report(onnxprune.analyze(ROOT / "models" / "digits_vit.onnx"))
    group = report.groups[0]
    keys = {key for part in (report, group, group.members[0], report.frozen[0]) for key in to_json(part)}
    missing = {k for k in keys if f"`{k}`" not in README}
    assert not missing, f"the README does not name {sorted(missing)}"
