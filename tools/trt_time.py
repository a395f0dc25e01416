#!/usr/bin/env python3
"""Build and time a model with TensorRT, dense against sparse, and see for which layers it took sparse kernels.

    python tools/trt_time.py MODEL.onnx [SPARSE.onnx] [--fp16] [--int8] [--batch 32] [--shape NAME=1x3x224x224] [--log FILE]

MODEL is built with --sparsity=disable, SPARSE (or MODEL again) with --sparsity=enable, by `trtexec` where it is found, else by the
tensorrt package (which needs torch with CUDA for its buffers). Prints median GPU times, and a Markdown table of the layers: what
onnxprune expects (`likely` to be picked, `eligible`) beside what the builder's log says. With --log, the log of an earlier
`trtexec --verbose --sparsity=enable` is read instead, and nothing is built. Exit status 2 where there is no TensorRT.

TensorRT 8 says "Layers eligible for sparse math: .." and "TRT inference plan picked sparse implementation for layers: ..", 10.14
"Found N layer(s) eligible to use sparse tactics: .." and "Chose M layer(s) using sparse tactics: ..", once for each pass over the
tactics; the last ones count. A layer's name is the names of its nodes with " + " between them.

Written without a TensorRT at hand: the parser is tested on lines that public issues quote, the call of trtexec with a stand-in;
building with the tensorrt package has not been run.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.sparsity import Checked, Sparsity, check_pattern

SAID = {
    "eligible": r"(?:Layers eligible for sparse math|Found (\d+) layer\(s\) eligible to use sparse tactics)",
    "picked": r"(?:TRT inference plan picked sparse implementation for layers|Chose (\d+) layer\(s\) using sparse tactics)",
}
MEDIAN = re.compile(r"GPU Compute Time: .*?median = ([\d.]+) ms")
FUSED = re.compile(r" \+ | \|\| ")  # one after the other; side by side
NONE = "there is no TensorRT here: neither trtexec on PATH nor the tensorrt package with torch and a CUDA GPU; run this where it is"


@dataclass(frozen=True)
class LayerCount:
    """Layers that a line of the log is about. It may give their number without their names."""

    number: int
    names: tuple[str, ...]

    def has(self, c: Checked) -> bool:
        """Is a layer among them? TensorRT calls nodes without a name after their output, and marks those that Myelin compiles."""
        m = c.layer.matrix
        own = (m.name, f"node_of_{m.output}")
        parts = (part for name in self.names for part in FUSED.split(name))
        return any(part in own or part.startswith(f"{m.name}_myl") for part in parts)


@dataclass(frozen=True)
class Build:
    """What the log of a build says; None where it says nothing."""

    eligible: LayerCount | None
    picked: LayerCount | None
    median_ms: float | None


def read_log(text: str) -> Build:
    """The layers and the median time of a verbose log of trtexec, or of the builder alone."""
    found: dict[str, LayerCount | None] = {}
    for key, pattern in SAID.items():
        last = next(reversed(list(re.finditer(rf"\(Sparsity\) {pattern}:?[ \t]*(.*)", text))), None)
        names = tuple(n.strip() for n in last[2].split(", ") if n.strip()) if last else ()
        found[key] = LayerCount(int(last[1] or len(names)), names) if last else None
    times = MEDIAN.findall(text)
    return Build(found["eligible"], found["picked"], float(times[-1]) if times else None)


def shapes(path: Path, batch: int, given: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Shapes of inputs that are not fixed: as given, or with `batch` for the first axis. OnnxPruneError for other free axes."""
    graph, out = onnxprune.load(path).proto.graph, {}
    stored = {t.name for t in graph.initializer}
    for value in (v for v in graph.input if v.name not in stored):
        dims = [d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim]
        if value.name in given:
            out[value.name] = given[value.name]
        elif 0 in dims[1:]:
            known = "x".join(str(d or "?") for d in (dims[0] or batch, *dims[1:]))
            raise OnnxPruneError(f"{path.name}: input '{value.name}' is {known}; give --shape {value.name}={known}")
        elif 0 in dims:
            out[value.name] = [batch, *dims[1:]]
    return out


def trtexec() -> str | None:
    return shutil.which("trtexec") or shutil.which(
        "trtexec", path="/usr/src/tensorrt/bin"
    )  # where NVIDIA's packages put it


def with_trtexec(exe: str, path: Path, sparse: bool, flags: Sequence[str], sizes: Mapping[str, list[int]]) -> str:
    """The log of one build and its timing."""
    command = [exe, f"--onnx={path}", f"--sparsity={'enable' if sparse else 'disable'}", *(f"--{f}" for f in flags)]
    command += ["--verbose", "--noDataTransfers", "--useSpinWait"]
    if sizes:
        command.append("--shapes=" + ",".join(f"{n}:{'x'.join(map(str, s))}" for n, s in sizes.items()))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if "[E]" in line] or done.stdout.splitlines()[-1:]
        raise OnnxPruneError(f"trtexec failed on {path.name}: {' '.join(errors[:1])}")
    return done.stdout


def package() -> bool:
    """Can the tensorrt package be used?"""
    if any(importlib.util.find_spec(name) is None for name in ("tensorrt", "torch")):
        return False
    import torch

    return torch.cuda.is_available()


