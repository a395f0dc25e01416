"""The pages of the documentation say what the code does, and `onnxprune docs` shows them."""

from __future__ import annotations

import io
import re
import shutil
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import DOCS, PAGES, ROOT, blocks, command_lines, group, named_options, options, read_page
from test_cli import MODELS, call, fails
from test_layers import FLOORS

import onnxprune
from onnxprune.cli.docs import docs as show
from onnxprune.cli.docs import find_pages
from onnxprune.criteria import ROLES, TableRow, list_criteria
from onnxprune.report import to_json
from onnxprune.report.builders import inspect_report
from onnxprune.settings.training import TRAIN_METHODS

IDS = [p.relative_to(DOCS).as_posix() for p in PAGES]
# Words of the pages that were found hard to read, and what they meant.
PLAIN = r"\bpictures?\b|colour|\bgrey\b|normalis|what went|what is frozen|\bis gone\b|\btold\b"


@pytest.mark.parametrize("row", list_criteria(), ids=lambda r: r.name)
def test_every_criterion_is_in_the_table_with_its_source(row: TableRow) -> None:
    lines = [line for line in read_page("criteria.md").splitlines() if line.startswith(f"| `{row.name}` |")]
    assert len(lines) == 1 and row.source in lines[0]


def test_every_command_is_named() -> None:
    for name in group().commands:
        assert re.search(rf"^onnxprune {name}\b", read_page("cli.md"), re.MULTILINE), f"cli.md lacks 'onnxprune {name}'"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_option_exists(page: Path) -> None:
    assert named_options(read_page(page)) <= options(), f"it names {sorted(named_options(read_page(page)) - options())}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_can_be_parsed(page: Path) -> None:
    """Walk-throughs for contributors add options and commands; their test runs them."""
    if page.name == "contributing.md":
        pytest.skip("run by test_contributing.py")
    for name, *words in command_lines(read_page(page)):
        command = group().commands[name]
        context = command.make_context(name, [w for w in words if w != "|"])
        assert context.command is command


def test_pages_have_commands() -> None:
    lines = [line for page in PAGES for line in command_lines(read_page(page))]
    assert len(lines) > 20


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_its_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"`[^`]*`", "", read_page(page)))
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_it_is_plain_english(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`]*`|</?picture>", "", read_page(page), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(PLAIN, text)


def test_files_that_it_names_exist() -> None:
    for page in PAGES:
        if page.name != "contributing.md":
            named = set(re.findall(r"`((?:onnxprune|tools|tests|models)/[\w/.-]+\.\w+)`?", read_page(page))) - {
                "onnxprune/timings.jsonl"  # in the user's folder for caches
            }
            missing = [name for name in named if not (ROOT / name).exists()]
            assert not missing, f"{page.name} names {missing}"


def test_every_key_is_documented() -> None:
    report = inspect_report(onnxprune.analyze(ROOT / "models" / "digits_vit.onnx"))
    part = report.groups[0]
    keys = {key for x in (report, part, part.members[0], report.frozen[0]) for key in to_json(x)}
    missing = {k for k in keys if f"`{k}`" not in read_page("json.md")}
    assert not missing, f"json.md does not name {sorted(missing)}"


def test_every_floor_is_described() -> None:
    missing = [f for f in FLOORS if not f.startswith("__") and f"`{f}`" not in read_page("architecture.md")]
    assert not missing, f"architecture.md lacks {missing}"


def test_the_glossary_has_the_words_of_the_reports() -> None:
    page = read_page("architecture.md")
    terms = ("group", "member", "role", "frozen", "layout", "unit", "exact", "free", "degraded", "held out")
    assert all(f"*{term}*" in page for term in terms)
    assert all(f"`{role}`" in page for role in ROLES)


def test_the_lines_of_the_page_on_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODELS / "digits_cnn.onnx", "model.onnx")
    np.savez("calib.npz", image=np.load(MODELS / "digits_calib.npz")["image"][:64])
    for code in blocks(read_page("python.md"), "python"):
        Path("smaller.onnx").unlink(missing_ok=True)
        exec(code, {})
        assert Path("smaller.onnx").is_file()


def test_the_metric_of_the_page_on_data_can_be_used(tmp_path: Path) -> None:
    (code,) = blocks(read_page("data.md"), "python")
    (tmp_path / "metrics.py").write_text(code, encoding="utf-8")
    model, data = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
    shown = call("validate", model, model, "--data", data, "--metric", f"{tmp_path / 'metrics.py'}:top1").stdout
    assert re.search("top1 +1 -> 1", shown)


# where pages are


def test_every_page_is_in_the_navigation_and_in_the_index() -> None:
    found = set(
        re.findall(r": ([\w/-]+\.md)$", (ROOT / "tools" / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert found == set(IDS)
    assert set(re.findall(r"\]\(([\w/-]+\.md)\)", read_page("index.md"))) == set(IDS) - {"index.md"}


def test_every_page_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    data = settings["tool"]["setuptools"]["package-data"]
    for page in PAGES:
        package = ".".join(page.parent.relative_to(ROOT).parts)
        assert any(fnmatch(page.name, glob) for glob in data[package]), page


# the command


def test_topics_are_listed() -> None:
    for shown in (call("docs"), call("docs", "--list")):
        assert shown.exit_code == 0
        assert re.search("^faq +Questions and troubleshooting$", shown.stdout, re.MULTILINE)
        assert all(re.search(f"^{p.stem} ", shown.stdout, re.MULTILINE) for p in PAGES)


def test_recipes_are_listed_by_themselves() -> None:
    shown = call("docs", "recipes")
    assert shown.exit_code == 0 and re.search("^bert +Recipe: ", shown.stdout, re.MULTILINE)
    assert not re.search("^faq ", shown.stdout, re.MULTILINE)


@pytest.mark.parametrize("topic", ["faq", "faq.md", "FAQ"])
def test_a_page_is_plain_text_in_a_pipe(topic: str) -> None:
    shown = call("docs", topic).stdout
    assert shown.startswith("# Questions and troubleshooting\n") and "\x1b" not in shown
    assert [x for x in shown.splitlines() if x] == [x.rstrip() for x in read_page("faq.md").splitlines() if x.strip()]


def test_a_recipe_is_found_by_its_path_too() -> None:
    assert call("docs", "recipes/bert").stdout == call("docs", "bert").stdout != ""


def test_formulas_are_readable_in_a_pipe() -> None:
    assert "| `l1` | s_c = sum_i |w_ci| |" in call("docs", "criteria").stdout


def test_an_unknown_topic_is_one_line() -> None:
    fails(call("docs", "fag"), "there is no topic 'fag'; did you mean 'faq'?")
    fails(call("docs", "zzzzzz"), "there is no topic 'zzzzzz'; there are", "faq")


def test_a_terminal_gets_rendered_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    shown: Any = Terminal(io.BytesIO(), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", shown)
    show("targets")
    shown.seek(0)
    text = shown.read()
    assert "Targets" in text and "# Targets" not in text and "|---|" not in text and "results.md" not in text
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", text).splitlines())) <= 80


def test_topics_have_different_names() -> None:
    assert len(find_pages()) == len(PAGES)


def test_every_method_of_training_has_a_row_with_its_source() -> None:
    rows = [line for line in read_page("train.md").splitlines() if line.startswith("| `")]
    for name in TRAIN_METHODS:
        (row,) = (r for r in rows if r.startswith(f"| `{name}` |"))
        assert "arXiv" in row and row.count(" | ") == 3
