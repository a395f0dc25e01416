"""Models as they come in, and as ONNX Runtime opens them."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import build_full_proto, fits_message
from onnxprune.result import Source


def convert_once(source: Source, example_inputs: Any = None) -> Source:
    """A path or a ModelProto as it is, of which sessions are opened; what another library has as a Model."""
    return source if isinstance(source, str | PathLike | onnx.ModelProto) else load(source, example_inputs)


def runnable(source: Source) -> Path | onnx.ModelProto | Model:
    """The source for sessions: the model's file, else the message with its weights, else the model."""
    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, str | PathLike):
        return Path(source)
    model = load(source)
    return build_full_proto(model) if fits_message(model) else model


def settle_weights(model: Model) -> Model:
    """The model as it would be read from its file: no weight waits to be cut until somebody asks for it."""
    return replace(load(build_full_proto(model)), external=model.external)
