"""Graphs on which a rule once broke a law, shrunk to the smallest."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import laws
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.scoring import make_slices

RNG = np.random.default_rng(0)
Feeds = list[dict[str, Any]]
Case = tuple[onnx.ModelProto, Feeds]
op = helper.make_node


def w(name: str, *shape: int, dtype: type = np.float32) -> TensorProto:
    values = RNG.standard_normal(shape) if dtype is np.float32 else RNG.integers(0, 9, shape)
    return numpy_helper.from_array(values.astype(dtype), name)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    inits: Sequence[TensorProto],
    opset: int = 17,
    rank: int = 0,
) -> onnx.ModelProto:
    """x of `shape` -> nodes -> y, of the same rank unless another is given."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{a}" for a in range(rank or len(shape))])
    graph = helper.make_graph(nodes, "g", [x], [y], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feeds(*shapes: tuple[int, ...]) -> Feeds:
    return [{"x": RNG.standard_normal(s).astype(np.float32)} for s in shapes]


def half_of_a_permuted_width() -> Case:
    """Once a plan makes the weight's axis and the gathered one alike, the two groups must still come in the same order."""
    nodes = [
        op("Gather", ["w1", "order"], ["g"], axis=1),
        op("MatMul", ["x", "g"], ["a"]),
        op("Slice", ["a", "three", "six", "two"], ["s"]),
        op("Concat", ["x", "s"], ["c"], axis=2),
        op("MatMul", ["c", "w2"], ["y"]),
    ]
    inits = [
        w("w1", 5, 6),
        ints("order", 5, 0, 1, 4, 2, 3),
        ints("three", 3),
        ints("six", 6),
        ints("two", 2),
        w("w2", 8, 3),
    ]
    return model(nodes, ["n", "t", 5], inits), feeds((2, 4, 5), (3, 6, 5))


def a_loop_over_one_of_two_widths() -> Case:
    """An If makes 4 or 5 features, so only the rule of MatMul tells that what the loop makes of them is always 4 wide."""

    def body(
        name: str, *nodes: onnx.NodeProto, ins: Sequence[onnx.ValueInfoProto] = (), outs: Sequence[Any]
    ) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, ins, outs)

    def value(name: str, elem: int = TensorProto.FLOAT, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, elem, shape)

    start = [value("step", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("carried")]
    steps = [op("MatMul", ["carried", "w"], ["m"]), op("Tanh", ["m"], ["last"]), op("Identity", ["go"], ["on"])]
    nodes = [
        op("MatMul", ["x", "narrow"], ["four"]),
        op("Mul", ["x", "x"], ["xx"]),
        op("ReduceMax", ["xx"], ["most"], keepdims=0),
        op("GreaterOrEqual", ["most", "zero"], ["yes"]),
        op(
            "If", ["yes"], ["h"],
            then_branch=body("then", op("Identity", ["four"], ["a"]), outs=[value("a")]),
            else_branch=body("else", op("Identity", ["x"], ["b"]), outs=[value("b")]),
        ),
        op("Loop", ["three", "", "h"], ["l"], body=body("body", *steps, ins=start, outs=[value("on", 9, []), value("last")])),
        op("MatMul", ["l", "v"], ["p"]),
        op("MatMul", ["x", "w1"], ["c"]),
        op("MatMul", ["c", "w2"], ["z"]),
        op("Add", ["p", "z"], ["y"]),
    ]  # fmt: skip
    inits = [w("narrow", 5, 4), w("w", 4, 4), w("v", 4, 2), w("w1", 5, 6), w("w2", 6, 2)]
    inits += [numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.int64(3), "three")]
    return model(nodes, ["n", "t", 5], inits), feeds((2, 4, 5), (3, 6, 5))


