"""From scores and a ratio or a budget to a plan: how many channels each group keeps, and which.

selection.py  which groups may lose channels, and in which order
cost.py       what a plan leaves (multiply-accumulates, parameters, bytes), counted without applying it
timing/       how long a plan takes, predicted from layers that were timed
ratios.py     a ratio becomes counts: of each group, or of all channels ranked together
budget.py     the counts that keep most within a budget
error.py      what smaller models make of calibration data, next to the original
kept.py       measurements that are kept in a file
tables.py     the error of each group pruned alone, at several ratios
search.py     counts from such tables: dynamic programming, or one tolerance for all
netadapt.py   counts from true errors, a small step at a time
amc.py        counts that an agent learns from true errors
shallower.py  which residual branches go, before channels do
plan_stage.py  plans within a ratio or a budget, at once or in steps
latency_plan.py  plans within a fraction of the time
planning.py   all of it together
"""

from __future__ import annotations

from onnxprune.allocate.cost import COSTS, Cost, make_cost
from onnxprune.allocate.error import OutputComparer
from onnxprune.allocate.evaluator import COMPARISON_SAMPLES, Evaluator
from onnxprune.allocate.planning import make_plan
from onnxprune.allocate.ratios import make_shape_key
from onnxprune.allocate.schedule import SCHEDULES
from onnxprune.allocate.selection import select_candidates
from onnxprune.allocate.tables import RATIOS, Cache, Table, measure

__all__ = [
    "COSTS", "COMPARISON_SAMPLES", "RATIOS", "SCHEDULES", "Cache", "Cost",
    "OutputComparer", "Evaluator", "Table", "select_candidates", "make_cost", "make_plan", "measure", "make_shape_key",
]  # fmt: skip
