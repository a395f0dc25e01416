"""Every rule, registered. Each module beside this one is imported, so a new file of rules needs no second mention."""

import importlib
import pkgutil

import onnxprune.ops as _package

for _module in pkgutil.iter_modules(_package.__path__):
    if _module.name != "rules":
        importlib.import_module(f"{_package.__name__}.{_module.name}")
