#!/usr/bin/env python3
"""Check 2:4 layer by layer with onnxprune and with polygraphy, and say where they differ and whose fault it is.

    python tools/polygraphy_check.py MODEL.onnx .. [--verbose]

`onnxprune validate --pattern 2:4` (its function check_pattern, all layers) against what `polygraphy inspect sparsity` runs
(polygraphy.tools.sparse.SparsityPruner; pip install polygraphy). Prints a Markdown table of the layers that differ, with
--verbose of all. What polygraphy 0.53 is known to get wrong is in FLAWS; tests/test_sparse_tools.py has a graph for each. A
flaw explains a difference only if the layer has what it takes: a wrong axis, for one, must give polygraphy's verdict.
Exit status 1 where a difference has no explanation, 2 without polygraphy. Polygraphy takes about a second for 500,000 weights.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import Analysis, analyze
from onnxprune.sparsity import Checked, Sparsity, check_pattern
from onnxprune.sparsity.patterns import NofM

FLAWS = {
    "Transpose": "it takes the axis that the inverse of a Transpose leads to",
    "batch": "it takes axis 0 of a MatMul's right operand and 1 of its left one, of stacks of matrices too",
    "domain": "it knows operators by name alone; this is a local function of that name",
    "shared": "of several products that read a weight, the last one alone decides the axis",
    "bfloat16": "of bfloat16, its inner loop takes the outer one's variable: it reads a diagonal, and past the end; -0 is no zero",
    "vector": "it stops with an error at a MatMul whose left operand is a vector",
    "inner": "it looks at initializers of the main graph only: at no Constant node",
    "body": "it looks at nodes of the main graph only: at no body of a function, an If or a Loop",
    "operator": "it looks at Conv, MatMul and Gemm only",
    "path": "it goes back through Cast, Transpose, QuantizeLinear and DequantizeLinear only, through no {op}",
    "perm": "it does not follow a Transpose that leaves perm to its default",
    "type": "it skips {dtype} weights",
    "width": "it skips an axis of {n}, which is no multiple of 4 (TensorRT has no sparse kernels for it either)",
}
LOOKED_AT = ("Conv", "MatMul", "Gemm")
FOLLOWED = ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose")
TYPES = ("float32", "float16", "bfloat16")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Theirs:
    """Polygraphy's verdicts: the axis and whether 2:4 holds along it of each initializer that it judges, None where it gives up."""

    axes: dict[str, int]
    holds: dict[str, bool | None]
    error: str = ""  # the whole tool stopped with it


@dataclass(frozen=True)
class Row:
    """A layer and the two verdicts; None where a tool has none. `flaw` is a key of FLAWS, '' where there is no difference."""

    layer: str
    weight: str
    op: str
    ours: bool | None
    theirs: bool | None
    flaw: str = ""
    why: str = ""

    @property
    def agree(self) -> bool:
        return self.ours == self.theirs

    @property
    def explained(self) -> bool:
        return self.agree or bool(self.why)


def inspect(model: onnx.ModelProto) -> Theirs:
    """What polygraphy says; where it stops with an error, what it says of each tensor on its own."""
    from polygraphy.logger import G_LOGGER
    from polygraphy.tools.sparse import SparsityPruner, process_tensor

    pruner, error = SparsityPruner(model), ""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it compares half precision with the largest double
        try:
            pruner.check()
        except (AssertionError, IndexError) as e:
            error = type(e).__name__
        tensors = {t.name: t for t in model.graph.initializer}
        axes = {name: info.axis for name, info in pruner.prune_infos.items()}
        holds: dict[str, bool | None] = {}
        for name, info in pruner.prune_infos.items():
            dims = tensors[name].dims
            if _dtype(tensors[name]) not in TYPES or not (info.axis < len(dims) and dims[info.axis] % 4 == 0):
                continue  # as it does
            holds[name] = name in pruner.sparse_tensors
            if error and not holds[name]:
                try:
                    holds[name] = process_tensor(info, tensors[name], True)
                except IndexError:
                    holds[name] = None
    return Theirs(axes, holds, error)


def _dtype(tensor: TensorProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name)


def compare(model: onnx.ModelProto | Path) -> tuple[list[Row], str]:
    """A row for each layer that onnxprune finds and each weight that only polygraphy looks at; the error that stops polygraphy."""
    ours = onnxprune.load(model)
    proto = onnx.load(model) if isinstance(model, Path) else model
    theirs, a = inspect(proto), analyze(ours)
    checked = check_pattern(ours, Sparsity(layers="all", target="none"))
    rows = [_row(c, theirs, _Facts(a, c, proto)) for c in checked]
    own = {c.layer.matrix.weight for c in checked if c.layer.matrix.inner is None}
    dead = {i for n in proto.graph.node for i in n.input} - {i for n in a.coupling.live for i in n.input}
    for name in theirs.holds.keys() - own:
        why = "no output of the model depends on it" if name in dead else ""
        rows.append(Row("", name, "", None, theirs.holds[name], why=why))
    return rows, theirs.error


