"""Weight-only importance criteria: one score a channel from a group's slices, higher = more important.

A criterion is one function under `@criterion("name", ...)` in any module of this folder; every module is
imported here, so nothing is listed by hand. A criterion sees arrays and roles, never operator types.
"""

import importlib
import pkgutil

from onnxprune.criteria.reduction import REDUCES
from onnxprune.criteria.registry import ROLES, Criterion, Rows, Slice, TableRow, criterion, names, resolve, table
from onnxprune.criteria.scaling import NORMALISERS, normalise
from onnxprune.criteria.scoring import note, score

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "NORMALISERS",
    "REDUCES",
    "ROLES",
    "Criterion",
    "Rows",
    "Slice",
    "TableRow",
    "criterion",
    "names",
    "normalise",
    "note",
    "resolve",
    "score",
    "table",
]
