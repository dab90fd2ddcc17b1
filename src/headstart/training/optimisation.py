"""Optimisers, learning rates, averaged weights and class weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from headstart.models.classifier import Classifier
from headstart.plan.plan import PhasePlan

# One-cycle: where the rate starts and ends, as shares of the peak, and how long it rises.
ONE_CYCLE_START, ONE_CYCLE_END, ONE_CYCLE_RISE = 1 / 25, 1e-5, 0.3


def create_optimizer(model: Classifier, phase: PhasePlan) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019).

    Vectors (biases, norms) are not decayed. A group's "scale" multiplies the phase's rate: with
    layer_decay, a stage k trained stages below the head learns at layer_decay ** k (as in ELECTRA,
    Clark et al. 2020).
    """
    spec, groups = phase.spec, list[dict[str, object]]()
    for depth, parameters in enumerate(_by_depth(model)):
        scale = spec.layer_decay**depth
        matrices = [p for p in parameters if p.dim() > 1]
        vectors = [p for p in parameters if p.dim() <= 1]
        for chosen, weight_decay in ((matrices, spec.weight_decay), (vectors, 0.0)):
            if chosen:
                groups.append({"params": chosen, "weight_decay": weight_decay, "scale": scale})
    if spec.optimizer == "sgd":
        nesterov = spec.momentum > 0
        return torch.optim.SGD(groups, phase.lr, spec.momentum, nesterov=nesterov, fused=True)
    if spec.optimizer == "adam":
        return torch.optim.Adam(groups, phase.lr, fused=True)
    return torch.optim.AdamW(groups, phase.lr, fused=True)


def _by_depth(model: Classifier) -> list[list[nn.Parameter]]:
    """Trained parameters: the head's, then each trained stage's, from the last to the first."""
    depths = [[p for p in model.head.parameters() if p.requires_grad]]
    named = list(model.backbone.model.named_parameters())
    for stage in reversed(model.backbone.stages()):
        own = [p for name, p in named if p.requires_grad and stage.holds(name)]
        if own:
            depths.append(own)
    return depths


def learning_rate(phase: PhasePlan, progress: float) -> float:
    """The rate at `progress` in [0, 1) of the phase, before plateau and layer decay.

    cosine and constant begin with a linear warm-up; one_cycle rises and falls in half cosines
    (Smith & Topin 2018, without its cycle of momentum).
    """
    spec, peak = phase.spec, phase.lr
    if spec.schedule == "one_cycle":
        rise = spec.warmup or ONE_CYCLE_RISE
        if progress < rise:
            return _half_cosine(peak * ONE_CYCLE_START, peak, progress / rise)
        return _half_cosine(peak, peak * ONE_CYCLE_END, (progress - rise) / (1 - rise))
    if progress < spec.warmup:
        return peak * progress / spec.warmup
    if spec.schedule == "cosine":
        return _half_cosine(peak, 0.0, (progress - spec.warmup) / (1 - spec.warmup))
    return peak


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


class WeightAverage:
    """An exponential moving average of everything that training changes (Polyak & Juditsky 1992).

    It follows quickly at first: the decay after t steps is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, model: Classifier, decay: float, saved: dict[str, torch.Tensor]) -> None:
        self._decay = decay
        self._live = {
            name: tensor
            for name, tensor in model.changing_tensors().items()
            if tensor.is_floating_point()
        }
        self.tensors = {
            name: saved[name].to(tensor.device) if name in saved else tensor.detach().clone()
            for name, tensor in self._live.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after step number `step` (from 0) of the phase."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._live.values()), weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average within the block, and its own weights again after it."""
        own = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        try:
            self._copy(self.tensors)
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, source: dict[str, torch.Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(source[name])


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """float32 (classes,): n / (present * n_c), so that every class present weighs the same.

    Classes without an image weigh nothing: they have no loss to weigh.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return torch.from_numpy(weights)
