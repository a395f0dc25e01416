"""Models, files and comparisons for the tests of reading and writing."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph import weights
from onnxprune.graph.io import load

RNG = np.random.default_rng(0)
BIG = RNG.standard_normal((32, 48), dtype=np.float32)  # 6 KiB
SMALL = RNG.standard_normal(48, dtype=np.float32)  # 192 bytes

NARROW = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "float4": ml_dtypes.float4_e2m1fn,
    "int8": np.int8,
    "int64": np.int64,
    "bool": np.bool_,
    "complex64": np.complex64,
}


def values(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return RNG.integers(0, 2, shape).astype(np.float32).astype(dtype)


def named(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array, name)


def typed(name: str, array: np.ndarray) -> TensorProto:
    """The data in a typed field, as `make_tensor` lays them out."""
    return helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel())


def gemm(*tensors: TensorProto, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """y = x w + b, with whatever else among the initializers."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 48])],
        tensors or [named("w", BIG), named("b", SMALL)],
    )
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])


def holding(*tensors: TensorProto) -> onnx.ModelProto:
    """A model that holds any tensors: each is an output of its own."""
    nodes = [helper.make_node("Identity", [t.name], [f"{t.name}_out"]) for t in tensors]
    outputs = [helper.make_tensor_value_info(f"{t.name}_out", t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph(nodes, "holding", [], outputs, tensors)
    return helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 23)])


def put(folder: Path, model: onnx.ModelProto | bytes, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString(deterministic=True))
    return path


def put_external(folder: Path, model: onnx.ModelProto | None = None, name: str = "m.onnx") -> Path:
    """Save with all the data, small tensors too, in `weights.bin`."""
    path = folder / name
    onnx.save_model(model or gemm(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def edit_external(path: Path, key: str, value: str | None) -> None:
    """Set or drop a key of the first initializer's external data."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    kept = {e.key: e.value for e in tensor.external_data if e.key != key}
    del tensor.external_data[:]
    for k, v in {**kept, **({} if value is None else {key: value})}.items():
        tensor.external_data.add(key=k, value=v)
    put(path.parent, model, path.name)


def plain(model: onnx.ModelProto) -> bytes:
    """The bytes of a model whose initializers all have `raw_data`, wherever they came from."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for t in copy.graph.initializer:
        if t.data_type != TensorProto.STRING:
            raw = numpy_helper.from_array(numpy_helper.to_array(t)).raw_data
            for field in weights.DATA_FIELDS:
                t.ClearField(field)
            t.raw_data = raw
    return bytes(copy.SerializeToString(deterministic=True))


def refuses(source: Any, *words: str) -> None:
    """Loading fails with one line that holds all of these words."""
    with pytest.raises(ModelError) as e:
        load(source)
    message = str(e.value)
    assert "\n" not in message
    assert [w for w in words if w not in message] == [], message


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def cleared(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnx.load leaves marks of external data behind."""
    for t in model.graph.initializer:
        t.ClearField("data_location")
        del t.external_data[:]
    return model
