"""Fixtures of the tests of whole commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headstart.files import write_arrays
from tests.fabricating import fabricate


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every file, whose model can answer; read only."""
    from headstart.models.backbones import Backbone, build_architecture
    from headstart.models.classifier import Classifier
    from headstart.models.heads import create_head
    from headstart.models.tensor_files import write_tensors

    run = fabricate(
        tmp_path_factory.mktemp("damaged") / "whole",
        name="whole",
        n=60,
        tuned=False,
        settings={"backbone": {"name": "small_cnn", "weights": "random"}},
    )
    architecture = build_architecture("small_cnn", size=128)
    head = create_head(run.recipe.head, num_features=architecture.num_features, num_classes=10)

    made = run.provenance
    model = Classifier(Backbone(architecture, made.weights, made.preprocess), head)
    model.enter(0, 0)
    write_tensors(run.path / "checkpoints" / "best.safetensors", model.state_dict(), {})
    answers = run.predictions("test")
    write_arrays(
        run.path / "feature_map.npz",
        {
            "ids": answers.ids,
            "labels": answers.labels,
            "predicted": answers.predicted,
            "xy": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32),
            "method": np.array("PCA"),
        },
    )
    section = {"name": "set-up", "seconds": 1.0, "share": 1.0, "entries": 1}
    profile = {"total_s": 1.0, "sections": [section]}
    (run.path / "profile.json").write_text(json.dumps(profile))
    return run.path
