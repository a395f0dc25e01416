"""The cores and memory that a container or a scheduler leaves to this process."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

# The first of these variables that is set says how many threads may work for this process.
THREADS = ("ONNXPRUNE_THREADS", "OMP_NUM_THREADS")
CGROUPS = Path("/sys/fs/cgroup")


def count_cores() -> int:
    """The cores that this process may use; at least one."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for text in _cgroup("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            count = min(count, int(quota) // int(period))
    return max(1, count)


def count_threads() -> int:
    """The threads that may work for this process: as many as the environment says, else one for each core."""
    return read_wanted_threads() or count_cores()


def read_wanted_threads() -> int:
    """The threads that the environment asks for; 0: it leaves that open. ONNX Runtime and torch are given them, here, by hand."""
    texts = (os.environ.get(name, "").split(",")[0].strip() for name in THREADS)  # OpenMP knows a number for each level
    return next((int(text) for text in texts if text.isdigit() and int(text)), 0)


def name_processor() -> str:
    """The processor, as its maker names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def read_total_memory() -> int | None:
    """The memory that this process may use, free or not; None where the system does not tell."""
    return _read_memory("MemTotal:")


def read_free_memory() -> int | None:
    """The memory that is free, or can be had at once; None where the system does not tell."""
    return _read_memory("MemAvailable:")


def _read_memory(kind: str) -> int | None:
    """A line of the system's account of its memory in bytes, or less where a container may have less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(kind)), None)
    limits = [
        int(text) for name in ("memory.max", "memory/memory.limit_in_bytes") for text in _cgroup(name) if text.isdigit()
    ]
    return min([free, *limits]) if free is not None else None


def count_oom_kills() -> int:
    """The number of processes that the system has killed for lack of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def read_resident_bytes(pid: int) -> int:
    """The memory that a process and its descendants hold, without files that are mapped; 0 where the system does not tell."""
    return sum(map(_held, _family(pid)))


def _held(pid: int) -> int:
    kinds = ("RssAnon:", "RssShmem:", "VmSwap:")
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = listed.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))


def _cgroup(name: str) -> Iterator[str]:
    """The contents of a file of this process's control group, and of those around it."""
    try:
        line = next(x for x in Path("/proc/self/cgroup").read_text().splitlines() if x.startswith("0::"))
        own = Path(line.removeprefix("0::").strip("/"))
    except (OSError, StopIteration):
        own = Path()
    for folder in (own, *own.parents):
        try:
            yield (CGROUPS / folder / name).read_text().strip()
        except OSError:
            continue
