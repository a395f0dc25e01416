"""Recipes: what they say of models, and what is said of those that are wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from broken import external, small
from documents import read_page
from test_cli import CNN, TEST, UNKNOWN, call, fails

from onnxprune.batch.content import ContentDigests
from onnxprune.batch.database import ResultStore
from onnxprune.batch.jobs import Spec, find_settings, make_specs, prepare
from onnxprune.batch.recipe import Recipe, read
from onnxprune.batch.sources import Source, drop_duplicates, find
from onnxprune.batch.toml_lines import find_lines
from onnxprune.errors import OnnxPruneError
from onnxprune.plain_settings import make_arguments
from onnxprune.settings import quantities


def recipe(folder: Path, text: str) -> Recipe:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return read(path)


def zoo(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


# What they say


def test_a_matrix_is_the_product_of_its_lists(tmp_path: Path) -> None:
    zoo(tmp_path, "a.onnx")
    made = make_specs(
        recipe(tmp_path, 'models = ["a.onnx"]\n[matrix]\ncriterion = ["l1", "l2"]\nratio = [0.25, 0.5]\n')
    )
    assert [s.settings for s in made] == [{"criterion": c, "ratio": r} for c in ("l1", "l2") for r in (0.25, 0.5)]
    assert len({s.place for s in made}) == 4


def test_a_list_of_a_matrix_may_hold_tables_of_settings(tmp_path: Path) -> None:
    text = 'models = ["a.onnx"]\n[matrix]\nhow = [{ratio = 0.3}, {macs = 0.5, criterion = "l1"}]\nseed = [1, 2]\n'
    zoo(tmp_path, "a.onnx")
    made = [s.settings for s in make_specs(recipe(tmp_path, text))]
    assert made == [
        {"ratio": 0.3, "seed": 1},
        {"ratio": 0.3, "seed": 2},
        {"macs": 0.5, "criterion": "l1", "seed": 1},
        {"macs": 0.5, "criterion": "l1", "seed": 2},
    ]


TEXT = """
models = ["zoo"]
skip = ["*bad*"]
[settings]
ratio = 0.25
samples = 10
[matrix]
criterion = ["l1", "l2"]
[[override]]
match = "*resnet*"
macs = 0.5            # instead of the ratio
calib = "calib.npz"
[[override]]
match = ["zoo/b/*"]
[override.matrix]
criterion = ["linf"]
"""


def test_overrides_are_of_the_models_that_match(tmp_path: Path) -> None:
    zoo(tmp_path, "zoo/a/resnet.onnx", "zoo/b/net.onnx", "zoo/c.onnx", "zoo/bad.onnx", "calib.npz")
    found: dict[str, list[Any]] = {}
    for s in make_specs(recipe(tmp_path, TEXT)):
        found.setdefault(s.name, []).append(s.settings)
    calibrated = {"samples": 10, "macs": 0.5, "calib": "calib.npz"}
    assert found == {
        "a/resnet": [{**calibrated, "criterion": "l1"}, {**calibrated, "criterion": "l2"}],
        "b/net": [{"ratio": 0.25, "criterion": "linf"}],
        "c": [{"ratio": 0.25, "criterion": "l1"}, {"ratio": 0.25, "criterion": "l2"}],
    }


def test_settings_that_come_out_equal_are_one_job(tmp_path: Path) -> None:
    zoo(tmp_path, "a.onnx")
    for amount in ({"macs": 0.5}, {"threshold": 0.1}):
        ((name, value),) = amount.items()
        text = f'models = ["a.onnx"]\n[matrix]\nratio = [0.3, 0.5]\n[[override]]\nmatch = "a"\n{name} = {value}\n'
        assert [s.settings for s in make_specs(recipe(tmp_path, text))] == [amount]


def test_settings_become_arguments_and_options() -> None:
    given = {
        "macs": 0.5, "criterion": "l1", "exclude": ["head*"], "group_ratio": {"conv*": 0.25}, "seed": 3, "calib": "c.npz",
        "samples": 7, "preprocess": ["imagenet"], "check": False, "profile": True, "cache": "m.jsonl",
    }  # fmt: skip
    made = make_arguments(given, Path("base"))
    options = made.pop("options")
    assert (options.macs, options.criterion, options.exclude, options.group_ratio, options.seed) == (
        0.5, "l1", ["head*"], {"conv*": 0.25}, 3,
    )  # fmt: skip
    assert made.pop("preprocess").crop == 224
    assert made == {
        "sparsity": None, "calib": Path("base/c.npz"), "samples": 7, "check": False, "profile": True, "cache": Path("base/m.jsonl"),
    }  # fmt: skip


# What is wrong


WRONG = [
    ("models = [", 1, "not TOML"),
    ("[settings]\nratio = 0.5\n", 1, "models is missing; expected a list of paths"),
    ('models = "a.onnx"\n', 1, 'models is "a.onnx"; expected a list of texts'),
    ('models = ["a.onnx"]\nmodel = 1\n', 2, "there is no key 'model' at the top of a recipe; did you mean 'models'?"),
    ('models = ["a.onnx"]\nratio = 0.5\n', 2, "put it under [settings]: ratio = 0.5"),
    ('models = ["a.onnx"]\n\n[settings]\nratoi = 0.5\n', 4, "there is no setting 'ratoi'; did you mean 'ratio'?"),
    ('models = ["a.onnx"]\n[settings]\nratio = "half"\n', 3, 'settings.ratio: ratio is "half"; expected a number'),
    ('models = ["a.onnx"]\n[settings]\nratio = 1.5\n', 3, "settings.ratio: ratio is 1.5; it is the fraction"),
    ('models = ["a.onnx"]\n[settings]\ncheck = 1\n', 3, "check is 1; expected true or false"),
    ('models = ["a.onnx"]\n[settings]\ncriterion = "l22x"\n', 3, "unknown criterion 'l22x'"),
    ('models = ["a.onnx"]\n[settings]\nreduce = "most"\n', 3, "unknown reduce 'most'; choose one of"),
    ('models = ["a.onnx"]\n[settings]\nsteps = 1.5\n', 3, "steps is 1.5; expected a whole number"),
    ('models = ["a.onnx"]\n[settings]\ncalib = "no.npz"\n', 3, 'calib is "no.npz"; there is no'),
    ('models = ["a.onnx"]\n[settings]\npreprocess = ["imagnet"]\n', 3, "preprocess 'imagnet': neither a preset"),
    ('models = ["a.onnx"]\n[matrix]\nratio = 0.5\n', 3, "matrix.ratio is 0.5; expected a list of at least one value"),
    ('models = ["a.onnx"]\n[matrix]\nratio = [0.5, "x"]\n', 3, 'matrix.ratio: ratio is "x"; expected a number'),
    ('models = ["a.onnx"]\n[matrix]\nratios = [0.5]\n', 3, "there is no setting 'ratios'; did you mean 'ratio'?"),
    ('models = ["a.onnx"]\n[matrix]\nhow = [{ratoi = 1}]\n', 3, "matrix.how.ratoi: there is no setting 'ratoi'"),
    ('models = ["a.onnx"]\n[[override]]\nratio = 0.5\n', 2, "override.match is null; expected a glob"),
    ('models = ["a.onnx"]\n[[override]]\nmatch = "b*"\nratio = 0.5\n', 3, "override.match ['b*'] fits no model"),
    ('models = ["a.onnx"]\n[[override]]\nmatch = "a*"\n[[override]]\nmatch = "a*"\nratio = "x"\n', 6, "override.ratio"),
    ('models = ["a.onnx"]\noverride = 3\n', 2, "override is 3; expected tables, each begun with [[override]]"),
    ('skip = ["b"]\nmodels = ["a.onnx"]\n', 1, "skip 'b' fits no model"),
    ('skip = ["a"]\nmodels = ["a.onnx"]\n', 1, "skip leaves no model"),
    ('models = ["a.onnx"]\ntimeout = "soon"\n', 2, "timeout: 'soon' is not a duration such as 90s"),
    ('models = ["a.onnx"]\nmemory = "3XB"\n', 2, "memory: '3XB' is not a size such as"),
    ('models = ["a.onnx"]\nworkers = 0\n', 2, "r.toml:2: workers is 0; expected 1 or more"),
    (
        'models = ["a.onnx"]\n[settings]\nseed = 99999999999999999999\n',
        3,
        "seed is 99999999999999999999; expected a number below",
    ),
    ('\nmodels = ["b.onnx"]\n', 2, "there is no such file or folder"),
    ('\nmodels = ["b*.onnx"]\n', 2, "this glob matches no model"),
    (
        'models = ["a.onnx"]\n[settings]\nratio = 0.5\n[matrix]\nmacs = [0.5]\nparams = [0.5]\n',
        0,
        "macs and params: give one",
    ),
    ('models = ["a.onnx"]\n[settings]\nratio = 0.5\nthreshold = 0.1\n', 0, "ratio and threshold: give one"),
]


@pytest.mark.parametrize(("text", "line", "said"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    zoo(tmp_path, "a.onnx")
    (tmp_path / "r.toml").write_text(text)
    where = f"r.toml:{line}: " if line and "not TOML" not in said else "r.toml: "
    fails(call("batch", tmp_path / "r.toml", "-o", tmp_path / "out"), where, said)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    fails(call("batch", tmp_path / "no.toml", "-o", tmp_path / "out"), "no.toml", "No such file")
    (tmp_path / "latin.toml").write_bytes(b'models = ["\xe4"]')
    fails(call("batch", tmp_path / "latin.toml", "-o", tmp_path / "out"), "latin.toml: not UTF-8")


def test_the_command_line_is_checked_too(tmp_path: Path) -> None:
    zoo(tmp_path, "a.onnx", "r.toml")
    (tmp_path / "r.toml").write_text('models = ["a.onnx"]')
    fails(call("batch", tmp_path / "a.onnx"), "there is no folder for the results; give -o DIR")
    fails(call("batch", tmp_path / "a.onnx", "-o", tmp_path / "o", "--ratio", 2), "ratio is 2")
    fails(
        call("batch", tmp_path / "r.toml", "-o", tmp_path / "o", "--ratio", 0.5), "--ratio: the recipe has the settings"
    )
    fails(call("batch", tmp_path / "r.toml", tmp_path / "a.onnx", "-o", tmp_path / "o"), "give one recipe, or models")
    fails(
        call("batch", tmp_path / "a.onnx", "-o", tmp_path / "o", "--samples", 5),
        "--samples is the number of --calib inputs",
    )
    fails(call("batch", tmp_path / "a.onnx", "-o", tmp_path / "o", "--timeout", "x"), "'x' is not a duration")


def test_lines_of_keys() -> None:
    text = 'a = 1\n"b c" = """\nd = 2\n"""\n[t . u]\ne.f = 3\n[[x]]\ny = 1\n[x.z]\nw = 1\n[[x]]\ny = 2\n'
    assert find_lines(text) == {
        ("a",): 1, ("b c",): 2, ("t", "u"): 5, ("t", "u", "e", "f"): 6, ("x", 0): 7, ("x", 0, "y"): 8, ("x", 0, "z"): 9,
        ("x", 0, "z", "w"): 10, ("x", 1): 11, ("x", 1, "y"): 12,
    }  # fmt: skip


def test_units() -> None:
    assert [quantities.read_seconds(t) for t in (90, "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
    assert [quantities.read_size(t) for t in (5, "800MB", "1.5 GiB")] == [5, 800_000_000, 3 << 29]
    assert quantities.show_size(3 << 30) == "3 GiB"
    for wrong in ("", "-1", 0, True, "3 parsecs"):
        with pytest.raises(OnnxPruneError, match="is not a duration"):
            quantities.read_seconds(wrong)


# Sources


def test_paths_globs_and_folders(tmp_path: Path) -> None:
    zoo(tmp_path, "z/a/m.onnx", "z/b/m.onnx", "z/b/n.onnx", "z/b/n.txt", "one.onnx")
    assert find("one.onnx", tmp_path) == [Source("one.onnx", "one")]
    assert [s.name for s in find("z", tmp_path)] == ["a/m", "b/m", "b/n"]
    assert find("z/*/n*", tmp_path) == [Source("z/b/n.onnx", "b/n")]
    assert [s.given for s in find("z/**/*.onnx", tmp_path)] == ["z/a/m.onnx", "z/b/m.onnx", "z/b/n.onnx"]
    with pytest.raises(OnnxPruneError, match=r"there is no \.onnx file in this folder"):
        (tmp_path / "empty").mkdir()
        find("empty", tmp_path)


def test_names_are_distinct_and_a_model_comes_once(tmp_path: Path) -> None:
    zoo(tmp_path, "a/m.onnx", "b/m.onnx", "c.onnx")
    found = [Source("a/m.onnx", "m"), Source("b/m.onnx", "m"), Source("a/../c.onnx", "c"), Source("c.onnx", "x")]
    assert drop_duplicates(found, tmp_path) == [
        Source("a/m.onnx", "a/m"), Source("b/m.onnx", "b/m"), Source("a/../c.onnx", "c"),
    ]  # fmt: skip


def test_addresses_are_downloaded_with_their_data(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec (pip install 'onnxprune[batch]')")
    fs = fsspec.filesystem("memory")
    made = external(tmp_path / "net.onnx")
    for name in ("net.onnx", "net.bin"):
        fs.pipe(f"/zoo/deep/{name}", (tmp_path / name).read_bytes())
    for pattern in ("memory://zoo", "memory://zoo/*/*.onnx"):
        assert find(pattern, tmp_path) == [Source("memory:///zoo/deep/net.onnx", "deep/net")]
    assert find("memory://zoo/deep/net.onnx", tmp_path) == [Source("memory://zoo/deep/net.onnx", "net")]
    with ResultStore(tmp_path / "out") as store:
        task = prepare(Spec("memory://zoo/deep/net.onnx", "net", {}, tmp_path), store.folder, ContentDigests(store))
        again = prepare(Spec("memory://zoo/deep/net.onnx", "net", {}, tmp_path), store.folder, ContentDigests(store))
        local = prepare(Spec(str(made), "net", {}, tmp_path), store.folder, ContentDigests(store))
    assert task == again and task.id == local.id
    assert Path(task.model).read_bytes() == made.read_bytes()
    assert (Path(task.model).parent / "net.bin").read_bytes() == (tmp_path / "net.bin").read_bytes()


def test_what_is_wrong_with_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="addresses need fsspec (pip install 'onnxprune[batch]')")
    fails(call("batch", "nonsense://x/y.onnx", "-o", tmp_path / "o"), "nonsense://x/y.onnx", "not an address")
    fails(call("batch", "memory://nothing", "-o", tmp_path / "o"), "memory://nothing")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    fails(call("batch", "s3://x/y.onnx", "-o", tmp_path / "o"), "s3://x/y.onnx", "pip install 'onnxprune[batch]'")


# One model


def test_a_recipe_drives_prune(tmp_path: Path) -> None:
    text = f'models = ["x.onnx"]\n[matrix]\nratio = [0.25, 0.5]\n[[override]]\nmatch = "digits_*"\nmacs = 0.5\ndata = "{TEST}"\n'
    made = recipe(tmp_path, text)
    assert find_settings(made, CNN) == {"macs": 0.5, "data": str(TEST)}
    said = call("prune", CNN, "-o", tmp_path / "o.onnx", "--recipe", tmp_path / "r.toml")
    assert said.exit_code == 0 and UNKNOWN not in said.stderr and "at most 0.5 of the macs" in said.stdout
    assert call("prune", CNN, "-o", tmp_path / "p.onnx", "--macs", 0.5, "--data", TEST).exit_code == 0
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()


def test_prune_never_writes_over_its_recipe_or_what_that_names(tmp_path: Path) -> None:
    how = tmp_path / "how.toml"
    how.write_text("color = 'gray'\n")
    recipe(tmp_path, 'models = ["x.onnx"]\n[settings]\npreprocess = ["how.toml"]\ncheck = false\n')
    for file in (tmp_path / "r.toml", how):
        text = file.read_text()
        said = call("prune", CNN, "-o", tmp_path / "o.onnx", "--recipe", tmp_path / "r.toml", "--report", file)
        fails(said, f"--report {file} is the input {file}, which is never overwritten")
        assert file.read_text() == text and not (tmp_path / "o.onnx").exists()


def test_a_recipe_for_one_model_must_be_one(tmp_path: Path) -> None:
    recipe(tmp_path, 'models = ["x.onnx"]\n[matrix]\nratio = [0.25, 0.5]\n')
    model, out = small(tmp_path / "m.onnx"), tmp_path / "o.onnx"
    fails(
        call("prune", model, "-o", out, "--recipe", tmp_path / "r.toml"), "2 combinations of settings fit", "ratio=0.25"
    )
    fails(
        call("prune", model, "-o", out, "--recipe", tmp_path / "r.toml", "--ratio", 0.5),
        "--recipe has the settings",
        "--ratio",
    )


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    blocks = read_page("batch.md").split("```toml\n")[1:]
    text = blocks[0].partition("```")[0].replace("hf://org/repo/model.onnx", "model.onnx")
    zoo(tmp_path, "zoo/resnet.onnx", "zoo/vit_b.onnx", "zoo/broken/x.onnx", "more/net.onnx", "model.onnx")
    zoo(tmp_path, "cifar10.npz", "cifar10_test.npz")
    made = recipe(tmp_path, text)
    assert (made.run.workers, made.run.timeout, made.run.memory) == (2, 600, 3_000_000_000)
    jobs = {(s.name, s.settings["macs"], s.settings["repair"]): s.settings for s in make_specs(made)}
    assert len(jobs) == 4 + 2 + 4 + 4
    assert jobs["resnet", 0.5, "affine"] == {
        "samples": 500, "macs": 0.5, "repair": "affine", "calib": "cifar10.npz", "data": "cifar10_test.npz",
        "preprocess": ["imagenet"],
    }  # fmt: skip
    assert jobs["vit_b", 0.6, "lstsq"] == {"macs": 0.6, "repair": "lstsq", "exclude": ["*:heads"]}
