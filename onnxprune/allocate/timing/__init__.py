"""The time of a model as a function of the groups' counts.

timing_table.py  seconds of layers and of whole models, in a file that the runs on a machine share
samples.py       plans of many sizes, timed kernel by kernel
matching.py      which kernels of ONNX Runtime's optimized graph do the work of which nodes
fit.py           seconds of a layer as a function of its channel counts
prediction.py    the sum over all layers, which budgets are made of
"""

from __future__ import annotations

from onnxprune.allocate.timing.prediction import TimeCost, learn_time_cost
from onnxprune.allocate.timing.timing_table import TimingTable

__all__ = ["TimeCost", "TimingTable", "learn_time_cost"]
