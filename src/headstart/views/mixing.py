"""Mixup and CutMix of the input of the first trained stage.

That input is pixels where everything trains, and activations above a boundary otherwise (manifold
mixup, Verma et al. 2019). So a phase mixes the same with and without a cache. An image's partner is
its successor in the epoch's order. How they mix depends on (seed, epoch, image) alone, never on the
batch size.
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
    """mixup, cutmix: shares of the images that are mixed so; their sum is at most 1."""

    mixup: float
    cutmix: float
    seed: int

    @property
    def active(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def __call__(
        self, x: torch.Tensor, keys: np.ndarray, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix inputs (n + 1, ...), of which the last is only a partner. keys: uint64 (n,), of the
        others.

        Returns the mixed inputs (n, ...) and each image's own share, float32 (n,). CutMix does not
        change inputs without height and width (pooled features, tokens): they have no rectangles.
        """
        u = uniforms(keys, 4, self.seed, epoch)
        own, partner = x[:-1], x[1:]
        shares = np.ones(len(keys), np.float32)
        blended = u[:, 0] < self.mixup
        # Zhang et al. 2018. The image's own share is the larger one, so that its label counts most.
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

    A rectangle has the share u0 of the area and the image's proportions. It is centred anywhere and
    cut at the edge.
    """
    side = np.sqrt(u[:, 0])[:, None] / 2
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    vertical = np.abs(rows / height - u[:, 1:2]) < side
    horizontal = np.abs(columns / width - u[:, 2:3]) < side
    return np.asarray(vertical[:, :, None] & horizontal[:, None, :])
