"""What the clock of `validation/latency.py` says of pairs of models whose ratio is known, beside busy processes.

    python tools/clock.py [--size 0.1 1 10] [--busy 0 2] [--repeat 20] [--statistics] [--limit 60] [MODEL ..]

Each pair is a file and a re-saved copy of itself, or a network and the same with a tenth more layers (1.10 times slower). The
networks are made here, for 0.1, 1 and 10 ms a run; a MODEL is compared with a copy of itself only. A row says how many of the
verdicts came before the time was over, how many were right (the same, or slower), how far the ratios were from the truth, and
how long it took.

With --statistics no verdict is asked for: each repetition records two seconds of turns with both clocks, and from the same
record each statistic (minimum, lower quartile, median) of each clock (wall time, CPU time of the thread) has its error and
the half width of its interval.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration import draw_batches
from onnxprune.calibration.sessions import open_session
from onnxprune.graph.io import load
from onnxprune.validation import latency

SHAPES = {"0.1": (20, 32, 4), "1": (20, 32, 14), "10": (20, 48, 28)}  # layers, channels, height and width
STATISTICS = {"minimum": 0.0, "lower quartile": 0.25, "median": 0.5}
CLOCKS = {"wall": time.perf_counter, "CPU": time.thread_time}
RECORD_HEATS = 12
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # it ends with this process, however that ends


def build(layers: int, channels: int, size: int) -> onnx.ModelProto:
    """A chain of convolutions, all alike, so that time goes with their number."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        w = (rng.standard_normal((channels, channels, 3, 3)) / (9 * channels) ** 0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    shape = [1, channels, size, size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def make_pairs(folder: Path, sizes: Sequence[str], models: Sequence[Path]) -> Iterator[tuple[str, Path, Path, float]]:
    """Names, two files, and the true ratio before / after."""
    for size in sizes:
        layers, channels, width = SHAPES[size]
        paths = [folder / f"{size}-{n}.onnx" for n in (layers, layers * 11 // 10)]
        for path, n in zip(paths, (layers, layers * 11 // 10), strict=True):
            onnx.save(build(n, channels, width), path)
        yield f"{size} ms, itself", paths[0], copy_model(paths[0], folder), 1.0
        yield f"{size} ms, 1.10 slower", paths[0], paths[1], 1 / 1.1
    for path in models:
        yield f"{path.stem}, itself", path, copy_model(path, folder), 1.0


def copy_model(path: Path, folder: Path) -> Path:
    """The model, read and saved again."""
    out = folder / f"copy-{path.name}"
    onnx.save(onnx.load(path), out)
    return out


@contextmanager
def run_busy(processes: int) -> Iterator[None]:
    """Processes that do nothing else than compute, beside what is measured."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def feeds_of(path: Path) -> Any:
    model = load(path)
    return latency.take_one_sample(open_session(path, "model"), draw_batches(model, 0, 1))


def show_verdicts(name: str, busy: int, pair: tuple[Path, Path, float], repeat: int, limit: float) -> None:
    before, after, truth = pair
    feeds = feeds_of(before)
    found, seconds = [], []
    for seed in range(repeat):
        start = time.perf_counter()
        found.append(latency.measure_latency(before, after, feeds, limit=limit, seed=seed))
        seconds.append(time.perf_counter() - start)
    wanted = "same" if truth == 1 else "slower"
    ratios = np.array([x.ratio for x in found], float)
    inside = np.mean([(x.low or 0) <= truth <= (x.high or np.inf) for x in found])
    print(
        f"| {name} | {busy} | {os.getloadavg()[0]:.1f} | {found[0].before * 1e3:.3g} | {sum(s < limit for s in seconds)} "
        f"| {sum(x.verdict == wanted for x in found)} | {sum(abs(ratios / truth - 1) <= 0.03)} | {np.median(ratios):.3f} "
        f"| {ratios.min():.3f} to {ratios.max():.3f} | {inside:.0%} | {np.median(seconds):.1f} | {max(seconds):.1f} |",
        flush=True,
    )


def show_statistics(name: str, busy: int, pair: tuple[Path, Path, float], repeat: int) -> None:
    before, after, truth = pair
    feeds = feeds_of(before)
    records = []
    for seed in range(repeat):
        lanes = latency.Lanes(before, after, feeds, 1, lambda: np.array([c() for c in CLOCKS.values()]), seed)
        records.append([lanes.run_heat() for _ in range(RECORD_HEATS)])
    for at, clock in enumerate(CLOCKS):
        for statistic, quantile in STATISTICS.items():
            heats = [[([t[at] for t in a], [t[at] for t in b]) for a, b in record] for record in records]
            found = [latency.judge(of, lambda turns, q=quantile: float(np.quantile(turns, q))) for of in heats]
            errors = [abs(x.ratio / truth - 1) for x in found]
            inside = np.mean([x.low <= truth <= x.high for x in found])
            print(
                f"| {name} | {busy} | {os.getloadavg()[0]:.1f} | {clock} | {statistic} | {np.median(errors):.3f} "
                f"| {max(errors):.3f} | {np.median([x.spread for x in found]):.3f} | {inside:.0%} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--size", nargs="*", default=list(SHAPES), choices=SHAPES, help="milliseconds a run")
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 2], help="processes beside it")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--limit", type=float, default=latency.SECONDS)
    parser.add_argument("--statistics", action="store_true")
    args = parser.parse_args()
    if args.statistics:
        print(
            "| pair | busy | load | clock | statistic | error, median | error, largest | half width | interval has it |"
        )
        print("|---|--:|--:|---|---|--:|--:|--:|--:|", flush=True)
    else:
        print(
            "| pair | busy | load | ms | decided | right | within .03 | ratio | from, to | interval has it | s | s, most |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="clock-") as folder:
        for name, before, after, truth in make_pairs(Path(folder), args.size, args.models):
            for busy in args.busy:
                with run_busy(busy):
                    if args.statistics:
                        show_statistics(name, busy, (before, after, truth), args.repeat)
                    else:
                        show_verdicts(name, busy, (before, after, truth), args.repeat, args.limit)


if __name__ == "__main__":
    main()
