"""The scripts of tools/examples, run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tools" / "examples"
MODELS = ROOT / "models"
CNN, CALIB, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz", MODELS / "digits_test.npz"


def run(name: str, *args: object) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "ONNXPRUNE_CLOCK_SECONDS": "1"}
    command = [sys.executable, EXAMPLES / name, *args]
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_are_run_here() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        "custom_criterion.py", "decoder_cache.py", "masked_model.py", "sweep.py"
    }  # fmt: skip


def test_a_sweep_of_budgets() -> None:
    shown = run("sweep.py", CNN, "--calib", CALIB, "--data", TEST, "--samples", 64, "--macs", 0.7, 0.5)
    rows = re.findall(r"^(\d\.\d\d)  ([\d.]+) -> ([\d.]+)  \S+", shown, re.MULTILINE)
    assert [row[0] for row in rows] == ["0.70", "0.50"]
    assert all(row[1] == "1.000" and float(row[2]) > 0.9 for row in rows)


def test_a_criterion_of_ones_own() -> None:
    shown = dict(
        re.findall(r"^(\w+) +accuracy ([\d.]+)$", run("custom_criterion.py", CNN, "--data", TEST), re.MULTILINE)
    )
    assert set(shown) == {"range", "l2"} and shown["range"] != shown["l2"]


def test_a_masked_model(tmp_path: Path) -> None:
    shown = run("masked_model.py", CNN, "-o", tmp_path / "small.onnx")
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) with", shown))
    error = float(re.findall(r"between them: (\S+)", shown)[0])
    assert after < 0.3 * before and error < 1e-5
    assert (tmp_path / "small.onnx").stat().st_size < 0.4 * CNN.stat().st_size


def test_a_decoder_with_a_cache(tmp_path: Path) -> None:
    layer, smaller = tmp_path / "decoder.onnx", tmp_path / "smaller.onnx"
    shown = run("decoder_cache.py", "-o", layer, "--pruned", smaller)
    kept, size = map(int, re.findall(r"W1: (\d+) of (\d+) neurons kept", shown)[0])
    assert kept < size and "Wk[1] is frozen: graph input 'past_key'" in shown
    old, new = onnx.load(layer), onnx.load(smaller)
    assert [i.type for i in old.graph.input] == [i.type for i in new.graph.input]
