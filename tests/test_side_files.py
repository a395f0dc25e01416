"""Plans, caches, recipes and databases that were damaged or made up: one line, with what to do."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from onnxprune.allocate.tables import Cache
from onnxprune.batch import recipe, results
from onnxprune.batch.database import LOCK, ResultStore
from onnxprune.errors import DataError, OnnxPruneError, OutputError, PlanError
from onnxprune.plans import Plan

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("[1.9, 2.2]", "1.9 where a channel"),
        ('"12"', "keeps '12'"),
        ('{"1": 2}', "keeps {'1': 2}"),
        ("[1, true]", "True where a channel"),
        ("[-1]", "-1 where a channel"),
        (f"[{10**30}]", f"{10**30} where a channel"),
        (f"[{'9' * 100}]", "a number of many digits"),
        ("[1e400]", "inf where a channel"),
        ("[NaN]", "nan where a channel"),
        (f"[{'9' * 5000}]", "not JSON"),
        (DEEP, "not JSON"),
        ('[0], "keep": [1]', "'keep' twice"),
    ],
)
def test_a_plan_keeps_whole_numbers(tmp_path: Path, keep: str, words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(f'{{"format": 1, "model": "m", "groups": {{"g": {{"size": 4, "keep": {keep}}}}}}}')
    with pytest.raises(PlanError) as e:
        Plan.load(path)
    assert words in str(e.value) and len(str(e.value)) < 400


def test_a_plan_names_each_group_once(tmp_path: Path) -> None:
    path, group = tmp_path / "plan.json", json.dumps({"size": 4, "keep": [0]})
    path.write_text(f'{{"format": 1, "model": "m", "groups": {{"g": {group}, "g": {group}}}}}')
    with pytest.raises(PlanError, match="'g' twice"):
        Plan.load(path)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        DEEP.encode(),
        b"[1]",
        b'{"key": [1], "error": 1, "relative_l2": null, "agreement": null}',
        b'{"key": "k", "error": ' + b"9" * 5000 + b', "relative_l2": null, "agreement": null}',
        b'{"key": "k", "error": ' + b"9" * 400 + b', "relative_l2": null, "agreement": null}',
        b'{"key": "k", "error": 1, "relative_l2": "far", "agreement": null}',
    ],
    ids=["not UTF-8", "deep", "a list", "a key that is a list", "5,000 digits", "400 digits", "words"],
)
def test_a_cache_that_is_none(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "cache.jsonl"
    path.write_bytes(text + b"\n")
    with pytest.raises(DataError, match="no file of measurements"):
        Cache(path)


def test_a_cache_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OnnxPruneError, match="name a file"):
        Cache(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"models = {DEEP}", "not TOML"),
        (f"seed = {'9' * 5000}", "not TOML"),
        (f"[settings]\nsteps = {10**21}", "steps is 1000000000000000000000; pruning takes 1 to 1,000"),
        ("[settings]\nsteps = 100000", "pruning takes 1 to 1,000"),
        ("[settings]\nseed = -1", "seed is -1"),
        (f"[settings]\nratio = {'9' * 400}", "it is the fraction of channels to remove"),
        ("[settings]\nmax_error = nan", "0 or more"),
        (f"timeout = '{'9' * 400}h'", "is not a duration"),
        (f"memory = '{'9' * 400}GB'", "is not a size"),
    ],
)
def test_a_recipe_of_nonsense(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('models = ["a.onnx"]\n'[: 0 if text.startswith("models") else None] + text)
    with pytest.raises(OnnxPruneError) as e:
        recipe.read(path)
    assert words in str(e.value) and len(str(e.value)) < 500


def test_a_matrix_has_a_limit_and_each_combination_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    many = "\n".join(f"{name} = [{', '.join(['0.5', '0.25'] * 50)}]" for name in ("max_ratio", "ratio"))
    path.write_text(f'models = ["a.onnx"]\n[matrix]\n{many}\n')
    assert len(recipe.read(path).combinations("a.onnx")) == 4
    path.write_text(f'models = ["a.onnx"]\n[matrix]\n{many}\nseed = {list(range(11))}\n')
    with pytest.raises(OnnxPruneError, match=r":2: the matrix has 110,000 combinations"):
        recipe.read(path).combinations("a.onnx")


def test_a_database_that_is_damaged_or_in_use(tmp_path: Path) -> None:
    ResultStore(tmp_path).__exit__(None, None, None)
    other = sqlite3.connect(tmp_path / results.DATABASE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OnnxPruneError, match="another program has it open"):
        results.read(tmp_path)
    other.execute("ROLLBACK")
    other.execute("INSERT INTO jobs VALUES ('p', 'i', 'm', 'n', '{', 'done', '', NULL, NULL)")
    with pytest.raises(OnnxPruneError, match="move it away"):
        results.read(tmp_path)
    other.execute("DROP TABLE jobs")
    other.close()
    with pytest.raises(OnnxPruneError, match="no such table: jobs; it is no database of results"):
        results.read(tmp_path)
    (tmp_path / LOCK).write_text("no lock " * 100)
    with pytest.raises(OutputError, match="no lock of a run"):
        ResultStore(tmp_path)
