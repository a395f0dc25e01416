#!/usr/bin/env python3
"""Prune a decoder layer with a KV cache: the cache keeps its size, the neurons of the MLP are removed.

python tools/examples/decoder_cache.py -o decoder.onnx --pruned smaller.onnx
"""

import argparse

import numpy as np
import onnx

import onnxprune

HEADS, FEATURES, NEURONS = 4, 16, 256
WIDTH = HEADS * FEATURES
CACHE = f"float[batch, {HEADS}, {{}}, {FEATURES}]"
LAYER = f"""<ir_version: 10, opset_import: ["" : 18]>
decoder (float[batch, 1, {WIDTH}] x, {CACHE.format("past")} past_key, {CACHE.format("past")} past_value)
    => (float[batch, 1, {WIDTH}] y, {CACHE.format("all")} key, {CACHE.format("all")} value)
<int64[4] split = {{0, 0, {HEADS}, {FEATURES}}}, int64[3] join = {{0, 0, {WIDTH}}}, float scale = {{{FEATURES**-0.5}}}>
{{
    q_flat = MatMul(x, Wq)
    q_split = Reshape(q_flat, split)
    q = Transpose<perm: ints = [0, 2, 1, 3]>(q_split)
    k_flat = MatMul(x, Wk)
    k_split = Reshape(k_flat, split)
    k_new = Transpose<perm: ints = [0, 2, 1, 3]>(k_split)
    v_flat = MatMul(x, Wv)
    v_split = Reshape(v_flat, split)
    v_new = Transpose<perm: ints = [0, 2, 1, 3]>(v_split)
    key = Concat<axis: int = 2>(past_key, k_new)
    value = Concat<axis: int = 2>(past_value, v_new)
    k_t = Transpose<perm: ints = [0, 1, 3, 2]>(key)
    raw = MatMul(q, k_t)
    scaled = Mul(raw, scale)
    attention = Softmax<axis: int = -1>(scaled)
    mixed = MatMul(attention, value)
    moved = Transpose<perm: ints = [0, 2, 1, 3]>(mixed)
    flat = Reshape(moved, join)
    projected = MatMul(flat, Wo)
    h = Add(x, projected)
    up = MatMul(h, W1)
    act = Relu(up)
    down = MatMul(act, W2)
    y = Add(h, down)
}}"""
WEIGHTS = dict.fromkeys(("Wq", "Wk", "Wv", "Wo"), (WIDTH, WIDTH)) | {"W1": (WIDTH, NEURONS), "W2": (NEURONS, WIDTH)}


def build_layer(rng: np.random.Generator) -> onnx.ModelProto:
    """x [batch, 1, width] and the cache [batch, heads, past, features] -> y, and the cache with one more token."""
    proto = onnx.parser.parse_model(LAYER)
    for name, shape in WEIGHTS.items():
        weight = (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return proto


def draw_inputs(rng: np.random.Generator, samples: int, past: int = 8) -> dict[str, np.ndarray]:
    shapes = {"x": (samples, 1, WIDTH)} | {f"past_{n}": (samples, HEADS, past, FEATURES) for n in ("key", "value")}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", required=True, help="the layer")
    parser.add_argument("--pruned", required=True, help="the pruned layer")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    onnx.save(build_layer(rng), args.out)
    made = onnxprune.prune(args.out, args.pruned, params=0.75, calib=draw_inputs(rng, 256))
    for group in made.report.groups:
        print(f"{group.name}: {group.kept} of {group.size} {group.kind} kept")
    for frozen in made.report.frozen:
        print(f"{frozen.tensor}[{frozen.axis}] is frozen: {frozen.reason}")


if __name__ == "__main__":
    main()
