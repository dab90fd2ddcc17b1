"""Features are taken from the pass that predicts, of the rows that were asked for."""

from __future__ import annotations

import numpy as np
import torch

from headstart.assessment.penultimate import penultimate
from headstart.data.sources.mini import open_mini
from headstart.features.feeds import PixelFeed
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import create_backbone
from headstart.models.classifier import Classifier
from headstart.models.heads import create_head
from headstart.specs import BackboneSpec, HeadSpec
from headstart.training.loop import predict
from headstart.views.transforms import Transform


def test_features_are_what_the_heads_last_layer_is_given() -> None:
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSpec(name="small_cnn", weights="random"), size=32)
    head = create_head(HeadSpec(hidden=(16,), dropout=0.5), num_features=128, num_classes=10)
    model = Classifier(backbone, head)
    model.enter(0, 0)
    images = open_mini().test.pick(np.arange(300))  # two batches
    transform = Transform(backbone.preprocess)
    feed = PixelFeed(images, transform, create_runtime("cpu"))
    rows = np.array([299, 0, 255, 256, 31])
    with penultimate(model, rows) as features:
        found = predict(model, feed, images.ids, create_runtime("cpu"))
    assert np.array_equal(features.rows, np.sort(rows))
    assert features.array.shape == (5, 16)
    last = head[-1]
    with torch.inference_mode():
        logits = last(torch.from_numpy(features.array)).numpy()
    assert np.allclose(logits, found.logits[features.rows], atol=1e-5)
    before = features.array
    predict(model, feed, images.ids, create_runtime("cpu"))
    assert np.array_equal(features.array, before)  # nothing is taken once the block is left
