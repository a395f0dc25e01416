"""Training that prunes: a class for each method, with the part of a step of the loop that is its own.

To add one, write a class in a file here, import the file below, and name the method in `settings/training.py`.
"""

from onnxprune.training.methods import lasso, lottery, masked, slimming, soft
from onnxprune.training.methods.base import METHODS, MethodContext, TrainMethod

__all__ = ["METHODS", "MethodContext", "TrainMethod", "lasso", "lottery", "masked", "slimming", "soft"]
