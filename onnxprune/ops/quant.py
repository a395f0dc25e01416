"""Quantized operators: their layouts are those of the operator without quantization; scales and zero points follow them.

Nothing is quantized again: integers, scales and zero points are sliced as they are.
"""

from __future__ import annotations

import math
from dataclasses import replace

from onnx import TensorProto

from onnxprune.axes import first
from onnxprune.layout import Dim, LayoutError, factor, find, fixed, prod
from onnxprune.ops.fused import infer_plainer, refuse_several
from onnxprune.ops.linear import CONVOLUTION, GEMM, MATMUL
from onnxprune.ops.records import MICROSOFT, SAME, Encoding, NodeFacts, Operand, Plainer, Product, renumber
from onnxprune.ops.registry import Axes, Op, couple


def _read_scale(node: NodeFacts) -> Encoding:
    return Encoding(1, 2, axis=node.attr("axis", 1), block=node.attr("block_size", 0))


@couple("DequantizeLinear", "QuantizeLinear", moves=SAME, changes_type=True, encoding=_read_scale)
@couple("DequantizeLinear", "QuantizeLinear", domain=MICROSOFT, moves=SAME, changes_type=True, encoding=_read_scale)
def qdq(op: Op) -> list[Axes | None]:
    """y = (x - zero_point) * scale and back: per tensor, per channel of `axis`, or per block along it, which goes as a whole.

    Source: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
    """
    x = op.x(0)
    axis = op.attr("axis", 1) % max(len(x), 1)
    for i in (1, 2):
        if not op.has(i):
            continue
        scale = op.x(i)
        for a in range(len(scale)):
            op.role(i, a, "stat")
        if len(scale) == 1 and find(scale[0]).size != 1:
            op.tie(scale[0], x[axis])
        elif len(scale) > 1:
            blocks = split_blocks(op, x[axis], op.attr("block_size", 0))
            for a, d in enumerate(scale):
                op.tie(d, blocks if a == axis else x[a])
    if op.type == "DequantizeLinear":
        op.quantized(0, 1, 2, op.attr("axis", 1), block=op.attr("block_size", 0))
    return [list(x)]


