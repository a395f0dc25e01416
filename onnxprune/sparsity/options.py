"""What the user of `sparsify` may choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxprune.errors import OnnxPruneError
from onnxprune.repair.solve import FITS
from onnxprune.sparsity.methods import METHODS
from onnxprune.sparsity.patterns import NofM, Pattern, Units, parse

REPAIRS = ("none", *FITS)
LAYERS = ("likely", "eligible", "all")
TARGETS = ("tensorrt", "none")
SCOPES = ("local", "global")


@dataclass(frozen=True)
class Sparsity:
    """Which pattern, in which layers, and how the weights that stay are chosen and repaired.

    None stands for what fits: `method` sparsegpt with calibration data, else magnitude; `repair` lstsq with data, else none;
    `target` tensorrt for 2:4, else none; `layers` likely (those that the target will probably run faster) with a target, else all.
    """

    pattern: str = "2:4"
    sparsity: float = 0.5  # of the patterns that do not say it themselves
    method: str | None = None
    repair: str | None = None
    permute: bool = False
    layers: str | None = None
    target: str | None = None
    scope: str = "local"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    seed: int = 0

    def check(self) -> Pattern:
        """The pattern. Raises OnnxPruneError for what cannot be."""
        pattern = parse(self.pattern, self.sparsity)
        for name, known in (
            ("method", METHODS), ("repair", REPAIRS), ("layers", LAYERS), ("target", TARGETS), ("scope", SCOPES)
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value not in known:
                raise OnnxPruneError(f"{name} '{value}' is unknown; there are {', '.join(known)}")
        if self.seed < 0:
            raise OnnxPruneError(f"seed is {self.seed}; it is a whole number, 0 or more")
        if self.scope == "global" and not isinstance(pattern, Units):
            raise OnnxPruneError(
                f"pattern {pattern.name} says how much of each group goes: layers do not compete, leave --scope out"
            )
        if self.scope == "global" and self.method not in (None, "magnitude"):
            raise OnnxPruneError("layers compete by magnitude; use --scope local with another method")
        if self.scope == "global" and self.repair not in (None, "none"):
            raise OnnxPruneError("layers that compete are not repaired; use --scope local with --repair")
        if self.permute and not isinstance(pattern, NofM):
            raise OnnxPruneError(f"channels are permuted for N:M patterns, not for {pattern.name}; leave --permute out")
        return pattern

    def resolved(self, calibrated: bool) -> Sparsity:
        """The same with every None replaced."""
        pattern = self.check()
        trt = isinstance(pattern, NofM) and (pattern.n, pattern.m) == (2, 4)
        target = self.target or ("tensorrt" if trt else "none")
        if target == "tensorrt" and not trt:
            raise OnnxPruneError(f"TensorRT has kernels for 2:4 only, not for {pattern.name}; use --target none")
        if target == "none" and self.layers in ("likely", "eligible"):
            raise OnnxPruneError(
                f"--layers {self.layers} asks a target, and there is none for {pattern.name}; use --layers all"
            )
        method = self.method or ("sparsegpt" if calibrated and self.scope == "local" else "magnitude")
        if method != "magnitude" and not calibrated:
            raise OnnxPruneError(f"method {method} watches the network at work; give inputs with --calib")
        if self.repair not in (None, "none") and not calibrated:
            raise OnnxPruneError(f"repair {self.repair} watches the network at work; give inputs with --calib")
        return replace(
            self,
            method=method,
            repair=self.repair or ("lstsq" if calibrated and self.scope == "local" else "none"),
            target=target,
            layers=self.layers or ("all" if target == "none" else "likely"),
        )
