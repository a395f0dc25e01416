"""Make a model sparse: choose layers, permute channels, fit or mask the weights, and say what became of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.array_store import Memory
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.inner import mark_inner_tensors, rewrite_inner_tensors
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Weight
from onnxprune.groups import Analysis, analyze
from onnxprune.ops.linear import TRANSPOSED
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.repair import Choose, RepairReport, SparsityRequest, repair
from onnxprune.settings import Sparsity
from onnxprune.sparsity.constants import fold
from onnxprune.sparsity.masked_weights import MaskedWeight, Selects, Tally
from onnxprune.sparsity.matrices import ConstantMatrix, find_matrices, open_numbers
from onnxprune.sparsity.methods import make_chooser
from onnxprune.sparsity.patterns import Above, Pattern, Units
from onnxprune.sparsity.permutation import permute_plan
from onnxprune.sparsity.resolve import check_sparsity, resolve_sparsity
from onnxprune.sparsity.tensorrt import Verdict, judge
from onnxprune.sparsity.threshold import find_threshold
from onnxprune.surgery import apply_plan
from onnxprune.targets import TARGETS

Feeds = Mapping[str, npt.NDArray[np.generic]]


@dataclass
class SparseLayer:
    """A constant that a product multiplies with: what the target makes of it, whether it is chosen, and what became of it."""

    matrix: ConstantMatrix
    verdict: Verdict | None  # None without a target
    chosen: bool
    why: str  # it is not chosen
    method: str = ""
    tally: Tally | None = None
    # Of its output, relative L2, behind the activation that follows; None where nobody looked.
    error: float | None = None
    error_before: float | None = None  # before repair


@dataclass
class Sparsified:
    """The model and how it came about; weights are masked when they are read, so tallies are complete once it was saved."""

    model: Model
    analysis: Analysis  # that the plan is of: of the model whose constants are folded
    options: Sparsity
    pattern: Pattern
    layers: list[SparseLayer]
    plan: Plan | None = None  # the permutation of channels, and what else was asked for
    gains: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # by group: what its readers keep, before and after
    repair: RepairReport | None = None
    _weights: dict[str, MaskedWeight] = field(default_factory=dict)

    def nonzero(self) -> tuple[dict[str, int], dict[str, int]]:
        """The number of nonzero weights before and after, of the tensors that are masked while they are read."""
        tallies = {name: w.tally for name, w in self._weights.items() if w.tally.weights}
        after = {name: t.nonzero for name, t in tallies.items()}
        untouched = self.plan is None and self.repair is None  # else they are not the original's
        return {name: t.nonzero_before for name, t in tallies.items()} if untouched else {}, after

    def measure(self) -> None:
        """Read what has not been read yet, so that every chosen layer has its tally."""
        for layer in self.layers:
            weight = self._weights.get(layer.matrix.weight)
            if weight is None or layer.tally is not None:
                continue
            if not weight.tally.weights:
                for _ in weight.parts():
                    pass
            layer.tally = weight.tally


def sparsify(
    analysis: Analysis,
    options: Sparsity,
    batches: Iterable[Feeds] | None = None,
    *,
    plan: Plan | None = None,
    progress: StageProgress | None = None,
    memory: Memory | None = None,
) -> Sparsified:
    """Zeros in exactly the pattern that a consumer reads, after the channels of a plan are gone.

    `batches` are calibration data, which may be iterated more than once (what they become takes
    `memory`); without them weights are masked when they are read.
    Raises OnnxPruneError for options that cannot be, and for globs that match no layer.
    """
    options = resolve_sparsity(options, batches is not None)
    pattern = check_sparsity(options)
    report_stage = progress or (lambda *_: None)
    gains: dict[str, tuple[float, float]] = {}
    used = plan or Plan("", {})
    if not used.groups and (folded := prepare(analysis, options)[0]) is not analysis.model:
        analysis = analyze(folded, analysis.data)
    if options.permute:
        report_stage("permute", 0, 0)
        used, gains = permute_plan(
            analysis, used, lambda a: [x.matrix for x in decide(a, options) if x.chosen], pattern,
            lambda done, of: report_stage("permute", done, of),
        )  # fmt: skip
    smaller = apply_plan(analysis, used) if used.groups else analysis.model
    smaller, work = prepare(analysis if smaller is analysis.model else analyze(smaller, analysis.data), options)
    layers = decide(work, options)
    report = None
    if batches is not None:
        plain = mask(smaller, work, layers, pattern, options)[0]
        choose = _choosers(work, layers, pattern, options)
        smaller, report = repair(
            analysis, used, batches, options.repair or "none", seed=options.seed,
            progress=lambda done, of: report_stage("fit", done, of), thin=SparsityRequest(choose, plain),
            memory=memory,
        )  # fmt: skip
        before = work, layers
        smaller, work = prepare(analyze(smaller, analysis.data), options)
        layers = decide(work, options)
        _compare(work, layers, *before, report, options)
    model, weights = mask(smaller, work, layers, pattern, options)
    return Sparsified(model, analysis, options, pattern, layers, used if used.groups else None, gains, report, weights)


def prepare(a: Analysis, options: Sparsity) -> tuple[Model, Analysis]:
    """The model with those constants folded that get the pattern, and an analysis of it with its inner tensors marked."""
    whole = fold(a)
    model, work = whole, mark(a, whole)
    if whole is not a.model:
        chosen = {place for x in decide(work, options) if x.chosen for place in _places(work, x.matrix)}
        model = fold(a, chosen)
        work = mark(a, model)
    return model, work


def mark(a: Analysis, model: Model) -> Analysis:
    """An analysis of a model like the one of `a`, with its inner tensors marked."""
    seen = mark_inner_tensors(model)
    return a if seen is a.model else analyze(seen, a.data)


def decide(a: Analysis, options: Sparsity) -> list[SparseLayer]:
    """Every layer, and which are chosen. Raises OnnxPruneError where --include or --exclude matches none."""
    pattern = check_sparsity(options)
    layers = find_matrices(a)
    for glob in (*options.include, *options.exclude):
        if not any(_matches(m, glob) for m in layers):
            names = ", ".join(m.name for m in layers[:3])
            raise OnnxPruneError(f"no layer matches '{glob}'; layers have names such as {names or '(there are none)'}")
    return [_decided(m, pattern, options) for m in layers]


def _matches(m: ConstantMatrix, glob: str) -> bool:
    return any(fnmatchcase(name, glob) for name in (m.name, m.weight))


def _decided(m: ConstantMatrix, pattern: Pattern, options: Sparsity) -> SparseLayer:
    verdict = judge(m) if TARGETS[options.target or "none"].sparse and not m.left else None
    why = m.left or pattern.unfit(m.shape)
    if not why and (
        any(_matches(m, g) for g in options.exclude)
        or (options.include and not any(_matches(m, g) for g in options.include))
    ):
        why = "left out by --include or --exclude"
    if not why and verdict is not None and options.layers != "all":
        ok = verdict.likely if options.layers == "likely" else verdict.eligible
        why = "" if ok else verdict.why
    return SparseLayer(m, verdict, not why, why)


def _choosers(
    a: Analysis, layers: list[SparseLayer], pattern: Pattern, options: Sparsity
) -> dict[tuple[str, int], Choose]:
    """None where layers compete: each is fitted alone."""
    if options.scope == "global" or options.threshold is not None:
        return {}
    method, chosen = options.method or "magnitude", [x.matrix for x in layers if x.chosen and not _split(x.matrix)]
    return {place: make_chooser(method, pattern, m.shape) for m in chosen for place in _places(a, m)}


def _split(m: ConstantMatrix) -> bool:
    """Would a fit take the inputs apart that the pattern has in a row?"""
    return m.kind == TRANSPOSED.kind and m.groups > 1


def _places(a: Analysis, m: ConstantMatrix) -> list[tuple[str, int]]:
    """The readers of a matrix, by output and input: a recurrent layer reads two, a local function's tensor is read in each call."""
    nodes = a.flat.proto.graph.node
    return [(next(filter(None, nodes[index].output)), slot) for index, slot in m.sites]


