"""The fuzzer: its graphs are repeatable and keep the laws, and it finds and shrinks a planted defect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import fuzz
from fuzzing.graph import build

from onnxprune.ops import shape
from onnxprune.ops.records import Record, load_records
from onnxprune.ops.registry import Axes, Op


def test_some_random_graphs_keep_the_laws() -> None:
    tally = fuzz.batch(range(40), fuzz.Options(seed=7, attempts=0))
    assert tally.graphs >= 35, f"too many graphs come to nothing: {tally.rejected}"
    assert not tally.failures, fuzz.summary(tally, 7, 0)
    assert len(tally.operators) >= 50


def test_a_seed_is_a_graph() -> None:
    one, two = (build("3/14") for _ in range(2))
    assert one.proto.SerializeToString(deterministic=True) == two.proto.SerializeToString(deterministic=True)
    for a, b in zip(one.feeds, two.feeds, strict=True):
        assert all((a[n] == b[n]).all() for n in a)


def test_a_planted_defect_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Transpose whose channels stay where they were, wherever the sizes hide it."""

    def forgetful(op: Op) -> list[Axes | None]:
        x, (y,) = op.x(0), shape.transpose(op)
        same = [d.size for d in x] == [d.size for d in y or ()]
        return [list(x)] if same else [y]

    monkeypatch.setitem(load_records(), ("", "Transpose"), [Record("Transpose", "", 1, 10**6, forgetful)])
    options = fuzz.Options(seed=1, laws=("permutation", "removal", "shapes"), attempts=80)
    for index in range(200):
        found = fuzz.check(index, options).failures
        if found:
            nodes = [n.op_type for n in found[0].shrunk.proto.graph.node]
            assert "Transpose" in nodes and len(nodes) <= 6, fuzz.text(found[0].shrunk.proto)
            return
    pytest.fail("200 graphs, and none told")


def test_the_command_reproduces_one_graph(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fuzz.main(["--seed", "7", "--only", "3", "--laws", "identity,shapes", "--out", str(tmp_path)]) == 0
    assert "1 graphs" in capsys.readouterr().out


def test_failures_are_saved_with_their_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(self: object) -> None:
        raise AssertionError("identity law, empty plan: it is not what it was")

    monkeypatch.setattr("laws.Checker.identity", broken)
    arguments = ["--seed", "7", "--only", "3", "--laws", "identity", "--attempts", "5", "--out", str(tmp_path)]
    assert fuzz.main(arguments) == 1
    assert {p.suffix for p in tmp_path.iterdir()} == {".onnx", ".npz"}
    assert "it is not what it was" in capsys.readouterr().out


def test_an_unknown_law_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fuzz.main(["--laws", "gravity"])
    assert "no such law: gravity" in capsys.readouterr().err
