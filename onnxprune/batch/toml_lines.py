"""On which line of a TOML file a key stands: `tomllib` tells only of errors in the syntax."""

from __future__ import annotations

import re

Key = tuple[str | int, ...]  # ("override", 1, "match"): the key `match` of the second [[override]]

_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ENTRY = re.compile(rf"\s*({_DOTTED})\s*=")


def find_lines(text: str) -> dict[Key, int]:
    """The line, from 1, of every table and of every key that begins a line."""
    line_numbers: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    within = ""  # the quotes of a text of several lines
    for number, line in enumerate(text.splitlines(), 1):
        if within:
            within = "" if within in line else within
        elif header := _HEADER.match(line):
            table = _table(_parts(header[2]), header[1] == "[[", counts)
            line_numbers.setdefault(table, number)
        elif entry := _ENTRY.match(line):
            line_numbers.setdefault(table + _parts(entry[1]), number)
            within = next((q for q in ('"""', "'''") if line.count(q) % 2), "")
    return line_numbers


def find_line(key: Key, line_numbers: dict[Key, int]) -> int:
    """The line of a key, or of what it stands in."""
    while key and key not in line_numbers:
        key = key[:-1]
    return line_numbers.get(key, 1)


def _parts(dotted: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _table(parts: Key, another: bool, counts: dict[Key, int]) -> Key:
    """The full key of a header; in `[[a]]`, and under it, the number of the table follows the name."""
    if another:
        counts[parts] = counts.get(parts, -1) + 1
    key: Key = ()
    for i, part in enumerate(parts, 1):
        key += (part, counts[parts[:i]]) if parts[:i] in counts else (part,)
    return key
