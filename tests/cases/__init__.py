"""Small models for every registered rule, a module a family of operators; `cases.base` says how to write one."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
