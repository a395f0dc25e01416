"""`onnxprune batch --dask`: a scheduler and workers in processes of their own, as on several hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken import hanging, small
from test_batch import descendants, gone, ran, recipe, started
from test_cli import MODELS, ROOT, call, fails

from onnxprune.batch import results
from onnxprune.batch.cluster import FileLease

pytest.importorskip("distributed", reason="these tests need Dask (pip install 'onnxprune[dask]')")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class Cluster:
    """A scheduler on loopback and its workers, as `dask scheduler` and `dask worker` start them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.all = folder, folder / "scheduler.json", list[subprocess.Popen[bytes]]()
        self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file), "--no-dashboard"
        )
        while not self.file.is_file():
            assert self.all[0].poll() is None, "the scheduler did not start"
            time.sleep(0.05)

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.folder / f"log{len(self.all)}", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *args], env=environ, stdout=log, stderr=log, cwd=self.folder
            )
        self.all.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        where = ("--scheduler-file", str(self.file), "--host", "127.0.0.1", "--local-directory", str(self.folder))
        return self.start("worker", *where, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def close(self) -> None:
        for process in reversed(self.all):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "dask").mkdir()
    made = Cluster(tmp_path / "dask")
    yield made
    made.close()


@linux
def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path, cluster: Cluster) -> None:
    text = f'models = ["{MODELS}"]\nskip = ["*vit*"]\n[matrix]\nratio = [0.2, 0.4, 0.6]\n'
    path = recipe(tmp_path, text)
    first, _ = cluster.worker(), cluster.worker()
    process = started(path, "-o", tmp_path / "out", "--dask", cluster.file)
    assert process.stderr
    while "] d" not in process.stderr.readline():  # done, or degraded
        assert process.poll() is None
    while not (jobs := descendants(first.pid)):
        assert process.poll() is None, "the first worker got no job"
        time.sleep(0.01)
    first.kill()
    assert gone(jobs), "the job of a worker that is gone lives on"
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert ran(path, "-o", tmp_path / "alone", "--threads", 1).returncode == 0
    assert len(results.read(tmp_path / "out")) == 6
    assert results.list_differences(tmp_path / "out", tmp_path / "alone") == []


@linux
def test_what_goes_wrong_on_a_cluster(tmp_path: Path, cluster: Cluster) -> None:
    """A job beyond its limits is a result, and Ctrl-C ends the jobs on the workers too."""
    worker = cluster.worker()
    (tmp_path / "zoo").mkdir()
    small(tmp_path / "zoo" / "a.onnx")
    hanging(tmp_path / "zoo" / "b.onnx")
    said = ran(tmp_path / "zoo", "-o", tmp_path / "out", "--dask", cluster.file, "--timeout", 8)
    assert said.returncode == 1 and [j.status for j in results.read(tmp_path / "out")] == ["done", "timeout"], (
        said.stderr
    )
    process = started(tmp_path / "zoo", "-o", tmp_path / "out", "--dask", cluster.file, "--retry")
    while not (jobs := descendants(worker.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith("error: interrupted\n") and process.returncode == 130
    assert gone(jobs)
    assert [j.status for j in results.read(tmp_path / "out")] == ["done", "pending"]


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(tmp_path / "m.onnx")
    fails(
        call("batch", model, "-o", tmp_path / "out", "--dask", tmp_path / "none.json"),
        "no Dask scheduler at",
        "none.json",
    )
    monkeypatch.setattr("onnxprune.batch.cluster.CONNECT_SECONDS", 0.5)
    fails(call("batch", model, "-o", tmp_path / "out", "--dask", "tcp://127.0.0.1:1"), "no Dask scheduler at tcp://127")
    monkeypatch.setitem(sys.modules, "distributed", None)
    fails(call("batch", model, "-o", tmp_path / "out", "--dask", "tcp://x"), "pip install 'onnxprune[dask]'")


def test_a_lease_is_held_while_its_name_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.batch.cluster.LEASE_SECONDS", -1)
    path = tmp_path / "lease"
    path.write_text("one")
    one = FileLease(str(path), "one")
    assert one.is_held()
    path.write_text("two")
    assert not one.is_held() and FileLease(str(path), "two").is_held()
    path.unlink()
    assert not FileLease(str(path), "two").is_held()
