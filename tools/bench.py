#!/usr/bin/env python3
"""Measure what pruning costs, against onnx itself and against other pruners. Prints Markdown tables.

    python tools/bench.py cost [--file MODEL.onnx]        time and peak memory against onnx.load + onnx.save
    python tools/bench.py peers [--models resnet50 ...]   the same networks through torch-pruning and onnxsim

`cost` times both in one process, in turns, and takes medians; memory is the peak resident size of a fresh process
over what it held once its imports were done. Loading, analyzing, planning, applying and saving are inside; validation
is not. `peers` starts a fresh process for every measurement, in turns: onnxprune and onnxsim go from file to file,
torch-pruning from a live module to an .onnx file (the export is told apart). All remove half of the channels by L2 norm.
A tool that is not installed is left out with a message. Files are exported first (tools/export_models.py: needs
torch) unless --zoo names a folder that has them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TOOLS = ("onnxprune", "torch-pruning", "onnxsim")
MODELS = ("resnet50", "resnet18", "mobilenet_v2", "densenet121", "vit_b_16", "bert_base")
RATIO = 0.5
TIME_LIMIT, MEMORY_LIMIT = 3.0, 2.5
TIMEOUT_S = 900

# --- what runs in a fresh process -------------------------------------------------------------------------------------


class Memory:
    """Peak resident memory in bytes over what was resident when this was made."""

    def __init__(self) -> None:
        gc.collect()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
        self.base = self._status("VmRSS")

    def _status(self, key: str) -> int:
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def peak(self) -> int:
        return self._status("VmHWM") - self.base


def load_save(path: Path, out: Path) -> None:
    """What the cost is measured against."""
    import onnx

    onnx.save(onnx.load(path), out)


def prune(path: Path, out: Path) -> dict[str, float]:
    """Everything that `onnxprune prune --no-validate` does; seconds by stage."""
    import onnxprune

    done = onnxprune.prune(path, out, ratio=RATIO, criterion="l2", repair="none", check=False)
    seconds: dict[str, float] = done.report.seconds
    return seconds


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def cost_time(path: Path, out: Path, repeats: int) -> dict[str, Any]:
    """Both in this process, in turns, after one round that is not counted. Median seconds, and stages."""
    import onnx  # noqa: F401

    import onnxprune  # noqa: F401

    ours, base, stages = [], [], []
    for i in range(repeats + 1):
        b, _ = timed(lambda: load_save(path, out))
        a, stage = timed(lambda: prune(path, out))
        if i:
            ours.append(a)
            base.append(b)
            stages.append(stage)
    by_stage = {k: statistics.median(s[k] for s in stages) for k in stages[0]}
    return {"onnxprune": statistics.median(ours), "onnx": statistics.median(base), "stages": by_stage}


def cost_memory(what: str, path: Path, out: Path) -> dict[str, Any]:
    import onnx  # noqa: F401

    if what == "onnxprune":
        import onnxprune  # noqa: F401
    memory = Memory()
    (prune if what == "onnxprune" else load_save)(path, out)
    return {"peak": memory.peak()}


def peer(tool: str, name: str, path: Path, out: Path) -> dict[str, Any]:
    run: Callable[[str, Path, Path], dict[str, Any]] = {
        "onnxprune": by_onnxprune,
        "onnxsim": by_onnxsim,
        "torch-pruning": by_torch_pruning,
    }[tool]
    result = run(name, path, out)
    from table import check, float_params  # not before: what they import is not the tool's

    result["params"] = float_params(out)
    try:
        result["wrong"] = check(out)
    except Exception as e:
        result["wrong"] = f"{type(e).__name__}: {' '.join(str(e).split())[:60]}"
    return result


def by_onnxprune(name: str, path: Path, out: Path) -> dict[str, Any]:
    import onnxprune  # noqa: F401

    memory = Memory()
    seconds, _ = timed(lambda: prune(path, out))
    return {"seconds": seconds, "peak": memory.peak()}


def by_onnxsim(name: str, path: Path, out: Path) -> dict[str, Any]:
    import onnx
    import onnxsim  # type: ignore[import-untyped]

    memory = Memory()

    def call() -> None:
        onnx.save(onnxsim.apply_structured_pruning(onnx.load(path), sparsity=RATIO, importance_norm="l2"), out)

    seconds, _ = timed(call)
    return {"seconds": seconds, "peak": memory.peak()}


def by_torch_pruning(name: str, path: Path, out: Path) -> dict[str, Any]:
    import export_models
    import torch
    import torch_pruning  # noqa: F401  # type: ignore[import-untyped]

    torch.set_num_threads(2)
    memory = Memory()
    net = export_models.build(name)
    seconds, _ = timed(lambda: prune_module(net, RATIO))
    export, _ = timed(lambda: export_models.export(net, out, "ts"))
    return {"seconds": seconds + export, "export": export, "peak": memory.peak()}


def prune_module(net: Any, ratio: float) -> None:
    """What torch-pruning's README says for a network: half of every group by L2 norm, the outputs as wide as they are."""
    import torch_pruning as tp

    args = tuple(net.inputs.values())
    example = dict(net.inputs) if len(args) > 1 else args[0]  # torch-pruning passes a dictionary as keywords
    pruner = tp.pruner.BasePruner(
        net.module,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[last_layer(net.module)],
        num_heads=attention_heads(net.module),
    )
    pruner.step()
    adjust(net.module)