def time_steps_of_an_lstm() -> Case:
    """Filters become time steps: their order matters."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
        op("LSTM", ["b", "w", "r"], ["h"], hidden_size=3),
        op("Transpose", ["h"], ["t"], perm=[2, 1, 3, 0]),
        op("MatMul", ["t", "w2"], ["y"]),
    ]
    inits = [w("w1", 8, 4, 1), w("w", 1, 12, 6), w("r", 1, 12, 3), w("w2", 8, 5)]
    return model(nodes, ["n", 4, 6], inits, rank=4), feeds((2, 4, 6), (3, 4, 6))


def zero_points_of_a_batch_of_matrices() -> Case:
    nodes = [
        op("Cast", ["x"], ["i"], to=TensorProto.UINT8),
        op("MatMulInteger", ["i", "b", "", "zp"], ["a"]),
        op("Cast", ["a"], ["f"], to=TensorProto.FLOAT),
        op("MatMul", ["f", "w2"], ["y"]),
    ]
    inits = [w("b", 2, 6, 8, dtype=np.uint8), w("zp", 2, 1, 8, dtype=np.uint8), w("w2", 8, 5)]
    data = [{"x": RNG.integers(0, 9, (2, n, 6)).astype(np.float32)} for n in (3, 4)]
    return model(nodes, [2, "n", 6], inits), data


def a_size_that_two_plans_rescale() -> Case:
    """The number of all elements as a float: a plan writes n * 8 / 5 for it, and the next plan meets that division."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Size", ["a"], ["n"]),
        op("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        op("Div", ["a", "f"], ["b"]),
        op("Conv", ["b", "w2"], ["y"]),
    ]
    return model(nodes, ["n", 4, "l"], [w("w1", 13, 4, 1), w("w2", 5, 13, 1)]), feeds((2, 4, 8), (3, 4, 7))


def a_size_that_is_compared() -> Case:
    """max(l, 64) is 64 for every sample up to there: not a constant, and no count of channels either."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Shape", ["a"], ["s"], start=2, end=3),
        op("Max", ["s", "floor"], ["m"]),
        op("Sub", ["m", "s"], ["more"]),
        op("Concat", ["zeros", "more"], ["pads"], axis=0),
        op("Pad", ["a", "pads"], ["b"]),
        op("Conv", ["b", "w2"], ["y"]),
    ]
    inits = [w("w1", 8, 4, 1), w("w2", 5, 8, 1), ints("floor", 300), ints("zeros", 0, 0, 0, 0, 0)]
    return model(nodes, ["n", 4, "l"], inits), feeds((2, 4, 8), (3, 4, 310))


def a_zero_that_copies_channels() -> Case:
    """The 0 in the target stands for the channels, and the axis that it makes holds the rows."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "target"], ["b"]),
        op("ReduceMax", ["b"], ["c"], axes=[1], keepdims=0),
        op("MatMul", ["c", "w2"], ["d"]),
        op("MatMul", ["a", "w3"], ["e"]),
        op("ReduceMax", ["e"], ["f"], axes=[0], keepdims=1),
        op("Add", ["d", "f"], ["y"]),
    ]
    inits = [w("w1", 6, 4), ints("target", 2, 0, 4), w("w2", 4, 3), w("w3", 4, 3)]
    return model(nodes, [8, 6], inits), feeds((8, 6), (8, 6))


def channels_on_the_height_axis() -> Case:
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2]),
        op("DepthToSpace", ["b"], ["c"], blocksize=2),
        op("SpaceToDepth", ["c"], ["d"], blocksize=2),
        op("Transpose", ["d"], ["e"], perm=[0, 1, 3, 2]),
        op("MatMul", ["e", "w2"], ["y"]),
    ]
    return model(nodes, ["n", 4, 3, 6], [w("w1", 6, 8), w("w2", 8, 3)]), feeds((1, 4, 3, 6), (2, 4, 3, 6))


def a_table_shorter_than_the_samples() -> Case:
    """Positions 0 to t of a table of ten rows: t is never as large as the usual sample sizes."""
    nodes = [
        op("Shape", ["x"], ["t"], start=1, end=2),
        op("Slice", ["table", "zero", "t"], ["p"]),
        op("Add", ["x", "p"], ["a"]),
        op("MatMul", ["a", "w1"], ["b"]),
        op("Shape", ["b"], ["s"]),
        op("Expand", ["one", "s"], ["ones"]),
        op("Mul", ["b", "ones"], ["c"]),
        op("MatMul", ["c", "w2"], ["y"]),
    ]
    inits = [w("table", 10, 6), ints("zero", 0), w("one", 1), w("w1", 6, 8), w("w2", 8, 3)]
    return model(nodes, ["n", "t", 6], inits), feeds((1, 5, 6), (2, 9, 6))


def a_size_that_is_returned() -> Case:
    nodes = [op("MatMul", ["x", "w1"], ["a"]), op("Shape", ["a"], ["s"]), op("MatMul", ["a", "w2"], ["y"])]
    proto = model(nodes, ["n", 6], [w("w1", 6, 8), w("w2", 8, 3)])
    proto.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    return proto, feeds((1, 6), (2, 6))


