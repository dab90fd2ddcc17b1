"""Freezing: what a phase may change, where its boundary is, and a check that the rest is unchanged.

Parameters and buffers are frozen: a frozen batch norm stays in eval mode. Otherwise its running
statistics would change although its weights are frozen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from headstart.errors import RecipeError, RunError, did_you_mean
from headstart.models.backbones import Backbone
from headstart.specs import PhaseSpec

# train = "convs" is refused where convolutions have less than this share of the parameters.
CONVOLUTIONAL = 0.5


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
        return FreezePlan(len(stages), "head", frozenset(), frozenset())
    layers = _layers(backbone)
    chosen = _choose(backbone, layers, phase.train)
    frozen_norms = norm_mode(phase, backbone.pretrained) == "frozen"
    norms = {n for n, m in backbone.model.named_modules() if _is_batch_norm(m)} & set(chosen)
    trainable = {
        parameter
        for layer in chosen
        for parameter in layers[layer]
        if not (frozen_norms and layer in norms)
    }
    if not trainable:
        norms_too = ' but batch norms, which are frozen: take more, or set norm = "train"'
        raise RecipeError(
            f'train = "{phase.train}" reaches no parameters of {backbone.name}'
            + (norms_too if chosen else ': use train = "head"')
        )
    boundary = min(_stage_of(backbone, parameter) for parameter in trainable)
    moving = frozenset() if frozen_norms else frozenset(norms)
    return FreezePlan(boundary, stages[boundary].name, frozenset(trainable), moving)


def norm_mode(phase: PhaseSpec, pretrained: bool) -> Literal["frozen", "train"]:
    """Whether batch norms are frozen. By default they are for pretrained weights: their statistics
    come from a million images, and those of a few batches are worse."""
    if phase.train in ("head", "convs"):
        return "frozen"
    return phase.norm or ("frozen" if pretrained else "train")


def _layers(backbone: Backbone) -> dict[str, list[str]]:
    """Layers with parameters, in the order of the forward pass, and their parameters.

    A parameter of the network itself, such as a position embedding, counts as one layer.
    """
    layers: dict[str, list[str]] = {}
    for parameter, _ in backbone.model.named_parameters():
        layers.setdefault(parameter.rpartition(".")[0] or parameter, []).append(parameter)
    # A sort keeps the model's own order within a stage.
    return dict(sorted(layers.items(), key=lambda item: _stage_of(backbone, item[1][0])))


def _choose(backbone: Backbone, layers: dict[str, list[str]], train: str) -> list[str]:
    """The layers that a phase may change."""
    names = list(layers)
    kind, _, argument = train.partition(":")
    if kind in ("all", "from_scratch"):
        return names
    if kind == "convs":
        return _convolutions(backbone, layers)
    if kind == "last_layers":
        if int(argument) > len(names):
            raise RecipeError(
                f'train = "{train}": {backbone.name} has {len(names)} layers that own parameters; '
                'train = "all" takes them all'
            )
        return names[-int(argument) :]
    stages = backbone.stages()
    if kind == "last_stage":
        first = _last_group(backbone)
        return [name for name in names if _stage_of(backbone, layers[name][0]) >= first]
    for number, stage in enumerate(stages):
        if argument in (stage.name, stage.group):
            return [name for name in names if _stage_of(backbone, layers[name][0]) >= number]
    for position, name in enumerate(names):
        if f"{name}.".startswith(f"{argument}."):
            return names[position:]
    known = [stage.name for stage in stages]
    raise RecipeError(
        f'train = "{train}": {backbone.name} has no module {argument!r} that owns parameters'
        f"{did_you_mean(argument, [*known, *names])} (its stages: {', '.join(known)})"
    )


def _convolutions(backbone: Backbone, layers: dict[str, list[str]]) -> list[str]:
    modules = dict(backbone.model.named_modules())
    chosen = [n for n in layers if isinstance(modules.get(n), nn.modules.conv._ConvNd)]
    counts = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    own = sum(counts[parameter] for name in chosen for parameter in layers[name])
    if own < CONVOLUTIONAL * sum(counts.values()):
        raise RecipeError(
            f'train = "convs": convolutions hold {own / sum(counts.values()):.0%} of the '
            f'parameters of {backbone.name}: use train = "all" or "last_stage"'
        )
    return chosen


def _stage_of(backbone: Backbone, parameter: str) -> int:
    return next(i for i, stage in enumerate(backbone.stages()) if stage.holds(parameter))


def _last_group(backbone: Backbone) -> int:
    stages = backbone.stages()
    body = [stage for stage in stages if stage.group not in ("stem", "pool")]
    if len({stage.group for stage in body}) < 2:
        raise RecipeError(
            f'{backbone.name} has no stages that Headstart knows: use train = "head" or "all"'
        )
    return next(i for i, stage in enumerate(stages) if stage.group == body[-1].group)


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def set_training(backbone: Backbone, plan: FreezePlan) -> None:
    """Put every parameter and module of the backbone into the plan's state."""
    backbone.eval()
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in plan.trainable)
    if not plan.trainable:
        return
    above = backbone.stages()[plan.boundary :]
    for name, module in backbone.model.named_modules():
        # Only modules of trained stages are in training mode (dropout, drop path), and only the
        # planned norms. Other containers stay in eval mode.
        if name and any(stage.holds(name) for stage in above):
            module.training = name in plan.moving if _is_batch_norm(module) else True


class FreezeAudit:
    """Compares the hashes of everything that a phase must not change, before and after it."""

    def __init__(self, backbone: Backbone, plan: FreezePlan) -> None:
        self._backbone, self._plan = backbone, plan
        self._before = self._hashes()

    def verify(self) -> None:
        """Raises RunError that names a changed tensor."""
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
