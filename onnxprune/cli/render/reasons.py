"""Reasons in words, the most frequent first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from onnxprune.wording import plural

FEW_REASONS = 3


def say_where(verbose: bool) -> str:
    """Where everything is listed."""
    return "listed above" if verbose else "see --verbose"


def count_reasons(reasons: Iterable[str | None]) -> Counter[str]:
    """How often each reason is given."""
    return Counter(reason or "no reason given" for reason in reasons)


def join_reasons(reasons: Counter[str], where: str, most: int = FEW_REASONS) -> str:
    """The most frequent reasons with their counts, and where the others are."""
    frequent = [f"{reason} ({n})" if n > 1 else reason for reason, n in reasons.most_common(most)]
    rest = len(reasons) - len(frequent)
    return "; ".join(frequent + ([f"{plural(rest, 'more reason')}, {where}"] if rest else []))
