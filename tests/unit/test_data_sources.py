"""The sources by name, the embedded sample and the sample grid."""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import Splits, describe, fetch, load_data, sample_grid
from headstart.data.images import map_threads
from headstart.data.samples import choose_samples
from headstart.data.sources import mini
from headstart.errors import DataError, HeadstartError
from headstart.files import cache_root, data_root
from headstart.specs import DataSpec

PIXELS_SHA256 = "9675e60770c6a58d332ebd4964ecb9e9c5ae383ae565f56f2396d2155c220ac2"


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_data(DataSpec(source="cifar10-mini"))


def test_the_embedded_sample_is_the_one_that_was_built() -> None:
    source = mini.open_mini()
    assert source.test is not None
    hasher = hashlib.sha256()
    for images, each in ((source.train, 200), (source.test, 50)):
        assert np.bincount(images.labels).tolist() == [each] * 10
        hasher.update(images.read(np.arange(len(images))).tobytes())
        hasher.update(images.labels.astype(np.uint8).tobytes())
    assert hasher.hexdigest() == PIXELS_SHA256
    card = (resources.files("headstart") / "assets" / "cifar10_mini.md").read_text("utf-8")
    assert PIXELS_SHA256 in card


def test_a_damaged_sample_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / mini.ASSET).write_bytes(b"PK\x03\x04 damaged")
    monkeypatch.setattr(mini.resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match="damaged: install headstart again"):
        mini.open_mini()


def test_mini_splits(splits: Splits) -> None:
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [1800, 200, 500]
    assert splits.source == "cifar10-mini" and splits.class_names[3] == "cat"
    assert np.bincount(splits.val.labels).tolist() == [20] * 10
    assert all(re.fullmatch(r"train/\d{1,5}", i) for i in splits.train.ids)
    # The identity of published numbers: it may change only when the data or the splits do.
    assert splits.fingerprint.startswith("c74367ad674fa602")


def test_image_sets_travel_between_processes(splits: Splits) -> None:
    there = pickle.loads(pickle.dumps(splits.val))
    np.testing.assert_array_equal(there.read(np.arange(3)), splits.val.read(np.arange(3)))
    assert there.fingerprint == splits.val.fingerprint


def test_unknown_source() -> None:
    with pytest.raises(DataError, match=r"'cifar-10'; did you mean cifar10.*folder:PATH"):
        load_data(DataSpec(source="cifar-10"))
    with pytest.raises(DataError, match="unknown data source"):
        fetch("imagenet")
    with pytest.raises(DataError, match="nothing to fetch"):
        fetch("cifar10-mini")


def test_describe_the_sample() -> None:
    found = describe(DataSpec(source="cifar10-mini", train_limit=100))
    assert found.counts == {"train": [9] * 10, "val": [1] * 10, "test": [50] * 10}
    assert found.balance == 1 and found.smallest == found.largest == (32, 32)
    assert found.quarantined == () and found.warnings == ()


def test_sample_grid_is_a_picture_and_repeatable(splits: Splits, tmp_path: Path) -> None:
    names = ["$x", "_y", "漢字", *splits.class_names[3:]]  # mathematics and missing glyphs included
    first = sample_grid(splits.train, names, tmp_path / "a" / "grid.png", rows=1, cols=4)
    with Image.open(first) as image:
        assert image.format == "PNG" and image.width > 4 * 100 and image.height > 100
    second = sample_grid(splits.train, names, tmp_path / "b.png", rows=1, cols=4)
    assert first.read_bytes() == second.read_bytes()
    other = sample_grid(splits.train, names, tmp_path / "c.png", rows=1, cols=4, seed=1)
    assert other.read_bytes() != first.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.png", "c.png"]
    few = sample_grid(splits.train.pick(np.arange(3)), names, tmp_path / "few.png")
    with Image.open(few) as image:
        assert image.width < 3 * 250


def test_titles_of_samples_tell_their_classes_apart(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def draw(pixels: np.ndarray, titles: list[str], out: Path, cols: int) -> Path:
        drawn.extend(titles)
        return out

    monkeypatch.setattr("headstart.data.samples.draw_grid", draw)
    names = [f"Balinese character of the old script {k:02}" for k in range(10)]
    sample_grid(splits.train, names, tmp_path / "grid.png", rows=2, cols=5)
    assert len(set(drawn)) == 10
    assert all(len(title) <= 18 for title in drawn)


def test_samples_are_even_over_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 5, 1])
    chosen = choose_samples(labels, 9, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 1]
    assert len(set(chosen.tolist())) == 9 and (np.diff(labels[chosen]) >= 0).all()
    assert len(choose_samples(labels, 100, seed=0)) == 56
    many = np.arange(100).repeat(2)
    assert len(set(many[choose_samples(many, 32, seed=3)].tolist())) == 32


def test_threads_keep_the_order() -> None:
    assert list(map_threads(lambda x: x * x, range(100))) == [x * x for x in range(100)]


def test_places_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == tmp_path / "cache" and not cache_root().exists()
    monkeypatch.setenv("HEADSTART_CACHE", "")
    monkeypatch.setenv("HEADSTART_DATA", "")
    assert cache_root().name == "headstart" and data_root() is None
    monkeypatch.setenv("HEADSTART_DATA", "~/sets")
    assert data_root() == Path.home() / "sets"


def test_loading_data_imports_no_torch() -> None:
    code = (
        "import sys; from headstart.data import load_data; from headstart.recipe import DataSpec; "
        "load_data(DataSpec(source='cifar10-mini')); "
        "print([m for m in ('torch', 'matplotlib', 'timm', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_home_folder_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(HeadstartError, match="no home folder is known"):
        load_data(DataSpec(source="folder:~nouser/photos", size=32))
