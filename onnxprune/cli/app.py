"""The typer application, and the one place where errors become a line on stderr and an exit status."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from onnxprune.cli import loudness
from onnxprune.errors import OnnxPruneError

FAILED_CHECK, STOPPED, INTERRUPTED, NO_READER = 1, 2, 130, 141
DEBUG = "ONNXPRUNE_DEBUG"


class Interrupt(Exception):
    """A KeyboardInterrupt, its cause, on its way past typer, which would make a mere status of it."""


class Guarded(TyperGroup):
    """A group of commands that ends in an exit status, whatever happens."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given or os.environ.get(DEBUG, "0") not in ("", "0")
        loudness.quiet = "--quiet" in given
        given = [a for a in given if a not in ("--debug", "--quiet")]
        run = super().main
        sys.exit(
            _status(lambda: run(given, prog_name, complete_var, False, windows_expand_args, **extra), given, debug)
        )

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as e:
            raise Interrupt from e


def _status(run: Callable[[], Any], given: Sequence[str], debug: bool) -> int:
    try:
        value = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return NO_READER
    except (Exception, KeyboardInterrupt) as e:
        if debug:
            traceback.print_exc()
        return _stopped(e.__cause__ or e if isinstance(e, Interrupt) else e, given)
    if value == INTERRUPTED:
        _say("interrupted")
    return value if isinstance(value, int) else 0


def _drop_stdout() -> None:
    """Nobody reads stdout any more: let the interpreter's last flush go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stopped(e: BaseException, given: Sequence[str]) -> int:
    if type(e).__name__ == "NoArgsIsHelpError":
        e.show()  # type: ignore[attr-defined]
        return STOPPED
    if isinstance(e, OSError):
        _drop_stdout()  # it may be stdout that is full
    _say(_line(e, given))
    return INTERRUPTED if isinstance(e, KeyboardInterrupt) else STOPPED


def _say(line: str) -> None:
    with suppress(OSError):
        print("error:", line, file=sys.stderr, flush=True)


def _line(e: BaseException, given: Sequence[str]) -> str:
    """An exception as one line that says what to do."""
    from onnxprune.wording import clean

    return clean(" ".join(_words(e, given).split()))


def _words(e: BaseException, given: Sequence[str]) -> str:
    if isinstance(e, OnnxPruneError):
        return str(e)
    if hasattr(e, "format_message"):  # typer's usage errors; their module is private
        return _usage(e, given)
    if isinstance(e, KeyboardInterrupt):
        return f"interrupted; {e}" if str(e) else "interrupted"
    if isinstance(e, MemoryError):
        return "out of memory; close other programs, or run it on a machine with more"
    if isinstance(e, OSError):
        return f"{e.filename or 'output'}: {e.strerror or e}"
    defect = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
    return f"{defect}; this is a defect of onnxprune, run with --debug or {DEBUG}=1 for the traceback and report it"


def _usage(e: Any, given: Sequence[str]) -> str:
    message = e.format_message().strip().rstrip(".")
    path = e.ctx.command_path if getattr(e, "ctx", None) else "onnxprune"
    from onnxprune.cli.mistakes import explain_usage

    explained = explain_usage(e, message, given) or f"{message[:1].lower()}{message[1:]}"
    return f"{explained}; see '{path} --help'"


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from onnxprune.version import __version__

        print(f"onnxprune {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Examples:\n\n"
    "onnxprune inspect model.onnx\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --ratio 0.3\n\n"
    "onnxprune validate model.onnx smaller.onnx --max-error 0.01"
)
def onnxprune(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error; may stand anywhere. Or set {DEBUG}=1.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print errors only, and the result of --json; may stand anywhere.")
    ] = False,
) -> None:
    """Make an exported ONNX model smaller and faster by removing whole channels, and measure the error of its outputs.

    Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 a check failed, 2 an error,
    130 interrupted, 141 closed pipe.
    """
