"""Reports as people read them: one function for each type of report, `render_...`. Nothing else prints one."""

from onnxprune.cli.render.compared import render_comparison
from onnxprune.cli.render.inspected import render_inspection
from onnxprune.cli.render.pruned import RenderedReport, render_pruned, render_sparsified
from onnxprune.cli.render.record import render_record
from onnxprune.cli.render.repaired import render_candidate
from onnxprune.cli.render.sensitivity import render_sensitivities
from onnxprune.cli.render.sparse import render_pattern
from onnxprune.cli.render.trained import render_trained
from onnxprune.cli.render.vocabulary import render_vocabulary

__all__ = [
    "RenderedReport", "render_candidate", "render_comparison", "render_inspection", "render_pattern", "render_pruned",
    "render_record", "render_sensitivities", "render_sparsified", "render_trained", "render_vocabulary",
]  # fmt: skip
