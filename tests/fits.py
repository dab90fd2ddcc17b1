"""Fits of the training loop that take milliseconds: a small network, pictures of four colours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from headstart.features.feeds import CachedFeed
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import Backbone, build_architecture
from headstart.models.classifier import Classifier
from headstart.models.freezing import plan_phase, set_training
from headstart.models.heads import create_head
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.plan.plan import PhasePlan
from headstart.specs import HeadSpec, PhaseSpec
from headstart.training.loop import FitInputs, FitState, consider, fit
from headstart.training.optimisation import create_optimizer

RUNTIME = create_runtime("cpu")


class Killed(BaseException):
    """The end of a process, as far as the loop can tell."""


def make_feed(n: int, seed: int) -> CachedFeed:
    """Pictures of four colours, as rows that are entered at the first stage."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    x = rng.normal(size=(n, 1, 3, 8, 8)).astype(np.float32)
    x[:, 0, 0] += labels[:, None, None] - 1.5
    return CachedFeed(x, labels, np.arange(n, dtype=np.uint64), 0, RUNTIME)


def make_phase(backbone: Backbone, spec: PhaseSpec, number: int = 0) -> PhasePlan:
    """A phase that is fitted, as far as the loop reads it."""
    freeze = plan_phase(backbone, spec)
    nothing = dict.fromkeys(("trainable", "frozen", "head", "views"), 0)
    return PhasePlan(
        number, spec, freeze, stages=(), holding=(), **nothing, cache=None, recomputed=None
    )


def make_model() -> Classifier:
    torch.manual_seed(0)
    identity = WeightsIdentity("random", "small_cnn", "", None, "", "")
    preprocess = Preprocess(8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    backbone = Backbone(build_architecture("small_cnn"), identity, preprocess)
    head = create_head(HeadSpec(dropout=0.2), num_features=backbone.num_features, num_classes=4)
    return Classifier(backbone, head)


def make_spec(**changes: Any) -> PhaseSpec:
    """Of a phase with every field decided, as a plan has it."""
    known = {
        "train": "all",
        "optimizer": "adamw",
        "epochs": 4,
        "lr": 2e-3,
        "warmup": 0.2,
        "norm": "train",
    }
    # Copied without a check: some rates here are beyond what a recipe may say.
    return PhaseSpec(**known, weight_decay=0.01).model_copy(update=changes)


def make_inputs(spec: PhaseSpec | None = None, **changes: Any) -> tuple[Classifier, FitInputs]:
    """A fresh model and its inputs; `changes` are fields of the inputs."""
    model = make_model()
    phase = make_phase(model.backbone, spec or make_spec())
    model.enter(0, phase.freeze.boundary)
    set_training(model.backbone, phase.freeze)
    inputs = FitInputs(phase, make_feed(96, 0), make_feed(32, 1), 16, 5, 0.0, RUNTIME)
    return model, replace(inputs, **changes)


def fitted(model: Classifier, inputs: FitInputs, **callbacks: Any) -> FitState:
    """The whole phase from its start."""
    return fit(model, inputs, FitState(), create_optimizer(model, inputs.phase), **callbacks)


def learnt(spec: PhaseSpec | None = None, **changes: Any) -> tuple[Classifier, FitInputs, FitState]:
    """A model that an earlier phase has taught; the inputs and the first state of a later one."""
    model, inputs = make_inputs()
    fitted(model, inputs)
    later = replace(inputs, phase=make_phase(model.backbone, spec or make_spec(), 1), **changes)
    state = FitState()
    consider(model, later, state)
    return model, later, state
