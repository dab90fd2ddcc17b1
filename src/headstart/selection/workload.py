"""The work of a run, counted without weights, data or arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from headstart.data.corruptions import CORRUPTIONS
from headstart.features.engines import StageChain
from headstart.models.anatomy import examine
from headstart.models.backbones import Backbone, create_meta_backbone
from headstart.plan.plan import Plan
from headstart.training.folds import FOLDS, MOST_IMAGES

# The time of a forward and backward pass in torch, and of a forward pass alone, relative to a
# frozen pass of the same layers: backward takes twice a forward, and OpenVINO is twice as fast.
TRAINED, TORCH = 6.0, 2.0


@dataclass(frozen=True)
class Workload:
    """passes: forward passes of one image at the speed of a frozen pass. steps: training steps.
    solved: rows on which heads are solved, counted for each fold."""

    passes: float
    steps: int
    solved: int


def workload(plan: Plan) -> Workload:
    """The work of a plan."""
    recipe, counts, size = plan.recipe, plan.counts, plan.size
    backbone = create_meta_backbone(plan.weights, size=size)
    passes, steps, solved, frozen = 0.0, 0, 0, 0.0
    for phase in plan.phases:
        frozen = _frozen_share(backbone, phase.freeze.boundary, size)
        test = counts["test"] if phase is plan.phases[-1] else 0
        seen = phase.epochs * counts["train"]
        asked = phase.epochs * counts["val"] + test
        if frozen and phase.views:
            passes += frozen * (phase.views * counts["train"] + counts["val"] + test)
            passes += (1 - frozen) * (TRAINED * seen + TORCH * asked)
        else:
            passes += (TORCH * frozen + TRAINED * (1 - frozen)) * seen + TORCH * asked
        if phase.solved:
            held = counts["train"] + counts["val"]
            folds = phase.views == 1 and held <= MOST_IMAGES and recipe.head.l2 is None
            solved += phase.views * counts["train"] * (FOLDS if folds else 1)
        steps += -(-seen // recipe.batch_size)
    corrupted = min(recipe.evaluation.corrupted_images, counts["test"])
    pictures = len(CORRUPTIONS) * len(recipe.evaluation.corruptions) * corrupted
    passes += pictures * (frozen + TORCH * (1 - frozen))
    return Workload(passes, steps, solved)


@lru_cache(maxsize=256)
def _frozen_share(backbone: Backbone, boundary: int, size: int) -> float:
    """The share of a forward pass below a boundary."""
    stages = backbone.stages()
    if boundary in (0, len(stages)):
        return float(boundary > 0)
    below = StageChain(backbone.model, stages[:boundary])
    return examine(below, size).macs / examine(backbone.model, size).macs
