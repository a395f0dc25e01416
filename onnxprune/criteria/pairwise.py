"""Inner products between all the channels of a group, a tile of rows at a time, in float64.

A tile is [m, n] and is summed over chunks of columns [n, kc]; nothing of size n * n * k exists, nor n * n for large n.
"""

from collections.abc import Callable, Iterator

import numpy as np

from onnxprune.criteria.registry import Rows, Scores

Transform = Callable[[Scores], Scores]
TILE_ENTRIES = 1 << 24
CHUNK_ENTRIES = 1 << 22


def iterate_chunks(rows: Rows, transform: Transform) -> Iterator[Scores]:
    """The columns of all the blocks, [n, kc] float64 at a time, transformed."""
    step = max(1, CHUNK_ENTRIES // max(1, rows.n))
    for block in rows.blocks:
        for start in range(0, block.shape[1], step):
            yield transform(block[:, start : start + step].astype(np.float64))


def center_columns(chunk: Scores) -> Scores:
    """The rows less their mean: distances do not change, and products lose fewer digits to what all the rows share."""
    centered: Scores = chunk - chunk.mean(axis=0)
    return centered


def squares(rows: Rows, transform: Transform) -> Scores:
    """The squared Euclidean norm of each transformed row, [n]."""
    total = np.zeros(rows.n)
    for chunk in iterate_chunks(rows, transform):
        total += np.einsum("ij,ij->i", chunk, chunk)
    return total


def iterate_gram_tiles(rows: Rows, transform: Transform) -> Iterator[tuple[slice, Scores]]:
    """Tiles (rows a:b, G[a:b, :]) of G = X X^T, with X the transformed rows [n, k]."""
    step = max(1, TILE_ENTRIES // max(1, rows.n))
    for start in range(0, rows.n, step):
        part = slice(start, min(start + step, rows.n))
        tile = np.zeros((part.stop - start, rows.n))
        for chunk in iterate_chunks(rows, transform):
            tile += chunk[part] @ chunk.T
        yield part, tile


def clear_diagonal(part: slice, tile: Scores) -> None:
    """Set each row's entry with itself to 0, in place."""
    own = np.arange(part.start, part.stop)
    tile[own - part.start, own] = 0.0
