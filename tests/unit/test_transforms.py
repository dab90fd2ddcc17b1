"""Views: pure functions of (seed, key, view), one warp, the weights' own scaling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headstart.data import load_data
from headstart.data.hashing import uniforms
from headstart.data.transforms import Transform
from headstart.models.identity import Preprocess
from headstart.recipe import AugmentSpec, DataSpec

PLAIN = Preprocess(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
ALL = AugmentSpec(flip=True, rotate=15, zoom=0.2, shift=0.1, brightness=0.2, contrast=0.2)


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, np.ndarray]:
    test = load_data(DataSpec(source="cifar10-mini", size=32)).test
    return torch.from_numpy(test.read(np.arange(16))), test.keys[:16]


def test_plain_is_scaling_alone(images: tuple[torch.Tensor, np.ndarray]) -> None:
    pixels, keys = images
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    x = Transform(Preprocess(32, mean, std, "bilinear"))(pixels, keys)
    expected = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / (
        torch.tensor(std).view(1, 3, 1, 1)
    )
    torch.testing.assert_close(x, expected)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_resize_keeps_the_picture(images: tuple[torch.Tensor, np.ndarray]) -> None:
    pixels, keys = images
    large = Transform(Preprocess(64, (0.0,) * 3, (1.0,) * 3, "bicubic"))(pixels, keys)
    assert large.shape == (16, 3, 64, 64)
    assert large.min() >= 0
    assert large.max() <= 1
    back = torch.nn.functional.avg_pool2d(large, 2)
    assert (back - pixels.permute(0, 3, 1, 2) / 255).abs().mean() < 0.02


def test_a_view_depends_on_seed_key_and_number_alone(
    images: tuple[torch.Tensor, np.ndarray],
) -> None:
    pixels, keys = images
    transform = Transform(PLAIN, ALL, seed=3)
    together = transform(pixels, keys, 5)
    alone = torch.cat([transform(pixels[i : i + 1], keys[i : i + 1], 5) for i in range(16)])
    torch.testing.assert_close(together, alone)
    mixed = transform(pixels, keys, np.array([5, 6] * 8))
    torch.testing.assert_close(mixed[::2], together[::2])
    assert not torch.allclose(mixed[1::2], together[1::2])
    assert not torch.allclose(Transform(PLAIN, ALL, seed=4)(pixels, keys, 5), together)


def test_flip_mirrors_half_of_them_exactly(images: tuple[torch.Tensor, np.ndarray]) -> None:
    pixels, keys = images
    x = pixels.permute(0, 3, 1, 2).float() / 255
    out = Transform(PLAIN, AugmentSpec(flip=True), seed=0)(pixels, keys, 0)
    mirrored = torch.isclose(out, x.flip(-1), atol=1e-5).flatten(1).all(dim=1)
    same = torch.isclose(out, x, atol=1e-5).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 3 <= int(mirrored.sum()) <= 13


def test_shift_moves_by_at_most_its_share() -> None:
    pixels = torch.zeros(200, 32, 32, 3, dtype=torch.uint8)
    pixels[:, 15:17, 15:17] = 255
    keys = np.arange(200, dtype=np.uint64)
    out = Transform(PLAIN, AugmentSpec(shift=0.25), seed=0)(pixels, keys, 0)[:, 0]
    weight = out.sum(dim=(1, 2))
    centre = (out.sum(dim=1) * torch.arange(32)).sum(dim=1) / weight - 15.5
    assert centre.abs().max() <= 8.01
    assert centre.abs().max() > 6


def test_brightness_scales_and_contrast_keeps_the_mean() -> None:
    pixels = torch.full((50, 8, 8, 3), 100, dtype=torch.uint8)
    pixels[:, :4] = 60
    keys = np.arange(50, dtype=np.uint64)
    preprocess = Preprocess(8, (0.0,) * 3, (1.0,) * 3, "bilinear")
    bright = Transform(preprocess, AugmentSpec(brightness=0.3))(pixels, keys, 0) * 255
    ratio = bright[:, 0, 0, 0] / 60
    torch.testing.assert_close(bright[:, 0, 7, 0] / 100, ratio)
    assert 0.7 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.3
    contrast = Transform(preprocess, AugmentSpec(contrast=0.3))(pixels, keys, 0) * 255
    torch.testing.assert_close(contrast.mean(dim=(1, 2, 3)), torch.full((50,), 80.0))
    assert contrast.std(dim=(2, 3)).std() > 1


def test_uniforms_are_uniform_and_independent() -> None:
    u = uniforms(np.arange(20_000, dtype=np.uint64), 3, 7)
    assert np.abs(u.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 0.03
    assert np.abs(u - uniforms(np.arange(20_000, dtype=np.uint64), 3, 8)).mean() > 0.3
