"""Mistakes on the command line that people make again and again, and what they meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Options that there are not, and the one that is meant, where the command has it.
MEANT = {
    "--flops": "--macs", "--flop": "--macs", "--mac": "--macs", "--size": "--bytes", "--speed": "--latency",
    "--time": "--latency", "--calibration": "--calib", "--data-dir": "--calib", "--preprocessing": "--preprocess",
    "--out": "--output", "--rate": "--ratio", "--amount": "--ratio", "--labels": "--data",
}  # fmt: skip


def explain_usage(e: Any, message: str, given: Sequence[str]) -> str:
    """A usage error in better words than typer's; empty where there are none."""
    if option := getattr(e, "option_name", ""):
        return _explain_option(option, e.ctx)
    if match := re.match(r"No such command '(.+?)'", message):
        return _explain_command(match[1])
    if "valid number" in message or "valid float" in message or "valid integer" in message:
        return _explain_percent(message, given)
    return ""


def _explain_option(option: str, context: Any) -> str:
    known = {name for p in context.command.params for name in p.opts} if context else set()
    meant = MEANT.get(option, "")
    return f"no such option: {option}; did you mean '{meant}'?" if meant in known else ""


def _explain_command(word: str) -> str:
    """A model where a command is expected."""
    if not (word.endswith(".onnx") or Path(word).is_file()):
        return ""
    return f"'{word}' is no command; did you mean 'onnxprune inspect {word}', or 'onnxprune prune {word} -o OUT'?"


def _explain_percent(message: str, given: Sequence[str]) -> str:
    """A number with a percent sign."""
    option = re.search(r"'(?:.* )?(--[\w-]+)'", message)
    for word, value in zip(given, [*given[1:], ""], strict=True):
        name, _, joined = word.partition("=")
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", joined or value)
        if option and name == option[1] and number:
            return f"{name[2:]} is {number[0]}; write it as a fraction: {name} {float(number[1]) / 100:g}"
    return ""
