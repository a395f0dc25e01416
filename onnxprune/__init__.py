"""onnxprune: prune any exported ONNX model after training, and prove what changed.

import onnxprune
analysis = onnxprune.analyze("model.onnx")
plan = onnxprune.plan(analysis, ratio=0.5, criterion="l2")
smaller = onnxprune.apply(analysis, plan)
onnxprune.save(smaller, "smaller.onnx")
print(onnxprune.validate("model.onnx", "smaller.onnx").overall)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxprune.version import __version__

if TYPE_CHECKING:
    from onnxprune.allocate import Table
    from onnxprune.api import (
        CandidateResult,
        DistilledResult,
        PruneResult,
        analyze,
        apply,
        distill,
        plan,
        prune,
        repair_model,
        sensitivity,
        sparsify,
        validate,
    )
    from onnxprune.errors import DataError, ModelError, OnnxPruneError, OutputError, PlanError, SettingError
    from onnxprune.graph.io import load
    from onnxprune.graph.model import Model
    from onnxprune.graph.save import save
    from onnxprune.groups import Analysis, Group
    from onnxprune.passes import run_pass
    from onnxprune.plans import Choice, Plan
    from onnxprune.record import write_record
    from onnxprune.settings import Options, RunSettings, Sparsity, Training
    from onnxprune.validation import Result
    from onnxprune.vocabulary import IdMap, VocabularyResult, prune_vocabulary

__all__ = [
    "Analysis", "CandidateResult", "Choice", "DataError", "DistilledResult", "Group", "IdMap", "Model", "ModelError",
    "OnnxPruneError", "Options", "OutputError", "Plan", "PlanError", "PruneResult", "Result", "RunSettings", "SettingError",
    "Sparsity", "Table", "Training", "VocabularyResult", "__version__", "analyze", "apply", "distill", "load", "plan",
    "prune", "prune_vocabulary", "repair_model", "run_pass", "save", "sensitivity", "sparsify", "validate",
    "write_record",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: the command line must be able to catch Ctrl-C before."""
    if name in __all__:
        for home in (
            "errors",
            "settings",
            "api",
            "groups",
            "plans",
            "passes",
            "vocabulary",
            "record",
        ):  # between them they import or define it all
            module = import_module(f"onnxprune.{home}")
            if name in vars(module):
                return globals().setdefault(name, vars(module)[name])
    raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names, for editors and `dir`: most are imported when they are asked for."""
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "import_module"})
