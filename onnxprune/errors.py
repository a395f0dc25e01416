"""The exceptions of onnxprune; each message says how to correct the cause."""

import os


class OnnxPruneError(Exception):
    """A one-line message for the user: what, where, what to do."""


class ModelError(OnnxPruneError):
    """The model that was given cannot be read, or is not valid ONNX."""


class SettingError(OnnxPruneError, TypeError):
    """There is no such setting, or an argument is of another type than its own."""


class PlanError(OnnxPruneError):
    """A plan does not fit the model, or is not a plan."""


class DataError(OnnxPruneError):
    """Calibration or validation data do not fit the model, or cannot be read."""


class OutputError(OnnxPruneError):
    """A result cannot be written where it was asked for."""


def is_guarded() -> bool:
    """Is a node frozen whose rule or shape function raises what no rule should raise? Tests switch that off, to see the fault."""
    return os.environ.get("ONNXPRUNE_GUARD", "1") != "0"
