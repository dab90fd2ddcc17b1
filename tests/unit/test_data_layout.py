"""Layouts as people have them: taken where they have one meaning, else refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from headstart.data import Splits, describe, load_data
from headstart.data.sources.layout import find_photos, split_of
from headstart.errors import DataError
from headstart.specs import DataSpec

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def photo(path: Path, size: tuple[int, int] = (40, 40)) -> None:
    """Noise over a ramp, another for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([*path.as_posix().encode()])
    pixels = rng.integers(0, 200, (size[1], size[0], 3)) + np.linspace(0, 55, size[0])[:, None]
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def drawing(path: Path, box: tuple[int, int, int, int] = (8, 10, 30, 24)) -> None:
    """A segmentation mask: white on black."""
    mask = Image.new("L", (40, 40))
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    mask.save(path)


def fill(folder: Path, count: int = 8, form: str = "png") -> None:
    for i in range(count):
        photo(folder / f"{i:03}.{form}")


def load(root: Path, size: int = 32) -> Splits:
    return load_data(DataSpec(source=f"folder:{root}", size=size))


def sizes(splits: Splits) -> list[int]:
    return [len(splits.train), len(splits.val), len(splits.test)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train_set", "train"), ("training", "train"), ("seg_train", "train"), ("Train", "train"),
        ("TrainSet", "train"), ("01 Training images", "train"), ("train-data", "train"),
        ("valid", "val"), ("Validation_set", "val"), ("dev", "val"), ("VAL", "val"),
        ("test_set", "test"), ("testing", "test"), ("seg_test", "test"), ("TEST", "test"),
        ("testset", "test"),
    ],
)  # fmt: skip
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(name) == (split, ())


def test_names_that_say_no_split() -> None:
    assert split_of("pretrained") is split_of("latest") is split_of("bus") is None
    assert split_of("train or test") is None
    assert split_of("express train") == ("train", ("express",))


@pytest.mark.parametrize(
    ("train", "test"),
    [("train_set", "test_set"), ("training", "testing"), ("Train", "TEST"),
     ("asl_alphabet_train", "asl_alphabet_test"), ("train2017", "test2017"),
     ("seg_train/seg_train", "seg_test/seg_test"), ("Dataset/train_set", "Dataset/test_set")],
)  # fmt: skip
def test_splits_in_usual_spellings(train: str, test: str, root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / train / name, 10)
        fill(root / test / name, 6)
    splits = load(root)
    assert splits.class_names == ("cat", "dog")
    assert sizes(splits) == [18, 2, 12]


@pytest.mark.parametrize("names", [("valid", "invalid"), ("test tubes", "training shoes")])
def test_classes_that_are_called_like_splits_stay_classes(
    names: tuple[str, str], root: Path
) -> None:
    for name in names:
        fill(root / name)
    assert load(root).class_names == tuple(sorted(names))


def test_a_split_under_another_name_is_refused(root: Path) -> None:
    for split in ("train", "test", "unseen"):
        for name in ("cat", "dog"):
            fill(root / split / name)
    with pytest.raises(DataError, match=r"unseen: holds the classes of train.* rename it to val"):
        load(root)


def test_without_a_test_folder_the_second_folder_is_the_test(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / "train" / name, 10)
        fill(root / "valid" / name, 7)
    splits = load(root)
    assert sizes(splits) == [18, 2, 14]
    assert all(image.startswith("valid/") for image in splits.test.ids)
    (note,) = splits.notes
    assert note.startswith("no test folder: the images of valid are the test images")
    assert "validation images are split off train" in note


@pytest.mark.parametrize("above", ["archive", "archive/flowers", "archive/train"])
def test_a_folder_around_everything_is_entered_and_reported(above: str, root: Path) -> None:
    fill(root / above / "rose")
    fill(root / above / "tulip")
    (root / above / "__MACOSX").mkdir()
    splits = load(root)
    assert splits.class_names == ("rose", "tulip")
    assert [note for note in splits.notes if "taken as the folder that holds" in note]


def test_classes_made_of_folders_are_reported(root: Path) -> None:
    for name in ("benign", "malignant"):
        fill(root / name / f"{name}-near", 4)
        fill(root / name / f"{name}-far", 4)
    splits = load(root)
    assert splits.class_names == ("benign", "malignant")
    (note,) = splits.notes
    assert note.startswith("2 of 2 classes hold no images but folders of images, such as benign/")


