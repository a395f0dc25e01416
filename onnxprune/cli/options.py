"""Options of the commands: those that are settings come from the table of settings, the others that several have stand here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.errors import OnnxPruneError
from onnxprune.settings import Setting, find_command_settings
from onnxprune.settings.batch import DURATION
from onnxprune.settings.table import FLAG, FUNCTION, INPUTS, PLACE, RATIOS, SIZE, TEXTS, to_option


def file_option(metavar: str, help: str) -> Any:
    """An option for a file of one run, which is no setting."""
    return typer.Option(metavar=metavar, help=help, rich_help_panel="Files")


MODEL = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; it is never changed.")]
REPORT = Annotated[Path | None, file_option("REPORT.json", "Write the report as JSON.")]
HTML = Annotated[Path | None, file_option("REPORT.html", "Write the report as a page to read in a browser.")]
JSON = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def output(kind: str) -> Any:
    """Where a command writes its model, which is smaller, sparse or repaired."""
    text = f"The path of the {kind} model (its data file, if any: OUT.HASH.data)."
    return typer.Option("--output", "-o", metavar="OUT", help=text)


def refuse_nan(value: Any) -> Any:
    """A callback of options that are numbers: bounds do not refuse nan in all versions of click."""
    if any(x is not None and math.isnan(x) for x in (value if isinstance(value, list | tuple) else [value])):
        raise typer.BadParameter("nan is no number")
    return value


def add_settings(*commands: str, required: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function of typer the options that are settings of these commands; it gets `settings`, those that were typed.

    Their values are those that a recipe has, checked one by one. Everyday options come first, right after `out`.
    """
    table = dict[str, tuple[Setting, str]]()
    for command in commands:  # of two settings of one name the first command's is meant
        for name, s in find_command_settings(command).items():
            table.setdefault(name, (s, command))
    panels = list(dict.fromkeys(s.panel_for(command) for s, command in table.values()))

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True)
        parameters = [p for name, p in own.parameters.items() if name != "settings"]

        def run(ctx: typer.Context, **values: Any) -> None:
            named = {n: (s, values.pop(s.negative or n), s.negative or n) for n, (s, _) in table.items()}
            typed = {n: (s, value) for n, (s, value, parameter) in named.items() if is_typed(ctx, parameter)}
            function(ctx, **values, settings=_check_typed(typed, "calib" in table))

        options = [_make_parameter(name, s, command, name in required) for name, (s, command) in table.items()]
        everyday = [o for o in options if not _find_panel(o)]
        others = sorted((o for o in options if _find_panel(o)), key=lambda o: panels.index(_find_panel(o)))
        at = next((i + 1 for i, p in enumerate(parameters) if p.name == "out"), len(parameters))
        ordered = [*parameters[:at], *everyday, *parameters[at:], *others]
        run.__signature__ = own.replace(parameters=[p.replace(kind=p.KEYWORD_ONLY) for p in ordered])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in ordered} | {"return": None}
        run.__doc__, run.__name__ = function.__doc__, function.__name__
        return run

    return decorate


def _find_panel(option: inspect.Parameter) -> str:
    """The heading of the help under which an option stands."""
    return option.annotation.__metadata__[0].rich_help_panel or ""


def _make_parameter(name: str, s: Setting, command: str, required: bool) -> inspect.Parameter:
    """A setting as the parameter of a command's function."""
    kind, default = _find_option_type(s, required), s.default_for(command)
    if s.negative:
        default = not default
    elif s.kind in (TEXTS, RATIOS):
        default = None
    flag = to_option(s.negative or name)
    option = typer.Option(
        f"--{flag}/--no-{flag}" if s.kind is FLAG and default is True else f"--{flag}",
        metavar=s.metavar or None,
        help=s.help_for(command),
        rich_help_panel=s.panel_for(command) or None,
        autocompletion=s.suggestions if s.choices or s.suggests else None,
    )
    return inspect.Parameter(
        s.negative or name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind, option],
    )


def _find_option_type(s: Setting, required: bool) -> Any:
    if s.kind is FLAG:
        return bool
    if s.kind in (TEXTS, RATIOS):
        return list[str] | None
    if s.kind in (INPUTS, PLACE):
        return Path if required else Path | None
    if s.kind in (DURATION, FUNCTION, SIZE):
        return str | None
    return s.annotation


def _check_typed(typed: Mapping[str, tuple[Setting, Any]], calibrates: bool) -> dict[str, Any]:
    """Plain values of the options that were typed. Raises OnnxPruneError for one that a setting cannot have."""
    plain = {name: _plain_value(s, value) for name, (s, value) in typed.items()}
    for name, (s, _) in typed.items():
        s.check_value(plain[name], name)
    if calibrates and "samples" in plain and "calib" not in plain:
        raise OnnxPruneError("--samples is the number of --calib inputs to use; give both")
    if plain.get("check") is False and "data" in plain:
        raise OnnxPruneError("--no-validate skips the comparison, so --data has no place beside it; drop one")
    return plain


def _plain_value(s: Setting, value: Any) -> Any:
    """The value of an option as a recipe has it."""
    if s.negative:
        return not value
    if s.kind is RATIOS:
        return parse_group_ratios(value)
    return str(value) if isinstance(value, Path) else value


def is_typed(ctx: typer.Context, name: str) -> bool:
    """Does the option stand on the command line?"""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_group_ratios(given: Sequence[str]) -> dict[str, float]:
    """The globs and ratios of `--group-ratio`, GLOB=R each. Raises OnnxPruneError."""
    return dict(map(_parse_glob_ratio, given))


def _parse_glob_ratio(text: str) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        return (glob, float(number)) if glob else (glob, float("no glob"))
    except ValueError:
        raise OnnxPruneError(f"--group-ratio '{text}': expected GLOB=R, as in --group-ratio 'layer4*=0.25'") from None
