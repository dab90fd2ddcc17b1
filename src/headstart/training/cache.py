"""The boundary cache: what lies below a boundary is a pure function of the image, computed once.

An entry is the output of the stages below a boundary for every image (and view) of one split,
as a raw memory-mapped array. Its key covers everything that changes its bytes: the images, the
prefix's own parameters, preprocessing, augmentation, precision and engine. The index file is
written last, so its presence means that the entry is whole; an interrupted entry keeps the rows
it has and goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart.data import ImageSet
from headstart.data.transforms import Transform
from headstart.errors import HeadstartError, explain_os_error
from headstart.models.backbones import Backbone
from headstart.paths import cache_root
from headstart.profiling import each_in_section, section
from headstart.progress import Reporter
from headstart.rundir import write_json
from headstart.runtime import Runtime
from headstart.training.feeds import Inputs
from headstart.training.lookahead import ahead
from headstart.training.prefix import CALIBRATION, Engine, Prefix, compile_prefix, engine_name
from headstart.training.resident import DeviceRows

FORMAT = 4  # raise it when the same key would give other bytes, or its index other fields
DEFAULT_LIMIT_GB = 20.0
_DIGITS = 24
_NAME = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")  # of an entry's folder

# What the entries that are mapped may take of the process's memory, all together, before pages that
# have been read are given back. They stay in the system's page cache as long as there is room, but
# mapping them again takes a tenth to a quarter of a solver's pass over the features.
RESIDENT_BYTES = 2**28
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

# Inputs that are made at a time, whole batches of them: a transform is many small operations.
# MobileNetV2 at 96 pixels in bfloat16 took in 2,380 instead of 2,245 images/s.
TRANSFORMED_BYTES = 2**23


@dataclass(frozen=True)
class CachedRows:
    """array: (n, views, *shape), float32 or float16, memory-mapped. computed: rows that were not
    there yet. entry, seconds: the entry's name, and what computing the whole of it takes, which
    tells what a run was spared that found it. release: gives the pages read so far back, where all
    maps together are too large to stay."""

    array: np.ndarray
    computed: int
    entry: str
    seconds: float
    release: Callable[[], None] = lambda: None

    @property
    def hit(self) -> bool:
        return self.computed == 0


class BoundaryCache:
    """Entries for one backbone, boundary and transform; compiles the prefix once, when needed.

    calibration: images that a prefix in int8 takes its ranges from; other precisions need none.
    """

    def __init__(
        self,
        backbone: Backbone,
        boundary: int,
        transform: Transform,
        runtime: Runtime,
        reporter: Reporter,
        calibration: ImageSet | None = None,
    ) -> None:
        self._backbone, self._boundary = backbone, boundary
        self._calibration = calibration if runtime.precision == "int8" else None
        self._transform, self._runtime, self._reporter = transform, runtime, reporter
        self._prefix: Prefix | None = None
        self._dtype = row_dtype(backbone, boundary)
        self._key = {
            "format": FORMAT,
            "architecture": backbone.name,
            "boundary": boundary,
            "prefix": backbone.prefix_hash(boundary),
            "dtype": self._dtype.name,
            "engine": engine_name(runtime),
        }
        if self._calibration:
            self._key["calibration"] = self._calibration.fingerprint

    def rows(
        self, images: ImageSet, *, views: int | None = None, label: str, keep: bool = True
    ) -> CachedRows:
        """The entry for these images, computed now if it is not there.

        views: augmented views per image; None is the plain image, once. keep: else the entry
        leaves the disk with the last reference to its array. Raises HeadstartError where the disk
        or the cache's limit does not hold the entry.
        """
        transform = self._transform if views else self._transform.plain
        key = {**self._key, **transform.describe(), "images": images.fingerprint, "views": views}
        key["side"] = images.side
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        folder = entries_root() / name
        with _locked(folder):
            folder.mkdir(exist_ok=True)  # only now: who had the lock before may have removed it
            computed = 0
            if not (folder / "index.json").exists():
                try:
                    computed = self._write(folder, key, images, transform, views or 1, label)
                except HeadstartError:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                except OSError as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    reason = explain_os_error(error)
                    if reason is None:
                        raise
                    raise HeadstartError(
                        f"cache {reason} (HEADSTART_CACHE moves the cache)"
                    ) from error
            os.utime(folder / "index.json")  # least recently used is evicted first
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            shape = tuple(index["shape"])
            # Mapped under the lock: from here on even an eviction leaves the pages readable.
            rows, release = _mapped(folder / "rows.bin", index["dtype"], shape)
            found = CachedRows(rows, computed, name, index["seconds"], release)
            if not keep:
                shutil.rmtree(folder)
            return found

    def _write(
        self,
        folder: Path,
        key: dict[str, Any],
        images: ImageSet,
        transform: Transform,
        views: int,
        label: str,
    ) -> int:
        """Compute the rows that are not there yet; returns how many those were."""
        partial, started = folder / "rows.partial", time.perf_counter()
        total = len(images) * views
        shape: list[int] | None = None
        begun: Engine | None = None
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            found = json.loads((folder / "partial.json").read_text(encoding="utf-8"))
            # What began an entry ends it, whatever is the fastest by now.
            shape, begun = found["shape"], Engine(**found["engine"])
        if self._prefix is None or (begun and begun != self._prefix.engine):
            with section("compile"):
                self._prefix = compile_prefix(
                    self._backbone,
                    self._boundary,
                    transform.preprocess.size,
                    self._runtime,
                    rows=total,
                    engine=begun,
                    calibration=self._calibration_inputs(),
                )
        engine = self._prefix.engine
        compiled = time.perf_counter()
        row_bytes, start = 0, 0
        if shape is not None:
            row_bytes = int(np.prod(shape)) * self._dtype.itemsize
            held = partial.stat().st_size if partial.exists() else 0
            start = held // row_bytes // engine.batch * engine.batch
            make_room((total - start) * row_bytes, self._runtime)
        with (
            partial.open("ab") as file,
            self._reporter.track(label, total, "images") as advance,
        ):
            file.truncate(start * row_bytes)
            advance(start)
            inputs = self._batches(images, transform, views, start, engine.batch)
            with contextlib.closing(inputs) as batches:
                for outputs in each_in_section(self._prefix.run(batches), "prefix"):
                    if shape is None:
                        shape = list(outputs.shape[1:])
                        make_room(total * outputs[0].size * self._dtype.itemsize, self._runtime)
                        write_json(
                            folder / "partial.json", {"shape": shape, "engine": asdict(engine)}
                        )
                    with section("cache write"):
                        file.write(self._pack(outputs))
                    advance(len(outputs))
        partial.rename(folder / "rows.bin")
        (folder / "partial.json").unlink()
        shape = [len(images), views, *(shape or [])]
        # Rows that an interrupted pass left count as if they were computed now.
        whole = (time.perf_counter() - compiled) * total / max(total - start, 1)
        seconds = compiled - started + whole
        index = {"shape": shape, "dtype": self._dtype.name, "key": key, "seconds": seconds}
        write_json(folder / "index.json", index)
        return total - start

    def _calibration_inputs(self) -> Iterator[torch.Tensor]:
        """Single plain inputs, spread over the calibration images."""
        images = self._calibration
        if images is None:
            return
        count = min(CALIBRATION, len(images))
        for rows in np.linspace(0, len(images) - 1, count).astype(np.int64)[:, None]:
            yield self._transform.plain(torch.as_tensor(images.read(rows)), images.keys[rows])

    def _pack(self, outputs: np.ndarray) -> bytes:
        packed = outputs.astype(self._dtype, copy=False)
        if not np.isfinite(packed).all():
            raise HeadstartError(
                f"{self._backbone.name}: activations at the boundary do not fit "
                f"{self._dtype.name}: set views = 0, which recomputes them"
            )
        return packed.tobytes()

    def _batches(
        self, images: ImageSet, transform: Transform, views: int, start: int, batch: int
    ) -> Generator[torch.Tensor, None, None]:
        """Inputs of the prefix from flat row `start` on; rows run image by image, view by view."""
        flat = np.arange(start, len(images) * views)
        pixels = DeviceRows(images.read, len(images), images.image_bytes, self._runtime)
        image_bytes = 4 * 3 * transform.preprocess.size**2
        together = batch * max(1, TRANSFORMED_BYTES // (batch * image_bytes))

        def prepared() -> Generator[tuple[np.ndarray, np.ndarray, Inputs], None, None]:
            for first in range(0, len(flat), together):
                rows, view = np.divmod(flat[first : first + together], views)
                with section("decode"):
                    place = pixels.prepare(rows)
                yield images.keys[rows], view, place

        ready = prepared()
        if self._runtime.overlaps:
            ready = ahead(ready, self._runtime.device)
        with contextlib.closing(ready):
            for keys, view, place in ready:
                with section("transform"):
                    inputs = transform(place(), keys, view)
                yield from torch.split(inputs, batch)


def _mapped(
    path: Path, dtype: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, Callable[[], None]]:
    """The rows of a file, and what gives their pages back."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _maps.add(mapping)

    def release() -> None:
        if sum(map(len, _maps)) > RESIDENT_BYTES:
            mapping.madvise(mmap.MADV_DONTNEED)

    return np.frombuffer(mapping, dtype).reshape(shape), release


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over a mapped entry, which must not be written: the pages are the file's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def entries_root() -> Path:
    return cache_root() / "boundary"


