"""How fast 2:4 is written, and in how much memory, against copying the file and against polygraphy: ratios of one run.

    python tools/sparse_bench.py [--layers 24] [--size 4096] [--type float32|float16|bfloat16] [--polygraphy]

Makes a chain of MatMul with random weights (1.6 GB unless said otherwise) in a temporary folder, then, in processes of their own,
copies it, makes it sparse with onnxprune, and with --polygraphy by `polygraphy surgeon prune`. Prints wall and CPU seconds and the
peak of resident memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def build(path: Path, layers: int, size: int, kind: str) -> None:
    """A chain of MatMul, its weights in one data file beside it, written one after the other."""
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[kind]))
    rng = np.random.default_rng(0)
    tensors, nodes, data = [], [], Path(f"{path}.data")
    with data.open("wb") as file:
        for i in range(layers):
            offset = file.tell()
            block = (rng.standard_normal((size, size), np.float32) / size**0.5).astype(TYPES[kind])
            file.write(block.tobytes())
            t = TensorProto(name=f"w{i}", data_type=elem, dims=[size, size], data_location=TensorProto.EXTERNAL)
            for key, value in (("location", data.name), ("offset", offset), ("length", block.nbytes)):
                t.external_data.add(key=key, value=str(value))
            tensors.append(t)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"matmul{i}"))
    ends = [helper.make_tensor_value_info(name, elem, ["batch", size]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    graph.initializer.extend(tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def timed(name: str, command: Sequence[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, peak resident MB of a command."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{name} failed: {errors.decode(errors='replace')[-500:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--type", choices=TYPES, default="float32")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of copying and onnxprune, taking turns; the least counts"
    )
    parser.add_argument("--polygraphy", action="store_true", help="run polygraphy too, once")
    parser.add_argument("--folder", type=Path, help="where the files go (the system's temporary folder)")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = Path(tempfile.mkdtemp(prefix="sparse-bench-", dir=args.folder))
    try:
        bench(folder, args)
    finally:
        shutil.rmtree(folder)


def bench(folder: Path, args: argparse.Namespace) -> None:
    source = folder / "chain.onnx"
    build = f"import sys; sys.path[:] = {sys.path!r}; from sparse_bench import build, Path; build(Path(sys.argv[1]), "
    build += (
        f"{args.layers}, {args.size}, {args.type!r})"  # in a process of its own: what it starts would inherit its peak
    )
    subprocess.run([sys.executable, "-c", build, str(source)], check=True)
    data = Path(f"{source}.data")
    print(f"{args.layers} MatMul of {args.size} x {args.size} {args.type}: {data.stat().st_size / 1e9:.2f} GB")
    out = folder / "out" / "sparse.onnx"
    tools = {
        "copy": [sys.executable, "-c", COPY, str(data), str(folder / "copy.data")],
        "onnxprune": [
            sys.executable,
            "-m",
            "onnxprune",
            "sparsify",
            str(source),
            "-o",
            str(out),
            "--all",
            "--no-validate",
        ],
    }
    best: dict[str, tuple[float, float, float]] = {}
    for _ in range(args.rounds):
        for name, command in tools.items():
            shutil.rmtree(out.parent, ignore_errors=True)
            (folder / "copy.data").unlink(missing_ok=True)
            out.parent.mkdir()
            found = timed(name, command)
            best[name] = min(best.get(name, found), found)
    shutil.rmtree(out.parent)
    if args.polygraphy:
        (folder / "copy.data").unlink(missing_ok=True)
        out.parent.mkdir()
        command = ["polygraphy", "surgeon", "prune", str(source), "-o", str(out), "--save-external-data"]
        best["polygraphy"] = timed("polygraphy", command)
    print("| | seconds | times copying | CPU seconds | peak, MB |\n|---|--:|--:|--:|--:|")
    for name, (wall, cpu, peak) in best.items():
        print(f"| {name} | {wall:.2f} | {wall / best['copy'][0]:.2f} | {cpu:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
