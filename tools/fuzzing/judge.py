"""Does a graph keep the laws? Rounding, where a graph is ill-conditioned, is told apart from wrong results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from cases.base import Array
from laws import Checker, Feeds, difference, run_ort
from onnx import TensorProto, numpy_helper

NOISE = 1e-6  # about ten roundings of a float32
TRIALS = 6
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


@dataclass
class Verdict:
    """The laws that broke, with what was said, and those whose numbers differ by no more than the graph's own noise."""

    broken: dict[str, str] = field(default_factory=dict)
    rounding: list[str] = field(default_factory=list)
    groups: int = 0


@dataclass
class Recorder:
    """ONNX Runtime, which remembers the last model that it ran."""

    proto: onnx.ModelProto | None = None

    def __call__(self, proto: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[list[Array]]:
        self.proto = proto
        return run_ort(proto, feeds)


def judge(
    proto: onnx.ModelProto,
    feeds: Sequence[Feeds],
    laws: Iterable[str],
    seed: int = 0,
    tolerance: float | None = None,
    max_groups: int | None = None,
) -> Verdict:
    """Check each of the laws on its own."""
    verdict, run = Verdict(), Recorder()
    try:
        checker = Checker(proto, feeds, run, tolerance, seed, max_groups)
    except Exception as e:
        verdict.broken["analysis"] = f"analysis law, the whole graph: {type(e).__name__}: {e}"
        return verdict
    verdict.groups = len(checker.analysis.groups)
    for law in laws:
        try:
            getattr(checker, law)()
        except AssertionError as e:
            error = re.search(r"differs by (\S+) relative", str(e))
            if error and run.proto is not None and float(error[1]) <= noise(run.proto, feeds, seed):
                verdict.rounding.append(law)
            else:
                verdict.broken[law] = str(e)
    return verdict


def noise(proto: onnx.ModelProto, feeds: Sequence[Feeds], seed: int = 0) -> float:
    """How far the outputs move when every float that goes in moves by NOISE of itself."""
    rng = np.random.default_rng(seed)
    want = run_ort(proto, feeds)
    worst = 0.0
    for _ in range(TRIALS):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for t in constants(copy):
            if t.data_type in FLOATS:
                x = numpy_helper.to_array(t)
                t.CopyFrom(numpy_helper.from_array(moved(x, rng), t.name))
        other = [{n: moved(x, rng) if x.dtype.kind == "f" else x for n, x in f.items()} for f in feeds]
        for a, b in zip(want, run_ort(copy, other), strict=True):
            worst = max(worst, *(difference(x, y) for x, y in zip(a, b, strict=True)))
    return worst


def constants(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [*proto.graph.initializer, *(n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant")]


def moved(x: Array, rng: np.random.Generator) -> Array:
    """Values such as 0, 1 and 2, which a graph may rely on (scales, exponents), stay."""
    y = x * (1 + NOISE * rng.standard_normal(x.shape))
    return np.asarray(np.where(x == np.round(x), x, y), x.dtype)


def kind(message: str) -> str:
    """What went wrong, without names and numbers: what must stay the same while a graph is shrunk."""
    law, _, rest = message.partition(" law, ")
    _, _, text = rest.partition(": ")
    if "differs by" in text:
        return f"{law}: differs"
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : (\w+).*", r"\1", text.splitlines()[0] if text else "")
    return f"{law}: " + re.sub(r"\d+|'[^']*'|\[[^]]*\]|\([^)]*\)", "_", text)[:60]
