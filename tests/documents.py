"""The README and the pages of the documentation, as the tests read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from onnxprune.cli import commands

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "onnxprune" / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Options of other programs that the pages name.
FOREIGN = frozenset(
    [
        *("--onnx", "--fp", "--polygraphy", "--verbose"),  # trtexec's, --fp16 as far as it is letters; that of a tool
        *("--abs", "--onnxrt", "--load-inputs", "--load-outputs", "--save-inputs", "--save-outputs"),  # polygraphy's
        *("--scheduler-file", "--nworkers", "--nthreads"),  # Dask's
        *("--saved-model", "--tflite", "--opset", "--model", "--task"),  # tf2onnx's and Optimum's
        *("--type",),  # that of a tool
        *("--npu", "--min-channels"),  # walk-throughs of the page for contributors
    ]
)


def read_page(page: Path | str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for kind, body in BLOCK.findall(text) if kind == language]


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of each `onnxprune ..` in the blocks of shell commands."""
    for body in (*blocks(text, "sh"), *blocks(text, "console")):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0].rpartition("/")[2] == "onnxprune":
                yield words[1:]


def group() -> Any:
    return typer.main.get_command(commands())


def options() -> set[str]:
    """All options of all commands."""
    top = group()
    params = [p for c in (top, *top.commands.values()) for p in c.params]
    return {o for p in params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")} | {"--help"}


def named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - FOREIGN


def rows(text: str) -> list[list[str]]:
    """The cells of all tables."""
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
