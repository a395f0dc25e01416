"""What the commands print with: tables and text that fit the terminal, JSON, and numbers for people."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnxprune.cli import loudness
from onnxprune.wording import clean

Facts = list[tuple[str, object]]  # lines of a name and what there is to say of it
PIPE_WIDTH = 10_000  # nothing is wrapped where no terminal is
INDENT = (0, 2, 0, 0)
ASCII = str.maketrans({"…": "...", "→": "->", "×": "x"})


def emit(*parts: RenderableType) -> None:
    """Print to stdout, as wide as the terminal; in a pipe nothing is wrapped or colored."""
    if loudness.quiet:
        return
    out = sys.stdout
    console = Console(file=out, width=None if out.isatty() else PIPE_WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    lines = (line.rstrip() for line in capture.get().splitlines())
    out.write(_encodable("\n".join(lines) + "\n", out.encoding))
    out.flush()


def _encodable(text: str, encoding: str | None) -> str:
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(ASCII).encode(encoding or "ascii", "backslashreplace").decode(encoding or "ascii")
    return text


def emit_json(data: object) -> None:
    """Print a report, or a list of rows, to stdout as JSON, and nothing else."""
    from onnxprune.report import render_json

    print(render_json(data), end="", flush=True)


def warn(message: str) -> None:
    """A message for people, on stderr."""
    if loudness.quiet:
        return
    print(_encodable(f"warning: {clean(message)}", sys.stderr.encoding), file=sys.stderr, flush=True)


def note(message: str) -> None:
    """A line for people on stderr, of what is no fault."""
    if not loudness.quiet:
        print(_encodable(f"note: {clean(message)}", sys.stderr.encoding), file=sys.stderr, flush=True)


WITHOUT_DATA = "without data the remaining accuracy is unknown; give a hundred inputs with --calib"


def has_data(settings: Mapping[str, object]) -> bool:
    """Is there something to watch the network on, or to compare on?"""
    return any(settings.get(name) for name in ("calib", "data"))


def text(value: object, style: str = "") -> Text:
    """A table cell or a line: text from a file is never markup, and is folded rather than cut."""
    return Text(clean(str(value)), style, overflow="fold")


def table(columns: Iterable[str], rows: Iterable[Sequence[object]], indent: int = 0) -> RenderableType:
    """A table without lines. A column is flush right where its title begins with `>`."""
    grid = Table(box=None, padding=INDENT, header_style="bold", show_edge=False)
    for c in columns:
        grid.add_column(c.removeprefix(">"), justify="right" if c.startswith(">") else "left", overflow="fold")
    return _filled(grid, rows, indent)


def markdown_table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as Markdown."""
    names = list(columns)
    head = "| " + " | ".join(c.removeprefix(">") for c in names) + " |"
    rule = "|" + "".join("---:|" if c.startswith(">") else "---|" for c in names)
    cells = ("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
    return "\n".join([head, rule, *cells])


def grid(rows: Iterable[Sequence[object]], indent: int = 0) -> RenderableType:
    """Aligned cells without a header."""
    return _filled(Table.grid(padding=INDENT), rows, indent)


def _filled(grid: Table, rows: Iterable[Sequence[object]], indent: int) -> RenderableType:
    for row in rows:
        grid.add_row(*(c if isinstance(c, Text) else text(c) for c in row))
    return indented(grid, indent) if indent else grid


def indented(part: RenderableType, by: int = 2) -> RenderableType:
    return Padding(part, (0, 0, 0, by), expand=False)


def facts(rows: Iterable[tuple[str, object]]) -> Table:
    """Lines of a name and what there is to say of it."""
    grid = Table.grid(padding=INDENT)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value if isinstance(value, Text) else text(value))
    return grid


def more(count: int, what: str) -> Text:
    """The line under a list that was cut."""
    return text(f"... and {count} more {what} (--verbose lists them)", "dim")


# numbers


def count(n: int | None, unit: str = "") -> str:
    """1234567 -> `1.235 M`; None -> `unknown`."""
    if n is None:
        return "unknown"
    if abs(n) < 10_000 and not unit:
        return f"{n:,}"
    size = float(n)
    for prefix in ("", "k", "M", "G", "T"):
        if abs(size) < 999.95 or prefix == "T":
            return f"{size:.4g} {prefix}{unit}".rstrip() if prefix else f"{n} {unit}".rstrip()
        size /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """0.00042 -> `420 us`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def percent(part: float | None, whole: float | None = 1.0) -> str:
    return "" if part is None or not whole else f"{100 * part / whole:.1f}%"


def relative(path: str) -> str:
    """A path as short as it can be said from here."""
    try:
        short = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return short if len(short) < len(path) and not short.startswith("..") else path
