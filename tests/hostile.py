"""Makes small models of two layers with something impossible between them: nonsense that onnx.checker lets pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from tiny import model, tensor

op = helper.make_node
Make = Callable[[], onnx.ModelProto]


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def between(
    kind: str, inputs: Sequence[str] = (), attrs: dict[str, Any] | None = None, outputs: int = 1, **given: Any
) -> onnx.ModelProto:
    """fc1, the node `middle` of an operator on what it makes, fc2. `given` are constants that `inputs` name."""
    made = ["v", *(f"v{i}" for i in range(1, outputs))]
    nodes = [
        op("MatMul", ["x", "w1"], ["h"], "fc1"),
        op(kind, ["h", *inputs], made, "middle", **(attrs or {})),
        op("MatMul", ["v", "w2"], ["y"], "fc2"),
    ]
    constants = {name: np.asarray(value) for name, value in given.items()}
    return model(
        nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 4])], {**weights(w1=(8, 16), w2=(16, 4)), **constants}
    )


def images(kind: str, w: tuple[int, ...], attrs: dict[str, Any] | None = None) -> onnx.ModelProto:
    """The node `middle`, which reads images and a weight, then a convolution of 1 x 1."""
    nodes = [
        op(kind, ["x", "w1"], ["h"], "middle", **(attrs or {})),
        op("Conv", ["h", "w2"], ["y"], "last"),
    ]
    given = weights(w1=w, w2=(2, 8, 1, 1))
    return model(nodes, [tensor("x", ["N", 4, 8, 8])], [tensor("y", ["N", 2, "h", "w"])], given)


MODELS: dict[str, Make] = {
    "group 0": lambda: images("Conv", (8, 4, 1, 1), {"group": 0}),
    "slice step 0": lambda: between("Slice", ["starts", "ends", "", "steps"], starts=[0], ends=[2], steps=[0]),
    "transpose out of range": lambda: between("Transpose", attrs={"perm": [0, 7]}),
    "reshape by a scalar": lambda: between("Reshape", ["to"], to=np.int64(-1)),
}
