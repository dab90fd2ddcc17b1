"""Duplicates: planted copies of real images are found, other images of a class are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from headstart.data.check.alignment import correlate, detail, enlarge
from headstart.data.check.duplicates import (
    content_name,
    find_duplicates,
    find_split_duplicates,
    known_duplicates,
)
from headstart.data.check.pairs import Features, find_pairs, unit_rows
from headstart.data.images import ImageSet, PlanarPixels, build_image_set
from headstart.data.loading import load_data
from headstart.data.sources.cifar import CIFARS, find, open_cifar
from headstart.data.sources.mini import open_mini
from headstart.evaluation.duplicates import without_duplicates
from headstart.evaluation.predictions import Predictions
from headstart.specs import DataSpec

PLANTED = 60


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return open_mini().train


def as_set(pixels: np.ndarray, split: str) -> ImageSet:
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)
    ids = [f"{split}/{i}" for i in range(len(pixels))]
    return build_image_set(PlanarPixels(planes, 32), ids, np.zeros(len(pixels)))


def shifted(pixels: np.ndarray) -> np.ndarray:
    moved = np.roll(pixels, (2, -3), axis=(1, 2))
    moved[:, :2], moved[:, :, -3:] = pixels[:, :1], pixels[:, :, -1:]
    return moved


def brightened(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 0.7 + 60).clip(0, 255).astype(np.uint8)


def tinted(pixels: np.ndarray) -> np.ndarray:
    return (pixels * [1.0, 0.9, 0.8] + [20, 0, 10]).clip(0, 255).astype(np.uint8)


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[:, :, ::-1])


def enlarged(pixels: np.ndarray) -> np.ndarray:
    return enlarge(pixels, 1.12)


def resampled(pixels: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(p).resize((24, 24)).resize((32, 32))) for p in pixels]
    )


def all_of_it(pixels: np.ndarray) -> np.ndarray:
    return mirrored(shifted(tinted(pixels)))


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (shifted, 0.9),
        (brightened, 0.95),
        (tinted, 0.95),
        (mirrored, 1.0),
        (enlarged, 0.9),
        (resampled, 0.75),
        (all_of_it, 0.85),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_planted_copies_are_found(train: ImageSet, change: object, least: float) -> None:
    chosen = np.random.default_rng(0).choice(len(train), PLANTED, replace=False)
    planted = as_set(change(train.read(chosen)), "test")  # type: ignore[operator]
    pairs = find_pairs(planted, train)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    hits = [(i, row) in found for i, row in enumerate(chosen.tolist())]
    assert np.mean(hits) >= least
    if change in (mirrored, all_of_it):
        true = [
            i
            for i, pair in enumerate(zip(pairs.first, pairs.second, strict=True))
            if chosen[pair[0]] == pair[1]
        ]
        assert pairs.mirrored[true].mean() > 0.8


def test_other_images_of_a_class_are_not_found(train: ImageSet) -> None:
    pairs = find_pairs(train, train)
    # By the rate that CIFAR-10's own test images have, some of 2,000 have one, hardly 1 in 100.
    assert len(pairs) < 20
    assert (pairs.first < pairs.second).all()
    rows = np.random.default_rng(1).permutation(len(train))
    same_class = [r for r in rows if train.labels[r] == 0][:200]
    a, b = (detail(train.read(np.array(half))) for half in (same_class[:100], same_class[100:]))
    assert correlate(a, b).max() < 0.85


def test_the_same_picture_again_is_exact(train: ImageSet) -> None:
    pixels = train.read(np.arange(20))
    flat = np.full((1, 32, 32, 3), 255, np.uint8)
    noisy = (pixels.astype(np.int16) + 1).clip(0, 255).astype(np.uint8)
    first, second = (
        as_set(np.concatenate([noisy, flat]), "a"),
        as_set(np.concatenate([pixels, flat]), "b"),
    )
    pairs = find_pairs(first, second)
    found = set(zip(pairs.first[pairs.exact], pairs.second[pairs.exact], strict=True))
    assert {(i, i) for i in range(21)} <= found  # a flat picture too, though nothing correlates


def test_a_network_can_agree(train: ImageSet) -> None:
    """Between the two thresholds a pair counts where features are alike, and not otherwise."""
    pixels = train.read(np.arange(200))
    half = as_set(resampled(resampled(shifted(pixels))), "test")
    other = as_set(pixels, "train")
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.standard_normal((200, 64)).astype(np.float32))
    alone = len(find_pairs(half, other))
    agreed = find_pairs(half, other, Features(rows, rows, rows))
    assert len(agreed) > alone
    low = agreed.correlation < 0.9
    np.testing.assert_array_equal(agreed.first[low], agreed.second[low])
    strangers = unit_rows(rng.standard_normal((200, 64)).astype(np.float32))
    assert len(find_pairs(half, other, Features(rows, rows, strangers))) == alone


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_shipped_list_is_well_formed(name: str) -> None:
    known = known_duplicates(name)
    assert known is not None
    assert len(known) > 500
    assert {pair.kind for pair in known} <= {"exact", "near"}
    assert len({(pair.first, pair.second) for pair in known}) == len(known)
    assert all(len(bytes.fromhex(name)) == 8 for p in known for name in (p.first, p.second))
    assert all((pair.kind == "exact") >= (pair.first == pair.second) for pair in known)


def test_sources_without_a_list() -> None:
    assert known_duplicates("folder:photos") is None


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_shipped_list_holds_on_the_full_data(name: str) -> None:
    folder = find(CIFARS[name])
    if folder is None or not folder.is_dir():
        pytest.skip(f"needs {name} in $HEADSTART_DATA")
    source, known = open_cifar(CIFARS[name], folder), known_duplicates(name)
    assert known is not None and source.test is not None
    rng = np.random.default_rng(0)
    pairs = [known[i] for i in rng.choice(len(known), 200, replace=False)]
    places = {
        content_name(digest): (images, row)
        for images in (source.train, source.test)
        for row, digest in enumerate(images.digests)
    }

    def pixels(names: list[str]) -> np.ndarray:
        rows = (places[name] for name in names)
        return np.concatenate([images.read(np.array([row])) for images, row in rows])

    in_test = {content_name(digest) for digest in source.test.digests}
    assert all(pair.first in in_test and pair.second in places for pair in known)
    first, second = pixels([p.first for p in pairs]), pixels([p.second for p in pairs])
    turned = np.array([pair.mirrored for pair in pairs])
    second[turned] = second[turned][:, :, ::-1]
    best = correlate(detail(first), detail(second))
    for zoom in (1.08, 1.17, 1.27):
        best = np.maximum(best, correlate(detail(enlarge(first, zoom)), detail(second)))
        best = np.maximum(best, correlate(detail(first), detail(enlarge(second, zoom))))
    listed = np.array([pair.correlation for pair in pairs])
    np.testing.assert_allclose(best, listed, atol=0.002)
    cosines = np.array([pair.cosine for pair in pairs], float)
    assert ((listed >= 0.9) | ((listed >= 0.85) & (cosines >= 0.75))).all()


def test_only_duplicates_of_training_images_count() -> None:
    splits = load_data(DataSpec(source="cifar10-mini"))
    duplicated = find_split_duplicates(splits, "test").duplicated
    known = known_duplicates("cifar10-mini")
    assert known == known_duplicates("cifar10")
    assert splits.test.ids[duplicated].tolist() == ["test/3119", "test/8299", "test/9951"]
    known_pairs = find_duplicates(splits)
    assert known_pairs.images == {"test": 500, "val": 200, "train": 1800}
    pairs = known_pairs.pairs["test/train"]
    assert {pair.first for pair in pairs} == {"test/3119", "test/8299", "test/9951"}
    # They are what a search of the sample itself finds, but for what a network had to confirm.
    searched = find_pairs(splits.test, splits.train)
    again = set(
        zip(splits.test.ids[searched.first], splits.train.ids[searched.second], strict=True)
    )
    assert again == {(p.first, p.second) for p in pairs if p.correlation >= 0.9}
    fewer = load_data(DataSpec(source="cifar10-mini", train_limit=20))
    assert not find_split_duplicates(fewer, "test").duplicated.any()


def test_accuracy_without_duplicates() -> None:
    logits = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    test = Predictions(np.array(list("abcd")), np.array([0, 1, 1, 1]), logits)
    scores = without_duplicates(test, np.array([True, False, False, False]), "a list")
    assert (scores.n, scores.left_out) == (3, 1)
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.interval[0] < 2 / 3 < scores.interval[1]
    with pytest.raises(ValueError, match="every test image"):
        without_duplicates(test, np.ones(4, bool), "a list")