def _compare(
    a: Analysis,
    layers: list[SparseLayer],
    was: Analysis,
    before: list[SparseLayer],
    report: RepairReport,
    options: Sparsity,
) -> None:
    """The fit of each layer; layers that cannot be fitted are masked by magnitude."""
    fitted = {(x.output, x.slot): x for x in report.layers}
    old = {place: x.matrix for x in before for place in _places(was, x.matrix)}
    for layer in layers:
        place = next(iter(_places(a, layer.matrix)))
        known = fitted.get(place)
        if layer.chosen and known:
            layer.method, layer.error, layer.error_before = options.method or "", known.after, known.before
            layer.tally = _tally(was, old[place], a, layer.matrix)


def _tally(was: Analysis, old: ConstantMatrix, a: Analysis, new: ConstantMatrix) -> Tally:
    """The remaining share of the magnitude."""
    assert old.form is not None and new.form is not None
    size = old.form.view(open_numbers(was, old, True).magnitudes(was.coupling.weights[old.weight].array()))
    there = new.form.view(open_numbers(a, new).there(a.coupling.weights[new.weight].array()))
    return Tally(
        size.size,
        int(np.count_nonzero(size)),
        int(there.sum()),
        float(size.sum(dtype=np.float64)),
        float((size * there).sum(dtype=np.float64)),
    )


def mask(
    model: Model, work: Analysis, layers: list[SparseLayer], pattern: Pattern, options: Sparsity
) -> tuple[Model, dict[str, MaskedWeight]]:
    """The model with its chosen weights masked by magnitude as they are read; what has the pattern already stays as it is.

    `work` is the analysis of `model` with its inner tensors marked.
    """
    chosen = [x for x in layers if x.chosen]
    selects: Selects = pattern
    if options.scope == "global" and isinstance(pattern, Units):
        selects = Above(pattern, find_threshold(lambda: _worths(work, chosen, pattern), pattern.sparsity))
    if options.threshold is not None and isinstance(pattern, Units):
        selects = Above(pattern, float(np.nextafter(np.float32(options.threshold), np.float32(0))))  # it stays itself
    weights: dict[str, MaskedWeight] = {}
    for x in chosen:
        assert x.matrix.form is not None
        x.method = x.method or "magnitude"
        base: Weight = work.coupling.weights[x.matrix.weight]
        weights[x.matrix.weight] = MaskedWeight(
            base, x.matrix.form, selects, open_numbers(work, x.matrix, not pattern.group)
        )
    inner = {x.matrix.inner: weights[x.matrix.weight].array() for x in chosen if x.matrix.inner is not None}
    own = {x.matrix.weight: weights[x.matrix.weight] for x in chosen if x.matrix.inner is None}
    model = rewrite_inner_tensors(model, {at: array for at, array in inner.items() if at is not None})
    return replace(model, weights={**model.weights, **own}), weights


def _worths(a: Analysis, layers: Iterable[SparseLayer], pattern: Units) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the scores of the units of each layer."""
    for m in (x.matrix for x in layers):
        assert m.form is not None
        weight = a.coupling.weights[m.weight]
        yield pattern.worth(m.form.view(open_numbers(a, m, True).magnitudes(weight.array()))).ravel()
