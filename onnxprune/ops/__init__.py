"""The rules, one file a family. Every module here is imported, so a new rule needs no second mention."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
