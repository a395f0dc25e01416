"""How long work reports its progress: the types of the functions that it calls."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # steps done, steps in all (0: unknown)
# A function of stages may have an attribute `expect`: it is called once with a `forecast.Forecast`, before work that takes long.
StageProgress = Callable[[str, int, int], None]  # name of the stage, steps done, steps in all (0: unknown)
