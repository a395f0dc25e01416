#!/usr/bin/env python3
"""Flip single bits of models, and look for tracebacks and for results that are wrong without a word.

    python tools/flip.py --flips 500 MODEL.onnx MODEL.onnx ..

The flips go round over the models; every second one hits what is no weight. Each is judged in a process of its own:

    refused    one line says what is wrong
    right      an empty plan gives the outputs of the damaged file bit for bit, and removal keeps its law (tests/laws.py)
    not run    ONNX Runtime does not run the damaged file, and prune says so in one line
    wrong, crash, died, slow    what this looks for: saved with --out, exit status 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from laws import Checker, run_ort  # noqa: E402

import onnxprune  # noqa: E402
from onnxprune.calibration import list_input_specs  # noqa: E402
from onnxprune.calibration.sessions import find_runnable_inputs, open_session  # noqa: E402
from onnxprune.errors import OnnxPruneError  # noqa: E402
from onnxprune.graph import wire  # noqa: E402
from onnxprune.graph.save import build_full_proto  # noqa: E402

SECONDS = 60
GOOD = ("refused", "right", "not run")


def flip(data: bytes, seed: int) -> bytes:
    """The bytes with one bit changed; where `seed` is odd, none of a large weight."""
    rng, damaged = random.Random(seed), bytearray(data)
    weights = [e for e in wire.strip(data, 1024)[1] if e]
    at = rng.randrange(len(data))
    while seed % 2 and any(e.offset <= at < e.offset + e.length for e in weights):
        at = rng.randrange(len(data))
    damaged[at] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def judge(path: Path) -> tuple[str, str]:
    """What becomes of a file, and why."""
    try:
        model = onnxprune.load(path)
        onnxprune.analyze(model)
    except OnnxPruneError as e:
        return "refused", str(e)
    try:
        session = open_session(model, "original")
        feeds = [find_runnable_inputs(session, list_input_specs(model.proto), 0).feeds]
    except OnnxPruneError as e:
        return _pruned(path, str(e))
    checker = Checker(build_full_proto(model), feeds, run_ort, max_groups=1)
    try:
        checker.identity()
        checker.removal()
    except AssertionError as e:
        return "wrong", str(e)
    return "right", ""


def _pruned(path: Path, why: str) -> tuple[str, str]:
    try:
        onnxprune.prune(path, path.with_suffix(".out"), ratio=0.5)
    except OnnxPruneError as e:
        return "not run", str(e)
    return "wrong", f"pruned and compared, though it does not run: {why}"


def _tell(pipe: Connection, path: Path) -> None:
    os.environ.pop("ONNXPRUNE_GUARD", None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ONNX Runtime's own words
    try:
        pipe.send(judge(path))
    except BaseException:
        pipe.send(("crash", traceback.format_exc()))


def guarded(path: Path) -> tuple[str, str]:
    """`judge` in a process of its own, which may die or never end."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_tell, args=(theirs, path))
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else ("slow", f"more than {SECONDS} s")
    except EOFError:
        child.join()
        return "died", f"exit status {child.exitcode}"
    finally:
        child.kill()
        child.join()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    p.add_argument("--flips", type=int, default=500)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="save the files that something is wrong with there")
    args = p.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.flips):
            source, path = args.models[i % len(args.models)], Path(folder) / "damaged.onnx"
            path.write_bytes(flip(source.read_bytes(), args.seed + i // len(args.models)))
            verdict, why = guarded(path)
            counts[verdict] += 1
            if verdict not in GOOD:
                print(f"{source} flip {args.seed + i // len(args.models)}: {verdict}: {why}", flush=True)
                if args.out:
                    args.out.mkdir(parents=True, exist_ok=True)
                    (args.out / f"{source.stem}_{args.seed + i // len(args.models)}.onnx").write_bytes(
                        path.read_bytes()
                    )
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    return int(any(v not in GOOD for v in counts))


if __name__ == "__main__":
    sys.exit(main())
