"""The loop: order, schedule, early stop, and a resume that changes no bit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from headstart.data import load_data
from headstart.errors import RunError
from headstart.evaluation.predictions import Predictions
from headstart.features.feeds import CachedFeed, PixelFeed, batch_bounds, epoch_order
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import Backbone, build_architecture
from headstart.models.classifier import Classifier
from headstart.models.freezing import plan_phase, set_training
from headstart.models.heads import create_head
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.rundir.history import Epoch
from headstart.specs import AugmentSpec, DataSpec, HeadSpec, PhaseSpec
from headstart.training import loop
from headstart.training.checkpoints import load_checkpoint, read_phase, save_checkpoint
from headstart.training.loop import (
    RESTARTS,
    FitState,
    Job,
    consider,
    cross_entropy_loss,
    fit,
)
from headstart.training.optimisation import class_weights, create_optimizer, learning_rate
from headstart.views.mixing import Mixer
from headstart.views.transforms import Transform

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
    records: list[Epoch] = []
    state = fit(model, job, FitState(), create_optimizer(model, PHASE), on_epoch=records.append)
    assert [r.epoch for r in records] == [0, 1, 2, 3]
    assert records[-1].train_loss < 0.7 * records[0].train_loss
    best = max(records, key=lambda r: (r.val_accuracy, -r.val_loss))
    assert state.best_epoch == best.epoch
    assert state.best_val_accuracy == best.val_accuracy > 0.5
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.best.items())


def test_checkpoints_come_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def saved() -> list[tuple[int, int]]:
        model, job = make_job()
        state, seen = FitState(), []

        def note() -> None:
            seen.append((state.epoch, state.step))

        fit(model, job, state, create_optimizer(model, PHASE), on_checkpoint=note)
        return seen

    epochs = PHASE.epochs or 1
    assert saved() == [(epoch, 0) for epoch in range(1, epochs + 1)]
    # Where it takes long, not after every epoch; and by the clock after every step.
    monkeypatch.setattr("headstart.training.loop.CHECKPOINT_SHARE", 1e-12)
    assert saved() == [(1, 0)]
    monkeypatch.setattr("headstart.training.loop.CHECKPOINT_S", 0.0)
    steps = len(batch_bounds(len(make_job()[1].train.keys), make_job()[1].batch_size))
    # The last step of an epoch is saved once it is validated.
    assert saved() == [divmod(n, steps) for n in range(1, epochs * steps + 1)]


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


def test_one_cycle_rises_and_falls() -> None:
    cycle = PhaseSpec(train="all", lr=1.0, schedule="one_cycle")
    assert learning_rate(cycle, 0.0) == pytest.approx(1 / 25)
    assert learning_rate(cycle, 0.3) == pytest.approx(1.0)
    assert learning_rate(cycle, 0.15) == pytest.approx((1 + 1 / 25) / 2)
    assert learning_rate(cycle, 0.9999) < 1e-4
    early = cycle.model_copy(update={"warmup": 0.1})
    assert learning_rate(early, 0.1) == pytest.approx(1.0)


def test_plateau_lowers_the_rate_when_validation_stalls() -> None:
    phase = PHASE.model_copy(
        update={"schedule": "plateau", "lr": 1e-12, "warmup": 0.0, "plateau_patience": 1}
    )
    phase = phase.model_copy(update={"epochs": 6, "norm": "frozen"})
    model, job = make_job(phase=phase)
    job = replace(job, plan=plan_phase(model.backbone, phase))
    rates: list[float] = []
    fit(
        model,
        job,
        FitState(),
        create_optimizer(model, phase),
        on_epoch=lambda record: rates.append(record.lr),
    )
    assert rates[0] == 1e-12
    assert rates[-1] == pytest.approx(1e-12 * 0.2 ** (len(set(rates)) - 1))
    assert len(set(rates)) > 1


def test_layer_decay_scales_each_stage_below_the_head() -> None:
    model, _ = make_job()
    optimizer = create_optimizer(model, PHASE.model_copy(update={"layer_decay": 0.5}))
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
    phase = PHASE.model_copy(update={"optimizer": name, "weight_decay": decay})
    model, job = make_job(phase=phase)
    optimizer = create_optimizer(model, phase)
    assert type(optimizer) is kind
    assert {g["weight_decay"] for g in optimizer.param_groups} == {decay, 0.0}
    records: list[Epoch] = []
    fit(model, job, FitState(), optimizer, on_epoch=records.append)
    assert records[-1].train_loss < records[0].train_loss


def test_gradients_are_clipped() -> None:
    phase = PHASE.model_copy(
        update={"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "grad_clip": 1e-3}
    )
    phase = phase.model_copy(update={"epochs": 1, "lr": 1.0, "schedule": "constant", "warmup": 0.0})
    model, job = make_job(phase=phase)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    fit(model, job, FitState(), create_optimizer(model, phase))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    steps = 96 // 16
    assert 0 < (after - before).norm() <= 1e-3 * steps * 1.001


def test_the_average_is_validated_and_kept() -> None:
    phase = PHASE.model_copy(update={"ema": 0.999, "epochs": 1})
    model, job = make_job(phase=phase)
    state = fit(model, job, FitState(), create_optimizer(model, phase))
    assert all(torch.equal(state.best[name], state.average[name]) for name in state.average)
    other, job = make_job(phase=phase.model_copy(update={"ema": 0.0}))
    plain = fit(other, job, FitState(), create_optimizer(other, phase))
    name = "head.1.weight"
    # By hand: the average of the six steps with decays (1 + t) / (10 + t).
    assert not torch.equal(state.best[name], plain.best[name])
    third, job = make_job(phase=phase.model_copy(update={"ema": 0.0}))
    optimizer = create_optimizer(third, phase)
    weight = third.head[1].weight
    average, steps = weight.detach().clone(), iter(range(6))

    def follow(images: int) -> None:
        t = next(steps)
        d = min(0.999, (1 + t) / (10 + t))
        average.mul_(d).add_(weight.detach(), alpha=1 - d)

    fit(third, job, FitState(), optimizer, on_step=follow)
    assert torch.allclose(average, state.best[name], atol=1e-6)


def test_class_weights_balance_the_classes() -> None:
    weights = class_weights(np.array([0] * 6 + [1] * 3 + [3]), 4)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 0.0, 10 / 3])
    counts = torch.tensor([6.0, 3.0, 0.0, 1.0])
    assert float((weights * counts).sum()) == pytest.approx(10)
    assert (weights * counts)[counts > 0].tolist() == pytest.approx([10 / 3] * 3)


def test_smoothing_and_weights_reach_the_loss() -> None:
    phase = PHASE.model_copy(update={"label_smoothing": 0.3})
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    _, job = make_job(phase=phase, class_weights=weights)
    logits, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    plain = cross_entropy_loss(job, logits, y, None)
    smooth = (1 - 0.3) * torch.nn.functional.one_hot(y, 4) + 0.3 / 4
    each = -(smooth * weights * logits.log_softmax(1)).sum(1)
    assert float(plain) == pytest.approx(float(each.sum() / weights[y].sum()), rel=1e-5)
    own = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.7, 0.0])
    labels = torch.cat([y, torch.tensor([2])])
    got = cross_entropy_loss(job, logits, labels, own)
    sums = []
    for share, target in ((own, labels[:-1]), (1 - own, labels[1:])):
        soft = (1 - 0.3) * torch.nn.functional.one_hot(target, 4) + 0.3 / 4
        row = -(soft * weights * logits.log_softmax(1)).sum(1)
        sums.append(((share * row).sum(), (share * weights[target]).sum()))
    (a, b), (c, d) = sums
    assert float(got) == pytest.approx(float((a + c) / (b + d)), rel=1e-5)
    # All of an image its own: the mixed loss is the plain one.
    mixed = cross_entropy_loss(job, logits, torch.cat([y, y[:1]]), torch.ones(6))
    assert float(mixed) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer_name", ["sgd", "adam", "adamw"])
def test_resume_within_an_epoch_is_bit_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer_name: str, ema: float
) -> None:
    phase = PHASE.model_copy(update={"optimizer": optimizer_name, "ema": ema, "weight_decay": 0.01})
    path = tmp_path / "last.safetensors"
    mixer = Mixer(0.4, 0.4, 3)
    whole, job = make_job(phase=phase, mixer=mixer)
    RUNTIME.adopt(whole)
    fit(whole, job, FitState(), create_optimizer(whole, phase))
    monkeypatch.setattr("headstart.training.loop.CHECKPOINT_S", 0.0)

    class Killed(BaseException):
        pass

    first, job = make_job(phase=phase, mixer=mixer)
    RUNTIME.adopt(first)
    state, optimizer = FitState(), create_optimizer(first, phase)

    def checkpoint_then_die() -> None:
        save_checkpoint(path, first, 0, state, optimizer)
        if (state.epoch, state.step) == (1, 3):
            raise Killed

    with pytest.raises(Killed):
        fit(first, job, state, optimizer, on_checkpoint=checkpoint_then_die)
    resumed, job = make_job(phase=phase, mixer=mixer)
    RUNTIME.adopt(resumed)
    optimizer = create_optimizer(resumed, phase)
    state = load_checkpoint(path, resumed, optimizer)
    assert (state.epoch, state.step) == (1, 3)
    fit(resumed, job, state, optimizer)
    expected, got = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_awaits_the_device() -> None:
    runtime = create_runtime("cuda")
    model, job = make_job()
    images = load_data(DataSpec(source="cifar10-mini")).train
    augment = AugmentSpec(flip=True, shift=0.1, zoom=0.1, contrast=0.1, trivial=True, erasing=0.5)
    preprocess = Preprocess(48, (0.5,) * 3, (0.5,) * 3, "bilinear")
    feed = PixelFeed(images, Transform(preprocess, augment), runtime)
    phase = PHASE.model_copy(update={"epochs": 1, "ema": 0.9, "grad_clip": 1.0})
    mixer = Mixer(0.4, 0.4, 3)
    job = replace(job, phase=phase, train=feed, val=feed, runtime=runtime, mixer=mixer)
    model.head = create_head(HeadSpec(), num_features=model.backbone.num_features, num_classes=10)
    runtime.adopt(model)
    steps = len(batch_bounds(len(images), job.batch_size))
    seen = 0

    def watch(rows: int) -> None:
        # Not over the first steps, in which constants and kernels are made, nor the epoch's end.
        nonlocal seen
        seen += 1
        torch.cuda.set_sync_debug_mode("error" if 3 <= seen < steps else "default")

    fit(model, job, FitState(), create_optimizer(model, phase), on_step=watch)
    assert seen == steps


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

    def checkpoint_then_die(record: Epoch) -> None:
        save_checkpoint(path, first, 0, state, optimizer)
        if record.epoch == 1:
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


def learnt() -> tuple[Classifier, Job]:
    """A model that an earlier phase has taught, and the job of a later one."""
    model, job = make_job()
    fit(model, job, FitState(), create_optimizer(model, PHASE))
    return model, replace(job, number=1)


def test_a_phase_that_betters_nothing_ends_where_it_began() -> None:
    """At a rate at which every attempt ruins the model."""
    model, job = learnt()
    wild = PHASE.model_copy(update={"lr": 1e4, "warmup": 0.0, "optimizer": "sgd"})
    job, state = replace(job, phase=wild), FitState()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    consider(model, job, state)
    state = fit(model, job, state, create_optimizer(model, wild))
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
    model, job = learnt()
    fast = PHASE.model_copy(update={"lr": 1.0, "warmup": 0.0, "epochs": 6})
    job, state = replace(job, phase=fast), FitState()
    consider(model, job, state)
    learnt_value = state.best_key[0]
    begun: list[float] = []
    epochs: list[tuple[int, float]] = []
    state = fit(
        model,
        job,
        state,
        create_optimizer(model, fast),
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
    wild = PHASE.model_copy(update={"lr": 1e38, "warmup": 0.0, "epochs": 1, "optimizer": "sgd"})
    model, job = make_job(phase=wild, batch_size=200)
    with pytest.raises(RunError, match="phase 1 diverged"):
        fit(model, job, FitState(), create_optimizer(model, wild))
    model, job = learnt()
    job, state = replace(job, phase=wild, batch_size=200), FitState()
    consider(model, job, state)
    state = fit(model, job, state, create_optimizer(model, wild))
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
    model, job = make_job(select_by=select_by, number=1, val=make_feed(200, 1))
    state = FitState()
    consider(model, job, state)
    loop._validate(model, job, state, 0)
    assert state.lost is lost


def test_a_resume_within_a_second_attempt_is_bit_exact(tmp_path: Path) -> None:
    fast = PHASE.model_copy(update={"lr": 1.0, "warmup": 0.0})
    path = tmp_path / "last.safetensors"

    class Killed(BaseException):
        pass

    def begin() -> tuple[Classifier, Job, torch.optim.Optimizer]:
        model, job = learnt()
        return model, replace(job, phase=fast), create_optimizer(model, fast)

    whole, job, optimizer = begin()
    state = FitState()
    consider(whole, job, state)
    fit(whole, job, state, optimizer)

    first, job, optimizer = begin()
    cut = FitState()
    consider(first, job, cut)

    def die(record: Epoch) -> None:
        if cut.restarts == 1 and record.epoch == 0:
            save_checkpoint(path, first, 1, cut, optimizer)
            raise Killed

    with pytest.raises(Killed):
        fit(first, job, cut, optimizer, on_epoch=die)
    resumed, job, optimizer = begin()
    fit(resumed, job, load_checkpoint(path, resumed, optimizer), optimizer)
    expected, got = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_divergence_is_told_with_its_remedy() -> None:
    wild = PHASE.model_copy(update={"lr": 1e30, "warmup": 0.0})
    model, job = make_job(phase=wild)
    with pytest.raises(RunError, match=r"phase 1 diverged in epoch 1 .* lower phases\.0\.lr"):
        fit(model, job, FitState(), create_optimizer(model, wild))


@pytest.mark.parametrize("part", ["model", "best", "start"])
@pytest.mark.parametrize("fault", ["missing", "added", "shape", "dtype"])
def test_a_checkpoint_of_other_tensors_is_refused(tmp_path: Path, part: str, fault: str) -> None:
    path = tmp_path / "last.safetensors"
    model, job = make_job()
    optimizer = create_optimizer(model, PHASE)
    state = fit(model, job, FitState(), optimizer)
    save_checkpoint(path, model, 0, state, optimizer)
    load_checkpoint(path, model, optimizer)

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (name,) = [name for name in tensors if name.startswith(part) and name.endswith("0.weight")][:1]
    tensor = tensors.pop(name)
    changed = {
        "added": {name: tensor, f"{part}.other": tensor.clone()},
        "shape": {name: tensor[:1]},
    }
    changed["dtype"] = {name: tensor.double()}
    save_file(tensors | changed.get(fault, {}), path, metadata=header)
    wrong = "other" if fault == "added" else name.removeprefix(f"{part}.")
    with pytest.raises(RunError, match=rf"last\.safetensors: {part}: .*{re.escape(wrong)}") as told:
        load_checkpoint(path, model, optimizer)
    assert len(str(told.value).splitlines()) == 1


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    model, job = make_job()
    optimizer = create_optimizer(model, PHASE)
    state = fit(model, job, FitState(), optimizer)
    save_checkpoint(path, model, 0, state, optimizer)
    first = torch.optim.AdamW(list(model.head.parameters())[:1])
    with pytest.raises(RunError, match=r"last\.safetensors: optimizer: \d+\.\w+ has"):
        load_checkpoint(path, model, first)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(RunError, match="not a checkpoint that can be read"):
        read_phase(path)
