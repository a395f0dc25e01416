"""The results of pruning, repair and training: the model in the kind that came in, and a report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from onnxprune.graph.foreign import convert_back, to_graphsurgeon, to_ir
from onnxprune.graph.model import Model
from onnxprune.graph.save import build_full_proto, save
from onnxprune.plans import Plan
from onnxprune.report.types import CandidateReport, PruneReport, TrainedReport

Source = Any  # a path, a Model, or a model in memory of a kind that `load` takes


@dataclass(frozen=True, repr=False, eq=False)
class ModelResult:
    """A new model.

    files    what was written: the model, and a data file beside it where it is large; empty where nothing was
    stored   the model, its weights apart
    given    the kind that the original came in, which `model` has
    """

    files: list[Path]
    stored: Model
    given: type

    @property
    def model(self) -> Any:
        """The model in the kind of the original.

        A path for a path, a ModelProto for a ModelProto, a Model for a Model, bytes for bytes, an onnx_graphsurgeon.Graph and an
        onnx_ir.Model for their like; a ModelProto for a torch module.

        Returns:
            The path of the file that was written. Where none was, the Model stands for it.

        Raises:
            OutputError: a model in memory came in, and the new one is larger than one message (2 GiB).
        """
        if issubclass(self.given, Model):
            return self.stored
        if issubclass(self.given, str | PathLike):
            return self.files[0] if self.files else self.stored
        return convert_back(self.given, self.proto)

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model as one message, with its weights.

        Raises:
            OutputError: it is larger than a message (2 GiB).
            ModelError: a file that it is read from is not there any more, or was changed.
        """
        return build_full_proto(self.stored)

    def to_graphsurgeon(self) -> Any:
        """The model as an onnx_graphsurgeon.Graph, to be edited; `load`, `prune` and the others take it back whole.

        Raises:
            OutputError: it is larger than a message (2 GiB).
        """
        return to_graphsurgeon(self.proto)

    def to_ir(self) -> Any:
        """The model as an onnx_ir.Model.

        Raises:
            OutputError: it is larger than a message (2 GiB).
            OnnxPruneError: onnx_ir is not installed.
        """
        return to_ir(self.proto)

    def save(self, path: str | PathLike[str]) -> list[Path]:
        """Write the model.

        Args:
            path: where the model goes; a large one gets a data file beside it.

        Returns:
            The files, the model first.

        Raises:
            OutputError: it cannot be written there.
        """
        return save(self.stored, path)


@dataclass(frozen=True, repr=False, eq=False)
class PruneResult(ModelResult):
    """The result of `prune` or `sparsify`; of a dry run the predicted model, without repair.

    report   what was done, what was left and why, and how far the outputs moved
    plan     the channels that stay
    """

    report: PruneReport
    plan: Plan

    def __repr__(self) -> str:
        report, error = self.report, self.report.error
        target = Path(report.output).name if report.output else "in memory"
        parts = [f"{Path(report.model).name or 'model'} -> {target}"]
        for size, of in ((report.macs, "MACs"), (report.params, "parameters")):
            if size.before and size.after is not None:
                parts.append(f"{100 * size.after / size.before:.1f}% of the {of}")
        if error and error.relative_l2 is not None:
            parts.append(f"relative L2 {error.relative_l2:.3g}" + (", degraded" if error.degraded else ""))
        return f"PruneResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """The summary in a notebook: sizes before and after, the measured speed-up, and the error of the outputs."""
        report, rows = self.report, list[tuple[str, str, str, str]]()
        for name, size in (("parameters", report.params), ("MACs", report.macs), ("bytes", report.bytes)):
            if size.before and size.after is not None:
                rows.append((name, f"{size.before:,}", f"{size.after:,}", f"{100 * size.after / size.before:.1f} %"))
        if report.latency and report.latency.ratio:
            rows.append(("speed-up", "", f"{report.latency.ratio:.2f}x", ""))
        if report.error and report.error.relative_l2 is not None:
            rows.append(("relative L2 error", "", f"{report.error.relative_l2:.3g}", ""))
        accuracy = report.error.accuracy if report.error else None
        if accuracy and accuracy.before is not None and accuracy.after is not None:
            rows.append(("accuracy", f"{100 * accuracy.before:.1f} %", f"{100 * accuracy.after:.1f} %", ""))
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "<tr><th></th><th>before</th><th>after</th><th>kept</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{body}</table>"


@dataclass(frozen=True, repr=False, eq=False)
class CandidateResult(ModelResult):
    """The result of `repair_model`; its report lists fitted layers, layers left out, and the errors before and after."""

    report: CandidateReport

    def __repr__(self) -> str:
        repair = self.report.repair
        errors = f"relative L2 {repair.error_before:.3g} -> {repair.error_after:.3g}"
        return f"CandidateResult({len(repair.layers)} layers fitted, {errors})"


@dataclass(frozen=True, repr=False, eq=False)
class DistilledResult(ModelResult):
    """The result of `distill`; its report has the errors against the original before and after, on samples held out."""

    report: TrainedReport

    def __repr__(self) -> str:
        d = self.report.distillation
        return f"DistilledResult({d.passes_done:g} passes: loss {d.loss_before} -> {d.loss_after} on {d.held_out} samples held out)"
