"""What a run leaves to be looked at belongs to its predictions, and never ends a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart.assessment.pictures
from headstart import load_recipe, run
from headstart.rundir.run import Run
from tests.recipes import recipe_text, write_recipe

SCRATCH = {"train": "from_scratch", "epochs": 1, "lr": 3e-3}


def carry_out(folder: Path) -> Run:
    text = recipe_text("seen", SCRATCH, train=200, test=None, more="batch_size = 32")
    return run(load_recipe(write_recipe(folder, text)), out=folder / "run", device="cpu")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("seen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        patch.setattr(headstart.assessment.pictures, "MAPPED", 200)  # of 500
        return carry_out(folder)


@pytest.mark.parametrize("kind", ["prediction", "mistake", "uncertain", "pair", "saliency"])
def test_every_picture_says_what_the_model_said(seen: Run, kind: str) -> None:
    pictures, test = seen.pictures, seen.predictions("test")
    images = pictures[f"{kind}_images"]
    rows = [list(test.ids).index(name) for name in pictures[f"{kind}_ids"]]
    assert len(images) == len(rows) > 0
    assert images.dtype == np.uint8
    assert images.shape[1:] == ((96, 96, 3) if kind == "saliency" else (32, 32, 3))
    assert np.array_equal(pictures[f"{kind}_labels"], test.labels[rows])
    assert np.array_equal(pictures[f"{kind}_predicted"], test.predicted[rows])
    sure = test.tempered(seen.metrics.temperature).confidence[rows]
    assert pictures[f"{kind}_confidence"] == pytest.approx(sure, abs=1e-6)


def test_heat_is_shown_over_right_answers_and_over_sure_mistakes(seen: Run) -> None:
    pictures = seen.pictures
    right = pictures["saliency_labels"] == pictures["saliency_predicted"]
    assert right.tolist() == [True] * 8 + [False] * 8
    assert set(pictures["saliency_ids"][8:]) <= set(pictures["mistake_ids"])
    assert str(pictures["saliency_method"]) == "Grad-CAM after features.block3, 4 × 4 places"
    plain = pictures["saliency_plain"]
    assert plain.shape == pictures["saliency_images"].shape
    # Enlarged pixel by pixel, so that it stays crisp.
    assert np.array_equal(plain[:, ::3, ::3].repeat(3, axis=1).repeat(3, axis=2), plain)
    same = list(pictures["mistake_ids"]).index(pictures["saliency_ids"][8])
    assert np.array_equal(plain[8, ::3, ::3], pictures["mistake_images"][same])
    assert (plain != pictures["saliency_images"]).mean() > 0.5


def test_the_map_is_of_the_test_images(seen: Run) -> None:
    mapped, test = seen.feature_map, seen.predictions("test")
    rows = [list(test.ids).index(name) for name in mapped["ids"]]
    assert np.array_equal(mapped["labels"], test.labels[rows])
    assert np.array_equal(mapped["predicted"], test.predicted[rows])
    assert mapped["xy"].shape == (len(rows), 2)
    assert mapped["xy"].dtype == np.float32
    assert Counter(mapped["labels"].tolist()) == dict.fromkeys(range(10), 20)
    assert "t-SNE" in str(mapped["method"])
    # Neighbours in the map get the same answer more often than chance: the rows were not mixed up.
    distance = np.linalg.norm(mapped["xy"][:, None] - mapped["xy"][None], axis=2)
    np.fill_diagonal(distance, np.inf)
    agreeing = (mapped["predicted"][distance.argmin(axis=1)] == mapped["predicted"]).mean()
    chance = sum((np.bincount(mapped["predicted"]) / len(rows)) ** 2)
    assert agreeing > chance + 0.2


def test_a_run_without_heat_goes_on_and_says_why(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("target score is not connected")

    monkeypatch.setattr(headstart.assessment.pictures, "heat", fail)
    finished = carry_out(tmp_path)
    assert finished.finished
    assert finished.warnings == ["no heat maps: RuntimeError: target score is not connected"]
    assert not any(name.startswith("saliency") for name in finished.pictures)
    assert len(finished.pictures["mistake_images"]) > 0
    assert len(finished.feature_map["xy"]) > 0
