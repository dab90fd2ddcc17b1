"""How much a recipe's run computes, counted without weights, data or arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from headstart.data.corruptions import CORRUPTIONS
from headstart.models.anatomy import examine
from headstart.models.backbones import Backbone, build_architecture
from headstart.models.freezing import plan_phase
from headstart.models.identity import Weights
from headstart.recipe import Recipe
from headstart.specs import PhaseSpec
from headstart.training.folds import FOLDS, MOST_IMAGES
from headstart.training.prefix import StageChain

# A trained image's forward and backward pass through torch, and a forward pass alone, in frozen
# passes of the same layers: backward takes twice a forward, and OpenVINO is about twice as fast.
TRAINED, TORCH = 6.0, 2.0


@dataclass(frozen=True)
class Workload:
    """passes: forward passes of one image at the speed of a frozen pass; steps: of fitted phases;
    solved: rows that heads are solved on, in each fold."""

    passes: float
    steps: int
    solved: int


def workload(recipe: Recipe, weights: Weights, counts: Mapping[str, int]) -> Workload:
    """The work of a resolved recipe. counts: images of train, val and test."""
    size = recipe.data.size or weights.preprocess.size
    with torch.device("meta"):
        model = build_architecture(weights.identity.name, size=size)
        backbone = Backbone(model, weights.identity, weights.preprocess).eval()
    passes, steps, solved = 0.0, 0, 0
    for number, phase in enumerate(recipe.phases):
        frozen = _frozen_share(backbone, phase, size)
        test = counts["test"] if number == len(recipe.phases) - 1 else 0
        views = (phase.views or 0) if recipe.data.augment.active else 1
        epochs = phase.epochs or 0
        seen = epochs * counts["train"]
        asked = epochs * counts["val"] + test
        if frozen and phase.views != 0:
            passes += frozen * (views * counts["train"] + counts["val"] + test)
            passes += (1 - frozen) * (TRAINED * seen + TORCH * asked)
        else:
            passes += (TORCH * frozen + TRAINED * (1 - frozen)) * seen + TORCH * asked
        if phase.optimizer == "lbfgs":
            held = counts["train"] + counts["val"]
            folds = views == 1 and held <= MOST_IMAGES and recipe.head.l2 is None
            solved += views * counts["train"] * (FOLDS if folds else 1)
        steps += -(-seen // recipe.batch_size)
    damaged = min(recipe.evaluation.corrupted_images, counts["test"])
    pictures = len(CORRUPTIONS) * len(recipe.evaluation.corruptions) * damaged
    passes += pictures * (frozen + TORCH * (1 - frozen))
    return Workload(passes, steps, solved)


def _frozen_share(backbone: Backbone, phase: PhaseSpec, size: int) -> float:
    """The share of a forward pass that lies below the phase's boundary."""
    boundary = plan_phase(backbone, phase).boundary
    stages = backbone.stages()
    if boundary in (0, len(stages)):
        return float(boundary > 0)
    below = StageChain(backbone.model, stages[:boundary])
    return examine(below, size).macs / examine(backbone.model, size).macs
