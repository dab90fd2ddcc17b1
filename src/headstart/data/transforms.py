"""From stored pixels to what a backbone sees: warp, colour, scaling, on the device, in batch.

A view of an image is a pure function of (seed, image key, view number). Geometric augmentation
and the resize are one warp, so an augmented pixel is interpolated once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from headstart.data.hashing import uniforms
from headstart.models.identity import Preprocess
from headstart.recipe import AugmentSpec

NO_AUGMENT = AugmentSpec()


@dataclass(frozen=True)
class Transform:
    """Pixels to input. With `augment`, view v of an image is drawn from (seed, key, v)."""

    preprocess: Preprocess
    augment: AugmentSpec = NO_AUGMENT
    seed: int = 0

    @property
    def plain(self) -> Transform:
        """The same without augmentation: what validation, test and prediction use."""
        return Transform(self.preprocess)

    def describe(self) -> dict[str, Any]:
        """Everything that changes the output's bytes, for cache keys."""
        described: dict[str, Any] = {"preprocess": asdict(self.preprocess)}
        if self.augment.active:
            described |= {"augment": self.augment.model_dump(), "seed": self.seed}
        return described

    def __call__(
        self, pixels: torch.Tensor, keys: np.ndarray, views: np.ndarray | int = 0
    ) -> torch.Tensor:
        """uint8 (n, side, side, 3) and uint64 (n,) to float32 (n, 3, size, size), channels-last."""
        x = pixels.permute(0, 3, 1, 2).float().div_(255)
        if self.augment.active:
            draws = _draws(keys, views, self.seed)
            x = self._warp(x, torch.from_numpy(draws).to(x.device, torch.float32))
        else:
            x = self._resize(x)
        mean = torch.tensor(self.preprocess.mean, device=x.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocess.std, device=x.device).view(1, 3, 1, 1)
        # Bicubic kernels overshoot; the weights never saw values outside the range of a pixel.
        x = x.clamp_(0, 1).sub_(mean).div_(std)
        return x.contiguous(memory_format=torch.channels_last)

    def _resize(self, x: torch.Tensor) -> torch.Tensor:
        size = self.preprocess.size
        if x.shape[-1] == size:
            return x
        return F.interpolate(
            x,
            size=(size, size),
            mode=self.preprocess.interpolation,
            align_corners=False,
            antialias=x.shape[-1] > size,
        )

    def _warp(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Geometry (one affine warp from source to output pixels), then colour."""
        spec, size = self.augment, self.preprocess.size
        spread = u.mul(2).sub(1)  # uniform in [-1, 1)
        if spec.flip or spec.rotate or spec.zoom or spec.shift:
            grid = F.affine_grid(self._affine(u, spread), [len(x), 3, size, size], False)
            x = F.grid_sample(
                x,
                grid,
                mode=self.preprocess.interpolation,
                padding_mode="reflection",
                align_corners=False,
            )
        else:
            x = self._resize(x)
        if spec.contrast:
            grey = x.mean(dim=(1, 2, 3), keepdim=True)
            x = (x - grey) * (1 + spec.contrast * spread[:, 5]).view(-1, 1, 1, 1) + grey
        if spec.brightness:
            x = x * (1 + spec.brightness * spread[:, 6]).view(-1, 1, 1, 1)
        return x

    def _affine(self, u: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        """float32 (n, 2, 3): output coordinates to source coordinates, both in [-1, 1]."""
        spec = self.augment
        angle = math.radians(spec.rotate) * spread[:, 1]
        inverse_scale = 1 / (1 + spec.zoom * spread[:, 2])
        cosine, sine = angle.cos() * inverse_scale, angle.sin() * inverse_scale
        mirror = torch.where(u[:, 0] < 0.5, -1.0, 1.0) if spec.flip else torch.ones_like(angle)
        # A shift by a fraction of the side is twice that in coordinates that span [-1, 1].
        right, down = 2 * spec.shift * spread[:, 3], 2 * spec.shift * spread[:, 4]
        rows = (cosine * mirror, -sine, right, sine * mirror, cosine, down)
        return torch.stack(rows, dim=1).view(-1, 2, 3)


def _draws(keys: np.ndarray, views: np.ndarray | int, seed: int) -> np.ndarray:
    """float64 (n, 7) in [0, 1): flip, rotate, zoom, shift x, shift y, contrast, brightness."""
    numbers = np.broadcast_to(np.asarray(views, np.int64), keys.shape)
    out = np.empty((len(keys), 7))
    for view in np.unique(numbers):
        chosen = numbers == view
        out[chosen] = uniforms(keys[chosen], 7, seed, int(view))
    return out