def attention_heads(module: Any) -> dict[Any, int]:
    """Projections that torch-pruning must be told are cut into heads; torch's own attention module it knows by itself."""
    out = {}
    for m in module.modules():
        if type(m).__name__ == "BertSelfAttention":
            out |= dict.fromkeys((m.query, m.key, m.value), m.num_attention_heads)
        elif hasattr(m, "qkv") and hasattr(m, "num_heads"):  # timm's
            out[m.qkv] = m.num_heads
    return out


def last_layer(module: Any) -> Any:
    """The layer that makes the output; torch-pruning would prune it like any other."""
    from torch import nn

    return [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]


def adjust(module: Any) -> None:
    """Sizes that the modules keep as plain numbers, which torch-pruning leaves to its user."""
    for m in module.modules():
        kind = type(m).__name__
        if kind == "BertSelfAttention":
            m.attention_head_size = m.query.out_features // m.num_attention_heads
            m.all_head_size = m.query.out_features
        elif hasattr(m, "qkv") and hasattr(m, "head_dim"):  # timm's
            m.head_dim = m.qkv.out_features // 3 // m.num_heads
            m.attn_dim = m.head_dim * m.num_heads
        elif kind == "VisionTransformer" and hasattr(m, "conv_proj"):  # torchvision's
            m.hidden_dim = m.conv_proj.out_channels


def export_one(name: str, path: Path) -> dict[str, Any]:
    import export_models

    export_models.export(export_models.build(name), path, "ts")
    return {}


JOBS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "time": lambda path, out, n: cost_time(Path(path), Path(out), int(n)),
    "memory": lambda what, path, out: cost_memory(what, Path(path), Path(out)),
    "peer": lambda tool, name, path, out: peer(tool, name, Path(path), Path(out)),
    "export": lambda name, path: export_one(name, Path(path)),
}


# --- what starts them, and the tables ---------------------------------------------------------------------------------


