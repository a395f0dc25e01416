"""int8 after training, by ONNX Runtime's quantizer: weights channel by channel, activations by their ranges on calibration data.

The form is QDQ: QuantizeLinear and DequantizeLinear around operators that stay as they are, which ONNX Runtime and TensorRT turn
into kernels of integers. Everything that its quantizer knows is quantized: what stays in float between two integer layers costs
more than it brings (a network of convolutions and sums with only its products quantized ran at 1.68 instead of 1.94 times the
float speed; MobileNetV3 at .83 instead of 1.12). Before that ONNX Runtime's pre-processing folds batch norms into convolutions.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
from onnx import inliner, version_converter

from onnxprune.calibration import Batches
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.files import make_temporary_folder
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import build_full_proto, fits_message, save
from onnxprune.graph.view import read_opset
from onnxprune.groups import Analysis
from onnxprune.ops.records import NodeView, UnknownShape, get_record
from onnxprune.settings import RunSettings, Sparsity

LEAST_OPSET = 13  # from which on DequantizeLinear has an axis
RESIZE_OPSET = 11  # from which on there is no Upsample
LEAST_IR = 7  # of opset 13; until 3 an initializer had to be an input too
READY, DONE = "ready.onnx", "done.onnx"


@dataclass(frozen=True)
class Quantized:
    """The model with integers in it, and how many of its products multiply them."""

    model: Model
    products: int
    in_float: int
    symmetric: bool
    weight_bits: int


def check_quantization(run: RunSettings, sparsity: Sparsity | None) -> None:
    """Raise OnnxPruneError where what was asked for does not go together with int8, or needs data."""
    if run.then_quantize is None:
        return
    if sparsity is not None:
        raise OnnxPruneError(
            "then-quantize and then-sparsify: give one; 'onnxprune sparsify' makes the int8 model sparse that the first one writes"
        )
    if run.cast is not None:
        raise OnnxPruneError(
            f"then-quantize {run.then_quantize} and cast {run.cast}: give one, each decides the type of the weights"
        )
    if run.calib is None:
        raise OnnxPruneError(
            f"then-quantize {run.then_quantize} takes the ranges of activations from data; give a hundred inputs with --calib"
        )


def refuse_quantized(a: Analysis) -> None:
    """Raise OnnxPruneError where the model has integers in place of numbers already."""
    quantized = next((node for node in a.flat.proto.graph.node if _reads_integers(node)), None)
    if quantized is not None:
        name = quantized.name or next(iter(quantized.output), "")
        raise OnnxPruneError(f"the model is quantized already ({quantized.op_type} '{name}'); drop --then-quantize")


def _reads_integers(node: onnx.NodeProto) -> bool:
    record = get_record(node)
    if record.traits.encoding is not None:
        return True
    product = record.product
    try:
        encoded = product is not None and any(o.encoding is not None for o in product.operands(NodeView(node)))
    except UnknownShape:
        return False  # no product of integers needs shapes to name its operands
    return encoded or (product is not None and product.read is not None)


def quantize(model: Model, batches: Batches, symmetric: bool = False, weight_bits: int = 8) -> Quantized:
    """The model in int8; nothing is printed or left behind, and the same model and data give the same bytes.

    Args:
        model: of float32; it is not changed.
        batches: what ranges of activations are taken from, all of it.
        symmetric: activations are int8 around 0, rather than uint8 from any number on.
        weight_bits: 8, or 7 where kernels add two products of 8 bits in 16 bits, which could overflow.

    Raises:
        OnnxPruneError: the quantizer does not take the model, or finds nothing to quantize.
    """
    with make_temporary_folder() as place, _contain(place):
        folder = Path(place)
        try:
            source = _prepare(model, folder)
            _run_quantizer(source, folder / DONE, batches, symmetric, weight_bits, not fits_message(model))
            proto = onnx.load(folder / DONE)
        except OnnxPruneError:
            raise
        except Exception as e:  # it raises whatever its code runs into
            why = f"{type(e).__name__}: {next(iter(str(e).splitlines()), '')}"
            raise OnnxPruneError(
                f"ONNX Runtime's quantizer does not take the model ({why}); drop --then-quantize"
            ) from e
    _restore(proto, model.proto)
    products, in_float = _count_products(proto)
    if not products:
        raise OnnxPruneError(
            "nothing of the model can be int8: it has no convolution or matrix product with constant float32 weights"
        )
    return Quantized(replace(load(proto), external=model.external), products, in_float, symmetric, weight_bits)


class _Reader:
    """Batches as the quantizer takes them."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        feeds = next(self.left, None)
        return None if feeds is None else dict(feeds)


