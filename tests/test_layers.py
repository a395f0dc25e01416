"""Imports run downwards only, and third-party libraries stay in the rooms that own them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "onnxprune"
# From the ground up. A module may import those before it, and its own package. What a record of an operator is stands below the
# graphs, which look operators up; the rules, which fill the records in, stand above.
FLOORS = [
    "version", "errors", "wording", "progress", "machine", "settings", "targets", "axes",
    "report.types", "report.plain", "report.degraded", "graph.view", "ops.records", "graph", "layout", "ops",
    "gradients", "coupling", "macs", "groups", "units", "experts", "signals", "criteria", "scoring",
    "plans", "surgery", "calibration", "measure", "repair", "free", "convert", "quantize", "sparsity", "validation", "training",
    "allocate", "plain_settings", "explain", "report", "result", "forecast", "pipeline", "candidates", "distillation",
    "vocabulary", "record", "display", "api", "batch", "passes", "__init__", "cli", "__main__",
]  # fmt: skip
OWNERS = {
    "typer": {"cli"},
    "rich": {"cli", "display"},
    "IPython": {"display"},
    "pydantic": {"report.plain"},
    "onnxruntime": {"calibration", "convert", "graph", "quantize"},
    "PIL": {"calibration"},
    "torch": {"gradients", "training"},
}
MODULES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return floor_of(".".join(path.relative_to(ROOT).parts).removesuffix(".py"))


def floor_of(module: str) -> str:
    """The floor of a module of the package, by its dotted name."""
    parts = module.split(".")
    return next(floor for n in range(len(parts), 0, -1) if (floor := ".".join(parts[:n])) in FLOORS or n == 1)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    package = ("onnxprune", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *([node.module] if node.module else [])))
            found |= {f"{name}.{a.name}" for a in node.names} if name == "onnxprune" else {name}
    return found


def test_every_room_has_a_floor() -> None:
    assert {room(p) for p in MODULES} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    mine = FLOORS.index(room(path))
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "onnxprune":
            target = floor_of(rest)
            floor = FLOORS.index(target if target in FLOORS else "__init__")
            assert floor <= mine, f"{path.name} imports {name}, which stands above it"
        elif top in OWNERS:
            assert room(path) in OWNERS[top], f"{top} belongs to {sorted(OWNERS[top])}, but {path.name} imports it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_rules_and_coupling_see_layouts_that_change(path: Path) -> None:
    sees = "onnxprune.layout" in imports(path)
    assert not sees or room(path) in ("ops", "coupling"), f"{path.name} imports the solver; axes.py is for all others"


def test_the_check_can_fail(tmp_path: Path) -> None:
    bad = ROOT / "layout.py"
    assert "onnxprune.api" not in imports(bad)
    assert "onnxprune.layout" in imports(ROOT / "coupling.py")
    assert imports(ROOT / "api.py") >= {"onnxprune.allocate", "onnxprune.surgery"}
