#!/usr/bin/env python3
"""Look for graphs on which pruning breaks one of its laws (tests/laws.py), and shrink them.

    python tools/fuzz.py --seed 1 --graphs 1000 --jobs 2
    python tools/fuzz.py --seed 1 --only 37            one graph of that run again, with all laws and all groups

Graphs are built at random from the registered operators and cases; a seed always gives the same graphs. A graph counts
only if ONNX Runtime runs it with finite outputs that are not constant. A difference in numbers counts as wrong only if it
is more than what noise of a few roundings on every weight and input does to the outputs.

Progress goes to stderr, a summary to stdout; Ctrl-C prints the summary so far. Exit status 1 when a law broke.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]
os.environ["ONNXPRUNE_GUARD"] = "0"  # an exception of a rule is what this looks for

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from cases.base import Built  # noqa: E402
from fuzzing.graph import Rejected, build  # noqa: E402
from fuzzing.judge import judge, kind  # noqa: E402
from fuzzing.pool import Skip  # noqa: E402
from fuzzing.shrink import Shrinker, Shrunk  # noqa: E402
from laws import LAWS  # noqa: E402

from onnxprune.graph.flat import FLAT  # noqa: E402
from onnxprune.ops.records import load_records  # noqa: E402

OFTEN = {
    "identity": 0.3, "permutation": 1.0, "removal": 1.0, "shapes": 0.5, "composition": 0.3, "accounting": 0.3,
    "determinism": 0.1, "units": 0.5,
}  # fmt: skip
SECONDS = 60  # after which a graph counts as one that never ends
BATCH = 20


@dataclass(frozen=True)
class Options:
    """What every graph of a run is checked for."""

    seed: int
    laws: tuple[str, ...] = LAWS
    thorough: bool = False  # every law and every group of every graph
    attempts: int = 300  # of the shrinker, for each failure


@dataclass
class Failure:
    """A broken law: where, what was said, and the smallest graph."""

    index: int
    law: str
    message: str
    shrunk: Shrunk

    @property
    def kind(self) -> str:
        """Failures that are probably one: the same complaint about the same operators."""
        ops = sorted({n.op_type for n in self.shrunk.proto.graph.node})
        return f"{complaint(self.message)} | {' '.join(ops)}"


def complaint(message: str) -> str:
    """An error is the same under whichever law it came up."""
    law, _, what = kind(message).partition(": ")
    return what if "Error" in what else f"{law}: {what}"


@dataclass
class Tally:
    """What came of the graphs so far."""

    graphs: int = 0
    groups: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rounding: Counter[str] = field(default_factory=Counter)
    operators: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.graphs += other.graphs
        self.groups += other.groups
        for name in ("rejected", "rounding", "operators"):
            getattr(self, name).update(getattr(other, name))
        self.failures.extend(other.failures)


def check(index: int, options: Options) -> Tally:
    """Build one graph, check its laws, shrink what fails."""
    tally, seed = Tally(), f"{options.seed}/{index}"
    try:
        built = build(seed)
    except (Skip, Rejected) as e:
        tally.rejected[str(e) or "nothing fitted"] += 1
        return tally
    except Exception as e:
        if not type(e).__module__.startswith("onnxruntime"):
            raise RuntimeError(f"graph {seed} could not be built: {type(e).__name__}: {e}") from e
        tally.rejected["ONNX Runtime does not run it"] += 1
        return tally
    rng = random.Random(f"{seed} laws")
    laws = [n for n in options.laws if options.thorough or rng.random() < OFTEN[n]]
    verdict = judge(built.proto, built.feeds, laws, index, built.tolerance, None if options.thorough else 3)
    tally.graphs, tally.groups = 1, verdict.groups
    tally.rounding.update(verdict.rounding)
    tally.operators.update({(n.domain, n.op_type) for n in built.proto.graph.node})
    first = {complaint(m): law for law, m in reversed(verdict.broken.items())}
    for law, message in verdict.broken.items():
        if first[complaint(message)] != law:
            continue
        tally.failures.append(Failure(index, law, message, shrink(built, message, options.attempts)))
    return tally


class TooLong(BaseException):
    """No law and no shrinker may swallow it."""


def guarded(index: int, options: Options) -> Tally:
    """`check`, within SECONDS for each failure that is shrunk and for the rest."""

    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS * (1 + len(options.laws)))
    try:
        return check(index, options)
    except TooLong:
        built = build(f"{options.seed}/{index}")
        message = "time law, the whole graph: it does not end"
        return Tally(1, failures=[Failure(index, "time", message, Shrunk(built.proto, built.feeds, message))])
    finally:
        signal.alarm(0)


def batch(indices: range, options: Options) -> Tally:
    tally = Tally()
    for i in indices:
        tally.add(guarded(i, options))
    return tally


def fuzz(
    options: Options, graphs: int | None, minutes: float | None, jobs: int, tell: Callable[[Tally], None]
) -> Tally:
    """Check graphs until there were enough, the time is up, or somebody interrupts."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    total = Tally()

    def batches() -> Iterator[range]:
        start = 0
        while (graphs is None or start < graphs) and time.monotonic() < end:
            yield range(start, min(start + BATCH, graphs or start + BATCH))
            start += BATCH

    try:
        for tally in results(batches(), options, jobs):
            total.add(tally)
            tell(total)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return total


