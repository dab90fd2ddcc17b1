"""Image sets: rows with an id, a label, and pixels that are read on demand."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from headstart.data.hashing import hash_ids
from headstart.data.strata import strata_of
from headstart_predict.cards import Card, Shown
from headstart_predict.framing import CROP, Framing

# Raise it when the same source bytes would give other pixels (a change to decode_image). All
# fingerprints and the caches keyed by them then change. Where only few images would get other
# pixels, their digests alone should change, as those with an ICC profile have done.
PIXELS_VERSION = 1

Item = TypeVar("Item")
Result = TypeVar("Result")


class Store(Protocol):
    """Where pixels are stored: CIFAR's files, an array, a folder of photos."""

    @property
    def side(self) -> int:
        """Pixels along each side of every image, P."""

    @property
    def framing(self) -> Framing:
        """How pictures become squares; crop where they are squares as they are stored."""

    @property
    def slow_to_read(self) -> bool:
        """Whether reading is so slow that it pays to keep pixels that are needed again."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (len(rows), P, P, 3), RGB, for int64 row numbers of the store."""

    def digests(self, rows: np.ndarray) -> list[bytes]:
        """SHA-256 of the stored form of each image, and of how its colours are converted, if so."""

    def as_file(self, row: int) -> bytes:
        """An image as a file: the photo itself, or a PNG of its pixels."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(Shown):
    """Images of one split, one row for each image. Immutable: the arrays cannot be written.

    ids: str (n,). labels: int64 (n,), or bool (n, classes) where an image may have several.
    keys: uint64 (n,), a stable hash of each id; order and
    augmentation depend on it. rows: int64 (n,), the row of each image in `store`. groups: uint64
    (n,), equal for images that stay together where a set is split; None where each is alone.
    """

    ids: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    store: Store
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        for array in (self.ids, self.labels, self.keys, self.rows, self.groups):
            if array is not None:
                array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def strata(self) -> np.ndarray:
        """int64 (n,): what is spread evenly where the set is split, as `strata_of` has it."""
        return strata_of(self.labels)

    def _card(self) -> Card:
        return Card(f"ImageSet: {len(self):,} images of {self.side} pixels a side")

    @property
    def side(self) -> int:
        """Pixels along each side as `read` gives them, P."""
        return self.store.side

    @property
    def image_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return 3 * self.side * self.side

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (len(rows), P, P, 3), RGB, in the order asked for.

        Raises DataError where a file has been removed or damaged since the set was made.
        """
        return self.store.read(self.rows[rows])

    def as_file(self, row: int) -> bytes:
        """One image as a file: the photo itself, or a PNG of its pixels."""
        return self.store.as_file(int(self.rows[row]))

    def pick(self, rows: np.ndarray) -> ImageSet:
        """The set of these rows (int64 positions or a boolean mask), in the order given."""
        return ImageSet(
            self.ids[rows],
            self.labels[rows],
            self.keys[rows],
            self.rows[rows],
            self.store,
            None if self.groups is None else self.groups[rows],
        )

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each image's content; equal digests are equal images."""
        return tuple(self.store.digests(self.rows))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 hex of the images' content, ids and labels, in order.

        Side and framing do not count: the same photos are the same data for a backbone with 224
        pixels and for one with 260, cropped and padded.
        """
        hasher = hashlib.sha256(f"headstart images {PIXELS_VERSION}\n".encode())
        hasher.update(b"".join(self.digests))
        hasher.update("\0".join(self.ids.tolist()).encode())
        hasher.update(self.labels.astype("<i8").tobytes())
        return hasher.hexdigest()


def build_image_set(store: Store, ids: Sequence[str], labels: np.ndarray) -> ImageSet:
    """The set of all images of a store: row i of the store is ids[i], of class labels[i], or of the
    classes where labels[i] is true."""
    return ImageSet(
        ids=np.array(ids, dtype=np.str_),
        labels=np.array(labels, dtype=bool if labels.ndim == 2 else np.int64),
        keys=hash_ids(ids),
        rows=np.arange(len(ids), dtype=np.int64),
        store=store,
    )


@dataclass(frozen=True, eq=False)
class PlanarPixels:
    """Images in memory, stored as in CIFAR: uint8 (n, 3 * P * P), channel after channel."""

    planes: np.ndarray
    side: int
    slow_to_read = False
    framing = CROP

    def read(self, rows: np.ndarray) -> np.ndarray:
        return interleave(self.planes[rows], self.side)

    def digests(self, rows: np.ndarray) -> list[bytes]:
        return hash_rows(self.planes[rows])

    def as_file(self, row: int) -> bytes:
        return encode_png(self.read(np.array([row]))[0])


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a file that loses nothing."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def interleave(planes: np.ndarray, side: int) -> np.ndarray:
    """uint8 (n, 3 * P * P), channel after channel, to (n, P, P, 3), contiguous."""
    pixels = np.empty((len(planes), side, side, 3), dtype=np.uint8)
    for channel in range(3):  # six times as fast as a transposed copy
        pixels[..., channel] = planes.reshape(-1, 3, side, side)[:, channel]
    return pixels


def hash_rows(planes: np.ndarray) -> list[bytes]:
    """SHA-256 of each row's bytes."""
    return [hashlib.sha256(row).digest() for row in np.ascontiguousarray(planes)]


def map_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """`map` over a few threads, in order. Decoding and hashing release the GIL."""
    if len(items) < 2:
        yield from map(function, items)
        return
    threads = min(8, os.cpu_count() or 1, len(items))
    with ThreadPoolExecutor(threads, thread_name_prefix="headstart-data") as pool:
        yield from pool.map(function, items)
