"""headstart fit: from a folder of photos to a bundle that answers, with real weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as library
from headstart.data.sources.mini import open_mini
from headstart.machine.progress import Reporter
from headstart.photos import source_of
from headstart.recipe import load_recipe, load_study
from headstart_predict import load
from headstart_predict.cards import percent
from tests.conftest import Outcome

CLASSES = ("airplane", "frog", "ship")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Some wide photos in each of three classes, as somebody's folder. What they show is at an end,
    beside noise."""
    source, folder = open_mini(), tmp_path / "my photos"
    noise = np.random.default_rng(0)
    for name in CLASSES:
        rows = np.flatnonzero(source.train.labels == source.class_names.index(name))[:26]
        (folder / name).mkdir(parents=True)
        for row, pixels in zip(rows, source.train.read(rows), strict=True):
            wide = noise.integers(100, 130, (64, 192, 3), np.uint8)
            left = 0 if row % 2 else 128
            wide[:, left : left + 64] = Image.fromarray(pixels).resize((64, 64))
            Image.fromarray(wide).save(folder / name / f"{row}.png")
    return folder


def test_a_folder_becomes_a_bundle_that_answers(
    photos: Path,
    tmp_path: Path,
    cache: Path,
    real_weights: str,
    headstart: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headstart.photos.OFFERED", (real_weights, "vgg16"))  # dear, and left out
    monkeypatch.setattr("headstart.selection.drafting.MOST_EPOCHS", 2)
    arguments = ("fit", photos, "--minutes", "60", "--out", tmp_path / "fitted", "--json")
    outcome = headstart(*arguments)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert set(found["runs"]) == {f"{real_weights}-probe", f"{real_weights}-tuned-2-epochs"}
    assert found["test"]["n"] == 15
    assert found["test"]["accuracy"] > 0.8
    assert found["test"]["interval"][0] < found["test"]["accuracy"]
    assert "vgg16" in found["not_tried"][0]
    predictor = load(found["bundle"])
    assert predictor.class_names == CLASSES
    answers = predictor.predict(sorted((photos / "frog").iterdir()))
    assert np.mean([answer.label == "frog" for answer in answers]) > 0.8
    # The centre square would have cut off what the photos show.
    chosen = found["framing"]["chosen"]
    assert chosen in ("pad", "squash") and f"framing {chosen}" in outcome.err
    assert found["framing"]["scores"]["crop"] < 0.6
    assert load_recipe(found["recipe"]).data.framing == predictor.framing == chosen
    assert "held-out training images" in Path(found["report"]).read_text()
    assert not [line for line in found["warnings"] if "centre square" in line]
    # What it wrote says all that it did: the recipe is the run's, and the study has every run.
    assert load_recipe(found["recipe"]).name == Path(found["run"]).name
    assert {r.name for r in load_study(found["study"]).recipes()} == set(found["runs"])
    assert Path(found["report"]).is_file()

    again = headstart(*arguments[:-1])
    assert "nothing to repeat" in again.err
    assert f"test           accuracy {percent(found['test']['accuracy'])}" in again.out
    assert f"framing        {chosen}: the centre square cuts off 67%" in again.out
    report = tmp_path / "again.html"
    assert headstart("report", tmp_path / "fitted", "--out", report).code == 0
    assert "held-out training images" in report.read_text()


def test_what_a_user_may_type_wrongly_is_one_line(
    photos: Path, tmp_path: Path, cache: Path, headstart: Callable[..., Outcome]
) -> None:
    for arguments, said in (
        ((tmp_path / "nowhere",), "no such folder"),
        ((photos / "frog",), "no class folders"),
        ((photos, "--preset", "slow"), "slow"),
        ((photos, "--minutes", "-1"), "minutes"),
        ((photos, "--group", "burst"), "--group"),
        ((photos, "--label-from", "(.+)_"), "--label-from"),
        ((tmp_path / "photos.csv",), "photos.csv"),
    ):
        outcome = headstart("fit", *arguments)
        assert outcome.code == 2
        assert said in outcome.err
        assert len(outcome.err.strip().splitlines()) <= 2


def test_what_is_fitted_may_be_a_folder_a_table_or_a_data_set() -> None:
    assert source_of("photos") == "folder:photos"
    assert source_of(Path("photos/table.CSV")) == "manifest:photos/table.CSV"
    assert source_of("cifar10-mini") == "cifar10-mini"
    assert source_of("folder:x.csv") == "folder:x.csv"


def test_python_says_that_there_is_no_such_preset(photos: Path, cache: Path) -> None:
    with pytest.raises(library.HeadstartError, match="did you mean quick"):
        library.fit(photos, preset="quik", reporter=Reporter())
