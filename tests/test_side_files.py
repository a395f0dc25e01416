"""Plans, caches, recipes and databases that were damaged or made up: one line, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxprune.allocate.tables import Cache
from onnxprune.errors import DataError, OnnxPruneError, PlanError
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
