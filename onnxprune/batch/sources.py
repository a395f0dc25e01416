"""The models that paths, globs, folders and addresses stand for, and short names for them.

Addresses (s3://, gs://, https://, hf://) are read through fsspec, an optional extra, and downloaded when a run begins.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from onnxprune.errors import OnnxPruneError
from onnxprune.plain_settings import is_remote

SUFFIX = ".onnx"
CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Source:
    """A model: its path or address as a person would write it, and a short name that no other has."""

    given: str
    name: str


def find(pattern: str, base: Path) -> list[Source]:
    """The models of one path, glob, folder or address, in the order of their paths. Raises OnnxPruneError for none."""
    if is_remote(pattern):
        return _remote(pattern)
    path = base / pattern
    if path.is_dir():
        files = sorted(f for f in path.rglob(f"*{SUFFIX}") if f.is_file())
        sources = [Source(str(Path(pattern, f.relative_to(path))), _name(f.relative_to(path))) for f in files]
    elif path.exists():
        sources = [Source(pattern, _name(Path(path.name)))]
    else:
        sources = _globbed(pattern, base)
    if not sources:
        raise OnnxPruneError(f"{path}: {_none(pattern, path)}")
    return sources


def _none(pattern: str, path: Path) -> str:
    if path.is_dir():
        return f"there is no {SUFFIX} file in this folder"
    return "this glob matches no model" if glob.has_magic(pattern) else "there is no such file or folder"


def _globbed(pattern: str, base: Path) -> list[Source]:
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    start = Path(*parts[:fixed])
    suffix = Path(pattern).suffix or SUFFIX
    paths = sorted(glob.glob(pattern, root_dir=base, recursive=True))
    files = [Path(f) for f in paths if (base / f).is_file() and fnmatch(Path(f).suffix, suffix)]
    return [Source(str(f), _name(f.relative_to(start))) for f in files]


def _name(path: Path) -> str:
    return path.as_posix().removesuffix(SUFFIX)


def drop_duplicates(sources: Iterable[Source], base: Path) -> list[Source]:
    """Each model once, under a name of its own: where two share one, folders come before it, then numbers after it."""
    kept: dict[str, Source] = {}
    for s in sources:
        kept.setdefault(s.given if is_remote(s.given) else os.path.realpath(base / s.given), s)
    unique = list(kept.values())
    for depth in range(1, 1 + max((len(PurePosixPath(s.given).parts) for s in unique), default=0)):
        counts = Counter(s.name for s in unique)
        unique = [replace(s, name=_qualified(s, depth)) if counts[s.name] > 1 else s for s in unique]
    seen: Counter[str] = Counter()
    for i, s in enumerate(unique):
        seen[s.name] += 1
        unique[i] = replace(s, name=f"{s.name}-{seen[s.name]}") if seen[s.name] > 1 else s
    return unique


def _qualified(s: Source, depth: int) -> str:
    """The last parts of the path: the file's, and so many folders before it."""
    parts = [p for p in PurePosixPath(s.given.replace("://", "/")).parts if p.strip("./")]
    return _name(Path(*parts[-depth - 1 :]))


# Addresses


def _remote(address: str) -> list[Source]:
    fs, path = _file_system(address)
    scheme = address.partition("://")[0]
    try:
        if glob.has_magic(path) and scheme not in ("http", "https"):
            paths = [p for p in sorted(fs.glob(path)) if p.endswith(SUFFIX)]
            start = path[: next(i for i, c in enumerate(path) if c in "*?[")].rpartition("/")[0]
        elif path.endswith(SUFFIX):
            return [Source(address, _name(Path(PurePosixPath(path).name)))]
        else:
            paths, start = [p for p in sorted(fs.find(path)) if p.endswith(SUFFIX)], path
    except Exception as e:  # each file system has its own
        raise OnnxPruneError(f"{address}: cannot be listed: {_line(e)}; check the address and your access to it") from e
    if not paths:
        raise OnnxPruneError(f"{address}: there is no {SUFFIX} file")
    names = [p.removeprefix(start).strip("/") for p in paths]
    return [Source(fs.unstrip_protocol(p), _name(Path(n))) for p, n in zip(paths, names, strict=True)]


def _file_system(address: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise OnnxPruneError(f"{address}: addresses are read by fsspec; pip install 'onnxprune[batch]'") from None
    try:
        fs, path = url_to_fs(address)
    except ImportError as e:
        raise OnnxPruneError(f"{address}: {_line(e)}") from e
    except Exception as e:
        raise OnnxPruneError(f"{address}: not an address that fsspec reads: {_line(e)}") from e
    return fs, str(path)


def fetch(address: str, folder: Path, refers: Callable[[Path], Iterable[str]]) -> Path:
    """A copy of the file at `address` in `folder`, with the data files that it `refers` to; nothing is fetched twice.

    A file that changed (another size, date or tag) has another place. Raises OnnxPruneError.
    """
    fs, path = _file_system(address)
    try:
        info = fs.info(path)
        stamp = hashlib.sha256(repr((address, sorted(info.items(), key=str))).encode()).hexdigest()[:16]
        target = folder / stamp / PurePosixPath(path).name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            _copy(fs, path, part)
            for beside in refers(part):
                _copy(fs, str(PurePosixPath(path).parent / beside), target.parent / beside)
            os.replace(part, target)
    except Exception as e:  # each file system has its own
        raise OnnxPruneError(f"{address}: cannot be downloaded: {_line(e)}") from e
    return target


def _copy(fs: Any, path: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with fs.open(path, "rb") as source, target.open("wb") as out:
        while chunk := source.read(CHUNK_BYTES):
            out.write(chunk)


def _line(e: Exception) -> str:
    return " ".join(str(e).split()) or type(e).__name__
