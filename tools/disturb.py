#!/usr/bin/env python3
"""Kill writes, let two write at once, and change a model while it is read; count how each ended. Exit status 1 where any is wrong.

    python tools/disturb.py [--kills 100] [--pairs 20] [--changes 20] [--seed 0]

Two models of random weights, the same in all else, are what a result can be: it has to be one of the two, whole.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import OnnxPruneError

WIDTH, LAYERS = 1024, 8  # 4 MiB a layer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("kills", 100), ("pairs", 20), ("changes", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        sources = [make_model(Path(folder, f"source{i}.onnx"), seed=i) for i in (0, 1)]
        for title, run, times in (
            ("kills", kill, options.kills), ("pairs", write_two, options.pairs), ("changes", change, options.changes),
        ):  # fmt: skip
            place = Path(folder, title)
            place.mkdir()
            ends = Counter(run(place, sources, i, draw) for i in range(times))
            print(f"{title}: {', '.join(f'{n} {end}' for end, n in ends.most_common())}")
            wrong += sum(n for end, n in ends.items() if end.startswith("wrong"))
        place = Path(folder, "kills")
        onnxprune.save(onnxprune.load(sources[0]), place / "out.onnx", external=True)
        print(
            f"files beside the model and its data after the last kill and one more run: {len(list(place.iterdir())) - 2}"
        )
    return int(wrong > 0)


def make_model(path: Path, seed: int) -> Path:
    """A chain of matrix products, its weights in a data file."""
    draw = np.random.default_rng(seed)
    weights = [draw.standard_normal((WIDTH, WIDTH), np.float32) for _ in range(LAYERS)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(LAYERS)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", WIDTH]) for i in (0, LAYERS)]
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.bin")
    return path


def content(path: Path) -> bytes:
    """All weights, read without onnxprune."""
    return b"".join(t.raw_data for t in onnx.load(path).graph.initializer)


def which(path: Path, whole: list[bytes]) -> str:
    try:
        found = content(path)
    except Exception as e:  # whatever makes it no model
        return f"wrong: {' '.join(str(e).split())[:120]}"
    return "first" if found == whole[0] else "second" if found == whole[1] else "wrong: a mixture"


def start(write: Callable[[], object]) -> int:
    """A process that does one thing."""
    process = os.fork()
    if process == 0:
        try:
            write()
        finally:
            os._exit(0)
    return process


def kill(place: Path, sources: list[Path], i: int, draw: random.Random) -> str:
    """End a process at some time while it writes the one model over the other."""
    out, whole = place / "out.onnx", [content(s) for s in sources]
    models = [onnxprune.load(s) for s in sources]
    began = time.perf_counter()
    onnxprune.save(models[i % 2], out, external=True)
    seconds = time.perf_counter() - began
    process = start(lambda: onnxprune.save(models[1 - i % 2], out, external=True))
    time.sleep(draw.uniform(0, 1.5 * seconds))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    found = which(out, whole)
    return found if found.startswith("wrong") else "old" if found == ("first", "second")[i % 2] else "new"


def write_two(place: Path, sources: list[Path], i: int, draw: random.Random) -> str:
    """Two processes write different models to one place."""
    out, whole = place / "out.onnx", [content(s) for s in sources]
    models = [onnxprune.load(s) for s in sources]
    for process in [start(lambda m=m: onnxprune.save(m, out, external=True)) for m in models]:
        os.waitpid(process, 0)
    left = len(list(place.iterdir()))
    return which(out, whole) if left == 2 else f"wrong: {left} files"


def change(place: Path, sources: list[Path], i: int, draw: random.Random) -> str:
    """Truncate, rewrite or replace the model or its data at some time while the command line reads it."""
    command = [sys.executable, "-m", "onnxprune", "sparsify", str(place / "m.onnx"), "-o", str(place / "out.onnx")]
    command += ["--layers", "all", "--quiet"]
    if not (place / "expected0").exists():
        for j, source in enumerate(sources):
            began = time.perf_counter()
            onnxprune.sparsify(source, place / f"expected{j}", layers="all", check=False)
            (place / "seconds").write_text(str(time.perf_counter() - began))
    whole = [content(place / f"expected{j}") for j in (0, 1)]
    onnx.save(onnx.load(sources[0]), place / "m.onnx", save_as_external_data=i % 2 == 1, location="m.bin")
    changed = place / ("m.bin" if i % 2 else "m.onnx")
    onnx.save(onnx.load(sources[1]), place / "n.onnx", save_as_external_data=i % 2 == 1, location="n.bin")
    other = place / ("n.bin" if i % 2 else "n.onnx")
    (place / "out.onnx").unlink(missing_ok=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until_open(process, changed)
        time.sleep(draw.uniform(0, 2 * float((place / "seconds").read_text())))
        how = ("truncated", "rewritten", "replaced")[i // 2 % 3]
        if how == "truncated":
            os.truncate(changed, changed.stat().st_size // 2)
        elif how == "rewritten":
            shutil.copyfile(other, changed)
        else:
            os.replace(other, changed)
        said = process.communicate()[1]
    for path in place.glob("*.bin"):
        path.unlink()
    written = which(place / "out.onnx", whole) if (place / "out.onnx").exists() else ""
    if written.startswith("wrong"):
        return written
    if process.returncode == -signal.SIGBUS and written and i % 2:  # ONNX Runtime maps data files
        return f"{how}, right result, ended by SIGBUS while it was compared"
    if process.returncode == 0 and written and not said:
        return f"{how}, too late, right result"
    if process.returncode == 2 and len(said.splitlines()) == 1 and (not written or "but not compared" in said):
        return f"{how}, {'right result, not compared' if written else 'refused'} in one line"
    return f"wrong: {how}, {process.returncode}, {said[:200]}"


def wait_until_open(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until the process has the file open."""
    handles = Path(f"/proc/{process.pid}/fd")
    while process.poll() is None:
        try:
            if any(os.path.realpath(h) == os.path.realpath(path) for h in handles.iterdir()):
                return
        except OSError:
            return
        time.sleep(0.002)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OnnxPruneError as e:
        sys.exit(f"error: {e}")
