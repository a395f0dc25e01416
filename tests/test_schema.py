"""Reports are types: every key of every JSON is in its schema, and a report that was written is read back the same."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import call, fails

import onnxprune
from onnxprune.batch.results import JobResult, read
from onnxprune.cli.schema import SCHEMAS
from onnxprune.report import (
    CandidateReport,
    InspectReport,
    PatternReport,
    PruneReport,
    SensitivityReport,
    ValidateReport,
    from_json,
    make_json_schema,
    to_json,
)
from onnxprune.report.builders import inspect_report
from onnxprune.report.types import FORMAT, ErrorNumbers, NotComparable, OutputMismatch

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
CNN, CALIB, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
TYPES = {"inspect": InspectReport, "prune": PruneReport, "sparsify": PruneReport, "validate": ValidateReport,
         "pattern": PatternReport, "sensitivity": SensitivityReport, "repair": CandidateReport}  # fmt: skip
KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def faults(data: Any, schema: dict[str, Any], whole: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Where data are not what a schema says, as far as the schemas of reports go."""
    if ref := schema.get("$ref"):
        schema = whole["$defs"][ref.removeprefix("#/$defs/")]
    if choices := schema.get("anyOf"):
        found = [list(faults(data, choice, whole, path)) for choice in choices]
        yield from () if [] in found else min(found, key=len)
        return
    if "const" in schema and data != schema["const"]:
        yield f"{path}: {data!r} is not {schema['const']!r}"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        numbers = int if kind == "integer" else (int, float)
        if isinstance(data, bool) or not isinstance(data, numbers):
            yield f"{path}: {data!r} is no {kind}"
    elif kind is not None and not isinstance(data, KINDS[kind]):
        yield f"{path}: {data!r} is no {kind}"
    elif kind == "array":
        for i, item in enumerate(data):
            yield from faults(item, schema["items"], whole, f"{path}[{i}]")
    elif kind == "object":
        known, others = schema.get("properties", {}), schema["additionalProperties"]
        yield from (f"{path}.{key} is missing" for key in schema.get("required", ()) if key not in data)
        for key, value in data.items():
            if key in known:
                yield from faults(value, known[key], whole, f"{path}.{key}")
            elif isinstance(others, dict):
                yield from faults(value, others, whole, f"{path}.{key}")
            elif not others:
                yield f"{path}.{key} is not in the schema"


def assert_schema(name: str, data: Any) -> None:
    _, make = SCHEMAS[name]
    schema = make()
    assert list(faults(data, schema, schema)) == []
    if name in TYPES:
        assert data["format"] == FORMAT
        assert to_json(from_json(TYPES[name], data)) == data


def printed(*args: object, status: int = 0) -> Any:
    result = call(*args)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout, parse_constant=pytest.fail)


# every command


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_what_inspect_and_prune_print_is_in_the_schema(tmp_path: Path, name: str) -> None:
    model, out = MODELS / f"{name}.onnx", tmp_path / "o.onnx"
    assert_schema("inspect", printed("inspect", model, "--json"))
    assert_schema("prune", printed("prune", model, "--dry-run", "--json"))
    assert_schema("prune", printed("prune", model, "-o", out, "--json"))
    assert_schema("validate", printed("validate", model, out, "--json"))


def test_a_calibrated_report_is_in_the_schema(tmp_path: Path) -> None:
    args = ("--calib", CALIB, "--samples", 32, "--macs", 0.6, "--data", TEST, "--profile", "--json")
    file = tmp_path / "r.json"
    data = printed("prune", CNN, "-o", tmp_path / "o.onnx", *args, "--report", file)
    assert data["repair"]["layers"] and data["sensitivity"] and data["error"]["accuracy"] and data["peak_memory"]
    assert_schema("prune", data)
    assert json.loads(file.read_text()) == data
    args = ("--calib", CALIB, "--samples", 32, "--then-sparsify", "2:4", "--layers", "eligible", "--permute")
    data = printed("prune", CNN, "-o", tmp_path / "o.onnx", *args, "--ratio", 0.3, "--json")
    assert data["sparsity"]["permuted"] and any(x["sparse"] for x in data["sparsity"]["layers"])
    assert_schema("prune", data)


