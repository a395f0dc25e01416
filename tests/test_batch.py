"""`onnxprune batch` from outside: every job ends with a result, whatever happens to it, to others, and to the run."""

from __future__ import annotations

import csv
import json
import os
import pty
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import BROKEN, external, hanging, small
from test_cli import MODELS, ROOT, TEST, call, fails

from onnxprune.batch import results, worker
from onnxprune.batch.content import ContentDigests, Seen, Stamp
from onnxprune.batch.database import Outcome, ResultStore
from onnxprune.batch.isolate import Limits, Running, run
from onnxprune.batch.jobs import ReadyJob, Spec, prepare
from onnxprune.batch.results import JobResult, join_report, split
from onnxprune.cli.console import WITHOUT_DATA
from onnxprune.errors import OutputError
from onnxprune.machine import count_cores, read_free_memory, read_resident_bytes
from onnxprune.report import to_json
from onnxprune.settings import BatchSettings

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "onnxprune", "batch", *map(str, args)]


def started(*args: object, **more: Any) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, **more
    )


def ran(*args: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command(*args), capture_output=True, text=True, env=environ, check=False)


def by_name(folder: Path) -> dict[str, JobResult]:
    return {j.name: j for j in results.read(folder)}


def recipe(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return path


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child} | descendants(child)
    return found


def gone(pids: set[int], seconds: float = 10) -> bool:
    """Have all of these processes ended, or do so soon?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(_alive(p) for p in pids):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Jobs


def test_a_recipe_is_run(tmp_path: Path) -> None:
    text = f"""
