"""The README is short, its commands run, and its figures are those of the page of results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from documents import README, ROOT, blocks, named_options, options, read_page, rows
from onnx import helper, load, save
from tiny import model, tensor
from typer.testing import CliRunner

from onnxprune.cli import commands

TEXT = README.read_text(encoding="utf-8")
PYTHON = blocks(TEXT, "python")
BUILT_BY_CI = ("Prune a model", "Run the tests")  # .ci/run runs these blocks
EXPORT = next(code for code in PYTHON if "torch.onnx.export" in code)
MOST_WORDS = 900


def in_python(folder: Path, code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def in_shell(folder: Path, line: str) -> str:
    assert line.startswith("onnxprune ")
    env = os.environ | {"PYTHONPATH": str(ROOT), "ONNXPRUNE_CLOCK_SECONDS": "1"}
    command = f"{sys.executable} -m {line}"
    done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after the first two steps: a model, calibration inputs, and a folder of images."""
    from PIL import Image

    root = tmp_path_factory.mktemp("reader")
    if find_spec("torch"):
        in_python(root, EXPORT)
    else:
        save(stand_in(), root / "model.onnx")
    in_python(root, next(code for code in PYTHON if "np.savez" in code))
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(root / "images" / f"{i}.png")
    return root


def stand_in():  # type: ignore[no-untyped-def]
    """The network of the README, where torch is not there to export it."""
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 3, 3, 3), "b": (64, 64, 3, 3), "c": (64, 10)}
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x1"]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "b"], ["x3"]),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("GlobalAveragePool", ["x4"], ["x5"]),
        helper.make_node("Flatten", ["x5"], ["x6"]),
        helper.make_node("MatMul", ["x6", "c"], ["scores"]),
    ]
    return model(nodes, [tensor("image", ["batch", 3, 32, 32])], [tensor("scores", ["batch", 10])], weights)


def test_it_is_short() -> None:
    assert len(TEXT.split()) <= MOST_WORDS


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT)
    missing = [x for x in links if "://" not in x and not (ROOT / x).exists()]
    assert len(links) > 20 and not missing


def test_every_option_exists() -> None:
    assert named_options(TEXT) <= options(), f"the README names {sorted(named_options(TEXT) - options())}"


def test_the_first_model_is_pruned(tmp_path: Path) -> None:
    """.ci/run runs the whole block; here its last line, but for the folder of the environment."""
    part = TEXT[TEXT.index("## Prune a model") :]
    *_, line = blocks(part, "sh")[0].splitlines()
    shutil.copytree(ROOT / "models", tmp_path / "models")
    shown = in_shell(tmp_path, line.removeprefix(".venv/bin/"))
    before, after = map(float, re.findall(r"accuracy +([\d.]+)% -> ([\d.]+)%", shown)[0])
    claimed = re.search(r"accuracy\s+changes from ([\d.]+) % to ([\d.]+) %", TEXT)
    assert claimed and before == float(claimed[1]) and abs(after - float(claimed[2])) < 1


def test_the_commands_for_ones_own_model_run(folder: Path) -> None:
    part = TEXT[TEXT.index("## Your own model") : TEXT.index("## Which options")]
    lines = [line for body in blocks(part, "sh") for line in body.splitlines()]
    assert len(lines) == 4 and [line.split()[1] for line in lines] == ["inspect", "prune", "prune", "validate"]
    for line in lines:
        assert in_shell(folder, line)
    assert (folder / "smaller.onnx").is_file()


def test_the_export_of_pytorch_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    in_python(tmp_path, EXPORT)
    assert [i.name for i in load(tmp_path / "model.onnx").graph.input] == ["image"]


@pytest.mark.skipif(not (find_spec("sklearn") and find_spec("skl2onnx")), reason="scikit-learn or skl2onnx is absent")
def test_the_model_of_scikit_learn_can_be_pruned(tmp_path: Path) -> None:
    in_python(tmp_path, next(code for code in PYTHON if "skl2onnx" in code))
    assert "neurons" in in_shell(tmp_path, "onnxprune prune mlp.onnx -o small.onnx --ratio 0.3")


TABLE = TEXT[TEXT.index("## Which options") : TEXT.index("## Expected results")]
CHOICES = [code for row in rows(TABLE)[1:] for code in re.findall("`(--[^`]+)`", row[1])]


@pytest.mark.parametrize("typed", CHOICES)
def test_the_options_for_a_target_are_possible(typed: str) -> None:
    """Those that say no amount are beside one."""
    if "distill" in typed:
        pytest.importorskip("torch")
    amount = [] if re.search("macs|bytes|params|latency|max-drop", typed) else ["--macs", "0.6"]
    given = ["--calib", ROOT / "models" / "digits_calib.npz", "--samples", "20", "--dry-run", *amount, *typed.split()]
    more = ["--data", ROOT / "models" / "digits_test.npz"] if "max-drop" in typed else []
    line = ["prune", ROOT / "models" / "digits_cnn.onnx", *given, *more]
    done = CliRunner().invoke(commands(), [str(word) for word in line])
    if "max-drop" in typed:
        assert done.exit_code == 2 and "labels" in done.output  # digits_calib has none
    else:
        assert done.exit_code == 0, done.output


def test_the_figures_are_those_of_the_results() -> None:
    known = [
        (row[1].split(" (")[0], row[2].split(" (")[0], row[3]) for row in rows(read_page("results.md")) if len(row) == 4
    ]
    expected = rows(TEXT[TEXT.index("## Expected results") : TEXT.index("## Documentation")])[1:]
    assert len(expected) > 4
    for _, typed, accuracy, time in expected:
        if "→" in accuracy:
            assert (typed, accuracy, time) in known
        else:
            assert ".75 to .78" in read_page("results.md") and "75 to 78 %" in accuracy
