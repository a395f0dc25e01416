"""The files that define what onnxprune exports are those whose docstrings ruff checks in full."""

import importlib
import re
import tomllib
from pathlib import Path

import onnxprune

ROOT = Path(onnxprune.__file__).parent


def files_checked_in_full() -> set[str]:
    """The files that pyproject.toml exempts from the exemption of D1."""
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    (pattern,) = (glob for glob, codes in settings["per-file-ignores"].items() if codes == ["D1"])
    names = re.fullmatch(r"!onnxprune/\{(.*)\}\.py", pattern)
    assert names, pattern
    return {f"{name}.py" for name in names[1].split(",")}


def test_files_of_public_names_are_checked_in_full() -> None:
    objects = [getattr(onnxprune, name) for name in onnxprune.__all__ if name != "__version__"]
    modules = {importlib.import_module(x.__module__) for x in objects}
    homes = {Path(str(m.__file__)).relative_to(ROOT).as_posix() for m in modules}
    assert homes <= files_checked_in_full()


def test_files_checked_in_full_exist() -> None:
    assert all((ROOT / file).is_file() for file in files_checked_in_full())
