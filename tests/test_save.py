"""Writing: nothing is lost, nothing is half written, and the same model gives the same bytes."""

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from io_models import (
    BIG,
    RNG,
    SMALL,
    cleared,
    files,
    gemm,
    holding,
    named,
    plain,
    put,
    put_external,
)
from onnx import numpy_helper

from onnxprune.errors import OutputError
from onnxprune.graph import files as store
from onnxprune.graph import save as saving
from onnxprune.graph.files import write_text
from onnxprune.graph.io import load
from onnxprune.graph.save import build_full_proto, save
from onnxprune.graph.weights import ArrayWeight, SlicedWeight


@pytest.mark.parametrize("external", [False, True])
def test_what_is_saved_runs(tmp_path: Path, external: bool) -> None:
    out = save(load(gemm()), tmp_path / "out.onnx", external=external)[0]
    onnx.checker.check_model(out, full_check=True)
    x = RNG.standard_normal((3, 32), dtype=np.float32)
    (y,) = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ BIG + SMALL, rtol=1e-4, atol=1e-4)


def test_offsets_are_aligned_and_order_is_kept(tmp_path: Path) -> None:
    arrays = {"z": (300,), "a": (3,), "m": (1 << 18,), "b": (257,), "n": (1 << 18,)}
    tensors = [named(n, RNG.standard_normal(s, dtype=np.float32)) for n, s in arrays.items()]
    out, data = save(load(holding(*tensors)), tmp_path / "out.onnx", external=True)
    stored = onnx.load(out, load_external_data=False).graph.initializer
    places = {t.name: {e.key: e.value for e in t.external_data} for t in stored}
    assert list(places) == list(arrays)
    assert {n: int(p["offset"]) for n, p in places.items() if p} == {"z": 0, "m": 4096, "b": 1052672, "n": 1056768}
    assert {p["location"] for p in places.values() if p} == {data.name}
    assert plain(cleared(onnx.load(out))) == plain(holding(*tensors))


def test_changed_weights_are_written(tmp_path: Path) -> None:
    model = load(put(tmp_path, gemm()))
    keep = np.array([0, 5, 31])
    model.weights["w"] = SlicedWeight(model.weights["w"], [(0, keep)])
    model.weights["b"] = ArrayWeight(SMALL * 2)
    w, b = (numpy_helper.to_array(t) for t in build_full_proto(model).graph.initializer)
    np.testing.assert_array_equal(w, BIG[keep])
    np.testing.assert_array_equal(b, SMALL * 2)
    (out,) = save(model, tmp_path / "out.onnx")
    assert onnx.load(out) == build_full_proto(model)


def test_a_small_initializer_changed_in_the_message_is_written(tmp_path: Path) -> None:
    model = load(put(tmp_path, gemm()))
    model.proto.graph.initializer[1].raw_data = (SMALL * 3).tobytes()
    assert onnx.load(save(model, tmp_path / "out.onnx")[0]).graph.initializer[1].raw_data == (SMALL * 3).tobytes()


def test_an_initializer_without_data_is_an_error(tmp_path: Path) -> None:
    model = load(put(tmp_path, gemm()))
    del model.weights["w"]
    with pytest.raises(OutputError, match="'w' has no data"):
        save(model, tmp_path / "out.onnx")


@pytest.mark.parametrize("external", [False, True])
def test_same_model_same_bytes(tmp_path: Path, external: bool) -> None:
    path = put(tmp_path, gemm())
    folders = [tmp_path / "1", tmp_path / "2"]
    for folder, source in zip(folders, (path, gemm()), strict=True):
        folder.mkdir()
        save(load(source), folder / "out.onnx", external=external)
    assert files(folders[0]) == files(folders[1])
    for name in files(folders[0]):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    if not external:
        assert (folders[0] / "out.onnx").read_bytes() == path.read_bytes()


def test_two_gigabytes_force_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PROTOBUF_BYTES", saving.MARGIN_BYTES + 2000)
    assert len(save(load(gemm()), tmp_path / "out.onnx", external=False)) == 2
    monkeypatch.setattr(saving, "PROTOBUF_BYTES", 2000)
    with pytest.raises(OutputError, match="2 GiB"):
        build_full_proto(load(gemm()))


