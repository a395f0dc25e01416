"""Files that change while a model is in use."""

import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from io_models import BIG, gemm, named, put, put_external
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import ModelError
from onnxprune.graph.files import WINDOW_BYTES, SourceFile, make_temporary_folder
from onnxprune.graph.io import load
from onnxprune.graph.save import save
from onnxprune.graph.weights import ArrayWeight, SlicedWeight
from onnxprune.pipeline import NotCompared


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def replace(path: Path) -> None:
    """Another file of the same content takes its place."""
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [truncate, rewrite])
@pytest.mark.parametrize("external", [False, True])
def test_a_read_after_a_change_is_refused(tmp_path: Path, change: Callable[[Path], None], external: bool) -> None:
    path = put_external(tmp_path) if external else put(tmp_path, gemm())
    model = load(path)
    changed = tmp_path / "weights.bin" if external else path
    change(changed)
    for read in (model.weights["w"].array, SlicedWeight(model.weights["w"], [(0, np.array([1]))]).raw):
        with pytest.raises(ModelError, match=f"{changed.name} was changed while it was read"):
            read()
    with pytest.raises(ModelError, match="was changed"):
        save(model, tmp_path / "out.onnx")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", [truncate, rewrite, replace, Path.unlink])
@pytest.mark.parametrize("external", [False, True])
def test_a_change_after_the_last_read_is_refused(
    tmp_path: Path, change: Callable[[Path], None], external: bool
) -> None:
    path = put_external(tmp_path) if external else put(tmp_path, gemm())
    model = load(path)
    model.weights = {name: ArrayWeight(w.array()) for name, w in model.weights.items()}
    (tmp_path / "out.onnx").write_bytes(b"old")
    change(tmp_path / "weights.bin" if external else path)
    with pytest.raises(ModelError, match="was changed"):
        save(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == b"old" and not list(tmp_path.glob(".*"))


def test_a_change_while_the_result_is_compared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime opens the original by its path: the error would be that of another model."""
    path, out = put(tmp_path, gemm()), tmp_path / "out.onnx"
    compare = onnxprune.pipeline.comparison.compare

    def compare_changed(original: Path, *others: object, **options: object) -> object:
        rewritten = onnx.load(original)
        rewritten.graph.initializer[0].CopyFrom(named("w", BIG * 2))
        onnx.save(rewritten, original)
        return compare(original, *others, **options)

    monkeypatch.setattr("onnxprune.pipeline.comparison.compare", compare_changed)
    with pytest.raises(
        NotCompared, match=r"m\.onnx was changed while it was read.*out\.onnx is written, but not compared"
    ):
        onnxprune.sparsify(path, out, layers="all")
    assert out.exists()


def test_spans_of_a_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * WINDOW_BYTES + 5)
    path = tmp_path / "f"
    path.write_bytes(data)
    file = SourceFile(path)
    assert len(file) == len(data) and file[:] == data
    for start, stop in ((0, 3), (WINDOW_BYTES - 2, WINDOW_BYTES + 9), (5, 5), (len(data) - 2, len(data) + 7), (1, 2)):
        assert file[start:stop] == data[start:stop]


@pytest.mark.parametrize("order", [1, -1])
def test_rows_are_taken_from_a_file_as_from_memory(tmp_path: Path, order: int) -> None:
    w = load(put(tmp_path, gemm())).weights["w"]
    for keep in ([(0, np.arange(5, 31, 7)[::order])], [(0, np.arange(3, 9)[::order]), (1, np.array([4, 0, 4]))]):
        expected = BIG
        for axis, indices in keep:
            expected = expected.take(indices, axis)
        np.testing.assert_array_equal(SlicedWeight(w, keep).array(), expected)
        assert b"".join(map(bytes, SlicedWeight(w, keep).pieces())) == expected.tobytes()


def test_little_of_a_large_model_is_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading, scoring and saving take a few blocks, not the size of the file."""
    monkeypatch.setattr("onnxprune.graph.io.keep_memory", lambda: None)  # it asks for memory that it never touches
    sizes = [(2048, 1024), (1024, 2048), (2048, 1024), (1024, 2048)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2048]) for n in ("x0", "x4")]
    rng = np.random.default_rng(0)
    weights = [named(f"w{i}", rng.standard_normal(size, np.float32)) for i, size in enumerate(sizes)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    path = put(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    del graph, weights
    tracemalloc.start()
    try:
        onnxprune.prune(path, tmp_path / "out.onnx", check=False, ratio=0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 4 << 20 < peak < 28 << 20 < path.stat().st_size


WAITS_WHILE_IT_WRITES = """
import time
from onnxprune.cli import main
from onnxprune.graph.wire import Layout

def write_model(self, file):
    file.write(bytes(1 << 21))
    print("writing", flush=True)
    time.sleep(60)

Layout.write_model = write_model
main()
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=str)
def test_a_process_that_is_ended_leaves_no_temporary_file(tmp_path: Path, sent: signal.Signals) -> None:
    """SIGKILL leaves one, and the next run removes it."""
    path, out = put(tmp_path, gemm()), tmp_path / "out.onnx"
    arguments = ["sparsify", path, "-o", out, "--layers", "all", "--quiet"]
    command = [sys.executable, "-c", WAITS_WHILE_IT_WRITES, *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": str(Path(onnxprune.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout and process.stdout.readline() == b"writing\n", process.communicate()
        assert len(list(tmp_path.glob(".onnxprune-*.tmp"))) == 1
        process.send_signal(sent)
        said = process.communicate(timeout=60)[1]
    if sent == signal.SIGKILL:
        assert process.returncode == -sent and len(list(tmp_path.glob(".onnxprune-*.tmp"))) == 1
        save(load(path), out)
        out.unlink()
    else:
        assert (process.returncode, said) == (130, b"error: interrupted\n")
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_folders_of_processes_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    with make_temporary_folder() as mine:
        left = Path(mine.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
        left.mkdir()
        (left / "model.onnx").touch()
        with make_temporary_folder() as second:
            assert {str(p) for p in tmp_path.iterdir()} == {mine, second}
