"""How fast ONNX Runtime's CPU provider is with convolutions of each channel count, in float and in int8.

    python tools/channel_times.py [--kind 3x3 depthwise 1x1] [--type float32 int8] [--channels 4 8 12 16 .. | --to 64 --step 4]
                                  [--size 14] [--layers 4] [--seconds 0.5] [--rounds 3] [--wall]

A row is a channel count, a column a kind of convolution of one element type. A cell is the time of one layer in microseconds and
its rate in GMAC/s: what is slow at a count shows as a lower rate than the counts around it have. int8 means what
`prune --then-quantize int8` writes: activations uint8, weights int8 with a scale for each filter.

A layer is timed in a chain of equal ones, as it lies in a network: between layers that it goes well with nothing is laid out
anew. All networks of a column take turns in random order, one thread, in new sessions each round; the least turn counts, by the
CPU time of the thread, so that other programs disturb it little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration.sessions import open_session, prepare_run

KERNELS = {"3x3": 3, "depthwise": 3, "1x1": 1}
TYPES = ("float32", "int8")
TURN_SECONDS = 0.002  # of runs in a row: the first finds the caches full of the other networks' weights


@dataclass(frozen=True)
class Layer:
    """A convolution with as many outputs as inputs, on a square picture."""

    kind: str
    dtype: str
    channels: int
    size: int

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        kernel = KERNELS[self.kind]
        return (self.channels, 1 if self.kind == "depthwise" else self.channels, kernel, kernel)

    @property
    def macs(self) -> int:
        return int(np.prod(self.weight_shape)) * self.size**2


def build_chain(layer: Layer, length: int) -> onnx.ModelProto:
    """A network of equal layers."""
    rng = np.random.default_rng(0)
    nodes, weights = [], dict[str, np.ndarray]()
    for i in range(length):
        if layer.dtype == "float32":
            w = rng.standard_normal(layer.weight_shape) / np.prod(layer.weight_shape[1:]) ** 0.5
            weights[f"w{i}"] = w.astype(np.float32)
            inputs = [f"x{i}", f"w{i}"]
        else:
            inputs = _add_quantized(layer, i, weights, rng)
        kernel = KERNELS[layer.kind]
        how = {"group": layer.channels if layer.kind == "depthwise" else 1, "pads": [kernel // 2] * 4}
        operator = "Conv" if layer.dtype == "float32" else "QLinearConv"
        nodes.append(helper.make_node(operator, inputs, [f"x{i + 1}"], kernel_shape=[kernel] * 2, **how))
    shape = [1, layer.channels, layer.size, layer.size]
    kind = TensorProto.FLOAT if layer.dtype == "float32" else TensorProto.UINT8
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("x0", f"x{length}")]
    stored = [numpy_helper.from_array(w, name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _add_quantized(layer: Layer, i: int, weights: dict[str, np.ndarray], rng: np.random.Generator) -> list[str]:
    """The inputs of a QLinearConv, whose constants are put among `weights`."""
    n = layer.channels
    weights |= {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(128, np.uint8),
        f"w{i}": rng.integers(-127, 128, layer.weight_shape, np.int8),
        f"w{i}_scale": rng.uniform(1e-3, 2e-3, n).astype(np.float32),
        f"w{i}_zero": np.zeros(n, np.int8),
        f"bias{i}": rng.integers(-99, 99, n, np.int32),
    }
    return [f"x{i}", "scale", "zero", f"w{i}", f"w{i}_scale", f"w{i}_zero", "scale", "zero", f"bias{i}"]


def time_layers(
    layers: Sequence[Layer], length: int, seconds: float, rounds: int, clock: Callable[[], float]
) -> list[float]:
    """Seconds of each layer: the least turn of all rounds, by the number of layers in a chain."""
    rng = np.random.default_rng(0)
    chains = [build_chain(layer, length).SerializeToString() for layer in layers]
    least = [float("inf")] * len(layers)
    for _ in range(rounds):
        runs = [_open(chain, layer) for chain, layer in zip(chains, layers, strict=True)]
        times = [max(1, round(TURN_SECONDS / max(_take_turn(run, 2, clock), 1e-6))) for run in runs]
        end = time.perf_counter() + seconds * len(layers) / rounds
        while time.perf_counter() < end:
            for at in rng.permutation(len(layers)):
                least[at] = min(least[at], _take_turn(runs[at], times[at], clock))
    return [t / length for t in least]


def _open(chain: bytes, layer: Layer) -> Callable[[], object]:
    shape = (1, layer.channels, layer.size, layer.size)
    x = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    feeds = {"x0": x if layer.dtype == "int8" else (x / 128 - 1).astype(np.float32)}
    return prepare_run(open_session(chain, "chain", 1), feeds)


def _take_turn(run: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KERNELS, default=list(KERNELS), help="kinds of convolutions (all)")
    parser.add_argument("--type", nargs="+", choices=TYPES, default=list(TYPES), help="element types (both)")
    parser.add_argument("--channels", nargs="+", type=int, metavar="N", help="these counts, instead of --to and --step")
    parser.add_argument("--to", type=int, default=64, metavar="N", help="the largest count (64)")
    parser.add_argument("--step", type=int, default=4, metavar="N", help="from one count to the next (4)")
    parser.add_argument("--size", type=int, default=14, metavar="N", help="height and width of the picture (14)")
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="layers in a chain (4)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each cell of the table (0.5)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="new sessions so many times (3)")
    parser.add_argument("--wall", action="store_true", help="count wall time, not CPU time")
    asked = parser.parse_args()
    counts = asked.channels or range(asked.step, asked.to + 1, asked.step)
    clock = time.perf_counter if asked.wall else time.thread_time
    columns = [(kind, dtype) for kind in asked.kind for dtype in asked.type]
    table = [[f"{n:8d}"] for n in counts]
    for kind, dtype in columns:
        layers = [Layer(kind, dtype, n, asked.size) for n in counts]
        found = time_layers(layers, asked.layers, asked.seconds, asked.rounds, clock)
        for row, layer, seconds in zip(table, layers, found, strict=True):
            row.append(f"{seconds * 1e6:9.1f} {layer.macs / seconds / 1e9:8.1f}")
    print("channels" + "".join(f"{f'{kind} {dtype}':>19}" for kind, dtype in columns))
    print(" " * 8 + f"{'us':>10} {'GMAC/s':>8}" * len(columns))
    for row in table:
        print(" ".join(row))


if __name__ == "__main__":
    main()
