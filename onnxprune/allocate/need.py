"""The least memory that calibration takes: the largest pieces of work, which no file can replace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxprune.calibration.array_store import Memory
from onnxprune.calibration.data import Batches
from onnxprune.calibration.sessions import count
from onnxprune.calibration.statistics import StatisticSizes
from onnxprune.criteria import resolve
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.unsettled import find_unsettled
from onnxprune.groups import Analysis, Group
from onnxprune.measure import list_judged
from onnxprune.settings.quantities import show_size
from onnxprune.signals import OF_GRADIENTS, choose_taps, name_statistics

COPIES, SCRATCH = 2, 2  # Gram matrices in float64: of each activation of a group, and of the largest besides
Need = tuple[int, str]  # bytes, what for


def check_memory(a: Analysis, groups: Iterable[Group], criterion: str, batches: Batches, memory: Memory) -> None:
    """Raise OnnxPruneError where calibration needs clearly more than it may have."""
    need, what = max(_needs(a, groups, criterion, batches), default=(0, ""))
    if need > memory.most:
        raise OnnxPruneError(
            f"calibration takes about {show_size(need)} of memory for {what} alone, and may have {show_size(memory.most)}; "
            "give more with --memory, or smaller batches or another --criterion"
        )


def _needs(a: Analysis, groups: Iterable[Group], criterion: str, batches: Batches) -> Iterator[Need]:
    sizes = StatisticSizes(a, count(batches.first()), batches.samples or 0)
    guessed = find_unsettled(a.coupling.live, a.coupling.trace)  # their sizes are made up, and may be enormous
    for name in list_judged(a):
        if name not in guessed:
            yield 2 * sizes.watched(name), f"output '{name}' of one batch"
    names = resolve(criterion)[0].statistics
    for g in groups:
        wants = dict.fromkeys(
            want for tap in choose_taps(a, g, names) for want in name_statistics(a, tap, names).values()
        )
        wants = {want: None for want in wants if want[2] not in OF_GRADIENTS}  # small batches will do for those
        squares = [8 * sizes.width(want) ** 2 for want in wants if want[2].endswith("gram")]
        if squares:
            yield COPIES * sum(squares) + SCRATCH * max(squares), f"the scores of group '{g.name}'"
        for want in wants:
            watched = 0 if want[0] in guessed else sizes.watched(want[0])
            yield sizes.gathered(want) + watched, f"statistics of '{want[0]}'"
