"""Settings of sparsity: what goes together, and what stands for what was left open."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.errors import OnnxPruneError
from onnxprune.settings import Sparsity
from onnxprune.settings.table import check_fields
from onnxprune.sparsity.patterns import NofM, Pattern, Units, parse
from onnxprune.targets import TARGETS


def check_sparsity(s: Sparsity) -> Pattern:
    """The pattern. Raises OnnxPruneError for what cannot be."""
    check_fields(s)
    pattern = parse(s.pattern, s.sparsity)
    if s.scope == "global" and not isinstance(pattern, Units):
        raise OnnxPruneError(
            f"pattern {pattern.name} decides how many weights of each group are kept: layers do not compete, drop --scope"
        )
    if s.scope == "global" and s.method not in (None, "magnitude"):
        raise OnnxPruneError("layers compete by magnitude; use --scope local with another method")
    if s.scope == "global" and s.repair not in (None, "none"):
        raise OnnxPruneError("layers that compete are not repaired; use --scope local with --repair")
    if s.permute and not isinstance(pattern, NofM):
        raise OnnxPruneError(f"channels are permuted for N:M patterns, not for {pattern.name}; leave --permute out")
    if s.threshold is not None:
        _check_threshold(s, pattern)
    return pattern


def _check_threshold(s: Sparsity, pattern: Pattern) -> None:
    """Raise OnnxPruneError where something else decides which weights stay."""
    if pattern.name != "unstructured":
        raise OnnxPruneError(
            f"threshold is for single weights, not for pattern {pattern.name}; use --pattern unstructured"
        )
    if s.scope == "global":
        raise OnnxPruneError("threshold is the same for all layers already; drop --scope")
    if s.method not in (None, "magnitude") or s.repair not in (None, "none"):
        raise OnnxPruneError("threshold keeps weights by their magnitude, as they are; drop --method and --repair")


def resolve_sparsity(s: Sparsity, calibrated: bool) -> Sparsity:
    """The same with every None replaced."""
    pattern = check_sparsity(s)
    target = TARGETS[s.target or ("tensorrt" if pattern.name in TARGETS["tensorrt"].sparse else "none")]
    runs = pattern.name in target.sparse
    if target.sparse and not runs:
        raise OnnxPruneError(
            f"{target.name} has kernels for {', '.join(sorted(target.sparse))} only, not for {pattern.name}; use --target none"
        )
    if not runs and s.layers in ("likely", "eligible"):
        raise OnnxPruneError(
            f"--layers {s.layers} asks a target that has kernels for {pattern.name}, and there is none; use --layers all"
        )
    fitted = calibrated and s.scope == "local" and s.threshold is None
    method = s.method or ("sparsegpt" if fitted else "magnitude")
    if method != "magnitude" and not calibrated:
        raise OnnxPruneError(f"method {method} watches the network at work; give inputs with --calib")
    if s.repair not in (None, "none") and not calibrated:
        raise OnnxPruneError(f"repair {s.repair} watches the network at work; give inputs with --calib")
    return replace(
        s,
        method=method,
        repair=s.repair or ("lstsq" if fitted else "none"),
        target=target.name,
        layers=s.layers or ("likely" if runs else "all"),
    )
