"""Which weights become zero, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.settings.options import REPAIRS, SEED, TARGETS
from onnxprune.settings.table import Bounds, Use, setting

METHODS = ("magnitude", "wanda", "sparsegpt")
LAYERS = ("likely", "eligible", "all")  # from few to all
SCOPES = ("local", "global")
FITTED = tuple(r for r in REPAIRS if r != "merge")  # which moves weights of whole channels

ZEROS = "Sparsity"
HERE = {"sparsify": Use()}


@dataclass(frozen=True)
class Sparsity:
    """Which pattern, in which layers, and how the weights that stay are chosen and repaired.

    None stands for what fits: `method` sparsegpt with calibration data, else magnitude; `repair` lstsq with data, else none;
    `target` tensorrt for 2:4, else none; `layers` likely (those that the target will probably run faster) with a target, else
    all. `sparsity` is the fraction of zeros, for patterns that do not say it; `threshold` instead the least weight that stays.
    """

    pattern: str = setting(
        "2:4",
        "N:M (at most N of every M inputs in a row), RxC (blocks of R outputs x C inputs: 1x8, 8x1, 4x4), KofN (K of the "
        "N positions of each kernel, in a few shapes), unstructured, kernel, shared-kernel, stripe, filter.",
        on={
            "sparsify": Use(),
            "prune": Use(
                "then_sparsify",
                "Make the pruned model sparse too, as 'onnxprune sparsify --pattern' does; for N:M, channel counts are kept at "
                "multiples of M.",
                ZEROS,
                None,
            ),
            "validate": Use(
                help="Check each layer of the candidate (or the only model) for this pattern; exit status 1 if one lacks it.",
                default=None,
            ),
        },
        metavar="PATTERN",
        check="onnxprune.sparsity.patterns:parse",
    )
    sparsity: float = setting(
        0.5,
        "The fraction of zeros, for patterns that do not imply it.",
        on={"sparsify": Use(), "validate": Use(help="The fraction of zeros, for patterns that do not imply it.")},
        metavar="F",
    )
    method: str | None = setting(
        None,
        "Which weights are kept: the largest (magnitude, the default without --calib), the largest times the norm of "
        "their inputs (wanda), or those that the output depends on most (sparsegpt, the default with --calib).",
        on=HERE,
        panel=ZEROS,
        choices=METHODS,
    )
    threshold: float | None = setting(
        None,
        "Instead of --sparsity: for the pattern unstructured, weights whose magnitude is below T become zero.",
        on=HERE,
        panel=ZEROS,
        metavar="T",
        bounds=Bounds("it is the magnitude of a weight, above 0", 0.0, above=True),
    )
    permute: bool = setting(
        False,
        "First reorder channels to keep more magnitude; outputs do not change.",
        on="sparsify prune",
        panel=ZEROS,
    )
    scope: str = setting(
        "local", "Whether layers compete (by magnitude; not for N:M).", on=HERE, panel=ZEROS, choices=SCOPES
    )
    target: str | None = setting(
        None,
        "Where the model will run (by default tensorrt for 2:4, else none): the TensorRT targets have kernels for 2:4.",
        on=HERE,
        panel=ZEROS,
        choices=TARGETS,
    )
    layers: str | None = setting(
        None,
        "Layers that the target will probably run faster (likely, the default for tensorrt), all that it can run sparse "
        "(eligible), or all.",
        on={
            "sparsify": Use(),
            "prune": Use(),
            "validate": Use(help="Which layers must have the pattern, see 'onnxprune sparsify --help'.", panel=""),
        },
        panel=ZEROS,
        choices=LAYERS,
    )
    include: Sequence[str] = setting(
        (), "Only layers whose node or tensor names match; repeatable.", on=HERE, panel=ZEROS, metavar="GLOB"
    )
    exclude: Sequence[str] = setting(
        (), "No layers whose node or tensor names match; repeatable.", on=HERE, panel=ZEROS, metavar="GLOB"
    )
    repair: str | None = setting(
        None,
        "How the kept weights make up for the zeros (lstsq with --calib, else none).",
        on=HERE,
        panel="Calibration",
        choices=FITTED,
    )
    seed: int = setting(0, "Seed of random inputs.", on=HERE, panel="Check", metavar="N", bounds=SEED)