def a_constant_as_wide_as_a_layer() -> Case:
    """The graph returns a constant, whose rows a layer counts: no size is returned, whatever the layer keeps."""
    nodes = [
        op("Relu", ["x"], ["y"]),
        op("MatMul", ["table", "w1"], ["a"]),
        op("Shape", ["a"], ["s"], start=1),
        op("Concat", ["s", "three", "four"], ["t"], axis=0),
        op("Expand", ["row", "t"], ["rows"]),
        op("Reshape", ["rows", "flat"], ["b"]),
        op("MatMul", ["b", "w2"], ["z"]),
    ]
    inits = [w("table", 2, 5), w("w1", 5, 6), ints("three", 3), ints("four", 4), w("row", 1, 1, 4), w("w2", 12, 3)]
    proto = model(nodes, ["n", 6], [*inits, ints("flat", 0, 12)])
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [6, 3]))
    return proto, feeds((1, 6), (2, 6))


def a_constant_computed_from_channels() -> Case:
    """A row of the table through the second layer: no activation, but it changes with the channels all the same."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Add", ["a", "table"], ["b"]),
        op("MatMul", ["b", "w2"], ["c"]),
        op("MatMul", ["table", "w2"], ["d"]),
        op("Shape", ["d"], ["s"]),
        op("ConstantOfShape", ["s"], ["zeros"]),
        op("Sub", ["d", "zeros"], ["e"]),
        op("Add", ["c", "e"], ["y"]),
    ]
    return model(nodes, ["n", 6], [w("w1", 6, 8), w("table", 1, 8), w("w2", 8, 3)]), feeds((1, 6), (2, 6))


def a_range_over_channels() -> Case:
    """Positions counted in channels: the range keeps its length, also where nothing else reads the channels."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Shape", ["a"], ["s"], start=1, end=2),
        op("Squeeze", ["s"], ["c"]),
        op("Range", ["two", "c", "one"], ["r"]),
        op("Gather", ["table", "r"], ["t"]),
        op("ReduceSum", ["t", "zero"], ["u"], keepdims=1),
        op("MatMul", ["x", "w2"], ["b"]),
        op("Relu", ["b"], ["d"]),
        op("MatMul", ["d", "w3"], ["e"]),
        op("Add", ["e", "u"], ["y"]),
    ]
    scalars = [numpy_helper.from_array(np.array(v), n) for n, v in (("two", 2), ("one", 1))]
    inits = [w("w1", 6, 8), w("table", 20, 3), ints("zero", 0), w("w2", 6, 5), w("w3", 5, 3), *scalars]
    return model(nodes, ["n", 6], inits), feeds((1, 6), (2, 6))


def a_vector_and_its_mean() -> Case:
    """The mean keeps all of the vector in a copy of its own, which is no group in the smaller model either."""
    nodes = [
        op("ReduceMean", ["v"], ["m"]),
        op("Sub", ["v", "m"], ["b"]),
        op("Gemm", ["x", "w1", "b"], ["a"]),
        op("MatMul", ["a", "w2"], ["y"]),
    ]
    return model(nodes, ["n", 6], [w("v", 1, 8), w("w1", 6, 8), w("w2", 8, 3)]), feeds((1, 6), (2, 6))


def a_slope_that_fits_two_axes() -> Case:
    nodes = [op("Conv", ["x", "w1"], ["a"]), op("PRelu", ["a", "s"], ["b"]), op("Conv", ["b", "w2"], ["y"])]
    return model(nodes, ["n", 4, 8], [w("w1", 8, 4, 1), w("s", 8), w("w2", 5, 8, 1)], 8), feeds((2, 4, 8), (3, 4, 8))


def a_grid_for_each_filter() -> Case:
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "rows"], ["b"]),
        op("GridSample", ["b", "grid"], ["c"]),
        op("Reshape", ["c", "back"], ["d"]),
        op("Conv", ["d", "w2"], ["y"]),
    ]
    inits = [w("w1", 8, 3, 1, 1), ints("rows", 8, 1, 4, 4), w("grid", 8, 4, 4, 2), ints("back", 1, -1, 4, 4)]
    return model(nodes, [1, 3, 4, 4], [*inits, w("w2", 4, 8, 1, 1)]), feeds((1, 3, 4, 4), (1, 3, 4, 4))