models = ["{MODELS}"]
skip = ["*vit*"]
output = "out"
workers = 2
[settings]
data = "{TEST}"
[matrix]
ratio = [0.25, 0.5]
"""
    said = ran(recipe(tmp_path, text), "--csv", tmp_path / "r.csv", "--json")
    assert said.returncode == 0, said.stderr
    jobs = results.read(tmp_path / "out")
    assert [(j.name, j.settings["ratio"]) for j in jobs] == [
        (f"digits_{n}", r) for n in ("cnn", "resnet") for r in (0.25, 0.5)
    ]
    assert {j.status for j in jobs} == {"done", "degraded"}, "a ruined model is a result, of a status of its own"
    for j in jobs:
        assert j.report and j.report.error and j.output and j.seconds and j.started
        assert (j.status == "degraded") == (j.report.error.relative_l2 > 0.7) == bool(j.message)
        assert j.report.output == j.output and j.report.model == j.model
        assert j.report.latency.before > 0 and j.report.seconds["load"] > 0
        assert (tmp_path / "out" / j.output).stat().st_size == j.report.bytes.after
    assert json.loads(said.stdout) == [to_json(j) for j in jobs]
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [(r["model"], json.loads(r["settings"]), r["status"]) for r in rows] == [
        (j.name, j.settings, j.status) for j in jobs
    ]
    assert (
        float(rows[0]["accuracy_before"]) == 1.0 and float(rows[0]["relative_l2"]) == jobs[0].report.error.relative_l2
    )


def test_the_files_are_those_of_prune(tmp_path: Path) -> None:
    model = small(tmp_path / "m.onnx")
    assert ran(model, "-o", tmp_path / "out", "--ratio", 0.25, "--no-validate").returncode == 0
    (job,) = results.read(tmp_path / "out")
    assert job.settings == {"ratio": 0.25, "check": False} and job.report and job.report.error is None
    assert call("prune", model, "-o", tmp_path / "one.onnx", "--ratio", 0.25, "--no-validate").exit_code == 0
    assert (tmp_path / "out" / str(job.output)).read_bytes() == (tmp_path / "one.onnx").read_bytes()


@linux
def test_what_is_broken_costs_that_job_only(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    for name, (make, _, _) in BROKEN.items():
        make(tmp_path / "zoo" / f"{name}.onnx")
    good = [f(tmp_path / "zoo" / f"{n}.onnx").stem for n, f in {"good": small, "outside": external}.items()]
    said = ran(tmp_path / "zoo", "-o", tmp_path / "out", "--timeout", 8, "--memory", "700MB", "--workers", 2)
    assert said.returncode == 1
    jobs = by_name(tmp_path / "out")
    assert set(jobs) == {*BROKEN, *good}
    for name in good:
        assert (jobs[name].status, jobs[name].message) == ("done", "")
        assert (tmp_path / "out" / str(jobs[name].output)).is_file()
    for name, (_, status, words) in BROKEN.items():
        assert jobs[name].status == status and words in jobs[name].message, jobs[name]
        assert jobs[name].output is None and f"{name} " in said.stdout and jobs[name].message in said.stderr
    left = {f.parent.name for f in (tmp_path / "out" / "models").rglob("*") if f.is_file()}
    assert left == set(good)


def test_a_file_that_cannot_be_read_costs_that_job_only(tmp_path: Path) -> None:
    small(tmp_path / "good.onnx")
    (tmp_path / "loop.onnx").symlink_to(tmp_path / "loop.onnx")
    (tmp_path / "away.onnx").symlink_to(tmp_path / "nowhere.onnx")
    assert ran(tmp_path / "*.onnx", "-o", tmp_path / "out", "--no-validate").returncode == 0
    jobs = by_name(tmp_path / "out")  # a glob takes files only
    assert [j.status for j in jobs.values()] == ["done"]


def task(folder: Path, model: Path, **settings: Any) -> ReadyJob:
    return prepare(Spec(str(model), model.stem, settings, folder), folder, ContentDigests(Nowhere()))


class Nowhere:
    """Remembers nothing."""

    def recall(self, path: str, stamp: Stamp) -> Seen | None:
        return None

    def keep(self, path: str, stamp: Stamp, seen: Seen) -> None:
        pass


@linux
@pytest.mark.parametrize("sent", [signal.SIGSEGV, signal.SIGKILL], ids=str)
def test_a_process_that_dies_is_a_result(tmp_path: Path, sent: signal.Signals) -> None:
    mine, found = descendants(os.getpid()), list[Any]()
    asked = task(tmp_path, hanging(tmp_path / "m.onnx"))
    thread = threading.Thread(target=lambda: found.append(run(asked, Limits(60, None, 1), Running())))
    thread.start()
    while not (new := descendants(os.getpid()) - mine):
        time.sleep(0.02)
    os.kill(new.pop(), sent)
    thread.join()
    assert found[0].status == "crashed" and sent.name in found[0].message


def test_threads_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.batch.scheduler import make_limits
    from onnxprune.calibration.sessions import open_session

    assert make_limits(1, BatchSettings()).threads == count_cores()
    assert make_limits(10 * count_cores(), BatchSettings()).threads == 1
    monkeypatch.setenv("ONNXPRUNE_THREADS", "3")
    assert open_session(small(tmp_path / "m.onnx"), "m").get_session_options().intra_op_num_threads == 3


@linux
def test_mapped_files_are_no_memory(tmp_path: Path) -> None:
    assert read_free_memory()
    before = read_resident_bytes(os.getpid())
    np.zeros(50_000_000 // 8).tofile(tmp_path / "f")
    mapped = np.memmap(tmp_path / "f", np.float64, "r")
    assert mapped.sum() == 0 and read_resident_bytes(os.getpid()) - before < 20_000_000
    held = np.ones(50_000_000 // 8)
    assert held.sum() and read_resident_bytes(os.getpid()) - before > 30_000_000


# Who a job is


def identity(folder: Path, model: Path, **settings: Any) -> str:
    return task(folder, model, **settings).id


def test_a_job_is_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = external(tmp_path / "m.onnx"), tmp_path / "c.npz"
    np.savez(data, x=np.zeros((4, 8), np.float32))
    first = identity(tmp_path, model, calib=str(data), macs=0.5)
    os.utime(model)
    copy = tmp_path / "sub" / "m.onnx"
    copy.parent.mkdir()
    for name in ("m.onnx", "m.bin"):
        (copy.parent / name).write_bytes((tmp_path / name).read_bytes())
    assert (
        identity(tmp_path, model, macs=0.5, calib="c.npz") == identity(tmp_path, copy, calib="c.npz", macs=0.5) == first
    )
    assert identity(tmp_path, model, calib="c.npz", macs=0.5, cache="x") == first
    others = [identity(tmp_path, model, calib="c.npz", macs=0.4), identity(tmp_path, model, macs=0.5)]
    np.savez(data, x=np.ones((4, 8), np.float32))
    others.append(identity(tmp_path, model, calib="c.npz", macs=0.5))
    (tmp_path / "m.bin").write_bytes(bytes(1024))
    others.append(identity(tmp_path, model, calib="c.npz", macs=0.5))
    monkeypatch.setattr("onnxprune.batch.jobs.__version__", "0")
    others.append(identity(tmp_path, model, calib="c.npz", macs=0.5))
    assert len({first, *others}) == 6


def test_a_metric_keeps_its_function(tmp_path: Path) -> None:
    """Which function of a file it is makes another job, and so does what is in the file."""
    file = tmp_path / "mine.py"
    file.write_text("def one(outputs, labels): return 1.0\n\ndef two(outputs, labels): return 2.0\n")
    jobs = [task(tmp_path, MODELS / "digits_cnn.onnx", metric=f"mine.py:{name}", ratio=0.3) for name in ("one", "two")]
    assert jobs[0].id != jobs[1].id and jobs[1].settings["metric"] == f"{file}:two"
    outcome = worker.execute(replace(jobs[1], output=str(tmp_path / "o.onnx")))
    assert outcome.report and outcome.report.error and outcome.report.error.metric
    assert outcome.report.error.metric.after == 2.0
    file.write_text(file.read_text().replace("2.0", "3.0"))
    assert identity(tmp_path, MODELS / "digits_cnn.onnx", metric="mine.py:two", ratio=0.3) != jobs[1].id


def test_names_of_data_files_are_found_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path / "m.onnx")
    for size in (1, 7, 64, 1 << 22):
        monkeypatch.setattr("onnxprune.batch.content.CHUNK_BYTES", size)
        assert ContentDigests(Nowhere()).refers(tmp_path / "m.onnx") == ("m.bin",)


def test_digests_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(tmp_path / "m.onnx")
    with ResultStore(tmp_path / "out") as store:
        first = ContentDigests(store).model(model)
        monkeypatch.setattr(ContentDigests, "_read", lambda self, path: pytest.fail("read again"))
        assert ContentDigests(store).model(model) == first


# Nothing lost


def zoo(folder: Path) -> Path:
    (folder / "zoo").mkdir()
    small(folder / "zoo" / "a.onnx", 1)
    external(folder / "zoo" / "b.onnx", 2)
    BROKEN["truncated"][0](folder / "zoo" / "c.onnx")
    return recipe(folder, 'models = ["zoo"]\nworkers = 2\n[matrix]\nratio = [0.25, 0.5]\n')


@linux
def test_killed_at_any_moment_and_started_again(tmp_path: Path) -> None:
    """The database and the files are those of a run that nobody disturbed, and no job that ended runs again."""
    path, rng = zoo(tmp_path), random.Random(0)
    start = time.monotonic()
    assert ran(path, "-o", tmp_path / "calm").returncode == 1
    took = time.monotonic() - start
    ended: dict[tuple[str, str], tuple[Any, ...]] = {}
    for _ in range(4):
        process = started(path, "-o", tmp_path / "killed")
        time.sleep(rng.uniform(0.2, 0.9) * took)
        children = descendants(process.pid)
        process.kill()
        process.communicate()
        assert gone(children), "jobs live on"
        if (tmp_path / "killed" / results.DATABASE).is_file():
            ended |= when(tmp_path / "killed")
    said = ran(path, "-o", tmp_path / "killed")
    assert said.returncode == 1, said.stderr
    assert ended.items() <= when(tmp_path / "killed").items()
    assert results.list_differences(tmp_path / "calm", tmp_path / "killed") == []
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def when(folder: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    found = [j for j in results.read(folder) if j.status != "pending"]
    return {(j.name, str(j.settings)): (j.id, j.status, j.started, j.seconds) for j in found}


def test_only_what_changed_runs_again(tmp_path: Path) -> None:
    path = zoo(tmp_path)
    ran(path, "-o", tmp_path / "out")
    first = when(tmp_path / "out")
    assert "6 of them ended before" in ran(path, "-o", tmp_path / "out").stderr
    assert when(tmp_path / "out") == first
    external(tmp_path / "zoo" / "b.onnx", 3)
    (gone_model,) = [tmp_path / "out" / str(j.output) for j in results.read(tmp_path / "out") if j.name == "a"][:1]
    gone_model.unlink()
    said = ran(path, "-o", tmp_path / "out")
    assert "6 jobs, 3 of them ended before" in said.stderr and gone_model.is_file()
    changed = {k for k, v in when(tmp_path / "out").items() if v[0] != first[k][0]}
    assert {name for name, _ in changed} == {"b"}
    small(tmp_path / "zoo" / "c.onnx")
    assert ran(path, "-o", tmp_path / "out").returncode == 0


def test_what_was_never_run_and_is_not_asked_for_is_forgotten(tmp_path: Path) -> None:
    model = small(tmp_path / "m.onnx")
    one, other = (Spec(str(model), "m", {"ratio": r}, tmp_path) for r in (0.25, 0.5))
    with ResultStore(tmp_path / "out") as store:
        assert store.plan([(one, "1"), (other, "2")]) == {one.place, other.place}
        store.record(one, Outcome("failed", "why"))
        assert store.plan([(one, "1")]) == set()
    assert [(j.id, j.status) for j in results.read(tmp_path / "out")] == [("1", "failed")]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    spec = Spec("m.onnx", "m", {}, tmp_path)
    with ResultStore(tmp_path / "out") as store:
        store.plan([(spec, "1")])
        store.base.execute("PRAGMA max_page_count = 1")
        with pytest.raises(OutputError, match="is full; make room, and start the same command again"):
            store.record(spec, Outcome("done", "x" * 100_000))
    assert results.read(tmp_path / "out")[0].status == "pending"


def test_failures_run_again_when_asked(tmp_path: Path) -> None:
    model = hanging(tmp_path / "m.onnx")
    asked = (model, "-o", tmp_path / "out", "--no-validate")
    assert ran(*asked, "--timeout", "0.05s").returncode == 1
    assert results.read(tmp_path / "out")[0].status == "timeout"
    assert ran(*asked).returncode == 1
    assert ran(*asked, "--retry").returncode == 0


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    model = small(tmp_path / "m.onnx")
    with ResultStore(tmp_path / "out"):
        said = ran(model, "-o", tmp_path / "out")
        assert (
            said.returncode == 2 and "another run is at work in" in said.stderr and len(said.stderr.splitlines()) == 1
        )
    assert ran(model, "-o", tmp_path / "out").returncode == 0


@linux
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupted_run_stops_and_goes_on(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "zoo").mkdir()
    small(tmp_path / "zoo" / "a.onnx")
    hanging(tmp_path / "zoo" / "b.onnx")
    process = started(tmp_path / "zoo", "-o", tmp_path / "out", "--workers", 1)
    assert process.stderr
    try:
        while "done a" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.5)
        children = descendants(process.pid)
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()  # it would run for good, if it had not ended
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[-2:] == [
        "1 of 2 jobs ended; the same command continues from here",
        "error: interrupted",
    ]
    assert children and gone(children)
    assert {n: j.status for n, j in by_name(tmp_path / "out").items()} == {"a": "done", "b": "pending"}
    again = ran(tmp_path / "zoo", "-o", tmp_path / "out", "--timeout", 3)
    assert again.returncode == 1 and "2 jobs, 1 of them ended before" in again.stderr


# The database


def test_a_report_without_the_clock(tmp_path: Path) -> None:
    report = {
        "a": 1,
        "seconds": {"load": 2.0},
        "layers": [{"name": "x", "seconds": 3.0}],
        "measures": {"speedup_measured": 4},
    }
    kept, timed = split(report)
    assert kept == {
        "a": 1,
        "seconds": None,
        "layers": [{"name": "x", "seconds": None}],
        "measures": {"speedup_measured": None},
    }
    assert join_report(kept, timed) == report


def test_the_database_is_one_file_in_two_parts(tmp_path: Path) -> None:
    ran(small(tmp_path / "m.onnx"), "-o", tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"models", results.DATABASE, ".lock"}
    base = sqlite3.connect(tmp_path / "out" / results.DATABASE)
    (report,) = base.execute("SELECT report FROM jobs").fetchone()
    assert json.loads(report)["latency"] is None and json.loads(report)["params"]["before"] > 0
    base.execute("PRAGMA user_version = 99")
    base.close()
    fails(call("batch", tmp_path / "m.onnx", "-o", tmp_path / "out"), "results.sqlite has format 99")


def test_what_is_no_folder_of_results(tmp_path: Path) -> None:
    with pytest.raises(results.OnnxPruneError, match="is no output folder of 'onnxprune batch'"):
        results.read(tmp_path)
    (tmp_path / results.DATABASE).write_text("no database " * 100)
    with pytest.raises(results.OnnxPruneError, match="is no database of results"):
        results.read(tmp_path)
    fails(call("batch", small(tmp_path / "m.onnx"), "-o", tmp_path), results.DATABASE, "choose another output folder")
    fails(call("batch", tmp_path / "m.onnx", "-o", tmp_path / "m.onnx"), "m.onnx", "choose another output folder")


def test_differences_are_found(tmp_path: Path) -> None:
    model = small(tmp_path / "m.onnx")
    for name in ("a", "b"):
        assert ran(model, "-o", tmp_path / name, "--ratio", 0.5).returncode == 0
    assert results.list_differences(tmp_path / "a", tmp_path / "b") == []
    (job,) = results.read(tmp_path / "b")
    (tmp_path / "b" / str(job.output)).write_bytes(b"other")
    base = sqlite3.connect(tmp_path / "b" / results.DATABASE)
    base.execute("UPDATE jobs SET message = 'x'")
    base.commit()
    base.close()
    assert results.list_differences(tmp_path / "a", tmp_path / "b") == [
        "m ratio=0.5: message differs",
        f"{job.output} differs",
    ]
    compare = [sys.executable, "-m", "onnxprune.batch.results", str(tmp_path / "a")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for other, status in (("a", 0), ("b", 1), ("c", 2)):
        assert subprocess.run([*compare, str(tmp_path / other)], env=environ, capture_output=True).returncode == status


# What is shown


def test_a_dry_run_lists_the_jobs(tmp_path: Path) -> None:
    path = zoo(tmp_path)
    said = call("batch", path, "--dry-run")
    assert said.exit_code == 0 and said.stdout.count("ratio=0.25") == 3 and "6 jobs, 3 models" in said.stdout
    listed = json.loads(call("batch", path, "--dry-run", "--json").stdout)
    assert listed[0]["model"] == "zoo/a.onnx" and listed[0]["settings"] == {"ratio": 0.25}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.toml", "zoo"]


def test_a_log_has_a_line_for_each_job(tmp_path: Path) -> None:
    said = ran(zoo(tmp_path), "-o", tmp_path / "out")
    lines = said.stderr.splitlines()
    assert "2 workers" in lines[0] and lines[1] == f"note: 6 of 6 jobs: {WITHOUT_DATA}" and lines[2] == "6 jobs"
    assert [line.split()[0] for line in lines[3:]] == [f"[{i}/6]" for i in range(1, 7)]
    assert sum("failed c ratio=" in line and "cut short" in line for line in lines) == 2
    assert said.stdout.splitlines()[-1].startswith("4 done, 2 failed; results in ")


@linux
def test_a_terminal_shows_what_is_in_flight(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    small(tmp_path / "zoo" / "a.onnx")
    hanging(tmp_path / "zoo" / "b.onnx")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    args = command(tmp_path / "zoo", "-o", tmp_path / "out", "--workers", 1, "--timeout", 6)
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=theirs, env=environ)
    os.close(theirs)
    shown = "".join(iter(lambda: read_terminal(ours), ""))
    os.close(ours)
    assert process.wait() == 1
    assert "1 of 2 ended, 0 failed, 1 in flight, about 0:" in shown and "timeout b defaults" in shown, shown


def read_terminal(end: int) -> str:
    """What comes next; nothing when nobody holds the other end."""
    try:
        return os.read(end, 4096).decode(errors="replace")
    except OSError:
        return ""


def test_a_job_that_only_makes_weights_zero_is_told_of_as_such(tmp_path: Path) -> None:
    text = f"""
output = "out"
models = ["{MODELS / "digits_resnet.onnx"}"]
[settings]
ratio = 0
check = false
then_sparsify = "2:4"
layers = "eligible"
"""
    assert ran(recipe(tmp_path, text)).returncode == 0
    (job,) = results.read(tmp_path / "out")
    assert job.message == "" and job.report and any(x.sparse for x in job.report.sparsity.layers)
