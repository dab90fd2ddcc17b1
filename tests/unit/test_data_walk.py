"""What in a folder is an image: the same for training and for prediction."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from headstart.data import UnreadableImageError, decode_image, find_images
from headstart.data.sources.layout import find_photos
from headstart.errors import DataError
from headstart_predict import walking
from headstart_predict.formats import IMAGE_SUFFIXES, OTHER_SUFFIXES, begins_like_an_image
from tests.unit.test_data_decode import encode
from tests.unit.test_data_layout import fill, load, photo, root

assert root  # fixtures
pytestmark = pytest.mark.usefixtures("own_cache")


def named(found: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF"])
def test_the_first_bytes_tell_an_image(form: str) -> None:
    content = encode(Image.new("RGB", (9, 9), "red"), form)
    assert begins_like_an_image(content[:32])


@pytest.mark.parametrize(
    "head", [b"", b"BM is short for something, as is II and also MM", b"RIFFx WAVE", b"GIF87",
             b"\0\0\0\x0cjP  \r\n\x87\n", b"8BPS\0\1", b"%PDF-1.7"]
)  # fmt: skip
def test_other_first_bytes_do_not(head: bytes) -> None:
    assert not begins_like_an_image(head)


def test_the_suffixes_do_not_overlap() -> None:
    assert not IMAGE_SUFFIXES & OTHER_SUFFIXES
    assert {".txt", ".csv", ".json", ".xml", ".psd", ".jp2", ".nef"} <= OTHER_SUFFIXES


def test_photos_without_a_known_suffix_are_taken_and_the_rest_is_told(root: Path) -> None:
    fill(root / "a", 6)
    fill(root / "b", 6)
    jpeg = encode(Image.new("RGB", (20, 20), "red"), "JPEG")
    for name in ("x.jpg_large", "x.jpg?w=600", "y.jpg.1", "z.mpo", "none"):
        (root / "a" / name).write_bytes(jpeg)
    (root / "a" / "photo.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    (root / "b" / "labels.txt").write_bytes(jpeg)  # a known suffix decides
    (root / "b" / "more.txt").write_text("text")
    (root / "b" / "drawing.psd").write_bytes(b"8BPS")
    (root / "b" / "README").write_text("text")
    (root / "notes.txt").write_text("in no class")
    splits = load(root)
    kept = {*splits.train.ids, *splits.val.ids, *splits.test.ids}
    assert len(kept) == 17 and {"a/x.jpg?w=600", "a/none", "a/z.mpo", "a/y.jpg.1"} <= kept
    assert splits.quarantined == ()
    (note,) = [line for line in splits.notes if "left out" in line]
    assert note == (
        "5 files are no images and are left out: a 1 .jp2; b 2 .txt, 1 .psd, 1 without a suffix"
    )


def test_files_with_a_known_suffix_are_not_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root / "a", 4)
    fill(root / "b", 4)
    (root / "a" / "x.csv").write_text("1,2")
    (root / "a" / "unknown").write_text("1,2")
    opened: list[str] = []
    honest = walking.open_file
    monkeypatch.setattr(walking, "open_file", lambda p: opened.append(p.name) or honest(p))
    find_photos(root)
    assert opened == ["unknown"]


NEVER = (
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *(".Trash-1000", ".ipynb_checkpoints", ".git"),
)


def test_what_systems_add_is_neither_class_nor_image(root: Path) -> None:
    fill(root / "a", 5)
    fill(root / "b", 5)
    for name in NEVER:
        photo(root / name / "x.png")
        photo(root / "a" / name / "x.png")
    for name in ("Thumbs.db", "desktop.ini", ".hidden.jpg", "._000.png"):
        (root / "a" / name).write_bytes(b"\xff\xd8\xff")
        (root / name).write_bytes(b"\xff\xd8\xff")
    for closed in (root / "lost+found", root / "a" / "lost+found"):
        closed.chmod(0)
    try:
        found = find_photos(root)
        assert found.class_names == ("a", "b") and len(found.paths) == 10
        assert found.notes == ()
        assert named(find_images([root]), root) == sorted(found.paths)
    finally:
        for closed in (root / "lost+found", root / "a" / "lost+found"):
            closed.chmod(0o700)


def test_training_and_prediction_see_the_same_images(root: Path) -> None:
    fill(root / "a" / "deep", 3)
    fill(root / "b", 3)
    (root / "a" / "odd.jpg?x=1").write_bytes((root / "b" / "000.png").read_bytes())
    (root / "b" / "linked").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    fill(root.parent / "elsewhere", 2)
    (root / "b" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "b" / "itself.jpg").symlink_to(root / "b" / "itself.jpg")
    found = find_photos(root)
    assert named(find_images([root]), root) == sorted(found.paths)
    assert {"b/linked/000.png", "b/gone.jpg", "b/itself.jpg", "a/odd.jpg?x=1"} <= {*found.paths}
    assert {bad.path for bad in load(root).quarantined} == {"b/gone.jpg", "b/itself.jpg"}


def test_a_diamond_of_links_is_walked_once(root: Path) -> None:
    fill(root / "b", 3)
    here = root / "a"
    for level in range(30):  # two ways down at each level: 2**30 paths
        (here / "real").mkdir(parents=True)
        (here / "again").symlink_to(here / "real", target_is_directory=True)
        photo(here / f"{level}.png")
        here = here / "real"
    (here / "up").symlink_to(root, target_is_directory=True)
    found = find_photos(root)
    assert len(found.files["train"]["a"]) == 30
    assert not [path for path in found.paths if "again" in path or "up" in path]


def test_a_class_that_is_a_link_to_its_own_folder_takes_nothing(root: Path) -> None:
    fill(root / "b", 3)
    (root / "a").symlink_to(root, target_is_directory=True)
    with pytest.raises(DataError, match="a: an empty class folder"):
        find_photos(root)


@pytest.fixture
def nested(root: Path) -> Iterator[Callable[[int, str], Path]]:
    """Makes folders within each other, deeper than a path may be long."""
    made = []
    start = Path.cwd()

    def nest(depth: int, name: str) -> Path:
        fill(root / "b", 3)
        (root / "a").mkdir()
        photo(root / "a" / "x.png")
        os.chdir(root / "a")
        for _ in range(depth):
            os.mkdir(name)  # noqa: PTH102
            os.chdir(name)
        Image.new("RGB", (9, 9)).save("deep.png")
        os.chdir(start)
        made.append(root / "a")
        return root

    yield nest
    os.chdir(start)
    for folder in made:  # not by shutil.rmtree, which calls itself for each folder
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_folders_may_be_nested_deeply(nested: Callable[[int, str], Path]) -> None:
    found = find_photos(nested(1500, "d"))
    assert len(found.files["train"]["a"]) == 2


def test_a_path_that_is_too_long_is_one_line(nested: Callable[[int, str], Path]) -> None:
    with pytest.raises(DataError, match="cannot be listed: File name too long") as caught:
        find_photos(nested(100, "d" * 100))
    assert "\n" not in str(caught.value)


def test_only_regular_files_are_images(root: Path, tmp_path: Path) -> None:
    fill(root / "a", 5)
    fill(root / "b", 5)
    os.mkfifo(root / "a" / "pipe.jpg")
    (root / "a" / "linked.jpg").symlink_to(root / "a" / "pipe.jpg")
    (root / "b" / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(root / "b")  # the name of a socket may not be long
        bound.bind("socket.jpg")
        os.chdir(here)
        splits = load(root)
    assert splits.quarantined == ()
    assert (
        "4 files are no images and are left out: a 2 not a regular file; b 2 not a regular file"
        in splits.notes
    )
    assert len(find_images([root])) == 10
    for given in (root / "a" / "pipe.jpg", root / "b" / "zero.png", root / "a"):
        with pytest.raises(UnreadableImageError, match="not a regular file"):
            decode_image(given, 32)


def test_an_impossible_path_is_one_line() -> None:
    for path in ("x" * 5000, "a\0b", "nowhere.jpg"):
        with pytest.raises(DataError, match="no such file or folder"):
            find_images([Path(path)])


def test_an_empty_class_folder_says_what_is_in_it(root: Path) -> None:
    fill(root / "b", 3)
    (root / "a").mkdir()
    (root / "a" / "x.psd").write_bytes(b"8BPS")
    with pytest.raises(DataError, match=r"a: an empty class folder but for 1 \.psd: add"):
        find_photos(root)