def list_cache() -> list[tuple[Path, int]]:
    """Finished and unfinished entries with their size in bytes, least recently used first."""
    root = entries_root()
    # By their names: what else lies there is not ours to count or to remove.
    named = [f for f in root.iterdir() if _NAME.fullmatch(f.name)] if root.is_dir() else []
    found = []
    for folder in filter(Path.is_dir, named):
        with contextlib.suppress(FileNotFoundError):  # another process is removing it
            size = sum(path.stat().st_size for path in folder.iterdir())
            found.append((_last_used(folder), folder, size))
    return [(folder, size) for _, folder, size in sorted(found)]


def limit_bytes(runtime: Runtime | None = None) -> int:
    """What the cache may hold: --cache-limit, or $HEADSTART_CACHE_LIMIT_GB, or 20 GB."""
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
    """What caching a boundary takes: `rows` rows (images times views) of one shape and dtype."""

    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return self.rows * math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"{self.rows:,} rows of {shape} {self.dtype}, {self.bytes / 1e9:.2f} GB"


def footprint(backbone: Backbone, boundary: int, size: int, rows: int) -> Footprint:
    """The footprint of `rows` rows at a boundary, for inputs of `size` pixels a side."""
    parameter = next(backbone.model.parameters())
    x = torch.zeros(1, 3, size, size, device=parameter.device)
    with torch.inference_mode():
        for stage in backbone.stages()[:boundary]:
            x = stage.forward(x)
    return Footprint(rows, tuple(x.shape[1:]), row_dtype(backbone, boundary))


