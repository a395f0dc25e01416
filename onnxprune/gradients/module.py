"""`Module`: an ONNX model as a torch module, and back into the same file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients.encoded import Code
from onnxprune.gradients.operators import State
from onnxprune.gradients.program import Program
from onnxprune.gradients.trainable import FLOATS, find_codes, find_trainable
from onnxprune.gradients.types import to_array, to_tensor
from onnxprune.graph.flat import flatten
from onnxprune.graph.inner import mark_inner_tensors, read_marks, rewrite_inner_tensors
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import collect_weights
from onnxprune.graph.save import build_full_proto, save
from onnxprune.graph.view import Names
from onnxprune.graph.weights import Array, ArrayWeight, Weight, dtype_of

Feeds = Mapping[str, Any]  # arrays or tensors by input name
WEIGHTS, ALL = "weights", "all"
PRECISIONS = ("float32", "bfloat16")


class Module(torch.nn.Module):
    """An ONNX model that torch computes, differentiable in its weights and inputs.

    It always computes what the file computes at inference: there is no other behavior in `train()`. Floats of 32 bits and less are
    computed in float32 (`.double()` makes that float64), and rounded to the file's types when they are written back. Integers that
    stand for weights are parameters as the numbers that they stand for; each run, and the file, has the nearest that there are.

    Args:
        model: a path, a ModelProto, or a model that `onnxprune.load` gave; it is not changed.
        trainable: what becomes parameters: "weights" (see `trainable_weights`), "all" initializers of floats, or names of either.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        precision: "float32", or "bfloat16": products in that type, by torch's autocast.

    Raises:
        OnnxPruneError: an operator that has no torch form here, or a name in `trainable` that is no initializer of floats.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelProto | Model,
        trainable: str | Iterable[str] = WEIGHTS,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise OnnxPruneError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
        self.model = model if isinstance(model, Model) else load(model)
        self.precision = precision
        source = mark_inner_tensors(self.model)
        self.flat = flatten(source)
        self._inner = read_marks(self.flat.proto)
        weights = collect_weights(self.flat)
        self._state = State(torch.device("cpu"), torch.float32)
        self._names: dict[str, str] = {}  # of the attributes that hold the parameters, by the initializers' names
        chosen = _chosen(trainable, self.flat, weights)
        self._codes = {n: Code.of(q, n, weights) for n, q in find_codes(self.flat, chosen).items()}
        claimed = Names(dir(self))
        for name in chosen:
            key = name.replace(".", "_")
            self._names[name] = claimed.claim(key, f"{key}_")
            self.register_parameter(self._names[name], torch.nn.Parameter(self._initial(name, weights[name])))
        self.program = Program(self.flat, self._names, self._state)
        self.to(choose_device(device))

    def _initial(self, name: str, weight: Weight) -> torch.Tensor:
        array = weight.array()
        return self._codes[name].decode(array) if name in self._codes else to_tensor(array, self._state)

    # Run

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that each run needs."""
        return self.program.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.program.outputs

    def forward(self, feeds: Feeds | None = None, /, **more: Any) -> dict[str, Any]:
        """The graph's outputs by name, in its order; a float16 output is float32 here.

        Args:
            feeds: arrays or tensors by input name; a tensor may require a gradient.
            more: the same as keyword arguments.
        """
        return self.run({**(feeds or {}), **more}, self.output_names)

    def run(self, feeds: Feeds, names: Sequence[str]) -> dict[str, Any]:
        """Any values of the graph by name, as tensors; nothing is computed that they do not need.

        Names inside bodies and local functions are those of the model in one line (see graph/flat.py); of a value inside a loop it
        is the last step's.
        """
        parameters = {name: self._stored(name, p) for name, p in self.named_weights().items()}
        with self._autocast():
            values = self.program.run(self._fed(feeds), parameters, names)
        return dict(zip(names, values, strict=True))

    def _stored(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """A parameter as the graph has it: integers for the numbers that they stand for."""
        return self._codes[name].encode(parameter) if name in self._codes else parameter

    @torch.no_grad()
    def predict(self, feeds: Feeds, names: Sequence[str] | None = None) -> dict[str, Array]:
        """The outputs as arrays of the types that the file declares, without gradients."""
        tensors = self.run(feeds, self.output_names if names is None else names)
        return {name: to_array(x, self._elem(name)) for name, x in tensors.items()}

    def _elem(self, name: str) -> int:
        outputs = {o.name: o.type for o in self.model.proto.graph.output}
        if name in outputs and outputs[name].HasField("sequence_type"):
            return int(outputs[name].sequence_type.elem_type.tensor_type.elem_type)
        return self.program.elems.get(name, 0)

    def _fed(self, feeds: Feeds) -> dict[str, Any]:
        wrong = set(feeds) ^ set(self.input_names)
        if wrong:
            name = min(wrong)
            raise OnnxPruneError(
                f"input {name!r} is missing" if name in self.input_names else f"the model has no input {name!r}"
            )
        return {name: self._tensor(x, self.program.elems.get(name, 0)) for name, x in feeds.items()}

    def _tensor(self, x: Any, elem: int) -> Any:
        if isinstance(x, list) or x is None:
            return x if x is None else [self._tensor(v, 0) for v in x]
        return to_tensor(x, self._state, elem).to(self._state.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self._state.device.type, torch.bfloat16)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """Move or convert constants along with the parameters: what `to`, `cuda` and `double` call."""
        self.program.apply(fn)
        self._codes = {name: code.apply(fn) for name, code in self._codes.items()}
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Module:
        """Another module of the same file with parameters of its own, as averages of weights ask for."""
        copy = Module(self.model, list(self._names), precision=self.precision)
        copy.to(device=self._state.device, dtype=self._state.dtype)
        copy.load_state_dict(self.state_dict())
        memo[id(self)] = copy
        return copy

    # Weights

    def named_weights(self) -> dict[str, torch.nn.Parameter]:
        """The parameters by the names of their initializers."""
        return {name: getattr(self, key) for name, key in self._names.items()}

    def to_model(self) -> Model:
        """The model with the parameters' values, rounded to the types that they have in it; all else is the source's."""
        changed: dict[str, Weight] = dict(self.model.weights)
        inner: dict[int, Array] = {}
        sources = collect_weights(self.flat)
        for name, parameter in self.named_weights().items():
            array = self._written(name, parameter.detach(), sources[name])
            if array is None:
                continue
            if name in self._inner:
                inner[self._inner[name]] = array
            elif name in changed:
                changed[name] = ArrayWeight(array, sources[name].data_type)
            else:
                raise OnnxPruneError(f"constant {name!r} is not stored as a tensor, so it cannot be changed")
        return replace(rewrite_inner_tensors(self.model, inner), weights=changed)

    def _written(self, name: str, parameter: torch.Tensor, source: Weight) -> Array | None:
        """A parameter as the file's type; None where that is what the file has."""
        code = self._codes.get(name)
        if code is not None:
            if torch.equal(parameter, code.decode_like(source.array(), parameter)):
                return None
            parameter = code.encode(parameter)
        array = parameter.cpu().numpy().astype(dtype_of(source.data_type), order="C")  # a copy
        before = np.ascontiguousarray(source.array()).astype(array.dtype, copy=False)
        return None if array.tobytes() == before.tobytes() else array

    def to_onnx(self) -> ModelProto:
        """The same as one message with all its data; raises OutputError beyond 2 GiB."""
        return build_full_proto(self.to_model())

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the file, with its weights in a data file where the source's are; returns what was written."""
        return save(self.to_model(), path)


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OnnxPruneError("torch finds no GPU; use --device auto or cpu")
    return device


def _chosen(trainable: str | Iterable[str], flat: Model, weights: Mapping[str, Weight]) -> list[str]:
    if trainable == WEIGHTS:
        return find_trainable(flat)
    floats = [name for name, w in weights.items() if w.data_type in FLOATS and 0 not in w.shape]
    if trainable == ALL:
        return floats
    names = [trainable] if isinstance(trainable, str) else list(dict.fromkeys(trainable))
    wrong = sorted(set(names).difference(floats, find_codes(flat, [n for n in names if n in weights])))
    if wrong:
        raise OnnxPruneError(f"{wrong[0]!r} is no initializer of floats, so it cannot be trained")
    return names