def a_zero_that_copies_another_axis() -> Case:
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "s"], ["b"]),
        op("Transpose", ["b"], ["t"], perm=[0, 2, 1]),
        op("MatMul", ["t", "w2"], ["y"]),
    ]
    inits = [w("w1", 6, 8), ints("s", 2, 0, 4), w("w2", 2, 5)]
    return model(nodes, [1, 2, 6], inits), feeds((1, 2, 6), (1, 2, 6))


def a_zero_that_copies_a_dynamic_size() -> Case:
    """Softmax freezes the 2 of (t 2) but leaves the product, while the second Reshape makes the axis anew: 0 must stay 0."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "halves"], ["b"]),
        op("Reshape", ["a", "rows"], ["e"]),
        op("Softmax", ["b"], ["c"], axis=2),
        op("ReduceMax", ["c"], ["d"], axes=[2], keepdims=0),
        op("Reshape", ["e", "same"], ["f"]),
        op("MatMul", ["f", "w2"], ["g"]),
        op("ReduceMax", ["g"], ["h"], axes=[1], keepdims=1),
        op("MatMul", ["d", "w2"], ["i"]),
        op("Add", ["h", "i"], ["y"]),
    ]
    inits = [
        ints("halves", 0, 0, 2, 4),
        ints("rows", 0, -1, 1, 4),
        ints("same", -1, 0, 4),
        w("w1", 6, 8),
        w("w2", 4, 3),
    ]
    return model(nodes, ["n", "t", 6], inits), feeds((1, 2, 6), (2, 3, 6))


def a_zero_of_an_old_target() -> Case:
    """The target is an attribute; its 0 stands for the channels, and the axis that it makes holds the rows."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Reshape", ["a"], ["b"], shape=[2, 0, 4]),
        op("ReduceMax", ["b"], ["c"], axes=[1], keepdims=0),
        op("MatMul", ["c", "w2"], ["d"]),
        op("MatMul", ["a", "w3"], ["e"]),
        op("ReduceMax", ["e"], ["f"], axes=[0], keepdims=1),
        op("Concat", ["d", "f"], ["y"], axis=0),
    ]
    proto = model(nodes, [8, 6], [w("w1", 6, 4), w("w2", 4, 3), w("w3", 4, 3)], opset=4)
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 4, 4]))  # onnx infers none
    return proto, feeds((8, 6), (8, 6))


def an_ellipsis_first() -> Case:
    nodes = [op("Conv", ["x", "w1"], ["a"]), op("Einsum", ["w2", "a"], ["y"], equation="...ij,bil->bjl")]
    return model(nodes, ["n", 3, 8], [w("w1", 8, 3, 1), w("w2", 8, 5)]), feeds((1, 3, 8), (2, 3, 8))


def padding_up_to_a_multiple() -> Case:
    """The amount is 0 at sizes that divide, and must not be taken for a constant."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Shape", ["x"], ["s"], start=2),
        op("Mod", ["s", "c"], ["m"]),
        op("Sub", ["c", "m"], ["d"]),
        op("Mod", ["d", "c"], ["p"]),
        op("Concat", ["before", "p"], ["pads"], axis=0),
        op("Pad", ["a", "pads"], ["b"]),
        op("Conv", ["b", "w2"], ["y"]),
    ]
    inits = [w("w1", 8, 3, 1, 1), ints("c", 32), ints("before", 0, 2, 0, 0, 0, 2), w("w2", 4, 12, 1, 1)]
    return model(nodes, ["n", 3, "h", "w"], inits), feeds((1, 3, 32, 32), (2, 3, 40, 36))


def a_gather_that_counts_up() -> Case:
    """A strided view: it becomes a Reshape, and the shape declared for its indices goes with it."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "flat"], ["b"]),
        op("Gather", ["b", "i"], ["c"], axis=0),
        op("MatMul", ["c", "w2"], ["y"]),
    ]
    index = numpy_helper.from_array(np.arange(96, dtype=np.int32).reshape(1, 12, 8), "i")
    proto = model(nodes, [1, 3, 12], [w("w1", 8, 3, 1), ints("flat", -1), index, w("w2", 8, 5)])
    proto.graph.node[1].input[0] = "t"
    proto.graph.node.insert(1, op("Transpose", ["a"], ["t"], perm=[0, 2, 1]))
    proto.graph.value_info.append(helper.make_tensor_value_info("i", TensorProto.INT32, [1, 12, 8]))
    return proto, feeds((1, 3, 12), (1, 3, 12))


