"""The walk-throughs of the page for contributors, done: each change in a copy of the repository, then its commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "onnxprune" / "docs" / "contributing.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WALKS = dict(re.findall(r"^## Add an? (\w+)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
COPIED = ("onnxprune", "tests", "models")


def change(root: Path, language: str, text: str) -> None:
    """Do what a block says: its first line names the file."""
    first, _, body = text.partition("\n")
    found = re.fullmatch(r"# ([\w/.]+)(: a new file|, at the end|)", first)
    assert found, f"what is to be done with {first!r}?"
    path, how = root / found[1], found[2]
    if language == "python" and how == ": a new file":
        assert not path.exists()
        path.write_text(body, encoding="utf-8")
    elif language == "python":
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{body}", encoding="utf-8")
    else:
        before, after = ("\n".join(x[1:] for x in body.splitlines() if x[:1] in (" ", sign)) for sign in "-+")
        old = path.read_text(encoding="utf-8")
        assert old.count(before) == 1, f"{path.name} has {old.count(before)} times {before!r}"
        path.write_text(old.replace(before, after), encoding="utf-8")


def follow(walk: str, root: Path) -> list[str]:
    """Make the changes of a walk-through in a copy, and run its commands there: what they print."""
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = BLOCK.findall(WALKS[walk])
    for language, text in blocks:
        if language != "sh":
            change(root, language, text)
    lines = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    return [run(root, line) for line in lines]


def run(root: Path, line: str) -> str:
    program, _, rest = line.partition(" ")
    command = f"{sys.executable} -m {program} {rest}" + (" -p no:cacheprovider" if program == "pytest" else "")
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "COLUMNS": "200"}
    done = subprocess.run(command, shell=True, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_there_are_six_walks() -> None:
    assert set(WALKS) == {"operator", "criterion", "pattern", "target", "setting", "command"}


def test_an_operator(tmp_path: Path) -> None:
    (shown,) = follow("operator", tmp_path)
    assert "3 passed" in shown


def test_a_criterion(tmp_path: Path) -> None:
    listed, pruned = follow("criterion", tmp_path)
    assert re.search(r"^spread .*max_i w_ci - min_i w_ci .*this page", listed, re.MULTILINE)
    assert "criterion spread" in pruned


def test_a_pattern(tmp_path: Path) -> None:
    sparse, checked = follow("pattern", tmp_path)
    assert "input" in sparse and "input" in checked


def test_a_target(tmp_path: Path) -> None:
    follow("target", tmp_path)
    kept = _kept(tmp_path, "prune models/digits_cnn.onnx --dry-run --ratio 0.3 --target npu --json")
    assert kept and all(n % 16 == 0 for n in kept)
    run(tmp_path, "pytest -q tests/test_targets.py -k names")


def test_a_setting(tmp_path: Path) -> None:
    follow("setting", tmp_path)
    kept = _kept(tmp_path, "prune models/digits_cnn.onnx --dry-run --ratio 0.9 --min-channels 24 --target none --json")
    assert min(kept) == 24
    assert "--min-channels" in run(tmp_path, "onnxprune prune --help")


def test_a_command(tmp_path: Path) -> None:
    (shown,) = follow("command", tmp_path)
    assert shown == "288 channels in 4 groups\n"


def _kept(root: Path, line: str) -> list[int]:
    return [g["kept"] for g in json.loads(run(root, f"onnxprune {line}"))["groups"]]


def test_a_change_that_does_not_fit_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(AssertionError, match="0 times"):
        change(tmp_path, "diff", "# a.py\n-x = 2\n+x = 3\n")
    change(tmp_path, "diff", "# a.py\n-x = 1\n+x = 3\n")
    assert (tmp_path / "a.py").read_text() == "x = 3\n"
