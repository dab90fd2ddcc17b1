"""The boundary cache: the output of the frozen stages below a boundary, computed once.

That output is a pure function of the image. An entry holds it for every image (and view) of one
split, as a raw memory-mapped array. Its key covers everything that changes its bytes: the images,
the parameters of the prefix, preprocessing, augmentation, precision and engine. The index file is
written last, so an entry with an index is complete. An interrupted entry keeps its rows and
continues from there. A process checks an entry when it first reads it, by a CRC-32 of each batch,
and computes a damaged one again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import shutil
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from headstart.data import ImageSet
from headstart.errors import HeadstartError, RunError, explain_os_error
from headstart.features.engines import CALIBRATION, Engine, Prefix, compile_prefix, engine_name
from headstart.features.feeds import Inputs
from headstart.features.lookahead import ahead
from headstart.features.resident import DeviceRows
from headstart.features.room import DIGITS, INDEX, entries_root, lock_of, make_room, row_dtype
from headstart.features.rows_file import RowsFile, is_right, sums_of
from headstart.files import locked, read_json, remove, sync, write_json
from headstart.machine.profiling import each_in_section, section
from headstart.machine.progress import Reporter
from headstart.machine.runtime import Runtime
from headstart.models.backbones import Backbone
from headstart.views.transforms import Transform
from headstart_predict.framing import CROP

FORMAT = 5  # raise it when the same key would give other bytes, or its index other fields

_ROWS, _BEGUN = "rows.bin", "partial.json"

# If all mapped entries together are larger, pages that have been read are released from the
# process's memory. They stay in the system's page cache as long as there is room, but mapping them
# again takes a tenth to a quarter of a solver's pass over the features.
RESIDENT_BYTES = 2**28
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

# Bytes of inputs that are transformed at a time, several batches together, because a transform is
# many small operations. MobileNetV2 at 96 pixels in bfloat16: 2,380 instead of 2,245 images/s.
TRANSFORMED_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class _Begun:
    """What an entry that is being computed says of itself: shape of a row, and what computes it.
    sum: of these, so that damage to one of them is seen."""

    shape: tuple[int, ...]
    engine: Engine
    sum: int

    @staticmethod
    def of(shape: tuple[int, ...], engine: Engine) -> _Begun:
        return _Begun(shape, engine, zlib.crc32(repr((shape, engine)).encode()))


@dataclass(frozen=True, slots=True)
class _Index:
    """What a finished entry says of itself. shape: images, views, and the shape of a row. batch:
    rows under one sum. seconds: what computing all of it takes. key: what its name is a hash of."""

    shape: tuple[int, ...]
    dtype: str
    batch: int
    seconds: float
    key: dict[str, Any]


@dataclass(frozen=True)
class CachedRows:
    """Rows of an entry.

    array: (n, views, *shape), float32 or float16, memory-mapped. computed: number of rows that were
    computed now. entry: its name. seconds: the time to compute the whole entry, which a run that
    finds it saves. release: releases the pages read so far, if all maps together exceed
    RESIDENT_BYTES.
    """

    array: np.ndarray
    computed: int
    entry: str
    seconds: float
    release: Callable[[], None] = lambda: None

    @property
    def hit(self) -> bool:
        return self.computed == 0


class BoundaryCache:
    """Entries for one backbone, boundary and transform. Compiles the prefix once, when needed.

    calibration: images that give the activation ranges of an int8 prefix; other precisions need
    none.
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
            "engine": engine_name(runtime),
        }
        if self._calibration:
            self._key["calibration"] = self._calibration.fingerprint

    def rows(
        self,
        images: ImageSet,
        *,
        views: int | None = None,
        label: str,
        keep: bool = True,
        exact: bool = False,
    ) -> CachedRows:
        """The entry for these images, computed now if it does not exist.

        views: augmented views per image; None is the plain image, once. keep: if False, the entry
        is removed from the disk, and its array lives as long as there is a reference to it. exact:
        all digits are kept, so that a test is what the served model answers. Raises HeadstartError
        where the entry does not fit the disk or the cache's limit.
        """
        transform = self._transform if views else self._transform.plain
        dtype = np.dtype(np.float32) if exact else self._dtype
        key = {**self._key, **transform.describe(), "images": images.fingerprint, "views": views}
        key["dtype"] = dtype.name
        key["side"] = images.side
        if images.store.framing != CROP:  # named only then, so that older entries are still found
            key["framing"] = images.store.framing
        if images.store.slow_to_read:  # decoded from files, by a library whose pixels may change
            key["decoder"] = f"Pillow {PIL.__version__}"
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:DIGITS]
        folder = entries_root() / name
        with locked(lock_of(folder)):
            # Under the lock: the process that held it before may have removed the folder.
            folder.mkdir(exist_ok=True)
            computed, index = 0, self._finished(folder, (len(images), views or 1), dtype)
            if index is None:
                try:
                    computed = self._write(
                        folder, key, images, transform, views or 1, label, keep, dtype
                    )
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
                index = read_json(folder / INDEX, _Index)
                _note_right(folder)
            os.utime(folder / INDEX)  # least recently used is evicted first
            # Mapped under the lock: from now on the pages stay readable even after an eviction.
            rows, release = _mapped(folder / _ROWS, index.dtype, index.shape)
            cached = CachedRows(rows, computed, name, index.seconds, release)
            if not keep:
                shutil.rmtree(folder)
            return cached

    def _write(
        self,
        folder: Path,
        key: dict[str, Any],
        images: ImageSet,
        transform: Transform,
        views: int,
        label: str,
        keep: bool,
        dtype: np.dtype[Any],
    ) -> int:
        """Compute the missing rows; returns their number."""
        started, total = time.perf_counter(), len(images) * views
        shape, engine = _read_partial(folder)
        prefix = self._compiled(transform.preprocess.size, total, engine)
        batch = prefix.engine.batch
        compiled = time.perf_counter()
        file, start = None, 0
        with contextlib.ExitStack() as held:
            if shape is not None:
                file = held.enter_context(RowsFile(folder / _ROWS, _bytes(shape, dtype), batch))
                start = file.start
                make_room((total - start) * _bytes(shape, dtype), self._runtime)
            advance = held.enter_context(self._reporter.track(label, total, "images"))
            advance(start)
            inputs = self._batches(images, transform, views, start, batch)
            batches = held.enter_context(contextlib.closing(inputs))
            for outputs in each_in_section(prefix.run(batches), "prefix"):
                if file is None:
                    shape = outputs.shape[1:]
                    make_room(total * _bytes(shape, dtype), self._runtime)
                    write_json(folder / _BEGUN, _Begun.of(shape, prefix.engine))
                    file = held.enter_context(RowsFile(folder / _ROWS, _bytes(shape, dtype), batch))
                with section("cache write"):
                    file.append(self._pack(outputs, dtype))
                advance(len(outputs))
        if keep:
            with section("cache write"):
                sync(sums_of(folder / _ROWS))
                sync(folder / _ROWS)
        # The seconds are of the whole entry, also if an interrupted pass left some rows.
        whole = (time.perf_counter() - compiled) * total / max(total - start, 1)
        index = _Index(
            shape=(len(images), views, *(shape or ())),
            dtype=dtype.name,
            batch=batch,
            seconds=compiled - started + whole,
            key=key,
        )
        write_json(folder / INDEX, index)
        (folder / _BEGUN).unlink(missing_ok=True)
        return total - start

    def _finished(self, folder: Path, rows: tuple[int, int], dtype: np.dtype[Any]) -> _Index | None:
        """The index of an entry that is whole and right; a damaged one is removed. rows: images
        and views that it is of."""
        plain = all(path.is_file() for path in folder.iterdir())  # to read a pipe may never end
        if plain and not (folder / INDEX).exists():
            return None
        with contextlib.suppress(RunError, OSError), section("cache check"):
            index = read_json(folder / INDEX, _Index)
            asked = index.shape[:2] == rows and index.dtype == dtype.name
            if plain and asked and _holds(folder, index):
                return index
        self._reporter.warn(f"cache: {folder.name} is damaged: it is computed again")
        for path in folder.iterdir():
            remove(path)
        return None

    def _compiled(self, size: int, rows: int, engine: Engine | None) -> Prefix:
        """The prefix, compiled at its first use. engine: the required engine, if any."""
        if self._prefix is None or (engine and engine != self._prefix.engine):
            with section("compile"):
                self._prefix = compile_prefix(
                    self._backbone,
                    self._boundary,
                    size,
                    self._runtime,
                    rows=rows,
                    engine=engine,
                    calibration=self._calibration_inputs(),
                    weights=str(self._key["prefix"]),
                )
        return self._prefix

    def _calibration_inputs(self) -> Iterator[torch.Tensor]:
        """Single plain inputs, spread over the calibration images."""
        images = self._calibration
        if images is None:
            return
        count = min(CALIBRATION, len(images))
        for rows in np.linspace(0, len(images) - 1, count).astype(np.int64)[:, None]:
            yield self._transform.plain(torch.as_tensor(images.read(rows)), images.keys[rows])

    def _pack(self, outputs: np.ndarray, dtype: np.dtype[Any]) -> bytes:
        packed = outputs.astype(dtype, copy=False)
        if not np.isfinite(packed).all():
            raise HeadstartError(
                f"{self._backbone.name}: activations at the boundary do not fit "
                f"{dtype.name}: set views = 0, which recomputes them"
            )
        return packed.tobytes()

    def _batches(
        self, images: ImageSet, transform: Transform, views: int, start: int, batch: int
    ) -> Generator[torch.Tensor, None, None]:
        """Inputs of the prefix from flat row `start` on; rows are in order of image, then view."""
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


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _read_partial(folder: Path) -> tuple[tuple[int, ...] | None, Engine | None]:
    """The shape of a row and the engine of an interrupted entry, or None and None.

    The engine that began an entry also finishes it, even if another one is faster now.
    """
    with contextlib.suppress(RunError, FileNotFoundError):
        begun = read_json(folder / _BEGUN, _Begun)
        if begun == _Begun.of(begun.shape, begun.engine):
            return begun.shape, begun.engine
    for path in folder.iterdir():  # rows of which nobody knows what they are
        remove(path)
    return None, None


# Entries whose content this process knows to be right, by name, size and time.
_right: set[tuple[str, int, int]] = set()


def _stamp(folder: Path) -> tuple[str, int, int]:
    status = (folder / _ROWS).stat()
    return folder.name, status.st_size, status.st_mtime_ns


def _note_right(folder: Path) -> None:
    _right.add(_stamp(folder))


def _holds(folder: Path, index: _Index) -> bool:
    """Whether an entry holds the rows that were written."""
    count, views, *shape = index.shape
    row_bytes = _bytes(tuple(shape), np.dtype(index.dtype))
    if _stamp(folder) not in _right:
        if not is_right(folder / _ROWS, row_bytes * index.batch, row_bytes * count * views):
            return False
        _note_right(folder)
    return True


def _mapped(
    path: Path, dtype: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, Callable[[], None]]:
    """The rows of a file, and the function that releases their pages."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _maps.add(mapping)

    def release() -> None:
        # Windows has no madvise.
        advice = getattr(mmap, "MADV_DONTNEED", None)
        if advice is not None and sum(map(len, _maps)) > RESIDENT_BYTES:
            mapping.madvise(advice)

    return np.frombuffer(mapping, dtype).reshape(shape), release


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over a mapped entry. It must not be written to: its pages are those of the file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
