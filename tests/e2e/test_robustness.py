"""Runs that are also measured on damaged images, and data that is searched for duplicates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as library
from headstart.data import load_data
from headstart.data.sources.mini import open_mini
from headstart.evaluation.predictions import Predictions
from headstart.features.room import list_cache
from headstart.files import to_json
from headstart.rundir.run import Run
from headstart.specs import BackboneSpec, DataSpec
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe

Command = Callable[..., Outcome]

DAMAGED = {"corruptions": [1, 5], "corrupted_images": 60}
SCRATCH = recipe_text("scratch", test=50, evaluation={"corruptions": [3]})


def carry_out(text: str, folder: Path) -> Run:
    return library.run(library.load_recipe(write_recipe(folder, text)), out=folder / "run")


def corrupted(run: Run) -> dict[str, np.ndarray]:
    with np.load(run.path / "predictions" / "corrupted.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_cached_run_is_measured_on_damaged_images(
    real_weights: str, cache: Path, tmp_path: Path
) -> None:
    fetched = BackboneSpec(name=real_weights, weights="registry")
    sizes = {"train": 500, "test": 100, "size": 64}
    text = recipe_text("probe", {"train": "head"}, backbone=fetched, evaluation=DAMAGED, **sizes)
    run = carry_out(text, tmp_path)
    found, saved = to_json(run.metrics.corruptions), corrupted(run)
    assert (found["n"], found["side"], len(found["corruptions"])) == (60, 32, 10)
    assert saved["logits"].shape == (10, 60, 10) and saved["logits"].dtype == np.float32
    test = run.predictions("test")
    rows = np.flatnonzero(np.isin(test.ids, saved["ids"]))
    np.testing.assert_array_equal(test.ids[rows], saved["ids"])
    assert np.bincount(saved["labels"]).tolist() == [6] * 10
    assert found["accuracy"] == pytest.approx(test.correct[rows].mean())
    for i, row in enumerate(found["corruptions"]):
        assert (row["name"], row["severity"]) == (saved["names"][i], saved["severities"][i])
        again = Predictions(saved["ids"], saved["labels"], saved["logits"][i])
        assert row["accuracy"] == pytest.approx(again.correct.mean())
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    by = {(row["name"], row["severity"]): row["accuracy"] for row in found["corruptions"]}
    assert found["mean"] == pytest.approx(np.mean(list(by.values())))
    assert by["contrast", 5] < by["contrast", 1] <= found["accuracy"] + 0.1
    # The mildest damage moves the logits a little, and each damage in its own way.
    assert not np.array_equal(saved["logits"][0], test.logits[rows])
    assert np.corrcoef(saved["logits"][6].ravel(), test.logits[rows].ravel())[0, 1] > 0.9
    # Train, validation and test are cached; of the damaged images nothing stays.
    assert len(list_cache()) == 3


def test_an_uncached_run_is_measured_alike(cache: Path, tmp_path: Path) -> None:
    run = carry_out(SCRATCH, tmp_path)
    assert run.metrics.corruptions.n == 50
    assert corrupted(run)["logits"].shape == (5, 50, 10)


def test_the_cache_changes_no_answer(
    small_backbone: BackboneSpec, cache: Path, tmp_path: Path
) -> None:
    """A head trained on pixels meets the damaged images that a cached one meets."""
    logits = []
    for views in (1, 0):
        head = {"train": "head", "epochs": 1, "lr": 1e-3, "views": views}
        text = recipe_text("probe", head, backbone=small_backbone, test=60, evaluation=DAMAGED)
        (tmp_path / str(views)).mkdir()
        logits.append(corrupted(carry_out(text, tmp_path / str(views)))["logits"])
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_without_a_recipes_word_nothing_is_damaged(cache: Path, tmp_path: Path) -> None:
    plain = recipe_text("scratch", test=50)
    run = carry_out(plain, tmp_path)
    assert run.metrics.corruptions is None
    assert not (run.path / "predictions" / "corrupted.npz").exists()
    told = to_json(run.metrics.test.without_duplicates)
    assert told["n"] + told["left_out"] == 50
    assert told["source"].endswith("duplicates_cifar10.csv")


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


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """A folder of real images whose test split holds five copies of train images."""
    source = open_mini()
    root = tmp_path / "photos"
    for label, name in enumerate(("airplane", "automobile")):
        pixels = source.train.read(np.flatnonzero(source.train.labels == label)[:30])
        for split, rows in (("train", range(20)), ("val", range(20, 25)), ("test", range(25, 30))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in rows:
                Image.fromarray(pixels[i]).resize((128, 128)).save(folder / f"{i}.png")
    train, test = root / "train" / "automobile", root / "test" / "automobile"
    for number in (0, 1):
        (test / f"copy{number}.png").write_bytes((train / f"{number}.png").read_bytes())
    for number in (2, 3, 4):
        with Image.open(train / f"{number}.png") as image:
            turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turned.point(lambda level: level * 0.8 + 20).save(test / f"turned{number}.png")
    return root


def test_a_leaking_folder_is_told(headstart: Command, leaking: Path, tmp_path: Path) -> None:
    done = headstart("data", "duplicates", f"folder:{leaking}", "--json")
    assert done.code == 0, done.err
    told = {entry["splits"]: entry for entry in json.loads(done.out)["between"]}
    between = told["test/train"]
    pairs = {
        (Path(p["first"]).stem, Path(p["second"]).stem): (p["kind"], p["mirrored"])
        for p in between["pairs"]
    }
    assert pairs == {
        ("copy0", "0"): ("exact", False),
        ("copy1", "1"): ("exact", False),
        ("turned2", "2"): ("near", True),
        ("turned3", "3"): ("near", True),
        ("turned4", "4"): ("near", True),
    }
    assert between["images"] == 5 and told["val/train"]["images"] == 0
    text = headstart("data", "duplicates", f"folder:{leaking}", "--out", tmp_path / "pairs.png")
    assert "5 of 15 test images have a duplicate in train, such as test/automobile/copy" in text.out
    with Image.open(tmp_path / "pairs.png") as image:
        assert image.size[0] > 500


def test_duplicates_of_a_shipped_source(headstart: Command, tmp_path: Path) -> None:
    done = headstart("data", "duplicates", "cifar10-mini", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["images"] == {"test": 500, "val": 200, "train": 1800}
    ids = set(load_data(DataSpec(source="cifar10-mini")).test.ids.tolist())
    assert all(pair["first"] in ids for entry in told["between"] for pair in entry["pairs"])
