#!/usr/bin/env python3
"""How much of real models can be pruned, what stays whole and why; beside torch-pruning and onnxsim.

    python tools/coverage.py zoo --write onnxprune/ops/README.md
    python tools/coverage.py resnet50.onnx zoo/hf --json coverage.json --peers none

For each .onnx file given (folders are searched): parameters, the share of them in weights that shrink when every group
keeps one channel, what is left at --ratio by L2 norm in local scope, nodes, seconds of analysis, and the reasons of what
stays whole, by parameters. The original and the pruned file are run in ONNX Runtime on the same inputs.

The peers get the same figures where they run: onnxsim from the file, torch-pruning from the live module (by the file's
name, see `builder`; its share is that of the parameters whose shape changed). Every measurement has a process of its own
and a time limit. `--write FILE` puts the table between the two markers of a Markdown file.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bench

PEERS = ("torch-pruning", "onnxsim")
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
MOST_REASONS, LEAST_SHARE = 3, 0.0005
Result = dict[str, Any]
Shapes = Mapping[str, Sequence[int]]

# --- what runs in a fresh process -------------------------------------------------------------------------------------


def ours(path: Path, ratio: float) -> Result:
    import onnxprune

    model = onnxprune.load(path)
    seconds, a = bench.timed(lambda: onnxprune.analyze(model))
    smaller = onnxprune.apply(a, onnxprune.plan(a, ratio=ratio))
    return {
        "params": a.params(),
        "prunable": a.prunable_params() / a.params() if a.params() else 0.0,
        "left": onnxprune.analyze(smaller).params() / a.params() if a.params() else 1.0,
        "nodes": len(model.proto.graph.node),
        "seconds": seconds,
        "whole": dict(reasons(a).most_common()),
        "wrong": compared(path, smaller),
    }


def reasons(a: Any) -> Counter[str]:
    """Why the weights that no group reaches stay whole -> their parameters."""
    from onnxprune.explain import find_whole_weights, generalize

    why: dict[str, set[str]] = {}
    for f in a.frozen:
        if not f.reason.structural:
            why.setdefault(f.tensor, set()).add(generalize(f.reason.text, f.reason.op))
    out: Counter[str] = Counter()
    for name, params in find_whole_weights(a).items():
        out[" and ".join(sorted(why.get(name, ["a single channel"])))] += params
    return out


def compared(original: Path, candidate: Any) -> str:
    """What is wrong with a pruned model in ONNX Runtime; "" where it gives outputs of the original's shapes."""
    import onnxprune
    from onnxprune.report.types import NotComparable

    try:
        outputs = onnxprune.validate(original, candidate).outputs.values()
    except onnxprune.OnnxPruneError as e:
        return "" if str(e).startswith("original") else brief(e)  # the zoo has files that ONNX Runtime refuses
    return next((o.error for o in outputs if isinstance(o, NotComparable)), "")


def brief(e: object) -> str:
    return " ".join(str(e).split())[:90]


