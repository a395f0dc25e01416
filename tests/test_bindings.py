"""Names say what they hold: no binding is called `found` or `made`, and no two classes share a name."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(onnxprune.__file__).parent
REFUSED = {"found", "made", "said", "how", "mine", "held", "told"}


def bindings(path: Path) -> Iterator[str]:
    """The names that a file gives to variables, parameters, attributes, functions and classes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name


def files_with_refused_names() -> set[tuple[str, str]]:
    pairs = ((path.relative_to(ROOT).as_posix(), path) for path in ROOT.rglob("*.py"))
    return {(file, name) for file, path in pairs for name in bindings(path) if name in REFUSED}


def test_bindings_are_nouns() -> None:
    assert files_with_refused_names() == set()


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "for made in x: pass",
        "[said for said in x]",
        "def f(how): pass",
        "lambda *mine: 0",
        "x.held = 1",
        "(told := 1)",
        "def made(): pass",
        "import x as found",
        "try: pass\nexcept E as held: pass",
        "match x:\n    case [*mine]: pass",
        "with x as found: pass",
    ],
)
def test_every_kind_of_binding_is_seen(code: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(code)
    assert REFUSED.intersection(bindings(path))


def classes_by_name(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Where the classes of some files are defined, by name; a leading underscore makes no other name."""
    places = defaultdict[str, list[str]](list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path.name}:{node.lineno}")
    return places


def test_no_two_classes_share_a_name() -> None:
    classes = classes_by_name(sorted(ROOT.rglob("*.py")))
    assert len(classes) > 100 and {name: places for name, places in classes.items() if len(places) > 1} == {}


def test_shared_names_of_classes_are_seen(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("class Graph: pass")
    second.write_text("def f():\n    class _Graph: pass")
    assert classes_by_name([first, second]) == {"Graph": ["a.py:1", "b.py:2"]}