class Failing(ArrayWeight):
    """A weight that cannot be read."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(BIG)
        self.error = error

    def raw(self) -> bytes:
        raise self.error


FAILURES: Sequence[tuple[BaseException, type[BaseException]]] = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OutputError),
    (KeyboardInterrupt(), KeyboardInterrupt),
    (MemoryError(), MemoryError),
]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(("error", "raised"), FAILURES, ids=["disk full", "ctrl-C", "memory"])
def test_a_failure_leaves_the_target_alone(
    tmp_path: Path, error: BaseException, raised: type[BaseException], external: bool
) -> None:
    save(load(gemm()), tmp_path / "out.onnx", external=True)
    before = {n: (tmp_path / n).read_bytes() for n in files(tmp_path)}
    model = load(gemm(named("w", BIG * 2), named("b", SMALL)))
    model.weights["w"] = Failing(error)
    with pytest.raises(raised):
        save(model, tmp_path / "out.onnx", external=external)
    assert {n: (tmp_path / n).read_bytes() for n in files(tmp_path)} == before


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", [".data", ".onnx"])
def test_a_failed_rename_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, existing: bool
) -> None:
    if existing:
        save(load(gemm(named("w", BIG * 2), named("b", SMALL))), tmp_path / "out.onnx", external=True)
    before = {n: (tmp_path / n).read_bytes() for n in files(tmp_path)}
    replace = os.replace
    first: list[Path] = []

    def refuse(source: Path, target: Path) -> None:
        if str(target).endswith(failing) and not first:
            first.append(target)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="Input/output error"):
        save(load(gemm()), tmp_path / "out.onnx", external=True)
    assert first and {n: (tmp_path / n).read_bytes() for n in files(tmp_path)} == before


def test_a_new_pair_replaces_the_old_one(tmp_path: Path) -> None:
    save(load(gemm(named("w", BIG * 2), named("b", SMALL))), tmp_path / "out.onnx", external=True)
    _, data = save(load(gemm()), tmp_path / "out.onnx", external=True)
    assert files(tmp_path) == ["out.onnx", data.name]
    assert plain(cleared(onnx.load(tmp_path / "out.onnx"))) == plain(gemm())


def test_data_are_named_by_their_bytes(tmp_path: Path) -> None:
    first = save(load(gemm()), tmp_path / "out.onnx", external=True)[1]
    digest = hashlib.sha256(first.read_bytes()).hexdigest()[:16]
    assert first.name == f"out.onnx.{digest}.data"
    assert save(load(gemm()), tmp_path / "out.onnx", external=True)[1] == first
    (location,) = {
        t.external_data[0].value
        for t in onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
        if t.external_data
    }
    assert location == first.name


def test_only_data_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    """Data of the model that is replaced go; others' do not, nor those of a model that was renamed or copied."""
    other = gemm(named("w", BIG * 2), named("b", SMALL))
    out, first = save(load(gemm()), tmp_path / "out.onnx", external=True)
    for name in ("out.onnx.data", "out.onnx.0123456789abcdef.data", "other.onnx.0123456789abcdef.data"):
        (tmp_path / name).touch()
    kept = files(tmp_path)
    kept.remove(first.name)
    save(load(other), out)
    assert files(tmp_path) == kept
    _, second = save(load(gemm()), out, external=True)
    out.rename(tmp_path / "best.onnx")
    save(load(other), out, external=True)
    save(load(gemm()), out)
    assert plain(cleared(onnx.load(tmp_path / "best.onnx"))) == plain(gemm()) and second.exists()
    renamed = (tmp_path / "best.onnx").rename(tmp_path / "best.bin")
    shutil.copy(renamed, out)
    save(load(renamed), out, external=False)
    assert second.exists()


def test_files_of_processes_that_were_killed_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    ours = f".onnxprune-{store._machine()}-"
    dead = tmp_path / f"{ours}{gone.pid}-{'0' * 16}.tmp"
    others = [
        f"{ours}{os.getpid()}-{'0' * 16}.tmp",
        f".onnxprune-00000000-{gone.pid}-{'0' * 16}.tmp",
        f".onnxprune-{gone.pid}.tmp",
    ]
    for path in (dead, *(tmp_path / name for name in others)):
        path.touch()
    write_text(tmp_path / "plan.json", "")
    assert files(tmp_path) == sorted([*others, "plan.json"])


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    path = put_external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "m.onnx.data")
    for i, tensor in enumerate((stored := onnx.load(path, load_external_data=False)).graph.initializer):
        assert i < 2
        tensor.external_data[0].value = "m.onnx.data"
    put(tmp_path, stored)
    (tmp_path / "link.onnx").symlink_to(path)
    (tmp_path / "hard.onnx").hardlink_to(path)
    taken, data = (save(load(path), tmp_path / f"{n}.onnx")[1].name for n in ("taken", "data"))
    for name in (taken, data, "taken.onnx", "data.onnx"):
        (tmp_path / name).unlink()
    (tmp_path / data).symlink_to(tmp_path / "m.onnx.data")
    (tmp_path / taken).mkdir()
    before = files(tmp_path)
    model = load(path)

    def refused(name: str, words: str, **options: bool) -> None:
        with pytest.raises(OutputError, match=words):
            save(model, tmp_path / name, **options)

    for name in ("m.onnx", "link.onnx", "hard.onnx", "m.onnx.data", "data.onnx"):
        refused(name, "is the model that is being read")
    refused("no/such/out.onnx", "no folder")
    refused(taken, "is a folder")
    refused("taken.onnx", "Is a directory", external=True)
    assert files(tmp_path) == before


def test_write_text(tmp_path: Path) -> None:
    write_text(tmp_path / "plan.json", "é\n")
    assert (tmp_path / "plan.json").read_bytes() == "é\n".encode()
    with pytest.raises(OutputError, match="no folder"):
        write_text(tmp_path / "no" / "plan.json", "")


# The zoo


@pytest.fixture
def zoo() -> Path:
    if "ONNXPRUNE_ZOO" not in os.environ:
        pytest.skip("set ONNXPRUNE_ZOO to a folder of ONNX files to run this")
    return Path(os.environ["ONNXPRUNE_ZOO"])


def test_the_zoo_survives_a_round_trip(zoo: Path, tmp_path: Path) -> None:
    paths = sorted(zoo.rglob("*.onnx"))
    assert paths
    for path in paths:
        source = onnx.load(path)
        for external in (False, True):
            out = save(load(path), tmp_path / "out.onnx", external=external)[0]
            assert plain(cleared(onnx.load(out))) == plain(source), path
