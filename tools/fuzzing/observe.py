"""What every tensor of a graph holds when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from laws import Feeds, run_ort
from numpy.typing import NDArray

Array = NDArray[Any]


def observe(proto: onnx.ModelProto, feeds: Sequence[Feeds]) -> dict[str, tuple[Array, Array]]:
    """The contents of inputs and of all nodes' outputs, at both feeds; sequences are left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    names = [n for node in proto.graph.node for n in node.output if n]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    one, two = run_ort(copy, feeds)
    seen = {v.name: (feeds[0][v.name], feeds[1][v.name]) for v in proto.graph.input if v.name in feeds[0]}
    seen.update(zip(names, zip(one, two, strict=True), strict=True))
    return {n: (np.asarray(a), np.asarray(b)) for n, (a, b) in seen.items() if np.asarray(a).dtype != object}
