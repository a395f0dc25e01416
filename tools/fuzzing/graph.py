"""One random graph: inputs or a registered case first, then productions, then a few outputs."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import cases  # noqa: F401  (registers every case)
import numpy as np
import onnx
from cases.base import CASES, MS, SIZES, Built, Net
from laws import run_ort
from onnx import TensorProto, helper

from fuzzing import control, indexing, linear, pointwise, sequences, shapes  # noqa: F401  (register their productions)
from fuzzing.linear import project
from fuzzing.observe import observe
from fuzzing.pool import Dice, Pool, Skip, Value, grow, static
from onnxprune.axes import size_of

INPUTS: tuple[tuple[tuple[int | str, ...], int], ...] = (
    (("N", 3, "H", "W"), 1), (("N", 4, 4, 6), 1), ((1, 3, 4, 4), 1), (("N", 3, "T"), 1), (("N", "T", 6), 2), (("N", 4, 6), 2),
    (("N", 6), 1), (("N", 2, "D", 4, 4), 1), (("T", "N", 5), 2), ((2, 4, 6), 2), ((1, "T", 8), 2), (("N", "H", "W", 4), 3),
)  # fmt: skip
OPSETS = (8, 9, 11, 12, 13, 13, 15, 16, 17, 17, 17, 18, 18, 21, 22, 23)


RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}


class Rejected(Exception):
    """A graph that says nothing."""


class Chain(Net):
    """A net that can take over the graph of a finished case."""

    def filled(self, value: float) -> TensorProto:
        return helper.make_tensor("value", self.elem, [1], [value])

    def absorb(self, proto: onnx.ModelProto, feeds: list[dict[str, Any]]) -> None:
        self.nodes.extend(proto.graph.node)
        self.inits.extend(proto.graph.initializer)
        self.inputs.extend(proto.graph.input)
        for mine, other in zip(self.feeds, feeds, strict=True):
            mine.update(other)

    def _declare_outputs(self, proto: onnx.ModelProto) -> None:
        """Sizes that are equal in both runs are static; ONNX Runtime's complaint where the graph does not run."""
        for value, a, b in zip(proto.graph.output, *run_ort(proto, self.feeds), strict=True):
            if not all(y.size and np.isfinite(y).all() and np.ptp(y) for y in (a, b) if y.dtype.kind == "f"):
                raise Rejected("an output that is constant or not finite")
            dims = [n if n == k else f"{value.name}_{i}" for i, (n, k) in enumerate(zip(a.shape, b.shape, strict=True))]
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims))

    def trim(self) -> None:
        """Drop what no output needs."""
        needed = {o.name for o in self.outputs}
        nodes = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input) | set(inner(node))
        self.nodes = nodes[::-1]
        self.inits = [t for t in self.inits if t.name in needed]
        self.inputs = [v for v in self.inputs if v.name in needed]
        self.feeds = [{n: x for n, x in f.items() if n in needed} for f in self.feeds]


def inner(node: onnx.NodeProto) -> Iterable[str]:
    """The names that a node's bodies read."""
    for a in node.attribute:
        for g in (a.g, *a.graphs):
            for n in g.node:
                yield from n.input
                yield from inner(n)


def build(seed: str, size: int | None = None) -> Built:
    """The graph of a seed. Raises Skip, or what ONNX Runtime raises, where it comes to nothing."""
    dice = Dice(random.Random(seed))
    pool = case_pool(dice) if dice.chance(0.4) else input_pool(dice)
    grow(pool, size or dice.int(2, 12))
    finish(pool)
    built = pool.net.done(functions=pool.functions)
    built.tolerance = pool.tolerance
    # Shape inference may have given two sizes one name, and ONNX Runtime believes it: then the graph does not run any more.
    if built.proto.graph.value_info:
        run_ort(built.proto, built.feeds)
    return built


def input_pool(dice: Dice) -> Pool:
    pool = Pool(Chain(dice, dice.pick(*OPSETS), ms=dice.chance(0.15)), dice)
    for dims, axis in dice.rng.sample(INPUTS, dice.pick(1, 1, 1, 2, 2)):
        pool.add(pool.input(*dims, axis=axis))
    for v in list(pool.values):
        for _ in range(dice.int(1, 2)):
            with suppress(Skip):
                pool.add(project(pool, v, dice.pick(4, 6, 8, 12)))
    return pool


