"""A rate that is too high: attempts at lower rates, and what is kept where none helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headstart.errors import RunError
from headstart.evaluation.predictions import Predictions
from headstart.training import loop
from headstart.training.loop import RESTARTS, FitState, consider, fit
from headstart.training.optimisation import create_optimizer
from tests.fits import fitted, learnt, make_feed, make_inputs, make_spec


def test_a_phase_that_betters_nothing_ends_where_it_began() -> None:
    """At a rate at which every attempt ruins the model."""
    model, inputs, state = learnt(make_spec(lr=1e4, warmup=0.0, optimizer="sgd"))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = fit(model, inputs, state, create_optimizer(model, inputs.phase))
    assert state.best_epoch is None
    assert state.restarts == RESTARTS
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("collapse", "left_after"), [(0.3, 1), (2.0, 3)])
def test_a_rate_that_is_too_high_is_lowered_from_the_start_again(
    collapse: float, left_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt loses what was learnt: it is left at once, or, where that is not as much,
    half way; a later one keeps it."""
    monkeypatch.setattr(loop, "COLLAPSE", collapse)
    model, inputs, state = learnt(make_spec(lr=1.0, warmup=0.0, epochs=6))
    learnt_value = state.best_key[0]
    begun: list[float] = []
    epochs: list[tuple[int, float]] = []
    state = fit(
        model,
        inputs,
        state,
        create_optimizer(model, inputs.phase),
        on_epoch=lambda record: epochs.append((record.epoch, record.lr)),
        on_restart=lambda state: begun.append(state.lr_scale),
    )
    assert begun == pytest.approx([3.0**-k for k in range(1, len(begun) + 1)])
    assert len(begun) >= 1
    assert [epoch for epoch, _ in epochs][: left_after + 1] == [*range(left_after), 0]
    assert epochs[left_after][1] == pytest.approx(epochs[0][1] / 3)
    assert state.best_key[0] >= learnt_value


def test_a_model_that_answers_with_no_numbers_is_never_the_best() -> None:
    """Its weights overflow in the only step of an epoch, whose loss was still a number."""
    wild = make_spec(lr=1e38, warmup=0.0, epochs=1, optimizer="sgd")
    model, inputs = make_inputs(wild, batch_size=200)
    with pytest.raises(RunError, match="phase 1 diverged"):
        fitted(model, inputs)
    model, inputs, state = learnt(wild, batch_size=200)
    state = fit(model, inputs, state, create_optimizer(model, inputs.phase))
    assert state.best_epoch is None
    assert all(t.isfinite().all() for t in model.state_dict().values())


@pytest.mark.parametrize(("select_by", "lost"), [("accuracy", False), ("balanced_accuracy", True)])
def test_what_is_lost_is_told_by_the_metric_that_chooses(
    select_by: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a rare class all is lost, of the other something won: accuracy sees no loss."""
    labels = np.repeat([0, 1], [180, 20])
    start = np.stack([labels == 0, labels == 1], axis=1).astype(np.float32)
    start[:25] = [0.0, 1.0]
    later = np.tile(np.float32([1.0, 0.0]), (200, 1))
    told = [Predictions(np.arange(200).astype(str), labels, logits) for logits in (start, later)]
    monkeypatch.setattr(loop, "predict", lambda *_: told.pop(0))
    model, inputs = make_inputs(select_by=select_by, val=make_feed(200, 1))
    state = FitState()
    consider(model, inputs, state)
    loop._validate(model, inputs, state, 0)
    assert state.lost is lost


def test_divergence_is_told_with_its_remedy() -> None:
    wild = make_spec(lr=1e30, warmup=0.0)
    model, inputs = make_inputs(wild)
    with pytest.raises(RunError, match=r"phase 1 diverged in epoch 1 .* lower phases\.0\.lr"):
        fitted(model, inputs)
