"""Reading: nothing is lost, and what cannot be read is said in one line."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from io_models import (
    BIG,
    NARROW,
    SMALL,
    cleared,
    edit_external,
    gemm,
    holding,
    named,
    plain,
    put,
    put_external,
    refuses,
    typed,
    values,
)
from laws import LAWS, check
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxprune.graph import weights, wire
from onnxprune.graph.check import is_runtime_only
from onnxprune.graph.files import SourceFile
from onnxprune.graph.io import load
from onnxprune.graph.save import build_full_proto, save
from onnxprune.graph.weights import ArrayWeight, FileWeight, SlicedWeight, TensorWeight


def test_large_initializers_stay_in_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, gemm())
    model = load(path)
    w, b = model.proto.graph.initializer
    assert (w.name, w.data_type, list(w.dims)) == ("w", TensorProto.FLOAT, [32, 48])
    assert w.ByteSize() < 20 and not w.HasField("raw_data")
    assert b.raw_data == SMALL.tobytes()
    assert isinstance(model.weights["w"], FileWeight) and isinstance(model.weights["b"], TensorWeight)
    for name, array in (("w", BIG), ("b", SMALL)):
        got = model.weights[name].array()
        np.testing.assert_array_equal(got, array)
        assert not got.flags.writeable
        assert bytes(model.weights[name].raw()) == array.tobytes()
        assert model.weights[name].nbytes == array.nbytes
    assert (model.path, model.size_bytes, model.external) == (path, path.stat().st_size, False)


@pytest.mark.parametrize("make", [named, typed], ids=["raw", "typed"])
@pytest.mark.parametrize("dtype", NARROW.values(), ids=NARROW)
@pytest.mark.parametrize("shape", [(5,), (45, 99), ()], ids=["small", "large", "scalar"])
def test_every_type_both_ways(tmp_path: Path, dtype: Any, shape: tuple[int, ...], make: Callable[..., Any]) -> None:
    array = values(dtype, shape)
    tensor = make("t", array)
    source = holding(tensor)
    for model in (load(put(tmp_path, source)), load(source)):
        weight = model.weights["t"]
        assert (weight.data_type, weight.shape) == (tensor.data_type, shape)
        np.testing.assert_array_equal(weight.array(), array)
        assert bytes(weight.raw()) == named("t", array).raw_data
        assert weight.nbytes == len(weight.raw())
        for external in (False, True):
            out = save(model, tmp_path / "out.onnx", external=external)[0]
            assert plain(cleared(onnx.load(out))) == plain(source)


def test_typed_large_is_emptied_and_small_keeps_its_field(tmp_path: Path) -> None:
    model = load(put(tmp_path, gemm(typed("w", BIG), typed("b", SMALL))))
    w, b = model.proto.graph.initializer
    assert not w.float_data and len(b.float_data) == 48
    (out,) = save(model, tmp_path / "out.onnx")
    w, b = onnx.load(out).graph.initializer
    assert w.raw_data == BIG.tobytes() and len(b.float_data) == 48 and not b.HasField("raw_data")


def test_strings_stay_in_the_message(tmp_path: Path) -> None:
    words = TensorProto(name="t", data_type=TensorProto.STRING, dims=[600], string_data=[b"caf\xc3\xa9", b"\xff"] * 300)
    path = put(tmp_path, holding(words))
    model = load(path)
    assert model.weights["t"].array()[:2].tolist() == [b"caf\xc3\xa9", b"\xff"]
    with pytest.raises(ValueError, match="strings"):
        model.weights["t"].raw()
    out, *data = save(model, tmp_path / "out.onnx", external=True)
    assert out.read_bytes() == path.read_bytes() and not data
    model.weights["t"] = SlicedWeight(model.weights["t"], [(0, np.array([1, 0, 1]))])
    model.proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    save(model, out)
    assert list(onnx.load(out).graph.initializer[0].string_data) == [b"\xff", b"caf\xc3\xa9", b"\xff"]


def test_empty_tensors(tmp_path: Path) -> None:
    path = put(tmp_path, holding(named("a", np.zeros((0, 3), np.float32)), typed("b", np.zeros((2, 0), np.int64))))
    model = load(path)
    assert [model.weights[n].array().shape for n in "ab"] == [(0, 3), (2, 0)]
    assert save(model, tmp_path / "out.onnx", external=True)[0].read_bytes() == path.read_bytes()


def test_a_model_proto_is_not_changed_nor_copied() -> None:
    source = gemm()
    before = source.SerializeToString(deterministic=True)
    model = load(source)
    assert isinstance(model.weights["w"], TensorWeight) and not model.proto.graph.initializer[0].HasField("raw_data")
    assert build_full_proto(model).SerializeToString(deterministic=True) == before
    model.proto.graph.initializer[1].raw_data = b""
    model.proto.graph.node[0].name = "changed"
    assert source.SerializeToString(deterministic=True) == before
    assert (model.path, model.size_bytes) == (None, len(before))


def test_a_graph_in_two_records_is_merged(tmp_path: Path) -> None:
    whole, rest = gemm(), onnx.ModelProto()
    rest.graph.initializer.append(whole.graph.initializer.pop())
    path = put(tmp_path, whole.SerializeToString() + rest.SerializeToString())
    model = load(path)
    np.testing.assert_array_equal(model.weights["w"].array(), BIG)
    np.testing.assert_array_equal(model.weights["b"].array(), SMALL)
    assert build_full_proto(model) == gemm()


def test_of_a_repeated_raw_data_the_last_counts(tmp_path: Path) -> None:
    tensor = wire.encode_prefix(9, 5000) + bytes(5000) + named("w", BIG).SerializeToString()
    graph = gemm(named("b", SMALL)).graph.SerializeToString() + wire.encode_prefix(5, len(tensor)) + tensor
    rest = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    model = load(put(tmp_path, rest + wire.encode_prefix(7, len(graph)) + graph))
    np.testing.assert_array_equal(model.weights["w"].array(), BIG)


def test_unknown_fields_survive(tmp_path: Path) -> None:
    new = wire.encode_varint(900 << 3) + b"\x07"
    graph = gemm().graph.SerializeToString(deterministic=True) + new
    rest = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    path = put(tmp_path, rest + wire.encode_prefix(7, len(graph)) + graph + new)
    (out,) = save(load(path), tmp_path / "out.onnx")
    assert out.read_bytes().count(new) == 2
    assert out.stat().st_size == path.stat().st_size


def test_groups_of_old_protobufs_fall_back_to_protobuf(tmp_path: Path) -> None:
    group = wire.encode_varint(900 << 3 | 3) + wire.encode_varint(900 << 3 | 4)
    model = load(put(tmp_path, gemm().SerializeToString() + group))
    np.testing.assert_array_equal(model.weights["w"].array(), BIG)
    assert isinstance(model.weights["w"], ArrayWeight)


def test_operators_of_unknown_domains_pass() -> None:
    source = gemm()
    source.graph.node.add(op_type="Whatever", domain="com.example", input=["y"], output=["z"])
    source.opset_import.add(domain="com.example", version=99)
    load(source)


def test_old_operators_do_not_print(capfd: pytest.CaptureFixture[str]) -> None:
    source = gemm(opset=7, ir=3)
    source.graph.input.extend(helper.make_tensor_value_info(n, 1, s) for n, s in (("w", [32, 48]), ("b", [48])))
    source.graph.node.add(op_type="ImageScaler", input=["y"], output=["z"])
    load(source)
    assert capfd.readouterr() == ("", "")


def test_every_operator_that_only_onnx_runtime_knows() -> None:
    """What ONNX Runtime registers in the default domain at a version at which ONNX does not have it."""
    history = [(s.name, s.since_version) for s in onnx.defs.get_all_schemas_with_history() if not s.domain]
    own = {s.name for s in get_all_operator_schema() if not s.domain and (s.name, s.since_version) not in history}
    assert all(is_runtime_only(helper.make_node(op, [], [])) for op in own)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    """y = relu(x w1) w2, changed."""
    model = helper.make_model(
        onnx.parser.parse_graph(
            "g (float[N, 8] x) => (float[N, 4] y) { a = MatMul(x, w1) b = Relu(a) y = MatMul(b, w2) }"
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 12)],
    )
    model.graph.initializer.extend([named("w1", BIG[:8, :16]), named("w2", BIG[:16, :4])])
    change(model)
    return model


def normalized(model: onnx.ModelProto) -> None:
    model.graph.node[1].CopyFrom(helper.make_node("LayerNormalization", ["a", "s"], ["b"]))
    model.graph.initializer.append(named("s", SMALL[:16]))


def normalized_in_a_body(model: onnx.ModelProto) -> None:
    norm = onnx.parser.parse_graph("then () => (float[N, 16] t) { t = Relu(a) }")
    norm.node[0].CopyFrom(helper.make_node("LayerNormalization", ["a", "s"], ["t"]))
    plain = onnx.parser.parse_graph("else () => (float[N, 16] e) { e = Identity(a) }")
    model.graph.node[1].CopyFrom(helper.make_node("If", ["c"], ["b"], then_branch=norm, else_branch=plain))
    model.graph.initializer.extend([named("s", SMALL[:16]), named("c", np.array(True))])


ACCEPTED: dict[str, Callable[[onnx.ModelProto], object]] = {
    "an operator below its first opset": normalized,
    "an operator below its first opset, in a body": normalized_in_a_body,
    "nodes in another order": lambda m: m.graph.node.append(m.graph.node.pop(0)),
    "IR 3 with initializers that are no inputs": lambda m: setattr(m, "ir_version", 3),
    "no name": lambda m: m.graph.ClearField("name"),
    "an output without a type": lambda m: m.graph.output[0].ClearField("type"),
    "an output without a shape": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "the default domain by its name": lambda m: setattr(m.graph.node[1], "domain", "ai.onnx"),
    "com.microsoft without its import": lambda m: m.graph.node[1].CopyFrom(
        helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft")
    ),
}


UNTOLD = {  # laws that are not for them
    "nodes in another order": "identity",  # they are put in order
    "IR 3 with initializers that are no inputs": "removal",  # ONNX Runtime wants each read, and the zeroed model leaves one unread
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_onnx_runtime_accepts_is_pruned(what: str) -> None:
    model = changed(ACCEPTED[what])
    feeds = [{"x": BIG[:n, :8]} for n in (1, 3)]
    checker = check(model, feeds, laws=[law for law in LAWS if law != UNTOLD.get(what)])
    assert [g.size for g in checker.groups] == [16]


# What cannot be loaded


def test_missing_folder_empty(tmp_path: Path) -> None:
    refuses(tmp_path / "no.onnx", "no.onnx", "No such file")
    refuses(tmp_path, "is a folder")
    refuses(put(tmp_path, b""), "is empty")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, gemm())

    def denied(self: SourceFile, path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(SourceFile, "__init__", denied)
    refuses(path, "m.onnx", "Permission denied")


@pytest.mark.parametrize(
    "content",
    [
        b"This is a text file.\nIt has two lines.\n",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde",
        b"PK\x03\x04" + bytes(200),
        bytes(500),
        np.random.default_rng(1).bytes(5000),
        wire.encode_prefix(2, 5) + b"torch",  # a message with a producer and nothing else
    ],
    ids=["text", "png", "zip", "zeros", "random", "other protobuf"],
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    refuses(put(tmp_path, content), "is not an ONNX model")


def test_git_lfs_pointer(tmp_path: Path) -> None:
    refuses(put(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull")


def test_cut_anywhere(tmp_path: Path) -> None:
    whole = gemm().SerializeToString(deterministic=True)
    for end in (*range(0, len(whole), 97), *range(len(whole) - 40, len(whole))):
        refuses(put(tmp_path, whole[:end]), "m.onnx")
    refuses(put(tmp_path, whole[:3000]), "cut short")


def test_header(tmp_path: Path) -> None:
    def without(field: str) -> onnx.ModelProto:
        model = gemm()
        model.ClearField(field)
        return model

    refuses(without("ir_version"), "no ir_version")
    refuses(without("graph"), "no graph")
    refuses(put(tmp_path, without("opset_import")), "no opset_import")
    refuses(gemm(opset=400), "opset ai.onnx version 400", "upgrade onnx")
    refuses(gemm(ir=400), "IR version 400", "upgrade onnx")


def test_checker_has_the_last_word() -> None:
    source = gemm()
    source.graph.node[0].input[0] = "nowhere"
    refuses(source, "not valid ONNX", "topologically sorted", "'nowhere'")
    source = gemm()
    source.graph.node[0].op_type = "Gemmm"
    refuses(source, "No Op registered for Gemmm")


def test_a_domain_without_its_import_is_refused_with_the_fix() -> None:
    source = gemm()
    source.graph.node[0].domain = "qonnx.custom_op.general"
    refuses(source, "'qonnx.custom_op.general'", "model.opset_import.add(domain='qonnx.custom_op.general', version=1)")
    source.opset_import.add(domain="qonnx.custom_op.general", version=1)
    load(source)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["raw", "typed", "int4", "none"])
def test_data_that_do_not_fit_their_shape(tmp_path: Path, kind: str, large: bool) -> None:
    array = values(ml_dtypes.int4 if kind == "int4" else np.float32, (99, 99) if large else (9, 9))
    tensor = typed("t", array) if kind in ("typed", "int4") else named("t", array)
    tensor.dims[0] += 2
    if kind == "none":
        tensor.ClearField("raw_data")
    refuses(put(tmp_path, holding(tensor)), "tensor 't'", f"[{tensor.dims[0]}, {tensor.dims[1]}]")
    refuses(holding(tensor), "tensor 't'")


def test_bad_tensors(tmp_path: Path) -> None:
    refuses(put(tmp_path, gemm(named("w", BIG), named("b", SMALL), named("w", BIG))), "two initializers", "'w'")
    for change, word in (({"data_type": 99}, "data type 99"), ({"dims": [-1]}, "negative dim")):
        tensor = named("t", SMALL)
        tensor.ClearField(*change)
        tensor.MergeFrom(TensorProto(**change))
        refuses(gemm(tensor), "'t'", word)


# External data


def test_external_data_stay_in_their_file(tmp_path: Path) -> None:
    path = put_external(tmp_path)
    model = load(path)
    w, b = model.proto.graph.initializer
    assert not w.external_data and w.data_location == TensorProto.DEFAULT and b.raw_data == SMALL.tobytes()
    np.testing.assert_array_equal(model.weights["w"].array(), BIG)
    assert model.external and [file.path for file in model.files] == [path, tmp_path / "weights.bin"]
    assert model.size_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    out, data = save(model, tmp_path / "out.onnx")
    assert out == tmp_path / "out.onnx" and data.name.startswith("out.onnx.") and data.suffix == ".data"
    assert save(model, tmp_path / "in.onnx", external=False) == [tmp_path / "in.onnx"]
    assert plain(onnx.load(tmp_path / "in.onnx")) == plain(gemm())


@pytest.mark.parametrize("key", ["offset", "length"])
def test_external_keys_may_be_missing(tmp_path: Path, key: str) -> None:
    path = put_external(tmp_path)
    edit_external(path, key, None)
    np.testing.assert_array_equal(load(path).weights["w"].array(), BIG)


@pytest.mark.parametrize(
    "location", ["../weights.bin", "a/../../weights.bin", "/weights.bin", "C:\\w.bin", "..\\w", ""]
)
def test_external_data_must_lie_in_the_folder(tmp_path: Path, location: str) -> None:
    path = put_external(tmp_path)
    edit_external(path, "location", location)
    refuses(path, "'w'", repr(location), "inside the model's folder")


def test_external_data_must_not_be_a_link_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = put_external(folder)
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    refuses(path, "'w'", "'weights.bin'", "link out of")


def test_external_data_that_are_not_there(tmp_path: Path) -> None:
    for key, value, word in (("length", "7", "7"), ("length", "x", "whole numbers"), ("offset", "-4", "-4")):
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        path = put_external(tmp_path)
        edit_external(path, key, value)
        refuses(path, "'w'", "'weights.bin'", word)
    edit_external(path, "offset", "0")
    (tmp_path / "weights.bin").write_bytes(BIG.tobytes()[:-1])
    refuses(path, "'w'", "'weights.bin'", str(BIG.nbytes - 1))
    (tmp_path / "weights.bin").unlink()
    refuses(path, "'w'", "'weights.bin'", "copy it there")


def test_external_data_of_a_model_proto(tmp_path: Path) -> None:
    refuses(onnx.load(put_external(tmp_path), load_external_data=False), "'w'", "give the path")


def test_external_data_of_attributes_and_bodies_are_read_in(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "v"], ["r"])],
        "body",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, [48])],
        [named("v", SMALL)],
    )
    source = gemm()
    source.graph.node.append(helper.make_node("Constant", [], ["k"], value=named("k", BIG)))
    source.graph.node.append(helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body))
    source.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    path = put_external(tmp_path, source)
    inner = source.graph.node[1].attribute[0].t, source.graph.node[2].attribute[0].g.initializer[0]
    stored = onnx.load(path, load_external_data=False)
    offset = (tmp_path / "weights.bin").stat().st_size
    with open(tmp_path / "weights.bin", "ab") as file:
        for original, t in zip(
            inner,
            (stored.graph.node[1].attribute[0].t, stored.graph.node[2].attribute[0].g.initializer[0]),
            strict=True,
        ):
            raw = numpy_helper.to_array(original, str(tmp_path)).tobytes()
            for field in weights.DATA_FIELDS:
                t.ClearField(field)
            t.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", offset), ("length", len(raw))):
                t.external_data.add(key=key, value=str(value))
            offset += file.write(raw)
    model = load(put(tmp_path, stored))
    assert model.proto.graph.node[1].attribute[0].t.raw_data == BIG.tobytes()
    assert model.proto.graph.node[2].attribute[0].g.initializer[0].raw_data == SMALL.tobytes()
