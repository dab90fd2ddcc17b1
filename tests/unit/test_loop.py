"""The loop: order, schedule, early stop, and a resume that changes no bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.errors import RunError
from headstart.models.backbones import Backbone, build_architecture
from headstart.models.freezing import plan_phase, set_training
from headstart.models.heads import create_head
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.recipe import HeadSpec, PhaseSpec
from headstart.runtime import create_runtime
from headstart.training.checkpoints import load_checkpoint, read_phase, save_checkpoint
from headstart.training.classifier import Classifier
from headstart.training.feeds import CachedFeed, batch_bounds, epoch_order
from headstart.training.loop import FitState, Job, create_optimizer, fit, learning_rate

RUNTIME = create_runtime("cpu")
PHASE = PhaseSpec(train="all", epochs=4, lr=2e-3, warmup=0.2, norm="train")


def make_feed(n: int, seed: int) -> CachedFeed:
    """Pictures of four colours, as rows that are entered at the first stage."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    x = rng.normal(size=(n, 1, 3, 8, 8)).astype(np.float32)
    x[:, 0, 0] += labels[:, None, None] - 1.5
    return CachedFeed(x, labels, np.arange(n, dtype=np.uint64), 0, RUNTIME)


def make_job(**changes: Any) -> tuple[Classifier, Job]:
    torch.manual_seed(0)
    identity = WeightsIdentity("random", "small_cnn", "", None, "", "")
    preprocess = Preprocess(8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    backbone = Backbone(build_architecture("small_cnn"), identity, preprocess)
    head = create_head(HeadSpec(dropout=0.2), num_features=backbone.num_features, num_classes=4)
    model = Classifier(backbone, head)
    plan = plan_phase(backbone, PHASE)
    model.enter(0, plan.boundary)
    set_training(backbone, plan)
    job = Job(PHASE, 0, plan, make_feed(96, 0), make_feed(32, 1), 16, 5, 0.0, RUNTIME)
    return model, replace(job, **changes)


def test_it_learns_and_ends_at_its_best_epoch() -> None:
    model, job = make_job()
    records: list[dict[str, Any]] = []
    state = fit(model, job, FitState(), create_optimizer(model, PHASE), on_epoch=records.append)
    assert [r["epoch"] for r in records] == [0, 1, 2, 3]
    assert records[-1]["train_loss"] < 0.7 * records[0]["train_loss"]
    best = max(records, key=lambda r: (r["val_accuracy"], -r["val_loss"]))
    assert state.best_epoch == best["epoch"]
    assert state.best_val_accuracy == best["val_accuracy"] > 0.5
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.best.items())


def test_order_is_a_permutation_of_keys_not_of_rows() -> None:
    keys = np.arange(50, dtype=np.uint64)
    order = epoch_order(keys, 1, 0)
    assert sorted(order) == list(range(50))
    assert not np.array_equal(order, epoch_order(keys, 1, 1))
    assert not np.array_equal(order, epoch_order(keys, 2, 0))
    shuffled = keys[::-1].copy()
    assert np.array_equal(shuffled[epoch_order(shuffled, 1, 0)], keys[order])


def test_schedules() -> None:
    assert learning_rate(PHASE, 0.1) == pytest.approx(1e-3)
    assert learning_rate(PHASE, 0.2) == pytest.approx(2e-3)
    assert learning_rate(PHASE, 0.6) == pytest.approx(1e-3)
    assert learning_rate(PHASE, 0.999) < 1e-5
    constant = PHASE.model_copy(update={"schedule": "constant", "warmup": 0.0})
    assert learning_rate(constant, 0.0) == learning_rate(constant, 0.9) == 2e-3


def test_patience_stops_early() -> None:
    hopeless = PHASE.model_copy(update={"epochs": 50, "lr": 1e-12, "patience": 2, "warmup": 0.0})
    model, job = make_job(phase=hopeless)
    before = model.state_dict()["backbone.model.features.block1.1.running_mean"].clone()
    state = fit(model, job, FitState(), create_optimizer(model, hopeless))
    assert state.epoch < 50
    assert state.epoch - 1 - (state.best_epoch or 0) == 2
    assert not torch.equal(
        before, model.state_dict()["backbone.model.features.block1.1.running_mean"]
    )


def test_resume_is_bit_exact(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    whole, job = make_job()
    fit(whole, job, FitState(), create_optimizer(whole, PHASE))

    class Killed(BaseException):
        pass

    first, job = make_job()
    state, optimizer = FitState(), create_optimizer(first, PHASE)

    def checkpoint_then_die(record: dict[str, Any]) -> None:
        save_checkpoint(path, first, 0, state, optimizer)
        if record["epoch"] == 1:
            raise Killed

    with pytest.raises(Killed):
        fit(first, job, state, optimizer, on_epoch=checkpoint_then_die)
    resumed, job = make_job()
    optimizer = create_optimizer(resumed, PHASE)
    assert read_phase(path) == 0
    state = load_checkpoint(path, resumed, optimizer)
    assert state.epoch == 2
    fit(resumed, job, state, optimizer)
    expected, got = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_l2_shrinks_the_head() -> None:
    free, job = make_job()
    fit(free, job, FitState(), create_optimizer(free, PHASE))
    held, job = make_job(l2=10.0)
    fit(held, job, FitState(), create_optimizer(held, PHASE))
    assert held.head[-1].weight.norm() < 0.9 * free.head[-1].weight.norm()


def test_no_batch_holds_a_single_image() -> None:
    assert batch_bounds(32, 16) == [(0, 16), (16, 32)]
    assert batch_bounds(33, 16) == [(0, 16), (16, 33)]
    assert batch_bounds(34, 16) == [(0, 16), (16, 32), (32, 34)]
    assert batch_bounds(1, 16) == [(0, 1)]
    model, job = make_job(train=make_feed(17, 0))
    assert fit(model, job, FitState(), create_optimizer(model, PHASE)).epoch == 4


def test_divergence_is_told_with_its_remedy() -> None:
    wild = PHASE.model_copy(update={"lr": 1e30, "warmup": 0.0})
    model, job = make_job(phase=wild)
    with pytest.raises(RunError, match=r"phase 1 diverged in epoch 1 .* lower phases\.0\.lr"):
        fit(model, job, FitState(), create_optimizer(model, wild))


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(RunError, match="not a checkpoint that can be read"):
        read_phase(path)
