"""Makes small models of two layers with something impossible between them: nonsense that onnx.checker lets pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import SparseTensorProto, StringStringEntryProto, TensorProto, helper, numpy_helper
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
    """The node `middle`, which reads images and perhaps a weight, then a convolution of 1 x 1."""
    nodes = [
        op(kind, ["x", "w1"] if w else ["x"], ["h"], "middle", **(attrs or {})),
        op("Conv", ["h", "w2"], ["y"], "last"),
    ]
    given = weights(**({"w1": w} if w else {}), w2=(2, 8 if w else 4, 1, 1))
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


def edited(change: Callable[[onnx.ModelProto], Any]) -> Make:
    """Two layers with a Relu between them, in which something is changed."""

    def make() -> onnx.ModelProto:
        made = between("Relu")
        change(made)
        return made

    return make


def with_tensor(**fields: Any) -> Make:
    """An initializer with these fields, added to what the Relu makes."""
    return edited(lambda m: (_add(m, "t"), m.graph.initializer.append(TensorProto(**{"name": "t", **fields}))))


def _sparse(index: int, size: int) -> onnx.AttributeProto:
    """A vector of which one entry is not 0."""
    values = TensorProto(data_type=1, dims=[1], float_data=[1.0])
    indices = TensorProto(data_type=7, dims=[1], int64_data=[index])
    return _attr("sparse_value", SparseTensorProto(values=values, indices=indices, dims=[size]))


def with_constant(*attributes: onnx.AttributeProto) -> Make:
    """A Constant node with these attributes, added to what the Relu makes."""

    def change(m: onnx.ModelProto) -> None:
        _add(m, "t")
        node = op("Constant", [], ["t"], "constant")
        node.attribute.extend(attributes)
        m.graph.node.insert(0, node)

    return edited(change)


def with_external(**entries: str) -> Make:
    """An initializer of four floats whose data are in a file."""
    given = [StringStringEntryProto(key=k, value=v) for k, v in entries.items()]
    return with_tensor(data_type=1, dims=[4], data_location=TensorProto.EXTERNAL, external_data=given)


def _add(m: onnx.ModelProto, name: str) -> None:
    m.graph.node[1].output[0] = "r"
    m.graph.node.insert(2, op("Add", ["r", name], ["v"], "add"))


def looped(
    kind: str, attrs: dict[str, Any], body_inputs: int, body_outputs: int, inputs: int = 1, outputs: int = 1
) -> Make:
    """A node with a body of so many inputs and outputs, each body output an Identity."""

    def make() -> onnx.ModelProto:
        ins = [tensor(f"i{k}", ["N", 16]) for k in range(body_inputs)]
        outs = [tensor(f"o{k}", ["N", 16]) for k in range(body_outputs)]
        source = "i0" if body_inputs else "h"
        body = helper.make_graph([op("Identity", [source], [o.name]) for o in outs], "body", ins, outs)
        names = {"If": ("then_branch", "else_branch")}.get(kind, ("body",))
        return between(kind, ["h"] * (inputs - 1), {**attrs, **dict.fromkeys(names, body)}, outputs)

    return make


LARGE = 2**62
FLOATS = np.zeros(4, np.float32).tobytes()
_attr = helper.make_attribute
OPERATORS: dict[str, Make] = {
    "group 0": lambda: images("Conv", (8, 4, 1, 1), {"group": 0}),
    "group -1": lambda: images("Conv", (8, 4, 1, 1), {"group": -1}),
    "group 3": lambda: images("Conv", (8, 4, 1, 1), {"group": 3}),
    "group 2^62": lambda: images("Conv", (8, 4, 1, 1), {"group": LARGE}),
    "strides 0": lambda: images("Conv", (8, 4, 1, 1), {"strides": [0, 0]}),
    "strides of one axis": lambda: images("Conv", (8, 4, 1, 1), {"strides": [1]}),
    "negative pads": lambda: images("Conv", (8, 4, 3, 3), {"pads": [-9, -9, -9, -9]}),
    "dilations 2^62": lambda: images("Conv", (8, 4, 3, 3), {"dilations": [LARGE, LARGE]}),
    "auto_pad nonsense": lambda: images("Conv", (8, 4, 1, 1), {"auto_pad": "NONSENSE"}),
    "conv with a vector": lambda: images("Conv", (8,)),
    "conv with a matrix": lambda: images("Conv", (8, 4)),
    "conv with a kernel of nothing": lambda: images("Conv", (8, 4, 0, 0)),
    "transposed group 0": lambda: images("ConvTranspose", (4, 8, 1, 1), {"group": 0}),
    "transposed group -2": lambda: images("ConvTranspose", (4, 8, 1, 1), {"group": -2}),
    "transposed output shape": lambda: images("ConvTranspose", (4, 8, 1, 1), {"output_shape": [0]}),
    "slice step 0": lambda: between("Slice", ["starts", "ends", "", "steps"], starts=[0], ends=[2], steps=[0]),
    "slice axes repeated": lambda: between("Slice", ["s", "e", "a"], s=[0, 0], e=[2, 2], a=[1, 1]),
    "slice axis 99": lambda: between("Slice", ["s", "e", "a"], s=[0], e=[2], a=[99]),
    "slice of unequal lengths": lambda: between("Slice", ["s", "e", "a"], s=[0, 1], e=[2], a=[1]),
    "slice bounds of floats": lambda: between("Slice", ["s", "e"], s=[0.5], e=[2.5]),
    "slice bounds scalars": lambda: between("Slice", ["s", "e"], s=np.int64(0), e=np.int64(2)),
    "slice step min": lambda: between("Slice", ["s", "e", "a", "p"], s=[0], e=[9], a=[1], p=[-(2**63)]),
    "transpose out of range": lambda: between("Transpose", attrs={"perm": [0, 7]}),
    "transpose negative": lambda: between("Transpose", attrs={"perm": [-1, 0]}),
    "transpose twice the same": lambda: between("Transpose", attrs={"perm": [1, 1]}),
    "transpose too short": lambda: between("Transpose", attrs={"perm": [0]}),
    "reshape by a scalar": lambda: between("Reshape", ["to"], to=np.int64(-1)),
    "reshape by a matrix": lambda: between("Reshape", ["to"], to=[[0, -1]]),
    "reshape by two -1": lambda: between("Reshape", ["to"], to=[-1, -1]),
    "reshape to -7": lambda: between("Reshape", ["to"], to=[0, -7]),
    "reshape to 2^62": lambda: between("Reshape", ["to"], to=[LARGE, LARGE]),
    "reshape to 7": lambda: between("Reshape", ["to"], to=[0, 7]),
    "reshape by floats": lambda: between("Reshape", ["to"], to=[0.0, 16.0]),
    "reshape by nothing": lambda: between("Reshape", ["to"], to=np.zeros(0, np.int64)),
    "reshape by many zeros": lambda: between("Reshape", ["to"], to=np.zeros(50, np.int64)),
    "flatten axis 9": lambda: between("Flatten", attrs={"axis": 9}),
    "squeeze 99": lambda: between("Squeeze", ["a"], a=[99]),
    "squeeze a wide axis": lambda: between("Squeeze", ["a"], a=[1]),
    "squeeze repeated": lambda: between("Squeeze", ["a"], a=[0, 0]),
    "unsqueeze 99": lambda: between("Unsqueeze", ["a"], a=[99]),
    "unsqueeze repeated": lambda: between("Unsqueeze", ["a"], a=[1, 1]),
    "unsqueeze by a scalar": lambda: between("Unsqueeze", ["a"], a=np.int64(1)),
    "expand to negative": lambda: between("Expand", ["to"], to=[-1, 16]),
    "expand to 2^62": lambda: between("Expand", ["to"], to=[LARGE, 1, 16]),
    "expand by a scalar": lambda: between("Expand", ["to"], to=np.int64(16)),
    "tile by 0": lambda: between("Tile", ["n"], n=[1, 0]),
    "tile by 2^62": lambda: between("Tile", ["n"], n=[1, LARGE]),
    "tile by one": lambda: between("Tile", ["n"], n=[2]),
    "split sizes that do not sum": lambda: between("Split", ["n"], {"axis": 1}, 2, n=[3, 4]),
    "split negative": lambda: between("Split", ["n"], {"axis": 1}, 2, n=[-4, 20]),
    "split axis 50": lambda: between("Split", attrs={"axis": 50}, outputs=2),
    "split by a scalar": lambda: between("Split", ["n"], {"axis": 1}, 2, n=np.int64(8)),
    "split of fewer sizes": lambda: between("Split", ["n"], {"axis": 1}, 3, n=[8, 8]),
    "concat axis 99": lambda: between("Concat", ["h"], {"axis": 99}),
    "concat of ranks": lambda: between("Concat", ["w"], {"axis": 1}, w=np.zeros((2, 2, 2), np.float32)),
    "gather out of range": lambda: between("Gather", ["i"], {"axis": 1}, i=[99, -99]),
    "gather axis 99": lambda: between("Gather", ["i"], {"axis": 99}, i=[0]),
    "gather by floats": lambda: between("Gather", ["i"], {"axis": 1}, i=[0.5]),
    "gather elements of ranks": lambda: between("GatherElements", ["i"], {"axis": 1}, i=[0]),
    "gather nd batch dims": lambda: between("GatherND", ["i"], {"batch_dims": 9}, i=[[0]]),
    "gather nd too deep": lambda: between("GatherND", ["i"], i=[[0] * 9]),
    "scatter nd": lambda: between("ScatterND", ["i", "u"], i=[[99, 99, 99]], u=np.zeros(1, np.float32)),
    "pad too short": lambda: between("Pad", ["p"], p=[1]),
    "pad negative": lambda: between("Pad", ["p"], p=[0, -99, 0, -99]),
    "pad 2^62": lambda: between("Pad", ["p"], p=[0, LARGE, 0, LARGE]),
    "pad mode nonsense": lambda: between("Pad", ["p"], {"mode": "nonsense"}, p=[0, 1, 0, 1]),
    "pad by floats": lambda: between("Pad", ["p"], p=[0.0, 1.0, 0.0, 1.0]),
    "one hot of -1": lambda: between("OneHot", ["d", "v2"], d=np.int64(-1), v2=[0.0, 1.0]),
    "top k of -3": lambda: between("TopK", ["k"], {"axis": 1}, 2, k=[-3]),
    "top k axis 9": lambda: between("TopK", ["k"], {"axis": 9}, 2, k=[3]),
    "reduce axis 99": lambda: between("ReduceMean", attrs={"axes": [99]}),
    "reduce axes repeated": lambda: between("ReduceMean", attrs={"axes": [1, 1, -1]}),
    "reduce sum by floats": lambda: between("ReduceSum", ["a"], a=[0.5]),
    "softmax axis 99": lambda: between("Softmax", attrs={"axis": 99}),
    "cumsum axis 9": lambda: between("CumSum", ["a"], a=np.int64(9)),
    "cast to 99": lambda: between("Cast", attrs={"to": 99}),
    "cast to 0": lambda: between("Cast", attrs={"to": 0}),
    "cast to text": lambda: between("Cast", attrs={"to": 8}),
    "clip upside down": lambda: between("Clip", ["a", "b"], a=np.float32(5), b=np.float32(-5)),
    "clip by vectors": lambda: between("Clip", ["a", "b"], a=np.zeros(3, np.float32), b=np.ones(3, np.float32)),
    "leaky relu of nan": lambda: between("LeakyRelu", attrs={"alpha": float("nan")}),
    "prelu of a wrong size": lambda: between("PRelu", ["s"], s=np.ones(5, np.float32)),
    "add of a wrong size": lambda: between("Add", ["s"], s=np.ones(5, np.float32)),
    "add of text": lambda: between("Add", ["s"], s=np.array(["a"] * 16)),
    "add of whole numbers": lambda: between("Add", ["s"], s=np.ones(16, np.int64)),
    "where with floats": lambda: between("Where", ["h", "h"]),
    "batch norm of wrong sizes": lambda: between("BatchNormalization", ["s", "s", "s", "s"], s=np.ones(5, np.float32)),
    "batch norm of scalars": lambda: between("BatchNormalization", ["s", "s", "s", "s"], s=np.float32(1)),
    "layer norm axis 99": lambda: between("LayerNormalization", ["s"], {"axis": 99}, s=np.ones(16, np.float32)),
    "layer norm of a scalar": lambda: between("LayerNormalization", ["s"], s=np.float32(1)),
    "instance norm of vectors": lambda: between("InstanceNormalization", ["s", "s"], s=np.ones(16, np.float32)),
    "lrn size 0": lambda: between("LRN", attrs={"size": 0}),
    "lp normalization p 9": lambda: between("LpNormalization", attrs={"p": 9, "axis": 7}),
    "matmul of ranks": lambda: between("MatMul", ["s"], s=np.ones((3, 4, 5), np.float32)),
    "matmul by a scalar": lambda: between("MatMul", ["s"], s=np.float32(1)),
    "matmul of wrong sizes": lambda: between("MatMul", ["s"], s=np.ones((5, 16), np.float32)),
    "gemm of a vector": lambda: between("Gemm", ["s"], s=np.ones(16, np.float32)),
    "gemm transB 7": lambda: between("Gemm", ["s"], {"transB": 7, "transA": -1}, s=np.ones((16, 16), np.float32)),
    "gemm bias of a wrong size": lambda: between(
        "Gemm", ["s", "b"], s=np.ones((16, 16), np.float32), b=np.ones(5, np.float32)
    ),
    "einsum nonsense": lambda: between("Einsum", ["s"], {"equation": "->->"}, s=np.ones((16, 16), np.float32)),
    "einsum of more axes": lambda: between(
        "Einsum", ["s"], {"equation": "abcde,ef->abcdf"}, s=np.ones((16, 16), np.float32)
    ),
    "einsum empty": lambda: between("Einsum", ["s"], {"equation": ""}, s=np.ones((16, 16), np.float32)),
    "lstm hidden size 0": lambda: between(
        "LSTM", ["w", "r"], {"hidden_size": 0}, w=np.ones((1, 64, 16), np.float32), r=np.ones((1, 64, 16), np.float32)
    ),
    "lstm of matrices": lambda: between(
        "LSTM", ["w", "r"], w=np.ones((4, 4), np.float32), r=np.ones((4, 4), np.float32)
    ),
    "gru direction": lambda: between(
        "GRU",
        ["w", "r"],
        {"direction": "sideways"},
        w=np.ones((3, 48, 16), np.float32),
        r=np.ones((3, 48, 16), np.float32),
    ),
    "rnn layout 9": lambda: between(
        "RNN", ["w", "r"], {"layout": 9}, w=np.ones((1, 16, 16), np.float32), r=np.ones((1, 16, 16), np.float32)
    ),
    "resize of too few scales": lambda: between("Resize", ["", "s"], s=np.ones(1, np.float32)),
    "resize by -1": lambda: between("Resize", ["", "s"], s=np.array([1, -1], np.float32)),
    "resize by nan": lambda: between("Resize", ["", "s"], s=np.array([1, np.nan], np.float32)),
    "resize to 2^62": lambda: between("Resize", ["", "", "s"], s=[1, LARGE]),
    "resize by nothing": lambda: between("Resize"),
    "depth to space 0": lambda: images("DepthToSpace", (), {"blocksize": 0}),
    "space to depth 0": lambda: images("SpaceToDepth", (), {"blocksize": 0}),
    "max pool of nothing": lambda: images("MaxPool", (), {"kernel_shape": [0, 0]}),
    "max pool strides 0": lambda: images("MaxPool", (), {"kernel_shape": [2, 2], "strides": [0, 0]}),
    "average pool of one axis": lambda: images("AveragePool", (), {"kernel_shape": [2]}),
    "quantize axis 99": lambda: between(
        "QuantizeLinear", ["s", "z"], {"axis": 99}, s=np.ones(16, np.float32), z=np.zeros(16, np.int8)
    ),
    "dequantize of a wrong size": lambda: between(
        "DequantizeLinear", ["s", "z"], s=np.ones(5, np.float32), z=np.zeros(5, np.int8)
    ),
    "scale 0": lambda: between("QuantizeLinear", ["s"], s=np.float32(0)),
    "range step 0": lambda: between("Range", ["a", "b"], a=np.float32(1), b=np.float32(0)),
    "constant of shape 2^62": lambda: edited(
        lambda m: (
            m.graph.node[1].CopyFrom(op("ConstantOfShape", ["to"], ["v"])),
            m.graph.initializer.append(numpy_helper.from_array(np.array([LARGE, LARGE]), "to")),
        )
    )(),
    "shape from 99 to -99": lambda: between("Shape", attrs={"start": 99, "end": -99}),
    "scan of 99 inputs": looped("Scan", {"num_scan_inputs": 99}, 1, 1),
    "scan of -1 inputs": looped("Scan", {"num_scan_inputs": -1}, 1, 1),
    "scan of 2^62 inputs": looped("Scan", {"num_scan_inputs": LARGE}, 1, 1),
    "scan axes 99": looped("Scan", {"num_scan_inputs": 1, "scan_input_axes": [99]}, 1, 1),
    "scan of too many axes": looped("Scan", {"num_scan_inputs": 1, "scan_input_axes": [0] * 9}, 1, 1),
    "scan output axes 99": looped("Scan", {"num_scan_inputs": 1, "scan_output_axes": [99]}, 1, 1),
    "scan without outputs": looped("Scan", {"num_scan_inputs": 1}, 1, 0),
    "loop body without inputs": looped("Loop", {}, 0, 1, 3),
    "loop body of too many": looped("Loop", {}, 9, 9, 3),
    "loop on floats": looped("Loop", {}, 3, 2, 3),
    "if on floats": looped("If", {}, 0, 1),
    "if without outputs": looped("If", {}, 0, 0),
    "if of three outputs": looped("If", {}, 0, 1, 1, 3),
    "calls that double": lambda: doubling(25),
    "a long row of calls": lambda: called(["Relu"], *([f"F{i}"] for i in range(300))),
    "a function that calls itself": lambda: called(["Relu", "F0"]),
    "functions that call each other": lambda: called(["F1"], ["F0"]),
}
TENSORS: dict[str, Make] = {
    "raw data too long": with_tensor(data_type=1, dims=[4], raw_data=FLOATS * 2),
    "raw data too short": with_tensor(data_type=1, dims=[4], raw_data=FLOATS[:9]),
    "no data": with_tensor(data_type=1, dims=[4]),
    "too many entries": with_tensor(data_type=1, dims=[4], float_data=[0.0] * 9),
    "entries of another field": with_tensor(data_type=1, dims=[4], int64_data=[0] * 4),
    "two fields": with_tensor(data_type=1, dims=[4], float_data=[0.0] * 4, raw_data=FLOATS),
    "type 0": with_tensor(data_type=0, dims=[4], raw_data=FLOATS),
    "type 99": with_tensor(data_type=99, dims=[4], raw_data=FLOATS),
    "type -1": with_tensor(data_type=-1, dims=[4], raw_data=FLOATS),
    "text": with_tensor(data_type=8, dims=[4], string_data=[b"a"] * 4),
    "too little text": with_tensor(data_type=8, dims=[4], string_data=[b"a"]),
    "text in raw data": with_tensor(data_type=8, dims=[4], raw_data=FLOATS),
    "complex": with_tensor(data_type=14, dims=[4], float_data=[0.0] * 8),
    "a negative dim": with_tensor(data_type=1, dims=[-4], raw_data=FLOATS),
    "dims of 2^62": with_tensor(data_type=1, dims=[LARGE, LARGE], raw_data=FLOATS),
    "an empty axis and one of 2^62": with_tensor(data_type=1, dims=[0, LARGE], raw_data=b""),
    "an empty axis and two of 2^40": with_tensor(data_type=1, dims=[2**40, 0, 2**40]),
    "100 dims": with_tensor(data_type=1, dims=[1] * 100, raw_data=FLOATS[:4]),
    "65 empty dims": with_tensor(data_type=1, dims=[0] * 65),
    "int4 too short": with_tensor(data_type=22, dims=[5], raw_data=b"a"),
    "a segment": with_tensor(data_type=1, dims=[4], raw_data=FLOATS, segment=TensorProto.Segment(begin=0, end=4)),
    "no name": edited(lambda m: m.graph.initializer.add(data_type=1, dims=[4], raw_data=FLOATS)),
    "two of one name": edited(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
    "a name of NUL": with_tensor(name="t\0", data_type=1, dims=[4], raw_data=FLOATS),
    "no location": with_external(offset="0"),
    "a location of NUL": with_external(location="a\0b"),
    "a location that is too long": with_external(location="a" * 5000),
    "the folder as a location": with_external(location="."),
    "a location outside": with_external(location="../../etc/passwd"),
    "an absolute location": with_external(location="/etc/passwd"),
    "a Windows location": with_external(location="C:\\weights.bin"),
    "a location of line breaks": with_external(location="a\nb\n" * 9),
    "an offset of words": with_external(location="self.bin", offset="far"),
    "a negative offset": with_external(location="self.bin", offset="-4"),
    "an offset of 5,000 digits": with_external(location="self.bin", offset="9" * 5000),
    "a length of 2^62": with_external(location="self.bin", length=str(LARGE)),
    "a negative length": with_external(location="self.bin", length="-16"),
    "data that are not there": with_external(location="gone.bin"),
    "a constant without a value": with_constant(),
    "a constant of two values": with_constant(_attr("value_int", 1), _attr("value_float", 1.0)),
    "a constant of no type": with_constant(_attr("value", TensorProto(dims=[4], raw_data=FLOATS))),
    "a constant of type 99": with_constant(_attr("value", TensorProto(data_type=99, dims=[4], raw_data=FLOATS))),
    "a constant that is too long": with_constant(
        _attr("value", TensorProto(data_type=1, dims=[4], raw_data=FLOATS * 2))
    ),
    "a constant without data": with_constant(_attr("value", TensorProto(data_type=1, dims=[4]))),
    "a constant of 100 dims": with_constant(
        _attr("value", TensorProto(data_type=1, dims=[1] * 100, raw_data=FLOATS[:4]))
    ),
    "a constant of an empty axis": with_constant(_attr("value", TensorProto(data_type=1, dims=[0, LARGE]))),
    "a constant of texts": with_constant(_attr("value_strings", ["a", "b"])),
    "a constant of another name": with_constant(_attr("nonsense", 1)),
    "a sparse constant": with_constant(_sparse(99, 4)),
    "a sparse constant of 2^40": with_constant(_sparse(9, 2**40)),
}
PARTS: dict[str, Make] = {
    "no graph": lambda: onnx.ModelProto(ir_version=8),
    "an empty graph": edited(lambda m: m.graph.Clear()),
    "no inputs": edited(lambda m: m.graph.ClearField("input")),
    "no outputs": edited(lambda m: m.graph.ClearField("output")),
    "no nodes": edited(lambda m: m.graph.ClearField("node")),
    "ir version 99": edited(lambda m: setattr(m, "ir_version", 99)),
    "ir version -1": edited(lambda m: setattr(m, "ir_version", -1)),
    "opset 0": edited(lambda m: setattr(m.opset_import[0], "version", 0)),
    "opset -1": edited(lambda m: setattr(m.opset_import[0], "version", -1)),
    "opset 2^62": edited(lambda m: setattr(m.opset_import[0], "version", LARGE)),
    "opset twice": edited(lambda m: m.opset_import.add(domain="", version=9)),
    "no opset": edited(lambda m: m.ClearField("opset_import")),
    "a node without a type": edited(lambda m: m.graph.node[1].ClearField("op_type")),
    "a node without outputs": edited(lambda m: m.graph.node[1].ClearField("output")),
    "a node without inputs": edited(lambda m: m.graph.node[1].ClearField("input")),
    "a layer without a weight": edited(lambda m: m.graph.node[0].input.pop()),
    "an empty weight name": edited(lambda m: m.graph.node[0].input.__setitem__(1, "")),
    "an unknown operator": edited(lambda m: setattr(m.graph.node[1], "op_type", "Nonsense")),
    "an unknown domain": edited(lambda m: setattr(m.graph.node[1], "domain", "nonsense")),
    "the markers' domain": edited(
        lambda m: (
            setattr(m.graph.node[1], "domain", "onnxprune.flat"),
            setattr(m.graph.node[1], "op_type", "Close"),
            m.opset_import.add(domain="onnxprune.flat", version=1),
        )
    ),
    "an operator of the markers": edited(lambda m: m.graph.node[1].attribute.append(_attr("flat_id", 1))),
    "a cycle": edited(lambda m: m.graph.node[1].input.__setitem__(0, "v")),
    "an output made twice": edited(lambda m: m.graph.node.append(m.graph.node[1])),
    "an output that nobody makes": edited(lambda m: setattr(m.graph.output[0], "name", "gone")),
    "an input that nobody makes": edited(lambda m: m.graph.node[1].input.__setitem__(0, "gone")),
    "an input that is an output": edited(lambda m: m.graph.output.append(m.graph.input[0])),
    "an input twice": edited(lambda m: m.graph.input.append(m.graph.input[0])),
    "an output twice": edited(lambda m: m.graph.output.append(m.graph.output[0])),
    "an input without a type": edited(lambda m: m.graph.input[0].ClearField("type")),
    "an input of type 99": edited(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)),
    "an input of size -5": edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -5)),
    "an input of size 2^62": edited(
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", LARGE)
    ),
    "an input of size 0": edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 0)),
    "an input of 100 axes": edited(lambda m: m.graph.input[0].CopyFrom(tensor("x", [1] * 100))),
    "an input of another width": edited(lambda m: m.graph.input[0].CopyFrom(tensor("x", ["N", 7]))),
    "a sequence as an input": edited(
        lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", 1, ["N", 8]))
    ),
    "a shape that is wrong": edited(lambda m: m.graph.value_info.append(tensor("h", [7, 7, 7]))),
    "an attribute without a name": edited(lambda m: m.graph.node[1].attribute.add(type=2, i=1)),
    "an attribute of no type": edited(lambda m: m.graph.node[1].attribute.add(name="a")),
    "an attribute of type 99": edited(
        lambda m: m.graph.node[1].attribute.add(name="a", type=2).MergeFromString(b"\xa0\x01\x63")
    ),
    "an attribute twice": edited(lambda m: [m.graph.node[0].attribute.append(_attr("a", 1)) for _ in "ab"]),
    "an attribute that refers": edited(
        lambda m: m.graph.node[1].attribute.add(name="alpha", ref_attr_name="a", type=1)
    ),
    "a name of control characters": edited(lambda m: setattr(m.graph.node[1], "name", "\x1b[2J\n\r\0")),
    "a very long name": edited(lambda m: setattr(m.graph.node[1], "name", "n" * 10**6)),
    "a function without nodes": edited(
        lambda m: m.functions.append(helper.make_function("local", "F", ["a"], ["b"], [], m.opset_import))
    ),
    "a sparse initializer out of range": edited(
        lambda m: m.graph.sparse_initializer.append(
            SparseTensorProto(
                values=TensorProto(name="s", data_type=1, dims=[1], float_data=[1.0]),
                indices=TensorProto(data_type=7, dims=[1], int64_data=[99]),
                dims=[4],
            )
        )
    ),
    "a sparse initializer of 2^40": edited(
        lambda m: m.graph.sparse_initializer.append(
            SparseTensorProto(
                values=TensorProto(name="s", data_type=1, dims=[1], float_data=[1.0]),
                indices=TensorProto(data_type=7, dims=[1], int64_data=[9]),
                dims=[2**40],
            )
        )
    ),
    "a quantization annotation of nothing": edited(lambda m: m.graph.quantization_annotation.add(tensor_name="gone")),
    "metadata twice": edited(lambda m: [m.metadata_props.add(key="a", value="b") for _ in "ab"]),
    "training info": edited(lambda m: m.training_info.add()),
}
MODELS: dict[str, Make] = {**OPERATORS, **TENSORS, **PARTS}
