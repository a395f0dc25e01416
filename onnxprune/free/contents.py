"""The contents of weights, of those behind nodes too, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from onnx import NodeProto

from onnxprune.axes import first
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.view import map_makers, read_attribute
from onnxprune.graph.weights import Array, is_float
from onnxprune.groups import Analysis
from onnxprune.ops.records import PERMUTE, Encoding, NodeFacts, get_record
from onnxprune.repair.codes import StoredCode
from onnxprune.repair.linear_layers import Site, Unfit
from onnxprune.repair.network import Constants


class Contents:
    """Reads constants of a model when they are asked for; only the last one is kept, since several ask for it in a row."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.c = analysis, analysis.coupling
        self.nodes = analysis.flat.proto.graph.node
        self._last: tuple[str, Array | None] = ("", None)

    def is_constant(self, name: str) -> bool:
        """Is it a weight, or computed from weights alone?"""
        return name in self.c.weights or name in self.c.computed

    @cached_property
    def _makers(self) -> dict[str, int]:
        return map_makers(self.nodes)

    @cached_property
    def constants(self) -> Constants:
        return Constants(self.analysis.flat, self.nodes)

    def read(self, name: str) -> Array | None:
        """The contents of a weight, or of one behind nodes that move its elements. The last one is kept: several ask for it."""
        if self._last[0] != name:
            self._last = name, self.c.weights[name].array() if name in self.c.weights else self._moved(name)
        return self._last[1]

    def _moved(self, name: str) -> Array | None:
        """The contents of a constant behind a node; None where ONNX Runtime does not run what no formula is known of."""
        index = self._makers.get(name)
        node = None if index is None else self.nodes[index]
        shape = self.c.trace.shape(name)
        if node is not None and shape is not None and all(isinstance(s, int) for s in shape):
            traits = get_record(node).traits
            source = node.input[0] if traits.moves else ""
            x = self.c.weights[source].array() if source in self.c.weights else None
            if x is not None and traits.moves == PERMUTE:
                return x.transpose(read_attribute(node, "perm", list(range(x.ndim))[::-1]))
            if x is not None and not traits.changes_type:
                return x.reshape([first(s) for s in shape])
            if x is not None and traits.encoding is not None and not is_float(x.dtype):
                decoded = self._decoded(node, traits.encoding, x)
                if decoded is not None:
                    return decoded
        try:
            return self.constants.of(name)
        except OnnxPruneError:
            return None
        finally:
            self.constants.forget()

    def _decoded(self, node: NodeProto, encoding: Callable[[NodeFacts], Encoding], x: Array) -> Array | None:
        """The encoding of integers; None if it must be computed: a scale of 0 makes zeros, and no `StoredCode` has one."""
        site = Site(node, -1, [self.c.weights[n].array() if n in self.c.weights else None for n in node.input])
        if any(site.has(i) and i not in site.known for i in range(len(node.input))):
            return None
        if not site.known.get(encoding(site).scale, np.ones(())).all():
            return None
        try:
            return StoredCode.of(encoding(site), site.known, x.shape, x.dtype).decode(x).astype(np.float32)
        except (Unfit, KeyError):
            return None

    def numbers(self, name: str) -> Array | None:
        """The numbers that a constant stands for; None where they are unknown."""
        array, code = self.read(name), self.c.integers.get(name)
        if array is None or is_float(array.dtype):
            return array
        if code is None or code.bits < 8 or not all(n in self.c.weights for n in (code.scale, code.zero) if n):
            return None
        scale = self.c.weights[code.scale].array() if code.scale else np.ones((), np.float32)
        try:
            return code.numbers(array, scale, self.c.weights[code.zero].array() if code.zero else None)
        except ValueError:  # its scales lie otherwise
            return None
