"""Run jobs, as many at a time as a pool takes, and record each as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from onnxprune.batch.content import ContentDigests
from onnxprune.batch.database import Outcome, ResultStore
from onnxprune.batch.isolate import Limits, Running, run
from onnxprune.batch.jobs import ReadyJob, Spec, identify_unreadable, prepare
from onnxprune.errors import OnnxPruneError
from onnxprune.machine import count_cores, read_free_memory
from onnxprune.settings import BatchSettings

TIMEOUT_SECONDS = 3600.0
PATIENCE_SECONDS = 20.0  # for jobs that are being stopped


class Watch(Protocol):
    """The listener for the progress of a run."""

    def reading(self, done: int, of: int) -> None: ...
    def begin(self, to_run: int, done: int) -> None: ...
    def start(self, spec: Spec) -> None: ...
    def end(self, spec: Spec, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class WorkerPool:
    """Where jobs run: `submit` hands one over, at most `width` are handed over at a time, `end` stops them all."""

    submit: Callable[[ReadyJob, Limits], Future[Outcome | None]]
    width: int
    end: Callable[[], None]


@contextmanager
def open_local(workers: int) -> Iterator[WorkerPool]:
    """Processes on this machine, each watched by a thread of this one."""
    lease = Running()
    with ThreadPoolExecutor(workers) as threads:
        yield WorkerPool(lambda task, limits: threads.submit(run, task, limits, lease), workers, lease.end)


def make_limits(workers: int, chosen: BatchSettings) -> Limits:
    """Cores and memory of this machine in equal shares, but for what was chosen."""
    free = read_free_memory()
    return Limits(
        timeout=chosen.timeout or TIMEOUT_SECONDS,
        memory=chosen.memory or (free // workers if free else None),
        threads=chosen.threads or max(1, count_cores() // workers),
        share=chosen.memory is None,
    )


def run_jobs(
    specs: Sequence[Spec], store: ResultStore, pool: WorkerPool, limits: Limits, watch: Watch, retry: bool = False
) -> None:
    """Run the jobs that did not end yet. What was interrupted leaves a database that the next run goes on with."""
    tasks, unread = _prepared(specs, store, watch)
    identities = [
        (s, tasks[s.place].id if s.place in tasks else identify_unreadable(s, unread[s.place])) for s in specs
    ]
    places = store.plan(identities, retry)
    to_run = [s for s in specs if s.place in places]
    watch.begin(len(to_run), len(specs) - len(to_run))
    for spec in (s for s in to_run if s.place in unread):
        _record(spec, Outcome("failed", unread[spec.place]), store, watch)
    _Flight(store, pool, limits, watch).run([(s, tasks[s.place]) for s in to_run if s.place in tasks])


def _prepared(specs: Sequence[Spec], store: ResultStore, watch: Watch) -> tuple[dict[str, ReadyJob], dict[str, str]]:
    """The jobs, and why some cannot be read; by place."""
    contents = ContentDigests(store)
    tasks, unread = dict[str, ReadyJob](), dict[str, str]()
    for i, spec in enumerate(specs, 1):
        try:
            tasks[spec.place] = prepare(spec, store.folder, contents)
        except OnnxPruneError as e:
            unread[spec.place] = str(e)
        except OSError as e:
            unread[spec.place] = f"{e.filename}: {e.strerror}"
        watch.reading(i, len(specs))
    return tasks, unread


def _record(spec: Spec, outcome: Outcome, store: ResultStore, watch: Watch) -> None:
    store.record(spec, outcome)
    watch.end(spec, outcome)


class _Flight:
    """The jobs that were handed over and did not come back yet."""

    def __init__(self, store: ResultStore, pool: WorkerPool, limits: Limits, watch: Watch) -> None:
        self.store, self.pool, self.limits, self.watch = store, pool, limits, watch
        self.flying: dict[Future[Outcome | None], Spec] = {}

    def run(self, jobs: Sequence[tuple[Spec, ReadyJob]]) -> None:
        waiting = list(reversed(jobs))
        try:
            while waiting or self.flying:
                while waiting and len(self.flying) < self.pool.width:
                    self._submit(*waiting.pop())
                self._land(wait(self.flying, return_when=FIRST_COMPLETED).done)
        except BaseException:
            self._stop()
            raise

    def _submit(self, spec: Spec, task: ReadyJob) -> None:
        self.flying[self.pool.submit(task, self.limits)] = spec
        self.watch.start(spec)

    def _land(self, done: set[Future[Outcome | None]]) -> None:
        for future in done:
            outcome = _outcome(future)
            spec = self.flying.pop(future)
            if outcome is not None:
                _record(spec, outcome, self.store, self.watch)

    def _stop(self) -> None:
        """End the jobs in flight; what came back in the meantime is kept."""
        self.pool.end()
        for future in self.flying:
            future.cancel()
        self._land({f for f in wait(self.flying, PATIENCE_SECONDS).done if not f.cancelled() and not f.exception()})


def _outcome(future: Future[Outcome | None]) -> Outcome | None:
    try:
        return future.result()
    except CancelledError as e:
        raise OnnxPruneError(
            "the cluster stopped, or dropped the jobs; start it, and run the same command again"
        ) from e
    except Exception as e:  # the thread, or the cluster's worker: not the job, which has a process of its own
        return Outcome("crashed", f"{type(e).__name__}: {' '.join(str(e).split())}")


def count_workers(jobs: int) -> int:
    """As many as there are cores, but no more than there are jobs. It does not depend on what is done already."""
    return max(1, min(count_cores(), jobs))