def job(*args: object, script: str = __file__, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Run one job of a script in a fresh process; its last line is JSON. {"error": why} when it fails."""
    tools = Path(__file__).resolve().parent
    path = os.pathsep.join(p for p in (str(tools.parent), os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, script, "job", *map(str, args)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {timeout_s:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:100]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def file_of(name: str, zoo: Path | None, folder: Path) -> Path:
    """The exported file of a network: one that is there already, or a new one. Exits where it cannot be made."""
    for place in (zoo, folder):
        if place and (place / f"{name}.ts.onnx").exists():
            return place / f"{name}.ts.onnx"
    path = folder / f"{name}.ts.onnx"
    print(f"exporting {name} ..", file=sys.stderr)
    result = job("export", name, path)
    if "error" in result:
        sys.exit(
            f"bench.py: cannot export {name}: {result['error']}; install torch, torchvision and transformers, or use --zoo"
        )
    return path


def mb(n: float) -> str:
    return f"{n / 1e6:.0f}"


def cost(path: Path, folder: Path, repeats: int) -> bool:
    """Print the first table; True when both ratios are within their limits."""
    out, size = folder / "out.onnx", path.stat().st_size
    times = job("time", path, out, repeats)
    memory = {what: job("memory", what, path, out) for what in ("onnx", "onnxprune")}
    for result in (times, *memory.values()):
        if "error" in result:
            sys.exit(f"bench.py: {result['error']}")
    slower, larger = times["onnxprune"] / times["onnx"], memory["onnxprune"]["peak"] / size
    print(f"`{path.name}`, {mb(size)} MB, median of {repeats} in one process; memory over the imports\n")
    rows = (
        ("onnx.load + onnx.save", times["onnx"], memory["onnx"]),
        ("onnxprune", times["onnxprune"], memory["onnxprune"]),
    )
    print("| | seconds | times onnx | peak, MB | times the file |\n|---|--:|--:|--:|--:|")
    for label, t, m in rows:
        print(f"| {label} | {t:.3f} | {t / times['onnx']:.2f} | {mb(m['peak'])} | {m['peak'] / size:.2f} |")
    print(f"| wanted | | <= {TIME_LIMIT:g} | | <= {MEMORY_LIMIT:g} |\n")
    print("stages: " + ", ".join(f"{k} {v:.3f}" for k, v in times["stages"].items()) + " s\n", flush=True)
    return bool(slower <= TIME_LIMIT and larger <= MEMORY_LIMIT)


def peers(models: Sequence[str], zoo: Path | None, folder: Path, repeats: int) -> None:
    """Print the second table: every tool on every network, in turns."""
    tools = []
    for tool in TOOLS:
        try:
            found = "this tree" if tool == "onnxprune" else version(tool)
            print(f"{tool}: {found}  ")
            tools.append(tool)
        except PackageNotFoundError:
            print(f"{tool}: not installed, left out; 'pip install onnxprune[bench]' installs it  ")
    print("\n| model | tool | seconds | times onnxprune | peak, MB | params left, M | checker and two batch sizes |")
    print("|---|---|--:|--:|--:|--:|---|", flush=True)
    for name in models:
        path = file_of(name, zoo, folder)
        runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
        for i in range(repeats):
            for tool in tools:
                if not (i and "error" in runs[tool][0]):
                    runs[tool].append(job("peer", tool, name, path, folder / "out.onnx"))
        ours = runs["onnxprune"]
        base = statistics.median(r["seconds"] for r in ours) if all("seconds" in r for r in ours) else float("nan")
        for tool, results in runs.items():
            print(_row(name, tool, results, base), flush=True)


def _row(name: str, tool: str, results: Sequence[dict[str, Any]], base: float) -> str:
    bad = next((r["error"] for r in results if "error" in r), None)
    if bad:
        return f"| {name} | {tool} | | | | | {bad} |"
    seconds = statistics.median(r["seconds"] for r in results)
    export = f" (export {statistics.median(r['export'] for r in results):.2f})" if "export" in results[0] else ""
    peak = statistics.median(r["peak"] for r in results)
    return (
        f"| {name} | {tool} | {seconds:.2f}{export} | {seconds / base:.1f} | {mb(peak)} "
        f"| {results[0]['params'] / 1e6:.2f} | {results[0]['wrong'] or 'yes'} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["job"]:
        print(json.dumps(JOBS[argv[1]](*argv[2:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["cost", "peers", "both"], default="both")
    parser.add_argument("--file", type=Path, help="an ONNX file for `cost` instead of resnet50")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help=f"for `peers` ({' '.join(MODELS)})")
    parser.add_argument("--zoo", type=Path, help="folder with NAME.ts.onnx files exported before")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    ok = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what != "peers":
            ok = cost(args.file or file_of("resnet50", args.zoo, folder), folder, args.repeats)
        if args.what != "cost":
            peers(args.models, args.zoo, folder, args.repeats)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
