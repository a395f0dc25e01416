"""What engines for sparse numbers would gain of a model: the multiplications that they cannot skip, and the size that they store.

Such engines skip a multiplication where a weight or an activation is zero. How many are left is counted on data: each product is
computed once more with ones in the place of all numbers that are not zero, so that its sum is their number. Rows of padding are
zeros too. Source: Han et al. 2016, EIE, arXiv 1602.01528; Lin et al. 2021, PointAcc, arXiv 2110.07600; Tang et al. 2022,
TorchSparse, arXiv 2204.10319

The size has for each weight that is not zero a place relative to the one before, of 4 bits, and one of 16 values, of 4 bits; where
more than 15 zeros lie between, a zero is stored as well. Each constant has a codebook of 16 floats.
Source: Han et al. 2016, Deep Compression, arXiv 1510.00149, sections 2 and 3; EIE, section 3.2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.calibration.array_store import Memory
from onnxprune.calibration.data import Batches
from onnxprune.calibration.probes import Net
from onnxprune.calibration.sessions import count, open_session, run_as
from onnxprune.calibration.statistics import StatisticSizes
from onnxprune.graph.facts import FLOATS
from onnxprune.graph.view import read_attribute
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.macs import Shapes
from onnxprune.ops.records import UnknownShape, get_record
from onnxprune.report.types import Counts, EngineLayer, EngineReport, Shares
from onnxprune.sparsity.matrices import find_matrices

SAMPLES = 64  # that products are counted on
PLAIN = frozenset({"convolution", "transposed convolution", "matrix product", "sum over letters"})
INDEX_BITS, VALUE_BITS, CODEBOOK_BYTES = 4, 4, 16 * 4
REACH = 1 << INDEX_BITS  # positions from one stored number to the next, at most
COPIES = 5  # of a product's input and output, that counting takes beside them


@dataclass
class _Counted:
    """The multiplications of one model's products on the data, and those with both operands other than zero."""

    samples: int = 0
    all: dict[str, int] = field(default_factory=dict)  # by the node's output
    both: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        total = sum(self.all.values())
        return sum(self.both.values()) / total if total else None


def measure_engines(
    before: Analysis, after: Analysis, batches: Batches, sizes: Counts, memory: Memory | None = None
) -> EngineReport:
    """What sparse engines would gain of an original and of its candidate, on the same data.

    Args:
        before: the original.
        after: the candidate, in float.
        batches: data of both; at most SAMPLES samples are used, and a batch at the least.
        sizes: the bytes of both files.
        memory: what a pass over the data may take.

    Returns:
        The report.

    Raises:
        OnnxPruneError: one of the models does not run on the data.
    """
    few = batches if batches.samples is not None and batches.samples <= SAMPLES else _limit(batches)
    one, two = (count_products(a, few, memory or Memory()) for a in (before, after))
    return EngineReport(
        data=few.source,
        samples=two.samples,
        both_nonzero=Shares(one.share, two.share),
        counted=Shares(_share_counted(before, one), _share_counted(after, two)),
        bytes=Counts(*(_count_stored(a, size) for a, size in ((before, sizes.before), (after, sizes.after)))),
        layers=list(_layers(after, two)),
        left_out=two.left_out,
    )


def _limit(batches: Batches) -> Batches:
    return batches.limit(max(SAMPLES, count(batches.first())))


def count_products(a: Analysis, batches: Batches, memory: Memory) -> _Counted:
    """Count the multiplications of each plain product of floats, in as many passes as fit into memory."""
    counts = _Counted()
    nodes = [n for n in a.model.proto.graph.node if get_record(n).product and n.output]
    plain = [n for n in nodes if _is_plain(a, n)]
    counts.left_out = {_name(n): "no plain product of floats" for n in nodes if not _is_plain(a, n)}
    inside = (n for n in a.coupling.live if get_record(n).product and n.output[0] not in a.outside)
    counts.left_out |= {_name(n): "in a body or a local function" for n in inside}
    sizes = StatisticSizes(a, count(batches.first()), batches.samples or 0)
    for chunk in _chunks(sizes, plain, memory.working):
        counts.samples = _count_pass(a, chunk, batches, counts)
    return counts


