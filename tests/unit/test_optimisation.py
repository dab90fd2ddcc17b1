"""Rates, optimisers and class weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from headstart.rundir.history import Epoch
from headstart.training import optimisation
from headstart.training.optimisation import class_weights, create_optimizer
from tests.fits import fitted, make_inputs, make_model, make_phase, make_spec


def learning_rate(progress: float, **spec: Any) -> float:
    phase = make_phase(make_model().backbone, make_spec(**spec))
    return optimisation.learning_rate(phase, progress)


def test_schedules() -> None:
    assert learning_rate(0.1) == pytest.approx(1e-3)
    assert learning_rate(0.2) == pytest.approx(2e-3)
    assert learning_rate(0.6) == pytest.approx(1e-3)
    assert learning_rate(0.999) < 1e-5
    constant = {"schedule": "constant", "warmup": 0.0}
    assert learning_rate(0.0, **constant) == learning_rate(0.9, **constant) == 2e-3


def test_one_cycle_rises_and_falls() -> None:
    cycle = {"lr": 1.0, "schedule": "one_cycle", "warmup": 0.0}
    assert learning_rate(0.0, **cycle) == pytest.approx(1 / 25)
    assert learning_rate(0.3, **cycle) == pytest.approx(1.0)
    assert learning_rate(0.15, **cycle) == pytest.approx((1 + 1 / 25) / 2)
    assert learning_rate(0.9999, **cycle) < 1e-4
    assert learning_rate(0.1, **{**cycle, "warmup": 0.1}) == pytest.approx(1.0)


def test_layer_decay_scales_each_stage_below_the_head() -> None:
    model, inputs = make_inputs(make_spec(layer_decay=0.5))
    optimizer = create_optimizer(model, inputs.phase)
    scale = {id(p): g["scale"] for g in optimizer.param_groups for p in g["params"]}
    found = {n: scale[id(p)] for n, p in model.named_parameters()}
    assert found["head.1.weight"] == 1.0
    assert found["backbone.model.features.block3.0.weight"] == 0.5
    assert found["backbone.model.features.block1.0.weight"] == 0.125


@pytest.mark.parametrize(
    ("name", "kind", "decay"),
    [("sgd", torch.optim.SGD, 5e-4), ("adam", torch.optim.Adam, 0.0)],
)
def test_optimizers(name: str, kind: type[torch.optim.Optimizer], decay: float) -> None:
    model, inputs = make_inputs(make_spec(optimizer=name, weight_decay=decay))
    optimizer = create_optimizer(model, inputs.phase)
    assert type(optimizer) is kind
    assert {g["weight_decay"] for g in optimizer.param_groups} == {decay, 0.0}
    records: list[Epoch] = []
    fitted(model, inputs, on_epoch=records.append)
    assert records[-1].train_loss < records[0].train_loss


def test_class_weights_balance_the_classes() -> None:
    weights = class_weights(np.array([0] * 6 + [1] * 3 + [3]), 4)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 0.0, 10 / 3])
    counts = torch.tensor([6.0, 3.0, 0.0, 1.0])
    assert float((weights * counts).sum()) == pytest.approx(10)
    assert (weights * counts)[counts > 0].tolist() == pytest.approx([10 / 3] * 3)
