"""The versions that are stated are those that are tested: bounds, constraints, the workflow and the page agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def read_constraints(name: str) -> dict[str, str]:
    lines = (ROOT / "tests" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def read_bounds() -> dict[str, str]:
    """The lowest version of each package that is needed, or that an extra needs which the tests install."""
    extras = PROJECT["optional-dependencies"]
    needed = [*PROJECT["dependencies"], *extras["images"], *extras["batch"], *extras["dask"]]
    matches = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in needed]
    return {match[1]: match[2] for match in matches if match}


def parse(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_lowest_versions_are_the_stated_ones() -> None:
    bounds, lowest = read_bounds(), read_constraints("constraints-lowest.txt")
    assert len(bounds) == 11 and bounds.keys() <= lowest.keys()
    for name, bound in bounds.items():
        padded = (*parse(bound), 0, 0)[: len(parse(lowest[name]))]
        assert parse(lowest[name]) == padded, f"{name}>={bound} is tested with {lowest[name]}"


def test_the_newest_versions_are_not_below_the_lowest() -> None:
    lowest, newest = read_constraints("constraints-lowest.txt"), read_constraints("constraints.txt")
    for name, version in lowest.items():
        assert parse(newest[name.lower()]) >= parse(version), name


def test_the_workflow_runs_the_lowest_and_the_newest() -> None:
    runs = re.findall(r'- \{ python: "([\d.]+)", run: (.+) \}', WORKFLOW)
    (oldest,) = re.findall(r"^>=(3\.\d+)$", PROJECT["requires-python"])
    assert (oldest, ".ci/run") in runs and (oldest, ".ci/run tests/constraints-lowest.txt") in runs
    assert max(parse(python) for python, _ in runs) > parse(oldest)


def test_the_page_states_them() -> None:
    page = (ROOT / "onnxprune" / "docs" / "contributing.md").read_text(encoding="utf-8")
    lowest, newest = read_constraints("constraints-lowest.txt"), read_constraints("constraints.txt")
    for name in ("onnx", "onnxruntime", "numpy"):
        assert f"| {name} | {lowest[name]} | {newest[name]} |" in page
    pythons = sorted(set(re.findall(r'python: "([\d.]+)"', WORKFLOW)), key=parse)
    assert f"| Python | {pythons[0]} | {pythons[-1]} |" in page
