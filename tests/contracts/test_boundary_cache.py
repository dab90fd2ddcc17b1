"""Contract: an entry of the cache is what torch computes, and it is whole or resumable."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.data import ImageSet, load_data
from headstart.errors import HeadstartError
from headstart.features import cache as cache_module
from headstart.features.cache import BoundaryCache
from headstart.features.engines import Engine, StageChain, TorchPrefix
from headstart.features.room import clear_cache, entries_root, footprint, list_cache
from headstart.files import write_json
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import Backbone, create_backbone
from headstart.specs import AugmentSpec, BackboneSpec, DataSpec
from headstart.views.transforms import Transform

RUNTIME = create_runtime("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def backbone(small_backbone: BackboneSpec) -> Backbone:
    return create_backbone(small_backbone)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_data(DataSpec(source="cifar10-mini", size=32)).test.pick(np.arange(140))


def make_cache(
    backbone: Backbone, boundary: int, augment: AugmentSpec | None = None
) -> BoundaryCache:
    preprocess = replace(backbone.preprocess, size=SIZE)
    transform = Transform(preprocess, augment or AugmentSpec(), seed=1)
    return BoundaryCache(backbone, boundary, transform, RUNTIME, Reporter())


def stage_index(backbone: Backbone, name: str) -> int:
    return [stage.name for stage in backbone.stages()].index(name)


@pytest.mark.parametrize("name", ["blocks.2.0", "blocks.4.0", "pool"])
@pytest.mark.usefixtures("cache")
def test_cached_rows_are_what_torch_computes(
    backbone: Backbone, images: ImageSet, name: str
) -> None:
    boundary = stage_index(backbone, name) + (name == "pool")
    rows = make_cache(backbone, boundary).rows(images, label="test")
    assert (len(rows.array), rows.array.shape[1], rows.hit) == (140, 1, False)
    transform = Transform(replace(backbone.preprocess, size=SIZE))
    x = transform(torch.from_numpy(images.read(np.arange(140))), images.keys)
    chain = StageChain(backbone.model, backbone.stages()[:boundary])
    expected = np.concatenate(list(TorchPrefix(chain, RUNTIME, len(x)).run([x])))
    tolerance = 1e-4 if rows.array.dtype == np.float32 else 4e-3
    scale = np.abs(expected).max()
    assert np.abs(rows.array[:, 0] - expected).max() / scale < tolerance
    again = make_cache(backbone, boundary).rows(images, label="test")
    assert again.hit
    assert np.array_equal(again.array, rows.array)


@pytest.mark.usefixtures("cache")
def test_the_key_covers_what_changes_the_bytes(backbone: Backbone, images: ImageSet) -> None:
    top = len(backbone.stages())
    assert not make_cache(backbone, top).rows(images, label="a").hit
    assert not make_cache(backbone, top).rows(images.pick(np.arange(40)), label="a").hit
    flips = AugmentSpec(flip=True, rotate=20)
    two = make_cache(backbone, top, flips).rows(images, views=2, label="a")
    assert not two.hit
    assert two.array.shape[:2] == (140, 2)
    assert np.abs(two.array[:, 0] - two.array[:, 1]).max() > 0.01
    # Validation under the same augmentation is still the plain image, and shares its entry.
    assert make_cache(backbone, top, flips).rows(images, label="a").hit
    with torch.no_grad():
        weight = backbone.model.get_parameter("conv_stem.weight")
        weight.mul_(1.01)
        assert not make_cache(backbone, top).rows(images, label="a").hit
        weight.div_(1.01)
    assert len(list_cache()) == 4


@pytest.mark.usefixtures("cache")
def test_photos_that_another_pillow_decodes_are_other_images(
    backbone: Backbone, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, pixels in enumerate(images.read(np.arange(8))):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    photos = load_data(DataSpec(source=f"folder:{tmp_path / 'photos'}", size=32)).train
    top = len(backbone.stages())
    for few, versions in ((photos, 2), (images.pick(np.arange(4)), 1)):
        hits = [make_cache(backbone, top).rows(few, label="a").hit for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr("PIL.__version__", "0.0")
            hits.append(make_cache(backbone, top).rows(few, label="a").hit)
        assert hits == [False, True, versions == 1]


@pytest.mark.usefixtures("cache")
def test_an_interrupted_entry_goes_on(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = len(backbone.stages())
    whole = np.array(make_cache(backbone, top).rows(images, label="a").array)
    clear_cache()
    monkeypatch.setattr(cache_module, "TRANSFORMED_BYTES", 0)  # one batch at a time
    read: list[int] = []
    original = ImageSet.read

    def counting(self: ImageSet, rows: np.ndarray) -> np.ndarray:
        read.append(len(rows))
        if sum(read) > 128:
            raise KeyboardInterrupt
        return original(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSet, "read", counting)
        with pytest.raises(KeyboardInterrupt):
            make_cache(backbone, top).rows(images, label="a")
    (folder, size) = list_cache()[0]
    assert not (folder / "index.json").exists()
    done = size // whole[0].nbytes // 32 * 32
    assert 32 <= done < 128
    read.clear()
    monkeypatch.setattr(ImageSet, "read", lambda s, r: read.append(len(r)) or original(s, r))
    resumed = make_cache(backbone, top).rows(images, label="a")
    assert sum(read) == 140 - done
    assert np.array_equal(resumed.array, whole)
    # What the whole entry takes is kept with it, for every run that finds it.
    again = make_cache(backbone, top).rows(images, label="a")
    assert again.hit
    assert (again.entry, again.seconds) == (folder.name, resumed.seconds)
    assert again.seconds > 0


def rows_zeroed(folder: Path) -> None:
    with (folder / "rows.bin").open("r+b") as file:
        file.seek(5_000)
        file.write(bytes(100))


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def other_shape(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"shape": [140, 1, 7]}))


DAMAGES = {
    "zeroed": rows_zeroed,
    "rows cut": cut("rows.bin", 0.5),
    "rows emptied": cut("rows.bin", 0),
    "sums cut": cut("rows.sums", 0.5),
    "index cut": cut("index.json", 0.5),
    "index emptied": cut("index.json", 0),
    "other shape": other_shape,
    "rows gone": lambda folder: (folder / "rows.bin").unlink(),
}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_computed_again(
    damage: Callable[[Path], None],
    backbone: Backbone,
    images: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    top, few = len(backbone.stages()), images.pick(np.arange(40))
    whole = np.array(make_cache(backbone, top).rows(few, label="a").array)
    ((folder, _),) = list_cache()
    damage(folder)
    monkeypatch.setattr(cache_module, "_right", set())  # as in another process
    again = make_cache(backbone, top).rows(few, label="a")
    assert not again.hit
    assert np.array_equal(again.array, whole)
    assert [entry for entry, _ in list_cache()] == [folder]
    assert make_cache(backbone, top).rows(few, label="a").hit


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["rows.bin", "rows.sums", "partial.json"])
def test_damaged_rows_of_an_interrupted_entry_are_computed_again(
    name: str, backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = len(backbone.stages())
    whole = np.array(make_cache(backbone, top).rows(images, label="a").array)
    ((folder, _),) = list_cache()
    # As a kill leaves it: the index is written last.
    batch = json.loads((folder / "index.json").read_text())["batch"]
    begun = cache_module._Begun.of((whole.shape[-1],), Engine("torch", batch))
    write_json(folder / "partial.json", begun)
    (folder / "index.json").unlink()
    for part in ("rows.bin", "rows.sums"):
        cut(part, 0.5)(folder)
    content = bytearray((folder / name).read_bytes())
    content[4] ^= 255  # of the second sum
    (folder / name).write_bytes(content)
    found = make_cache(backbone, top).rows(images, label="a")
    assert found.computed == (140 - batch if name == "rows.sums" else 140)
    assert np.allclose(found.array, whole, atol=1e-4)


@pytest.mark.usefixtures("cache")
def test_pages_are_given_back_where_all_maps_are_too_large(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_maps", weakref.WeakSet())
    boundary = stage_index(backbone, "blocks.1.0")
    rows = make_cache(backbone, boundary).rows(images, label="a")
    other = make_cache(backbone, boundary).rows(images.pick(np.arange(40)), label="a")

    def resident_after_release() -> int:
        """Of this process's memory, bytes of mapped files."""
        rows.array.sum(dtype=np.float64)
        rows.release()
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(re.search(r"RssFile:\s+(\d+)", status)[1])  # type: ignore[index]

    monkeypatch.setattr(cache_module, "RESIDENT_BYTES", rows.array.nbytes + other.array.nbytes)
    kept = resident_after_release()
    monkeypatch.setattr(cache_module, "RESIDENT_BYTES", rows.array.nbytes)
    assert kept - resident_after_release() > 0.9 * rows.array.nbytes
    del other
    assert resident_after_release() > kept - 0.1 * rows.array.nbytes


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Files larger than `limit` cannot be written: the kernel's own error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("cache")
def test_a_full_disk_is_one_line_and_leaves_nothing(backbone: Backbone, images: ImageSet) -> None:
    boundary = make_cache(backbone, len(backbone.stages()))
    with file_size_limit(100_000), pytest.raises(HeadstartError, match="HEADSTART_CACHE moves"):
        boundary.rows(images, label="a")
    assert list_cache() == []
    assert not boundary.rows(images, label="a").hit


