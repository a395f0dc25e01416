"""The command line, one file a command; the only package that imports typer and rich.

A command is a function under `@app.command()` in any module of this folder: every module is imported here, so nothing
is listed by hand. Modules import what is heavy (numpy, onnx, ONNX Runtime) inside their functions: help is instant.

Exit status: 0 done; 1 a check that was asked for failed (`validate --max-error`); 2 anything that stopped the command,
with one line on stderr; 130 interrupted; 141 the reader of stdout went away.
"""

import importlib
import pkgutil

from onnxprune.cli.app import app

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def main() -> None:
    """The entry point of `onnxprune`."""
    app(prog_name="onnxprune")


__all__ = ["app", "main"]
