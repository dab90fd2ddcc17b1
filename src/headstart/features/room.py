"""The room of the boundary cache: its folder, its limit, the size of entries, and eviction."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import HeadstartError
from headstart.files import cache_root, locked
from headstart.machine.runtime import Runtime
from headstart.models.backbones import Backbone

DEFAULT_LIMIT_GB = 20.0
INDEX = "index.json"  # of an entry, written last
DIGITS = 24  # of an entry's name, which is the hash of its key
_NAME = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


def entries_root() -> Path:
    return cache_root() / "boundary"


def list_cache() -> list[tuple[Path, int]]:
    """Finished and unfinished entries with their size in bytes, least recently used first."""
    root = entries_root()
    # Only folders named like entries: other files in the folder are not counted or removed.
    named = [f for f in root.iterdir() if _NAME.fullmatch(f.name)] if root.is_dir() else []
    entries = []
    for folder in filter(Path.is_dir, named):
        with contextlib.suppress(FileNotFoundError):  # another process is removing it
            size = sum(path.stat().st_size for path in folder.iterdir())
            entries.append((_last_used(folder), folder, size))
    return [(folder, size) for _, folder, size in sorted(entries)]


def limit_bytes(runtime: Runtime | None = None) -> int:
    """The limit of the cache: --cache-limit, or $HEADSTART_CACHE_LIMIT_GB, or 20 GB."""
    if runtime and runtime.cache_limit_gb is not None:
        return _bytes(runtime.cache_limit_gb)
    text = os.environ.get("HEADSTART_CACHE_LIMIT_GB", str(DEFAULT_LIMIT_GB))
    try:
        return _bytes(float(text))
    except ValueError:
        raise HeadstartError(f"HEADSTART_CACHE_LIMIT_GB={text}: not a number of GB") from None


def _bytes(gigabytes: float) -> int:
    return int(min(gigabytes * 1e9, 2.0**62))  # "inf" is a limit too


@dataclass(frozen=True)
class Footprint:
    """The size of a cached boundary: `rows` rows (images times views) of one shape and dtype, of
    which `exact` ones, those of test, are kept in float32."""

    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    exact: int = 0

    @property
    def bytes(self) -> int:
        each = (self.rows - self.exact) * self.dtype.itemsize + self.exact * 4
        return each * math.prod(self.shape)

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"{self.rows:,} rows of {shape} {self.dtype}, {self.bytes / 1e9:.2f} GB"


def footprint(backbone: Backbone, boundary: int, size: int, rows: int, exact: int = 0) -> Footprint:
    """The footprint of `rows` rows at a boundary, for inputs of `size` pixels a side."""
    shape = backbone.shapes(size)[boundary]
    return Footprint(rows, shape, row_dtype(backbone, boundary), exact)


def row_dtype(backbone: Backbone, boundary: int) -> np.dtype[Any]:
    """float32 for pooled features, float16 for activations below them.

    Pooled features are small, and a solver is sensitive to rounding. Activations are a hundred
    times larger, and training above them is not sensitive to rounding.
    """
    return np.dtype(np.float32 if boundary == len(backbone.stages()) else np.float16)


def cache_or_recompute(needs: Footprint, runtime: Runtime, *, required: bool) -> str | None:
    """None where the footprint can be cached, else the reason why it cannot.

    Raises HeadstartError where it is required and there is no room: a solver reads all rows.
    """
    reason = why_no_room(needs.bytes, runtime)
    if reason and required:
        raise HeadstartError(
            f"a head that is solved needs its features cached ({needs}), and {reason}; "
            "or set epochs in its phase: then it is trained, with or without a cache"
        )
    return reason


def why_no_room(needed: int, runtime: Runtime) -> str | None:
    """Why `needed` bytes cannot be cached even with everything else evicted; None if they can."""
    limit = limit_bytes(runtime)
    if needed > limit:
        return (
            f"{needed / 1e9:.1f} GB exceed the limit of {limit / 1e9:.1f} GB: "
            "raise --cache-limit, or lower views, data.size or data.train_limit"
        )
    root = entries_root()
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free + sum(size for _, size in list_cache())
    if needed > free:
        return (
            f"{root}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are available: "
            "free some, or move the cache with HEADSTART_CACHE"
        )
    return None


def make_room(needed: int, runtime: Runtime) -> None:
    """Evict least recently used entries until `needed` more bytes fit the limit and the disk.

    Raises HeadstartError where they cannot.
    """
    if reason := why_no_room(needed, runtime):
        raise HeadstartError(reason)
    limit, entries = limit_bytes(runtime), list_cache()
    held = sum(size for _, size in entries)
    for folder, size in entries:
        if held + needed <= limit and shutil.disk_usage(entries_root()).free > needed:
            break
        if _remove(folder):
            held -= size
    free = shutil.disk_usage(entries_root()).free
    if free < needed:
        raise HeadstartError(
            f"{entries_root()}: this boundary needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free: free some, or move the cache with HEADSTART_CACHE"
        )


def _last_used(folder: Path) -> float:
    index = folder / INDEX
    return index.stat().st_mtime if index.exists() else folder.stat().st_mtime


def lock_of(folder: Path) -> Path:
    """The lock file of an entry: one process writes it, a second one waits for it."""
    return folder.parent / f"{folder.name}.lock"


def clear_cache() -> None:
    """Remove every entry but those that are being written."""
    for folder, _ in list_cache():
        _remove(folder)


def _remove(folder: Path) -> bool:
    """Remove an entry, unless this or another process is writing it; returns whether it is gone."""
    with locked(lock_of(folder), wait=False) as free_to_take:
        if free_to_take:
            shutil.rmtree(folder, ignore_errors=True)
        return free_to_take


def cached_rows(counts: Mapping[str, int], views: int) -> int:
    """Number of rows that a phase caches: every view of train, and plain validation and test."""
    return counts["train"] * views + counts["val"] + counts["test"]