def test_what_sparsify_and_a_check_print_is_in_the_schema(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    assert_schema("sparsify", printed("sparsify", CNN, "-o", out, "--layers", "eligible", "--json"))
    assert_schema("sparsify", printed("sparsify", CNN, "--dry-run", "--json"))
    check = ("--pattern", "2:4", "--layers", "eligible", "--json")
    assert_schema("pattern", printed("validate", out, *check))
    both = printed("validate", CNN, out, *check, "--data", TEST, "--profile")
    assert both["sparsity"]["holds"] and both["peak_memory"]
    assert_schema("validate", both)


def test_what_sensitivity_prints_is_in_the_schema() -> None:
    assert_schema("sensitivity", printed("sensitivity", CNN, "--calib", CALIB, "--samples", 16, "--json"))


def test_what_repair_prints_is_in_the_schema(tmp_path: Path) -> None:
    pruned, out = tmp_path / "pruned.onnx", tmp_path / "o.onnx"
    onnxprune.prune(CNN, pruned, ratio=0.3, check=False)
    args = ("repair", CNN, pruned, "-o", out, "--calib", CALIB, "--samples", 64, "--json")
    assert_schema("repair", printed(*args, "--data", TEST))
    assert_schema("repair", printed(*args, "--no-validate"))


@pytest.mark.parametrize("name", ["ops", "criteria", "settings"])
def test_what_lists_print_is_in_the_schema(name: str) -> None:
    data = printed(name, "--json")
    assert data
    assert_schema(name, data)


def test_what_batch_and_report_print_is_in_the_schema(tmp_path: Path) -> None:
    broken, out = tmp_path / "broken.onnx", tmp_path / "out"
    broken.write_bytes(b"no model")
    models = (CNN, broken, "--ratio", 0.6)
    jobs = printed("batch", *models, "--dry-run", "--json")
    assert len(jobs) == 2
    assert_schema("jobs", jobs)
    results = printed("batch", *models, "-o", out, "--json", status=1)
    assert [r["status"] for r in results] == ["degraded", "failed"]
    assert_schema("batch", results)
    assert [to_json(from_json(JobResult, r)) for r in results] == results == to_json(read(out))
    rows = printed("report", out, "--json")
    assert rows[0]["macs_left"] < 1 and rows[1]["macs_left"] is None
    assert_schema("report", rows)


def test_the_walker_finds_faults() -> None:
    schema = make_json_schema(PatternReport)
    assert schema["additionalProperties"] is False and "format" in schema["required"]
    good = to_json(PatternReport("m", "2:4", True, []))
    assert not list(faults(good, schema, schema))
    bad: list[dict[str, Any]] = [good | {"more": 1}, {"model": "m"}, good | {"holds": 1}, good | {"format": 2}]
    bad.append(good | {"layers": [{}]})
    assert all(list(faults(data, schema, schema)) for data in bad)


# to JSON and back


def test_a_report_is_read_back_the_same(tmp_path: Path) -> None:
    made = onnxprune.prune(CNN, tmp_path / "o.onnx", calib=CALIB, samples=16, macs=0.7, data=TEST, exclude=["conv1"])
    sparse = onnxprune.sparsify(CNN, tmp_path / "s.onnx", layers="eligible", permute=True)
    for report in (made.report, sparse.report, inspect_report(onnxprune.analyze(CNN))):
        again = from_json(type(report), json.loads(json.dumps(to_json(report))))
        assert again == report and type(again) is type(report)
    assert made.report.repair and made.report.error and made.report.error.accuracy


def test_the_kinds_of_outputs_are_told_apart() -> None:
    report = call("validate", CNN, CNN, "--json").stdout
    data = json.loads(report)
    kinds = [ErrorNumbers(0.1, 1.0, None, None, 0, 2), OutputMismatch(0.5), OutputMismatch(None), NotComparable("why")]
    data["outputs"] = {str(i): to_json(kind) for i, kind in enumerate(kinds)}
    assert list(from_json(ValidateReport, data).outputs.values()) == kinds


def test_another_format_is_refused_and_none_is_the_first() -> None:
    data = to_json(PatternReport("m", "2:4", True, []))
    del data["format"]
    assert from_json(PatternReport, data | {"of": "a later version"}) == PatternReport("m", "2:4", True, [])
    with pytest.raises(ValueError, match="format"):
        from_json(PatternReport, data | {"format": FORMAT + 1})
    with pytest.raises(ValueError, match="holds"):
        from_json(PatternReport, {"model": "m", "pattern": "2:4", "layers": []})


def test_only_what_may_be_missing_is_not_required() -> None:
    """A default of None means that a key is left out; so it must be on purpose."""
    whole = [make() for name, (_, make) in SCHEMAS.items() if name != "recipe"]
    parts = [part for schema in whole for part in (schema, *schema.get("$defs", {}).values()) if "properties" in part]
    found = {f"{p['title']}.{key}" for p in parts for key in p["properties"] if key not in p["required"]}
    assert found == {"SensitivityReport.judged_by", "ValidateReport.sparsity"}
    assert all(part["additionalProperties"] is False for part in parts)


# the command, and the list of keys


def test_schemas_are_listed_and_printed() -> None:
    listed = call("schema")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == list(SCHEMAS)
    for name, (_, make) in SCHEMAS.items():
        assert printed("schema", name) == json.loads(json.dumps(make()))
    fails(call("schema", "prun"), "there is no schema 'prun'; did you mean 'prune'?")
    fails(call("schema", "zzz"), "there is no schema 'zzz'; there are inspect, prune")


def test_the_changelog_lists_the_keys_of_every_report() -> None:
    text = (ROOT / "onnxprune" / "report" / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## Format {FORMAT}\n" in text
    newest = text.split("\n## ")[1]
    listed = {m[1]: re.findall("`(.*?)`", m[2]) for m in re.finditer(r"^- `(\w+)`:((?:.|\n  )*)", newest, re.MULTILINE)}
    printed_keys = {name: list(keys_at_the_top(make())) for name, (_, make) in SCHEMAS.items() if name != "recipe"}
    assert listed == printed_keys


def keys_at_the_top(schema: dict[str, Any]) -> dict[str, Any]:
    row = schema["$defs"][schema["items"]["$ref"].removeprefix("#/$defs/")] if "items" in schema else schema
    known: dict[str, Any] = row["properties"]
    return known
