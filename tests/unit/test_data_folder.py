"""Folders of photos: layouts, errors, quarantine, the remembered scan."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import describe, find_warnings, load_data
from headstart.errors import DataError
from headstart.specs import DataSpec
from tests.photos import fill, load, real_pixels

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return real_pixels()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def test_class_per_folder(root: Path, pixels: np.ndarray) -> None:
    fill(root / "cat", pixels[32:52])
    fill(root / "airplane" / "deep" / "er", pixels[:20])
    splits = load(root)
    assert splits.class_names == ("airplane", "cat") and splits.source == f"folder:{root}"
    sizes = {
        name: len(s) for name, s in (("tr", splits.train), ("v", splits.val), ("te", splits.test))
    }
    assert sizes == {"tr": 28, "v": 4, "te": 8}
    assert splits.train.ids[0].startswith("airplane/deep/er/0")
    row = splits.train.ids.tolist().index(next(i for i in splits.train.ids if i.startswith("cat/")))
    number = int(splits.train.ids[row][4:7])
    np.testing.assert_array_equal(splits.train.read(np.array([row]))[0], pixels[32 + number])
    assert splits.train.labels[row] == 1
    assert splits.quarantined == () and splits.notes == ()


def test_own_splits_are_used(root: Path, pixels: np.ndarray) -> None:
    for split, rows in (
        ("train", slice(0, 10)),
        ("Validation", slice(10, 14)),
        ("test", slice(14, 20)),
    ):
        fill(root / split / "airplane", pixels[rows])
        fill(root / split / "cat", pixels[32:][rows], "jpg")
    splits = load(root, size=16)
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [20, 8, 12]
    assert splits.val.ids[0] == "Validation/airplane/000.png"
    assert splits.train.read(np.arange(20)).shape == (20, 16, 16, 3)
    assert splits.train.side == 16


def test_train_and_test_without_validation(root: Path, pixels: np.ndarray) -> None:
    for split in ("train", "test"):
        offset = 0 if split == "train" else 10
        fill(root / split / "a", pixels[offset : offset + 10])
        fill(root / split / "b", pixels[32 + offset : 42 + offset])
    fill(root / "unlabelled", pixels[50:52])
    splits = load(root)
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [18, 2, 20]
    assert splits.notes == ("unlabelled: neither train, val nor test: ignored",)


def test_a_class_may_be_called_train(root: Path, pixels: np.ndarray) -> None:
    fill(root / "train", pixels[:5])
    fill(root / "bus", pixels[32:37])
    assert load(root).class_names == ("bus", "train")


def test_pixels_follow_the_size_and_the_fingerprint_does_not(
    root: Path, pixels: np.ndarray
) -> None:
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])
    assert load(root).fingerprint == load(root).fingerprint
    assert load(root, size=24).fingerprint == load(root).fingerprint


def test_bad_images_are_left_out_and_listed(root: Path, pixels: np.ndarray) -> None:
    fill(root / "a", pixels[:6], "jpg")
    fill(root / "b", pixels[32:38])
    whole = (root / "a" / "000.jpg").read_bytes()
    (root / "a" / "000.jpg").write_bytes(whole[: len(whole) - 100])
    (root / "b" / "note.jpg").write_text("a text, not an image")
    (root / "b" / "empty.png").touch()
    (root / "b" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)
    (root / "b" / ".hidden.jpg").write_text("not looked at")
    (root / "b" / "readme.txt").write_text("not looked at")
    (root / "b" / "odd-\udcff.png").write_bytes((root / "b" / "000.png").read_bytes())
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()
    splits = load(root)
    reasons = {bad.path: bad.reason for bad in splits.quarantined}
    assert sorted(reasons) == [
        "a/000.jpg",
        "b/empty.png",
        "b/note.jpg",
        "b/odd-?.png",
        "b/phone.heic",
    ]
    assert "truncated" in reasons["a/000.jpg"] and reasons["b/empty.png"] == "the file is empty"
    assert "HEIC" in reasons["b/phone.heic"] and "UTF-8" in reasons["b/odd-?.png"]
    kept = {*splits.train.ids, *splits.val.ids, *splits.test.ids}
    assert len(kept) == 11 and not kept & set(reasons)


def test_a_class_with_only_bad_images(root: Path, pixels: np.ndarray) -> None:
    fill(root / "a", pixels[:3])
    (root / "b").mkdir()
    (root / "b" / "x.jpg").write_text("nothing")
    (root / "b" / "y.jpg").write_text("nothing")
    with pytest.raises(
        DataError, match=r"class b: none of its 2 images .* b/x.jpg: not in a supported image"
    ):
        load(root)


def test_a_file_damaged_after_loading_is_named(root: Path, pixels: np.ndarray) -> None:
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])
    train = load(root).train
    (root / train.ids[0]).write_text("gone")
    with pytest.raises(DataError, match=str(train.ids[0])):
        train.read(np.arange(len(train)))


def build_bad_layout(case: str, root: Path, pixels: np.ndarray) -> None:
    if case == "file":
        root.parent.mkdir(parents=True, exist_ok=True)
        root.write_text("x")
    elif case == "flat":
        fill(root, pixels[:3])
    elif case == "single":
        fill(root / "only", pixels[:3])
    elif case == "empty class":
        fill(root / "a", pixels[:3])
        (root / "rose").mkdir()
    elif case == "classes differ":
        for name in ("train/a", "train/b", "train/c", "test/a", "test/b", "test/d"):
            fill(root / name, pixels[:3])
    elif case == "flat test":
        fill(root / "train" / "a", pixels[:3])
        fill(root / "train" / "b", pixels[:3])
        fill(root / "test", pixels[:3])
    elif case == "two names":
        for name in ("train/a", "train/b", "val/a", "val/b", "valid/a", "valid/b"):
            fill(root / name, pixels[:3])
    elif case == "no train":
        for name in ("val/a", "val/b", "test/a", "test/b"):
            fill(root / name, pixels[:3])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "photos: no such folder"),
        ("file", "photos: not a folder"),
        ("flat", "no class folders: put the images of each class"),
        ("single", "a single class, only: at least two are needed$"),
        ("empty class", "rose: an empty class folder"),
        ("classes differ", "train and test differ in classes: train lacks d: add training"),
        ("flat test", "test: no class folders"),
        ("two names", "val and valid both mean val"),
        ("no train", "but no train folder"),
    ],
)
def test_layout_errors(case: str, message: str, root: Path, pixels: np.ndarray) -> None:
    build_bad_layout(case, root, pixels)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_loose_images_are_noted(root: Path, pixels: np.ndarray) -> None:
    fill(root / "a", pixels[:6])
    fill(root / "b", pixels[32:38])
    fill(root, pixels[:2])
    assert load(root).notes == ("2 images are in no class folder: ignored",)


def test_duplicates_across_train_and_test_are_noted(root: Path, pixels: np.ndarray) -> None:
    for split in ("train", "test"):
        fill(root / split / "a", pixels[:6] if split == "train" else pixels[5:9])
        fill(root / split / "b", pixels[32:38] if split == "train" else pixels[40:44])
    notes = find_warnings(load(root), DataSpec(source=f"folder:{root}", size=32))
    (note,) = [line for line in notes if "test images" in line]
    assert "1 of 8 test images" in note and "test/a/000.png = train/a/005.png" in note


def test_links_to_folders_are_followed_but_not_in_circles(root: Path, pixels: np.ndarray) -> None:
    fill(root.parent / "elsewhere", pixels[:5])
    fill(root / "b", pixels[32:37])
    (root / "a").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    (root / "b" / "circle").symlink_to(root / "b", target_is_directory=True)
    splits = load(root)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 10


DEEP = {
    "12 bits in 16": (np.uint16, 16, "png", "at most 4,080 of 65,535.*multiply by 16"),
    "12 bits in big TIFF": (">u2", 16, "tif", "multiply by 16"),
    "8 bits in 32": (np.int32, 1, "tif", "at most 255 of 65,535.*multiply by 257"),
}


@pytest.mark.parametrize("case", DEEP)
def test_deep_pictures_that_are_nearly_black_are_refused(
    case: str, root: Path, pixels: np.ndarray
) -> None:
    kind, factor, form, message = DEEP[case]
    for name, images in (("a", pixels[:6]), ("b", pixels[32:38])):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(images):
            grey = image[..., 1].astype(kind)
            grey[0, :2] = 0, 255
            Image.fromarray(grey * factor).save(root / name / f"{i}.{form}")
    with pytest.raises(DataError, match=f"photos: 12 images with 16 or 32 .*{message}"):
        load(root)
    bright = (pixels[0, ..., 1].astype(np.uint16) + 1) * 256 - 1
    Image.fromarray(bright).save(root / "a" / "9.png")  # so the others are dark on purpose
    assert len(load(root).train) > 8


def test_dark_colour_pictures_of_sixteen_bits_are_refused(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            (root / name / f"{i}.png").write_bytes(deep_colour_png(4095 - i))
    with pytest.raises(DataError, match="10 images with 16 or 32 bits reach at most 4,095"):
        load(root)


def deep_colour_png(value: int, side: int = 8) -> bytes:
    """Pillow writes no RGB with 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    row = b"\0" + struct.pack(">3H", value, value // 2, 7) * side
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_wide_pictures_are_noted_with_the_share_that_is_cut_off(
    root: Path, pixels: np.ndarray
) -> None:
    for name, images in (("a", pixels[:6]), ("b", pixels[32:38])):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).resize((96, 48 + i)).save(root / name / f"{i}.png")
    (note,) = [line for line in load(root).notes if "centre square" in line]
    assert "on average 47% of the picture is cut off, such as of a/2.png (96 x 50)" in note
    for name in ("a", "b"):
        for i in range(6):
            Image.fromarray(pixels[i]).resize((96, 64)).save(root / name / f"{i}.png")
    assert not [line for line in load(root).notes if "centre square" in line]


def test_describe(root: Path, pixels: np.ndarray) -> None:
    fill(root / "a", pixels[:20])
    fill(root / "b", pixels[32:42])
    Image.fromarray(pixels[63]).resize((60, 40)).save(root / "b" / "big.png")
    (root / "b" / "bad.jpg").write_text("no image")
    found = describe(DataSpec(source=f"folder:{root}"))
    assert found.counts == {"train": [14, 8], "val": [2, 1], "test": [4, 2]}
    assert found.smallest == (32, 32) and found.largest == (60, 40)
    assert found.balance == pytest.approx(14 / 8)
    assert found.to_json()["quarantined"][0]["path"] == "b/bad.jpg"


def test_a_folder_needs_a_size(root: Path, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"data\.size"):
        load_data(DataSpec(source=f"folder:{root}"))
    with pytest.raises(DataError, match="write folder:PATH"):
        load_data(DataSpec(source="folder:", size=32))
