"""The table of settings: one place to add a setting to, and everything that reads it from there."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import onnxprune
from onnxprune.allocate import SCHEDULES as SCHEDULE_FUNCTIONS
from onnxprune.batch.recipe import make_recipe_schema, read
from onnxprune.cli import commands
from onnxprune.convert import TYPES
from onnxprune.criteria import NORMALIZERS, REDUCES
from onnxprune.errors import OnnxPruneError
from onnxprune.repair import METHODS as REPAIR_METHODS
from onnxprune.settings import HOMES, Training, data, find_command_settings, options, sparsity
from onnxprune.settings.table import RATIOS, TEXTS, find_class_settings
from onnxprune.sparsity.methods import METHODS

ROOT = Path(__file__).parents[1]
CNN = ROOT / "models" / "digits_cnn.onnx"
COMMANDS = ("prune", "sparsify", "sensitivity", "repair", "distill", "finetune", "validate", "record", "batch")

NEW = """
    flavor: str | None = setting(
        None, "Which flavor the channels have.", panel="Taste", choices=("sweet", "sour")
    )
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more setting: a field of Options, and nothing else."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "onnxprune", root / "onnxprune", ignore=shutil.ignore_patterns("__pycache__"))
    home = root / "onnxprune" / "settings" / "options.py"
    text = home.read_text(encoding="utf-8")
    where = "    seed: int = setting("
    assert text.count(where) == 1
    home.write_text(text.replace(where, NEW + where), encoding="utf-8")
    return root


