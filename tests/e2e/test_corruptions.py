"""Runs that are also measured on corrupted test images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import headstart as library
from headstart.evaluation.predictions import Predictions
from headstart.features.room import list_cache
from headstart.files import to_json
from headstart.rundir.run import Run
from headstart.specs import BackboneSpec
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe

Command = Callable[..., Outcome]

MEASURED = {"corruptions": [1, 5], "corrupted_images": 60}
SCRATCH = recipe_text("scratch", test=50, evaluation={"corruptions": [3]})


def carry_out(text: str, folder: Path) -> Run:
    return library.run(library.load_recipe(write_recipe(folder, text)), out=folder / "run")


def corrupted(run: Run) -> dict[str, np.ndarray]:
    with np.load(run.path / "predictions" / "corrupted.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_cached_run_is_measured_on_corrupted_images(
    real_weights: str, cache: Path, tmp_path: Path
) -> None:
    fetched = BackboneSpec(name=real_weights, weights="registry")
    sizes = {"train": 500, "test": 100, "size": 64}
    text = recipe_text("probe", {"train": "head"}, backbone=fetched, evaluation=MEASURED, **sizes)
    run = carry_out(text, tmp_path)
    scores, saved = to_json(run.metrics.corruptions), corrupted(run)
    assert (scores["n"], scores["side"], len(scores["corruptions"])) == (60, 32, 10)
    assert saved["logits"].shape == (10, 60, 10) and saved["logits"].dtype == np.float32
    test = run.predictions("test")
    rows = np.flatnonzero(np.isin(test.ids, saved["ids"]))
    np.testing.assert_array_equal(test.ids[rows], saved["ids"])
    assert np.bincount(saved["labels"]).tolist() == [6] * 10
    assert scores["accuracy"] == pytest.approx(test.correct[rows].mean())
    for i, row in enumerate(scores["corruptions"]):
        assert (row["name"], row["severity"]) == (saved["names"][i], saved["severities"][i])
        again = Predictions(saved["ids"], saved["labels"], saved["logits"][i])
        assert row["accuracy"] == pytest.approx(again.correct.mean())
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    by = {(row["name"], row["severity"]): row["accuracy"] for row in scores["corruptions"]}
    assert scores["mean"] == pytest.approx(np.mean(list(by.values())))
    assert by["contrast", 5] < by["contrast", 1] <= scores["accuracy"] + 0.1
    # The mildest corruption changes the logits a little, each corruption in its own way.
    assert not np.array_equal(saved["logits"][0], test.logits[rows])
    assert np.corrcoef(saved["logits"][6].ravel(), test.logits[rows].ravel())[0, 1] > 0.9
    # Train, validation and test are cached; of the corrupted images nothing stays.
    assert len(list_cache()) == 3


def test_an_uncached_run_is_measured_alike(cache: Path, tmp_path: Path) -> None:
    run = carry_out(SCRATCH, tmp_path)
    assert run.metrics.corruptions.n == 50
    assert corrupted(run)["logits"].shape == (5, 50, 10)


def test_the_cache_changes_no_answer(
    small_backbone: BackboneSpec, cache: Path, tmp_path: Path
) -> None:
    """A head trained on pixels meets the corrupted images that a cached one meets."""
    logits = []
    for views in (1, 0):
        head = {"train": "head", "epochs": 1, "lr": 1e-3, "views": views}
        text = recipe_text("probe", head, backbone=small_backbone, test=60, evaluation=MEASURED)
        (tmp_path / str(views)).mkdir()
        logits.append(corrupted(carry_out(text, tmp_path / str(views)))["logits"])
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_without_corruptions_in_the_recipe_nothing_is_corrupted(
    cache: Path, tmp_path: Path
) -> None:
    plain = recipe_text("scratch", test=50)
    run = carry_out(plain, tmp_path)
    assert run.metrics.corruptions is None
    assert not (run.path / "predictions" / "corrupted.npz").exists()
    without = to_json(run.metrics.test.without_duplicates)
    assert without["n"] + without["left_out"] == 50
    assert without["source"].endswith("duplicates_cifar10.csv")


@pytest.mark.parametrize(
    ("value", "message"),
    [("[6]", "less than or equal to 5"), ("[1, 1]", "names a severity twice")],
)
def test_a_wrong_severity_is_one_line(
    headstart: Command, tmp_path: Path, value: str, message: str
) -> None:
    recipe = write_recipe(tmp_path, SCRATCH)
    done = headstart("run", recipe, "--set", f"evaluation.corruptions={value}")
    assert done.code == 2
    assert message in done.err and len(done.err.strip().splitlines()) == 1
