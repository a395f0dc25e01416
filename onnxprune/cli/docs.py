"""`onnxprune docs`: the pages of the documentation, which are part of the package, on the terminal."""

from __future__ import annotations

import re
import sys
from html import unescape
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated

import typer

from onnxprune.cli.app import app
from onnxprune.errors import OnnxPruneError

PAGES = "onnxprune", "docs"
SUFFIX = ".md"
LINK = re.compile(r"\[([^]]+)\]\([\w/.-]+\.md\)")  # to another page: a terminal cannot follow it


def find_pages(folder: str | None = None) -> dict[str, Traversable]:
    """The pages by topic, recipes last; or those of one folder."""
    package, name = PAGES
    root = files(package) / name
    folders = sorted((d for d in root.iterdir() if d.is_dir()), key=lambda d: d.name)
    chosen = [root, *folders] if folder is None else [d for d in folders if d.name == folder]
    pages = [page for d in chosen for page in sorted(d.iterdir(), key=lambda p: p.name) if page.name.endswith(SUFFIX)]
    return {page.name.removesuffix(SUFFIX): page for page in pages}


def _suggest(begun: str) -> list[str]:
    return [topic for topic in find_pages() if topic.startswith(begun)]


@app.command(
    rich_help_panel="Lists", epilog="Examples:\n\nonnxprune docs\n\nonnxprune docs faq\n\nonnxprune docs bert | less"
)
def docs(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="[TOPIC]",
            help="Which page, or 'recipes' for a list of these; without, all are listed.",
            autocompletion=_suggest,
        ),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the pages.")] = False,
) -> None:
    """Show a page of the documentation; without a topic, list all pages.

    In a pipe the page is plain text.
    """
    pages = find_pages()
    if topic is None or list_all:
        _list(pages)
    elif in_folder := find_pages(topic.lower().strip("/")):
        _list(in_folder)
    else:
        _show(_find(pages, topic).read_text(encoding="utf-8"))


def _list(pages: dict[str, Traversable]) -> None:
    from onnxprune.cli.console import emit, table, text

    titles = [(topic, _read_title(page)) for topic, page in pages.items()]
    emit(table(("topic", "title"), titles), "", text("onnxprune docs TOPIC shows one of them"))


def _read_title(page: Traversable) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _find(pages: dict[str, Traversable], topic: str) -> Traversable:
    name = topic.lower().removesuffix(SUFFIX).rpartition("/")[2]
    if name not in pages:
        from onnxprune.plain_settings import suggest_near

        raise OnnxPruneError(f"there is no topic '{topic}'; {suggest_near(name, pages)}")
    return pages[name]


def _show(page: str) -> None:
    from rich.markdown import Markdown
    from rich.text import Text

    from onnxprune.cli.console import emit

    rendered = Markdown(LINK.sub(r"\1", page)) if sys.stdout.isatty() else Text(unescape(page.rstrip()))
    emit(rendered)
