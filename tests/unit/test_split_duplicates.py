"""Duplicates between a folder's splits: planted ones are found, other pictures are not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from headstart.data import Splits, find_warnings, load_data
from headstart.data.check import duplicates
from headstart.data.check.duplicates import find_duplicates, find_split_duplicates
from headstart.data.check.pairs import find_pairs
from headstart.specs import DataSpec

SHARED = Path(os.environ.get("HEADSTART_SHARED_DATA", Path(__file__).parents[3] / "shared/data"))


def scene(seed: int, side: int = 128) -> Image.Image:
    """A picture that is like no other: coloured blobs of several sizes."""
    rng = np.random.default_rng(seed)
    planes = sum(
        gaussian_filter(rng.normal(size=(side, side, 3)), (s, s, 0)) * s for s in (2, 5, 12)
    )
    scaled = planes / np.abs(planes).max() * 127 + 128
    return Image.fromarray(scaled.astype(np.uint8))


def shot_again(image: Image.Image) -> Image.Image:
    """The same scene: cropped a little, mirrored, darker."""
    side = image.width
    part = image.crop((6, 4, side - 2, side - 4)).resize((side - 20, side - 20))
    turned = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return turned.point(lambda level: int(level * 0.7 + 10))


def folder_of(root: Path, images: dict[str, Image.Image]) -> str:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name, quality=92) if name.endswith("jpg") else image.save(root / name)
    return f"folder:{root}"


@pytest.fixture
def planted(tmp_path: Path, cache: Path) -> str:
    """Of 8 test images one is a train image's file and one its shot; of 6 for validation one."""
    images, seed = {}, 0
    for split, count in (("train", 10), ("val", 3), ("test", 4)):
        for name in "ab":
            for i in range(count):
                images[f"{split}/{name}/{i}.jpg"] = scene(seed := seed + 1)
    images["test/a/1.jpg"] = images["train/a/5.jpg"]
    images["test/b/2.jpg"] = shot_again(images["train/b/3.jpg"])
    images["val/b/0.jpg"] = shot_again(images["train/b/7.jpg"])
    return folder_of(tmp_path / "photos", images)


def opened(source: str, size: int = 64, **more: float) -> Splits:
    return load_data(DataSpec(source=source, size=size, **more))  # type: ignore[arg-type]


def test_what_is_planted_is_found_and_nothing_else(planted: str) -> None:
    splits = opened(planted)
    test, val = find_split_duplicates(splits, "test"), find_split_duplicates(splits, "val")
    assert splits.test.ids[test.duplicated].tolist() == ["test/a/1.jpg", "test/b/2.jpg"]
    assert splits.val.ids[val.duplicated].tolist() == ["val/b/0.jpg"]
    assert (test.exact, val.exact) == (1, 0)
    assert test.example == ("test/a/1.jpg", "train/a/5.jpg")
    assert test.searched.all() and test.source == duplicates.BY_SEARCH
    pairs = find_duplicates(splits).pairs
    assert {pair.first for pair in pairs["test/train"]} == {"test/a/1.jpg", "test/b/2.jpg"}


def test_each_split_has_one_line_with_count_share_and_an_example(planted: str) -> None:
    spec = DataSpec(source=planted, size=64)
    test, val = find_warnings(load_data(spec), spec)
    assert test.startswith(
        "2 of 8 test images (25.0 %) have a duplicate in train or validation, 1 of them the very "
        "same picture, such as test/a/1.jpg = train/a/5.jpg: test scores look better"
    )
    assert "headstart data duplicates folder:" in test
    assert val.startswith(
        "1 of 6 validation images (16.7 %) has a duplicate in train, "
        "such as val/b/0.jpg = train/b/7.jpg: validation then chooses"
    )


def test_a_search_is_remembered_by_what_the_images_hold(
    planted: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_split_duplicates(opened(planted), "test")

    def refuse(*_: object) -> None:
        raise AssertionError("searched again")

    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "find_pairs", refuse)
        again = find_split_duplicates(opened(planted, size=96), "test")  # the size plays no part
        np.testing.assert_array_equal(again.duplicated, first.duplicated)
        assert (again.exact, again.example) == (first.exact, first.example)
        with pytest.raises(AssertionError, match="searched again"):
            find_split_duplicates(opened(planted, train_limit=8), "test")
    for file in (cache / "duplicates").iterdir():
        file.write_text("damaged")
    again = find_split_duplicates(opened(planted), "test")
    np.testing.assert_array_equal(again.duplicated, first.duplicated)


