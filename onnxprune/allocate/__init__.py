"""From scores and a ratio or a budget to a plan: how many channels each group keeps, and which.

cost.py     what a plan leaves (multiply-accumulates, parameters, bytes), counted without applying it
ratios.py   a ratio for each group, or for all channels ranked together
"""

from __future__ import annotations

from onnxprune.allocate.cost import COSTS, Cost, cost_of
from onnxprune.allocate.ratios import SCOPES, Options, make_plan, shape_of

__all__ = ["COSTS", "SCOPES", "Cost", "Options", "cost_of", "make_plan", "shape_of"]
