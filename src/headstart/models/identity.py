"""What a set of weights is, where it came from, and the pixels it wants. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """How pixels reach the backbone: RGB in 0..1, resized to `size`, then (x - mean) / std."""

    size: int  # pixels a side
    mean: Triple
    std: Triple
    interpolation: str  # bilinear or bicubic


@dataclass(frozen=True)
class WeightsIdentity:
    """One set of parameters, told apart from every other."""

    provider: str  # hub, registry, file or random
    name: str  # the backbone, without a tag
    tag: str
    sha256: str | None  # of the file the parameters are read from; None for random
    licence: str
    source: str  # for people: package==version, a hub id, or a path


@dataclass(frozen=True)
class Weights:
    """Located weights: `path` holds timm's parameter names; None means random initialisation."""

    identity: WeightsIdentity
    preprocess: Preprocess
    path: Path | None
