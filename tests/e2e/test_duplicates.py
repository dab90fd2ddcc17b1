"""Duplicates: a folder is searched for them, a source with a list is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import load_data
from headstart.data.sources.mini import open_mini
from headstart.specs import DataSpec
from tests.conftest import Outcome

Command = Callable[..., Outcome]


@pytest.fixture
def duplicated_folder(tmp_path: Path) -> Path:
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


def test_duplicates_in_a_folder_are_reported(
    headstart: Command, duplicated_folder: Path, tmp_path: Path
) -> None:
    done = headstart("data", "duplicates", f"folder:{duplicated_folder}", "--json")
    assert done.code == 0, done.err
    by_splits = {entry["splits"]: entry for entry in json.loads(done.out)["between"]}
    between = by_splits["test/train"]
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
    assert between["images"] == 5 and by_splits["val/train"]["images"] == 0
    folder, png = f"folder:{duplicated_folder}", tmp_path / "pairs.png"
    text = headstart("data", "duplicates", folder, "--out", png)
    assert "5 of 15 test images have a duplicate in train, such as test/automobile/copy" in text.out
    with Image.open(png) as image:
        assert image.size[0] > 500


def test_duplicates_of_a_shipped_source(headstart: Command, tmp_path: Path) -> None:
    done = headstart("data", "duplicates", "cifar10-mini", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["images"] == {"test": 500, "val": 200, "train": 1800}
    ids = set(load_data(DataSpec(source="cifar10-mini")).test.ids.tolist())
    assert all(pair["first"] in ids for entry in answer["between"] for pair in entry["pairs"])
