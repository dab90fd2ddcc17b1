"""Freezing: what a phase may change, where its boundary lies, and proof that the rest stood still.

Frozen means parameters and buffers: a frozen batch norm stays in eval mode, or its running
statistics would drift while its weights look frozen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from headstart.errors import RecipeError, RunError
from headstart.models.backbones import Backbone
from headstart.recipe import PhaseSpec


@dataclass(frozen=True)
class FreezePlan:
    """What one phase trains in the backbone.

    boundary: index of the first stage that changes; len(stages) where none does. trainable: names
    of the model's parameters that change. moving: names of the batch norms that keep learning
    their statistics.
    """

    boundary: int
    boundary_name: str
    trainable: frozenset[str]
    moving: frozenset[str]


def plan_phase(backbone: Backbone, phase: PhaseSpec) -> FreezePlan:
    """Decide what the phase trains. Raises RecipeError where the architecture has no such part."""
    stages = backbone.stages()
    if phase.train == "head":
        boundary = len(stages)
    elif phase.train == "all":
        boundary = 0
    else:
        boundary = _last_group(backbone)
    norms = {
        name
        for name, module in backbone.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and any(stage.holds(name) for stage in stages[boundary:])
    }
    frozen_norms = norms if norm_mode(backbone, phase) == "frozen" else set()
    trainable = frozenset(
        name
        for name, _ in backbone.model.named_parameters()
        if any(stage.holds(name) for stage in stages[boundary:])
        and name.rpartition(".")[0] not in frozen_norms
    )
    name = "head" if boundary == len(stages) else stages[boundary].name
    return FreezePlan(boundary, name, trainable, frozenset(norms - frozen_norms))


def norm_mode(backbone: Backbone, phase: PhaseSpec) -> str:
    """Statistics learnt on a million images beat those of a few batches, unless there are none."""
    return phase.norm or ("frozen" if backbone.pretrained else "train")


def _last_group(backbone: Backbone) -> int:
    stages = backbone.stages()
    body = [stage for stage in stages if stage.group not in ("stem", "pool")]
    if len({stage.group for stage in body}) < 2:
        raise RecipeError(
            f'{backbone.name} has no stages that Headstart knows: use train = "head" or "all"'
        )
    return next(i for i, stage in enumerate(stages) if stage.group == body[-1].group)


def set_training(backbone: Backbone, plan: FreezePlan) -> None:
    """Put every parameter and module of the backbone into the plan's state."""
    backbone.eval()
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in plan.trainable)
    if not plan.trainable:
        return
    above = backbone.stages()[plan.boundary :]
    for name, module in backbone.model.named_modules():
        # Containers are left in eval mode: only what belongs to a trained stage may act (dropout,
        # drop path), and only the planned norms may move.
        if name and any(stage.holds(name) for stage in above):
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            module.training = name in plan.moving if is_norm else True


class FreezeAudit:
    """Hashes everything a phase must not change, before and after it."""

    def __init__(self, backbone: Backbone, plan: FreezePlan) -> None:
        self._backbone, self._plan = backbone, plan
        self._before = self._hashes()

    def verify(self) -> None:
        """Raises RunError naming what drifted."""
        after = self._hashes()
        drifted = [name for name, digest in self._before.items() if after[name] != digest]
        if drifted:
            raise RunError(
                f"freeze audit: {len(drifted)} frozen tensors changed, the first is {drifted[0]}"
            )

    def _hashes(self) -> dict[str, str]:
        return {
            name: _digest(tensor)
            for name, tensor in self._backbone.model.state_dict().items()
            if name not in self._plan.trainable and name.rpartition(".")[0] not in self._plan.moving
        }


def _digest(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
