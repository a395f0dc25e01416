"""Models as ONNX Runtime opens them: small ones as one message, of large ones the weights stay where they lie.

Weights that a file has as they are stay there, and ONNX Runtime maps them into memory. Others (cut, fitted, in memory) are written
to one temporary file. So nothing large is copied into a message, and a model may be larger than any message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto

from onnxprune.errors import OutputError
from onnxprune.graph.files import SourceFile, explain_os_error, make_temporary_folder
from onnxprune.graph.model import SMALL_BYTES, Model
from onnxprune.graph.save import PAGE_BYTES, build_full_proto, copy_head, find_changed_weight, make_external_head
from onnxprune.graph.weights import FileWeight, Weight, iterate_pieces

LENT_BYTES = 1 << 26  # of weights; a model that has more is not copied into a message
FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def lend_bytes(model: Model) -> Iterator[tuple[bytes, Mapping[str, str]]]:
    """The bytes that a session is made from, and the entries that its configuration needs; until it is made.

    Raises OutputError where there is no room for what has to be written, ModelError where a file of the model has changed.
    """
    if (
        sum(model.weights[t.name].nbytes for t in model.proto.graph.initializer if t.name in model.weights)
        <= LENT_BYTES
    ):
        yield build_full_proto(model).SerializeToString(), {}
        return
    with _lend(model) as (proto, root):
        yield proto.SerializeToString(), {FOLDER: str(root)}


@contextmanager
def _lend(model: Model) -> Iterator[tuple[onnx.ModelProto, Path]]:
    """A message whose weights of more than 1 KiB are external data, and the folder that their locations start from.

    The temporary file is there within; a reader that has mapped it by then may keep the map.
    """
    sources = {w.file for w in model.weights.values() if isinstance(w, FileWeight)}
    for source in sources:
        source.check()
    with make_temporary_folder() as folder:
        data = Path(os.path.realpath(folder), "weights.data")
        root = _find_root(sources, data)
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        try:
            with open(data, "xb", buffering=1 << 20) as file:
                for tensor in proto.graph.initializer:
                    weight = model.weights.get(tensor.name)
                    if weight is None or weight.data_type == TensorProto.STRING or weight.nbytes < SMALL_BYTES:
                        _put_into(tensor, find_changed_weight(tensor, model.weights))
                    elif isinstance(weight, FileWeight) and root is not None:
                        _point_to(tensor, weight, _place(weight.file), root, weight.offset)
                    else:
                        at = -(-file.tell() // PAGE_BYTES) * PAGE_BYTES
                        file.seek(at)
                        for piece in iterate_pieces(weight):
                            file.write(piece)
                        _point_to(tensor, weight, data, root or data.parent, at)
        except OSError as e:
            raise OutputError(
                f"{data.parent}: {explain_os_error(e)}; make room there, or name another folder in TMPDIR"
            ) from e
        yield proto, root or data.parent


def _find_root(sources: Iterable[SourceFile], data: Path) -> Path | None:
    """A folder that has all files of weights below it, and the temporary one; None where there is none."""
    try:
        return Path(os.path.commonpath([data.parent, *(_place(f).parent for f in sources)]))
    except ValueError:  # they are on several drives of Windows
        return None


def _place(file: SourceFile) -> Path:
    return Path(os.path.realpath(file.place))


def _put_into(tensor: TensorProto, weight: Weight | None) -> None:
    if weight is not None:
        tensor.CopyFrom(copy_head(tensor, weight))
        if weight.data_type != TensorProto.STRING:
            tensor.raw_data = bytes(weight.raw())


def _point_to(tensor: TensorProto, weight: Weight, file: Path, root: Path, offset: int) -> None:
    tensor.CopyFrom(make_external_head(tensor, weight, file.relative_to(root).as_posix(), offset))
