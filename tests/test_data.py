"""Data: inputs as specifications, random arrays, files, pictures and Python iterables, and the errors they raise."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny import linear, model, saved, spec, tensor

from onnxprune.calibration import Batches, Preprocess, draw_inputs, list_input_specs, load_data, read_preprocess
from onnxprune.errors import OnnxPruneError

# Inputs


def test_inputs_that_fit_no_memory_and_have_no_type() -> None:
    with pytest.raises(OnnxPruneError, match="more than fits any memory"):
        draw_inputs([spec("x", (2**62, 2))], seed=0)
    assert draw_inputs([spec("x", ("9" * 5000 + " + 1",))], seed=0)[0]["x"].shape == (2,)
    with pytest.raises(OnnxPruneError, match="a tensor of no type"):
        list_input_specs(model([], [tensor("x", [2], TensorProto.UNDEFINED)], []))


def test_input_specs_leave_initializers_out() -> None:
    m = linear(np.ones((3, 2)))
    m.graph.input.append(tensor("w", [3, 2]))
    m.graph.input.append(tensor("paddle", [-1, "?", "None", "h"], TensorProto.BFLOAT16))
    assert list_input_specs(m) == [
        spec("x", ("N", 3)),
        spec("paddle", (None, None, None, "h"), ml_dtypes.bfloat16),
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (tensor("s", [1], TensorProto.STRING), "strings"),
        (helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1]), "sequence_type"),
        (tensor("s", None), "declares no shape"),
    ],
)
def test_inputs_that_cannot_be_fed(value: onnx.ValueInfoProto, why: str) -> None:
    with pytest.raises(OnnxPruneError, match=f"input 's'.*{why}"):
        list_input_specs(model([], [value], []))


def test_one_symbol_one_size_and_batch_wins() -> None:
    specs = [spec("state", (2, "k", 4)), spec("x", ("k", "t")), spec("y", ("k", "t + 1", None))]
    arrays, sizes = draw_inputs(specs, seed=0, batch=3)
    assert sizes == {"k": 3, "t": 16, "t + 1": 17, "y[2]": 16}
    assert [arrays[s.name].shape for s in specs] == [(2, 3, 4), (3, 16), (3, 17, 16)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("N", 3, "h", "w"), (2, 3, 224, 224)),
        ((None, None, None, None), (2, 3, 224, 224)),
        (("N", "h", "w", 3), (2, 224, 224, 3)),
        (("batch-size", 8, "past_sequence_length", 64), (2, 8, 16, 64)),
        (("N", 1, "d", "h", "w"), (2, 1, 32, 32, 32)),
        ((1, "time"), (1, 16)),
        ((), ()),
    ],
)
def test_sizes_of_dynamic_axes(shape: tuple[Any, ...], expected: tuple[int, ...]) -> None:
    arrays, _ = draw_inputs([spec("x", shape)], seed=0)
    assert arrays["x"].shape == expected


def test_given_sizes_win_and_unknown_ones_are_named() -> None:
    specs = [spec("x", ("N", None))]
    assert draw_inputs(specs, seed=0, sizes={"N": 5, "x[1]": 7})[0]["x"].shape == (5, 7)
    with pytest.raises(OnnxPruneError, match=r"'M' names no dynamic axis.*\['N', 'x\[1\]'\]"):
        draw_inputs(specs, seed=0, sizes={"M": 5})
    with pytest.raises(OnnxPruneError, match="'N' is 0"):
        draw_inputs(specs, seed=0, sizes={"N": 0})


def test_values_follow_types_and_names() -> None:
    names = {"input_ids": np.int64, "attention_mask": np.int64, "token_type_ids": np.int32, "position_ids": np.int64}
    specs = [spec(n, (2, 300), t) for n, t in names.items()]
    specs += [spec("flags", (2, 300), np.bool_), spec("picture", (2, 300), np.uint8), spec("kind", (2, 300), np.int64)]
    a, _ = draw_inputs(specs, seed=0)
    assert all(a[s.name].dtype == s.dtype for s in specs)
    assert a["input_ids"].min() == 0 and 90 < a["input_ids"].max() < 100
    assert (a["attention_mask"] == 1).all() and not a["token_type_ids"].any()
    assert (a["position_ids"] == np.arange(300)).all()
    assert set(np.unique(a["kind"])) == {0, 1} and a["picture"].max() > 200
    assert a["flags"].any() and not a["flags"].all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_random_floats_are_seeded_and_normal(dtype: Any) -> None:
    specs = [spec("x", (1000,), dtype)]
    one, two, other = (draw_inputs(specs, seed=s)[0]["x"] for s in (1, 1, 2))
    assert one.dtype == dtype and one.tobytes() == two.tobytes() != other.tobytes()
    assert abs(float(one.astype(float).mean())) < 0.2 and 0.8 < float(one.astype(float).std()) < 1.2


# The user's data


def test_dynamic_batches_keep_the_remainder(tmp_path: Path) -> None:
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    b = load_data(saved(tmp_path, x=x, labels=np.arange(7)), [spec("x", ("N", 2))], batch_size=3)
    assert [f["x"].tolist() for f in b] == [x[:3].tolist(), x[3:6].tolist(), x[6:].tolist()]
    assert (b.samples, b.dropped, b.sizes, b.source) == (7, 0, {"N": 3}, str(tmp_path / "data.npz"))
    assert b.labels is not None and b.labels.tolist() == list(range(7))


def test_static_batches_drop_and_say_so(tmp_path: Path) -> None:
    x = np.zeros((7, 2), np.float32)
    b = load_data(saved(tmp_path, x=x, label=np.arange(7)), [spec("x", (3, 2))])
    assert [f["x"].shape for f in b] == [(3, 2), (3, 2)]
    assert (b.samples, b.dropped) == (6, 1)
    assert b.labels is not None and b.labels.tolist() == list(range(6))


def test_batch_axis_follows_its_symbol_and_states_are_shared(tmp_path: Path) -> None:
    specs = [spec("x", ("k", 4)), spec("state", (2, "k", 3)), spec("rate", (), np.int64), spec("table", (5, 2))]
    arrays = {"x": (6, 4), "state": (2, 6, 3), "table": (5, 2)}
    data = {n: np.random.default_rng(0).random(s).astype(np.float32) for n, s in arrays.items()}
    b = load_data(saved(tmp_path, rate=np.array(8), **data), specs, batch_size=4)
    first, last = b
    assert np.array_equal(last["state"], data["state"][:, 4:]) and np.array_equal(last["x"], data["x"][4:])
    assert first["rate"] == 8 and last["rate"].shape == () and np.array_equal(last["table"], data["table"])


def test_nodes_and_edges_stay_one_batch(tmp_path: Path) -> None:
    specs = [spec("x", ("nodes", 3)), spec("edges", (2, "e"), np.int64)]
    path = saved(tmp_path, x=np.zeros((50, 3), np.float32), edges=np.zeros((2, 80), np.int64))
    (only,) = load_data(path, specs, batch_size=8)
    assert only["x"].shape == (50, 3) and only["edges"].shape == (2, 80)


def test_folder_of_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a_b:0.npy", np.ones((4, 2), np.float32))
    np.save(tmp_path / "s.npy", np.array(3.0, np.float32))
    np.save(tmp_path / "labels.npy", np.arange(4))
    b = load_data(tmp_path, [spec("a/b:0", ("N", 2)), spec("s", ())])
    assert b.samples == 4 and b.labels is not None
    assert {n: x.shape for n, x in b.first().items()} == {"a/b:0": (4, 2), "s": ()}


def test_one_input_takes_an_array_of_any_name(tmp_path: Path) -> None:
    x = np.ones((4, 2), np.float32)
    np.save(tmp_path / "pictures.npy", x)
    for path in (saved(tmp_path, images=x), tmp_path / "pictures.npy"):
        assert np.array_equal(load_data(path, [spec("x", ("N", 2))]).first()["x"], x)


def test_bfloat16_survives_a_file(tmp_path: Path) -> None:
    x = np.arange(4).reshape(2, 2).astype(ml_dtypes.bfloat16)
    b = load_data(saved(tmp_path, x=x), [spec("x", ("N", 2), ml_dtypes.bfloat16)])
    assert b.first()["x"].dtype == ml_dtypes.bfloat16 and np.array_equal(b.first()["x"], x)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros((4, 2))}, r"'x' expects float32 \[N, 2\], got float64 \[4, 2\]; convert.*astype\('float32'\)"),
        ({"x": np.zeros((4, 3), "f")}, r"expects float32 \[N, 2\], got float32 \[4, 3\]"),
        ({"x": np.zeros(2, "f")}, r"got float32 \[2\]"),
        ({"x": np.zeros((0, 2), "f")}, r"got float32 \[0, 2\]"),
        ({"x": np.zeros((4, 2), "f"), "labels": np.arange(3)}, r"labels are int64 \[3\]; give 4 of them"),
        ({"x": np.zeros((4, 2), "f"), "labels": np.zeros(())}, "labels are float64"),
        ({"x": np.zeros((4, 2), "f"), "z": np.zeros(1)}, "'z' is no input of the model; give one array"),
        ({"x": np.array([{}, 1], object)}, "cannot be read as plain numpy arrays"),
        ({}, "the file has no arrays"),
    ],
)
def test_wrong_data_of_one_input(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(OnnxPruneError, match=why):
        load_data(saved(tmp_path, **arrays), [spec("x", ("N", 2))])


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ((4, "t"), (4, "t"), None),
        (("N", 5), ("N", 6), r"'N' is 6 on axis 0 of input 'b', but 5 before"),
        ((1, 5), (1, 6), "the same number of samples"),
        ((2, 6), (3, 6), "the same number of samples.*batches of"),
    ],
)
def test_inputs_of_unequal_length(tmp_path: Path, a: Any, b: Any, why: str | None) -> None:
    """Each case: the declared axis 0 of two inputs, and what the file holds there (a `t`: what is declared)."""
    held = {name: np.zeros((d if n == "t" else n, 2), "f") for name, (d, n) in (("a", a), ("b", b))}
    specs = [spec("a", (a[0], 2)), spec("b", (b[0], 2))]
    path = saved(tmp_path, **held)
    if why is None:
        assert load_data(path, specs).samples == 4
        return
    with pytest.raises(OnnxPruneError, match=why):
        load_data(path, specs)


@pytest.mark.parametrize("content", [b"", b"not an array", b"PK\x03\x04 cut short"])
def test_files_that_hold_no_arrays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(OnnxPruneError, match="cannot be read"):
        load_data(path, [spec("x", ("N", 2))])
    with pytest.raises(OnnxPruneError, match="there is no such file"):
        load_data(tmp_path / "absent.npz", [spec("x", ("N", 2))])


def _npy(shape: tuple[int, ...], data: bytes) -> bytes:
    """An .npy of float32 that declares a shape, whatever its data."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue() + data


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 2), 9), ((2, 2), 9), ((2**36, 1), 16), ((300_000, 2), 2_000_000), ((-4, -4), 64)],
    ids=["short", "long", "256 GiB", "large", "negative"],
)
def test_arrays_that_declare_another_size_than_they_have(
    tmp_path: Path, kind: int, shape: tuple[int, ...], size: int
) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w", kind) as archive:
        archive.writestr("x.npy", _npy(shape, bytes(size)))
        archive.writestr("y.npy", _npy((2**20, 2), bytes(2**23)))
    with pytest.raises(OnnxPruneError, match=r"declares .* bytes of data|negative dimensions"):
        load_data(tmp_path / "data.npz", [spec("x", ("N", 2))])


