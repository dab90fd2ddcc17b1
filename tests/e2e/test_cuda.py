"""On a CUDA device: fine-tuning, compiled phases, kills and frozen passes, beside the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headstart as library
from headstart.data import load_data
from headstart.features.engines import Engine, compile_prefix
from headstart.machine.runtime import create_runtime
from headstart.models import classifier
from headstart.models.backbones import create_backbone
from headstart.models.freezing import plan_phase
from headstart.models.stages import run_stages
from headstart.specs import BackboneSpec, DataSpec, PhaseSpec
from headstart.training import fitting, loop
from headstart.views.transforms import Transform
from tests.fits import Killed
from tests.recipes import recipe_text, write_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("cache"),
]
WHOLE = {"train": "all", "epochs": 2, "lr": 1e-3, "optimizer": "adamw", "schedule": "constant"}


@pytest.fixture
def train(small_backbone: BackboneSpec, tmp_path: Path) -> Any:
    """train(name, device, *overrides): probabilities of the test images after all phases."""
    text = recipe_text("whole", WHOLE, backbone=small_backbone, train=500, test=200, size=64)
    recipe = write_recipe(tmp_path, text)

    def finished(name: str, device: str, *overrides: str) -> np.ndarray:
        run = library.run(
            library.load_recipe(recipe, overrides), out=tmp_path / name, device=device
        )
        assert run.finished
        return run.predictions("test").probabilities

    return finished


def test_float32_training_follows_the_cpu(train: Any) -> None:
    here = train("cpu", "cpu", "precision=float32")
    there = train("cuda", "cuda", "precision=float32")
    assert (here.argmax(1) == there.argmax(1)).mean() > 0.95
    assert np.abs(here - there).mean() < 0.01


def test_bfloat16_is_the_default_there_and_learns_as_float32_does(train: Any) -> None:
    exact, fast = train("exact", "cuda", "precision=float32"), train("fast", "cuda")
    assert np.abs(exact - fast).mean() < 0.03


def test_a_compiled_phase_learns_as_a_plain_one_does(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train("plain", "cuda", "precision=float32")
    compiled: list[object] = []
    original = torch.compile

    def noted(*arguments: Any, **options: Any) -> Any:
        compiled.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "compile", noted)
    monkeypatch.setattr(classifier, "COMPILE_STEPS", 0)
    fused = train("compiled", "cuda", "precision=float32")
    assert compiled
    assert np.abs(plain - fused).mean() < 0.02


def test_a_killed_run_goes_on_there(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("whole", "cuda", "precision=float32")
    original = fitting.save_checkpoint

    def saved(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_S", 0.0)
        patch.setattr(fitting, "save_checkpoint", saved)
        with pytest.raises(Killed):
            train("again", "cuda", "precision=float32")
    again = train("again", "cuda", "precision=float32")
    assert np.abs(whole - again).mean() < 0.01


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_frozen_rows_are_those_of_the_cpu(
    small_backbone: BackboneSpec, precision: str, tolerance: float
) -> None:
    runtime = create_runtime("cuda", precision=precision)
    backbone = create_backbone(small_backbone, size=64)
    top = plan_phase(backbone, PhaseSpec(train="head")).boundary
    images = load_data(DataSpec(source="cifar10-mini")).test
    pixels = torch.from_numpy(images.read(np.arange(100)))
    transform = Transform(backbone.preprocess)
    with torch.no_grad():
        inputs = transform(pixels, images.keys[:100])
        here = run_stages(backbone.stages(), inputs).numpy()
    inputs = transform(runtime.place(pixels), images.keys[:100])
    prefix = compile_prefix(backbone, top, 64, runtime, engine=Engine("torch", 32))
    there = np.concatenate(list(prefix.run(inputs.split(32))))
    error = np.linalg.norm(there - here) / np.linalg.norm(here)
    assert error < tolerance
