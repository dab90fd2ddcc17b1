"""Folders of photos that change: the remembered scan, and what the machine lacks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data import forget_scans
from headstart.data.sources import scan as scanning
from headstart.errors import DataError
from tests.conftest import Outcome
from tests.photos import fill, load, real_pixels

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return real_pixels()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def test_the_scan_is_remembered_until_a_file_changes(
    root: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])
    (root / "b" / "bad.jpg").write_text("no image")
    first = load(root)
    looked_at: list[str] = []
    honest = scanning._scan_file
    monkeypatch.setattr(
        scanning, "_scan_file", lambda path: looked_at.append(path.name) or honest(path)
    )
    again = load(root)
    assert looked_at == [] and again.fingerprint == first.fingerprint
    assert again.quarantined == first.quarantined
    changed = root / "a" / "002.png"
    Image.fromarray(pixels[20]).save(changed)
    os.utime(changed, ns=(1, 1))
    assert load(root).fingerprint != first.fingerprint and looked_at == ["002.png"]
    changed.unlink()
    assert "a/002.png" not in {*load(root).train.ids, *load(root).val.ids, *load(root).test.ids}


def replace_keeping_size_and_time(path: Path, pixels: np.ndarray) -> None:
    """Put another picture in place of a BMP, as `tar` and `rsync -t` do with the old time."""
    before = path.stat()
    path.unlink()
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_picture_of_the_same_size_and_time_is_noticed(root: Path, pixels: np.ndarray) -> None:
    fill(root / "a", pixels[:5], "bmp")
    fill(root / "b", pixels[32:37], "bmp")
    before = load(root).fingerprint
    replace_keeping_size_and_time(root / "a" / "002.bmp", pixels[20])
    again = load(root)
    assert again.fingerprint != before and again.notes == load(root).notes


def test_what_looks_unchanged_is_partly_read_again(
    root: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system without inodes and times of change, such as some network shares.
    monkeypatch.setattr(
        scanning, "_stamp_of", lambda found: (found.st_size, found.st_mtime_ns, 0, 0)
    )
    fill(root / "a", pixels[:20], "bmp")
    fill(root / "b", pixels[32:52], "bmp")
    before = load(root)
    for i in range(20):
        replace_keeping_size_and_time(root / "a" / f"{i:03}.bmp", pixels[(i + 1) % 20])
    read: list[str] = []
    honest = scanning.open_file
    monkeypatch.setattr(scanning, "open_file", lambda p: read.append(p.name) or honest(p))
    after = load(root)
    assert after.fingerprint != before.fingerprint
    (note,) = [line for line in after.notes if "has changed, but not its size" in line]
    assert note.startswith("a/") and len(read) <= scanning.CHECKED + 40
    read.clear()
    assert note in load(root).notes  # the command that noticed it opens the folder again
    assert len(read) == scanning.CHECKED


def test_a_folder_is_forgotten_and_read_again(
    root: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])
    load(root)
    looked_at: list[str] = []
    honest = scanning._scan_file
    monkeypatch.setattr(
        scanning, "_scan_file", lambda path: looked_at.append(path.name) or honest(path)
    )
    forget_scans(["cifar10", f"folder:{root}"])
    load(root)
    assert len(looked_at) == 10


@pytest.mark.parametrize(
    "verb",
    [("run", "folder-probe"), ("check", "folder-study"), ("compare", "folder-study"),
     ("data", "describe"), ("data", "samples"), ("data", "duplicates")],
)  # fmt: skip
def test_every_verb_that_opens_a_folder_can_read_it_again(
    verb: tuple[str, str], headstart: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []

    def forget(sources: Iterable[str]) -> None:
        forgotten.extend(sources)
        raise DataError("enough")

    monkeypatch.setattr("headstart.data.forget_scans", forget)
    source = ("folder:x",) if verb[0] == "data" else ("--set", "data.source=folder:x")
    assert headstart(*verb, *source, "--rescan").err == "error: enough\n"
    assert forgotten == ["folder:x"]
    assert "enough" not in headstart(*verb, *source).err
    assert forgotten == ["folder:x"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_what_the_machine_lacks_ends_the_command_and_is_not_remembered(
    number: int, root: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])
    honest = Path.open

    def short(self: Path, *given: Any, **named: Any) -> Any:
        if self.name == "003.png" and self.parent.name == "b":
            raise OSError(number, os.strerror(number), str(self))
        return honest(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", short)
        with pytest.raises(DataError, match=r"b/003\.png: \w+") as caught:
            load(root)
        assert "not an image" not in str(caught.value) and "\n" not in str(caught.value)
    assert load(root).quarantined == ()


def test_too_little_memory_ends_the_command_and_is_not_remembered(
    root: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])

    def short(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("headstart_predict.decode._render", short)
        with pytest.raises(DataError, match=r"png: not enough memory to read it: close"):
            load(root)
    assert load(root).quarantined == ()


def test_an_unusable_cache_only_costs_time(
    root: Path, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("a file where the cache should be")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "blocked"))
    fill(root / "a", pixels[:5])
    fill(root / "b", pixels[32:37])
    assert len(load(root).train) == 6
