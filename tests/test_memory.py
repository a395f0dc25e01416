"""How much memory calibration takes: any limit gives the same result, and one that is too small is said."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node
from tiny import model, tensor
from typer.testing import CliRunner

import onnxprune
from onnxprune.batch.jobs import ReadyJob
from onnxprune.calibration import array_store, list_input_specs, load_data
from onnxprune.calibration.array_store import ArrayStore, Memory, StoredArrays, StoredBatches
from onnxprune.calibration.sessions import open_session, run, trim_pool
from onnxprune.calibration.statistics import gather
from onnxprune.cli import commands
from onnxprune.errors import OnnxPruneError, OutputError
from onnxprune.graph import lent
from onnxprune.graph.save import build_full_proto
from onnxprune.machine import read_resident_bytes
from onnxprune.repair import linear_layers
from onnxprune.scoring import list_needed_statistics
from onnxprune.settings.quantities import read_size

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
CALIB = MODELS / "digits_calib.npz"
LITTLE = 2  # bytes


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model with external data, as tools/make_decoder.py writes it; its data lie beside it."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from make_decoder import make_data, make_decoder  # type: ignore[import-not-found, unused-ignore]
    finally:
        sys.path.pop(0)
    path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    make_decoder(path, layers=2, width=32, mlp=64, vocab=50, head=16)
    make_data(path.with_suffix(".npz"), 50, samples=24, tokens=8, seed=0)
    return path


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Nothing is too small for a file, weights are let go at once, and no need is too large; the folder for files."""
    monkeypatch.setattr(array_store, "SMALL_BYTES", 0)
    monkeypatch.setattr(linear_layers, "KEPT_BYTES", 0)
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    monkeypatch.setattr("onnxprune.allocate.evaluator.check_memory", lambda *_: None)
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder


def pruned(model: Path, calib: Path, **settings: Any) -> tuple[Any, bytes]:
    """The plan, and the bytes of the model."""
    made = onnxprune.prune(model, calib=calib, **settings)
    return made.plan, made.proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["digits_cnn", "decoder"])