def test_thumbnails_outlive_their_memory(planted: str, cache: Path) -> None:
    first = find_split_duplicates(opened(planted), "val")
    for file in [*(cache / "scans").glob("*.npz"), *(cache / "duplicates").iterdir()]:
        file.unlink()
    again = find_split_duplicates(opened(planted), "val")
    np.testing.assert_array_equal(again.duplicated, first.duplicated)
    assert list((cache / "scans").glob("*.npz"))


def test_bounds_are_reported(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(source=planted, size=64)
    splits = load_data(spec)
    monkeypatch.setattr(duplicates, "SEARCHED", 7)
    sampled = find_split_duplicates(splits, "test")
    assert 7 <= sampled.searched.sum() <= 8 and sampled.exact == 1
    monkeypatch.setattr(duplicates, "SEARCHED", 1)
    (line, *_) = find_warnings(splits, spec)
    assert "test images that were compared (of 8)" in line
    monkeypatch.setattr(duplicates, "MOST_IMAGES", 20)
    lines = find_warnings(splits, spec)
    assert lines[0].startswith("too many images to search")
    assert lines[1].startswith("1 of 8 test images (12.5 %) has a duplicate")  # byte for byte
    assert "test.without_duplicates in metrics.json is without them" in lines[1]
    by_bytes = find_split_duplicates(splits, "test")
    assert splits.test.ids[~by_bytes.kept].tolist() == ["test/a/1.jpg"]
    assert by_bytes.source == duplicates.BY_BYTES


def test_no_score_is_promised_where_no_image_is_left(tmp_path: Path, cache: Path) -> None:
    images = {f"train/{name}/{i}.jpg": scene(10 * i + ord(name)) for name in "ab" for i in range(6)}
    images |= {f"test/{name}/{i}.jpg": images[f"train/{name}/{i}.jpg"] for name in "ab"
               for i in range(3)}  # fmt: skip
    spec = DataSpec(source=folder_of(tmp_path / "copies", images), size=64)
    (line,) = (line for line in find_warnings(load_data(spec), spec) if "test images" in line)
    assert line.startswith("6 of 6 test images (100.0 %) have a duplicate")
    assert "better than they are; remove them" in line and "without_duplicates" not in line


def bar(rng: np.random.Generator, colour: bool) -> Image.Image:
    """One stroke by an unsteady hand, at about the same place."""
    image = Image.new("RGB", (105, 105), "white")
    x, top, bottom = 50 + rng.integers(-4, 5), 20 + rng.integers(-3, 4), 85 + rng.integers(-3, 4)
    places = [(x + rng.integers(-1, 2), y) for y in np.linspace(top, bottom, 6).tolist()]
    ImageDraw.Draw(image).line(places, fill="navy" if colour else "black", width=3)
    return image


def grey(rng: np.random.Generator) -> Image.Image:
    """A sheet of nothing, with a camera's noise and vignette."""
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j]
    sheet = 130 - 3 * (rows**2 + columns**2) + rng.normal(0, 2, (96, 96))
    return Image.fromarray(sheet.astype(np.uint8))


@pytest.mark.usefixtures("cache")
def test_drawings_and_sheets_of_grey_are_no_duplicates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"bar/{i}.png": bar(rng, False) for i in range(30)}
    images |= {f"blue/{i}.png": bar(rng, True) for i in range(30)}
    images |= {f"grey/{i}.jpg": grey(rng) for i in range(30)}
    splits = opened(folder_of(tmp_path / "drawings", images))
    alike = find_pairs(splits.test, splits.train)
    assert len(alike) > 10  # thumbnails alone take them for duplicates
    for split in ("test", "val"):
        assert not find_split_duplicates(splits, split).duplicated.any()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("name", "duplicated"), [("flowers12", 33), ("characters136", 0)])
def test_on_photos_and_drawings_of_others(name: str, duplicated: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {name} in {SHARED}")
    splits = opened(f"folder:{SHARED / name}")
    assert find_split_duplicates(splits, "test").duplicated.sum() == duplicated
