"""How a candidate is trained to do what the original does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxprune.settings.table import FLAG, INPUTS, PLACE, Bounds, Use, check_fields, setting

PANEL = "Distillation"
PASSES, FINETUNED = 50, 1.0
PIPELINES, COMMANDS = "prune sparsify", ("distill", "finetune")
OF_ALL = {"prune": Use(), "sparsify": Use()} | {name: Use(panel="") for name in COMMANDS}
# Of channels, then of single weights; `training/methods` has a class for each.
OF_CHANNELS, OF_WEIGHTS = ("slimming", "group-lasso", "soft"), ("surgery", "movement", "lottery")
TRAIN_METHODS = (*OF_CHANNELS, *OF_WEIGHTS)
WITH_PENALTY, SOFT, LOTTERY = ("slimming", "group-lasso"), "soft", "lottery"
SHARE = Bounds("it is the share of the loss, from 0 to 1", 0.0, 1.0)


@dataclass(frozen=True)
class Training:
    """The settings of `distill`, of `finetune`, and of `prune` and `sparsify` with `distill`.

    `labels` are integers, one for each sample of the calibration data, where the data have none beside them. None depends on the
    command and the data: see `distill.recipe`.
    """

    distill: bool = setting(
        False,
        "Train the pruned model to reproduce the original's outputs on --calib, without labels: after the repair, with torch "
        "(pip install 'onnxprune[torch]'). It is never worse than before on held-out samples.",
        on=PIPELINES,
        kind=FLAG,
    )
    passes: int = setting(
        PASSES,
        "Passes over --calib; more are better, and take longer.",
        on=OF_ALL,
        panel=PANEL,
        metavar="N",
        bounds=Bounds("training takes 1 pass over the data, or more", 1),
    )
    train_method: str | None = setting(
        None,
        "Before the removal, train for --passes, so that less is lost: L1 on the scales of norms (slimming), a growing "
        "penalty on whole channels (group-lasso), filters that are zero and may come back (soft); of 'sparsify': weights that "
        "may come back (surgery), those that move to zero (movement), from --rewind on (lottery).",
        on=PIPELINES,
        panel=PANEL,
        choices=TRAIN_METHODS,
        metavar="NAME",
    )
    penalty: float | None = setting(
        None,
        "The weight of the penalty of --train-method slimming or group-lasso, relative to its size before training (slimming 0.01, "
        "group-lasso 0.1).",
        on="prune",
        panel=PANEL,
        metavar="W",
        bounds=Bounds("it is a weight above 0", 0.0, above=True),
    )
    rewind: Any = setting(
        None,
        "The weights that --train-method lottery starts from: an ONNX file with the same initializers, as they were early in "
        "training.",
        on="sparsify",
        panel=PANEL,
        metavar="FILE.onnx",
        kind=PLACE,
    )
    iterative: int = setting(
        1,
        "Prune and train in turns, so many times: channels are scored again in the trained model. --schedule says how much is gone "
        "after each; each trains for --passes.",
        on={
            "prune": Use(),
            "sparsify": Use(
                help="Rounds of --train-method lottery, each of which keeps the same share of what is left."
            ),
        },
        panel=PANEL,
        metavar="N",
        bounds=Bounds("there are 1 to 100 rounds", 1, 100),
    )
    augment: bool = setting(
        True,
        "Change the inputs a little at each pass, and learn the original's outputs for them: images are mirrored, moved, enlarged, "
        "blended and recolored; other floats get noise.",
        on=OF_ALL,
        panel=PANEL,
        kind=FLAG,
    )
    learning_rate: float | None = setting(
        None,
        "The largest change of a weight in a step, relative to the root mean square of its tensor. By default the "
        "best of up to four short trainings, each of 5 % of the steps.",
        on=OF_ALL,
        panel=PANEL,
        metavar="R",
        bounds=Bounds("it is a number above 0, up to 1", 0.0, 1.0, above=True),
    )
    labels: Any = setting(
        None,
        "Classes to learn too: an .npz or .npy of integers, one per sample of --calib. An array 'labels' in the data works too.",
        on=OF_ALL,
        panel=PANEL,
        metavar="FILE.npy",
        kind=INPUTS,
    )
    label_weight: float | None = setting(
        None,
        "The share of the loss that is cross-entropy with labels (0.5 with --labels, else 0).",
        on={
            "prune": Use(),
            "sparsify": Use(),
            "distill": Use(panel=""),
            "finetune": Use(
                help="The share of the loss that is cross-entropy with labels.", panel="", default=FINETUNED
            ),
        },
        panel=PANEL,
        metavar="W",
        bounds=SHARE,
    )
    checkpoint: Any = setting(
        None,
        "Keep the state of training in this file; after an interruption the same command continues from it.",
        on=OF_ALL,
        panel=PANEL,
        metavar="FILE",
        kind=PLACE,
    )

    def check_values(self) -> None:
        """Raise OnnxPruneError for what cannot be; data may be anything that `load_data` takes."""
        check_fields(self, (INPUTS, PLACE))