def _prepare(model: Model, folder: Path) -> Path:
    """The file of the model as the quantizer wants it: of a new enough opset, shapes inferred, batch norms folded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = not fits_message(model)
    if read_opset(model.proto) < LEAST_OPSET or model.proto.functions:
        if large:
            raise OnnxPruneError(
                "a model beyond 2 GB is quantized from opset 13 on, and without local functions; export it again"
            )
        model = load(_renew(build_full_proto(model)))
    source = save(model, folder / "float.onnx", external=large)[0]
    quant_pre_process(
        str(source),
        str(folder / READY),
        skip_symbolic_shape=True,  # it needs another package, and only the types of tensors are asked for
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        external_data_location="ready.data" if large else None,
    )
    return folder / READY


def _renew(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, which the quantizer does not look into, and of an opset that it knows."""
    from onnxruntime.quantization.fusions import ReplaceUpsampleWithResize
    from onnxruntime.quantization.onnx_model import ONNXModel

    proto = inliner.inline_local_functions(proto) if proto.functions else proto
    if read_opset(proto) < RESIZE_OPSET:
        ReplaceUpsampleWithResize(ONNXModel(proto), read_opset(proto)).apply()
    return version_converter.convert_version(proto, LEAST_OPSET) if read_opset(proto) < LEAST_OPSET else proto


def _run_quantizer(source: Path, out: Path, batches: Batches, symmetric: bool, weight_bits: int, large: bool) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source,
        out,
        _Reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=weight_bits < 8,
        use_external_data_format=large,
        extra_options={
            "ActivationSymmetric": symmetric,
            "QuantizeBias": not symmetric,
        },  # TensorRT takes biases in float
    )


@contextmanager
def _contain(folder: str) -> Iterator[None]:
    """Keep what the quantizer says to itself, and have it write temporary files to the folder only."""
    import onnxruntime as ort

    root, place = logging.getLogger(), tempfile.tempdir
    handlers, disabled = list(root.handlers), root.manager.disable
    tempfile.tempdir = folder
    logging.disable(logging.CRITICAL)
    ort.set_default_logger_severity(4)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(2)  # as it is unless somebody sets it
        logging.disable(disabled)
        root.handlers[:] = handlers  # logging.warning() gives the root logger one
        tempfile.tempdir = place


def _restore(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Give the model what the original says of itself, and drop what tools wrote in."""
    for field in ("producer_name", "producer_version", "domain", "doc_string", "model_version"):
        setattr(proto, field, getattr(original, field))
    del proto.metadata_props[:]
    proto.metadata_props.extend(original.metadata_props)
    proto.graph.name, proto.graph.doc_string = original.graph.name, original.graph.doc_string
    proto.ir_version = max(proto.ir_version, LEAST_IR)
    del proto.graph.value_info[:]
    for ours, theirs in ((proto.graph.input, original.graph.input), (proto.graph.output, original.graph.output)):
        known = {v.name: v for v in theirs}
        for value in ours:
            value.CopyFrom(known.get(value.name, value))
    asked = {o.domain for o in original.opset_import} | {node.domain for node in proto.graph.node} | {""}
    kept = [o for o in proto.opset_import if o.domain in asked]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _count_products(proto: onnx.ModelProto) -> tuple[int, int]:
    """Count the products with constant integers (dequantized before them), and those with constant numbers."""
    constants = {t.name for t in proto.graph.initializer}
    integers = {
        node.output[0]
        for node in proto.graph.node
        if get_record(node).traits.encoding is not None and node.input[0] in constants
    }
    quantized = in_float = 0
    for node in proto.graph.node:
        if get_record(node).product is not None:
            weights = node.input[1:]
            is_quantized = any(name in integers for name in weights)
            quantized += is_quantized
            in_float += not is_quantized and any(name in constants for name in weights)
    return quantized, in_float
