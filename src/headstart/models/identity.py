"""The identity of weights, and the preprocessing they were trained with. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.rundir.records import Preprocess as Preprocess
from headstart.rundir.records import Triple as Triple
from headstart.rundir.records import WeightsIdentity as WeightsIdentity

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """Located weights: `path` holds timm's parameter names; None means random initialisation."""

    identity: WeightsIdentity
    preprocess: Preprocess
    path: Path | None
