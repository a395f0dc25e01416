"""What to remove, and how: the settings of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnxprune.errors import OnnxPruneError
from onnxprune.settings.table import FLAG, Bounds, Use, check_fields, setting, to_option

MOST_STEPS = 1000
SCOPES = ("local", "global", "isomorphic")
BUDGETS = ("macs", "params", "bytes", "latency")
LIMITS = ("max_error", "min_agreement", "max_drop")
AMOUNTS = ("ratio", *BUDGETS, *LIMITS, "threshold")  # how much is removed: one of them
RATIO = 0.5  # where none of them is given
ALLOCATIONS = ("uniform", "global", "sensitivity", "search", "netadapt", "amc", "fisher", "redundancy")
MEASURED = ("sensitivity", "search", "netadapt", "amc")  # they measure errors on calibration data
SEARCHED = (*MEASURED, "fisher")  # they know errors, in one way or another
EFFORTS = ("low", "default", "high")
SCHEDULES = ("linear", "cubic", "agp", "geometric")
TARGETS = ("cpu", "cpu-avx512", "cpu-int8", "tensorrt", "tensorrt-int8", "openvino", "none")
REDUCES = ("sides", "joint", "sum", "mean", "max", "product", "first")
NORMALIZERS = ("none", "mean", "max", "sum", "standardize", "lamp")
REPAIRS = ("none", "merge", "bias", "affine", "lstsq", "obs")

AMOUNT, RANKING, GROUPS, REPAIR, OTHER = "How much to remove", "What to remove", "Which groups", "Calibration", "Check"
KEPT = Bounds("it is the fraction to keep, above 0 and up to 1", 0.0, 1.0, above=True)
REMOVED = Bounds("it is the fraction of channels to remove, from 0 to 1", 0.0, 1.0)
SEED = Bounds("it is a whole number, 0 or more", 0)


@dataclass(frozen=True)
class Options:
    """What a user may ask of a plan.

    `ratio` is the fraction to remove: of each group's channels (local), of all channels ranked together (global), or of
    the channels of groups of one shape (isomorphic). `macs`, `params`, `bytes` or `latency` instead is the fraction of those to
    keep, `latency` of the time that a run takes here; how much each group loses is then found, the way that `allocation` says
    (see `budget.py`, `search.py`). `max_ratio` caps what one group loses. `round_to` keeps counts at multiples of N. Globs
    match group names and the names of the initializers and nodes of a group.

    `threshold` instead removes the channels that score less, whatever their group; a group keeps one channel.
    Instead of those, `max_error` is how far outputs may move (relative L2), `min_agreement` how often the same class must be
    preferred, and `max_drop` how much a metric may lose: the smallest model that is so good on samples that its repair has not seen
    is found by bisection on the multiply-accumulates. With `steps` channels are
    removed bit by bit, and those that are left are scored again each time; `schedule` says how much is gone after which step.
    `repair` is the method (see `repair.repair`) by which the layers that stay take over from the removed channels.

    A None depends on whether there are calibration data, or others in their place: `resolved` says how.
    """

    macs: float | None = setting(
        None, "Instead of a ratio: keep at most this fraction of the multiply-accumulates.", metavar="F", bounds=KEPT
    )
    ratio: float | None = setting(
        None,
        "The fraction of channels to remove, below 1: of each group (local), of all channels ranked together (global), or "
        "of all groups of one shape (isomorphic). 0 removes only channels that change no output.",
        on={"prune": Use(default=RATIO)},
        metavar="R",
        bounds=Bounds("it is the fraction of channels to remove, from 0 to below 1", 0.0, 1.0),
    )
    threshold: float | None = setting(
        None,
        "Instead of a ratio: remove the channels whose score by --criterion is below T; scores are as they are, not normalized.",
        panel=AMOUNT,
        metavar="T",
        bounds=Bounds("it is a score, above 0", 0.0, above=True),
    )
    params: float | None = setting(
        None,
        "Instead of a ratio: keep at most this fraction of the parameters.",
        panel=AMOUNT,
        metavar="F",
        bounds=KEPT,
    )
    bytes: float | None = setting(
        None, "Instead of a ratio: keep at most this fraction of the file.", panel=AMOUNT, metavar="F", bounds=KEPT
    )
    latency: float | None = setting(
        None,
        "Instead of a ratio: keep at most this fraction of the time of a run on this machine, with one sample and one "
        "thread. Layers are timed once.",
        panel=AMOUNT,
        metavar="F",
        bounds=KEPT,
    )
    max_error: float | None = setting(
        None,
        "Instead of a ratio: the smallest model whose relative L2 error is at most E on held-out --calib inputs.",
        panel=AMOUNT,
        metavar="E",
        bounds=Bounds("it is a relative L2 error, 0 or more", 0.0),
    )
    min_agreement: float | None = setting(
        None,
        "Instead of a ratio: the smallest model that predicts the original's class for this fraction of held-out --calib "
        "inputs.",
        panel=AMOUNT,
        metavar="A",
        bounds=Bounds("it is the fraction of samples with the same class, above 0 and up to 1", 0.0, 1.0, above=True),
    )
    max_drop: float | None = setting(
        None,
        "Instead of a ratio: the smallest model that loses at most D of --metric (by default of the accuracy) on held-out "
        "--calib inputs.",
        panel=AMOUNT,
        metavar="D",
        bounds=Bounds("it is how much less the metric may be, 0 or more", 0.0),
    )
    allocation: str | None = setting(
        None,
        "How groups share a budget: one ratio for all (uniform), all channels ranked together (global), or by errors "
        "measured on --calib: one tolerance for all (sensitivity), the smallest sum (search, the default with --calib), "
        "small steps (netadapt), an agent that learns (amc, with torch), by gradients (fisher, with torch), or most where "
        "filters are most alike (redundancy).",
        panel=AMOUNT,
        choices=ALLOCATIONS,
    )
    depth: bool = setting(
        True,
        "With --calib and a budget: remove whole residual branches and experts too, if that is better on held-out "
        "samples than narrower layers alone.",
        panel=AMOUNT,
        kind=FLAG,
    )
    effort: str = setting(
        "default",
        "How much work with --calib: one scoring and one repair, one ratio for all groups (low); measured errors of "
        "groups, two plans compared (default); more plans, all data held out in turn, filters before convolutions "
        "repaired too (high, two to four times the time).",
        panel=AMOUNT,
        choices=EFFORTS,
    )
    steps: int | None = setting(
        None,
        "Remove channels in N steps, and score the remaining, repaired channels again after each (1).",
        panel=AMOUNT,
        metavar="N",
        bounds=Bounds(f"pruning takes 1 to {MOST_STEPS:,}", 1, MOST_STEPS),
    )
    schedule: str | None = setting(
        None,
        "The pruning ratio after each step: equal steps (linear), small steps first (cubic), large steps first (agp), a "
        "constant fraction of the rest (geometric).",
        panel=AMOUNT,
        choices=SCHEDULES,
    )
    criterion: str | None = setting(
        None,
        "The importance of a channel; see 'onnxprune criteria' (obs with --calib, else l2).",
        on={"prune": Use(), "sensitivity": Use(help="Which channels are removed first.", default="obs", panel="")},
        panel=RANKING,
        metavar="NAME",
        suggests="onnxprune.criteria:list_names",
        check="onnxprune.criteria:resolve",
    )
    scope: str = setting("local", "Which channels compete with each other.", panel=RANKING, choices=SCOPES)
    reduce: str | None = setting(
        None,
        "How the scores of a group's weights are combined (sum, mean, max, ..); by default as the criterion recommends.",
        panel=RANKING,
        metavar="NAME",
        choices=REDUCES,
    )
    normalize: str = setting(
        "mean",
        "How the scores of competing groups are made comparable (none, mean, lamp, ..).",
        panel=RANKING,
        metavar="NAME",
        choices=NORMALIZERS,
    )
    target: str | None = setting(
        None,
        "Where the model will run: channel counts are kept at multiples that are fast there (cpu, or tensorrt with "
        "--then-sparsify N:M; none with --round-to N).",
        metavar="NAME",
        choices=TARGETS,
    )
    round_to: int = setting(
        1,
        "Keep channel counts at multiples of N.",
        on={"prune": Use(), "sensitivity": Use(panel="")},
        panel=GROUPS,
        metavar="N",
        bounds=Bounds("channel counts are kept at multiples of N >= 1", 1),
    )
    max_ratio: float = setting(
        1.0, "The largest fraction of channels to remove from any group.", panel=GROUPS, metavar="R", bounds=REMOVED
    )
    include: Sequence[str] = setting(
        (),
        "Only groups whose name, nodes or initializers match; repeatable.",
        on={"prune": Use(), "sensitivity": Use(panel="")},
        panel=GROUPS,
        metavar="GLOB",
    )
    exclude: Sequence[str] = setting(
        (),
        "No groups whose name, nodes or initializers match; repeatable.",
        on={"prune": Use(), "sensitivity": Use(panel="")},
        panel=GROUPS,
        metavar="GLOB",
    )
    group_ratio: Mapping[str, float] = setting(
        {}, "A different ratio for matching groups; repeatable.", panel=GROUPS, metavar="GLOB=R", bounds=REMOVED
    )
    repair: str | None = setting(
        None,
        "How the remaining layers make up for the removed channels (lstsq with --calib, and on drawn scenes for models of "
        "images, else none): use the most similar kept channel (merge, by the weights alone), correct means (bias), "
        "means and deviations (affine), refit by least squares layer by layer (lstsq), or all layers at once (obs).",
        panel=REPAIR,
        choices=REPAIRS,
    )
    seed: int = setting(
        0,
        "Seed of random inputs and criteria.",
        on={
            "prune": Use(),
            "sensitivity": Use(panel=""),
            "repair": Use(help="Seed of the positions in feature maps that are used for fitting.", panel=""),
            "distill": Use(help="Seed of the order of samples, and of what is changed in them.", panel=""),
            "finetune": Use(help="Seed of the order of samples, and of what is changed in them.", panel=""),
            "validate": Use(help="Seed of the random inputs.", panel=""),
        },
        panel=OTHER,
        metavar="N",
        bounds=SEED,
    )

    @property
    def budget(self) -> tuple[str, float] | None:
        """What is counted, and the fraction of it that may stay."""
        return next(((kind, f) for kind in BUDGETS if (f := getattr(self, kind)) is not None), None)

    @property
    def limit(self) -> tuple[str, float] | None:
        """What is measured, and the value that it may have."""
        return next(((kind, f) for kind in LIMITS if (f := getattr(self, kind)) is not None), None)

    @property
    def removed(self) -> float:
        """The fraction of channels to remove where nothing else decides how much."""
        return RATIO if self.ratio is None else self.ratio

    @property
    def asked(self) -> str:
        """The budget or the limit as it was typed; a plan may have to be within other ones on the way."""
        kind, value = self.budget or self.limit or ("ratio", self.removed)
        if self.threshold is not None:
            kind, value = "threshold", self.threshold
        return f"--{to_option(kind)} {value:g}"

    @property
    def measures(self) -> bool:
        """Does the allocation measure errors where it has calibration data?"""
        return (self.budget or self.limit) is not None and self.allocation in (None, *MEASURED)

    @property
    def has_depth(self) -> bool:
        """May whole branches go?"""
        return self.depth and self.budget is not None and self.allocation in SEARCHED and self.effort != "low"

    @property
    def only_free(self) -> bool:
        """Is only that to go which changes no output?"""
        asked = self.budget or self.limit or self.threshold is not None or any(self.group_ratio.values())
        return self.ratio == 0 and not asked

    @property
    def has_fine_steps(self) -> bool:
        """May wide groups have finer steps than are fastest: are errors measured, or does each group have a ratio to meet?"""
        return self.budget is None or self.allocation in SEARCHED

    @property
    def has_measured_steps(self) -> bool:
        """Do errors decide the counts of groups, within a budget?"""
        return self.budget is not None and self.allocation in SEARCHED

    def resolved(self, calibrated: bool, drawn: bool = False) -> Options:
        """The same with all that was left open settled: the best combination known with calibration data, or without.

        `drawn`: inputs can be drawn in the place of data that are like those of the model.
        """
        repair = self.repair or ("lstsq" if calibrated or drawn else "none")
        best = "uniform" if self.effort == "low" else "search"
        allocation = self.allocation or (best if calibrated and self.measures else None)
        amounts = (self.budget, self.limit, self.threshold)
        return replace(
            self,
            ratio=self.removed if amounts == (None, None, None) else None,
            target="none" if self.round_to > 1 else self.target or "cpu",
            criterion=self.criterion or ("obs" if calibrated else "l2"),
            repair=repair,
            allocation=allocation,
            steps=self.steps or 1,
            schedule=self.schedule or "linear",
        )

    def check(self) -> None:
        """Raise OnnxPruneError for what cannot be."""
        check_fields(self)
        if self.ratio == 1.0 and self.max_ratio == 1.0:
            raise OnnxPruneError("ratio 1 would remove every channel; choose a fraction below 1")
        given = [kind for kind in AMOUNTS if getattr(self, kind) is not None]
        if len(given) > 1:
            raise OnnxPruneError(f"{' and '.join(map(to_option, given))}: give one, each decides how much is removed")
        if self.threshold is not None and (self.steps or 1) > 1:
            raise OnnxPruneError("threshold removes at once all that scores less; leave --steps out")
        if self.allocation is not None and self.budget is None and self.limit is None:
            raise OnnxPruneError(
                f"allocation '{self.allocation}' shares out a budget; give one of {', '.join(BUDGETS)}, or a limit"
            )
