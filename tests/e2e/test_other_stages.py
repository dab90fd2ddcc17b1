"""A network whose steps are not its forward pass is taken in two, with a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import headstart as library
from headstart.models import backbones, stages
from headstart.models.stages import Stage, split_stages
from headstart.recipe import load_recipe
from headstart.specs import BackboneSpec
from tests.conftest import SMALL
from tests.recipes import recipe_text, write_recipe


def test_a_class_with_its_own_forward_pass_is_taken_in_two() -> None:
    model = timm.create_model(SMALL, num_classes=0).eval()

    class Doubled(type(model)):  # type: ignore[misc]  # timm is untyped
        def forward_features(self, x: torch.Tensor) -> Any:
            return 2 * super().forward_features(x)

    assert len(split_stages(model)) > 2
    model.__class__ = Doubled
    assert [stage.name for stage in split_stages(model)] == ["features", "pool"]


def test_steps_that_do_not_add_up_are_seen_when_weights_are_loaded(
    cache: Path, tmp_path: Path, small_backbone: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = stages._split_efficientnet

    def without_a_block(model: torch.nn.Module) -> Iterator[Stage]:
        yield from (stage for stage in split(model) if stage.name != "conv_head")

    monkeypatch.setattr(backbones, "_IN_TWO", set())
    # What plans share: made with other stages here.
    monkeypatch.setattr(backbones, "_meta_backbone", backbones._meta_backbone.__wrapped__)
    monkeypatch.setitem(stages._SPLITS, "EfficientNet", without_a_block)
    warned: list[str] = []

    class Listener(library.Reporter):
        def warn(self, line: str) -> None:
            warned.append(line)

    text = recipe_text("tiny", {"train": "head"}, backbone=small_backbone)
    recipe = load_recipe(write_recipe(tmp_path, text))
    run = library.run(recipe, out=tmp_path / "run", reporter=Listener())
    assert run.finished
    assert [line for line in warned if "taken in two, features and pooling" in line]
    assert run.history.begun[0].boundary == "pool" or run.history.begun[0].cached
    pictures = run.predictions("test")
    # In a process that has not seen it yet, the predictor answers alike.
    monkeypatch.setattr(backbones, "_IN_TWO", set())
    predictor = library.load_predictor(run, device="cpu")
    images = library.load_data(recipe.data).test
    logits = predictor.logits(images.read(range(8)))
    assert torch.allclose(
        torch.from_numpy(logits), torch.from_numpy(pictures.logits[:8]), atol=2e-2
    )
