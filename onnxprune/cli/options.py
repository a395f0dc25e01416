"""Options that several commands have: said once, so that they mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

REPAIRS = ("none", "merge", "bias", "affine", "lstsq", "obs")


def option(panel: str, *names: str, **more: Any) -> Any:
    """An option under a heading of the help."""
    return typer.Option(*names, rich_help_panel=panel, **more)


def output(kind: str) -> Any:
    """Where a command writes its model, which is smaller or sparse."""
    text = f"Where the {kind} model goes (its data file, if any: OUT.HASH.data)."
    return option("Files", "--output", "-o", metavar="OUT", help=text)


def repairs(incomplete: str) -> list[str]:
    """Shell completion: ways of repair."""
    return [name for name in REPAIRS if name.startswith(incomplete)]


MODEL = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; it is never changed.")]
REPORT = Annotated[Path | None, option("Files", "--report", metavar="REPORT.json", help="Write the report as JSON.")]
HTML = Annotated[
    Path | None,
    option("Files", "--html", metavar="REPORT.html", help="Write the report as a page to read in a browser."),
]
CALIB = Annotated[
    Path | None,
    option(
        "Calibration",
        "--calib",
        metavar="FILE.npz|FOLDER",
        help="Inputs to watch the network on: an .npz with one array an input, a folder of .npy, or a folder of pictures. What "
        "goes is then chosen by what the network does with them, and what stays is repaired. Labels are never used.",
    ),
]
SAMPLES = Annotated[
    int | None,
    option(
        "Calibration", "--samples", min=1, metavar="N", help="Use so many of them, spread evenly (all, unless given)."
    ),
]
PREPROCESS = Annotated[
    list[str] | None,
    option(
        "Calibration",
        "--preprocess",
        metavar="imagenet|FILE.toml|NAME=VALUE",
        help="How pictures, in --calib and --data, become inputs: a preset (imagenet, unit, raw), a TOML file, or one of "
        "resize, crop, scale, mean, std, color, layout, filter; repeatable, the later ones win.",
    ),
]
DATA = Annotated[
    Path | None,
    option(
        "Check",
        "--data",
        metavar="FILE.npz|FOLDER",
        help="Compare on these inputs: what --calib takes. With an array 'labels', accuracy is measured too. Without, the "
        "inputs are random.",
    ),
]
NO_VALIDATE = Annotated[bool, option("Check", "--no-validate", help="Leave the comparison out.")]
PROFILE = Annotated[
    bool,
    option("Check", "--profile", help="Measure peak memory too: each model runs once in a process of its own."),
]
SEED = Annotated[int, option("Check", "--seed", min=0, metavar="N", help="Seed of random inputs and criteria.")]
SPARSE_LAYERS = Annotated[
    str | None,
    option(
        "Sparsity",
        "--layers",
        metavar="likely|eligible|all",
        help="Those that the target will probably run faster (likely, the default for tensorrt), all that it can run so "
        "(eligible), or all.",
    ),
]
PERMUTE = Annotated[
    bool,
    option(
        "Sparsity",
        "--permute",
        help="First bring channels in an order in which more stays; outputs do not change.",
    ),
]
CAST = Annotated[
    str | None,
    option(
        "Sparsity",
        "--cast",
        metavar="fp16",
        help="Write half precision, which sparse kernels need; inputs and outputs keep their types.",
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
