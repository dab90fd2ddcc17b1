"""Checkpoints: when they come, a resume that changes no bit, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from headstart.errors import RunError
from headstart.features.feeds import batch_bounds
from headstart.models.classifier import Classifier
from headstart.models.tensor_files import read_tensors, write_tensors
from headstart.rundir.history import Epoch
from headstart.training.checkpoints import load_checkpoint, read_progress, save_checkpoint
from headstart.training.loop import FitInputs, FitState, fit
from headstart.training.optimisation import create_optimizer
from headstart.views.mixing import Mixer
from tests.fits import RUNTIME, Killed, fitted, learnt, make_inputs, make_spec


def test_checkpoints_come_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def saved() -> list[tuple[int, int]]:
        model, inputs = make_inputs()
        state, seen = FitState(), []

        def note() -> None:
            seen.append((state.epoch, state.step))

        fit(model, inputs, state, create_optimizer(model, inputs.phase), on_checkpoint=note)
        return seen

    epochs = make_inputs()[1].phase.epochs
    assert saved() == [(epoch, 0) for epoch in range(1, epochs + 1)]
    # Where it takes long, not after every epoch; and by the clock after every step.
    monkeypatch.setattr("headstart.training.loop.CHECKPOINT_SHARE", 1e-12)
    assert saved() == [(1, 0)]
    monkeypatch.setattr("headstart.training.loop.CHECKPOINT_S", 0.0)
    steps = len(batch_bounds(len(make_inputs()[1].train.keys), make_inputs()[1].batch_size))
    # The last step of an epoch is saved once it is validated.
    assert saved() == [divmod(n, steps) for n in range(1, epochs * steps + 1)]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer_name", ["sgd", "adam", "adamw"])
def test_resume_within_an_epoch_is_bit_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer_name: str, ema: float
) -> None:
    phase = make_spec(optimizer=optimizer_name, ema=ema)
    path = tmp_path / "last.safetensors"
    mixer = Mixer(0.4, 0.4, 3)
    whole, inputs = make_inputs(phase, mixer=mixer)
    RUNTIME.adopt(whole)
    fitted(whole, inputs)
    monkeypatch.setattr("headstart.training.loop.CHECKPOINT_S", 0.0)

    first, inputs = make_inputs(phase, mixer=mixer)
    RUNTIME.adopt(first)
    state, optimizer = FitState(), create_optimizer(first, inputs.phase)

    def checkpoint_then_die() -> None:
        save_checkpoint(path, first, 0, state, optimizer)
        if (state.epoch, state.step) == (1, 3):
            raise Killed

    with pytest.raises(Killed):
        fit(first, inputs, state, optimizer, on_checkpoint=checkpoint_then_die)
    resumed, inputs = make_inputs(phase, mixer=mixer)
    RUNTIME.adopt(resumed)
    optimizer = create_optimizer(resumed, inputs.phase)
    state = load_checkpoint(path, resumed, optimizer)
    assert (state.epoch, state.step) == (1, 3)
    fit(resumed, inputs, state, optimizer)
    expected, got = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_resume_is_bit_exact(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    whole, inputs = make_inputs()
    fitted(whole, inputs)
    first, inputs = make_inputs()
    state, optimizer = FitState(), create_optimizer(first, inputs.phase)

    def checkpoint_then_die(record: Epoch) -> None:
        save_checkpoint(path, first, 0, state, optimizer)
        if record.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        fit(first, inputs, state, optimizer, on_epoch=checkpoint_then_die)
    resumed, inputs = make_inputs()
    optimizer = create_optimizer(resumed, inputs.phase)
    assert read_progress(path)[0] == 0
    state = load_checkpoint(path, resumed, optimizer)
    assert state.epoch == 2
    fit(resumed, inputs, state, optimizer)
    expected, got = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_resume_within_a_second_attempt_is_bit_exact(tmp_path: Path) -> None:
    fast = make_spec(lr=1.0, warmup=0.0)
    path = tmp_path / "last.safetensors"

    def begin() -> tuple[Classifier, FitInputs, FitState, torch.optim.Optimizer]:
        model, inputs, state = learnt(fast)
        return model, inputs, state, create_optimizer(model, inputs.phase)

    whole, inputs, state, optimizer = begin()
    fit(whole, inputs, state, optimizer)

    first, inputs, cut, optimizer = begin()

    def die(record: Epoch) -> None:
        if cut.restarts == 1 and record.epoch == 0:
            save_checkpoint(path, first, 1, cut, optimizer)
            raise Killed

    with pytest.raises(Killed):
        fit(first, inputs, cut, optimizer, on_epoch=die)
    resumed, inputs, _, optimizer = begin()
    fit(resumed, inputs, load_checkpoint(path, resumed, optimizer), optimizer)
    expected, got = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("part", ["model", "best", "start"])
@pytest.mark.parametrize("fault", ["missing", "added", "shape", "dtype"])
def test_a_checkpoint_of_other_tensors_is_refused(tmp_path: Path, part: str, fault: str) -> None:
    path = tmp_path / "last.safetensors"
    model, inputs = make_inputs()
    optimizer = create_optimizer(model, inputs.phase)
    state = fit(model, inputs, FitState(), optimizer)
    save_checkpoint(path, model, 0, state, optimizer)
    load_checkpoint(path, model, optimizer)

    header, tensors = read_tensors(path)
    (name,) = [name for name in tensors if name.startswith(part) and name.endswith("0.weight")][:1]
    tensor = tensors.pop(name)
    changed = {
        "added": {name: tensor, f"{part}.other": tensor.clone()},
        "shape": {name: tensor[:1]},
    }
    changed["dtype"] = {name: tensor.double()}
    write_tensors(path, tensors | changed.get(fault, {}), header)
    wrong = "other" if fault == "added" else name.removeprefix(f"{part}.")
    with pytest.raises(RunError, match=rf"last\.safetensors: {part}: .*{re.escape(wrong)}") as told:
        load_checkpoint(path, model, optimizer)
    assert len(str(told.value).splitlines()) == 1


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    model, inputs = make_inputs()
    optimizer = create_optimizer(model, inputs.phase)
    state = fit(model, inputs, FitState(), optimizer)
    save_checkpoint(path, model, 0, state, optimizer)
    first = torch.optim.AdamW(list(model.head.parameters())[:1])
    with pytest.raises(RunError, match=r"last\.safetensors: optimizer: \d+\.\w+ has"):
        load_checkpoint(path, model, first)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(RunError, match="not a checkpoint that can be read"):
        read_progress(path)
