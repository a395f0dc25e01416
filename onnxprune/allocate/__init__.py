"""From scores and a ratio or a budget to a plan: how many channels each group keeps, and which.

options.py    what a user may ask for
selection.py  which groups may lose channels, and in which order
cost.py       what a plan leaves (multiply-accumulates, parameters, bytes), counted without applying it
ratios.py     a ratio becomes counts: of each group, or of all channels ranked together
budget.py     the counts that keep most within a budget
planning.py   all of it together
"""

from __future__ import annotations

from onnxprune.allocate.cost import COSTS, Cost, cost_of
from onnxprune.allocate.options import ALLOCATIONS, BUDGETS, SCOPES, Options
from onnxprune.allocate.planning import make_plan
from onnxprune.allocate.ratios import shape_of

__all__ = ["ALLOCATIONS", "BUDGETS", "COSTS", "SCOPES", "Cost", "Options", "cost_of", "make_plan", "shape_of"]
