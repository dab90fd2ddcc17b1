"""Feeds: where the loop's batches come from. The loop cannot tell which it is given.

A feed answers one question: the inputs of some rows, in some epoch. Pixels are transformed as
they are asked for; cached activations are read from the memory map. Order depends on (seed,
epoch, image key) alone, so it is the same for every batch size, worker count and resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from headstart.data import ImageSet
from headstart.data.hashing import hash_keys
from headstart.data.transforms import Transform
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
    """Images as they are read, warped afresh in every epoch."""

    images: ImageSet
    transform: Transform
    runtime: Runtime

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    @property
    def keys(self) -> np.ndarray:
        return self.images.keys

    def inputs(self, rows: np.ndarray, epoch: int | None) -> torch.Tensor:
        pixels = self.runtime.place(self.images.read(rows))
        transform = self.transform.plain if epoch is None else self.transform
        return transform(pixels, self.images.keys[rows], epoch or 0)


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
        if views == 1 or epoch is None:
            chosen = np.zeros(len(rows), np.int64)
        else:
            drawn = hash_keys(self.keys[rows], named_seed(self.seed, "view"), epoch)
            chosen = (drawn % np.uint64(views)).astype(np.int64)
        x = self.runtime.place(self.array[rows, chosen]).float()
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


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


def batches(
    feed: Feed, rows: np.ndarray, batch_size: int, epoch: int | None, runtime: Runtime
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and int64 labels on the device, in the order of `rows`; the last may be short."""
    for first, last in batch_bounds(len(rows), batch_size):
        chosen = rows[first:last]
        yield feed.inputs(chosen, epoch), runtime.place(feed.labels[chosen])
