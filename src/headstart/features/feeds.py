"""Feeds: give the training loop its inputs, from pixels or from the cache.

A feed gives the inputs of some rows in some epoch. A pixel feed transforms pixels on demand; a
cached feed reads activations from the memory map. Order and views depend on (seed, epoch, image
key) alone. So they are the same for every batch size, number of workers and resume, with a cache
and without.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch

from headstart.data import ImageSet
from headstart.data.hashing import hash_keys
from headstart.features.lookahead import ahead
from headstart.features.resident import DeviceRows
from headstart.machine.host import memory_bytes
from headstart.machine.profiling import section
from headstart.machine.runtime import Runtime, named_seed
from headstart.views.transforms import Transform

Inputs = Callable[[], torch.Tensor]

# A memory map of up to this share of the machine's memory is likely to stay in the page cache.
PAGE_CACHE_SHARE = 0.5
RELEASED_BYTES = 2**25


class Feed(Protocol):
    """Rows of one split on their way into a model."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,), or bool (n, classes) where an image may have several."""

    @property
    def keys(self) -> np.ndarray:
        """uint64 (n,)."""

    @property
    def waits_for_disk(self) -> bool:
        """Whether its rows are read from the disk again in every epoch."""

    def prepare(self, rows: np.ndarray, epoch: int | None) -> Inputs:
        """Do the host's part for these rows; any thread may call it.

        The returned function does the device's part and gives the model's inputs. epoch: None for
        evaluation, which is never augmented.
        """


@dataclass(frozen=True)
class PixelFeed:
    """Images that are transformed on demand.

    views: number of views of an image, of which each epoch draws one; 0 is a new view each epoch.
    """

    images: ImageSet
    transform: Transform
    runtime: Runtime
    views: int = 0
    seed: int = 0

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    @property
    def keys(self) -> np.ndarray:
        return self.images.keys

    @property
    def waits_for_disk(self) -> bool:
        return False  # on a CPU, decoding and the step need the same cores: nothing to overlap

    @cached_property
    def _pixels(self) -> DeviceRows:
        images = self.images
        return DeviceRows(
            images.read,
            len(images),
            images.image_bytes,
            self.runtime,
            slow_to_read=images.store.slow_to_read,
        )

    def prepare(self, rows: np.ndarray, epoch: int | None) -> Inputs:
        keys = self.images.keys[rows]
        with section("decode"):
            place = self._pixels.prepare(rows)

        def inputs() -> torch.Tensor:
            with section("transform"):
                pixels = place()
                if epoch is None:
                    return self.transform.plain(pixels, keys)
                return self.transform(pixels, keys, draw_views(keys, self.views, self.seed, epoch))

        return inputs


@dataclass(frozen=True)
class CachedFeed:
    """Activations at a boundary, (n, views, ...); each epoch draws one view per image.

    release: called after each RELEASED_BYTES read from the array, to release its pages.
    """

    array: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    seed: int
    runtime: Runtime
    release: Callable[[], None] = lambda: None

    @property
    def waits_for_disk(self) -> bool:
        return self.array.nbytes > PAGE_CACHE_SHARE * memory_bytes()

    @cached_property
    def _flat(self) -> DeviceRows:
        """Row by row, view by view."""
        n, views, *shape = self.array.shape
        flat = self.array.reshape(n * views, *shape)
        row_bytes = math.prod(shape) * self.array.itemsize
        unreleased = 0

        def read(rows: np.ndarray) -> np.ndarray:
            nonlocal unreleased
            values: np.ndarray = flat[rows]
            unreleased += values.nbytes
            if unreleased >= RELEASED_BYTES:
                self.release()
                unreleased = 0
            return values

        return DeviceRows(read, len(flat), row_bytes, self.runtime)

    def prepare(self, rows: np.ndarray, epoch: int | None) -> Inputs:
        views = self.array.shape[1]
        chosen = draw_views(
            self.keys[rows], views if epoch is not None else 1, self.seed, epoch or 0
        )
        with section("cache read"):
            place = self._flat.prepare(rows * views + chosen)

        def inputs() -> torch.Tensor:
            with section("cache read"):
                x = place().float()
                return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

        return inputs


def draw_views(keys: np.ndarray, views: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (n,): the view of each image in an epoch; with 0 views, a new one in each epoch, which
    is never the plain image (view 0)."""
    if not views:
        return np.full(len(keys), epoch + 1, np.int64)
    if views == 1:
        return np.zeros(len(keys), np.int64)
    drawn = hash_keys(keys, named_seed(seed, "view"), epoch)
    return (drawn % np.uint64(views)).astype(np.int64)


def epoch_order(keys: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """int64 (n,): the rows of one epoch in training order."""
    return np.argsort(hash_keys(keys, named_seed(seed, "order"), epoch), kind="stable")


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Where each batch of n rows begins and ends.

    A last batch of a single image joins the one before it: batch norm has no variance of one.
    """
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))


class Batch(NamedTuple):
    """inputs and labels on the device, and the uint64 keys of the images."""

    x: torch.Tensor
    y: torch.Tensor
    keys: np.ndarray


def batches(
    feed: Feed,
    rows: np.ndarray,
    batch_size: int,
    epoch: int | None,
    runtime: Runtime,
    *,
    first_step: int = 0,
    successor: bool = False,
) -> Generator[Batch, None, None]:
    """Batches in the order of `rows` from number `first_step` on; the last may be short.

    With `successor`, inputs and labels have one row more than keys: the first of the next batch.
    Close the generator if not all batches are taken: a thread may be reading for it.
    """
    more = int(successor)
    ring = np.append(rows, rows[:more])
    y = runtime.place(feed.labels[ring])  # once: a step then takes its labels without a copy

    def prepared() -> Generator[tuple[int, int, Inputs], None, None]:
        for first, last in batch_bounds(len(rows), batch_size)[first_step:]:
            yield first, last, feed.prepare(ring[first : last + more], epoch)

    ready = prepared()
    if reads_ahead(feed, runtime):
        ready = ahead(ready, runtime.device)
    with contextlib.closing(ready):
        for first, last, inputs in ready:
            yield Batch(inputs(), y[first : last + more], feed.keys[rows[first:last]])


def reads_ahead(feed: Feed, runtime: Runtime) -> bool:
    """Whether a thread prepares the next batch while a step runs.

    On a CPU the step uses all cores: two pools of threads would compete, and only waiting for the
    disk can overlap with it.
    """
    return runtime.overlaps or feed.waits_for_disk
