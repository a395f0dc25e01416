"""Peak memory of a model in ONNX Runtime, each in a fresh process: what loading it and one run add to that process.

The process imports all that it needs, notes its resident memory, opens the model and runs it once; the difference to the
peak is what is reported: weights, the optimized graph, activations and workspaces. Where the system does not tell a process
its own peak (neither /proc nor `resource`), there is no number.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx

from onnxprune.calibration.sessions import Source, open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.files import make_temporary_folder
from onnxprune.graph.model import Model
from onnxprune.graph.save import save
from onnxprune.graph.weights import Array

STATUS = Path("/proc/self/status")


def measure_peak_memory(model: Source, feeds: Mapping[str, Array], threads: int | None = None) -> int | None:
    """Bytes; None where the platform does not tell. Raises OnnxPruneError where the model does not run."""
    if isinstance(model, str | Path):
        return _in_a_process(Path(model), feeds, threads)
    with make_temporary_folder() as folder:
        path = Path(folder, "model.onnx")
        if isinstance(model, Model):
            return _in_a_process(save(model, path)[0], feeds, threads)
        path.write_bytes(model.SerializeToString() if isinstance(model, onnx.ModelProto) else model)
        return _in_a_process(path, feeds, threads)


def _in_a_process(path: Path, feeds: Mapping[str, Array], threads: int | None) -> int | None:
    job = pickle.dumps((str(path.absolute()), dict(feeds), threads))
    root = str(Path(__file__).parents[2])  # where this package was imported from
    code = f"import sys; sys.path.insert(0, {root!r}); from {__name__} import run_child; run_child()"
    done = subprocess.run([sys.executable, "-c", code], input=job, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise OnnxPruneError(f"{path}: its peak memory could not be measured: {''.join(last) or done.returncode}")
    return int(done.stdout) if done.stdout.strip() else None


def run_child() -> None:
    """The main function of the child process: a pickled job from stdin, bytes to stdout."""
    path, feeds, threads = pickle.load(sys.stdin.buffer)
    before = read_peak_bytes()
    run(open_session(path, "model", threads), feeds)
    after = read_peak_bytes()
    if before is not None and after is not None:
        print(after - before)


def read_peak_bytes() -> int | None:
    """The most memory that this process had in use so far, in bytes; None where the system does not tell."""
    try:
        # Not getrusage on Linux: there a process inherits the peak of the one that started it.
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
