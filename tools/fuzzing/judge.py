"""Does a graph keep the laws? Rounding, where a graph is ill-conditioned, is told apart from wrong results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx
from laws import Checker, Feeds, run_ort


@dataclass
class Verdict:
    """The laws that broke, with what was said, and those whose numbers differ by no more than the graph's own noise."""

    broken: dict[str, str] = field(default_factory=dict)
    rounding: list[str] = field(default_factory=list)
    groups: int = 0


def judge(
    proto: onnx.ModelProto,
    feeds: Sequence[Feeds],
    laws: Iterable[str],
    seed: int = 0,
    tolerance: float | None = None,
    max_groups: int | None = None,
) -> Verdict:
    """Check each of the laws on its own."""
    verdict = Verdict()
    try:
        checker = Checker(proto, feeds, run_ort, tolerance, seed, max_groups, forgives_rounding=True)
    except Exception as e:
        verdict.broken["analysis"] = f"analysis law, the whole graph: {type(e).__name__}: {e}"
        return verdict
    verdict.groups = len(checker.analysis.groups)
    for law in laws:
        before = checker.rounded
        try:
            getattr(checker, law)()
        except AssertionError as e:
            verdict.broken[law] = str(e)
        if checker.rounded > before:
            verdict.rounding.append(law)
    return verdict


def kind(message: str) -> str:
    """What went wrong, without names and numbers: what must stay the same while a graph is shrunk."""
    law, _, rest = message.partition(" law, ")
    _, _, text = rest.partition(": ")
    if "differs by" in text:
        return f"{law}: differs"
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : (\w+).*", r"\1", text.splitlines()[0] if text else "")
    return f"{law}: " + re.sub(r"\d+|'[^']*'|\[[^]]*\]|\([^)]*\)", "_", text)[:60]
