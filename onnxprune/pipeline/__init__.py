"""The whole pipeline, from file to file: load, plan, apply, repair, make sparse or int8, save, compare, report.

stages.py        all of it, in its order
work.py          what is asked for, seconds spent, and a model on its way
sources.py       models as they come in, and as they are run
batches.py       data, and the memory that they may take
plan_making.py   the plan, and what measures for it
model_making.py  a plan becomes a model
teaching.py      training before, after, and in turns with pruning
comparison.py    the result beside the original, and the report
"""

from onnxprune.pipeline.batches import Data, choose_memory, draws_inputs, make_calibration_batches, read_batches
from onnxprune.pipeline.plan_making import make_evaluator
from onnxprune.pipeline.sources import convert_once, runnable
from onnxprune.pipeline.stages import run
from onnxprune.pipeline.work import Clock, NotCompared, Work

__all__ = [
    "Clock",
    "Data",
    "NotCompared",
    "Work",
    "read_batches",
    "make_calibration_batches",
    "choose_memory",
    "convert_once",
    "draws_inputs",
    "make_evaluator",
    "run",
    "runnable",
]
