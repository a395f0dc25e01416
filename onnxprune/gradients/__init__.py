"""Any ONNX model as a torch module: differentiable in its weights and inputs, and written back into the same file.

torch is optional (`pip install 'onnxprune[torch]'`) and takes seconds to import, so nothing here imports it before it is needed:
`Module`, `unsupported` and what else runs a model do so when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients.trainable import trainable_weights

if TYPE_CHECKING:
    from onnxprune.gradients.masks import measure_masks
    from onnxprune.gradients.module import Module
    from onnxprune.gradients.program import unsupported

LAZY = {
    "Module": "module",
    "measure_masks": "masks",
    "unsupported": "program",
}  # what needs torch, and the file that it is in

__all__ = ["Module", "measure_masks", "require_torch", "trainable_weights", "unsupported"]


def require_torch() -> None:
    """Raise OnnxPruneError, with what to install, where torch is not there."""
    if find_spec("torch") is None:
        raise OnnxPruneError("gradients need torch, which is not installed; run pip install 'onnxprune[torch]'")


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_torch()
    return getattr(import_module(f"{__name__}.{LAZY[name]}"), name)