def row_dtype(backbone: Backbone, boundary: int) -> np.dtype[Any]:
    """float32 for pooled features, float16 for activations below them.

    Pooled features are small and a solver is sensitive to them; activations are a hundred times
    larger, and what is trained on top of them forgives a rounding.
    """
    return np.dtype(np.float32 if boundary == len(backbone.stages()) else np.float16)


def cache_or_recompute(needs: Footprint, runtime: Runtime, *, required: bool) -> str | None:
    """None where the footprint can be cached, else why every epoch has to recompute it.

    Raises HeadstartError where it is required and there is no room: a solver reads all rows.
    """
    lack = lack_of_room(needs.bytes, runtime)
    if lack and required:
        raise HeadstartError(
            f"a head that is solved needs its features cached ({needs}), and {lack}; "
            "or name epochs in its phase: then it is trained, with or without a cache"
        )
    return lack


def lack_of_room(needed: int, runtime: Runtime) -> str | None:
    """Why `needed` bytes cannot be cached even with everything else evicted; None if they can."""
    limit = limit_bytes(runtime)
    if needed > limit:
        return (
            f"{needed / 1e9:.1f} GB pass the limit of {limit / 1e9:.1f} GB: "
            "raise --cache-limit, or lower views, data.size or data.train_limit"
        )
    root = entries_root()
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free + sum(size for _, size in list_cache())
    if needed > free:
        return (
            f"{root}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB can be had: "
            "free some, or move the cache with HEADSTART_CACHE"
        )
    return None


def make_room(needed: int, runtime: Runtime) -> None:
    """Evict least recently used entries until `needed` more bytes fit the limit and the disk.

    Raises HeadstartError where they cannot.
    """
    lack = lack_of_room(needed, runtime)
    if lack:
        raise HeadstartError(lack)
    limit, entries = limit_bytes(runtime), list_cache()
    held = sum(size for _, size in entries)
    for folder, size in entries:
        if held + needed <= limit and shutil.disk_usage(entries_root()).free > needed:
            break
        with _locked(folder, wait=False) as free_to_take:
            if free_to_take:  # else it is being written, by us or by another process
                shutil.rmtree(folder, ignore_errors=True)
                held -= size
    free = shutil.disk_usage(entries_root()).free
    if free < needed:
        raise HeadstartError(
            f"{entries_root()}: this boundary needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free: free some, or move the cache with HEADSTART_CACHE"
        )


def _last_used(folder: Path) -> float:
    index = folder / "index.json"
    return index.stat().st_mtime if index.exists() else folder.stat().st_mtime


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """One writer an entry: a second process waits, and then finds the entry whole.

    Yields whether the lock is held; without `wait` it may not be.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def clear_cache() -> None:
    """Remove every entry but those that are being written."""
    for folder, _ in list_cache():
        with _locked(folder, wait=False) as free_to_take:
            if free_to_take:
                shutil.rmtree(folder, ignore_errors=True)
