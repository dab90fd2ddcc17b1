"""What is wrong with a folder's images is said by run, compare and check, and kept with the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.data.check import duplicates
from headstart.files import to_json
from headstart.rundir.run import open_run
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe
from tests.unit.test_split_duplicates import folder_of, scene, shot_again

Command = Callable[..., Outcome]


@pytest.fixture
def study(tmp_path: Path, cache: Path) -> Path:
    """Two seeds on photos of which 2 of 8 test images are in train, one as another shot."""
    images = {
        f"{split}/{name}/{i}.jpg": scene(100 * k + i)
        for k, (split, name) in enumerate((s, n) for s in ("train", "test") for n in "ab")
        for i in range({"train": 10, "test": 4}[split])
    }
    images["test/a/0.jpg"] = shot_again(images["train/a/5.jpg"])
    images["test/b/1.jpg"] = images["train/b/2.jpg"]
    source = folder_of(tmp_path / "photos", images)
    (tmp_path / "photos/train/a/text.jpg").write_text("not a picture")
    two = {"train": None, "test": None, "data": {"source": source}, "grid": {"seed": [0, 1]}}
    return write_recipe(tmp_path, recipe_text("leaky", **two))


def test_a_folders_faults_travel(study: Path, tmp_path: Path, headstart: Command) -> None:
    expected = "2 of 8 test images (25.0 %) have a duplicate in train or validation"
    outcome = headstart("compare", study, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count(expected) == 1  # though two runs have met it
    assert outcome.out.count(f"warning: {expected}") == 1
    assert outcome.out.count("warning: left out train/a/text.jpg") == 1
    runs = sorted(path.parent for path in (tmp_path / "out").glob("*/manifest.json"))
    assert len(runs) == 2
    run = open_run(runs[0])
    assert any(line.startswith(expected) for line in run.warnings)
    without = to_json(run.metrics.test.without_duplicates)
    assert (without["n"], without["left_out"]) == (6, 2)
    right = run.predictions("test")
    kept = [name not in ("test/a/0.jpg", "test/b/1.jpg") for name in right.ids.tolist()]
    assert without["accuracy"] == pytest.approx(right.correct[kept].mean())
    for page in (runs[0] / "report" / "report.html", tmp_path / "out" / "report.html"):
        text = page.read_text(encoding="utf-8")
        assert text.count(expected) == 1 and text.index(expected) < text.index('id="leaderboard"')
    again = headstart("compare", study, "--out", tmp_path / "out", "--json")
    shown = json.loads(again.out)
    assert any(line.startswith(expected) for line in shown["warnings"])
    assert shown["runs"][0]["warnings"] == run.warnings


def test_the_score_that_a_warning_names_is_there_without_a_search(
    study: Path, tmp_path: Path, headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "MOST_IMAGES", 20)
    outcome = headstart("compare", study, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "1 of 8 test images (12.5 %)" in outcome.err
    assert "test.without_duplicates in metrics.json is without them" in outcome.err
    path = next((tmp_path / "out").glob("*/manifest.json")).parent
    without = to_json(open_run(path).metrics.test.without_duplicates)
    assert (without["n"], without["left_out"]) == (7, 1)


def test_a_check_tells_them_before_anything_is_trained(study: Path, headstart: Command) -> None:
    outcome = headstart("check", study)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("warning: 2 of 8 test images (25.0 %)") == 1
    shown = json.loads(headstart("check", study, "--json").out)
    assert [sum("2 of 8" in line for line in each["data"]["warnings"]) for each in shown] == [1, 1]
