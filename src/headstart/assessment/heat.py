"""Saliency: which places of an image an answer rests on.

Grad-CAM (Selvaraju et al. 2017), by torchcam: on the last stage of the backbone that still has a
grid of places, each channel weighs as much as a small rise of it everywhere would raise the logit
of the answer, and a place's heat is the weighted sum of its channels, where that is positive. A
transformer's grid is its patches.
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

# Places along a side from which a grid says where: of four, one is a quarter of the picture.
FEWEST_PLACES = 4
STRENGTH = 0.75  # share of colour where the heat is greatest

Planes = Callable[[torch.Tensor], torch.Tensor]


class SaliencyError(HeadstartError):
    """There is no heat to show, and the message says why."""


@dataclass(frozen=True)
class Heat:
    """maps: float32 (n, h, w), from 0 to 1 in each image. method: its name, and where it looked."""

    maps: np.ndarray
    method: str


def heat(model: Classifier, inputs: torch.Tensor, answers: Sequence[int]) -> Heat:
    """The heat behind an answer (a class) for each input, float32 (n, 3, size, size).

    Gradients are taken above the grid alone and of no parameter, so a frozen backbone has them
    too; the model is left as it was, but in eval mode. Raises SaliencyError where it has no grid,
    or no place of one speaks for any answer.
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
        raise SaliencyError(f"{model.backbone.name}: no place speaks for any of its answers")
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
    """The last boundary with a grid of FEWEST_PLACES a side, and what gives its planes.

    The finest grid there is where all are coarser.
    """
    grids: list[tuple[int, int, Planes]] = []
    network, stages = model.backbone.model, model.backbone.stages()
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    x = example
    with torch.no_grad():
        # The last stage pools. The last block of a transformer hands on its class token alone, so
        # its other tokens have no gradient behind it.
        for boundary, stage in enumerate(stages[:-1], start=1):
            x = stage.forward(x)
            planes = _planes(x.shape, model.backbone.num_features, prefix)
            if planes and not (x.dim() == 3 and boundary == len(stages) - 1 > 1):
                grids.append((planes(x).shape[-1], boundary, planes))
    if not grids:
        raise SaliencyError(f"{model.backbone.name}: no stage that Headstart knows has places")
    fine = [grid for grid in grids if grid[0] >= FEWEST_PLACES]
    _, boundary, planes = fine[-1] if fine else max(grids, key=lambda grid: grid[:2])
    return boundary, planes


def _planes(shape: torch.Size, width: int, prefix: int) -> Planes | None:
    """What brings activations of that shape to (n, channels, h, w); None where there is no grid."""
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
    """Heat over pictures: uint8 (n, s, s, 3) and float32 (n, h, w) to uint8 (n, s, s, 3).

    The picture is grey, so that every colour in it is heat: dark purple, orange, yellow, a scale
    that grows lighter throughout and is read by those who do not see red or green.
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