def groups_that_interleave() -> Case:
    """Which of two groups comes first must not hang on the channel that comes first: a plan may remove it."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Gather", ["a", "i"], ["b"], axis=1),
        op("Conv", ["a", "w2"], ["c"]),
        op("Conv", ["b", "w3"], ["d"]),
        op("Add", ["c", "d"], ["y"]),
    ]
    inits = [w("w1", 8, 3, 1), ints("i", 0, 3, 5), w("w2", 4, 8, 1), w("w3", 4, 3, 1)]
    return model(nodes, ["n", 3, "l"], inits), feeds((1, 3, 4), (2, 3, 5))


def heads_that_a_gather_cuts_apart() -> Case:
    """Heads 1, 2 and 4 go the same ways, so they are one group although 3 stands between them."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "heads"], ["b"]),
        op("Gather", ["b", "i"], ["c"], axis=1),
        op("Reshape", ["c", "flat"], ["d"]),
        op("Conv", ["d", "w2"], ["e"]),
        op("Conv", ["a", "w3"], ["f"]),
        op("Add", ["e", "f"], ["y"]),
    ]
    inits = [w("w1", 18, 3, 1), ints("heads", 0, 6, 3, -1), ints("i", 1, 2, 4), ints("flat", 0, 9, -1)]
    return model(nodes, ["n", 3, "l"], [*inits, w("w2", 4, 9, 1), w("w3", 4, 18, 1)]), feeds((1, 3, 4), (2, 3, 5))


def channels_of_a_grid() -> Case:
    """Rows and columns in an order that differs from row to row: columns stand in line where no row hides them."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Gather", ["a", "i"], ["b"], axis=1),
        op("Conv", ["b", "w2"], ["c"], group=3),
        op("Conv", ["c", "w3"], ["d"]),
        op("Conv", ["a", "w4"], ["e"]),
        op("Add", ["d", "e"], ["y"]),
    ]
    inits = [w("w1", 12, 3, 1), ints("i", 3, 5, 9, 6, 10, 8), w("w2", 6, 2, 1), w("w3", 4, 6, 1), w("w4", 4, 12, 1)]
    return model(nodes, ["n", 3, "l"], inits), feeds((1, 3, 4), (2, 3, 5))


def rows_that_a_plan_makes_whole() -> Case:
    """The first row is cut by a channel that nobody gathers; without it the row is as whole as the others."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Gather", ["a", "i"], ["b"], axis=1),
        op("Conv", ["b", "w2"], ["c"], group=3),
        op("Conv", ["c", "w3"], ["d"]),
        op("Conv", ["a", "w4"], ["e"]),
        op("Add", ["d", "e"], ["y"]),
    ]
    inits = [w("w1", 13, 3, 1), ints("i", 0, 2, 3, 4, 5, 6, 7, 8, 9), w("w2", 6, 3, 1), w("w3", 4, 6, 1)]
    return model(nodes, ["n", 3, "l"], [*inits, w("w4", 4, 13, 1)]), feeds((1, 3, 4), (2, 3, 5))


