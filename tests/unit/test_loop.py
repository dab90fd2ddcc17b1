"""The loop: order, loss, early stop, and what it keeps as the best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.data import load_data
from headstart.features.feeds import PixelFeed, batch_bounds, epoch_order
from headstart.machine.runtime import create_runtime
from headstart.models.heads import create_head
from headstart.models.identity import Preprocess
from headstart.rundir.history import Epoch
from headstart.specs import AugmentSpec, DataSpec, HeadSpec
from headstart.training.loop import FitState, cross_entropy_loss, fit
from headstart.training.optimisation import create_optimizer
from headstart.views.mixing import Mixer
from headstart.views.transforms import Transform
from tests.fits import fitted, make_feed, make_inputs, make_spec


def test_it_learns_and_ends_at_its_best_epoch() -> None:
    model, inputs = make_inputs()
    records: list[Epoch] = []
    state = fitted(model, inputs, on_epoch=records.append)
    assert [r.epoch for r in records] == [0, 1, 2, 3]
    assert records[-1].train_loss < 0.7 * records[0].train_loss
    best = max(records, key=lambda r: (r.val_accuracy, -r.val_loss))
    assert state.best_epoch == best.epoch
    assert state.best_val_accuracy == best.val_accuracy > 0.5
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


def test_plateau_lowers_the_rate_when_validation_stalls() -> None:
    plateau = {"schedule": "plateau", "plateau_patience": 1, "warmup": 0.0, "norm": "frozen"}
    model, inputs = make_inputs(make_spec(lr=1e-12, epochs=6, **plateau))
    rates: list[float] = []
    fitted(model, inputs, on_epoch=lambda record: rates.append(record.lr))
    assert rates[0] == 1e-12
    assert rates[-1] == pytest.approx(1e-12 * 0.2 ** (len(set(rates)) - 1))
    assert len(set(rates)) > 1


def test_gradients_are_clipped() -> None:
    plain = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
    }
    model, inputs = make_inputs(make_spec(grad_clip=1e-3, epochs=1, lr=1.0, **plain))
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    fitted(model, inputs)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    steps = 96 // 16
    assert 0 < (after - before).norm() <= 1e-3 * steps * 1.001


def test_the_average_is_validated_and_kept() -> None:
    model, inputs = make_inputs(make_spec(ema=0.999, epochs=1))
    state = fitted(model, inputs)
    assert all(torch.equal(state.best[name], state.average[name]) for name in state.average)
    other, inputs = make_inputs(make_spec(epochs=1))
    plain = fitted(other, inputs)
    name = "head.1.weight"
    # By hand: the average of the six steps with decays (1 + t) / (10 + t).
    assert not torch.equal(state.best[name], plain.best[name])
    third, inputs = make_inputs(make_spec(epochs=1))
    optimizer = create_optimizer(third, inputs.phase)
    weight = third.head[1].weight
    average, steps = weight.detach().clone(), iter(range(6))

    def follow(images: int) -> None:
        t = next(steps)
        d = min(0.999, (1 + t) / (10 + t))
        average.mul_(d).add_(weight.detach(), alpha=1 - d)

    fit(third, inputs, FitState(), optimizer, on_step=follow)
    assert torch.allclose(average, state.best[name], atol=1e-6)


def test_smoothing_and_weights_reach_the_loss() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    _, inputs = make_inputs(make_spec(label_smoothing=0.3), class_weights=weights)
    logits, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    plain = cross_entropy_loss(inputs, logits, y, None)
    smooth = (1 - 0.3) * torch.nn.functional.one_hot(y, 4) + 0.3 / 4
    each = -(smooth * weights * logits.log_softmax(1)).sum(1)
    assert float(plain) == pytest.approx(float(each.sum() / weights[y].sum()), rel=1e-5)
    own = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.7, 0.0])
    labels = torch.cat([y, torch.tensor([2])])
    got = cross_entropy_loss(inputs, logits, labels, own)
    sums = []
    for share, target in ((own, labels[:-1]), (1 - own, labels[1:])):
        soft = (1 - 0.3) * torch.nn.functional.one_hot(target, 4) + 0.3 / 4
        row = -(soft * weights * logits.log_softmax(1)).sum(1)
        sums.append(((share * row).sum(), (share * weights[target]).sum()))
    (a, b), (c, d) = sums
    assert float(got) == pytest.approx(float((a + c) / (b + d)), rel=1e-5)
    # All of an image its own: the mixed loss is the plain one.
    mixed = cross_entropy_loss(inputs, logits, torch.cat([y, y[:1]]), torch.ones(6))
    assert float(mixed) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_awaits_the_device() -> None:
    runtime = create_runtime("cuda")
    model, inputs = make_inputs(make_spec(epochs=1, ema=0.9, grad_clip=1.0))
    images = load_data(DataSpec(source="cifar10-mini")).train
    augment = AugmentSpec(flip=True, shift=0.1, zoom=0.1, contrast=0.1, trivial=True, erasing=0.5)
    preprocess = Preprocess(48, (0.5,) * 3, (0.5,) * 3, "bilinear")
    feed = PixelFeed(images, Transform(preprocess, augment), runtime)
    inputs = replace(inputs, train=feed, val=feed, runtime=runtime, mixer=Mixer(0.4, 0.4, 3))
    model.head = create_head(HeadSpec(), num_features=model.backbone.num_features, num_classes=10)
    runtime.adopt(model)
    steps = len(batch_bounds(len(images), inputs.batch_size))
    seen = 0

    def watch(rows: int) -> None:
        # Not over the first steps, in which constants and kernels are made, nor the epoch's end.
        nonlocal seen
        seen += 1
        torch.cuda.set_sync_debug_mode("error" if 3 <= seen < steps else "default")

    fitted(model, inputs, on_step=watch)
    assert seen == steps


def test_patience_stops_early() -> None:
    hopeless = make_spec(epochs=50, lr=1e-12, patience=2, warmup=0.0)
    model, inputs = make_inputs(hopeless)
    before = model.state_dict()["backbone.model.features.block1.1.running_mean"].clone()
    state = fitted(model, inputs)
    assert state.epoch < 50
    assert state.epoch - 1 - (state.best_epoch or 0) == 2
    assert not torch.equal(
        before, model.state_dict()["backbone.model.features.block1.1.running_mean"]
    )


def test_l2_shrinks_the_head() -> None:
    free, inputs = make_inputs()
    fitted(free, inputs)
    held, inputs = make_inputs(l2=10.0)
    fitted(held, inputs)
    assert held.head[-1].weight.norm() < 0.9 * free.head[-1].weight.norm()


def test_no_batch_holds_a_single_image() -> None:
    assert batch_bounds(32, 16) == [(0, 16), (16, 32)]
    assert batch_bounds(33, 16) == [(0, 16), (16, 33)]
    assert batch_bounds(34, 16) == [(0, 16), (16, 32), (32, 34)]
    assert batch_bounds(1, 16) == [(0, 1)]
    model, inputs = make_inputs(train=make_feed(17, 0))
    assert fitted(model, inputs).epoch == 4
