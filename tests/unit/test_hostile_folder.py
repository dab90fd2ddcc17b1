"""Every kind of file that people have, in every layout: nothing is lost, nothing hangs."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from headstart.data import Splits
from headstart.data.inspection import describe
from headstart.machine.host import peak_memory_mb, reset_peak_memory
from headstart.machine.progress import Reporter
from headstart_predict.walking import find_images
from tests.photos import fill, load, real_pixels
from tests.unit.test_data_decode import encode
from tests.unit.test_data_limits import HOSTILE

MOST_MB = 500  # the most memory that one picture may take by default


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return real_pixels()


def good(pixels: np.ndarray) -> dict[str, bytes]:
    """Files that are used, by name: each is another picture."""
    left = iter(Image.fromarray(each).resize((60, 40)) for each in pixels)

    def made(form: str, mode: str = "RGB", **options: object) -> bytes:
        return encode(next(left).convert(mode), form, **options)

    def turned(orientation: int) -> bytes:
        exif = Image.Exif()
        exif[274] = orientation
        return made("JPEG", exif=exif)

    clear = next(left).convert("P")
    frames = [next(left), next(left)]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = np.asarray(next(left).convert("L")).astype(np.uint16) * 257
    narrow = np.asarray(next(left))
    return {
        **{f"turned {n}.jpg": turned(n) for n in range(1, 9)},
        "plain.jpg": made("JPEG"),
        "progressive.jpeg": made("JPEG", progressive=True),
        "grey.jpg": made("JPEG", "L"),
        "print.jpg": made("JPEG", "CMYK"),
        "profile.jpg": made("JPEG", icc_profile=profile),
        "UPPER.JPG": made("JPEG"),
        "of dots.png": made("PNG"),
        "opacity.png": made("PNG", "RGBA"),
        "grey opacity.png": made("PNG", "LA"),
        "palette.png": made("PNG", "P"),
        "clear colour.png": encode(clear, "PNG", transparency=3),
        "black and white.png": made("PNG", "1"),
        "deep.png": encode(Image.fromarray(deep), "PNG"),
        "moving.png": encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "still.gif": made("GIF", "P"),
        "film.gif": encode(frames[1], "GIF", save_all=True, append_images=frames[:1]),
        "web.webp": made("WEBP"),
        "exact.webp": made("WEBP", lossless=True),
        "raw.bmp": made("BMP"),
        "scan.tif": made("TIFF"),
        "packed.tiff": made("TIFF", compression="tiff_lzw"),
        "floats.tif": encode(Image.fromarray(deep.astype(np.float32) / 65535), "TIFF"),
        "pixels.ppm": made("PPM"),
        "greys.pgm": made("PPM", "L"),
        "new.avif": made("AVIF"),
        "a png.jpg": made("PNG"),
        "a jpeg.png": made("JPEG"),
        "a webp.gif": made("WEBP"),
        "no suffix": made("JPEG"),
        "of the web.jpg?w=600": made("JPEG"),
        "copy.jpg.1": made("JPEG"),
        "-rf.jpg": made("JPEG"),
        "a\nb\x1b[31m.jpg": made("JPEG"),
        "e\u0301te\u0301 \N{SMILING FACE WITH SUNGLASSES}.jpg": made("JPEG"),
        "\u202egpj.exe.jpg": made("JPEG"),
        "a pixel.png": encode(Image.new("RGB", (1, 1), (200, 10, 60)), "PNG"),
        "a line.png": encode(Image.fromarray(narrow[:1]), "PNG"),
        "a column.png": encode(Image.fromarray(narrow[:, :1]), "PNG"),
    }


def bad(picture: bytes) -> dict[str, tuple[bytes, str]]:
    """Files that are listed as unreadable, by name, with the reason."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("x.jpg", picture)
    png = encode(Image.new("RGB", (64, 64), "red"), "PNG")
    found = {
        "empty.jpg": (b"", "empty"),
        "half.jpg": (picture[: len(picture) // 2], "(?i)truncated"),
        "half a png.png": (png[: len(png) // 2], "truncated|damaged|broken"),
        "head.jpg": (picture[:3], "."),
        "page.jpg": (b"<!doctype html><html><body>Not found</body></html>", "not in a supported"),
        "text.png": (b"404", "not in a supported"),
        "archive.jpg": (archive.getvalue(), "not in a supported"),
        "zeros.jpg": (bytes(2000), "not in a supported"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "."),
        "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not in a supported"),
    }
    for name, (make, reason) in HOSTILE.items():
        found[f"{name}.{name.split()[0].replace('packed', 'bmp').replace('plain', 'ppm')}"] = (
            make(),
            reason,
        )
    return found


# Names of files that are neither pictures nor meant as such.
NEVER = ("Thumbs.db", ".DS_Store", "._plain.jpg", ".hidden.jpg", "notes.txt", "labels.csv")
JUNK = ("__MACOSX", "@eaDir", ".ipynb_checkpoints", ".Trash-1000", "$RECYCLE.BIN", "lost+found")


def spoil(folder: Path) -> None:
    """Add what is no file, what cannot be reached, and what systems leave behind."""
    for name in NEVER:
        (folder / name).write_bytes(b"\xff\xd8\xff")
    for name in JUNK:
        (folder / name).mkdir()
        (folder / name / "x.jpg").write_bytes(b"\xff\xd8\xff")
    os.mkfifo(folder / "a pipe.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "round").symlink_to(folder, target_is_directory=True)


def test_every_kind_of_file_is_used_or_listed(tmp_path: Path, pixels: np.ndarray) -> None:
    root = tmp_path / "photos"
    fill(root / "b", pixels[50:60])
    folder = root / "a"
    folder.mkdir()
    kinds, broken = good(pixels), bad(encode(Image.fromarray(pixels[0]), "JPEG"))
    assert len(kinds) + len(broken) >= 60
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    for name, (content, _) in broken.items():
        (folder / name).write_bytes(content)
    spoil(folder)
    reset_peak_memory()
    before = peak_memory_mb()
    splits = load(root)
    for split in (splits.train, splits.val, splits.test):
        split.read(np.arange(len(split)))
    assert peak_memory_mb() - before < MOST_MB
    used = {name for name in ids(splits) if name.startswith("a/")}
    assert used == {f"a/{name}" for name in kinds}
    reasons = {each.path.removeprefix("a/"): each.reason for each in splits.quarantined}
    for name, (_, reason) in broken.items():
        assert re.search(reason, reasons.pop(name)), name
    assert set(reasons) <= {"gone.jpg", "itself.jpg"}
    # Prediction looks at the same files.
    assert {path.name for path in find_images([folder])} >= set(kinds)
    described = describe(f"folder:{root}", reporter=Reporter())
    assert described.class_names == ("a", "b")
    assert len(described.quarantined) == len(splits.quarantined)


def ids(splits: Splits) -> list[str]:
    return [str(name) for split in (splits.train, splits.val, splits.test) for name in split.ids]


# Class names as people have them. The third is the second with an accent of its own.
NAMES = ("Cat", "caf\u00e9", "cafe\u0301", "cat", "big  dog", "\N{DOG FACE}", "-x", "7", "0", "a.b")


def classes(root: Path, names: tuple[str, ...], count: int = 4) -> None:
    """A folder of photos for each class; another picture each time."""
    left = iter(range(10**6))
    rng = np.random.default_rng([*str(root).encode()])
    for name in names:
        picture = rng.integers(0, 256, (count, 24, 24, 3), np.uint8)
        picture[:, 0, 0] = next(left)
        fill(root / name, picture)
        (root / name / "half.png").write_bytes((root / name / "000.png").read_bytes()[:100])


def splits_of(*folders: str) -> Callable[[Path], tuple[str, ...]]:
    def make(root: Path) -> tuple[str, ...]:
        for folder in folders:
            classes(root / folder, NAMES)
        return NAMES

    return make


def deep(root: Path) -> tuple[str, ...]:
    for name in NAMES:
        classes(root / name, (f"{name} 2024", f"{name} 2025/may"))
    return NAMES


def linked(root: Path) -> tuple[str, ...]:
    classes(root.parent / "elsewhere", NAMES)
    root.mkdir()
    for name in NAMES:
        (root / name).symlink_to(root.parent / "elsewhere" / name, target_is_directory=True)
    return NAMES


def with_leftovers(root: Path) -> tuple[str, ...]:
    classes(root, NAMES)
    for name in JUNK:
        classes(root / name, NAMES[:1])
    (root / "notes.txt").write_text("notes")
    return NAMES


def with_masks(root: Path) -> tuple[str, ...]:
    classes(root, NAMES)
    mask = np.zeros((24, 24), np.uint8)
    mask[6:14, 6:18] = 255
    for name in NAMES:
        for number in range(4):
            Image.fromarray(mask).save(root / name / f"{number:03}_mask.png")
    return NAMES


def one_has_no_test(root: Path) -> tuple[str, ...]:
    classes(root / "train", NAMES)
    classes(root / "test", NAMES[1:])
    return NAMES


LAYOUTS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "classes": splits_of("."),
    "three splits": splits_of("train", "val", "test"),
    "capitals": splits_of("Train", "Valid", "Test"),
    "two splits": splits_of("training", "testing"),
    "val as test": splits_of("train", "val"),
    "sets": splits_of("train_set", "validation_set", "test_set"),
    "segments": splits_of("seg_train", "seg_test"),
    "one around": splits_of("data"),
    "two around": splits_of("archive/images"),
    "splits in one": splits_of("data/train", "data/test"),
    "deep": deep,
    "linked": linked,
    "leftovers": with_leftovers,
    "masks": with_masks,
    "one class lacks a test": one_has_no_test,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_keeps_the_names_and_the_good_pictures(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    names = LAYOUTS[layout](root)
    splits = load(root)
    assert sorted(splits.class_names) == sorted(names)
    whole = {path for path in find_images([root]) if path.name[:3].isdigit()}
    masks = {path for path in whole if "mask" in path.name}
    assert len(ids(splits)) == len(set(ids(splits))) == len(whole - masks)
    assert {each.path.rsplit("/", 1)[1] for each in splits.quarantined} == {"half.png"}
