"""Importance criteria: one score a channel from a group's weights or activations, higher = more important.

A criterion is one function under `@criterion("name", ...)` or `@activation_criterion("name", ...)` in any module of this
folder; every module is imported here, so nothing is listed by hand. It sees arrays and roles, never operator types.
"""

import importlib
import pkgutil

from onnxprune.criteria.evaluation import note, score, score_signals
from onnxprune.criteria.reduction import REDUCES
from onnxprune.criteria.registry import (
    ROLES,
    Criterion,
    Rows,
    Signal,
    Slice,
    TableRow,
    activation_criterion,
    criterion,
    list_criteria,
    list_names,
    resolve,
)
from onnxprune.criteria.scaling import NORMALIZERS, normalize

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "NORMALIZERS",
    "REDUCES",
    "ROLES",
    "Criterion",
    "Rows",
    "Signal",
    "Slice",
    "TableRow",
    "activation_criterion",
    "criterion",
    "list_names",
    "normalize",
    "note",
    "resolve",
    "score",
    "score_signals",
    "list_criteria",
]
