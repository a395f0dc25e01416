"""2:4 in TensorRT: the layers that can use its sparse kernels, and those for which it will probably choose them.

It takes convolutions without groups and products with a constant matrix, in half precision or int8, where four divides the
inputs. It times sparse kernels against dense ones and takes the faster; its maintainers see sparse ones win from about 256
channels on both sides, where the inputs count once for each position of a kernel.
Source: https://docs.nvidia.com/deeplearning/tensorrt (Structured Sparsity); https://github.com/NVIDIA/TensorRT/issues/3849 and
4054 (groups)
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.sparsity.matrices import ConstantMatrix

ENOUGH = 256  # channels
TAKEN = ("Conv", "Gemm", "MatMul")
HALF = ("float16", "int8")


@dataclass(frozen=True)
class Verdict:
    """Can the target use the pattern in a layer, will it probably, and if not, why; `note`: on what condition."""

    eligible: bool
    likely: bool
    why: str = ""
    note: str = ""


def judge(m: ConstantMatrix) -> Verdict:
    """The expected treatment of a layer by TensorRT."""
    why = _refused(m)
    if why:
        return Verdict(False, False, why)
    _, outputs, inputs, positions = m.shape
    note = "" if m.dtype in HALF else "build with --fp16 (or write --cast fp16): in float32 there are no sparse kernels"
    if inputs * positions < ENOUGH or outputs < ENOUGH:
        kernel = f" x {positions} kernel positions" if positions > 1 else ""
        small = f"{inputs} inputs{kernel} and {outputs} outputs: dense kernels are faster below about {ENOUGH}"
        return Verdict(True, False, small, note)
    return Verdict(True, True, "", note)


def _refused(m: ConstantMatrix) -> str:
    batch, _, inputs, _ = m.shape
    if m.op not in TAKEN:
        return f"TensorRT has no sparse kernels for {m.op}"
    if m.groups > 1:
        return f"a convolution of {m.groups} groups; there are no sparse kernels for groups"
    if batch > 1:
        return "a batch of matrices"
    if m.dtype not in (*HALF, "float32"):
        return f"its weights are {m.dtype}; sparse kernels are for half precision and int8"
    if inputs % 4:
        return "the number of its inputs is no multiple of 4"
    return ""