def case_pool(dice: Dice) -> Pool:
    """Starts from a registered case, or two of one opset; everything inside it is offered."""
    one = dice.pick(*CASES)
    built = one.build(dice, one.op[1])
    if one.reference:
        raise Skip
    opsets = {o.domain: o.version for o in built.proto.opset_import}
    pool = Pool(Chain(dice, opsets[""], ms=MS in opsets), dice)
    pool.tolerance = built.tolerance
    pool.functions = built.proto.functions
    pool.net.count = 1000  # the case's own names have smaller numbers
    adopt(pool, built, "")
    if dice.chance(0.4):
        other = dice.pick(*CASES)
        more = other.build(dice, other.op[1])
        if not other.reference and not more.proto.functions and more.proto.opset_import == built.proto.opset_import:
            adopt(pool, more, "two/")
    return pool


def adopt(pool: Pool, built: Built, prefix: str) -> None:
    """Take a case's graph into the pool's net, and its float tensors into the pool; inputs may become what is there."""
    proto, feeds = built.proto, built.feeds
    if prefix:
        proto = onnx.compose.add_prefix(proto, prefix)
        feeds = [{prefix + n: x for n, x in f.items()} for f in feeds]
        pool.tolerance = max((t for t in (pool.tolerance, built.tolerance) if t), default=None)
    seen = observe(proto, feeds)
    noisy = noise(proto.graph.node)
    chained = chain(pool, proto, feeds) if prefix else set()
    assert isinstance(pool.net, Chain)
    pool.net.absorb(proto, feeds)
    keep = [o for o in proto.graph.output if pool.dice.chance(0.7)]
    pool.net.outputs.extend(keep)
    for name, (a, b) in seen.items():
        if a.dtype == np.float32 and a.ndim == b.ndim > 0 and np.isfinite(a).all() and name not in chained | noisy:
            shape = [size_of(m, n) for m, n in zip(a.shape, b.shape, strict=True)]
            axis = next((k for k in (1, len(shape) - 1) if k < len(shape) and static(shape[k], 2)), 0)
            pool.add(Value(name, shape, axis))
    constant = {t.name: tuple(t.dims) for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT and t.dims}
    pool.weights.extend(constant.items())


def noise(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What random numbers reach before a case multiplies them by zero."""
    noisy: set[str] = set()
    for node in nodes:
        if node.op_type in RANDOM or (noisy & set(node.input) and node.op_type != "Mul"):
            noisy |= set(node.output)
    return noisy


def chain(pool: Pool, proto: onnx.ModelProto, feeds: list[dict[str, Any]]) -> set[str]:
    """Feed the case's inputs from values of the same shape."""
    gone = set()
    for v in [v for v in proto.graph.input if v.name in feeds[0]]:
        shape = tuple(size_of(m, n) for m, n in zip(*(f[v.name].shape for f in feeds), strict=True))
        fits = [w for w in pool.values if w.shape == shape and feeds[0][v.name].dtype == np.float32]
        if fits and pool.dice.chance(0.8):
            proto.graph.node.insert(
                0, helper.make_node("Identity", [pool.dice.pick(*fits)], [v.name], f"chain/{v.name}")
            )
            proto.graph.input.remove(v)
            gone.add(v.name)
            for f in feeds:
                del f[v.name]
    return gone


def finish(pool: Pool) -> None:
    """Outputs: what nobody reads, mostly behind a last projection, and now and then something inside."""
    read = {n for node in pool.net.nodes for n in node.input}
    free = {v.name for v in pool.net.inputs} | {o.name for o in pool.net.outputs}
    leaves = [v for v in pool.values if v not in read and v not in free]
    pool.dice.rng.shuffle(leaves)
    for v in leaves[: pool.dice.pick(1, 2, 3, 4)]:
        y = v
        if static(v.channels) and pool.dice.chance(0.85):
            with suppress(Skip):
                y = project(pool, v, pool.dice.pick(2, 3))
        pool.net.out(y)
    inside = [v for v in pool.values if v in read and v not in free]
    if inside and (pool.dice.chance(0.08) or not pool.net.outputs):
        pool.net.out(pool.dice.pick(*inside))
    if not pool.net.outputs:
        raise Skip
    pool.net.trim()


assert set(SIZES) >= {d for dims, _ in INPUTS for d in dims if isinstance(d, str)}
