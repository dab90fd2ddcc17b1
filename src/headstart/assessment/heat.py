"""Heat maps: the places of an image that an answer depends on.

Grad-CAM (Selvaraju et al. 2017), by torchcam, on the last stage of the backbone that still has a
grid of places. A channel's weight is the gradient of the answer's logit with respect to that
channel, averaged over the grid. The heat of a place is the weighted sum of its channels, where that
is positive. The grid of a transformer is its patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from headstart.errors import HeadstartError
from headstart.models.classifier import Classifier
from headstart.models.stages import run_stages

# A grid needs at least so many places a side: with four, one place is a quarter of the side.
FEWEST_PLACES = 4
STRENGTH = 0.75  # share of colour where the heat is greatest

Planes = Callable[[torch.Tensor], torch.Tensor]


class HeatMapError(HeadstartError):
    """No heat map can be made; the message says why."""


@dataclass(frozen=True)
class Heat:
    """maps: float32 (n, h, w), 0 to 1 in each image. method: its name, the stage and the grid."""

    maps: np.ndarray
    method: str


def heat(model: Classifier, inputs: torch.Tensor, answers: Sequence[int]) -> Heat:
    """Heat maps for an answer (a class) of each input, float32 (n, 3, size, size).

    Gradients are taken above the grid only, and of no parameter, so a frozen backbone works too.
    The model is left in eval mode and otherwise unchanged. Raises HeatMapError where it has no
    grid, or where no place is positive for any answer.
    """
    from torchcam.methods import GradCAM

    model.eval()
    stages = model.backbone.stages()
    boundary, planes = _last_grid(model, inputs[:1])
    watched = _Watched(model, boundary).eval()
    with GradCAM(watched, "grid", reshape_transform=planes) as method, torch.enable_grad():
        logits = watched(inputs)
        (maps,) = method(list(map(int, answers)), logits, normalized=False)
    heat_maps = maps.float().cpu().numpy()
    peaks = heat_maps.max(axis=(1, 2))
    if not np.isfinite(peaks).all() or not peaks.any():
        raise HeatMapError(f"{model.backbone.name}: no place is positive for any of its answers")
    h, w = heat_maps.shape[1:]
    heat_maps /= np.maximum(peaks, np.finfo(np.float32).tiny)[:, None, None]
    return Heat(heat_maps, f"Grad-CAM after {stages[boundary - 1].name}, {h} × {w} places")


class _Watched(nn.Module):
    """The classifier as a module whose `grid` gives the activations at a boundary."""

    def __init__(self, model: Classifier, boundary: int) -> None:
        super().__init__()
        stages = model.backbone.stages()
        self._below, self._above = stages[:boundary], stages[boundary:]
        self._head = model.head
        self.grid = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = run_stages(self._below, x)
        # A copy: a stage that works in place would overwrite what is watched.
        x = self.grid(x.requires_grad_()).clone()
        logits: torch.Tensor = self._head(run_stages(self._above, x).float())
        return logits


def _last_grid(model: Classifier, example: torch.Tensor) -> tuple[int, Planes]:
    """The last boundary whose grid has FEWEST_PLACES a side, else the one with the finest grid.

    Also returns the function that brings its activations to (n, channels, h, w).
    """
    grids: list[tuple[int, int, Planes]] = []
    network, stages = model.backbone.model, model.backbone.stages()
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    x = example
    with torch.no_grad():
        # The last stage pools. After the last block of a transformer only the class token is used,
        # so the other tokens have no gradient.
        for boundary, stage in enumerate(stages[:-1], start=1):
            x = stage.forward(x)
            planes = _planes(x.shape, model.backbone.num_features, prefix)
            if planes and not (x.dim() == 3 and boundary == len(stages) - 1 > 1):
                grids.append((planes(x).shape[-1], boundary, planes))
    if not grids:
        raise HeatMapError(f"{model.backbone.name}: no stage that Headstart knows has places")
    fine = [grid for grid in grids if grid[0] >= FEWEST_PLACES]
    _, boundary, planes = fine[-1] if fine else max(grids, key=lambda grid: grid[:2])
    return boundary, planes


def _planes(shape: torch.Size, width: int, prefix: int) -> Planes | None:
    """The function that brings activations of this shape to (n, channels, h, w); None: no grid."""
    if len(shape) == 4:
        if shape[1] == shape[2] != shape[3] == width:  # some transformers put channels last
            return lambda x: x.permute(0, 3, 1, 2)
        return lambda x: x
    if len(shape) == 3:
        side = math.isqrt(shape[1] - prefix)
        if side * side == shape[1] - prefix:
            return lambda x: x[:, prefix:].mT.reshape(len(x), -1, side, side)
    return None


def overlay(pictures: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Draw heat over pictures: uint8 (n, s, s, 3) and float32 (n, h, w) to uint8 (n, s, s, 3).

    The picture turns grey, so that every colour is heat. The scale runs from dark purple over
    orange to yellow: it grows lighter throughout and works for colour-blind readers.
    """
    from matplotlib import colormaps

    side = pictures.shape[1]
    resized = [Image.fromarray(m).resize((side, side), Image.Resampling.BICUBIC) for m in maps]
    warmth = np.stack([np.asarray(m) for m in resized]).clip(0, 1)[..., None]
    grey = pictures @ np.array([0.299, 0.587, 0.114])
    colour = colormaps["inferno"](warmth[..., 0])[..., :3] * 255
    share = STRENGTH * warmth**1.5  # faint heat would tint the whole picture
    mixed: np.ndarray = (1 - share) * grey[..., None] + share * colour
    return mixed.round().astype(np.uint8)
