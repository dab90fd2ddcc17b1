"""What a head is solved on: features and labels, read in blocks of rows and never copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

BLOCK = 4096  # rows


@dataclass(frozen=True)
class Table:
    """Features float32 (n, d) and labels, int64 (n,) or bool (n, k), read in blocks of rows.

    release: called after each block, to release its pages.
    """

    features: torch.Tensor
    labels: torch.Tensor
    release: Callable[[], None] = lambda: None

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(self.features), BLOCK):
            rows = slice(first, first + BLOCK)
            yield self.features[rows], self.labels[rows]
            self.release()


@dataclass(frozen=True)
class Joined:
    """Several tables as one, without a copy."""

    parts: tuple[Table, ...]

    @property
    def labels(self) -> torch.Tensor:
        return torch.cat([part.labels for part in self.parts])

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for part in self.parts:
            yield from part.blocks()
