"""Plans of many sizes, applied and timed kernel by kernel: what the times of layers are learned from."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocate.selection import Candidates, Counts
from onnxprune.allocate.timing.matching import LayerFinder
from onnxprune.allocate.timing.timing_table import TimingTable
from onnxprune.calibration.kernels import Kernel, KernelTimer, describe_machine
from onnxprune.calibration.sessions import Feeds
from onnxprune.graph.save import build_full_proto
from onnxprune.graph.weights import Array
from onnxprune.progress import Progress
from onnxprune.surgery import apply_plan
from onnxprune.validation.latency import choose_clock

UNIFORM = (1.0, 0.7, 0.45, 0.25)  # shares that all groups keep; the first sample is the original
MIXED, LEAST = 16, 0.15  # samples where each group keeps a share of its own, and the least such share


@dataclass(frozen=True)
class Samples:
    """Timings of samples: `counts [samples, groups]`, seconds of each layer [samples], and of whole runs [samples]."""

    counts: Array
    layers: Mapping[int, Array]  # by one of the layer's nodes
    members: Mapping[int, Sequence[int]]  # the nodes of each layer
    whole: Array

    def only(self, chosen: Array) -> Samples:
        """Some of the samples."""
        layers = {layer: seconds[chosen] for layer, seconds in self.layers.items()}
        return Samples(self.counts[chosen], layers, self.members, self.whole[chosen])


def choose_counts(c: Candidates, seed: int) -> list[Counts]:
    """The counts of the samples: each group's shares are spread evenly over the samples, in an order of its own."""
    random = np.random.default_rng(seed)
    spread = [(random.permutation(MIXED) + random.random(MIXED)) / MIXED for _ in c.groups]
    shares = [[share] * len(c.groups) for share in UNIFORM]
    shares += [[LEAST + (1 - LEAST) * s[i] for s in spread] for i in range(MIXED)]
    return [
        c.settled(c.counts({g.name: max(1, round(g.size * share)) for g, share in zip(c.groups, row, strict=True)}))
        for row in shares
    ]


def measure_samples(
    c: Candidates, feeds: Feeds, table: TimingTable, threads: int, seed: int, progress: Progress
) -> Samples:
    """Time the kernels of all samples that the table does not know.

    Raises OnnxPruneError where a sample does not load or run.
    """
    chosen = choose_counts(c, seed)
    finder = LayerFinder(c.analysis.flat.proto.graph.node)
    seconds: list[tuple[list[int], list[float]]] = []  # by sample: the nodes that kernels work for, and their times
    whole = []
    for done, counts in enumerate(chosen):
        model = build_full_proto(apply_plan(c.analysis, c.plan(counts, lambda g: "")))
        kernels, times, run = time_model(KernelTimer(model, feeds, threads, choose_clock(threads)), table, threads)
        seconds.append((finder.add(kernels), times))
        whole.append(run)
        progress(done + 1, len(chosen))
    layers: dict[int, Array] = defaultdict(lambda: np.zeros(len(chosen)))
    for sample, (nodes, times) in enumerate(seconds):
        for node, time in zip(nodes, times, strict=True):
            layers[finder.layer_of(node)][sample] += time
    members = finder.members()
    return Samples(np.array(chosen, np.float64), dict(layers), {k: members.get(k, []) for k in layers}, np.array(whole))


def time_model(timer: KernelTimer, table: TimingTable, threads: int) -> tuple[list[Kernel], list[float], float]:
    """The kernels of a model, seconds of each, and of a whole run; measured where the table does not have them."""
    kernels = timer.find_kernels()
    machine = _digest(describe_machine(threads))
    keys = [f"{machine}/{k.layer}" for k in kernels]
    run = f"{machine}/run {_digest(*keys)}"
    if not all(map(table.has, (*keys, run))):
        taken, whole = timer.time()
        seconds_of = defaultdict(list)
        for key, kernel in zip(keys, kernels, strict=True):
            seconds_of[key].append(taken[kernel.name])
        table.add({key: math.fsum(times) / len(times) for key, times in seconds_of.items()} | {run: whole})
    return kernels, [table.get(key) for key in keys], table.get(run)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
