"""The plan: all decisions about a run, made before anything is computed.

`check` prints it, `run` carries it out, and a budget estimates its work. The backbone is built on
the meta device: no weights are read and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from headstart.data import Splits, load_data
from headstart.evaluation.two_classes import positive_class
from headstart.features.room import Footprint, cache_or_recompute, cached_rows, footprint
from headstart.machine.progress import Reporter
from headstart.machine.runtime import Runtime
from headstart.models.backbones import Backbone, create_meta_backbone
from headstart.models.freezing import FreezePlan, plan_phase
from headstart.models.heads import create_head
from headstart.models.identity import Weights
from headstart.plan.resolution import resolve
from headstart.recipe import Recipe
from headstart.specs import DataSpec, PhaseSpec
from headstart.views.transforms import Transform, recipe_transform


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a resolved recipe.

    number: from 0. stages: names of all stages, in order. holding: names of the stages with
    trainable parameters. trainable, frozen: numbers of parameters of the backbone. head: number of
    parameters of the head, all trainable. views: cached rows per training image; 0 where every
    epoch draws a new view. cache: what is cached; None where nothing is, and `recomputed` says why.
    """

    number: int
    spec: PhaseSpec
    freeze: FreezePlan
    stages: tuple[str, ...]
    holding: tuple[str, ...]
    trainable: int
    frozen: int
    head: int
    views: int
    cache: Footprint | None
    recomputed: str | None

    @property
    def solved(self) -> bool:
        """Whether the head is solved, without epochs and learning rate."""
        return self.spec.optimizer == "lbfgs"

    @property
    def epochs(self) -> int:
        """Passes over the training images; 0 where the head is solved."""
        return 0 if self.spec.epochs is None else self.spec.epochs

    @property
    def lr(self) -> float:
        """The peak learning rate; 0 where the head is solved."""
        return 0.0 if self.spec.lr is None else self.spec.lr

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.number + 1,
            "train": self.spec.train,
            "optimizer": self.spec.optimizer,
            "epochs": self.spec.epochs,
            "lr": self.spec.lr,
            "first": self.holding[0] if self.holding else None,
            "last": self.holding[-1] if self.holding else None,
            "stages": f"{len(self.holding)} of {len(self.stages)}",
            "trainable_backbone": self.trainable,
            "trainable_head": self.head,
            "frozen": self.frozen,
            "moving_norms": len(self.freeze.moving),
            "boundary": self.freeze.boundary_name,
            "cache": None if self.cache is None else str(self.cache),
            "cache_bytes": 0 if self.cache is None else self.cache.bytes,
            "recomputed": self.recomputed,
        }


@dataclass(frozen=True, eq=False)
class Plan:
    """recipe: resolved, every field decided. transform: augments as the recipe says."""

    recipe: Recipe
    weights: Weights
    splits: Splits
    transform: Transform
    runtime: Runtime
    phases: tuple[PhasePlan, ...]

    @property
    def size(self) -> int:
        """Pixels a side of the network's input."""
        return self.transform.preprocess.size

    @property
    def classes(self) -> int:
        return len(self.splits.class_names)

    @property
    def counts(self) -> dict[str, int]:
        """Images of train, val and test."""
        return {name: len(getattr(self.splits, name)) for name in ("train", "val", "test")}

    @cached_property
    def fingerprint(self) -> str:
        """Eight hex digits of everything that decides the trained weights: `Recipe.fingerprint`."""
        identity = self.weights.identity
        return self.recipe.fingerprint(
            images=self.splits.fingerprint,
            weights=identity.sha256 or identity.provider,
            precision=self.runtime.precision,
        )


def make_plan(
    recipe: Recipe,
    runtime: Runtime,
    reporter: Reporter,
    load: Callable[[DataSpec], Splits] | None = None,
) -> Plan:
    """Locate the weights, split the images, and decide the views and each phase.

    load: opens a data set in place of `load_data`. Raises HeadstartError where the recipe
    contradicts itself, names something that does not exist, or has a solved head without room for
    its cache.
    """
    resolved, weights = resolve(recipe, reporter)
    data = resolved.data
    splits = load(data) if load else load_data(data, progress=reporter.transfer)
    positive_class(splits.class_names, resolved.evaluation.positive)  # reports a wrong name early
    transform = recipe_transform(data, weights.preprocess, resolved.seed)
    plan = Plan(resolved, weights, splits, transform, runtime, ())
    backbone, head = _without_weights(plan)
    phases = tuple(
        _plan_phase(plan, number, backbone, sum(p.numel() for p in head.parameters()))
        for number in range(len(resolved.phases))
    )
    return Plan(resolved, weights, splits, transform, runtime, phases)


def _without_weights(plan: Plan) -> tuple[Backbone, nn.Module]:
    backbone = create_meta_backbone(plan.weights, size=plan.size)
    with torch.device("meta"):
        head = create_head(
            plan.recipe.head, num_features=backbone.num_features, num_classes=plan.classes
        )
    return backbone, head


def _plan_phase(plan: Plan, number: int, backbone: Backbone, head: int) -> PhasePlan:
    spec = plan.recipe.phases[number]
    freeze = plan_phase(backbone, spec)
    views = _views(plan, spec, freeze)
    cache, recomputed = _caching(plan, spec, backbone, freeze, views)
    sizes = {name: p.numel() for name, p in backbone.model.named_parameters()}
    trainable = sum(sizes[name] for name in freeze.trainable)
    stages = backbone.stages()
    holding = (s.name for s in stages if any(s.holds(name) for name in freeze.trainable))
    return PhasePlan(
        number=number,
        spec=spec,
        freeze=freeze,
        stages=tuple(stage.name for stage in stages),
        holding=tuple(holding),
        trainable=trainable,
        frozen=sum(sizes.values()) - trainable,
        head=head,
        views=views,
        cache=cache,
        recomputed=recomputed,
    )


def _views(plan: Plan, spec: PhaseSpec, freeze: FreezePlan) -> int:
    """Cached views per image. Where the first stage trains, nothing is cached: 0."""
    assert spec.views is not None  # resolved
    if freeze.boundary == 0 or spec.views == 0:
        return 0
    return spec.views if plan.transform.augment.active else 1


def _caching(
    plan: Plan, spec: PhaseSpec, backbone: Backbone, freeze: FreezePlan, views: int
) -> tuple[Footprint | None, str | None]:
    """The cached rows, or the reason why nothing is cached."""
    if freeze.boundary == 0:
        return None, "the first stage trains: every epoch starts from the pixels"
    if views == 0:
        return None, "views = 0: every epoch draws a new view of each image"
    rows = cached_rows(plan.counts, views)
    needs = footprint(backbone, freeze.boundary, plan.size, rows, plan.counts["test"])
    reason = cache_or_recompute(needs, plan.runtime, required=spec.optimizer == "lbfgs")
    return (needs, None) if reason is None else (None, reason)