@dataclass(frozen=True)
class _Facts:
    """What decides whether polygraphy can be right about a layer."""

    a: Analysis
    checked: Checked
    proto: onnx.ModelProto

    @property
    def path(self) -> list[onnx.NodeProto]:
        """The nodes between the product and its weight, the product first."""
        m, nodes = self.checked.layer.matrix, self.a.flat.proto.graph.node
        makers = {o: n for n in nodes for o in n.output}
        index, slot = m.sites[0]
        found, name = [nodes[index]], nodes[index].input[slot]
        while name in makers and makers[name].op_type != "Constant":
            found.append(makers[name])
            name = makers[name].input[0]
        return found

    @property
    def in_body(self) -> bool:
        """Does a node of the path belong to a body?"""
        main = {(n.domain, n.op_type, o) for n in self.proto.graph.node for o in n.output}
        return any((n.domain, n.op_type, n.output[0]) not in main for n in self.path)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a.coupling.weights[self.checked.layer.matrix.weight].shape

    @property
    def axis(self) -> int | None:
        """The axis of the tensor that the product sums over, if it is one axis."""
        m = self.checked.layer.matrix
        if m.form is None:
            return None
        factors = [(n, int(np.prod(self.shape[i + 1 :]))) for i, n in enumerate(self.shape)]
        return next((i for i, f in enumerate(factors) if m.form.parts[2] == (f,)), None)

    def verdict_along(self, axis: int) -> bool | None:
        """Does 2:4 hold along an axis of the tensor? None where polygraphy does not look."""
        m = self.checked.layer.matrix
        if self.shape[axis] % 4 or m.dtype not in TYPES:
            return None
        w: Array = self.a.coupling.weights[m.weight].array()
        outer, inner = int(np.prod(w.shape[:axis])), int(np.prod(w.shape[axis + 1 :]))
        return NofM(2, 4).broken((w != 0).reshape(1, outer, w.shape[axis], inner)) == 0


def _row(c: Checked, theirs: Theirs, facts: _Facts) -> Row:
    m = c.layer.matrix
    said = theirs.holds.get(m.weight) if m.inner is None else None
    ours = None if c.broken is None else c.holds
    row = Row(m.name, m.weight, m.op, ours, said)
    if row.agree:
        return row
    flaw = _flaw(row, theirs, facts)
    if flaw:
        op = next((n.op_type for n in facts.path[1:] if n.op_type not in FOLLOWED), "")
        return replace(row, flaw=flaw, why=FLAWS[flaw].format(op=op, dtype=m.dtype, n=m.shape[2]))
    return replace(row, why=f"onnxprune leaves it: {c.layer.why}") if ours is None else row


def _flaw(row: Row, theirs: Theirs, facts: _Facts) -> str:
    """Why polygraphy is wrong about a layer, or says nothing; '' where nothing known explains it."""
    m = facts.checked.layer.matrix
    axis = theirs.axes.get(m.weight) if m.inner is None else None
    if axis is not None and axis >= len(facts.shape):
        return "vector"
    if axis is not None and m.dtype == "bfloat16" and m.weight in theirs.holds:
        return "bfloat16"
    if axis is not None and axis != facts.axis and facts.verdict_along(axis) == row.theirs:
        return _wrong_axis(facts)
    return _silent(facts) if row.theirs is None else ""


def _wrong_axis(facts: _Facts) -> str:
    m = facts.checked.layer.matrix
    if m.form is None:
        return "shared" if len(m.sites) > 1 else ""
    if facts.in_body:
        return "domain"
    if any(n.op_type == "Transpose" for n in facts.path):
        return "Transpose"
    return "batch" if m.op == "MatMul" and m.shape[0] > 1 else ""


def _silent(facts: _Facts) -> str:
    m, path = facts.checked.layer.matrix, facts.path
    if facts.in_body:
        return "body"
    if m.inner is not None:
        return "inner"
    if path[0].op_type not in LOOKED_AT:
        return "operator"
    if any(n.op_type not in FOLLOWED for n in path[1:]):
        return "path"
    if any(n.op_type == "Transpose" and not n.attribute for n in path):
        return "perm"
    if m.dtype not in TYPES:
        return "type"
    return "width" if m.shape[2] % 4 else ""


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| layer | weight | onnxprune | polygraphy | | why |\n|---|---|---|---|---|---|"
    word = {True: "2:4", False: "broken", None: "-"}
    for r in rows:
        said = "agree" if r.agree else "differ" if r.explained else "UNEXPLAINED"
        yield f"| {r.layer} {r.op} | {r.weight} | {word[r.ours]} | {word[r.theirs]} | {said} | {r.why} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--verbose", "-v", action="store_true", help="list layers that agree too")
    args = parser.parse_args()
    try:
        import polygraphy
    except ImportError:
        print("polygraphy is not installed; run: pip install polygraphy", file=sys.stderr)
        return 2
    every: list[Row] = []
    for path in args.models:
        try:
            rows, error = compare(path)
        except OnnxPruneError as e:
            print(e, file=sys.stderr)
            return 2
        every += rows
        agree = sum(r.agree for r in rows)
        stops = f"; polygraphy as a whole stops with {error}" if error else ""
        print(f"{path.name}: {agree} of {len(rows)} layers agree{stops}")
        shown = rows if args.verbose else [r for r in rows if not r.agree]
        print("\n".join(table(shown)) + "\n" if shown else "")
    flaws = Counter(r.flaw or "onnxprune leaves it" for r in every if not r.agree and r.explained)
    wrong = [r for r in every if not r.explained]
    print(
        f"polygraphy {polygraphy.__version__}: {sum(r.agree for r in every)} of {len(every)} layers agree "
        f"({sum(r.agree and r.ours is None for r in every)} of these have no verdict of either), "
        f"{flaws.total()} differ for known reasons ({dict(flaws.most_common())}), {len(wrong)} without one"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
