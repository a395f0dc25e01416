"""No file outside ops/ names an operator, except where a format is handled: what an operator is stands in its record.

How torch computes one stands in a second table by the same names, gradients/ops/, since torch is optional.
"""

import ast
from pathlib import Path

import onnxprune.ops.rules  # fills the table of records
from onnxprune.ops.records import load_records

ROOT = Path(onnxprune.__file__).parent
MOST = 30
# The files that may, which names, and why.
ALLOWED = {
    "calibration/own.py": ("Gather", "it has a language model hand out the scores at one position"),
    "convert.py": (
        "Gemm MatMul Reshape",
        "it writes matrix products as Gemm nodes, which sparse kernels are picked for",
    ),
    "criteria/__init__.py": ("Slice", "a class of the project's own has that name"),
    "graph/caches.py": (
        "Concat Identity",
        "a cache is an input that a Concat appends to, where an Identity may follow",
    ),
    "graph/edit.py": ("Identity", "it leaves one where a unit goes, and skips it in the end"),
    "graph/flat.py": (
        "CallClose CallOpen Close Identity If Loop Scan",
        "it defines the markers, and writes bodies and calls out and back",
    ),
    "graph/trace.py": ("Slice Split", "it corrects what onnx's shape functions of these two say of dynamic sizes"),
    "measure/mask_statistics.py": (
        "Identity",
        "it gives each reader of a value a copy, so that the reader has a gradient of its own",
    ),
    "sparsity/tensorrt.py": ("Conv Gemm MatMul", "the operators that TensorRT has sparse kernels for"),
    "surgery.py": ("Reshape", "it writes a Reshape, and knows what 0 and -1 mean in its input"),
}


def names_in(path: Path) -> list[str]:
    """The string literals of a file, without docstrings, that are names of operators with a record."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docs = {id(b.body[0].value) for b in blocks if isinstance(b.body[0], ast.Expr)}
    strings = [
        n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs
    ]
    known = {op for _, op in load_records()}
    return [n.value for n in strings if n.value in known]


def outside() -> dict[str, list[str]]:
    files = {p.relative_to(ROOT): names_in(p) for p in sorted(ROOT.rglob("*.py"))}
    return {p.as_posix(): found for p, found in files.items() if found and "ops" not in p.parts[:-1]}


def test_files_that_name_operators_are_listed_with_a_reason() -> None:
    assert {p: set(found) for p, found in outside().items()} == {
        p: set(names.split()) for p, (names, _) in ALLOWED.items()
    }
    assert all(reason for _, reason in ALLOWED.values())


def test_there_are_few_of_them() -> None:
    assert sum(map(len, outside().values())) < MOST


def test_the_count_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text('"""Conv"""\nif node.op_type in ("Conv", "Add", "no operator"):\n    pass\n')
    assert names_in(file) == ["Conv", "Add"]
