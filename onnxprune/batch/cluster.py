"""Run jobs on a Dask cluster, an optional extra: the same jobs, each in a process of its own on the host that gets it.

Only the run itself touches the database; the hosts see the models, the data and the output folder at the same paths.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.batch.database import Outcome
from onnxprune.batch.isolate import Limits, run
from onnxprune.batch.jobs import ReadyJob
from onnxprune.batch.scheduler import TIMEOUT_SECONDS, WorkerPool
from onnxprune.errors import OnnxPruneError
from onnxprune.settings import BatchSettings

LEASE = ".run"  # holds the name of the run that is at work
WIDTH = 2000  # jobs handed over at a time: enough for every core of a large cluster
CONNECT_SECONDS, WORKER_SECONDS, LEASE_SECONDS = 10, 60, 1.0
LOST = 3  # a job whose worker was lost starts again on another, so many times


@dataclass
class FileLease:
    """A lease that every host sees: a file with the run's name. It is looked at once in a while."""

    path: str
    name: str
    looked: float = field(default=0.0)
    good: bool = True

    def is_held(self) -> bool:
        if self.good and time.monotonic() - self.looked > LEASE_SECONDS:
            self.looked = time.monotonic()
            try:
                self.good = Path(self.path).read_text() == self.name
            except OSError:
                self.good = False
        return self.good


def make_limits(chosen: BatchSettings) -> Limits:
    """Of a job on a cluster: nobody knows here what its hosts have, so memory has a limit only where one is given."""
    return Limits(chosen.timeout or TIMEOUT_SECONDS, chosen.memory, chosen.threads or 1)


@contextmanager
def open_dask(address: str, folder: Path) -> Iterator[WorkerPool]:
    """The cluster at `address` (tcp://host:port, or the scheduler's file). Raises OnnxPruneError where there is none."""
    client = _client(address)
    lease = FileLease(str(folder.absolute() / LEASE), uuid.uuid4().hex)
    Path(lease.path).write_text(lease.name)
    executor = client.get_executor(pure=False, retries=LOST)

    def submit(task: ReadyJob, limits: Limits) -> Future[Outcome | None]:
        future: Future[Outcome | None] = executor.submit(run, task, limits, lease)
        return future

    def end() -> None:
        with suppress(OSError):
            Path(lease.path).unlink()

    try:
        yield WorkerPool(submit, WIDTH, end)
    finally:
        end()
        executor.shutdown(wait=False)
        client.close()


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise OnnxPruneError("--dask needs Dask; pip install 'onnxprune[dask]'") from None
    if address.endswith(".json") and not Path(address).is_file():  # Dask would wait for it
        raise OnnxPruneError(
            f"no Dask scheduler at {address}: there is no such file; start one, see 'onnxprune docs batch'"
        )
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        client = Client(timeout=CONNECT_SECONDS, set_as_default=False, **where)
    except (OSError, TimeoutError, ValueError) as e:
        raise OnnxPruneError(
            f"no Dask scheduler at {address}: {' '.join(str(e).split())}; start one, see 'onnxprune docs batch'"
        ) from e
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as e:
        client.close()
        raise OnnxPruneError(f"no worker has come to {address}; start one: dask worker {address} --nthreads 1") from e
    return client