def run(root: Path, *args: object, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200"} | more
    return subprocess.run([sys.executable, *map(str, args)], cwd=root, env=env, capture_output=True, text=True)


def test_a_new_setting_is_an_option(extended: Path) -> None:
    for command in ("prune", "batch"):
        shown = run(extended, "-m", "onnxprune", command, "--help").stdout
        assert "--flavor" in shown and "Which flavor the channels have." in shown and "Taste" in shown
    assert "--flavor" not in run(extended, "-m", "onnxprune", "sparsify", "--help").stdout
    wrong = run(extended, "-m", "onnxprune", "prune", CNN, "--dry-run", "--flavor", "salty")
    assert wrong.returncode == 2 and wrong.stderr == "error: unknown flavor 'salty'; choose one of sweet, sour\n"
    right = run(extended, "-m", "onnxprune", "prune", CNN, "--dry-run", "--flavor", "sour", "--json")
    assert json.loads(right.stdout)["options"]["flavor"] == "sour"


def test_a_new_setting_is_completed(extended: Path) -> None:
    words = {"_ONNXPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": "onnxprune prune --flavor s", "COMP_CWORD": "3"}
    program = "from onnxprune.cli import main; main()"
    assert run(extended, "-c", program, **words).stdout.split() == ["sweet", "sour"]


def test_a_new_setting_is_in_recipes_and_their_schema(extended: Path) -> None:
    recipe = extended / "recipe.toml"
    recipe.write_text(f'models = ["{CNN}"]\n[settings]\nflavor = "sweet"\n[matrix]\nratio = [0.3, 0.5]\n')
    listed = json.loads(run(extended, "-m", "onnxprune", "batch", recipe, "--dry-run", "--json").stdout)
    assert [job["settings"]["flavor"] for job in listed] == ["sweet", "sweet"]
    recipe.write_text(f'models = ["{CNN}"]\n[settings]\nflavor = "bitter"\n')
    wrong = run(extended, "-m", "onnxprune", "batch", recipe, "--dry-run")
    assert wrong.returncode == 2 and "recipe.toml:3: settings.flavor: unknown flavor 'bitter'" in wrong.stderr
    code = "import json; from onnxprune.batch.recipe import make_recipe_schema; print(json.dumps(make_recipe_schema()))"
    schema = json.loads(run(extended, "-c", code).stdout)["$defs"]["settings"]["properties"]["flavor"]
    assert schema == {"description": "Which flavor the channels have.", "type": "string", "enum": ["sweet", "sour"]}


def test_a_new_setting_is_in_python(extended: Path) -> None:
    code = (
        "import inspect, onnxprune\n"
        "print(onnxprune.Options(flavor='sweet').flavor, 'flavor' in inspect.signature(onnxprune.prune).parameters)\n"
        "print('flavor: Which flavor' in onnxprune.prune.__doc__)\n"
        f"onnxprune.run_pass({str(CNN)!r}, 'o.onnx', {{'flavor': 'salty'}})"
    )
    done = run(extended, "-c", code)
    assert done.stdout.split() == ["sweet", "True", "True"] and "unknown flavor 'salty'" in done.stderr


# The table and what it speaks of


def test_choices_are_those_that_exist() -> None:
    assert tuple(SCHEDULE_FUNCTIONS) == options.SCHEDULES and options.REPAIRS == REPAIR_METHODS
    assert options.REDUCES == REDUCES and options.NORMALIZERS == NORMALIZERS
    assert tuple(METHODS) == sparsity.METHODS and tuple(TYPES) == data.CASTS


@pytest.mark.parametrize("command", COMMANDS)
def test_names_are_told_apart(command: str) -> None:
    used = [s.name(command) for home in HOMES for s in find_class_settings(home).values() if command in s.uses]
    assert sorted(used) == sorted(find_command_settings(command))  # none hides another


@pytest.mark.parametrize("home", HOMES)
def test_every_field_is_a_setting(home: type) -> None:
    assert list(find_class_settings(home)) == list(inspect.signature(home).parameters)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_an_option_with_help(command: str) -> None:
    shown = CliRunner().invoke(commands(), [command, "--help"], env={"COLUMNS": "200"}).stdout
    for name, s in find_command_settings(command).items():
        assert f"--{(s.negative or name).replace('_', '-')} " in shown
        assert s.help_for(command)[:30] in shown


@pytest.mark.parametrize("command", ("prune", "sparsify"))
def test_everyday_options_fit_a_screen(command: str) -> None:
    shown = CliRunner().invoke(commands(), [command, "--help"], env={"COLUMNS": "80"}).stdout
    everyday = shown[: shown.index("─ Files ")]
    assert "--calib" in everyday and "--output" in everyday and everyday.count("\n") <= 60


def sample(s: Any) -> Any:
    """A value that a setting can have, and is not its default."""
    if s.choices:
        return next(c for c in s.choices if c != s.default)
    if s.kind is TEXTS:
        return ["imagenet"] if s.field == "preprocess" else ["a*"]
    if s.kind is RATIOS:
        return {"a*": 0.25}
    made = {
        "criterion": "l1",
        "pattern": "2:4",
        "calib": str(ROOT / "models" / "digits_calib.npz"),
        "cache": "c.jsonl",
        "timings": "t.jsonl",
        "metric": "metrics.py:top1",
        "memory": "4GB",
    }
    made["data"] = made["labels"] = made["calib"]
    made["checkpoint"] = "state.pt"
    if s.field in made:
        return made[s.field]
    return (not s.default) if isinstance(s.default, bool) else 2 if s.annotation in (int, int | None) else 0.25


@pytest.mark.parametrize("name", find_command_settings("prune"))
def test_every_setting_has_a_value_and_refuses_others(name: str, tmp_path: Path) -> None:
    s = find_command_settings("prune")[name]
    beside = {"allocation": "macs = 0.5\n", "permute": 'then_sparsify = "2:4"\n', "layers": 'then_sparsify = "2:4"\n'}
    learned = f"calib = {json.dumps(str(ROOT / 'models' / 'digits_calib.npz'))}\n"
    beside |= {n: learned + "distill = true\n" * (n != "distill") for n in find_class_settings(Training)}
    text = f"{beside.get(name, '')}{name} = "
    path = tmp_path / "r.toml"
    value = sample(s)
    toml = (
        "{" + ", ".join(f'"{k}" = {v}' for k, v in value.items()) + "}"
        if isinstance(value, dict)
        else json.dumps(value)
    )
    path.write_text(f"models = ['{CNN}']\n[settings]\n{text}{toml}\n")
    assert read(path).settings[name] == value
    for wrong in ("1979-05-27", '{x = "y"}'):
        path.write_text(f"models = ['{CNN}']\n[settings]\n{text}{wrong}\n")
        with pytest.raises(OnnxPruneError, match=f"{name} is .*; expected {s.kind.words[:10]}"):
            read(path)


def test_the_schema_of_recipes_has_every_setting_and_key() -> None:
    schema = make_recipe_schema()
    assert set(schema["$defs"]["settings"]["properties"]) == set(find_command_settings("prune"))
    assert set(schema["$defs"]["matrix"]["properties"]) == set(find_command_settings("prune"))
    assert schema["properties"].keys() >= {"models", "skip", "settings", "matrix", "override", "timeout", "memory"}
    macs = schema["$defs"]["settings"]["properties"]["macs"]
    assert (macs["exclusiveMinimum"], macs["maximum"], macs["type"]) == (0.0, 1.0, "number")
    json.dumps(schema)


def test_python_takes_settings_by_name_and_names_the_nearest(tmp_path: Path) -> None:
    made = onnxprune.prune(CNN, tmp_path / "o.onnx", onnxprune.Options(ratio=0.3), seed=2, check=False)
    assert (made.plan.groups, (tmp_path / "o.onnx").exists()) != ({}, False)
    with pytest.raises(TypeError, match="there is no setting 'rato'; did you mean 'ratio'"):
        onnxprune.prune(CNN, None, rato=0.3)
    with pytest.raises(OnnxPruneError, match="samples is 0; expected a whole number, 1 or more"):
        onnxprune.prune(CNN, None, samples=0)
    with pytest.raises(OnnxPruneError, match='ratio is "half"; expected a number'):
        onnxprune.prune(CNN, None, ratio="half")


def test_python_says_what_an_argument_must_be() -> None:
    for wrong, words in (
        ({"options": {"macs": 0.5}}, "options is of type dict; expected Options"),
        ({"sparsity": "2:4"}, "sparsity is of type str; expected Sparsity"),
        ({"plan": "plan.json"}, r"plan is of type str; expected Plan; Plan.load\(path\) reads one"),
    ):
        with pytest.raises(TypeError, match=words):
            onnxprune.prune(CNN, **wrong)
    for call in (onnxprune.plan, lambda source, **changes: onnxprune.sensitivity(source, {}, **changes)):
        with pytest.raises(TypeError, match="there is no setting 'rato'; did you mean 'ratio'"):
            call(CNN, rato=0.3)


def test_changes_stand_over_options() -> None:
    made = onnxprune.plan(CNN, onnxprune.Options(ratio=0.9, round_to=8), ratio=0.25)
    assert made == onnxprune.plan(CNN, ratio=0.25, round_to=8) != onnxprune.plan(CNN, ratio=0.9, round_to=8)


def test_one_part_of_preprocessing_need_be_no_list(tmp_path: Path) -> None:
    np.savez(pictures := tmp_path / "pictures.npz", image=np.zeros((2, 8, 8, 1), np.uint8))
    one, several = (
        onnxprune.validate(CNN, CNN, data=pictures, preprocess=how) for how in ("color=gray", ["color=gray"])
    )
    assert one.error.samples == several.error.samples == 2 and one.error == several.error


def test_a_pass_takes_paths(tmp_path: Path) -> None:
    config = {"calib": ROOT / "models" / "digits_calib.npz", "samples": 8, "ratio": 0.2, "check": False}
    assert onnxprune.run_pass(CNN, tmp_path, config).is_file()


def test_the_page_of_settings_is_up_to_date() -> None:
    shown = CliRunner().invoke(commands(), ["settings", "--markdown"]).stdout
    page = (ROOT / "onnxprune" / "settings" / "README.md").read_text(encoding="utf-8")
    assert page.endswith(shown), "write it again: see the first lines of the page"
    rows = json.loads(CliRunner().invoke(commands(), ["settings", "--json"]).stdout)
    for command in COMMANDS:
        assert {r["setting"] for r in rows if command in r["commands"]} == set(find_command_settings(command))