def test_no_limit_changes_a_result(
    name: str, decoder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calib = (decoder, decoder.with_suffix(".npz")) if name == "decoder" else (MODELS / f"{name}.onnx", CALIB)
    asked: dict[str, Any] = {"params": 0.7, "samples": 24, "steps": 2, "check": False}
    want = pruned(model, calib, memory="4GB", **asked)
    folder = request.getfixturevalue("little")
    files = 0

    class Counted(array_store.Memory):
        def take(self, nbytes: int) -> bool:
            nonlocal files
            files += 1
            return super().take(nbytes)

    monkeypatch.setattr("onnxprune.pipeline.batches.Memory", Counted)
    assert pruned(model, calib, memory=LITTLE, **asked) == want
    assert files > 50
    gc.collect()
    assert not any(folder.iterdir()), "a file is left behind"


def test_sparse_models_and_sensitivities_do_not_change(little: Path) -> None:
    model = MODELS / "digits_cnn.onnx"
    a, b = (
        onnxprune.sparsify(model, calib=CALIB, samples=24, memory=m, check=False).proto.SerializeToString()
        for m in ("1GB", LITTLE)
    )
    assert a == b
    asked: dict[str, Any] = {"samples": 16, "ratios": [0.5], "include": ["conv2"]}
    c, d = (onnxprune.sensitivity(model, CALIB, memory=m, **asked) for m in ("1GB", LITTLE))
    assert c == d


def test_passes_share_what_is_watched(decoder: Path, little: Path) -> None:
    """One statistic a pass gives what one pass gives, though other operators could be fused."""
    a = onnxprune.analyze(decoder)
    batches = load_data(decoder.with_suffix(".npz"), list_input_specs(a.model.proto))
    wants = list_needed_statistics(a, a.groups, "obs")
    told: list[tuple[int, int]] = []
    whole = gather(a, batches, wants, memory=Memory(1 << 30))
    cut = gather(a, batches, wants, memory=Memory(LITTLE), progress=lambda done, of: told.append((done, of)))
    assert len(told) == len(wants) > 10 and set(whole) == set(cut)
    assert all(whole[want].tobytes() == cut[want].tobytes() for want in whole)


def test_groups_that_stay_whole_are_not_watched(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def watch(a: Any, batches: Any, wants: Any, **more: Any) -> Any:
        seen.append({tensor for tensor, _, _ in wants})
        return gather(a, batches, wants, **more)

    monkeypatch.setattr("onnxprune.allocate.evaluator.gather", watch)
    calib = decoder.with_suffix(".npz")
    whole = onnxprune.plan(decoder, calib=calib, ratio=0.5, exclude=["layer1.*", "embedding"])
    onnxprune.plan(decoder, calib=calib, ratio=0.5)
    assert seen[0] < seen[1] and all(len(c.keep) == c.size for n, c in whole.groups.items() if n.startswith("layer1"))


def test_memory_is_shared_and_given_back(tmp_path: Path) -> None:
    memory = Memory(20 * 8000)  # half of it is for stores: ten arrays
    one = np.arange(1000.0)
    with ArrayStore(memory) as a, ArrayStore(memory) as b:
        a.put("large", 0, np.ones(2001))  # more than a tenth: a file
        assert memory.waiting == 0 and isinstance(a.get("large", 0), np.memmap)
        for name in (*range(8), "x"):
            a.put(name, 0, one)
        b.put("x", 0, one)
        a.put("y", 0, one + 1)  # a file
        assert (memory.waiting, a.bytes, b.bytes) == (80000, 72000, 8000)
        assert isinstance(a.get("y", 0), np.memmap) and np.array_equal(a.get("y", 0), one + 1)
        b.drop("x", 0)
        a.put("z", 0, one)
        assert memory.waiting == 80000 and a.get("z", 0) is one
    assert memory.waiting == 0
    arrays = StoredArrays[str](memory)
    arrays["x"] = one
    assert memory.waiting == 8000 and dict(arrays).keys() == {"x"}
    del arrays
    assert memory.waiting == 0


@pytest.mark.parametrize(
    "array", [np.zeros((2, 0)), np.array(3.0), np.array(["a", "bc"], object), np.ones(3, np.float16)], ids=str
)
def test_every_kind_of_array_comes_back(array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_store, "SMALL_BYTES", 0)
    batches = StoredBatches(Memory(0))
    batches.append({"x": array})
    (got,) = (b["x"] for b in batches)
    assert got.dtype == array.dtype and got.shape == array.shape and np.array_equal(got, array)


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ((28, "No space left on device"), "No space left on device; make room"),
        (("262144 requested and 261088 written",), "no space is left .* written.; make room"),
    ],
)
def test_a_full_disk_is_said(why: tuple[Any, ...], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says it, and as numpy does."""

    def refuse(*_: object) -> None:
        raise OSError(*why)

    monkeypatch.setattr("numpy.save", refuse)
    with ArrayStore(Memory(0)) as full, pytest.raises(OutputError, match=words):
        full.put("x", 0, np.ones(10_000))


@pytest.mark.parametrize("text", ["lots", "-1GB", "4 gigs", "0", True, "1e3MB"])
def test_sizes_that_are_none(text: Any) -> None:
    with pytest.raises(OnnxPruneError, match="is not a size such as 800MB, 3GB or 2GiB"):
        onnxprune.prune(MODELS / "digits_cnn.onnx", calib=CALIB, memory=text)
    with pytest.raises(OnnxPruneError, match="is not a size"):
        onnxprune.plan(MODELS / "digits_cnn.onnx", calib=CALIB, memory=text)


def test_what_cannot_be_done_is_said_before_it_is_begun(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    args = ["prune", MODELS / "digits_cnn.onnx", "-o", out, "--calib", CALIB, "--macs", "0.5", "--memory", "1MB"]
    shown = CliRunner().invoke(commands(), [str(a) for a in args])
    assert shown.exit_code == 2 and not out.exists()
    line = shown.stderr.strip().splitlines()[-1]  # after those on progress, where that is slow
    assert line.startswith("error: calibration takes about 10.1 MiB of memory for the scores of group 'conv3' alone")
    assert "may have 977 KiB; give more with --memory" in line


def test_sizes_that_nobody_knows_are_no_need() -> None:
    """An output [k, k], where the data decide k: what stands in for k squared would be terabytes."""
    nodes = [
        make_node("NonZero", ["mask"], ["at"]),
        make_node("Squeeze", ["at", "zero"], ["rows"]),
        make_node("Gather", ["x", "rows"], ["some"]),
        make_node("MatMul", ["some", "w"], ["h"]),
        make_node("Relu", ["h"], ["r"]),
        make_node("MatMul", ["r", "v"], ["s"]),
        make_node("Transpose", ["s"], ["t"]),
        make_node("MatMul", ["s", "t"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 16)).astype(np.float32), "v": rng.normal(size=(16, 3)).astype(np.float32)}
    inputs = [tensor("x", [20, 4]), tensor("mask", [20])]
    proto = model(nodes, inputs, [tensor("y", ["k", "k"])], weights | {"zero": np.array([0])})
    data = {"x": rng.normal(size=(20, 4)).astype(np.float32), "mask": np.ones(20, np.float32)}
    report = onnxprune.prune(proto, params=0.6, calib=data, memory="1GB", check=False).report
    assert (report.params.after or 0) <= 0.6 * (report.params.before or 0)


def test_data_of_a_job_take_half_of_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from onnxprune.batch import worker

    seen: list[Any] = []

    def prune(*_: Any, **settings: Any) -> None:
        seen.append(settings.get("memory"))
        raise OnnxPruneError("enough")

    monkeypatch.setattr(worker, "prune", prune)
    for settings, limit in (({}, None), ({}, read_size("3GB")), ({"memory": "1GB"}, read_size("3GB"))):
        worker.execute(ReadyJob("i", "p", "g", "m.onnx", str(tmp_path), str(tmp_path / "o.onnx"), settings), limit)
    assert seen == [None, 1_500_000_000, "1GB"]


def test_both_settings_of_that_name_are_listed() -> None:
    helps = [
        CliRunner().invoke(commands(), [name, "--help"], env={"COLUMNS": "200"}).stdout for name in ("prune", "batch")
    ]
    assert "The memory for calibration data" in helps[0] and "Stop a job that holds more memory" in helps[1]
    assert all(text.count("--memory ") == n for text, n in zip(helps, (1, 2), strict=True))  # batch has an example


def test_a_decoder_is_what_its_options_say(decoder: Path) -> None:
    a = onnxprune.analyze(decoder)
    assert a.model.external and sum(w.nbytes for w in a.model.weights.values()) // 4 > 4 * 2 * 32 * 32
    assert {g.kind for g in a.groups} >= {"heads", "neurons", "width"}
    assert build_full_proto(a.model).graph.output[0].name == "logits"


@pytest.mark.skipif(not read_resident_bytes(os.getpid()), reason="the system does not tell")
def test_a_pool_of_memory_is_given_back() -> None:
    """ONNX Runtime keeps what its largest run took, unless a run asks for less."""
    column, row = np.ones((4096, 1), np.float32), np.ones((1, 4096), np.float32)
    ends = [tensor("x", column.shape), tensor("y", row.shape)], [tensor("s", (1, 1))]
    nodes = [make_node("MatMul", ["x", "y"], ["z"]), make_node("ReduceSum", ["z"], ["s"])]
    run(open_session(model(nodes, *ends), "a product"), {"x": column, "y": row})
    before = read_resident_bytes(os.getpid())
    trim_pool()
    assert before - read_resident_bytes(os.getpid()) > column.size * row.size * 4 // 2