@pytest.mark.parametrize("rows", [8, 300_000], ids=["small", "large"])
def test_a_wrong_checksum_is_refused(tmp_path: Path, rows: int) -> None:
    path = saved(tmp_path, x=np.zeros((rows, 2), np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if rows > 8 else 200] ^= 1
    path.write_bytes(data)
    with pytest.raises(OnnxPruneError, match="CRC"):
        load_data(path, [spec("x", ("N", 2))])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_stay_on_the_disk(tmp_path: Path, save: Any, order: Any) -> None:
    x = np.asarray(np.random.default_rng(0).random((70_000, 4), dtype=np.float32), order=order)
    save(tmp_path / "data.npz", small=np.arange(3.0, dtype=np.float32), x=x)
    data = load_data(tmp_path / "data.npz", [spec("small", (3,)), spec("x", ("N", 4))], batch_size=1000)
    (column,) = (c for n, c in data.columns.items() if n == "x")  # type: ignore[attr-defined]
    assert isinstance(column, np.memmap)
    for _ in range(2):
        assert np.array_equal(np.concatenate([f["x"] for f in data]), x)


def test_a_limit_spreads_over_the_data(tmp_path: Path) -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    data = load_data(saved(tmp_path, x=x, labels=np.arange(10)), [spec("x", ("N", 1))], batch_size=2).limit(5)
    assert [f["x"].ravel().tolist() for f in data] == [[0, 2], [4, 6], [8]]
    assert data.samples == 5 and data.labels is not None and data.labels.tolist() == [0, 2, 4, 6, 8]
    assert data.limit(99).samples == 5
    with pytest.raises(OnnxPruneError, match="0 samples asked for, but calibration needs at least one"):
        data.limit(0)


def test_a_limit_keeps_static_batches_whole(tmp_path: Path) -> None:
    data = load_data(saved(tmp_path, x=np.zeros((12, 1), np.float32)), [spec("x", (4, 1))])
    assert [f["x"].shape for f in data.limit(11)] == [(4, 1), (4, 1)]
    with pytest.raises(OnnxPruneError, match="3 samples asked for, but the model takes batches of 4"):
        data.limit(3)


# Python


def test_python_batches_in_every_form() -> None:
    a, b = np.ones((3, 2), np.float32), np.zeros((3,), np.int64)
    one, two = [spec("a", ("N", 2))], [spec("a", ("N", 2)), spec("b", ("N",), np.int64)]
    for items, specs in (
        ([a, a], one),
        ([(a,), [a]], one),
        ([(a, b), (a, b)], one),  # what comes after the inputs is for labels
        ([{"a": a}, {"a": a}], one),
        ([(a, b), {"b": b, "a": a}], two),
    ):
        data = load_data(items, specs)
        for _ in range(2):
            feeds = list(data)
            assert [list(f) for f in feeds] == [[s.name for s in specs]] * 2
            assert all(np.array_equal(f["a"], a) for f in feeds)


def test_a_function_is_called_for_each_pass_and_an_iterator_refused() -> None:
    calls = []

    def batches() -> Any:
        calls.append(1)
        return (np.full((3, 2), i, np.float32) for i in range(4))

    data = load_data(batches, [spec("x", ("N", 2))], batch_size=2)
    assert [len(f["x"]) for f in data] == [2, 1] * 4 and data.samples is None
    assert [f["x"][:, 0].tolist() for f in data.limit(7)] == [[0, 0], [0], [1, 1], [1], [2]]
    assert len(calls) == 2 and data.limit(7).limit(4).samples is None
    with pytest.raises(OnnxPruneError, match="an iterator runs only once; give a list, or a function"):
        load_data(batches(), [spec("x", ("N", 2))])


def test_python_batches_are_checked() -> None:
    specs = [spec("x", ("N", 2))]
    with pytest.raises(OnnxPruneError, match=r"Python list.*'x' expects float32 \[N, 2\], got float64 \[3, 2\]"):
        list(load_data([np.zeros((3, 2))], specs))
    with pytest.raises(OnnxPruneError, match="a batch of 3 arrays; give one for each input"):
        list(load_data([(1, 2, 3)], specs))
    with pytest.raises(OnnxPruneError, match="no batches"):
        load_data([], specs).first()


def test_an_array_or_a_dict_is_all_the_data() -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    for source in (x, {"x": x}):
        assert [len(f["x"]) for f in load_data(source, [spec("x", ("N", 1))], batch_size=4)] == [4, 4, 2]


def test_a_stream_of_static_batches_can_be_limited() -> None:
    data = load_data([np.zeros((4, 1), np.float32)] * 3, [spec("x", (4, 1))])
    assert len(list(data.limit(9))) == 2
    with pytest.raises(OnnxPruneError, match="the model takes batches of 4"):
        list(data.limit(3))


# Pictures


def frames(n: int, h: int = 6, w: int = 8, c: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def png(folder: Path, pixels: np.ndarray) -> Path:
    image = pytest.importorskip("PIL.Image")
    for i, p in enumerate(pixels):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        image.fromarray(p).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


def test_pictures_are_normalized_channel_by_channel(tmp_path: Path) -> None:
    pixels = frames(5)
    how = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (pixels / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    for shape, wanted in ((("N", 3, 6, 8), expected.transpose(0, 3, 1, 2)), (("N", 6, 8, 3), expected)):
        specs = [spec("x", shape)]
        data = load_data(saved(tmp_path, images=pixels, labels=np.arange(5)), specs, batch_size=2, preprocess=how)
        got = np.concatenate([f["x"] for f in data])
        assert got.dtype == np.float32 and data.samples == 5 and data.labels is not None
        np.testing.assert_allclose(got, wanted, atol=1e-6)
        files = load_data(png(tmp_path, pixels), specs, preprocess=how)
        order = [0, 2, 4, 1, 3]  # by folder
        np.testing.assert_allclose(files.first()["x"], wanted[order], atol=1e-6)


def test_colors(tmp_path: Path) -> None:
    pixels = frames(2)
    given = {"preprocess": Preprocess(color="bgr", scale=1)}
    got = load_data(saved(tmp_path, x=pixels), [spec("x", ("N", 3, 6, 8))], **given).first()["x"]
    np.testing.assert_array_equal(got, pixels[..., ::-1].transpose(0, 3, 1, 2))
    gray = load_data(saved(tmp_path, x=pixels[..., 0]), [spec("x", ("N", 1, 6, 8))], preprocess=Preprocess()).first()
    np.testing.assert_allclose(gray["x"][:, 0], pixels[..., 0] / 255, atol=1e-6)
    whole = load_data(saved(tmp_path, x=pixels), [spec("x", ("N", 6, 8, 3), np.uint8)], preprocess=Preprocess()).first()
    np.testing.assert_array_equal(whole["x"], pixels)


def test_resize_and_crop_agree_with_pillow(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = frames(1, 40, 60)
    how = Preprocess(resize=20, crop=16, scale=1.0)
    (got,) = load_data(saved(tmp_path, x=pixels), [spec("x", ("N", 3, None, None))], preprocess=how).first()["x"]
    small = np.asarray(image.fromarray(pixels[0]).resize((30, 20), image.Resampling.BILINEAR))
    np.testing.assert_array_equal(got, small[2:18, 7:23].transpose(2, 0, 1))
    declared = load_data(saved(tmp_path, x=pixels), [spec("x", ("N", 3, 10, 12))], preprocess=Preprocess())
    assert declared.first()["x"].shape == (1, 3, 10, 12)
    padded = load_data(saved(tmp_path, x=pixels), [spec("x", ("N", 3, 50, 70))], preprocess=Preprocess(crop=(50, 70)))
    np.testing.assert_allclose(padded.first()["x"][0, :, 5:45, 5:65], pixels[0].transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["unit"], Preprocess()),
        (["raw", "mean=3"], Preprocess(scale=1.0, mean=(3,))),
        (["unit", "mean=[0.5, 0.25, 1]", "layout=nhwc", "resize=[8, 9]"],
         Preprocess(mean=(0.5, 0.25, 1), layout="nhwc", resize=(8, 9))),
        (["imagenet", "crop=192", "color='bgr'"], None),
    ],
)  # fmt: skip
def test_preprocess_from_lines(parts: list[str], expected: Preprocess | None) -> None:
    got = read_preprocess(parts)
    assert got == expected if expected else (got.crop, got.color, got.resize) == (192, "bgr", 256)


def test_preprocess_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cifar.toml"
    path.write_text("mean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]\ncolor = 'rgb'\n")
    assert read_preprocess([str(path), "std=1"]) == Preprocess(mean=(0.5, 0.5, 0.5), std=(1,), color="rgb")


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("imagnet", r"neither a preset \(imagenet, unit, raw\), nor a .toml file, nor NAME=VALUE"),
        ("absent.toml", "No such file"),
        ("sharpen=1", "unknown sharpen; known are color, crop"),
        ("crop=0", "crop is 0; give a side in pixels"),
        ("crop=[1, 2, 3]", r"crop is \[1, 2, 3\]"),
        ("std=[0.1, 0]", "above 0"),
        ("mean=[1", "not TOML"),
        ("layout=chw", "layout is 'chw'; give one of nchw, nhwc"),
        ("scale=0", "scale is 0"),
    ],
)
def test_preprocess_that_is_not_understood(part: str, why: str) -> None:
    with pytest.raises(OnnxPruneError, match=why):
        read_preprocess([part])


