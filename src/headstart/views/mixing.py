"""Mixup and CutMix, where the trained part begins.

What is mixed is the input of the first trained stage: pixels where everything trains, activations
above a boundary (manifold mixup, Verma et al. 2019), so a cached phase and an uncached one mix the
same. An image's partner is its successor in the epoch's order, and how they mix depends on (seed,
epoch, image) alone: the batch size decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from headstart.data.hashing import uniforms
from headstart.machine.runtime import to_device

MIXUP_ALPHA = 0.2


@dataclass(frozen=True)
class Mixer:
    """mixup, cutmix: shares of the images that are mixed in either way; their sum is at most 1."""

    mixup: float
    cutmix: float
    seed: int

    @property
    def active(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def __call__(
        self, x: torch.Tensor, keys: np.ndarray, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (n + 1, ...), the last one a partner alone, and uint64 keys (n,) of the others.

        Returns the mixed inputs (n, ...) and the share of each image that is its own, float32
        (n,). Inputs without height and width (pooled features, tokens) have no rectangles: there
        CutMix leaves them alone.
        """
        u = uniforms(keys, 4, self.seed, epoch)
        own, partner = x[:-1], x[1:]
        shares = np.ones(len(keys), np.float32)
        blended = u[:, 0] < self.mixup
        # Zhang et al. 2018; the larger share is the image's own, so that its label stays its name.
        drawn = stats.beta.ppf(u[blended, 1], MIXUP_ALPHA, MIXUP_ALPHA)
        shares[blended] = np.maximum(drawn, 1 - drawn)
        weights = to_device(shares, x.device)
        mixed = own
        if self.mixup:
            mixed = torch.lerp(partner, own, weights.view(-1, *[1] * (x.dim() - 1)).to(x.dtype))
        if x.dim() == 4 and self.cutmix:
            cut = (u[:, 0] >= self.mixup) & (u[:, 0] < self.mixup + self.cutmix)
            cut_out = rectangles(u[:, 1:], x.shape[2], x.shape[3]) & cut[:, None, None]
            inside = to_device(cut_out, x.device)
            mixed = torch.where(inside[:, None], partner, mixed)
            weights = weights * (1 - inside.float().mean(dim=(1, 2)))
        return mixed, weights


def rectangles(u: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool (n, height, width): CutMix's rectangles (Yun et al. 2019) from uniforms (n, 3).

    A share u0 of the area, in the image's own proportions, centred anywhere; what reaches over the
    edge is lost.
    """
    side = np.sqrt(u[:, 0])[:, None] / 2
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    vertical = np.abs(rows / height - u[:, 1:2]) < side
    horizontal = np.abs(columns / width - u[:, 2:3]) < side
    return np.asarray(vertical[:, :, None] & horizontal[:, None, :])
