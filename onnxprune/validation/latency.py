"""The speed of one model relative to another: the ratio with its confidence interval, or that it is too noisy to tell.

*How.* The models take turns, in random order (seeded), a turn being about a millisecond of runs, or one run. Turns of 0.1 s
make a heat, and each heat has new sessions: where a session's memory happens to lie makes a small model about 2 % faster or
slower, for as long as the session lives, and no number of runs in it would show that. A heat has one ratio, the least turn of
the original over that of the candidate; the ratio is the trimmed mean over the heats, and the spread of the heats makes its
interval. It goes on until that is narrow, for a minute at most. Files that are equal are measured like any others.

*The clock.* With one thread (the default here), the CPU time of that thread: it stands still while the system runs something
else. With more threads, and where the system has no fine clock for that, wall time.

*Why the least, and why that clock.* `tools/clock.py --statistics` on two virtual cores (EPYC), Linux: from one record of 12
heats of 0.15 s (2 to 4 s), by each statistic; eight records of each of two pairs, a chain of convolutions against a copy of
itself and against one that is 1.10 times slower. Beside it two busy processes and the tests of others (load 5.7 to 6.6). The
error of the ratio, its median (the mean of the two pairs) and its largest, and half of the 95 % interval:

    ms a run   clock   minimum              lower quartile       median
    0.1        wall    .005 .040  +- .012   .020 .055  +- .041   .020 .070  +- .071
    0.1        CPU     .004 .039  +- .012   .020 .055  +- .040   .021 .056  +- .062
    1          wall    .011 .026  +- .030   .012 .047  +- .038   .011 .047  +- .052
    1          CPU     .010 .025  +- .030   .012 .047  +- .034   .009 .047  +- .047
    10         wall    .038 .131  +- .137   .032 .091  +- .078   .035 .093  +- .057
    10         CPU     .003 .007  +- .006   .002 .010  +- .006   .004 .011  +- .009

A run of 10 ms is interrupted every time, so that no statistic helps wall time, and CPU time makes all three good. A run of
0.1 ms is seldom interrupted, but other processes empty the caches, which CPU time counts: the least turn is the least
disturbed one, and its interval is three times narrower, so that the verdict comes much sooner. The weakness of a minimum is a
clock that jumps: in one of 144 records a turn of CPU time read far too little. It spoils one heat, and the trimmed mean
leaves that out.

*What it says.* Verdicts of `tools/clock.py`, 20 of each pair, beside two busy processes and the tests of others: how many
came within the minute, were right, and were within .03 of the truth; where the ratios lay; seconds, median and most. The rows
marked * were measured with heats of 0.15 s, six at the least, and a difference counted from 2 % on rather than from 3 %; with
10 ms and 1.10 this code was not timed.

    pair                 load  within a minute  right  within .03  ratios          seconds
    0.1 ms, itself     *  7.3  20               18     20          .979 to 1.021   3.2, 26.6
    0.1 ms, 1.10       *  7.5  20               20     20          .895 to .929    3.3, 29.8
    1 ms, itself       *  7.3  20               18     20          .977 to 1.030   2.7, 10.8
    1 ms, 1.10         *  9.7  20               20     19          .888 to .940    6.1, 23.1
    10 ms, itself         6.5  20               20     20          .990 to 1.014   3.4, 5.0

The 95 % interval had the truth in 80 to 100 % of them: it stops where it happens to be narrow, so it is a little too narrow.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxprune.calibration.data import Batches
from onnxprune.calibration.kernels import describe_machine
from onnxprune.calibration.sessions import Feeds, Source, count, open_session, prepare_run, run, serialize
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import Plan, compute_fingerprint
from onnxprune.report.types import Latency

SECONDS = 60.0  # the longest that a measurement goes on, unless the environment says otherwise
LIMIT = "ONNXPRUNE_CLOCK_SECONDS"
PATIENCE = 20.0  # the same for each plan that --latency tries
NARROW = 0.02  # the interval is narrow enough where its half is this fraction of the ratio
EQUAL = 0.03  # a ratio nearer to 1 is no difference: two sessions of one file may differ by so much
FAIR = 0.05  # at the end of the time an interval around 1 that is not wider says that the two are the same
LEAST_HEATS = 8
HEAT_SECONDS = 0.1
LEAST_TURNS, PATIENT = 4, 4  # of each in a heat, where that does not take so many times as long
TURN_SECONDS = (
    0.001  # a quick model runs several times in a row: the first run finds the caches full of the other's weights
)
WARM_TURNS = 3
TRIM = 0.2  # of the heats, at either end
LEAST_SECONDS = 1e-9  # a clock that jumped may say nothing or less

# Quantiles of Student's t distribution at 97.5 %, by degrees of freedom from 1 on; beyond, the last is near enough.
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
           2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip

Clock = Callable[[], Any]
Heat = tuple[Sequence[Any], Sequence[Any]]  # seconds of a run, turn by turn: of the original, of the candidate


def take_one_sample(session: Any, batches: Batches) -> Feeds:
    """A batch of one sample; the first batch where the model does not run on fewer."""
    try:
        feeds = batches.limit(1).first()
        run(session, feeds)
        return feeds
    except OnnxPruneError:
        return batches.first()


def measure_latency(
    original: Source,
    candidate: Source,
    feeds: Feeds,
    threads: int | None = None,
    limit: float | None = None,
    seed: int = 0,
) -> Latency:
    """Time two models on one batch, in heats, until the interval of the ratio is narrow or `limit` seconds have passed.

    Args:
        original: The first model, in any form that `open_session` takes.
        candidate: The second one.
        feeds: The batch.
        threads: Of both sessions; one unless given, and then the clock is the thread's own.
        limit: Seconds, `read_limit` unless given; a run is not interrupted, so that a slow model may take longer.
        seed: Of the order of turns.

    Returns:
        The seconds of a run, the ratio and its interval, and the verdict.

    Raises:
        OnnxPruneError: A model does not load or run.
    """
    start, limit = time.perf_counter(), read_limit() if limit is None else limit
    heats = list[Heat]()
    lanes = Lanes(original, candidate, feeds, threads or 1, choose_clock(threads or 1), seed)
    while True:
        heats.append(lanes.run_heat(start + limit))
        late = time.perf_counter() - start >= limit
        verdict = judge(heats)
        if late or (len(heats) >= LEAST_HEATS and verdict.narrow):
            return verdict.report(lanes.runs, count(feeds), threads or 1)


def read_limit() -> float:
    """Seconds that a measurement may take: a minute, or what the environment says, for runs of many jobs and for tests."""
    try:
        return float(os.environ.get(LIMIT) or SECONDS)
    except ValueError:
        raise OnnxPruneError(f"{LIMIT}={os.environ[LIMIT]}: expected a number of seconds") from None


def choose_clock(threads: int) -> Clock:
    """Seconds of CPU time of this thread where it does all the work and the system counts finely, else of wall time."""
    own = threads == 1 and hasattr(time, "CLOCK_THREAD_CPUTIME_ID")  # elsewhere it ticks 64 times a second
    return time.thread_time if own else time.perf_counter


class Lanes:
    """Two models that take turns."""

    def __init__(
        self, original: Source, candidate: Source, feeds: Feeds, threads: int, clock: Clock, seed: int
    ) -> None:
        self.sources = [
            (source if isinstance(source, Model) else serialize(source, role), role)
            for source, role in ((original, "original"), (candidate, "candidate"))
        ]
        self.feeds, self.threads, self.clock = feeds, threads, clock
        self.random = np.random.default_rng(seed)
        self.runs = 0  # of each model, that counted
        self.go: list[Callable[[], object]] = []
        self.opening = 0.0  # seconds that it took to open both

    def run_heat(self, end: float = math.inf, seconds: float = HEAT_SECONDS) -> Heat:
        """Turns for `seconds`, one each at the least, in sessions of their own unless opening takes longer than the turns."""
        if not self.go or self.opening < seconds:
            self._open()
        times = self._warm_up()
        heat: tuple[list[Any], list[Any]] = ([], [])
        start = time.perf_counter()
        stop, patience = min(end, start + seconds), min(end, start + PATIENT * seconds)
        while not heat[0] or time.perf_counter() < (stop if len(heat[0]) >= LEAST_TURNS else patience):
            for at in self.random.permutation(2):
                heat[at].append(self._take_turn(at, times))
            self.runs += times
        return heat

    def _open(self) -> None:
        start = time.perf_counter()
        self.go = []  # the old sessions go before the new ones come
        opened: dict[int, Callable[[], object]] = {}
        for at in self.random.permutation(2):  # the later one gets what memory is left
            source, role = self.sources[at]
            opened[int(at)] = prepare_run(open_session(source, role, self.threads), self.feeds)
        self.go = [opened[0], opened[1]]
        self.opening = time.perf_counter() - start

    def _warm_up(self) -> int:
        """Run each a few times, a slow one once; how often a turn runs."""
        start = time.perf_counter()
        times, taken = 1, 0
        while taken < WARM_TURNS and (not taken or time.perf_counter() - start < HEAT_SECONDS):
            slower = max(float(np.max(self._take_turn(at, times))) for at in range(2))
            times = max(1, round(TURN_SECONDS / max(slower, 1e-6)))
            taken += 1
        return times

    def _take_turn(self, at: int, times: int) -> Any:
        """Seconds of a run, the mean of `times` in a row."""
        go, clock = self.go[at], self.clock
        start = clock()
        for _ in range(times):
            go()
        return (clock() - start) / times


class RatioEstimate:
    """The result of the heats: seconds per run of each model, and the ratio before / after with its 95 % interval."""

    def __init__(self, before: float, after: float, spread: float) -> None:
        self.before, self.after, self.spread = before, after, spread  # `spread`: half the interval of log(ratio)

    @property
    def ratio(self) -> float:
        return self.before / self.after

    @property
    def low(self) -> float:
        return self.ratio * math.exp(-self.spread)

    @property
    def high(self) -> float:
        return self.ratio * math.exp(self.spread)

    @property
    def narrow(self) -> bool:
        return self.spread <= NARROW

    @property
    def verdict(self) -> str:
        """`faster` or `slower` where the interval leaves 1 out, `same` where it lies around it, else `noisy`."""
        if self.low > 1 and self.ratio > 1 + EQUAL:
            return "faster"
        if self.high < 1 and self.ratio < 1 - EQUAL:
            return "slower"
        return "same" if self.spread <= FAIR else "noisy"

    def report(self, runs: int, samples: int, threads: int) -> Latency:
        known = math.isfinite(self.spread)
        return Latency(
            before=self.before,
            after=self.after,
            runs=runs,
            samples=samples,
            ratio=self.ratio,
            low=self.low if known else None,
            high=self.high if known else None,
            verdict=self.verdict,
            threads=threads,
        )


def judge(heats: Sequence[Heat], statistic: Callable[[Sequence[float]], float] = min) -> RatioEstimate:
    """Judge the heats: each has its own ratio, and disturbances vary it from heat to heat.

    Of the turns of a heat the least counts, unless another `statistic` is given.
    The logarithms of the ratios are trimmed by a fifth at both ends, so that a heat that went wrong does not count, and the
    interval is Student's for trimmed means (Tukey and McLaughlin 1963, with the winsorized deviation).
    """
    logs = np.log([[max(statistic(turns), LEAST_SECONDS) for turns in heat] for heat in heats])
    ratios = np.sort(logs[:, 0] - logs[:, 1])
    n = len(ratios)
    cut = int(n * TRIM)
    kept = ratios[cut : n - cut]
    middle = float(kept.mean())
    after = float(np.median(logs[:, 1]))
    spread = math.inf
    if n > 1:
        deviation = float(np.clip(ratios, kept[0], kept[-1]).std(ddof=1)) / (1 - 2 * cut / n)
        spread = STUDENT[min(len(kept) - 1, len(STUDENT)) - 1] * deviation / math.sqrt(n)
    return RatioEstimate(math.exp(after + middle), math.exp(after), spread)


class Stopwatch:
    """Runs models on one sample, next to the original."""

    def __init__(self, original: Model, batches: Batches) -> None:
        self.original = build_full_proto(original)
        self.feeds = take_one_sample(open_session(self.original, "original"), batches)
        self.about = f"{describe_machine(1)}/{compute_fingerprint(original)}/{sorted((n, x.shape) for n, x in self.feeds.items())}"

    def key(self, plan: Plan) -> str:
        """The cache key of the ratio of a plan's model."""
        kept = sorted((name, len(choice.keep)) for name, choice in plan.groups.items())
        about = f"{self.about}/{kept}" + (f"/{plan.units}" if plan.units else "")
        return "ratio " + hashlib.sha256(about.encode()).hexdigest()[:24]

    def ratio(self, model: Model) -> float:
        """The time that `model` takes as a fraction of the original's."""
        latency = measure_latency(self.original, build_full_proto(model), self.feeds, limit=PATIENCE)
        return latency.after / latency.before