def onnxsim(path: Path, ratio: float) -> Result:
    import onnx
    import onnxsim as sim  # type: ignore[import-untyped]

    model = onnx.load(path)
    seconds, smaller = bench.timed(lambda: sim.apply_structured_pruning(model, sparsity=ratio, importance_norm="l2"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "pruned.onnx")
        onnx.save(smaller, out)
        wrong = compared(path, out)
    before, after = ({t.name: tuple(t.dims) for t in m.graph.initializer} for m in (onnx.load(path), smaller))
    return {**shrunk(before, after), "seconds": seconds, "wrong": wrong}


def torch_pruning(name: str, ratio: float) -> Result:
    import torch

    make = builder(name)
    assert make is not None
    net = make()
    net.module.eval()
    before = {n: tuple(p.shape) for n, p in net.module.named_parameters()}
    with torch.no_grad():
        wanted = shapes(net.module(*net.inputs.values()))
    seconds, _ = bench.timed(lambda: bench.prune_module(net, ratio))
    with torch.no_grad():
        got = shapes(net.module(*net.inputs.values()))
    after = {n: tuple(p.shape) for n, p in net.module.named_parameters()}
    return {
        **shrunk(before, after),
        "seconds": seconds,
        "wrong": "" if got == wanted else f"outputs {got}, not {wanted}",
    }


def shapes(outputs: Any) -> list[list[int]]:
    """Of all tensors in what a module returns."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return [list(outputs.shape)]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [s for v in values for s in shapes(v)]


def builder(name: str) -> Callable[[], Any] | None:
    """What makes the live module that an exported file came from, by the file's name; None for other files."""
    import export_models as make

    name = network_name(name)
    family, _, rest = name.partition("_")
    torchvision, named = make.torchvision_models(), rest if family in ("tv", "timm", "hf") else name
    if named in make.MODELS:
        return partial(make.build, named)
    if family == "tv" and named in torchvision.list_models():
        known = inspect.signature(torchvision.get_model_builder(named)).parameters
        options = dict.fromkeys({"weights", "weights_backbone"} & set(known))
        return lambda: make.picture(torchvision.get_model(named, **options))
    return (lambda: make.timm_net(named)) if family == "timm" else None


def network_name(name: str) -> str:
    """`tv_resnet50` for `tv_resnet50.ts.onnx`: all exports of a network have one name."""
    return name.removesuffix(".onnx").removesuffix(".ts").removesuffix(".dy")


def shrunk(before: Shapes, after: Shapes) -> Result:
    """Shares of the parameters before: in tensors of another shape now, and left."""
    size = max(sum(map(math.prod, before.values())), 1)  # a file may keep all its weights in Constant nodes
    changed = sum(math.prod(s) for n, s in before.items() if tuple(after.get(n, s)) != tuple(s))
    left = sum(map(math.prod, after.values())) / size if before else 1.0
    return {"prunable": changed / size, "left": left}


def run_job(tool: str, path: str, ratio: str) -> Result:
    if tool == "torch-pruning":
        return torch_pruning(Path(path).name, float(ratio))
    return (ours if tool == "onnxprune" else onnxsim)(Path(path), float(ratio))


# --- what starts them, and the table ----------------------------------------------------------------------------------


def files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield from sorted(place.rglob("*.onnx")) if place.is_dir() else [place]


def measure(path: Path, peers: Sequence[str], ratio: float, timeout_s: float, known: dict[str, Result]) -> Result:
    """All tools on one file. torch-pruning never sees the file, so one run does for every export of a network."""
    row: Result = {"model": path.name.removesuffix(".onnx")}
    for tool in ("onnxprune", *peers):
        key = f"{tool} {network_name(path.name) if tool == 'torch-pruning' else row['model']}"
        if key not in known:
            skip = tool == "torch-pruning" and builder(path.name) is None
            known[key] = {} if skip else bench.job(tool, path, ratio, script=__file__, timeout_s=timeout_s)
        row[tool] = known[key]
    return row


def earlier(path: Path | None) -> dict[str, Result]:
    """The peers' results of an earlier run, which no change of ours changes."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path else []
    names = {"torch-pruning": network_name, "onnxsim": str}
    return {f"{tool} {name(row['model'])}": row[tool] for row in rows for tool, name in names.items() if tool in row}


def table(rows: Sequence[Result], peers: Sequence[str], ratio: float) -> str:
    head = ["model", "parameters, M", "nodes", "seconds", "prunable, %", f"left at {ratio:g}, %", *peers]
    lines = ["| " + " | ".join([*head, "what stays whole, % of the parameters"]) + " |"]
    lines.append("|---|" + "--:|" * (len(head) - 1 - len(peers)) + "---|" * (len(peers) + 1))
    return "\n".join([*lines, *(_row(r, peers) for r in rows)])


def _row(row: Result, peers: Sequence[str]) -> str:
    mine = row["onnxprune"]
    name = row["model"].replace("_", r"\_")
    others = [_peer(row[p]) for p in peers]
    if "error" in mine:
        return f"| {name} | | | | | | {' | '.join(others)} | not analyzed: {mine['error']} |"
    cells = [f"{mine['params'] / 1e6:.3f}", f"{mine['nodes']}", f"{mine['seconds']:.2f}"]
    cells += [_percent(mine["prunable"]), _percent(mine["left"]), *others, _whole(mine)]
    return f"| {name} | {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _peer(result: Result) -> str:
    """`prunable / left`, or what went wrong."""
    if not result:
        return ""
    if "error" in result:
        return f"fails: {_plain(result['error'])}"
    said = f"{_percent(result['prunable'])} / {_percent(result['left'])}"
    wrong = result["wrong"].removeprefix("candidate: ").partition(": [ONNXRuntimeError]")[0]
    return f"{said}, wrong: {_plain(wrong)}" if wrong else said


def _whole(mine: Result) -> str:
    total = max(mine["params"], 1)
    large = [(r, n) for r, n in mine["whole"].items() if n >= LEAST_SHARE * total]
    said = [f"{_percent(n / total)} {_plain(r)}" for r, n in large[:MOST_REASONS]]
    if rest := sum(n for _, n in large[MOST_REASONS:]):
        said.append(f"{_percent(rest / total)} for {len(large) - MOST_REASONS} more reasons")
    return ("wrong: " + _plain(mine["wrong"]) + "; " if mine["wrong"] else "") + "; ".join(said)


def _plain(text: str) -> str:
    return brief(text).replace("|", r"\|").replace("_", r"\_").replace("<", "&lt;")


def summary(rows: Sequence[Result]) -> str:
    good = [r["onnxprune"] for r in rows if "error" not in r["onnxprune"]]
    high = sum(m["prunable"] >= 0.95 for m in good)
    return f"{len(rows)} models, {high} of them at least 95 % prunable, {sum(bool(m['wrong']) for m in good)} wrong."


def write(path: Path, text: str) -> None:
    """Put the text between the markers of a file."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"coverage.py: {path} lacks the lines '{BEGIN}' and '{END}'; add them where the table goes")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["job"]:
        print(json.dumps(run_job(*argv[1:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--ratio", type=float, default=bench.RATIO, help="the share of channels to remove")
    parser.add_argument("--peers", nargs="*", choices=[*PEERS, "none"], default=PEERS, help="which others to run")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for one tool on one model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument(
        "--peers-from", type=Path, metavar="FILE", help="take the peers' figures from an earlier --json"
    )
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between the markers of this file")
    args = parser.parse_args(argv)
    peers = [p for p in args.peers if p != "none"]
    rows, known, start = [], earlier(args.peers_from), time.perf_counter()
    for path in files(args.places):
        rows.append(measure(path, peers, args.ratio, args.timeout, known))
        print(_row(rows[-1], peers), flush=True)
    text = f"{summary(rows)}\n\n{table(rows, peers, args.ratio)}"
    print(f"{summary(rows)} ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.write:
        write(args.write, text)
    return int(any("error" in r["onnxprune"] or r["onnxprune"]["wrong"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
