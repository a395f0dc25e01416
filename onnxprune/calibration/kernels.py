"""Time each kernel of a model in ONNX Runtime: in the whole model, after its optimizations, with what was fused into it.

A kernel by itself finds its inputs in another layout and its weights in the cache; so the whole model runs, under ONNX
Runtime's profiler (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from onnxprune.calibration.sessions import Feeds, open_session, prepare_run
from onnxprune.graph.files import make_temporary_folder
from onnxprune.machine import name_processor

SECONDS, LEAST_RUNS, MOST_RUNS = 0.3, 4, 400  # of a measurement
SHARE = 3  # the quickest third counts: what interrupts a run only makes it slower
EVENT = "_kernel_time"


@dataclass(frozen=True)
class Kernel:
    """A node of the optimized graph. `layer` is all that its time depends on: operator, attributes, types and shapes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str


def make_tag(node: NodeProto) -> str:
    """The name that a node has in the optimized graph, unless something is fused into it."""
    return f"<{next(filter(None, node.output), '')}>"


class KernelTimer:
    """A model that is to be timed on one batch."""

    def __init__(self, model: onnx.ModelProto, feeds: Feeds, threads: int, clock: Callable[[], float]) -> None:
        """`model` has its weights in it; its nodes get new names."""
        for node in model.graph.node:
            node.name = make_tag(node)
        self.model, self.feeds, self.threads, self.clock = model.SerializeToString(), feeds, threads, clock

    def find_kernels(self) -> list[Kernel]:
        """The kernels that run, a loop with its body as one. Raises OnnxPruneError where the model does not."""
        with make_temporary_folder() as folder:
            optimized = Path(folder) / "optimized.onnx"
            session = self._open(folder, optimized)
            prepare_run(session, self.feeds)()
            shapes = {e["name"]: e["args"] for e in _events(session)}
            nodes = onnx.load(optimized, load_external_data=False).graph.node
        return [
            Kernel(n.name, tuple(n.input), tuple(n.output), _layer(n, shapes[n.name + EVENT]))
            for n in nodes
            if n.name + EVENT in shapes
        ]

    def time(self) -> tuple[dict[str, float], float]:
        """Seconds of each kernel, by name, and of a run of the whole model without the profiler."""
        with make_temporary_folder() as folder:
            session = self._open(folder)
            go = prepare_run(session, self.feeds)
            _repeat(go, self.clock)
            taken = defaultdict(list)
            for event in _events(session):
                taken[event["name"].removesuffix(EVENT)].append(event["dur"] * 1e-6)
            return {name: average_quickest(t) for name, t in taken.items()}, average_quickest(_repeat(go, self.clock))

    def _open(self, folder: str, optimized: Path | None = None) -> Any:
        return open_session(
            self.model, "a pruned sample", self.threads, profile=Path(folder) / "run", optimized=optimized
        )


def average_quickest(seconds: Sequence[float]) -> float:
    """The mean of the quickest third."""
    return float(np.mean(np.sort(seconds)[: max(1, len(seconds) // SHARE)]))


def describe_machine(threads: int) -> str:
    """Describe the conditions of a timing: the processor, ONNX Runtime's version, and the threads."""
    return f"{name_processor()}/onnxruntime {read_runtime_version()}/{threads}"


def read_runtime_version() -> str:
    """The version of ONNX Runtime."""
    import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

    return str(ort.__version__)


def _repeat(go: Callable[[], object], clock: Callable[[], float]) -> list[float]:
    """The seconds of runs, as many as there is time for; the first does not count."""
    go()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < LEAST_RUNS or (len(taken) < MOST_RUNS and time.perf_counter() < end):
        start = clock()
        go()
        taken.append(clock() - start)
    return taken


def _events(session: Any) -> list[dict[str, Any]]:
    """The runs of kernels that the profiler saw."""
    events = json.loads(Path(session.end_profiling()).read_text())
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith(EVENT)]


def _layer(node: NodeProto, event: Mapping[str, Any]) -> str:
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    digest = hashlib.sha256(b"".join(attributes)).hexdigest()[:8]
    shapes = " ".join(_shape(s) for s in event.get("input_type_shape", ()))
    return f"{node.domain}.{node.op_type}/{digest}/{shapes}"


def _shape(typed: Mapping[str, Sequence[int]]) -> str:
    return ",".join(f"{kind}{'x'.join(map(str, shape))}" for kind, shape in typed.items())
