"""Bundles of networks of every family answer as their runs; random weights, golden images.

Minutes, so only with $HEADSTART_TRIALS; other tests export small networks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import headstart as library
from headstart.deployment.export import export
from headstart.machine.progress import Reporter
from headstart.specs import BackboneSpec
from headstart_predict import load
from headstart_predict.bundle import read_golden
from headstart_predict.engines import installed
from tests.recipes import recipe_text, write_recipe
from tests.trials import WHOLE

NETWORKS = (
    "squeezenet1_1", "mobilenetv3_small_100", "mobilenetv2_100", "tf_efficientnet_lite0",
    "efficientnet_b0", "resnet50", "densenet121", "vgg16", "convnext_tiny",
    "deit_tiny_patch16_224", "vit_tiny_patch16_224",
)  # fmt: skip


@pytest.mark.skipif(not WHOLE, reason="takes minutes: set HEADSTART_TRIALS=1")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_bundle_of_this_network_answers_as_its_run(
    name: str, tmp_path: Path, cache: Path
) -> None:
    text = recipe_text(
        "exported",
        {"train": "from_scratch", "epochs": 1},
        backbone=BackboneSpec(name=name, weights="random"),
        more="batch_size = 8",
        train=24,
        test=10,
        size=224 if "patch16" in name else 64,
    )
    recipe = library.load_recipe(write_recipe(tmp_path, text))
    run = library.run(recipe, out=tmp_path / "run", reporter=Reporter())
    done = export(run, out=tmp_path / "bundle", reporter=Reporter())
    assert (done.parity.images, done.parity.largest < 1e-4) == (10, True)
    torch = library.load_predictor(run, device="cpu")
    for engine in installed():
        predictor = load(done.path, engine=engine)
        pixels = read_golden(predictor.bundle).pixels
        expected = torch.logits(pixels)
        assert np.abs(predictor.logits(pixels) - expected).max() < 1e-4 * np.abs(expected).max()
