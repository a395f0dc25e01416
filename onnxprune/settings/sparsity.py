"""Which weights become zero, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.settings.options import REPAIRS, SEED, TARGETS
from onnxprune.settings.table import Use, setting

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
    all. `sparsity` is the fraction of zeros, for patterns that do not say it.
    """

    pattern: str = setting(
        "2:4",
        "N:M (at most N of every M inputs in a row), RxC (blocks of R outputs x C inputs: 1x8, 8x1, 4x4), KofN (K positions of "
        "the N of each kernel, in a few shapes), unstructured, kernel, shared-kernel, stripe, filter.",
        on={
            "sparsify": Use(),
            "prune": Use(
                "then_sparsify",
                "Make the rest sparse too, as 'onnxprune sparsify --pattern' does; for N:M, channel counts are kept at "
                "multiples of M.",
                ZEROS,
                None,
            ),
            "validate": Use(
                help="Does the candidate (or the only model) have this pattern, layer by layer? Exit with 1 where it does not.",
                default=None,
            ),
        },
        metavar="PATTERN",
        check="onnxprune.sparsity.patterns:parse",
    )
    sparsity: float = setting(
        0.5,
        "The fraction that becomes zero, for patterns that do not say it.",
        on={"sparsify": Use(), "validate": Use(help="The fraction of zeros, for patterns that do not say it.")},
        metavar="F",
    )
    method: str | None = setting(
        None,
        "What stays: the largest weights (magnitude, the default without --calib), the largest times the norm of what they "
        "read (wanda), or those without which the output would change most (sparsegpt, the default with --calib).",
        on=HERE,
        panel=ZEROS,
        choices=METHODS,
    )
    permute: bool = setting(
        False,
        "First bring channels in an order in which more stays; outputs do not change.",
        on="sparsify prune",
        panel=ZEROS,
    )
    scope: str = setting(
        "local", "Whether layers compete (by magnitude; not for N:M).", on=HERE, panel=ZEROS, choices=SCOPES
    )
    target: str | None = setting(
        None,
        "Where the model is to run (tensorrt for 2:4, else nowhere in particular): the TensorRT targets have kernels for 2:4.",
        on=HERE,
        panel=ZEROS,
        choices=TARGETS,
    )
    layers: str | None = setting(
        None,
        "Those that the target will probably run faster (likely, the default for tensorrt), all that it can run so "
        "(eligible), or all.",
        on={
            "sparsify": Use(),
            "prune": Use(),
            "validate": Use(help="Which layers must have it, see 'onnxprune sparsify --help'.", panel=""),
        },
        panel=ZEROS,
        choices=LAYERS,
    )
    include: Sequence[str] = setting(
        (), "Only layers with such a node or tensor name; repeatable.", on=HERE, panel=ZEROS, metavar="GLOB"
    )
    exclude: Sequence[str] = setting((), "No layer with such a name; repeatable.", on=HERE, panel=ZEROS, metavar="GLOB")
    repair: str | None = setting(
        None,
        "How the weights that stay take over from those that are zero (lstsq with --calib, else none).",
        on=HERE,
        panel="Calibration",
        choices=FITTED,
    )
    seed: int = setting(0, "Seed of random inputs.", on=HERE, panel="Check", metavar="N", bounds=SEED)
