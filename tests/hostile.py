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


def called(*levels: Sequence[str]) -> onnx.ModelProto:
    """Two layers with a call of the last function between them: function i applies operators, one after the other."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    made = between("Identity")
    names = {f"F{i}" for i in range(len(levels))}
    for i, kinds in enumerate(levels):
        values = ["a", *(f"t{k}" for k in range(1, len(kinds))), "b"]
        nodes = [
            op(kind, [values[k]], [values[k + 1]], domain="local" if kind in names else "")
            for k, kind in enumerate(kinds)
        ]
        made.functions.append(helper.make_function("local", f"F{i}", ["a"], ["b"], nodes, imports))
    made.opset_import.extend(imports[1:])
    made.graph.node[1].op_type, made.graph.node[1].domain = f"F{len(levels) - 1}", "local"
    return made


def doubling(levels: int) -> onnx.ModelProto:
    """Calls that come to 2^levels nodes: each function calls the one before it twice."""
    return called(["Relu"], *([f"F{i}"] * 2 for i in range(levels)))


MODELS: dict[str, Make] = {
    "group 0": lambda: images("Conv", (8, 4, 1, 1), {"group": 0}),
    "slice step 0": lambda: between("Slice", ["starts", "ends", "", "steps"], starts=[0], ends=[2], steps=[0]),
    "transpose out of range": lambda: between("Transpose", attrs={"perm": [0, 7]}),
    "reshape by a scalar": lambda: between("Reshape", ["to"], to=np.int64(-1)),
    "calls that double": lambda: doubling(25),
    "a long row of calls": lambda: called(["Relu"], *([f"F{i}"] for i in range(300))),
    "a function that calls itself": lambda: called(["Relu", "F0"]),
    "functions that call each other": lambda: called(["F1"], ["F0"]),
}
