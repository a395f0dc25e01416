#!/usr/bin/env python3
"""Make a language model of any size with seeded random weights in external data, and token ids to calibrate it on.

    python tools/make_decoder.py -o decoder.onnx                                              # 675 M parameters, 2.7 GB
    python tools/make_decoder.py -o small.onnx --layers 2 --width 64 --mlp 128 --vocab 100
    onnxprune prune decoder.onnx -o out.onnx --params 0.8 --calib decoder.npz

Like Llama: RMSNorm, causal attention without biases, a gated MLP; the embedding and the head are tables of their own. Weights are
written one after another, so that the largest one is all that is in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9
HIDDEN = -1e9  # added to the scores of tokens that come later
EPSILON = 1e-5
FADE = 0.5  # the scale of the last channel of a layer; the first has 1, so that channels are not alike


@dataclass
class Writer:
    """The nodes and weights so far; `data` is the open file that the weights go to."""

    data: BinaryIO
    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    parameters: int = 0

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        out = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], out, **attributes))
        return out

    def constant(self, name: str, values: Any, dtype: type = np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """A random matrix that keeps the size of what it multiplies, its columns ever smaller."""
        array = self.rng.standard_normal(shape, np.float32)
        array *= np.linspace(1.0, FADE, shape[-1], dtype=np.float32) / np.float32(np.sqrt(shape[0]))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        place = (("location", Path(self.data.name).name), ("offset", self.data.tell()), ("length", array.nbytes))
        for key, value in place:
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(array.data)
        self.weights.append(tensor)
        self.parameters += array.size
        return name

    def rms_norm(self, x: str, name: str, width: int) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        scaled = self.op("Div", x, self.op("Sqrt", self.op("Add", mean, "epsilon")))
        self.parameters += width
        scale = self.constant(f"{name}.scale", self.rng.uniform(0.5, 1.5, width), np.float32)
        return self.op("Mul", scaled, scale, name=name)


def add_attention(w: Writer, x: str, name: str, width: int, head: int) -> str:
    def project(part: str, order: Sequence[int]) -> str:
        made = w.op("MatMul", x, w.weight(f"{name}.{part}.weight", width, width))
        return w.op("Transpose", w.op("Reshape", made, "split"), perm=order)

    q, k, v = project("q", (0, 2, 1, 3)), project("k", (0, 2, 3, 1)), project("v", (0, 2, 1, 3))
    scores = w.op("Add", w.op("Mul", w.op("MatMul", q, k), "scale"), "mask")
    mixed = w.op("Transpose", w.op("MatMul", w.op("Softmax", scores, axis=-1), v), perm=(0, 2, 1, 3))
    return w.op("MatMul", w.op("Reshape", mixed, "merge"), w.weight(f"{name}.o.weight", width, width))


def add_mlp(w: Writer, x: str, name: str, width: int, inner: int) -> str:
    gate = w.op("MatMul", x, w.weight(f"{name}.gate.weight", width, inner))
    up = w.op("MatMul", x, w.weight(f"{name}.up.weight", width, inner))
    gated = w.op("Mul", w.op("Mul", gate, w.op("Sigmoid", gate)), up)
    return w.op("MatMul", gated, w.weight(f"{name}.down.weight", inner, width))


def make_decoder(
    path: Path, layers: int = 16, width: int = 1280, mlp: int = 8192, vocab: int = 26_000, head: int = 64, seed: int = 0
) -> int:
    """Write the model, its data file beside it; how many parameters it has."""
    with open(path.with_name(f"{path.name}.data"), "wb") as data:
        w = Writer(data, np.random.default_rng(seed))
        w.constant("split", [0, 0, width // head, head])
        w.constant("merge", [0, 0, width])
        w.constant("scale", head**-0.5, np.float32)
        w.constant("epsilon", EPSILON, np.float32)
        size = w.op("Gather", w.op("Shape", "ids"), w.constant("last", [1]))
        hidden = numpy_helper.from_array(np.array([HIDDEN], np.float32))
        square = w.op("ConstantOfShape", w.op("Concat", size, size, axis=0), value=hidden)
        w.op("Trilu", square, w.constant("above", 1), name="mask", upper=1)
        x = w.op("Gather", w.weight("embedding.weight", vocab, width), "ids")
        for i in range(layers):
            mixed = add_attention(w, w.rms_norm(x, f"layer{i}.norm1", width), f"layer{i}.attention", width, head)
            x = w.op("Add", x, mixed)
            made = add_mlp(w, w.rms_norm(x, f"layer{i}.norm2", width), f"layer{i}.mlp", width, mlp)
            x = w.op("Add", x, made)
        w.op("MatMul", w.rms_norm(x, "norm", width), w.weight("head.weight", width, vocab), name="logits")
        graph = helper.make_graph(
            w.nodes,
            "decoder",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocab])],
            w.weights,
        )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
    return w.parameters


def make_data(path: Path, vocab: int, samples: int, tokens: int, seed: int) -> None:
    """Token ids, the low ones more often, as in texts."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.zipf(1.2, (samples, tokens)) - 1, vocab - 1)
    np.savez(path, ids=ids.astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the model goes; its data: OUTPUT.npz")
    shape = {"layers": 16, "width": 1280, "mlp": 8192, "vocab": 26_000, "head": 64, "seed": 0}
    for name, default in {**shape, "samples": 64, "tokens": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    args = parser.parse_args()
    parameters = make_decoder(args.output, **{name: getattr(args, name) for name in shape})
    make_data(args.output.with_suffix(".npz"), args.vocab, args.samples, args.tokens, args.seed)
    print(f"{args.output}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
