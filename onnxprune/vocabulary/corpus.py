"""The tokens that a corpus uses: ids in arrays, in files of numbers, or in whatever Python iterates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.arrays import read_arrays
from onnxprune.errors import DataError
from onnxprune.graph.weights import Array

TEXT = (".txt", ".ids")
PART = 1 << 24  # ids that are looked at together


@dataclass(frozen=True)
class Corpus:
    """The different tokens of a corpus, and of how many ids they are."""

    used: frozenset[int]
    ids: int


def read_corpus(source: Any, inputs: Collection[str], tokens: int) -> Corpus:
    """The tokens that a corpus uses.

    Args:
        source: a path (.npz, .npy, a folder of .npy, or .txt with numbers), an array, a mapping of arrays, or an iterable of these
            and of lists of ids.
        inputs: the names of the model's inputs of ids: of several arrays those are meant.
        tokens: how many tokens the model has.

    Returns:
        The tokens.

    Raises:
        DataError: there are no whole numbers, or an id that the model does not have.
    """
    used, total = np.zeros(tokens, bool), 0
    for name, ids in _arrays(source, frozenset(inputs)):
        if ids.dtype.kind not in "iu":
            raise DataError(f"corpus {name}: {ids.dtype.name}; expected ids, which are whole numbers")
        flat = ids.reshape(-1)
        for at in range(0, flat.size, PART):
            part = flat[at : at + PART]
            low, high = int(part.min()), int(part.max())
            if low < 0 or high >= tokens:
                wrong = low if low < 0 else high
                raise DataError(f"corpus {name}: id {wrong}; the model has the tokens 0 to {tokens - 1}")
            used[part] = True
        total += flat.size
    if not total:
        raise DataError("the corpus is empty; give the ids of texts as the model will see them")
    return Corpus(frozenset(np.flatnonzero(used).tolist()), total)


def _arrays(source: Any, inputs: Collection[str]) -> Iterable[tuple[str, Array]]:
    """The arrays of ids in a source, each with the name for messages."""
    if isinstance(source, str | PathLike):
        path = Path(source)
        if path.suffix in TEXT:
            yield f"'{path}'", _read_text(path)
        else:
            yield from _choose(read_arrays(path), inputs, f"'{path}'")
    elif isinstance(source, Mapping):
        yield from _choose({str(n): np.asarray(x) for n, x in source.items()}, inputs, "in memory")
    elif isinstance(source, np.ndarray):
        yield "in memory", source
    elif isinstance(source, Iterable):
        parts = list(source)
        if all(isinstance(p, int | np.integer) for p in parts):
            yield "in memory", np.asarray(parts, np.int64)
        else:
            for part in parts:
                yield from _arrays(part, inputs)
    else:
        raise DataError(f"corpus: {type(source).__name__} is no path, array or iterable of ids")


def _choose(arrays: Mapping[str, Array], inputs: Collection[str], where: str) -> Iterable[tuple[str, Array]]:
    """Those that are named as inputs; else the only one of whole numbers."""
    named = [n for n in arrays if n in inputs]
    whole = named or [n for n, x in arrays.items() if x.dtype.kind in "iu"]
    if not named and len(whole) != 1:
        known = ", ".join(map(repr, sorted(arrays))) or "none"
        raise DataError(
            f"corpus {where}: which array has the ids? It has {known}; name one {' or '.join(sorted(inputs))}"
        )
    return [(f"{where}, array '{n}'", arrays[n]) for n in whole]


def _read_text(path: Path) -> Array:
    """Numbers with spaces, commas or line breaks between them."""
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
        return np.array([int(word) for word in words], np.int64)
    except OSError as e:
        raise DataError(f"corpus '{path}': {e.strerror}") from None
    except (ValueError, OverflowError) as e:
        raise DataError(
            f"corpus '{path}': {e}; expected ids, with spaces between them (text has to be tokenized first)"
        ) from None
