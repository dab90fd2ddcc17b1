"""Fixtures of the tests of whole commands."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import headstart as library
from headstart.deployment import export as exporting
from headstart.deployment.export import export
from headstart.files import write_arrays
from headstart.rundir.run import Run
from headstart.specs import BackboneSpec
from tests.fabricating import fabricate
from tests.recipes import recipe_text, write_recipe

FINE_TUNED = ({"train": "head"}, {"train": "last_stage", "epochs": 1, "lr": 1e-3})


@pytest.fixture(scope="session", autouse=True)
def _one_onnx_registry() -> Iterator[None]:
    """torch's exporter makes its table of operations again for each export: most of a second.

    Nothing here adds an operation to it. Where torch has it elsewhere, exports are only slower.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        make = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(make)))
        yield


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


@pytest.fixture(scope="session")
def fine_tuned(
    shared_cache: Path, small_backbone: BackboneSpec, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A fine-tuned run, whose test went through cached activations; read only."""
    folder = tmp_path_factory.mktemp("exported")
    text = recipe_text(
        "exported", *FINE_TUNED, backbone=small_backbone, train=200, test=60, size=48
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        recipe = library.load_recipe(write_recipe(folder, text))
        return library.run(recipe, out=folder / "run", reporter=library.Reporter())


@pytest.fixture(scope="session")
def published(fine_tuned: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that run, checked on every test image; read only."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    done = export(fine_tuned, out=out, reporter=library.Reporter())
    assert done.parity.images == 60
    assert done.parity.largest < 1e-5
    return out


@pytest.fixture
def exported_once(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of that run take its graph as `published` has it: torch's exporter takes seconds.

    All else is done and checked as ever.
    """
    content = (published / "model.onnx").read_bytes()
    monkeypatch.setattr(exporting, "to_onnx", lambda deployed, side: content)


@pytest.fixture
def bundle(published: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(published, tmp_path / "copied"))
