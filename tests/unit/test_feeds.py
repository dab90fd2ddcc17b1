"""Feeds: rows that stay on the device, and batches read ahead, are the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.data.images import ImageSet, build_image_set
from headstart.features import feeds, resident
from headstart.features.cache import BoundaryCache
from headstart.features.engines import StageChain, TorchPrefix
from headstart.features.feeds import Batch, CachedFeed, Feed, PixelFeed, batches, reads_ahead
from headstart.features.resident import DeviceRows
from headstart.machine.host import memory_bytes
from headstart.machine.progress import Reporter
from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.backbones import create_backbone
from headstart.models.identity import Preprocess
from headstart.specs import AugmentSpec, BackboneSpec
from headstart.views.transforms import Transform

RUNTIME = create_runtime("cpu")
SIDE, COUNT = 8, 37
PREPROCESS = Preprocess(12, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
AUGMENT = AugmentSpec(flip=True, shift=0.1, trivial=True, erasing=0.5)
ROOMY, NONE = 10**9, 0


@dataclass(frozen=True, eq=False)
class CountingStore:
    """Noise whose reads are written down."""

    pixels: np.ndarray
    reads: list[int] = field(default_factory=list)
    side: int = SIDE
    slow_to_read: bool = False

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.reads.extend(rows.tolist())
        return self.pixels[rows]

    def digests(self, rows: np.ndarray) -> list[bytes]:
        raise NotImplementedError


def make_images() -> tuple[ImageSet, CountingStore]:
    rng = np.random.default_rng(0)
    store = CountingStore(rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8))
    return build_image_set(store, [f"i{n}" for n in range(COUNT)], np.arange(COUNT) % 5), store


def pixel_feed() -> PixelFeed:
    return PixelFeed(make_images()[0], Transform(PREPROCESS, AUGMENT, seed=3), RUNTIME)


def cached_feed() -> CachedFeed:
    array = np.random.default_rng(1).normal(size=(COUNT, 4, 2, 3, 3)).astype(np.float16)
    keys = np.arange(COUNT, dtype=np.uint64)
    return CachedFeed(array, np.arange(COUNT) % 5, keys, 7, RUNTIME)


FEEDS = pytest.mark.parametrize("make", [pixel_feed, cached_feed])


def take(feed: Feed, **options: bool) -> list[Batch]:
    """Two epochs in two orders, then an evaluation, in batches of 8."""
    rng = np.random.default_rng(2)
    taken = []
    for epoch in (0, 1):
        taken += batches(feed, rng.permutation(COUNT), 8, epoch, RUNTIME, **options)
    with torch.inference_mode():
        taken += batches(feed, np.arange(COUNT), 8, None, RUNTIME)
    return taken


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) == 3 * 5
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and np.array_equal(a.keys, b.keys)
        assert a.x.stride() == b.x.stride()


@FEEDS
def test_rows_that_stay_on_the_device_change_no_bit(
    make: Callable[[], Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = take(make(), successor=True)
    monkeypatch.setattr(resident, "room_bytes", lambda runtime, **_: ROOMY)
    assert_same(take(make(), successor=True), streamed)


@FEEDS
def test_reading_ahead_changes_no_bit(
    make: Callable[[], Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = take(make(), successor=True)
    monkeypatch.setattr(Runtime, "overlaps", True)
    assert_same(take(make(), successor=True), plain)
    monkeypatch.setattr(resident, "room_bytes", lambda runtime, **_: ROOMY)
    assert_same(take(make(), successor=True), plain)


@pytest.mark.parametrize("room", [NONE, ROOMY])
def test_the_frozen_pass_reads_ahead_and_changes_no_bit(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, store = make_images()
    transform = Transform(PREPROCESS, AUGMENT, seed=3)
    backbone = create_backbone(BackboneSpec(name="small_cnn", weights="random"))
    cache = BoundaryCache(backbone, 1, transform, RUNTIME, Reporter())
    plain = list(cache._batches(images, transform, 3, 32, 16))
    monkeypatch.setattr(Runtime, "overlaps", True)
    monkeypatch.setattr(resident, "room_bytes", lambda runtime, **_: room)
    store.reads.clear()
    got = list(cache._batches(images, transform, 3, 32, 16))
    assert all(torch.equal(a, b) for a, b in zip(plain, got, strict=True))
    assert sum(map(len, got)) == 3 * COUNT - 32
    assert len(store.reads) < COUNT + 4  # an image once, or twice where a batch parts its views


def test_torch_gives_the_rows_of_each_batch_in_turn() -> None:
    backbone = create_backbone(BackboneSpec(name="small_cnn", weights="random"))
    chain = StageChain(backbone.model, backbone.stages()[:2])
    sent = [torch.rand(rows, 3, 32, 32) for rows in (4, 4, 3)]
    taken: list[int] = []

    def inputs() -> Iterator[torch.Tensor]:
        for number, batch in enumerate(sent):
            taken.append(number)
            yield batch

    for number, rows in enumerate(TorchPrefix(chain, RUNTIME, 4).run(inputs())):
        with torch.inference_mode():
            assert np.array_equal(rows, chain(sent[number]).numpy())
        # The device has been given the next batch when the host gets this one's rows.
        assert taken == list(range(min(number + 2, len(sent))))


def test_a_batch_carries_its_own_labels_and_its_successors() -> None:
    feed = cached_feed()
    order = np.random.default_rng(2).permutation(COUNT)
    taken = list(batches(feed, order, 8, 0, RUNTIME, first_step=1, successor=True))
    assert [len(batch.keys) for batch in taken] == [8, 8, 8, 5]
    labels = feed.labels[np.append(order, order[0])]
    for number, batch in enumerate(taken, start=1):
        first, last = 8 * number, min(8 * number + 8, COUNT)
        assert batch.y.tolist() == labels[first : last + 1].tolist()
        assert batch.keys.tolist() == order[first:last].tolist()
        rows = np.append(order, order[0])[first : last + 1]
        views = feeds.draw_views(feed.keys[rows], 4, 7, 0)
        assert np.array_equal(batch.x.numpy(), feed.array[rows, views].astype(np.float32))


def test_an_image_that_stays_is_read_once() -> None:
    images, store = make_images()
    rows = DeviceRows(images.read, COUNT, images.image_bytes, RUNTIME, limit_bytes=ROOMY)
    for wanted in ([3, 1, 3, 2], [2, 5], [5, 1, 3]):
        assert np.array_equal(rows.prepare(np.array(wanted))().numpy(), store.pixels[wanted])
    assert sorted(store.reads) == [1, 2, 3, 5]


def test_an_image_that_does_not_fit_is_read_once_a_batch() -> None:
    images, store = make_images()
    rows = DeviceRows(images.read, COUNT, images.image_bytes, RUNTIME, limit_bytes=NONE)
    for wanted in ([3, 1, 3, 2], [3, 2]):
        assert np.array_equal(rows.prepare(np.array(wanted))().numpy(), store.pixels[wanted])
    assert store.reads == [1, 2, 3, 3, 2]


def test_what_was_prepared_and_never_used_is_read_again() -> None:
    images, store = make_images()
    rows = DeviceRows(images.read, COUNT, images.image_bytes, RUNTIME, limit_bytes=ROOMY)
    rows.prepare(np.array([4, 6]))  # as when a phase ends while a thread reads ahead
    assert np.array_equal(rows.prepare(np.array([6, 4]))().numpy(), store.pixels[[6, 4]])
    assert store.reads == [4, 6, 4, 6]


def test_rows_made_in_an_evaluation_can_be_written_in_training() -> None:
    images, store = make_images()
    rows = DeviceRows(images.read, COUNT, images.image_bytes, RUNTIME, limit_bytes=ROOMY)
    with torch.inference_mode():
        rows.prepare(np.array([0]))()
    assert np.array_equal(rows.prepare(np.array([1]))().numpy(), store.pixels[[1]])


def test_what_may_stay_is_what_fits() -> None:
    images, _ = make_images()
    size = COUNT * images.image_bytes
    assert size == COUNT * 3 * SIDE * SIDE
    for limit, stays in ((size, True), (size - 1, False), (None, False)):
        rows = DeviceRows(images.read, COUNT, images.image_bytes, RUNTIME, limit_bytes=limit)
        assert rows.resident is stays


def test_photos_are_decoded_once_a_phase_on_a_cpu_too() -> None:
    for slow_to_read, epochs_read in ((False, 3), (True, 1)):
        images, store = make_images()
        feed = PixelFeed(
            replace(images, store=replace(store, slow_to_read=slow_to_read)),
            Transform(PREPROCESS),
            RUNTIME,
        )
        taken = take(feed)
        assert sorted(store.reads) == sorted([*range(COUNT)] * epochs_read)
        assert np.array_equal(taken[-1].keys, images.keys[-5:])


def test_room_is_a_share_of_free_cuda_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident.room_bytes(RUNTIME) == 0
    assert resident.room_bytes(RUNTIME, slow_to_read=True) == int(0.1 * memory_bytes())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert resident.room_bytes(Runtime(torch.device("cuda"))) == 100


def test_a_thread_reads_ahead_on_cuda_and_from_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Runtime(torch.device("cuda"))
    assert not reads_ahead(pixel_feed(), RUNTIME)
    assert not reads_ahead(cached_feed(), RUNTIME)
    assert reads_ahead(pixel_feed(), cuda)
    assert reads_ahead(cached_feed(), cuda)
    nbytes = cached_feed().array.nbytes
    monkeypatch.setattr(feeds, "memory_bytes", lambda: 2 * nbytes - 1)
    assert reads_ahead(cached_feed(), RUNTIME)
    monkeypatch.setattr(feeds, "memory_bytes", lambda: 2 * nbytes)
    assert not reads_ahead(cached_feed(), RUNTIME)
