"""A wheel has all files of the package that run or are shown."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="the build needs it, and may not be able to fetch it")
ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "onnxprune")
LEFT_OUT = {"README.md", "CHANGELOG.md"}  # for readers of the repository; so are images that no terminal shows


def test_a_wheel_has_the_files_of_the_package(tmp_path: Path) -> None:
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(build, cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "dist").glob("onnxprune-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("onnxprune/")}
    files = {p for p in (ROOT / "onnxprune").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    expected = {p.relative_to(ROOT).as_posix() for p in files if p.name not in LEFT_OUT and p.suffix != ".png"}
    assert packed == expected
