"""Corruptions: they grow with severity and depend on the image alone."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.data.corruptions import CORRUPTIONS, Corruption, corrupt
from headstart.data.images import ImageSet, PlanarPixels, build_image_set
from headstart.data.sources.mini import open_mini

KINDS = pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    test = open_mini().test
    assert test is not None
    return test.pick(np.arange(0, 500, 10))


@pytest.fixture(scope="module")
def large() -> ImageSet:
    """Eight pictures of 96 pixels, mosaics of real ones."""
    test = open_mini().test
    assert test is not None
    tiles = test.read(np.arange(72)).reshape(8, 3, 3, 32, 32, 3)
    pixels = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(8, 96, 96, 3)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(8, -1)
    return build_image_set(PlanarPixels(planes, 96), [f"m/{i}" for i in range(8)], np.arange(8) % 2)


def read_all(images: ImageSet) -> np.ndarray:
    return images.read(np.arange(len(images)))


def distances(images: ImageSet, corruption: Corruption) -> np.ndarray:
    """float64 (severities, n): root mean square difference from the clean image, 0..255."""
    clean = read_all(images).astype(np.float64)
    return np.stack(
        [
            np.sqrt(
                ((read_all(corrupt(images, corruption, s, 0)) - clean) ** 2).mean(axis=(1, 2, 3))
            )
            for s in range(1, 6)
        ]
    )


def test_there_are_five_kinds_of_five_severities() -> None:
    assert len(CORRUPTIONS) == 5
    assert {len(c.small) for c in CORRUPTIONS} | {len(c.large) for c in CORRUPTIONS} == {5}


@KINDS
def test_severity_takes_images_further_away(images: ImageSet, corruption: Corruption) -> None:
    found = distances(images, corruption).mean(axis=1)
    assert found[0] > 0.5
    assert (np.diff(found) > 0).all(), found


@KINDS
def test_severity_takes_large_images_further_away(large: ImageSet, corruption: Corruption) -> None:
    found = distances(large, corruption).mean(axis=1)
    assert (np.diff(found) > 0).all(), found


@KINDS
def test_pixels_depend_on_the_image_alone(images: ImageSet, corruption: Corruption) -> None:
    whole = read_all(corrupt(images, corruption, 3, 0))
    shuffled = np.random.default_rng(0).permutation(len(images))
    again = corrupt(images.pick(shuffled), corruption, 3, 0)
    one_by_one = np.concatenate([again.read(np.array([i])) for i in range(len(again))])
    np.testing.assert_array_equal(one_by_one, whole[shuffled])


@KINDS
def test_labels_and_ids_stay_and_content_does_not(images: ImageSet, corruption: Corruption) -> None:
    corrupted = corrupt(images, corruption, 1, 0)
    np.testing.assert_array_equal(corrupted.ids, images.ids)
    np.testing.assert_array_equal(corrupted.labels, images.labels)
    assert corrupted.side == images.side
    prints = {corrupt(images, corruption, s, 0).fingerprint for s in range(1, 6)}
    assert len(prints | {images.fingerprint}) == 6


def test_noise_differs_between_images_and_seeds(images: ImageSet) -> None:
    noise = CORRUPTIONS[0]
    same = images.pick(np.zeros(2, np.int64))  # one picture twice, under two keys
    twice = ImageSet(same.ids, same.labels, images.keys[:2].copy(), same.rows, same.store)
    first, second = read_all(corrupt(twice, noise, 3, 0))
    assert (first != second).mean() > 0.5
    other = read_all(corrupt(twice, noise, 3, 1))
    assert (first != other[0]).mean() > 0.5


def test_noise_has_the_stated_deviation() -> None:
    grey = np.full((4, 3 * 64 * 64), 128, np.uint8)
    images = build_image_set(PlanarPixels(grey, 64), list("abcd"), np.zeros(4))
    noise = read_all(corrupt(images, CORRUPTIONS[0], 5, 0)) / 255
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert noise.mean() == pytest.approx(128 / 255, abs=0.002)


def test_brightness_keeps_hue_and_raises_black() -> None:
    pixels = np.zeros((1, 3, 32, 32), np.uint8)
    pixels[0, 0, :16], pixels[0, 1, :16] = 100, 50  # orange above, black below
    images = build_image_set(PlanarPixels(pixels.reshape(1, -1), 32), ["a"], np.zeros(1))
    brightness = next(c for c in CORRUPTIONS if c.name == "brightness")
    bright = read_all(corrupt(images, brightness, 4, 0))[0]
    np.testing.assert_array_equal(bright[0, 0], [151, 76, 0])  # 100 + 0.2 * 255, and its half
    np.testing.assert_array_equal(bright[31, 31], [51, 51, 51])


def test_contrast_keeps_each_channels_mean(images: ImageSet) -> None:
    contrast = next(c for c in CORRUPTIONS if c.name == "contrast")
    clean, flat = read_all(images), read_all(corrupt(images, contrast, 5, 0))
    np.testing.assert_allclose(flat.mean(axis=(1, 2)), clean.mean(axis=(1, 2)), atol=0.5)
    np.testing.assert_allclose(flat.std(axis=(1, 2)), 0.15 * clean.std(axis=(1, 2)), atol=0.5)


def test_settings_are_in_words(images: ImageSet, large: ImageSet) -> None:
    assert CORRUPTIONS[0].setting(3, images.side) == "sigma 0.08"
    assert CORRUPTIONS[0].setting(3, large.side) == "sigma 0.18"
