"""What became of each layer when a model was made sparse, as plain data. These keys are a contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from onnxprune.sparsity import Checked, SparseLayer, Sparsified


def sparsity_report(s: Sparsified) -> dict[str, Any]:
    """The part `sparsity` of a report."""
    return {
        "pattern": s.pattern.name,
        "runs_on": s.pattern.runs_on,
        "options": asdict(s.options),
        "layers": [_layer(x) for x in s.layers],
        "permuted": [{"group": g, "before": b, "after": a} for g, (b, a) in s.gains.items()],
    }


def _layer(x: SparseLayer) -> dict[str, Any]:
    m, v, t = x.matrix, x.verdict, x.tally
    return {
        **_facts(x),
        "sparse": x.chosen,
        "reason": x.why or None,
        "method": x.method or None,
        "zeros": 1 - t.nonzero / t.weights if t and t.weights else None,
        "kept_magnitude": t.share if t else None,
        "error": x.error,
        "error_before_repair": x.error_before,
        "note": v.note or None if v else None,
        "params": m.params if m.form else None,
    }


def _facts(x: SparseLayer) -> dict[str, Any]:
    m, v = x.matrix, x.verdict
    batch, outputs, inputs, positions = m.shape
    return {
        "name": m.name,
        "op": m.op,
        "tensor": m.weight,
        "dtype": m.dtype,
        "batch": batch,
        "outputs": outputs,
        "inputs": inputs,
        "positions": positions,
        "eligible": v.eligible if v else None,
        "likely": v.likely if v else None,
    }


def check_report(model: str, pattern: str, checked: Sequence[Checked]) -> dict[str, Any]:
    """The object that `validate --pattern --json` prints."""
    return {
        "model": model,
        "pattern": pattern,
        "holds": all(c.holds for c in checked if c.layer.chosen),
        "layers": [
            {
                **_facts(c.layer),
                "checked": c.layer.chosen,
                "holds": c.holds if c.broken is not None else None,
                "broken": c.broken,
                "zeros": c.sparsity,
                "reason": c.layer.why or None,
            }
            for c in checked
        ],
    }
