"""Repair a pruned model: the layers that stay take over what the removed channels did, one after the other.

Original and pruned network walk through the calibration samples in lockstep, from one layer to the next. Each layer is fitted on
what the network before it, pruned and repaired, makes of the samples, towards what the original makes of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.array_store import Memory
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis
from onnxprune.measure import list_judged
from onnxprune.ops.records import get_record
from onnxprune.plans import Plan, read_keep, read_units
from onnxprune.progress import Progress
from onnxprune.repair.chains import Chain, find_chain
from onnxprune.repair.lockstep import FindStart, Lockstep
from onnxprune.repair.merge import merge_channels
from onnxprune.repair.network import Network, restore_calls
from onnxprune.repair.products import MatrixProduct
from onnxprune.repair.sampling import Feeds
from onnxprune.repair.solve import FITS
from onnxprune.repair.support import Choose
from onnxprune.repair.tasks import FitTask, find_tasks
from onnxprune.report.types import RepairReport
from onnxprune.surgery import apply_flat, find_bypassed

METHODS = ("none", "merge", *FITS)


def repair(
    analysis: Analysis,
    plan: Plan,
    batches: Iterable[Feeds],
    method: str = "lstsq",
    *,
    samples: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    thin: SparsityRequest | None = None,
    share: float = 1.0,
    is_step: bool = False,
    layers: int | None = None,
    dampings: dict[str, float] | None = None,
    start: FindStart | None = None,
    memory: Memory | None = None,
    producers: bool = True,
    convolutions: bool = False,
) -> tuple[Model, RepairReport]:
    """Apply a plan, and let the layers that stay take over what the removed channels did.

    none    the plan alone, with its error
    merge   what consumed a removed channel takes the most similar one that stays (see merge.py); chosen without data
    bias    each output gets back the mean that it had (Nagel et al. 2019, Data-Free Quantization, arXiv 1906.04721, sec. 4.2)
    affine  mean and deviation (Singh and Shrivastava 2019, BN statistics; He and Yin 2021, arXiv 2105.03193)
    lstsq   least squares against the original's outputs, on inputs as the pruned network makes them
            (He et al. 2017, Channel Pruning, arXiv 1707.06168, eq. 2), behind the activation that follows
    obs     least squares on the original's inputs: Optimal Brain Surgeon's update, blockwise (Hassibi and Stork 1993; Kurtic et al.
            2022, arXiv 2203.07259, eq. 5)

    A `share` of the rows that a layer needs is taken, and of the layers the first so many are fitted. Where `is_step`, the result
    is only one on the way: then the outputs are not compared, and all changes stay. `thin` makes layers sparse on the way, each as
    soon as what it reads is as it will be. `dampings` are those of layers that other tries found, for steps to add to:
    the next ones need not look for them. `start` finds values of the original from which a step of a plan of units alone can
    run, by the tensors that are made anew.
    With `producers`, least squares on all rows change the layers before a pruned group as well (see producers.py), where nothing
    is to become sparse; with `convolutions`, also those before a convolution, which takes several times as long.

    `batches` can be iterated more than once; `samples` takes the first batches only, until there are so many. What they become
    on the way waits in files where it finds no room in `memory`. The error of the
    outputs on them is never raised: where all layers would raise it, fewer of the first ones are changed.
    Raises OnnxPruneError for an unknown method, and where the model does not run.
    """
    if method not in METHODS:
        raise OnnxPruneError(f"repair '{method}' is unknown; there are {', '.join(METHODS)}")
    begun = time.perf_counter()
    thin = thin or SparsityRequest()
    with _prepare(analysis, plan, batches, method, samples, threads, thin, share, is_step, layers, memory) as pair:
        if producers and method == "lstsq" and share == 1 and not thin.choose:
            pair.chains = find_chains(pair.net, pair.tasks, convolutions)
        if dampings is not None:
            pair.dampings = dampings
        pair.find_start = start
        pair.run(np.random.default_rng(seed), progress or (lambda *_: None))
        model = pair.result()
    pair.report.seconds = time.perf_counter() - begun
    return model, pair.report


def find_chains(net: Network, layers: Sequence[FitTask], convolutions: bool = False) -> dict[int, Chain]:
    """The elementwise chains before layers, by the number of the task; with `convolutions`, those before them too."""
    chains = dict[int, Chain]()
    for at, task in enumerate(layers):
        if task.source is None and not task.tail.scored:
            with task.loaded(net) as layer:
                # A fused operator behind the layer may add its bias, but not by that alone.
                places = {change.node for change in layer.list_changes(layer.w, layer.b)} - {task.index}
                plain = all(get_record(net.nodes[i]).traits.sums for i in places)
                chain = find_chain(net, layer) if plain and (convolutions or isinstance(layer, MatrixProduct)) else None
            if chain is not None:
                chains[at] = chain
    return chains


@dataclass(frozen=True)
class SparsityRequest:
    """Weights that are to become sparse, by the first output that the node has, and the input, and how those of each are chosen.

    `plain` is the model that the result is compared with: sparse too, but not repaired.
    """

    choose: Mapping[tuple[str, int], Choose] = field(default_factory=dict)
    plain: Model | None = None


def _prepare(
    analysis: Analysis,
    plan: Plan,
    batches: Iterable[Feeds],
    method: str,
    samples: int | None,
    threads: int | None,
    thin: SparsityRequest,
    share: float,
    is_step: bool,
    layers: int | None,
    memory: Memory | None,
) -> Lockstep:
    """The original and the network that a plan makes of it, with the layers to fit."""
    keep, units = read_keep(plan, analysis), read_units(plan, analysis)
    flat, skipped = apply_flat(analysis, keep, units), find_bypassed(analysis, units)
    original, pruned = (restore_calls(model, analysis.model) for model in (analysis.flat, flat))
    net = Network(analysis, keep, original, pruned, thin.choose, bypassed=skipped)
    report = RepairReport(method, 0, None, None)
    fitted = find_tasks(net, method, report.left_out)[:layers] if method in FITS or thin.choose else []
    if thin.plain is not None:  # what cannot be fitted is sparse from the start: later layers make up for it
        net.thin(net.thinned.difference((t.index, t.layer.slot) for t in fitted), thin.plain)
    changes = merge_channels(net, plan) if method == "merge" else []
    return Lockstep(
        net, flat, fitted, list_judged(analysis), report, batches, samples, threads, share, is_step,
        thin.choose, thin.plain, bool(thin.choose), changes, memory=memory or Memory(), skipped=skipped,
    )  # fmt: skip