def _is_plain(a: Analysis, node: NodeProto) -> bool:
    """Does a node do nothing but multiply two operands of floats and sum the products up?"""
    record = get_record(node)
    product = record.product
    if product is None or product.kind not in PLAIN or product.read is not None or len(node.input) < 2:
        return False
    try:
        operands = product.operands(
            Shapes(node, lambda n, i: a.coupling.trace.shape(n.input[i]), a.coupling.trace.shape)
        )
    except UnknownShape:
        return False
    known = all(o.slot < 2 and o.inputs and o.encoding is None for o in operands)
    return (
        known
        and read_attribute(node, "alpha", 1.0) > 0
        and all(a.coupling.trace.dtype(n) in FLOATS for n in node.input[:2])
    )


def _chunks(sizes: StatisticSizes, nodes: Sequence[NodeProto], room: int) -> Iterator[list[NodeProto]]:
    """Products that one pass has room for."""
    chunk, left = list[NodeProto](), room
    for node in nodes:
        need = COPIES * (sizes.watched(node.input[0]) + sizes.watched(node.output[0]))
        if chunk and need > left:
            yield chunk
            chunk, left = [], room
        chunk.append(node)
        left -= need
    if chunk:
        yield chunk


def _count_pass(a: Analysis, nodes: Sequence[NodeProto], batches: Batches, counts: _Counted) -> int:
    """Add the counts of some products over all batches; how many samples there were."""
    net = Net(a.model)
    probes = {node.output[0]: _add_probe(net, node) for node in nodes}
    for name in (name for names in probes.values() for name in names):
        net.output(name)
    session, samples = open_session(replace(a.model, proto=net.proto), "a model"), 0
    for feeds in batches:
        outputs = run_as("a model", session, feeds)
        samples += count(feeds)
        for node in nodes:
            total, x, w, y = (outputs[name] for name in probes[node.output[0]])
            shapes = [tuple(int(n) for n in shape) for shape in (x, w)]
            y_shape = tuple(int(n) for n in y)
            product = get_record(node).product
            assert product is not None
            probed = Shapes(node, lambda _, i, shapes=shapes: shapes[i], lambda _, y_shape=y_shape: y_shape)  # type: ignore[misc]
            key = node.output[0]
            counts.all[key] = counts.all.get(key, 0) + int(product.macs(probed))
            counts.both[key] = counts.both.get(key, 0.0) + float(total) / read_attribute(node, "alpha", 1.0)
    return samples


def _add_probe(net: Net, node: NodeProto) -> tuple[str, str, str, str]:
    """The number of multiplications of ones, and the shapes of the operands and of the result."""
    ones = [net.op.Cast(net.op.Cast(name, to=TensorProto.BOOL), to=TensorProto.FLOAT) for name in node.input[:2]]
    product = f"{node.output[0]}_ones"
    probe = NodeProto(op_type=node.op_type, domain=node.domain, input=ones, output=[product], name=product)
    probe.attribute.extend(x for x in node.attribute if not x.name.startswith("activation"))
    net.proto.graph.node.append(probe)
    total = net.op.ReduceSum(net.op.Cast(product, to=TensorProto.DOUBLE), keepdims=0)
    return total, *(net.op.Shape(name) for name in (*ones, product))  # type: ignore[return-value]


def _share_counted(a: Analysis, counts: _Counted) -> float | None:
    """The share of a model's multiplications that belongs to the products that were counted."""
    whole, of_sample = a.macs(), sum(counts.all.values()) / max(counts.samples, 1)
    return min(of_sample / whole, 1.0) if whole else None


def _layers(a: Analysis, counts: _Counted) -> Iterator[EngineLayer]:
    for node in a.model.proto.graph.node:
        if node.output and (total := counts.all.get(node.output[0])):
            both = counts.both[node.output[0]] / total
            yield EngineLayer(_name(node), node.op_type, round(total / counts.samples), both)


def _name(node: NodeProto) -> str:
    return node.name or node.output[0]


def _count_stored(a: Analysis, size: int | None) -> int | None:
    """The bytes of a file whose constants of products are stored as such engines do; all else stays."""
    if size is None:
        return None
    for name in {m.weight for m in find_matrices(a)} & a.coupling.weights.keys():
        weight = a.coupling.weights[name]
        if is_float(dtype_of(weight.data_type)):
            size += count_compressed(weight.array()) - weight.nbytes
    return size


def count_compressed(weights: Array) -> int:
    """Bytes of an array, row by row: 4 bits of place and 4 of value for each stored number, and the codebook."""
    places = np.flatnonzero(weights)
    zeros = np.diff(places, prepend=-1) - 1
    stored = len(places) + int(np.sum(zeros // REACH))
    return -(-stored * (INDEX_BITS + VALUE_BITS) // 8) + CODEBOOK_BYTES
