"""The kernels of ONNX Runtime's optimized graph, matched with the nodes of the model.

A kernel may do the work of several nodes (a convolution with its norm, activation and sum), and a plan may change what is fused
with what. So nodes that share a kernel under any plan make one layer. A kernel is named by the last of its nodes, but a blocked
convolution keeps its name where a sum and an activation behind it are fused into it later. What ONNX Runtime adds (a tensor laid
out anew) counts for the layer whose tensor it reads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto

from onnxprune.calibration.kernels import Kernel
from onnxprune.graph.view import map_makers
from onnxprune.ops.records import get_record

# ONNX Runtime names its own nodes by the output, as a blocked tensor; a copy by a number.
COPY = re.compile(r"_token_\d+$")
BLOCKED = re.compile(r"(.*)_nchwc")
NAMES = (re.compile(r"<(.*)>"), BLOCKED)
UNKNOWN = -1  # the layer of kernels that belong to no node


class LayerFinder:
    """Joins nodes into layers, as the kernels of one plan after another tell."""

    def __init__(self, nodes: Sequence[NodeProto]) -> None:
        self.nodes = nodes
        self.makers: Mapping[str, int] = map_makers(nodes)
        self.parent = list(range(len(nodes)))

    def layer_of(self, node: int) -> int:
        """The layer of a node, by one of its nodes."""
        while node != UNKNOWN and self.parent[node] != node:
            self.parent[node] = node = self.parent[self.parent[node]]
        return node

    def members(self) -> dict[int, list[int]]:
        """The nodes of each layer."""
        members = defaultdict(list)
        for i in range(len(self.nodes)):
            members[self.layer_of(i)].append(i)
        return dict(members)

    def add(self, kernels: Sequence[Kernel]) -> list[int]:
        """The node that each kernel works for, UNKNOWN where none is known; nodes that share a kernel are joined."""
        makes = [self._tensors(k) for k in kernels]
        there = {t for tensors in makes for t in tensors}
        blocked = {t for k, tensors in zip(kernels, makes, strict=True) if BLOCKED.match(k.name) for t in tensors}
        there |= self._extend(blocked, there)
        own = [self.makers[tensors[0]] if tensors else UNKNOWN for tensors in makes]
        for tensors in makes:
            for t in tensors:
                self._join(self.makers[t], self.makers[tensors[0]])
                self._absorb(t, there)
        by_output = {o: i for i, k in enumerate(kernels) for o in k.outputs if o}
        readers = defaultdict(list)
        for i, k in enumerate(kernels):
            for name in k.inputs:
                readers[name].append(i)
        return [self._owner(i, kernels, own, by_output, readers) for i in range(len(kernels))]

    def _tensors(self, kernel: Kernel) -> list[str]:
        """The model's tensors that a kernel makes, as its outputs and its name tell."""
        name = COPY.sub("", kernel.name)
        named = [m[1] for pattern in NAMES if (m := pattern.fullmatch(name))]
        return [t for t in (*kernel.outputs, *named) if t in self.makers]

    def _join(self, a: int, b: int) -> None:
        self.parent[self.layer_of(a)] = self.layer_of(b)

    def _extend(self, blocked: set[str], there: set[str]) -> set[str]:
        """Join sums and activations that no kernel makes to the blocked convolution before them; what they make."""
        ends, tensors = {t: self.makers[t] for t in blocked}, set[str]()
        for i, node in enumerate(self.nodes):
            before = [ends[t] for t in node.input if t in ends]
            traits = get_record(node).traits
            if before and (traits.sums or traits.pointwise) and there.isdisjoint(node.output):
                self._join(i, max(before))
                ends |= dict.fromkeys(node.output, max(before))
                tensors.update(node.output)
        return tensors

    def _absorb(self, tensor: str, there: set[str]) -> None:
        """Join the nodes before a tensor whose own outputs no kernel makes: they are part of its kernel."""
        todo, seen = [self.makers[tensor]], set[int]()
        while todo:
            i = todo.pop()
            if i in seen:
                continue
            seen.add(i)
            for name in self.nodes[i].input:
                if name in self.makers and name not in there:
                    self._join(self.makers[name], self.makers[tensor])
                    todo.append(self.makers[name])

    def _owner(
        self,
        i: int,
        kernels: Sequence[Kernel],
        own: Sequence[int],
        by_output: Mapping[str, int],
        readers: Mapping[str, Iterable[int]],
    ) -> int:
        """The node of a kernel, else that of what it reads, else that of what reads it."""
        todo, seen = [i], set[int]()
        while todo:
            at = todo.pop()
            if own[at] != UNKNOWN:
                return own[at]
            if at not in seen:
                seen.add(at)
                todo.extend(by_output[n] for n in reversed(kernels[at].inputs) if n in by_output)
        after = (own[r] for o in kernels[i].outputs for r in readers.get(o, ()))
        return next((node for node in after if node != UNKNOWN), UNKNOWN)
