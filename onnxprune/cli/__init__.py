"""The command line, one file a command; the only package that imports typer and rich.

A command is a function under `@app.command()` in any module of this folder: `commands` imports every one, so nothing is
listed by hand. Modules import what is heavy (numpy, onnx, ONNX Runtime) inside their functions.

Exit status: 0 done; 1 a check that was asked for failed (`validate --max-error`); 2 anything that stopped the command,
with one line on stderr; 130 interrupted; 141 the reader of stdout went away.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def commands() -> typer.Typer:
    """The application with all its commands."""
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:  # how reports are rendered is imported by the commands that do
            importlib.import_module(f"{__name__}.{module.name}")
    from onnxprune.cli.app import app

    return app


def main() -> None:
    """The entry point of `onnxprune`. Ctrl-C is caught here while modules are imported, later by the application.

    SIGTERM and SIGHUP end a command as Ctrl-C does, so that no temporary file is left.
    """
    try:
        for name in ("SIGTERM", "SIGHUP"):
            sent = getattr(signal, name, None)
            if sent is not None and signal.getsignal(sent) == signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(sent, signal.default_int_handler)
        commands()(prog_name="onnxprune")
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


__all__ = ["commands", "main"]
