"""A finished run is assessed again with more, and found again where its images have moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.assessment.assess import ASSESSMENTS, Assessment
from headstart.evaluation.predictions import Predictions
from headstart.machine.progress import Reporter
from headstart.specs import BackboneSpec
from headstart.training.journal import Journal
from headstart.training.trainer import Trained
from tests.recipes import recipe_text, write_recipe

HEAD = {"train": "head"}
pytestmark = pytest.mark.usefixtures("cache")


class Listener(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def carry_out(folder: Path, out: str | None, text: str, reporter: Reporter) -> headstart.Run:
    recipe = headstart.load_recipe(write_recipe(folder, text))
    return headstart.run(recipe, out=out and folder / out, reporter=reporter)


def metrics(run: headstart.Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.path / "metrics.json").read_text())
    return content


def test_corruptions_are_added_to_a_finished_run_without_training(
    small_backbone: BackboneSpec, tmp_path: Path
) -> None:
    text = recipe_text("probe", HEAD, backbone=small_backbone)
    run = carry_out(tmp_path, "run", text, Reporter())
    before, log = metrics(run), (run.path / "log.jsonl").read_text()
    model = (run.path / "checkpoints" / "best.safetensors").read_bytes()
    assert before["corruptions"] is None
    evaluation = {"corruptions": [5], "corrupted_images": 20}
    more = recipe_text("probe", HEAD, backbone=small_backbone, evaluation=evaluation)
    listener = Listener()
    again = carry_out(tmp_path, "run", more, listener)
    after = metrics(again)
    assert after.pop("corruptions")["n"] == 20
    assert after == {k: v for k, v in before.items() if k != "corruptions"}
    assert (run.path / "checkpoints" / "best.safetensors").read_bytes() == model
    events = (run.path / "log.jsonl").read_text().removeprefix(log).splitlines()
    assert [json.loads(line)["event"] for line in events] == ["corruptions"]
    assert again.recipe.evaluation.corruptions == (5,)
    assert "corrupted" in (again.path / "report" / "report.html").read_text().lower()
    # As if it had been asked for from the beginning.
    whole = carry_out(tmp_path, "whole", more, Reporter())
    assert metrics(whole) == metrics(again)
    # Asked for the same, or for less: what was measured stays, in the recipe too.
    for asked in (more, text):
        carry_out(tmp_path, "run", asked, listener)
        assert "nothing to repeat" in listener.lines[-1]
    assert metrics(again) == metrics(whole)
    assert headstart.open_run(run.path).recipe.evaluation.corruptions == (5,)


def test_a_new_assessment_touches_one_file(
    small_backbone: BackboneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it takes is here: what it is called, when it is asked for, what it measures."""

    def surest(trained: Trained, test: Predictions, journal: Journal) -> dict[str, Any]:
        return {"confidence": float(test.confidence.max()), "of": len(trained.plan.splits.test)}

    added = Assessment("surest", lambda evaluation: True, surest)
    monkeypatch.setattr("headstart.assessment.assess.ASSESSMENTS", [*ASSESSMENTS, added])
    run = carry_out(
        tmp_path, "run", recipe_text("probe", HEAD, backbone=small_backbone), Reporter()
    )
    found = metrics(run)["further"]["surest"]
    assert found["of"] == 40 and 0 < found["confidence"] <= 1
    assert "surest" in (run.path / "report" / "report.html").read_text()


def photos(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_that_has_moved_is_the_same_run_and_other_images_are_another(
    small_backbone: BackboneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = photos(tmp_path / "photos")

    def text(place: Path) -> str:
        data = {"source": f"folder:{place}"}
        return recipe_text("p", HEAD, backbone=small_backbone, train=None, test=None, data=data)

    first = carry_out(tmp_path, None, text(folder), Reporter())
    moved = folder.rename(tmp_path / "elsewhere")
    listener = Listener()
    again = carry_out(tmp_path, None, text(moved), listener)
    assert again.path == first.path and "nothing to repeat" in listener.lines[-1]
    (moved / "cat" / "0.png").unlink()
    other = carry_out(tmp_path, None, text(moved), Reporter())
    assert other.path != first.path
