"""What a recipe's phases would do: what trains, where the boundary lies, what is cached.

Worked out on the meta device: no weights are read and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from headstart.models.backbones import Backbone, build_architecture
from headstart.models.freezing import FreezePlan, plan_phase
from headstart.models.heads import create_head
from headstart.models.identity import Weights
from headstart.recipe import Recipe
from headstart.runtime import Runtime
from headstart.specs import PhaseSpec
from headstart.training.cache import cache_or_recompute, footprint
from headstart.training.phase_feeds import cached_rows


@dataclass(frozen=True)
class PhaseOutline:
    """One phase, before it is run. Parameters are counted; `cache` and `recomputed` are for people.

    first, last: the stages between which the backbone trains, None where only the head does.
    boundary: the stage below which nothing changes. moving_norms: batch norms that go on learning
    their statistics.
    """

    phase: int
    train: str
    optimizer: str
    epochs: int | None
    lr: float | None
    first: str | None
    last: str | None
    stages: str
    trainable_backbone: int
    trainable_head: int
    frozen: int
    moving_norms: int
    boundary: str
    cache: str | None
    cache_bytes: int
    recomputed: str | None


def outline(
    recipe: Recipe, weights: Weights, counts: Mapping[str, int], classes: int, runtime: Runtime
) -> list[PhaseOutline]:
    """An outline of each phase of a resolved recipe.

    counts: images of train, val and test. Raises RecipeError where the architecture lacks a part.
    """
    size = recipe.data.size or weights.preprocess.size
    with torch.device("meta"):
        model = build_architecture(weights.identity.name, size=size)
        backbone = Backbone(model, weights.identity, weights.preprocess).eval()
        head = create_head(recipe.head, num_features=backbone.num_features, num_classes=classes)
    head_parameters = sum(p.numel() for p in head.parameters())
    outlines = []
    for number, phase in enumerate(recipe.phases):
        plan = plan_phase(backbone, phase)
        cache, needed, recomputed = _caching(recipe, phase, backbone, plan, counts, runtime)
        sizes = {name: p.numel() for name, p in backbone.model.named_parameters()}
        trainable = sum(sizes[name] for name in plan.trainable)
        stages = backbone.stages()
        holding = [s.name for s in stages if any(s.holds(name) for name in plan.trainable)]
        outlines.append(
            PhaseOutline(
                phase=number + 1,
                train=phase.train,
                optimizer=phase.optimizer,
                epochs=phase.epochs,
                lr=phase.lr,
                first=holding[0] if holding else None,
                last=holding[-1] if holding else None,
                stages=f"{len(holding)} of {len(stages)}",
                trainable_backbone=trainable,
                trainable_head=head_parameters,
                frozen=sum(sizes.values()) - trainable,
                moving_norms=len(plan.moving),
                boundary=plan.boundary_name,
                cache=cache,
                cache_bytes=needed,
                recomputed=recomputed,
            )
        )
    return outlines


def _caching(
    recipe: Recipe,
    phase: PhaseSpec,
    backbone: Backbone,
    plan: FreezePlan,
    counts: Mapping[str, int],
    runtime: Runtime,
) -> tuple[str | None, int, str | None]:
    """What is cached, its bytes, and why something is recomputed where it is."""
    if plan.boundary == 0:
        return None, 0, "the first stage trains: every epoch starts from the pixels"
    if phase.views == 0:
        return None, 0, "views = 0: every epoch draws a new view of each image"
    views = (phase.views or 1) if recipe.data.augment.active else 1
    size = recipe.data.size or backbone.preprocess.size
    needs = footprint(backbone, plan.boundary, size, cached_rows(counts, views))
    lack = cache_or_recompute(needs, runtime, required=phase.optimizer == "lbfgs")
    return str(needs), needs.bytes, lack