def rows_across_rows() -> Case:
    """Four rows of the whole, three of a slice that begins inside a row: neither kind can go."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Slice", ["a", "from", "to", "one"], ["b"]),
        op("Reshape", ["b", "three"], ["c"]),
        op("ReduceMean", ["c"], ["d"], axes=[2], keepdims=0),
        op("Conv", ["d", "w2"], ["e"]),
        op("Reshape", ["a", "four"], ["f"]),
        op("ReduceMean", ["f"], ["g"], axes=[2], keepdims=0),
        op("Conv", ["g", "w3"], ["h"]),
        op("Add", ["e", "h"], ["y"]),
    ]
    inits = [w("w1", 16, 3, 1), ints("from", 2), ints("to", 14), ints("one", 1), ints("three", 0, 3, 4, -1)]
    inits += [ints("four", 0, 4, 4, -1), w("w2", 4, 3, 1), w("w3", 4, 4, 1)]
    return model(nodes, ["n", 3, "l"], inits), feeds((1, 3, 4), (2, 3, 5))


def samples_of_one_channel_each() -> Case:
    """The batch times two sets of channels is a dynamic axis: its size is a product with a sum in it."""
    nodes = [
        op("Conv", ["x", "w1"], ["a"]),
        op("Reshape", ["a", "each"], ["b"]),
        op("Conv", ["b", "blur"], ["c"]),
        op("Shape", ["a"], ["s"]),
        op("Reshape", ["c", "s"], ["d"]),
        op("Conv", ["d", "w2"], ["e"]),
        op("Slice", ["a", "from", "to", "one"], ["f"]),
        op("Conv", ["f", "w3"], ["g"]),
        op("Add", ["e", "g"], ["y"]),
    ]
    inits = [ints("each", -1, 1, 0), ints("from", 0), ints("to", 2), ints("one", 1)]
    inits += [w("w1", 6, 3, 1), w("blur", 1, 1, 1), w("w2", 4, 6, 1), w("w3", 4, 2, 1)]
    return model(nodes, ["n", 3, "l"], inits), feeds((1, 3, 4), (2, 3, 5))


def a_vector_in_two_parts() -> Case:
    """One tensor is a Conv's bias and a BatchNorm's mean: a parameter in the one, state in the other."""
    nodes = [
        op("Conv", ["x", "w1", "v"], ["a"]),
        op("BatchNormalization", ["a", "scale", "shift", "v", "var"], ["b"]),
        op("Conv", ["b", "w2"], ["y"]),
    ]
    ones = numpy_helper.from_array(np.ones(8, np.float32), "var")
    inits = [w("w1", 8, 3, 1), w("v", 8), w("scale", 8), w("shift", 8), ones, w("w2", 4, 8, 1)]
    return model(nodes, ["n", 3, "l"], inits), feeds((1, 3, 4), (2, 3, 5))


def a_guess_cut_by_a_reshape() -> Case:
    """The length of a sequence is a guess that 90 divides; the real one is 3, so that the cut goes through the channels."""
    one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("i", "o")]
    body = helper.make_graph([op("Neg", ["i"], ["o"])], "body", one[:1], one[1:])
    nodes = [
        op("SplitToSequence", ["x"], ["s"]),
        op("SequenceMap", ["s"], ["m"], body=body),
        op("ConcatFromSequence", ["m"], ["c"], axis=0),
        op("MatMul", ["c", "w"], ["h"]),
        op("Reshape", ["h", "to"], ["r"]),
        op("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
        op("Gather", ["t", "first"], ["q"], axis=0),
        op("Gather", ["t", "second"], ["k"], axis=0),
        op("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        op("MatMul", ["q", "kt"], ["y"]),
    ]
    to = numpy_helper.from_array(np.array([3, 0, 3, 2, -1], np.int64), "to")
    places = [numpy_helper.from_array(np.array(i, np.int64), name) for i, name in enumerate(("first", "second"))]
    return model(nodes, [3, 5, 4], [w("w", 4, 6), to, *places], rank=4), feeds((3, 5, 4), (3, 5, 4))


def two_inputs_of_one_gate() -> Case:
    """ONNX Runtime wants a and b alike, and returns both: neither may be cut alone."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("MatMul", ["x", "w2"], ["b"]),
        op("LinearAttentionGate", ["a", "bias", "scale", "b"], ["decay", "rate"], domain="com.microsoft"),
        op("MatMul", ["decay", "w3"], ["c"]),
        op("MatMul", ["x", "w4"], ["d"]),
        op("Add", ["c", "d"], ["y"]),
    ]
    inits = [w("w1", 6, 4), w("w2", 6, 4), w("bias", 4), w("scale", 4), w("w3", 4, 5), w("w4", 6, 5)]
    proto = model(nodes, ["n", "t", 6], inits)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto, feeds((2, 3, 6))