def split_blocks(op: Op, d: Dim, size: int) -> Dim:
    """The blocks of an axis that is quantized in blocks: (b size), of which only whole ones can go."""
    n = find(d).size
    if not isinstance(n, int) or size < 1 or n % size:
        op.freeze(d, "quantized in blocks that do not divide it")
        return fixed(-(-first(n) // max(size, 1)), find(d).reason)
    blocks, inside = factor(d, size)
    op.freeze(inside, "quantized in blocks along it")
    return blocks


@couple("DynamicQuantizeLinear")
def dynamic_quantize(op: Op) -> list[Axes | None]:
    """One scale for the whole tensor, from its range: every channel takes part in it.

    Source: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    """
    x = op.x(0)
    for d in x:
        op.mix(d, "takes its range over it")
    return [list(x), [], []]


LAST = replace(CONVOLUTION, kind="convolution with channels last")


@couple("NhwcFusedConv", "NhwcConv", domain=MICROSOFT, product=LAST, like=Plainer("Conv", (0, 1, 2), last=True))
@couple("NhwcMaxPool", domain=MICROSOFT, like=Plainer("MaxPool", last=True))
@couple("QLinearAveragePool", domain=MICROSOFT, like=Plainer("AveragePool"))
@couple("QLinearGlobalAveragePool", domain=MICROSOFT, like=Plainer("GlobalAveragePool"))
@couple("QLinearLeakyRelu", domain=MICROSOFT, like=Plainer("LeakyRelu"))
@couple("QLinearSigmoid", domain=MICROSOFT, like=Plainer("Sigmoid"))
@couple("QLinearSoftmax", domain=MICROSOFT, like=Plainer("Softmax"))
@couple("QLinearAdd", domain=MICROSOFT, like=Plainer("Add", (0, 3)))
@couple("QLinearMul", domain=MICROSOFT, like=Plainer("Mul", (0, 3)))
@couple("QLinearWhere", domain=MICROSOFT, like=Plainer("Where", (0, 1, 4), 1))
@couple("QLinearConcat", domain=MICROSOFT, like=Plainer("Concat", range(2, 1 << 10, 3), 2))
def plain(op: Op) -> list[Axes | None]:
    """A plainer operator with the channels last, or with a scale and a zero point for each whole tensor."""
    outs = infer_plainer(op, *([3] if op.type == "NhwcFusedConv" else []))
    refuse_several(op)
    return outs


def _of_integers(
    plain: Product,
    slots: tuple[int, ...],
    weight: int,
    scale: int,
    zero: int,
    bias: int = 0,
    read: tuple[int, int] | None = None,
) -> Product:
    """A product of integers: `slots` are its operands; the weight's scale and zero point may have an entry for each output."""
    moved = renumber(plain, slots)

    def operands(node: NodeFacts) -> list[Operand]:
        return [
            replace(o, encoding=Encoding(scale, zero, axis=next(iter(o.outputs), 0))) if o.slot == weight else o
            for o in moved.operands(node)
        ]

    return replace(moved, operands=operands, bias=bias or None, read=Encoding(*read, axis=0) if read else None)


CONV = _of_integers(CONVOLUTION, (0, 3), 3, scale=4, zero=5, bias=8, read=(1, 2))


@couple(
    "ConvInteger",
    product=_of_integers(CONVOLUTION, (0, 1), 1, scale=0, zero=3, read=(0, 2)),
    like=Plainer("Conv", (0, 1)),
)
@couple("QLinearConv", product=CONV, like=Plainer("Conv", (0, 3, 8), 7))
@couple("QLinearConv", domain=MICROSOFT, product=CONV, like=Plainer("Conv", (0, 3, 8), 7))
@couple(
    "MatMulInteger",
    product=_of_integers(MATMUL, (0, 1), 1, scale=0, zero=3, read=(0, 2)),
    like=Plainer("MatMul", (0, 1)),
)
@couple(
    "QLinearMatMul",
    product=_of_integers(MATMUL, (0, 3), 3, scale=4, zero=5, read=(1, 2)),
    like=Plainer("MatMul", (0, 3), 7),
)
@couple(
    "QGemm",
    domain=MICROSOFT,
    product=_of_integers(GEMM, (0, 3), 3, scale=4, zero=5, bias=6, read=(1, 2)),
    like=Plainer("Gemm", (0, 3, 6), 8),
)
@couple(
    "MatMulIntegerToFloat", domain=MICROSOFT, product=_of_integers(MATMUL, (0, 1), 1, scale=3, zero=5, bias=6, read=(2, 4)),
    like=Plainer("MatMul", (0, 1), 2),
)  # fmt: skip
@couple(
    "DynamicQuantizeMatMul", domain=MICROSOFT, product=_of_integers(MATMUL, (0, 1), 1, scale=2, zero=3, bias=4),
    like=Plainer("MatMul", (0, 1), 2),
)  # fmt: skip
def product_of_integers(op: Op) -> list[Axes | None]:
    """Conv, Gemm or MatMul on integers; the weight's scale and zero point follow its output channels.

    Source: https://onnx.ai/onnx/operators/onnx__QLinearConv.html
    """
    (y, *_) = infer_plainer(op)
    assert y is not None
    assert op.product is not None
    weight, encoding = next((o, o.encoding) for o in op.product.operands(op) if o.encoding)
    w = op.x(weight.slot)
    out = w[encoding.axis]
    for i in (encoding.scale, encoding.zero):
        if i and op.has(i) and op.rank(i) > 1:  # a row of columns for each matrix of a batch
            op.broadcast([*w[:-2], op.plain(1), out], op.x(i))
        elif i and op.has(i) and op.rank(i) and find(op.x(i)[0]).size != 1:
            op.tie(op.x(i)[0], out)
            op.role(i, 0, "stat")
    bias = op.product.bias
    if bias and op.has(bias) and bias not in op.related:
        op.tie(op.x(bias)[0], out)
        op.role(bias, 0, "bias")
    if op.type == "DynamicQuantizeMatMul":
        for d in op.x(0):
            op.mix(d, "takes its range over it")
    refuse_several(op)
    return [y]


def _read_blocks(node: NodeFacts) -> list[Operand]:
    bits = node.attr("bits", 4)
    return [Operand(1, (1, 2), (0,), encoding=Encoding(2, 3, 1, bits, 1 << (bits - 1), inputs=node.attr("K")))]


BLOCKS = Product("matrix product", lambda node: math.prod(node.y()) * node.x(0)[-1], _read_blocks, bias=5)


@couple("MatMulNBits", domain=MICROSOFT, product=BLOCKS)
def matmul_in_blocks(op: Op) -> list[Axes | None]:
    """x [.., (k block)], w [n, k, bytes], scales and zero points [n, k], bias [n] -> y [.., n]: inputs go in whole blocks.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    if op.rank(1) != 3 or op.has(4) or op.attr("weight_prepacked", 0):
        raise LayoutError("weights or inputs in an order of their own")
    x, (n, k, inside) = op.x(0), op.x(1)
    bits = op.attr("bits", 4)
    op.freeze(inside, "quantized in blocks along it")
    op.tie(k, split_blocks(op, x[-1], op.attr("block_size")))
    op.tie(prod(*op.x(2)), prod(n, k))
    _zero_points(op, 3, n, k, bits)
    if op.has(5):
        op.tie(op.x(5)[0], n)
        op.role(5, 0, "bias")
    for axis, role in enumerate(("stat", "in")[: op.rank(2)]):  # a block without its scale is 0
        op.role(2, axis, role)
    op.kind(n, "neurons")
    op.follow_attr("N", n)
    op.follow_attr("K", x[-1])
    return [[*x[:-1], find(n)]]


def _zero_points(op: Op, i: int, rows: Dim, blocks: Dim, bits: int) -> None:
    """Zero points [rows, blocks], several to a byte where they are as narrow as the weights."""
    if not op.has(i):
        return
    if bits < 8 and op.trace.dtype(op.node.input[i]) == TensorProto.UINT8:
        blocks = split_blocks(op, blocks, 8 // bits)
    op.tie(prod(*op.x(i)), prod(rows, blocks))
    for axis in range(op.rank(i)):
        op.role(i, axis, "stat")


CODES = Product("matrix product", lambda node: math.prod(node.y()) * node.x(0)[-1], lambda _: [Operand(1, inputs=())])


@couple("MatMulBnb4", domain=MICROSOFT, product=CODES)
def matmul_of_codes(op: Op) -> list[Axes | None]:
    """x [.., k], codes of the numbers of a table [(n k) / 2 bytes], the largest of each block [(n k) / block] -> y [.., n].

    Blocks go across rows, so nothing can be cut out. Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    *tokens, inputs = op.x(0)
    for d in (inputs, *op.x(1), *op.x(2)):
        op.freeze(d, "blocks of codes go across rows")
    return [[*tokens, op.plain(op.attr("N"))]]


@couple("GatherBlockQuantized", domain=MICROSOFT, table=(0, 1))
def embedding_in_blocks(op: Op) -> list[Axes | None]:
    """Rows of a table [v, (e block)] with scales and zero points [v, e] -> y [*indices, (e block)].

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    table, size = op.x(0), op.attr("block_size", 128)
    axes = [op.axis(d, name=n) for n, d in (("gather_axis", 0), ("quantize_axis", 1))]
    if axes != [0, len(table) - 1] or len(table) != 2 or op.rank(2) != 2:
        raise LayoutError("blocks along another axis than the last, or a table that is no matrix")
    packed = op.trace.dtype(op.node.input[0]) == TensorProto.UINT8
    bits = op.attr("bits", 4) if packed else 8
    rows, blocks = op.x(2)
    for d in (table[0], rows):
        op.freeze_rows(d)
    op.tie(table[1], prod(blocks, op.plain(size * bits // 8, "quantized in blocks along it")))
    _zero_points(op, 3, rows, blocks, bits)
    op.role(0, 1, "out")
    op.role(2, 1, "stat")
    op.kind(blocks, "embedding")
    op.quantized(0, 2, 3, 1, bits, 1 << (bits - 1) if packed else 0, size * bits // 8)
    return [[*op.x(1), prod(blocks, op.plain(size))]]


@couple("Quant", domain="onnx.brevitas", moves=SAME, changes_type=True)
@couple("Quant", domain="qonnx.custom_op.general", moves=SAME, changes_type=True)
def quant(op: Op) -> list[Axes | None]:
    """QONNX: x rounded to the grid of scale, zero point and bit width, all of which broadcast against x.

    Source: https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/quant_op.md
    """
    for i in (1, 2, 3):
        for a in range(op.rank(i)):
            op.role(i, a, "stat")
    return [op.broadcast(*(op.x(i) for i in range(4)))]
