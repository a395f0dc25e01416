"""Calibration: what to feed a model, how to run it, and what its activations are like.

`data.load_data` reads inputs (files, pictures, Python iterables), `run` opens models in ONNX Runtime, `statistics` gathers
what the network does with the inputs, channel by channel.
"""

from __future__ import annotations

from onnxprune.calibration.data import Batches, draw_batches, draw_data, load_data
from onnxprune.calibration.finite import check_finite
from onnxprune.calibration.inputs import InputSpec, draw_inputs, list_input_specs
from onnxprune.calibration.pictures import Preprocess, read_preprocess
from onnxprune.calibration.reunion import join, reunite, split_samples

__all__ = [
    "Batches",
    "InputSpec",
    "Preprocess",
    "check_finite",
    "list_input_specs",
    "join",
    "load_data",
    "draw_batches",
    "draw_data",
    "draw_inputs",
    "read_preprocess",
    "reunite",
    "split_samples",
]
