"""The ids of tokens before and after: a map as plain data, beside the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.graph.weights import Array

FORMAT = 1


@dataclass(frozen=True)
class IdMap:
    """The tokens that stay: `kept[new id]` is the id that a token had among `tokens`."""

    tokens: int
    kept: tuple[int, ...]

    @cached_property
    def new(self) -> Array:
        """The new id of each old one, -1 where the token was removed. [tokens]"""
        new_ids = np.full(self.tokens, -1, np.int64)
        new_ids[list(self.kept)] = np.arange(len(self.kept))
        return new_ids

    def encode(self, ids: Any, missing: int | None = None) -> Array:
        """Ids of the original's tokens as those of the pruned model.

        Args:
            ids: of any shape.
            missing: the new id that stands for removed tokens, as that of an unknown word; None: there must be none.

        Returns:
            New ids, of the same shape and type.

        Raises:
            DataError: an id is none of the original's, or its token was removed and there is no `missing`.
        """
        old = np.asarray(ids)
        if old.size and (old.min() < 0 or old.max() >= self.tokens):
            raise DataError(f"ids from {old.min()} to {old.max()}; the original has the tokens 0 to {self.tokens - 1}")
        new_ids = self.new[old]
        if missing is None and (new_ids < 0).any():
            gone = int(old[new_ids < 0].ravel()[0])
            raise DataError(f"token {gone} was removed; keep it, or say which token stands for it")
        known: Array = np.where(new_ids < 0, -1 if missing is None else missing, new_ids)
        return known.astype(old.dtype)

    def decode(self, ids: Any) -> Array:
        """Ids of the pruned model as the original's, of the same shape and type. Raises DataError for one that there is not."""
        new = np.asarray(ids)
        if new.size and (new.min() < 0 or new.max() >= len(self.kept)):
            raise DataError(f"ids from {new.min()} to {new.max()}; the model has the tokens 0 to {len(self.kept) - 1}")
        old: Array = np.asarray(self.kept, np.int64)[new]
        return old.astype(new.dtype)

    def to_json(self) -> dict[str, Any]:
        """The map as JSON data: the number of tokens, and the kept ones."""
        return {"format": FORMAT, "tokens": self.tokens, "kept": list(self.kept)}

    def save(self, path: str | PathLike[str]) -> None:
        """Write the map as JSON, by write-then-rename."""
        from onnxprune.graph.files import write_text

        write_text(Path(path), json.dumps(self.to_json()) + "\n")

    @staticmethod
    def load(path: str | PathLike[str]) -> IdMap:
        """Read a map. Raises DataError for a file that is none."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise DataError(f"'{path}' has format {data['format']}; this version reads format {FORMAT}")
            kept = _check(data["kept"], int(data["tokens"]))
            return IdMap(int(data["tokens"]), kept)
        except OSError as e:
            raise DataError(f"cannot read the id map '{path}': {e.strerror}") from None
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"'{path}' is no id map: {type(e).__name__} {e}; expected format, tokens, kept") from None


def _check(kept: Sequence[Any], tokens: int) -> tuple[int, ...]:
    checked = tuple(map(int, kept))
    if len(set(checked)) < len(checked) or not all(0 <= i < tokens for i in checked):
        raise ValueError("ids are repeated or out of range")
    return checked


def read_ranges(text: str) -> tuple[int, ...]:
    """Ids as people write them: `0-2,50256`. Raises DataError."""
    ids = list[int]()
    for part in filter(None, (p.strip() for p in text.split(","))):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()) or part.endswith("-"):
            raise DataError(f"'{part}' is no id of a token; expected numbers and ranges, as in 0-2,50256")
        ids += range(int(low), int(high or low) + 1)
    return tuple(ids)


def unite(*ids: Iterable[int]) -> tuple[int, ...]:
    """All of them once, in order."""
    return tuple(sorted({int(i) for some in ids for i in some}))
