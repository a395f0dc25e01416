"""The one table of settings: every setting of every command, described once.

A new setting is a field of `Options` (what to remove), `Sparsity` (what becomes zero), `RunSettings` (data, checks, the form of
the file), `Training` (distillation) or `BatchSettings` (how a batch runs its jobs), made by `setting(..)`. The command line,
completion, recipes, `run_pass`, `prune(..)` in Python, the JSON Schema and the page of settings read it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from onnxprune.settings.batch import BatchSettings
from onnxprune.settings.data import RunSettings
from onnxprune.settings.options import Options
from onnxprune.settings.sparsity import Sparsity
from onnxprune.settings.table import Setting, find_class_settings
from onnxprune.settings.training import Training

HOMES = (Options, RunSettings, Training, Sparsity, BatchSettings)

__all__ = [
    "HOMES",
    "BatchSettings",
    "Options",
    "RunSettings",
    "Setting",
    "Sparsity",
    "Training",
    "find_command_settings",
]


@cache
def find_command_settings(command: str) -> Mapping[str, Setting]:
    """The settings that a command takes, by their names there; those of `batch` are of the run, its jobs have those of `prune`."""
    settings = (s for home in HOMES for s in find_class_settings(home).values() if command in s.uses)
    return {s.name(command): s for s in settings}
