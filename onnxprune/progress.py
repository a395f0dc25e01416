"""The types of functions that report the progress of long work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # steps done, steps in all (0: unknown)
# A function of stages may have attributes: `expect` is called once with a `forecast.Forecast`, before work that takes long;
# `remark` with a stage and what there is to say of it now, such as the loss of a training.
StageProgress = Callable[[str, int, int], None]  # name of the stage, steps done, steps in all (0: unknown)
ProgressChoice = (
    StageProgress | bool | None
)  # None: a bar where somebody sees it; True: lines elsewhere too; False: nothing