def time_first_and_a_batch_behind_it() -> Case:
    """Two leading axes of different names: [time, batch, c], and another input's [batch, c]. None of them copies the other."""
    nodes = [
        op("MatMul", ["x", "w1"], ["a"]),
        op("Shape", ["a"], ["s"]),
        op("Gather", ["s", "zero"], ["t"], axis=0),
        op("Gather", ["s", "one"], ["n"], axis=0),
        op("Mul", ["t", "two"], ["t2"]),
        op("Concat", ["t2", "n", "eight"], ["target"], axis=0),
        op("Unsqueeze", ["a", "zero"], ["b"]),
        op("Concat", ["b", "b"], ["c"], axis=0),
        op("Reshape", ["c", "target"], ["d"]),
        op("MatMul", ["d", "w2"], ["y"]),
        op("MatMul", ["x2", "w3"], ["z"]),
    ]
    inits = [
        w("w1", 5, 8), w("w2", 8, 3), w("w3", 4, 3), ints("zero", 0), ints("one", 1), ints("two", 2), ints("eight", 8)
    ]  # fmt: skip
    proto = model(nodes, ["t", "n", 5], inits)
    proto.graph.input.insert(0, helper.make_tensor_value_info("x2", TensorProto.FLOAT, ["n", 4]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3]))
    data = feeds((5, 2, 5), (2, 7, 5))
    for f in data:
        f["x2"] = RNG.standard_normal((f["x"].shape[1], 4)).astype(np.float32)
    return proto, data


CUT: list[Callable[[], Case]] = [
    groups_that_interleave, heads_that_a_gather_cuts_apart, channels_of_a_grid, rows_that_a_plan_makes_whole,
    rows_across_rows, half_of_a_permuted_width, a_constant_as_wide_as_a_layer,
]  # fmt: skip
CASES: list[Callable[[], Case]] = [
    a_guess_cut_by_a_reshape, two_inputs_of_one_gate, time_first_and_a_batch_behind_it,
    time_steps_of_an_lstm, zero_points_of_a_batch_of_matrices, a_slope_that_fits_two_axes, a_grid_for_each_filter,
    a_zero_that_copies_another_axis, a_zero_that_copies_a_dynamic_size, a_zero_of_an_old_target,
    an_ellipsis_first, padding_up_to_a_multiple, a_gather_that_counts_up, samples_of_one_channel_each,
    a_vector_in_two_parts, a_size_that_two_plans_rescale, a_size_that_is_compared, a_vector_and_its_mean,
    a_range_over_channels, a_constant_computed_from_channels, a_zero_that_copies_channels,
    channels_on_the_height_axis, a_table_shorter_than_the_samples, a_size_that_is_returned, a_loop_over_one_of_two_widths,
]  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *CUT], ids=lambda c: c.__name__)
def test_laws(case: Callable[[], Case]) -> None:
    proto, data = case()
    laws.check(proto, data)


@pytest.mark.parametrize("case", CUT, ids=lambda c: c.__name__)
def test_groups_keep_their_names_whatever_is_removed(case: Callable[[], Case]) -> None:
    proto, data = case()
    for seed in range(20):
        laws.check(proto, data, laws=["composition"], seed=seed)


def test_groups_keep_their_order_where_a_plan_makes_two_axes_alike() -> None:
    a = onnxprune.analyze(half_of_a_permuted_width()[0])
    read_by = {g.name: {m.tensor for m in g.members} for g in a.groups}
    assert list(read_by.values()) == [{"w1", "w2"}, {"w1"}]
    for kept in combinations(range(3), 2):
        small = onnxprune.analyze(onnxprune.apply(a, laws.plan_of(a, dict.fromkeys(read_by, kept))))
        assert {g.name: {m.tensor for m in g.members} for g in small.groups} == read_by, kept


def test_heads_with_one_footprint_are_one_group() -> None:
    proto, _ = heads_that_a_gather_cuts_apart()
    sizes = sorted(g.size for g in onnxprune.analyze(proto).groups)
    assert sizes == [3, 3, 3]  # gathered heads, other heads, features


def test_each_use_of_a_vector_has_its_own_role() -> None:
    proto, _ = a_vector_in_two_parts()
    a = onnxprune.analyze(proto)
    (group,) = a.groups
    assert {(m.sites, m.role) for m in group.members if m.tensor == "v"} == {(((0, 2),), "bias"), (((1, 3),), "stat")}
    assert a.param_count("v") == 8 and a.param_count("var") == 0


def test_a_weight_that_makes_and_consumes_is_scored_on_both_sides() -> None:
    nodes = [op("MatMul", ["x", "w"], ["a"]), op("Transpose", ["w"], ["t"]), op("MatMul", ["a", "t"], ["y"])]
    a = onnxprune.analyze(model(nodes, ["n", 6], [w("w", 6, 8)]))
    (group,) = a.groups
    assert [(s.name, s.role) for s in make_slices(a, group)] == [("w", "out"), ("w", "in")]
