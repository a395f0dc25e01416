"""Operators in torch, one file a family. Each module beside this one is imported, so a new file needs no second mention."""

import importlib
import pkgutil


def load_table() -> None:
    """Register every operator."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