def with_package(path: Path, sparse: bool, flags: Sequence[str], sizes: Mapping[str, list[int]]) -> str:
    """The same by the tensorrt package (8.6 or later): what its builder logs, and a line as trtexec writes it."""
    import tensorrt as trt  # type: ignore[import-not-found]

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)

    log = Log()
    builder = trt.Builder(log)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # what 10 does anyway
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        raise OnnxPruneError(f"TensorRT cannot read {path.name}: {parser.get_error(0)}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for flag in (*(f.upper() for f in flags), *(["SPARSE_WEIGHTS"] if sparse else [])):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    for name, size in sizes.items():
        profile.set_shape(name, size, size, size)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise OnnxPruneError(f"TensorRT cannot build {path.name}: {log.lines[-1]}")
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    return "\n".join([*log.lines, f"GPU Compute Time: median = {_median_ms(trt, engine, sizes)} ms"])


def _median_ms(trt: Any, engine: Any, sizes: Mapping[str, list[int]], rounds: int = 200) -> float:
    import numpy as np
    import torch

    context, stream = engine.create_execution_context(), torch.cuda.Stream()
    for name, size in sizes.items():
        context.set_input_shape(name, size)
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    types = {n: torch.from_numpy(np.empty(0, trt.nptype(engine.get_tensor_dtype(n)))).dtype for n in names}
    held = {n: torch.zeros(tuple(context.get_tensor_shape(n)), dtype=types[n], device="cuda") for n in names}
    for name, tensor in held.items():
        context.set_tensor_address(name, tensor.data_ptr())
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        context.execute_async_v3(stream.cuda_stream)
        end.record(stream)
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[rounds // 10 :])


def table(checked: Sequence[Checked], build: Build) -> Iterator[str]:
    """Layer by layer: what onnxprune expects of TensorRT, and what it did."""
    eligible, picked = build.eligible, build.picked
    if eligible is None or picked is None:
        yield "The log does not name sparse layers; was it built with --verbose and --sparsity=enable?"
        return
    yield f"TensorRT found {eligible.number} layers eligible and picked sparse kernels for {picked.number}."
    if eligible.number and not eligible.names:
        yield "The log gives no names of layers, so there is nothing to compare them with."
        return
    did = [2 if picked.has(c) else 1 if eligible.has(c) else 0 for c in checked]
    hits = sum(expected(c) == d for c, d in zip(checked, did, strict=True))
    yield f"onnxprune expected what it did with {hits} of {len(checked)} layers.\n"
    yield "| layer | operator | outputs x inputs | onnxprune | TensorRT | |\n|---|---|--:|---|---|---|"
    yield from (_line(c, d) for c, d in zip(checked, did, strict=True))
    lost = [n for n in (*eligible.names, *picked.names) if not any(LayerCount(1, (n,)).has(c) for c in checked)]
    if lost:
        yield f"\nOf these onnxprune knows no layer: {', '.join(dict.fromkeys(lost))}."


def expected(c: Checked) -> int:
    """What onnxprune makes of a layer: 2 for likely to be picked, 1 for eligible, 0 for neither."""
    v = c.layer.verdict
    return 0 if v is None or not c.holds else v.eligible + v.likely


def _line(c: Checked, did: int) -> str:
    m, v = c.layer.matrix, c.layer.verdict
    why = m.left or (v.why if v else "") if c.holds or c.broken is None else "its weights are not 2:4"
    remark = "" if expected(c) == did else f"differs; {why}" if why else "differs"
    kernel = f" x {m.shape[3]}" if m.shape[3] > 1 else ""
    words = (("no", "eligible", "likely")[expected(c)], ("no", "eligible", "picked")[did])
    return f"| {m.name} | {m.op} | {m.shape[1]} x {m.shape[2]}{kernel} | {words[0]} | {words[1]} | {remark} |"


def _shape(text: str) -> tuple[str, list[int]]:
    name, _, dims = text.rpartition("=")
    try:
        return name, [int(d) for d in dims.split("x")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=1x3x224x224") from None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("sparse", type=Path, nargs="?", metavar="SPARSE")
    parser.add_argument("--fp16", action="store_true", help="for models in float32 (not in strongly typed builds)")
    parser.add_argument("--int8", action="store_true", help="for models with QuantizeLinear and DequantizeLinear")
    parser.add_argument("--batch", type=int, default=1, help="the first axis of inputs, where it is free")
    parser.add_argument("--shape", type=_shape, action="append", default=[], metavar="NAME=1x3x224x224")
    parser.add_argument("--log", type=Path, help="read this log; build nothing")
    return parser.parse_args()


def compare(args: argparse.Namespace) -> Build | None:
    """Build both and print their times; the sparse build, or None where there is no TensorRT."""
    exe, flags = trtexec(), [f for f in ("fp16", "int8") if getattr(args, f)]
    if exe is None and not package():
        return None
    builds = {}
    for kind, path in (("dense", args.model), ("sparse", args.sparse or args.model)):
        sizes, sparse = shapes(path, args.batch, dict(args.shape)), kind == "sparse"
        text = with_trtexec(exe, path, sparse, flags, sizes) if exe else with_package(path, sparse, flags, sizes)
        builds[kind] = read_log(text)
    dense, sparse = builds["dense"].median_ms, builds["sparse"].median_ms
    if dense and sparse:
        print(f"dense {dense:.4g} ms, sparse {sparse:.4g} ms: {dense / sparse:.3f} times as fast\n")
    return builds["sparse"]


def main() -> int:
    args = arguments()
    try:
        checked = check_pattern(onnxprune.load(args.sparse or args.model), Sparsity(layers="all", target="tensorrt"))
        build = read_log(args.log.read_text(errors="replace")) if args.log else compare(args)
    except (OnnxPruneError, OSError) as e:
        print(e, file=sys.stderr)
        return 1
    if build is None:
        print(NONE, file=sys.stderr)
        return 2
    print("\n".join(table(checked, build)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