def _png(width: int, height: int) -> bytes:
    """A picture of one bit a pixel, without its pixels."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    chunks = [b"IHDR" + head, b"IDAT" + zlib.compress(b""), b"IEND"]
    framed = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_pictures_that_do_not_fit(tmp_path: Path) -> None:
    path, x = png(tmp_path, frames(2)), [spec("x", ("N", 3, None, None))]
    with pytest.raises(OnnxPruneError, match="images need preprocess"):
        load_data(path, x)
    with pytest.raises(OnnxPruneError, match="if it holds images, give preprocess"):
        load_data(saved(tmp_path, x=frames(2)), x)
    with pytest.raises(OnnxPruneError, match=r"do not feed 2 inputs, \['x', 'y'\]"):
        load_data(path, [*x, spec("y", ("N",))], preprocess=Preprocess())
    with pytest.raises(OnnxPruneError, match="preprocess is for images"):
        load_data(saved(tmp_path, x=np.zeros((2, 3, 4, 4), np.float32)), x, preprocess=Preprocess())
    with pytest.raises(OnnxPruneError, match=r"mean is \[1, 2\]; give one number, or 3 for rgb"):
        load_data(path, x, preprocess=Preprocess(mean=(1, 2)))
    png(tmp_path, frames(3, 9, 9)[2:])
    with pytest.raises(OnnxPruneError, match=r"becomes \[3, 6, 8\], the first one \[3, 9, 9\]; give resize or crop"):
        list(load_data(path, x, preprocess=Preprocess()))
    (tmp_path / "class0" / "0.png").write_bytes(_png(60_000, 60_000))  # a bomb
    with pytest.raises(OnnxPruneError, match=r"cannot be read.*3600000000 pixels"):
        load_data(path, x, preprocess=Preprocess())
    (tmp_path / "class0" / "0.png").write_bytes(b"no picture")
    with pytest.raises(OnnxPruneError, match=r"0.png' cannot be read"):
        load_data(path, x, preprocess=Preprocess())


def test_a_data_set_is_passed_through() -> None:
    data = load_data([np.zeros((1, 2), np.float32)], [spec("x", ("N", 2))])
    assert isinstance(data, Batches) and load_data(data, []) is data