UNCLEAR = {
    "wrapper beside images": (
        ["Dataset/cat", "Dataset/dog", "Examples"],
        r"photos: Dataset holds folders \(cat, dog\) and no images, beside Examples: type "
        r"folder:.*photos/Dataset where its folders are the classes",
    ),
    "wrapper beside wrapper": (
        ["Dataset/cat", "Dataset/dog", "Examples/mouse"],
        r"Dataset holds folders .* type folder:.*photos/Dataset",
    ),
    "the same in each": (
        ["clinic A/ill", "clinic A/well", "clinic B/ill", "clinic B/well"],
        r"hold the same folders \(ill, well\): .* type folder:.*photos/clinic A or merge",
    ),
    "names of no class": (
        ["images", "masks"],
        "images, masks do not name classes: put the images of each class into a folder with",
    ),
    "classes around splits": (
        ["cat/train", "cat/test", "dog/train", "dog/test"],
        r"each class holds folders test, train: put the classes into the splits, as in test/cat",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_layouts_with_two_meanings_are_refused(case: str, root: Path) -> None:
    folders, message = UNCLEAR[case]
    for folder in folders:
        fill(root / folder, 4)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["{}_mask.png", "{}_mask_1.png", "{} segmentation.png", "{}.png"])
def test_masks_are_left_out(name: str, root: Path) -> None:
    for kind in ("ill", "well"):
        fill(root / kind, 10, "jpg")
        for i in range(10):
            drawing(root / kind / name.format(f"{i:03}"), (4 + i, 10, 30, 24))
    splits = load(root)
    assert sum(sizes(splits)) == 20
    assert all(image.endswith(".jpg") for image in splits.train.ids)
    (note,) = splits.notes
    assert note.startswith("20 masks left out, such as ill/000")


def test_a_class_may_be_called_like_masks(root: Path) -> None:
    for kind in ("gt", "coupe", "with_mask"):
        fill(root / kind)
        (root / kind / "000.png").rename(root / kind / f"{kind}_1.png")
    splits = load(root)
    assert sum(sizes(splits)) == 24 and splits.notes == ()


def test_masks_in_folders_of_their_own_are_left_out(root: Path) -> None:
    for kind in ("ill", "well"):
        fill(root / kind / "images", 10)
        (root / kind / "masks").mkdir()
        for i in range(10):
            drawing(root / kind / "masks" / f"{i:03}.png", (4 + i, 10, 30, 24))
    splits = load(root)
    assert sum(sizes(splits)) == 20
    assert splits.notes == (
        "20 masks left out, such as ill/masks/000.png beside ill/images/000.png",
    )


def test_two_photos_of_one_name_are_refused_or_reported(root: Path) -> None:
    for kind in ("a", "b"):
        fill(root / kind, 20, "jpg")
        (root / kind / "003.heic").write_bytes(b"\0\0\0\x18ftypheic")  # as phones export both
    photo(root / "a" / "004.png")
    (note, *_) = [note for note in load(root).notes if "one name" in note]
    assert note.startswith("1 pair of images has one name, such as a/004.jpg and a/004.png")
    fill(root / "a", 10, "png")
    with pytest.raises(DataError, match=r"10 images share the name of another, such as a/000\.jpg"):
        load(root)


def test_odd_images_and_small_classes_are_named(root: Path) -> None:
    fill(root / "a", 8)
    fill(root / "b", 5)
    assert load(root).notes == (
        "1 class has 5 images or fewer, such as b (5): the scores of such a class are mostly "
        "chance",
    )
    photo(root / "a" / "dot.png", (7, 12))
    photo(root / "a" / "long.png", (200, 45))
    photo(root / "a" / "low.png", (20, 22))
    Image.new("RGB", (64, 64), (250, 128, 3)).save(root / "a" / "plain.jpg")
    Image.new("L", (64, 64), 7).save(root / "a" / "dark.png")
    notes = load(root, size=96).notes
    assert "1 of 18 images is less than 8 pixels on a side, such as a/dot.png (7 x 12)" in notes
    assert any("enlarged more than 4 times" in n and "a/low.png (20 x 22)" in n for n in notes)
    assert any("4 times as long" in n and "a/long.png (200 x 45)" in n for n in notes)
    assert any(n.startswith("2 of 18 images are of one colour") for n in notes)
    warnings = describe(DataSpec(source=f"folder:{root}", size=96)).warnings
    assert set(notes) <= set(warnings)


def test_the_layout_is_read_from_names_alone(root: Path) -> None:
    for name in ("a/x.jpg", "b/y.jpg"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    assert find_photos(root).paths == ["a/x.jpg", "b/y.jpg"]
