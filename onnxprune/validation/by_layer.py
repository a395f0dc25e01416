"""Where does a pruned network first go wrong? The error of every layer's output, in the order of the graph.

Original and candidate walk through the same samples side by side. A layer is an operator that multiplies (its
record has a product), with what follows position by position while nothing else reads it: its bias, a norm's scale, the
shortcut that is added (a repaired layer makes up for that one's error), the activation.
Of the original's output those channels count that the candidate still has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from onnx import NodeProto

from onnxprune.axes import first
from onnxprune.calibration.array_store import ArrayStore, Memory
from onnxprune.calibration.data import Batches
from onnxprune.calibration.sessions import count
from onnxprune.coupling import linearize
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.measure import ErrorSums
from onnxprune.ops.records import get_record
from onnxprune.plans import Plan, read_keep
from onnxprune.repair.network import Network, pick_positions, restore_calls
from onnxprune.repair.segments import Walk
from onnxprune.repair.tasks import find_last_layers
from onnxprune.report.types import LayerError, Reconstruction
from onnxprune.validation.order import Orders

LEAST_SAMPLES, SAMPLES = 8, 64  # between them a quarter of the data, so that it costs no more than comparing outputs
STORE_BYTES = 1 << 30  # for what one piece of a network leaves to the next
MEMORY_BYTES = 1 << 28  # of layer outputs that one piece of a network may hand out


def measure_layer_errors(
    original: Analysis,
    candidate: Model,
    batches: Batches,
    plan: Plan | None = None,
    *,
    samples: int | None = None,
    threads: int | None = None,
    memory: Memory | None = None,
) -> Reconstruction:
    """Compare the outputs of all layers that both models have under one name.

    Of the batches, `samples` samples are used (a quarter, but 8 to 64); the least is a batch of a static size. `plan` says
    what of the original the candidate kept, and in which order; without one, only outputs of the same shape are compared, and
    the order of their channels is seen from the outputs. What does not run in pieces is left out and said to be.
    """
    orders = Orders(original, read_keep(plan, original) if plan else {}, learns=plan is None)
    net = Network(
        original,
        orders.known,
        restore_calls(original.flat, original.model),
        restore_calls(linearize(candidate), candidate),
    )
    report = Reconstruction(batches.source)
    layers = list(_layers(net, report.left_out))
    memory = memory or Memory(STORE_BYTES)
    with ArrayStore(memory) as before, ArrayStore(memory) as after:
        feeds: Mapping[str, Array] = {}
        for batch, feeds in enumerate(_few(batches, samples)):
            report.samples += count(feeds)
            before.put_all(batch, feeds)
            after.put_all(batch, feeds)
        chunks = list(_chunks(original, layers, feeds))
        stops = [{tensor for _, tensor in chunk} for chunk in chunks]
        walks = [(Walk(m, stops, list(feeds), len(s)), s) for m, s in ((net.original, before), (net.model, after))]
        for at, chunk in enumerate(chunks):
            try:
                _compare(
                    report,
                    net,
                    orders,
                    chunk,
                    zip(*(walk.run(at, store, threads) for walk, store in walks), strict=True),
                )
            except OnnxPruneError as why:
                report.left_out |= {_name(node): str(why) for chunk in chunks[at:] for node, _ in chunk}
                break
    return report


def _name(node: NodeProto) -> str:
    return node.name or next(filter(None, node.output))


def _few(batches: Batches, samples: int | None) -> Batches:
    if samples is None:
        samples = SAMPLES if batches.samples is None else min(max(batches.samples // 4, LEAST_SAMPLES), SAMPLES)
    try:
        some = batches.limit(samples)
        some.first()
        return some
    except OnnxPruneError:  # the model takes larger batches
        return batches.limit(count(batches.first()))


def _layers(net: Network, left_out: dict[str, str]) -> Iterator[tuple[NodeProto, str]]:
    """The nodes that multiply, each with the tensor that is looked at."""
    there = {o for n in net.original.proto.graph.node for o in n.output}
    products = [index for index, node in enumerate(net.nodes) if get_record(node).product]
    last = find_last_layers(net, {index: at for at, index in enumerate(products)})
    for at, index in enumerate(products):
        node = net.nodes[index]
        outputs = [o for o in node.output if o in net.live]
        start = next((o for o in outputs if o in there and _floats(net, o)), None)
        if start is not None:
            tail = _tail(net, start, lambda x, at=at: last[x] < at)  # type: ignore[misc]
            yield node, next(t for t in reversed(tail) if t in there)
        elif outputs:
            known = there.intersection(outputs)
            left_out[_name(node)] = "its output is not of floats" if known else "the original has no such tensor"


def _floats(net: Network, tensor: str) -> bool:
    elem = net.analysis.coupling.trace.dtype(tensor)
    return bool(elem) and is_float(dtype_of(elem))


def _tail(net: Network, tensor: str, ready: Callable[[str], bool]) -> list[str]:
    """A tensor, and what it becomes position by position while a single node reads it.

    Of other activations only those may be added on the way that no later layer makes: then the sum is what this layer adds to.
    """
    route = [tensor]
    while (index := net.only_reader(route[-1])) is not None:
        node = net.nodes[index]
        others = [name for name in node.input if name in net.live and name != route[-1]]
        traits = get_record(node).traits
        sums = traits.sums and all(ready(n) and net.sizes(n) == net.sizes(route[-1]) for n in others)
        followed = (traits.pointwise or traits.affine) and len(node.output) == 1 and (sums or not others)
        if not followed or not _floats(net, node.output[0]):
            break
        route.append(node.output[0])
    return route


def _chunks(
    original: Analysis, layers: Iterable[tuple[NodeProto, str]], feeds: Mapping[str, Array]
) -> Iterator[list[tuple[NodeProto, str]]]:
    """Layers whose outputs of one batch fit into memory together."""
    trace = original.coupling.trace

    def elements(name: str) -> int:
        return math.prod(first(s) for s in trace.shape(name) or ())

    scale = max((x.size / max(elements(name), 1) for name, x in feeds.items()), default=1.0)  # of the trace's sizes
    chunk, size_of_chunk = list[tuple[NodeProto, str]](), 0.0
    for node, tensor in layers:
        size = 4 * scale * elements(tensor)
        if chunk and size_of_chunk + size > MEMORY_BYTES:
            yield chunk
            chunk, size_of_chunk = [], 0.0
        chunk.append((node, tensor))
        size_of_chunk += size
    if chunk:
        yield chunk


def _compare(
    report: Reconstruction,
    net: Network,
    orders: Orders,
    chunk: list[tuple[NodeProto, str]],
    pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
) -> None:
    """Add the errors of some layers, from what both networks make of each batch."""
    sums = {tensor: ErrorSums() for _, tensor in chunk}
    wrong: dict[str, str] = {}
    for before, after in pairs:
        for tensor in sums:
            stays, got = _stays(net, tensor, before[tensor].shape), after[tensor]
            if stays is None:
                wrong[tensor] = "channels are mixed with a dynamic size"
                continue
            wanted = pick_positions(before[tensor], stays)
            if orders.learn(tensor, wanted, got):
                wanted = pick_positions(before[tensor], _stays(net, tensor, before[tensor].shape) or {})
            if wanted.shape != got.shape:
                wrong[tensor] = f"shape {list(wanted.shape)} of the original became {list(got.shape)}"
            elif tensor not in wrong:
                sums[tensor].add(wanted, got)
    for node, tensor in chunk:
        if tensor in wrong:
            report.left_out[_name(node)] = wrong[tensor]
        else:
            error = sums[tensor].result().relative_l2
            report.layers.append(LayerError(_name(node), node.op_type, tensor, error))


def _stays(net: Network, tensor: str, shape: Sequence[int]) -> dict[int, Array] | None:
    """Of a value of that shape in the original, the positions that the pruned one has, by axis; None where nobody knows."""
    out = dict[int, Array]()
    for a, dim in enumerate(net.analysis.coupling.layouts.get(tensor) or ()):
        if dim.moves(net.keep):
            axis = dim.at_length(shape[a], net.keep)
            if axis is None:
                return None
            out[a] = axis.kept(net.keep)
    return out
