"""The report of each layer of a sparse model, and of the check of a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from onnxprune.report.plain import to_json
from onnxprune.report.types import (
    CheckedLayer,
    CompressedSize,
    LayerFacts,
    PatternReport,
    PermutedGroup,
    SparseLayerReport,
    SparsityReport,
)
from onnxprune.sparsity import Checked, SparseLayer, Sparsified


def make_sparsity_report(s: Sparsified, compressed: CompressedSize | None = None) -> SparsityReport:
    """The part `sparsity` of a report."""
    return SparsityReport(
        pattern=s.pattern.name,
        runs_on=s.pattern.runs_on,
        options=to_json(asdict(s.options)),
        layers=[_layer(x) for x in s.layers],
        permuted=[PermutedGroup(g, before, after) for g, (before, after) in s.gains.items()],
        compressed=compressed,
    )


def _layer(x: SparseLayer) -> SparseLayerReport:
    m, v, t = x.matrix, x.verdict, x.tally
    return SparseLayerReport(
        **vars(_facts(x)),
        sparse=x.chosen,
        reason=x.why or None,
        method=x.method or None,
        zeros=1 - t.nonzero / t.weights if t and t.weights else None,
        kept_magnitude=t.share if t else None,
        error=x.error,
        error_before_repair=x.error_before,
        note=v.note or None if v else None,
        params=m.params if m.form else None,
    )


def _facts(x: SparseLayer) -> LayerFacts:
    m, v = x.matrix, x.verdict
    eligible, likely = (v.eligible, v.likely) if v else (None, None)
    return LayerFacts(m.name, m.op, m.weight, m.dtype, *m.shape, eligible, likely)


def check_report(model: str, pattern: str, checked: Sequence[Checked]) -> PatternReport:
    """The report of `validate --pattern`."""
    return PatternReport(
        model=model,
        pattern=pattern,
        holds=all(c.holds for c in checked if c.layer.chosen),
        layers=[_checked(c) for c in checked],
    )


def _checked(c: Checked) -> CheckedLayer:
    return CheckedLayer(
        **vars(_facts(c.layer)),
        checked=c.layer.chosen,
        holds=c.holds if c.broken is not None else None,
        broken=c.broken,
        zeros=c.sparsity,
        reason=c.layer.why or None,
    )
