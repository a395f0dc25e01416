"""Repair what pruning broke, without training: the layers that stay are fitted to what the original made.

`run.repair` is the way in. `segments` runs a model in pieces, so that weights can change between one piece and the next;
`layers` says what a layer is, as a matrix product, and `kinds` which one an operator is (by the kind of product in its record:
`products`, `convolutions`, `recurrent`); `codes` turns stored integers into numbers and back; `tails` finds what follows a layer;
`solve` has the least squares; `chains` and `producers` change the layers before a pruned group, too.
"""

from onnxprune.repair.cuts import cut
from onnxprune.repair.lockstep import FindStart
from onnxprune.repair.refit import METHODS, SparsityRequest, repair
from onnxprune.repair.support import Choose
from onnxprune.report.types import LayerRepair, RepairReport

__all__ = ["METHODS", "Choose", "FindStart", "LayerRepair", "RepairReport", "SparsityRequest", "cut", "repair"]
