"""What a target is: where the model is to run, and which channel counts are fast there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CONVOLUTIONS = frozenset(
    {"convolution", "transposed convolution", "deformable convolution", "convolution with channels last"}
)
MATRICES = frozenset({"matrix product", "sum over letters", "attention"})


INTEGERS = ("int8", "uint8")


@dataclass(frozen=True)
class Layer:
    """What of a product decides which counts are fast: its kind (`Product.kind` in ops/records.py), and more.

    `dtype` is the element type of its weights, as NumPy names it; `depthwise`: each output reads one input.
    `channels`: how many there are along the axis in question before pruning. `measured`: errors decide the counts, so that steps
    that cost no time may be finer than those that are fastest.
    """

    kind: str
    dtype: str
    depthwise: bool = False
    channels: int = 0
    measured: bool = False


@dataclass(frozen=True)
class Target:
    """One place to run a model.

    `multiple` is the number that the channels of a layer want to be a multiple of, 1 where it does not care. `evidence` says how
    that is known: a measurement, or the vendor's page. `int8` names the target that has the rules for the same place where all
    weights will be int8; empty: this one has them. `symmetric`: it wants activations in int8 around 0. `weight_bits`: the bits that
    int8 weights may use before its kernels overflow. `sparse` has the patterns of zeros that its kernels skip. `slow_subnormals`:
    numbers below 1.2e-38 may be slow there, so weights that are become zeros.
    """

    name: str
    multiple: Callable[[Layer], int]
    evidence: str
    int8: str = ""
    symmetric: bool = False
    weight_bits: int = 8
    sparse: frozenset[str] = frozenset()
    slow_subnormals: bool = False