def shrink(built: Built, message: str, attempts: int) -> Shrunk:
    """Shrink in a process of its own: ONNX Runtime dies of some graphs that onnx.checker accepts."""
    context = multiprocessing.get_context("fork")
    best, poison = Shrunk(built.proto, built.feeds, message), set[str]()
    while attempts > 0:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=Shrinker(best, built.tolerance, attempts, poison, theirs.send).run)
        child.start()
        theirs.close()
        trying = ""
        with suppress(EOFError):
            while True:
                tried, found = ours.recv()
                best, trying, attempts = found or best, tried, attempts - bool(tried)
        child.join()
        if child.exitcode == 0:
            break
        poison.add(trying)
    return best


def results(batches: Iterator[range], options: Options, jobs: int) -> Iterator[Tally]:
    """The tallies of the batches, in this process or in several."""
    if jobs == 1:
        yield from (batch(b, options) for b in batches)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        waiting: set[Future[Tally]] = set()
        try:
            for b in batches:
                waiting.add(pool.submit(batch, b, options))
                while len(waiting) > 2 * jobs:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (f.result() for f in done)
            yield from (f.result() for f in waiting)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def summary(t: Tally, seed: int, seconds: float) -> str:
    """What a run found, for people."""
    rules = {k for k in load_records() if k[0] != FLAT}
    known = {k for k in t.operators if k in rules}
    missing = sorted(f"{d + '.' if d else ''}{o}" for d, o in rules - known)
    lines = [
        f"{t.graphs} graphs with {t.groups} groups in {seconds:.0f} s",
        f"rejected: {', '.join(f'{n} ({w})' for w, n in t.rejected.most_common()) or 0}",
        f"rounding: {', '.join(f'{n} ({w})' for w, n in t.rounding.most_common()) or 0}",
        f"operators: {len(known)} of {len(rules)} rules; never: {' '.join(missing) or 'none'}",
        f"failures: {len(t.failures)}, {len({f.kind for f in t.failures})} kinds",
    ]
    seen = Counter(f.kind for f in t.failures)
    for k, n in seen.most_common():
        f = min((f for f in t.failures if f.kind == k), key=lambda f: len(f.shrunk.proto.graph.node))
        lines += ["", f"{n} times {k}", f"--seed {seed} --only {f.index}: {f.shrunk.message}", text(f.shrunk.proto)]
    return "\n".join(lines)


def text(proto: onnx.ModelProto) -> str:
    """The graph as onnx prints it, with the contents of small constants only."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    lines = onnx.printer.to_text(bare.graph).splitlines()
    weights = [f"   {t.name} {short(t)}" for t in proto.graph.initializer]
    return "\n".join([lines[0], *weights, *(line for line in lines[1:] if line.strip())])


def short(t: onnx.TensorProto) -> str:
    kind = onnx.TensorProto.DataType.Name(t.data_type).lower()
    values = onnx.numpy_helper.to_array(t)
    return f"{kind}{list(t.dims)}" + (
        f" = {values.tolist()}" if values.size <= 16 and values.dtype.kind in "iub" else ""
    )


def save(failures: list[Failure], options: Options, out: Path) -> None:
    """Each failing graph, with what was fed to it as INDEX/NAME in an .npz beside it."""
    out.mkdir(parents=True, exist_ok=True)
    for f in failures:
        proto = onnx.ModelProto()
        proto.CopyFrom(f.shrunk.proto)
        notes = {"seed": f"{options.seed}/{f.index}", "law": f.law, "message": f.shrunk.message}
        onnx.helper.set_model_props(proto, notes)
        path = out / f"{f.law}_{options.seed}_{f.index}.onnx"
        onnx.save(proto, path)
        feeds = {f"{i}/{n}": x for i, feed in enumerate(f.shrunk.feeds) for n, x in feed.items()}
        np.savez(path.with_suffix(".npz"), **feeds)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--graphs", type=int, help="stop after so many (1000 where no --minutes are given)")
    p.add_argument("--minutes", type=float, help="stop after so long")
    p.add_argument("--only", type=int, help="one graph of the run, with all laws and all groups")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--laws", default=",".join(LAWS), help="which, with commas between: %(default)s")
    p.add_argument("--thorough", action="store_true", help="all laws and all groups of every graph, instead of some")
    p.add_argument(
        "--attempts", type=int, default=300, help="of the shrinker, for each failure; 0 leaves graphs as they are"
    )
    p.add_argument("--out", type=Path, help="save failing graphs there, shrunk")
    args = p.parse_args(argv)
    if wrong := set(args.laws.split(",")) - set(LAWS):
        p.error(f"no such law: {', '.join(sorted(wrong))}; there are {', '.join(LAWS)}")
    if args.graphs is None and args.minutes is None:
        args.graphs = 1000
    return args


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    options = Options(args.seed, tuple(args.laws.split(",")), args.thorough or args.only is not None, args.attempts)
    start = time.monotonic()
    saved = 0

    def tell(t: Tally) -> None:
        nonlocal saved
        if args.out and len(t.failures) > saved:
            save(t.failures[saved:], options, args.out)
            saved = len(t.failures)
        tried = t.graphs + t.rejected.total()
        print(
            f"\r{tried} graphs, {len(t.failures)} failures, {time.monotonic() - start:.0f} s ", end="", file=sys.stderr
        )

    if args.only is not None:
        total = guarded(args.only, options)
        tell(total)
    else:
        total = fuzz(options, args.graphs, args.minutes, args.jobs, tell)
    print(file=sys.stderr)
    print(summary(total, args.seed, time.monotonic() - start))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
