"""What the pipeline is fed beside the model, and what it does with the result."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

from onnxprune.errors import OnnxPruneError
from onnxprune.settings.table import (
    FLAG,
    FUNCTION,
    INPUTS,
    PLACE,
    SIZE,
    TEXT,
    TEXTS,
    Bounds,
    Use,
    check_fields,
    setting,
)

CASTS = ("fp16",)
INTEGERS = ("int8",)
CALIBRATION, CHECK, SPARSITY, INT8 = "Calibration", "Check", "Sparsity", "Quantization"
ALIKE = "What to remove"
SELF = "self"  # calibration data that the model makes itself
BOTH = "prune sparsify"
CALIBRATED = {name: Use() for name in ("prune", "sparsify")} | {
    name: Use(panel="") for name in ("sensitivity", "repair", "distill", "finetune")
}
COMPARED = "Compare on these inputs instead of --calib. With an array 'labels', accuracy is measured too."


def is_own(source: Any) -> bool:
    """Is the model to make the data itself?"""
    return isinstance(source, str | PathLike) and str(source) == SELF


@dataclass(frozen=True)
class RunSettings:
    """Data, checks and the form of the file: the settings of a run that say neither what to remove nor what becomes zero.

    `calib` and `data` are whatever `calibration.load_data` takes: in a recipe a path or an address, in Python arrays too.
    `preprocess` is for pictures among them: a Preprocess, or the parts of one as text. `metric` is a function, or a file
    and its name.
    """

    calib: Any = setting(
        None,
        "Inputs to observe the network on: an .npz with one array per input, a folder of .npy, or a folder of images; "
        "'self': text that a language model writes itself, or drawn scenes. "
        "Channels are then chosen by their activations, and the remaining layers are refitted by least squares. Labels "
        "are used by --metric and --max-drop only.",
        on={
            "prune": Use(),
            "sparsify": Use(),
            "sensitivity": Use(help="Inputs to measure on; labels are not needed."),
            "repair": Use(help="Inputs to fit the layers on, a hundred or more; labels are not needed."),
            "distill": Use(help="Inputs to learn on, hundreds or thousands; labels are not needed."),
            "finetune": Use(help="Inputs to learn on, with an array 'labels' (or --labels FILE)."),
        },
        metavar="FILE.npz|FOLDER|self",
        kind=INPUTS,
    )
    samples: int | None = setting(
        None,
        "Use N of the --calib inputs, spread evenly (all by default).",
        on={
            "prune": Use(),
            "sparsify": Use(),
            "repair": Use(),
            "distill": Use(),
            "finetune": Use(),
            "sensitivity": Use(help="Use N of the --calib inputs, spread evenly.", default=256),
        },
        metavar="N",
        bounds=Bounds("expected a whole number, 1 or more", 1),
    )
    data: Any = setting(
        None,
        "Compare on these inputs, in the forms of --calib. With an array 'labels', accuracy is measured too. By default "
        "the inputs are random.",
        on={
            "prune": Use(),
            "sparsify": Use(),
            "repair": Use(help=COMPARED),
            **dict.fromkeys(("distill", "finetune"), Use(help=COMPARED)),
            "validate": Use(),
            "record": Use(help="Inputs with an array 'labels' (or use --metric): what quality is measured on."),
        },
        metavar="FILE.npz|FOLDER",
        kind=INPUTS,
    )
    preprocess: Any = setting(
        (),
        "How images, in --calib and --data, become inputs: a preset (imagenet, unit, raw), a TOML file, or one of resize, "
        "crop, scale, mean, std, color, layout, filter; repeatable, later ones override earlier ones.",
        on={
            "prune": Use(),
            "sparsify": Use(),
            "sensitivity": Use(panel=""),
            "repair": Use(panel=""),
            "distill": Use(panel=""),
            "finetune": Use(panel=""),
            "validate": Use(panel=""),
            "record": Use(panel=""),
        },
        panel=CALIBRATION,
        metavar="imagenet|FILE.toml|NAME=VALUE",
        kind=TEXTS,
    )
    text_length: int | None = setting(
        None,
        "With --calib self: the number of tokens per text (256, or as many as the model accepts).",
        on=CALIBRATED,
        panel=CALIBRATION,
        metavar="N",
        bounds=Bounds("a text has 2 tokens or more", 2),
    )
    start_token: int | None = setting(
        None,
        "With --calib self: the token that each text starts with (drawn at random by default).",
        on=CALIBRATED,
        panel=CALIBRATION,
        metavar="N",
        bounds=Bounds("tokens are numbered from 0", 0),
    )
    metric: Any = setting(
        None,
        "Your own measure: a function of the outputs (a dict of arrays by name) and the labels that returns a number, "
        "higher is better. It is reported, chooses between plans, and is the measure of --max-drop (accuracy by default).",
        on={
            "prune": Use(),
            **dict.fromkeys(
                ("validate", "record"), Use(help="Your own measure: a function of outputs and labels.", panel="")
            ),
        },
        panel=CALIBRATION,
        metavar="FILE.py:FUNCTION",
        kind=FUNCTION,
    )
    cache: Any = setting(
        None,
        "Keep measured errors in this file and reuse them: an interrupted run continues, and another budget needs no new "
        "measurements.",
        on={"prune": Use(), "sensitivity": Use(panel="")},
        panel=CALIBRATION,
        metavar="FILE.jsonl",
        kind=PLACE,
    )
    timings: Any = setting(
        None,
        "For --latency: a file of the measured times of layers on this machine, which are reused (by default one file for "
        "all models, in the user's cache folder).",
        on="prune",
        panel=CALIBRATION,
        metavar="FILE.jsonl",
        kind=PLACE,
    )
    memory: int | str | None = setting(
        None,
        "The memory for calibration data and everything computed from them: 800MB, 4GB (by default half of the free "
        "memory, at most 4GiB). The rest is kept in temporary files; the result is the same.",
        on={
            "prune": Use(),
            "sparsify": Use(),
            "sensitivity": Use(panel=""),
            "repair": Use(panel=""),
            "distill": Use(panel=""),
            "finetune": Use(panel=""),
        },
        panel=CALIBRATION,
        metavar="SIZE",
        kind=SIZE,
        check="onnxprune.settings.quantities:read_size",
    )
    cast: str | None = setting(
        None,
        "Write half precision, which sparse kernels need; inputs and outputs keep their types.",
        on=BOTH,
        panel=SPARSITY,
        choices=CASTS,
        kind=TEXT,
    )
    then_quantize: str | None = setting(
        None,
        "Quantize the pruned model on the --calib inputs: int8 weights with a scale per channel, 8-bit activations, as "
        "QuantizeLinear and DequantizeLinear. The default --target is then cpu-int8.",
        panel=INT8,
        choices=INTEGERS,
        kind=TEXT,
    )
    hash_weights: float | None = setting(
        None,
        "First give weights that lie close together one value, the peak of their density (RED); B is the bandwidth in "
        "standard deviations of a layer's weights, as 0.01.",
        panel=ALIKE,
        metavar="B",
        bounds=Bounds("it is a bandwidth in standard deviations, above 0", 0.0, above=True),
    )
    merge_near: float | None = setting(
        None,
        "First make channels equal whose weights differ by at most this fraction D, so that all but one of them are free (RED).",
        panel=ALIKE,
        metavar="D",
        bounds=Bounds("it is a fraction of the norm of a channel's weights, 0 or more", 0.0),
    )
    gemm: bool = setting(
        False,
        "Write a MatMul with a constant matrix as a Gemm (with a Reshape if it has more axes).",
        on="sparsify",
        panel=SPARSITY,
        kind=FLAG,
    )
    check: bool = setting(
        True,
        "Compare the outputs of both models (--no-validate on the command line skips this).",
        on={name: Use(help="Skip the comparison.") for name in BOTH.split()}
        | dict.fromkeys(("repair", "distill", "finetune"), Use(help="Skip the comparison.", panel="")),
        panel=CHECK,
        kind=FLAG,
        negative="no_validate",
    )
    profile: bool = setting(
        False,
        "Measure peak memory too: each model runs once in a process of its own.",
        on={"prune": Use(), "sparsify": Use(), **dict.fromkeys(("validate", "record"), Use(panel=""))},
        panel=CHECK,
    )

    sparse_engines: bool = setting(
        False,
        "Forecast what engines that skip zeros would gain: count the multiplications with both operands other than zero on "
        "--data or --calib, and the bytes with 4-bit places and 16 values per layer.",
        on={"prune": Use(), "sparsify": Use(), "validate": Use(panel="")},
        panel=CHECK,
    )

    def check_values(self) -> None:
        """Raise OnnxPruneError for what cannot be; data may be anything that `load_data` takes."""
        check_fields(self, (INPUTS, PLACE, TEXTS, FUNCTION))
        if self.sparse_engines and self.calib is None and self.data is None:
            raise OnnxPruneError("sparse-engines counts multiplications on data; give some with --data or --calib")
