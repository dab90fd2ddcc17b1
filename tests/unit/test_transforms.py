"""Views: pure functions of (seed, key, view), one warp, the weights' own scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from headstart.data import load_data
from headstart.data.hashing import uniforms
from headstart.features.feeds import draw_views
from headstart.models.identity import Preprocess
from headstart.specs import AugmentSpec, DataSpec
from headstart.views.transforms import Draws, Transform, erased_pixels, separable_warp

PLAIN = Preprocess(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
ALL = AugmentSpec(flip=True, rotate=15, zoom=0.2, shift=0.1, brightness=0.2, contrast=0.2)
EVERY = ALL.model_copy(update={"saturation": 0.4, "erasing": 0.5, "trivial": True})
MEAN_STD = ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


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
    out = Transform(PLAIN, AugmentSpec(flip=True), seed=0)(pixels, keys, 1)
    mirrored = torch.isclose(out, x.flip(-1), atol=1e-5).flatten(1).all(dim=1)
    same = torch.isclose(out, x, atol=1e-5).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 3 <= int(mirrored.sum()) <= 13


def test_shift_moves_by_at_most_its_share() -> None:
    pixels = torch.zeros(200, 32, 32, 3, dtype=torch.uint8)
    pixels[:, 15:17, 15:17] = 255
    keys = np.arange(200, dtype=np.uint64)
    out = Transform(PLAIN, AugmentSpec(shift=0.25), seed=0)(pixels, keys, 1)[:, 0]
    weight = out.sum(dim=(1, 2))
    centre = (out.sum(dim=1) * torch.arange(32)).sum(dim=1) / weight - 15.5
    assert centre.abs().max() <= 8.01
    assert centre.abs().max() > 6


def test_brightness_scales_and_contrast_keeps_the_mean() -> None:
    pixels = torch.full((50, 8, 8, 3), 100, dtype=torch.uint8)
    pixels[:, :4] = 60
    keys = np.arange(50, dtype=np.uint64)
    preprocess = Preprocess(8, (0.0,) * 3, (1.0,) * 3, "bilinear")
    bright = Transform(preprocess, AugmentSpec(brightness=0.3))(pixels, keys, 1) * 255
    ratio = bright[:, 0, 0, 0] / 60
    torch.testing.assert_close(bright[:, 0, 7, 0] / 100, ratio)
    assert 0.7 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.3
    contrast = Transform(preprocess, AugmentSpec(contrast=0.3))(pixels, keys, 1) * 255
    torch.testing.assert_close(contrast.mean(dim=(1, 2, 3)), torch.full((50,), 80.0))
    assert contrast.std(dim=(2, 3)).std() > 1


def test_uniforms_are_uniform_and_independent() -> None:
    u = uniforms(np.arange(20_000, dtype=np.uint64), 3, 7)
    assert np.abs(u.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 0.03
    assert np.abs(u - uniforms(np.arange(20_000, dtype=np.uint64), 3, 8)).mean() > 0.3


def first_views(x: torch.Tensor, keys: np.ndarray, spec: AugmentSpec, size: int) -> torch.Tensor:
    """The views as they were computed when there were seven draws: bilinear, unscaled, seed 3."""
    u = torch.from_numpy(uniforms(keys, 7, 3, 5)).to(torch.float32)
    spread = u.mul(2).sub(1)
    angle = math.radians(spec.rotate) * spread[:, 1]
    inverse_scale = 1 / (1 + spec.zoom * spread[:, 2])
    cosine, sine = angle.cos() * inverse_scale, angle.sin() * inverse_scale
    mirror = torch.where(u[:, 0] < 0.5, -1.0, 1.0) if spec.flip else torch.ones_like(angle)
    right, down = 2 * spec.shift * spread[:, 3], 2 * spec.shift * spread[:, 4]
    rows = (cosine * mirror, -sine, right, sine * mirror, cosine, down)
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(x), 3, size, size], False)
    x = F.grid_sample(x, grid, "bilinear", "reflection", align_corners=False)
    grey = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - grey) * (1 + spec.contrast * spread[:, 5]).view(-1, 1, 1, 1) + grey
    return (x * (1 + spec.brightness * spread[:, 6]).view(-1, 1, 1, 1)).clamp(0, 1)


@pytest.mark.parametrize("size", [32, 48])
def test_views_of_the_first_options_never_change(
    images: tuple[torch.Tensor, np.ndarray], size: int
) -> None:
    pixels, keys = images
    transform = Transform(Preprocess(size, (0.0,) * 3, (1.0,) * 3, "bilinear"), ALL, seed=3)
    out = transform(pixels, keys, 5)
    assert torch.equal(out, first_views(pixels.permute(0, 3, 1, 2) / 255, keys, ALL, size))
    if size == 32:  # the code before there were further options gave these
        recorded = [0.5203989004, 0.4455729774, 0.1763482237]
        torch.testing.assert_close(out.mean(dim=(2, 3))[:3, 0], torch.tensor(recorded))
        torch.testing.assert_close(out[3, 1, 7, 9].item(), 0.2995187342, atol=1e-5, rtol=0)


def test_draws_are_only_ever_appended() -> None:
    assert Draws._fields[:7] == (
        *("flip", "rotate", "zoom", "right", "down"),
        *("contrast", "brightness"),
    )
    keys = np.arange(100, dtype=np.uint64)
    assert (uniforms(keys, 7, 1, 2) == uniforms(keys, len(Draws._fields), 1, 2)[:, :7]).all()


@pytest.mark.parametrize(("size", "mode"), [(32, "bilinear"), (48, "bicubic"), (24, "bilinear")])
def test_every_option_together_is_pure(
    images: tuple[torch.Tensor, np.ndarray], size: int, mode: str
) -> None:
    pixels, keys = images
    transform = Transform(Preprocess(size, *MEAN_STD, mode), EVERY, seed=3)
    together = transform(pixels, keys, 5)
    assert together.shape == (16, 3, size, size)
    for batch_size in (1, 3):
        parts = [
            transform(pixels[i : i + batch_size], keys[i : i + batch_size], 5)
            for i in range(0, 16, batch_size)
        ]
        assert torch.equal(torch.cat(parts), together)
    shuffled = np.random.default_rng(0).permutation(16)
    assert torch.equal(transform(pixels[shuffled], keys[shuffled], 5), together[shuffled])
    mixed = transform(pixels, keys, np.array([5, 6] * 8))
    assert torch.equal(mixed[::2], together[::2])
    differ = (transform(pixels, keys, 6) != together).flatten(1).any(dim=1)
    assert differ.all()


def test_every_option_together_stays_in_the_range_of_pixels(
    images: tuple[torch.Tensor, np.ndarray],
) -> None:
    pixels, keys = images
    transform = Transform(Preprocess(48, (0.0,) * 3, (1.0,) * 3, "bicubic"), EVERY)
    for view in range(20):
        out = transform(pixels, keys, view)
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1


def test_saturation_keeps_the_grey() -> None:
    pixels = torch.tensor([120, 90, 60], dtype=torch.uint8).expand(200, 8, 8, 3)
    keys = np.arange(200, dtype=np.uint64)
    preprocess = Preprocess(8, (0.0,) * 3, (1.0,) * 3, "bilinear")
    out = Transform(preprocess, AugmentSpec(saturation=0.4))(pixels, keys, 1)[:, :, 0, 0] * 255
    grey = 0.299 * 120 + 0.587 * 90 + 0.114 * 60
    weights = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close((out * weights).sum(dim=1), torch.full((200,), grey))
    factors = (out[:, 0] - grey) / (120 - grey)
    assert 0.6 <= factors.min() < 0.62
    assert 1.38 < factors.max() <= 1.4001


def test_erasing_takes_whole_rectangles_of_the_stated_area() -> None:
    pixels = torch.full((2000, 16, 16, 3), 250, dtype=torch.uint8)
    keys = np.arange(2000, dtype=np.uint64)
    preprocess = Preprocess(96, *MEAN_STD, "bilinear")
    taken = []
    for i in range(0, 2000, 500):
        part = slice(i, i + 500)
        out = Transform(preprocess, AugmentSpec(erasing=0.6))(pixels[part], keys[part], 1)
        whole = Transform(preprocess)(pixels[part], keys[part])
        erased = out[:, 0] == 0
        assert torch.equal(out, torch.where(erased[:, None], 0, whole))  # in all channels or none
        taken.append(erased)
    erased = torch.cat(taken)
    chosen = erased[erased.flatten(1).any(dim=1)]
    assert abs(len(chosen) / 2000 - 0.6) < 0.04  # 3.6 standard deviations
    height, width = chosen.any(dim=2).sum(dim=1), chosen.any(dim=1).sum(dim=1)
    assert torch.equal(chosen.sum(dim=(1, 2)), height * width)
    for edges in (chosen.any(dim=2), chosen.any(dim=1)):  # one stretch: it begins once
        begins = edges.int().diff(dim=1, prepend=torch.zeros(len(edges), 1, dtype=torch.int))
        assert ((begins == 1).sum(dim=1) == 1).all()
    area = height * width / 96**2
    assert 0.018 <= area.min() < 0.03  # the least, rounded to whole pixels
    assert 0.31 < area.max() <= 0.34
    assert abs(area.mean() - 0.175) < 0.01
    aspect = (height / width).log()
    assert aspect.exp().min() >= 0.27
    assert aspect.exp().max() <= 3.6
    assert abs(aspect.mean()) < 0.06  # tall as often as wide
    share = chosen.float().mean(dim=0)
    torch.testing.assert_close(share, share.flip(0), atol=0.06, rtol=0)
    torch.testing.assert_close(share, share.flip(1), atol=0.06, rtol=0)
    for edge in (share[0], share[-1], share[:, 0], share[:, -1]):
        assert edge.max() > 0  # rectangles reach all four edges


@pytest.mark.parametrize(("place", "edge"), [(0.0, slice(0, 1)), (1.0, slice(-1, None))])
def test_the_largest_rectangle_keeps_its_area(place: float, edge: slice) -> None:
    # 0.33 of the area at 3.3 to 1 would be higher than the image: it spans it instead.
    fields = {"erase": 0.0, "erased_area": 1.0, "erased_aspect": 1.0, "erased_left": place}
    draws = Draws(*(torch.tensor([fields.get(name, 0.5)]) for name in Draws._fields))
    erased = erased_pixels(draws, 0.1, 96)
    assert erased[0].any(dim=1).all()
    assert erased[0, :, edge].all()
    assert abs(erased.float().mean() - 0.33) < 0.5 / 96


def test_a_cache_key_names_what_changes_a_view_and_nothing_else() -> None:
    first = {"flip": True, "rotate": 15.0, "zoom": 0.2, "shift": 0.1}
    first |= {"brightness": 0.2, "contrast": 0.2}
    described = Transform(PLAIN, ALL, seed=3).describe()
    assert described["augment"] == first  # as before there were further options
    mixing = ALL.model_copy(update={"mixup": 0.5, "cutmix": 0.5})
    assert Transform(PLAIN, mixing, seed=3).describe() == described
    for field, value in [("saturation", 0.1), ("erasing", 0.2), ("trivial", True)]:
        spec = ALL.model_copy(update={field: value})
        assert Transform(PLAIN, spec, seed=3).describe()["augment"] == {**first, field: value}
    only_mixed = Transform(PLAIN, AugmentSpec(mixup=0.2), seed=3)
    assert only_mixed.describe() == Transform(PLAIN).describe()


def test_mixing_is_no_matter_of_one_image(images: tuple[torch.Tensor, np.ndarray]) -> None:
    pixels, keys = images
    mixing = AugmentSpec(mixup=0.6, cutmix=0.4)
    assert mixing.per_image == AugmentSpec()
    assert not mixing.active
    assert torch.equal(
        Transform(PLAIN, mixing, seed=3)(pixels, keys, 5), Transform(PLAIN)(pixels, keys)
    )
    both = AugmentSpec(flip=True, trivial=True, cutmix=0.4)
    assert both.per_image == AugmentSpec(flip=True, trivial=True)
    assert both.active
    out = Transform(PLAIN, both, seed=3)(pixels, keys, 5)
    assert torch.equal(out, Transform(PLAIN, both.per_image, seed=3)(pixels, keys, 5))
    with pytest.raises(ValidationError, match=r"mixup and cutmix .* at most 1"):
        AugmentSpec(mixup=0.6, cutmix=0.5)


def test_the_resize_chain_is_taken_step_by_step() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    keys = np.arange(3, dtype=np.uint64)
    preprocess = Preprocess(96, (0.0,) * 3, (1.0,) * 3, "bilinear")
    transform = Transform(preprocess, via=(64,))
    chained = transform(pixels, keys)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    for size in (64, 96):
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    assert torch.allclose(chained, x, atol=1e-6)
    assert torch.equal(chained, transform.plain(pixels, keys))
    straight = Transform(preprocess)
    assert (straight(pixels, keys) - chained).abs().max() > 0.01
    assert straight.describe() != transform.describe()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 96, 40])
def test_rows_and_columns_apart_give_what_grid_sample_gives(interpolation: str, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 32, 32, generator=generator)
    affine = torch.zeros(16, 2, 3)
    affine[:, (0, 1), (0, 1)] = 0.7 + 0.6 * torch.rand(16, 2, generator=generator)
    affine[::2, 0, 0] *= -1
    affine[:, :, 2] = 1.4 * torch.rand(16, 2, generator=generator) - 0.7  # far past the edges
    expected = F.grid_sample(
        x,
        F.affine_grid(affine, [16, 3, size, size], False),
        mode=interpolation,
        padding_mode="reflection",
        align_corners=False,
    )
    assert (separable_warp(x, affine, size, interpolation) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("size", [33, 96, 224])
def test_small_images_are_enlarged_as_torch_does_it(
    images: tuple[torch.Tensor, np.ndarray], size: int
) -> None:
    pixels, keys = images
    got = Transform(Preprocess(size, (0.0,) * 3, (1.0,) * 3, "bicubic"))(pixels, keys)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    expected = F.interpolate(x, size=(size, size), mode="bicubic", align_corners=False)
    assert (got - expected.clamp(0, 1)).abs().max() < 1e-4


@pytest.mark.parametrize("augment", [AugmentSpec(), AugmentSpec(flip=True, shift=0.1)])
def test_pixels_are_never_rounded_by_autocast(
    images: tuple[torch.Tensor, np.ndarray], augment: AugmentSpec
) -> None:
    transform = Transform(Preprocess(96, *MEAN_STD, "bicubic"), augment)
    expected = transform(*images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(transform(*images), expected)


@pytest.mark.parametrize("rotate", [0.0, 1e-4])
def test_views_smaller_than_their_images_are_averaged_too(
    images: tuple[torch.Tensor, np.ndarray], rotate: float
) -> None:
    pixels, keys = images
    small = Preprocess(16, *MEAN_STD, "bilinear")
    plain = Transform(small)(pixels, keys)
    views = Transform(small, AugmentSpec(flip=True, rotate=rotate), seed=1)(pixels, keys, 1)
    either = torch.stack([(views - plain).abs(), (views - plain.flip(3)).abs()])
    assert either.mean(dim=(2, 3, 4)).amin(dim=0).max() < 0.01  # single taps: up to 0.3


def test_the_first_view_is_the_plain_image(images: tuple[torch.Tensor, np.ndarray]) -> None:
    pixels, keys = images
    transform = Transform(PLAIN, AugmentSpec(flip=True, shift=0.3, contrast=0.4), seed=3)
    plain, changed = transform.plain(pixels, keys), transform(pixels, keys, 2)
    assert torch.equal(transform(pixels, keys, 0), plain)
    assert (changed - plain).abs().max() > 0.1
    # Among others, whatever the order.
    views = np.arange(len(keys)) % 2 * 2
    mixed = transform(pixels, keys, views)
    assert torch.equal(mixed[views == 0], plain[views == 0])
    assert torch.allclose(mixed[views == 2], changed[views == 2], atol=1e-6)


def test_a_new_view_each_epoch_is_never_the_plain_image() -> None:
    keys = np.arange(5, dtype=np.uint64)
    drawn = [draw_views(keys, 0, 7, epoch).tolist() for epoch in range(3)]
    assert drawn == [[1] * 5, [2] * 5, [3] * 5]