@pytest.mark.usefixtures("cache")
def test_the_footprint_is_what_gets_written(backbone: Backbone, images: ImageSet) -> None:
    boundary = stage_index(backbone, "blocks.4.0")
    needs = footprint(backbone, boundary, SIZE, 2 * len(images))
    augment = AugmentSpec(flip=True)
    rows = make_cache(backbone, boundary, augment).rows(images, views=2, label="a")
    assert rows.array.nbytes == needs.bytes
    (folder, _) = list_cache()[0]
    assert (folder / "rows.bin").stat().st_size == needs.bytes


@pytest.mark.usefixtures("cache")
def test_the_limit_evicts_the_least_recently_used(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = len(backbone.stages())
    boundary = make_cache(backbone, top)
    first = boundary.rows(images, label="a").array
    entry = first.nbytes / 1e9
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT_GB", str(entry * 1.5))
    boundary.rows(images.pick(np.arange(139)), label="b")
    assert [json.loads((f / "index.json").read_text())["shape"][0] for f, _ in list_cache()] == [
        139
    ]
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT_GB", str(entry / 2))
    with pytest.raises(HeadstartError, match="raise --cache-limit"):
        boundary.rows(images, label="c")
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT_GB", "lots")
    with pytest.raises(HeadstartError, match="not a number of GB"):
        boundary.rows(images, label="d")


@pytest.mark.usefixtures("cache")
def test_who_waited_for_an_entry_that_was_removed_computes_it(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(backbone, 1)
    first = cache.rows(images, label="test", keep=False).array
    ((folder, lock),) = [(path.with_suffix(""), path) for path in entries_root().glob("*.lock")]
    waits, flock = threading.Event(), fcntl.flock

    def announced(*arguments: Any) -> None:
        waits.set()
        flock(*arguments)

    with ThreadPoolExecutor(1) as pool, lock.open("w") as held:
        flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", announced)
        other = pool.submit(cache.rows, images, label="test", keep=False)
        assert waits.wait(60)
        shutil.rmtree(folder, ignore_errors=True)  # as whoever held the lock would
        flock(held, fcntl.LOCK_UN)
        assert np.array_equal(other.result(60).array, first)
    assert not folder.exists()


@pytest.mark.usefixtures("cache")
def test_an_entry_that_is_being_removed_is_not_counted(
    backbone: Backbone, images: ImageSet
) -> None:
    make_cache(backbone, 1).rows(images, label="test")
    ((folder, size),) = list_cache()
    going = folder.with_name("0" * len(folder.name))
    going.mkdir()
    (going / "rows.bin").symlink_to("gone")
    assert list_cache() == [(folder, size)]


@pytest.mark.usefixtures("cache")
def test_only_entries_are_counted_and_removed(
    backbone: Backbone, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_cache(backbone, 1).rows(images, label="test").array
    ((folder, _),) = list_cache()
    foreign = folder.with_name("photos")
    foreign.mkdir()
    (foreign / "mine.jpg").write_bytes(bytes(100))
    folder.with_name("f" * len(folder.name)).touch()
    assert [entry for entry, _ in list_cache()] == [folder]
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT_GB", str(1.5 * first.nbytes / 1e9))
    make_cache(backbone, 1).rows(images.pick(np.arange(139)), label="test")
    assert (foreign / "mine.jpg").exists() and not folder.exists()
    ((other, _),) = list_cache()
    with other.with_suffix(".lock").open("w") as held:  # as a process that writes it
        fcntl.flock(held, fcntl.LOCK_EX)
        clear_cache()
        assert other.exists()
    clear_cache()
    assert (foreign / "mine.jpg").exists() and list_cache() == []
