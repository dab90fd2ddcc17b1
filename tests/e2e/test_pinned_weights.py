"""A study whose recipes leave the source of their weights open takes one source for all runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart import studies
from headstart.machine.progress import Reporter
from headstart.models import weights
from headstart.models.identity import Preprocess, Weights, WeightsIdentity
from headstart.recipe import load_study
from headstart.specs import BackboneSpec
from tests.conftest import SMALL
from tests.recipes import recipe_text, write_recipe

HALF = (0.5, 0.5, 0.5)


@pytest.mark.usefixtures("cache")
def test_the_first_run_of_a_study_decides_where_weights_come_from(
    tmp_path: Path, small_backbone: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two runs the hub comes into reach: `auto` alone would then take other weights."""
    asked = []

    def found(provider: str) -> Weights:
        asked.append(provider)
        path = Path(small_backbone.weights.removeprefix("file:"))
        identity = WeightsIdentity(provider, SMALL, "", provider[0] * 64, "none", provider)
        return Weights(identity, Preprocess(32, HALF, HALF, "bilinear"), path)

    monkeypatch.setattr(weights, "_from_registry", lambda *_: found("registry"))
    monkeypatch.setattr(weights, "_choose", lambda *_: found("hub" if asked else "registry"))
    open_source = BackboneSpec(name=SMALL, weights="auto")
    text = recipe_text("pinned", {"train": "head"}, backbone=open_source, train=60, test=20)
    study = load_study(write_recipe(tmp_path, text + "[grid]\nseed = [0, 1]\n"))
    for _ in range(2):  # once more from the start: the same weights, nothing to repeat
        result = studies.compare(study, out=tmp_path / "out", measure=False, reporter=Reporter())
        assert all(row.accuracy is not None for row in result.rows)
    assert set(asked) == {"registry"}
    saved = [path.read_text() for path in (tmp_path / "out").glob("*/recipe.toml")]
    assert len(saved) == 2
    assert all('weights = "registry"' in text for text in saved)
