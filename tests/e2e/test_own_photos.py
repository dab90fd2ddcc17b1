"""Photos of a user's own: a table, names, groups, and a test that lacks a class; whole commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.rundir.run import open_run
from headstart.specs import BackboneSpec
from tests.conftest import Outcome
from tests.photos import fill, real_pixels

Command = Callable[..., Outcome]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """32 airplanes, 000 to 031, and 32 cats, in one folder; four in a row are a scene."""
    fill(tmp_path / "photos" / "all", real_pixels())
    return tmp_path / "photos"


def write(path: Path, split: Callable[[int], str]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Filename", "Class", "Split", "Group"])
        for i in range(64):
            name = "airplane" if i < 32 else "cat"
            rows.writerow([f"all/{i:03}.png", name, split(i), f"scene {i // 4}"])
        rows.writerow(["all/gone.png", "cat", split(63), "scene 15"])
    return path


def run(headstart: Command, out: Path, backbone: BackboneSpec, *settings: str) -> Outcome:
    words = [f"backbone.name={backbone.name}", f"backbone.weights={backbone.weights}", *settings]
    given = [word for setting in words for word in ("--set", setting)]
    return headstart("run", "folder-probe", "--out", out, *given, "--set", "data.size=64")


@pytest.mark.usefixtures("cache")
def test_a_manifest_with_groups_becomes_a_model(
    photos: Path, tmp_path: Path, small_backbone: BackboneSpec, headstart: Command
) -> None:
    table = write(photos / "labels.csv", lambda i: "")
    text = table.read_text().replace(",Split", ",Kind")
    table.write_text(text)
    source = f"data.source=manifest:{table}"
    outcome = run(headstart, tmp_path / "run", small_backbone, source, "data.group=auto")
    assert outcome.code == 0, outcome.err
    made = open_run(tmp_path / "run")
    assert made.class_names == ["airplane", "cat"]
    assert "left out all/gone.png: No such file or directory" in outcome.err
    assert "kept together by the column group: 16 groups of 64 images" in outcome.err
    scenes = {}
    for split in ("val", "test"):
        ids = np.load(tmp_path / "run" / "predictions" / f"{split}.npz")["ids"].tolist()
        scenes[split] = {int(name[4:7]) // 4 for name in ids}
        assert len(ids) == 4 * len(scenes[split])
    assert not scenes["val"] & scenes["test"]
    again = headstart("predict", tmp_path / "run", photos / "all" / "000.png", "--json")
    assert json.loads(again.out)


@pytest.mark.usefixtures("cache")
def test_a_test_that_lacks_a_class_is_scored_and_reported(
    photos: Path, tmp_path: Path, small_backbone: BackboneSpec, headstart: Command
) -> None:
    table = write(photos / "labels.csv", lambda i: "test" if 8 <= i < 20 else "train")
    source = f"data.source=manifest:{table}"
    outcome = run(headstart, tmp_path / "run", small_backbone, source)
    assert outcome.code == 0, outcome.err
    assert "test has no image of cat: its scores say nothing about that" in outcome.err
    scores = open_run(tmp_path / "run").metrics.test
    assert [each.n for each in scores.per_class] == [12, 0]
    assert scores.macro_recall == scores.per_class[0].recall == pytest.approx(scores.accuracy)
    assert scores.two_classes is None
    report = headstart(
        "report", tmp_path / "run", "--format", "md", "--out", tmp_path / "report.md"
    )
    assert report.code == 0, report.err
    exported = headstart("export", tmp_path / "run", "--out", tmp_path / "bundle")
    assert exported.code == 0, exported.err
