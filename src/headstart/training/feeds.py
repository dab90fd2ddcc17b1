"""Feeds: where the loop's batches come from. The loop cannot tell which it is given.

A feed answers one question: the inputs of some rows, in some epoch. Pixels are transformed as
they are asked for; cached activations are read from the memory map. Order and views depend on
(seed, epoch, image key) alone, so they are the same for every batch size, worker count and resume,
with a cache and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from headstart.data import ImageSet
from headstart.data.hashing import hash_keys
from headstart.data.transforms import Transform
from headstart.profiling import section
from headstart.runtime import Runtime, named_seed


class Feed(Protocol):
    """Rows of one split on their way into a model."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,)."""

    @property
    def keys(self) -> np.ndarray:
        """uint64 (n,)."""

    def inputs(self, rows: np.ndarray, epoch: int | None) -> torch.Tensor:
        """What the model takes for these rows; `epoch` None is evaluation, never augmented."""


@dataclass(frozen=True)
class PixelFeed:
    """Images warped as they are asked for.

    views: how many views an image has, of which each epoch draws one; 0 is a new one each epoch.
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

    def inputs(self, rows: np.ndarray, epoch: int | None) -> torch.Tensor:
        keys = self.images.keys[rows]
        with section("decode"):
            pixels = self.runtime.place(self.images.read(rows))
        with section("transform"):
            if epoch is None:
                return self.transform.plain(pixels, keys)
            return self.transform(pixels, keys, draw_views(keys, self.views, self.seed, epoch))


@dataclass(frozen=True)
class CachedFeed:
    """Activations at a boundary, (n, views, ...); each epoch draws one view per image."""

    array: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    seed: int
    runtime: Runtime

    def inputs(self, rows: np.ndarray, epoch: int | None) -> torch.Tensor:
        views = self.array.shape[1]
        chosen = draw_views(
            self.keys[rows], views if epoch is not None else 1, self.seed, epoch or 0
        )
        with section("cache read"):
            x = self.runtime.place(self.array[rows, chosen]).float()
            return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def draw_views(keys: np.ndarray, views: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (n,): the view of each image in an epoch; with 0 views, a new one in each."""
    if not views:
        return np.full(len(keys), epoch, np.int64)
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
    """inputs and int64 labels on the device, and the uint64 keys of the images."""

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
) -> Iterator[Batch]:
    """Batches in the order of `rows` from number `first_step` on; the last may be short.

    With `successor`, inputs and labels carry one row more than keys: the next batch's first.
    """
    for first, last in batch_bounds(len(rows), batch_size)[first_step:]:
        chosen = rows[first:last]
        taken = rows[np.arange(first, last + 1) % len(rows)] if successor else chosen
        x, y = feed.inputs(taken, epoch), runtime.place(feed.labels[taken])
        yield Batch(x, y, feed.keys[chosen])
