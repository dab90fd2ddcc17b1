"""TrivialAugment: each operation is Pillow's, each as likely, all geometry in one warp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from headstart.data.hashing import uniforms
from headstart.models.identity import Preprocess
from headstart.specs import AugmentSpec
from headstart.views import colour, trivial
from headstart.views.transforms import Draws, Transform

SIDE = 48
PLAIN = Preprocess(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
COUNT = 300

Reference = Callable[[Image.Image, float], Image.Image]


def factor(u: float) -> float:
    return 1 + 0.99 * (2 * u - 1)


# What Pillow makes of an image at strength u, and how many of 255 levels its rounding may differ.
PILLOW: dict[str, tuple[Reference, float]] = {
    "brightness": (lambda i, u: ImageEnhance.Brightness(i).enhance(factor(u)), 1.0),
    # Pillow rounds the grey to a level before it blends with up to twice the difference.
    "saturation": (lambda i, u: ImageEnhance.Color(i).enhance(factor(u)), 2.0),
    "contrast": (lambda i, u: ImageEnhance.Contrast(i).enhance(factor(u)), 2.0),
    "sharpness": (lambda i, u: ImageEnhance.Sharpness(i).enhance(factor(u)), 2.0),
    "posterize": (lambda i, u: ImageOps.posterize(i, 8 - int(u * 7)), 0.01),
    "solarize": (lambda i, u: ImageOps.solarize(i, u * 255), 0.01),
    "autocontrast": (lambda i, u: ImageOps.autocontrast(i), 1.01),
    "equalize": (lambda i, u: ImageOps.equalize(i), 0.01),
}


def smooth_images(count: int, side: int = SIDE) -> torch.Tensor:
    """uint8 (count, side, side, 3): random colours that vary slowly, of various ranges."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    low, high = torch.rand(2, count, 3, 1, 1, generator=generator)
    x = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True).clamp(0, 1)
    return ((low + (high - low) * x) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def to_levels(x: torch.Tensor) -> np.ndarray:
    """float (3, side, side) in 0..1 to float (side, side, 3) in 0..255."""
    return x.permute(1, 2, 0).mul(255).numpy()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return smooth_images(COUNT)


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    return np.arange(COUNT, dtype=np.uint64)


@pytest.fixture(scope="module")
def drawn(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of operations and strengths of each image, view 0, seed 0."""
    uniform = uniforms(keys, len(Draws._fields), 0, 1)
    chosen = trivial.choose(uniform[:, Draws._fields.index("operation")])
    return np.array(trivial.OPERATIONS)[chosen], uniform[:, Draws._fields.index("strength")]


def test_the_space_is_the_paper_s() -> None:
    assert len(trivial.OPERATIONS) == 14
    assert set(PILLOW) == set(trivial.COLOUR)


@pytest.mark.parametrize("name", trivial.COLOUR)
def test_colour_operations_are_pillow_s(
    name: str, pixels: torch.Tensor, keys: np.ndarray, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    names, strengths = drawn
    rows = np.flatnonzero(names == name)
    assert len(rows) >= 8
    # In the company of all others, as training has them.
    out = Transform(PLAIN, AugmentSpec(trivial=True))(pixels, keys, 1)
    reference, tolerance = PILLOW[name]
    for row in rows:
        expected = np.asarray(reference(Image.fromarray(pixels[row].numpy()), strengths[row]))
        assert np.abs(to_levels(out[row]) - expected).max() <= tolerance


@pytest.mark.parametrize("name", trivial.COLOUR)
def test_colour_operations_on_noise_and_on_flat_channels(name: str) -> None:
    noise = np.random.default_rng(0).integers(30, 220, (6, 24, 24, 3), dtype=np.uint8)
    noise[0, :, :, 1] = 77  # one value
    noise[1, :, :, 0] = np.where(noise[1, :, :, 0] > 125, 200, 10)  # two
    noise[2, :, :, 2] = 0
    noise[2, 3, 4, 2] = 255  # all but one pixel at the lowest
    noise[3, :, :, 0] = 90
    noise[3, 3, 4, 0] = 20  # all but one at the highest: too few below to share out
    x = torch.from_numpy(noise).permute(0, 3, 1, 2) / 255
    before = x.clone()
    out = trivial.COLOUR[name](x, torch.full((6,), 0.7)).clamp(0, 1)
    assert torch.equal(x, before)
    reference, tolerance = PILLOW[name]
    for i in range(6):
        expected = np.asarray(reference(Image.fromarray(noise[i]), 0.7))
        assert np.abs(to_levels(out[i]) - expected).max() <= tolerance


def test_a_factor_of_one_changes_nothing(pixels: torch.Tensor) -> None:
    x = pixels[:4].permute(0, 3, 1, 2) / 255
    ones = torch.ones(4)
    for operation in (colour.brightness, colour.saturation, colour.contrast, colour.sharpness):
        torch.testing.assert_close(operation(x, ones), x)
    torch.testing.assert_close(colour.posterize(x, 8 * ones), x)


def coefficients(name: str, strength: float) -> tuple[float, ...]:
    """Pillow's affine coefficients: output pixels to source pixels."""
    signed = 2 * strength - 1
    return {
        "identity": (1, 0, 0, 0, 1, 0),
        "shear_x": (1, 0.99 * signed, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.99 * signed, 1, 0),
        "translate_x": (1, 0, 32 * signed, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 32 * signed),
    }[name]


def warp_with_pillow(image: Image.Image, name: str, strength: float) -> Image.Image:
    if name == "rotate":
        return image.rotate(135 * (2 * strength - 1), Image.Resampling.BILINEAR)
    method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, coefficients(name, strength), bilinear)


@pytest.mark.parametrize("name", trivial.GEOMETRY)
@pytest.mark.parametrize("flip", [False, True])
def test_geometry_is_pillow_s_after_a_flip(
    name: str,
    flip: bool,
    pixels: torch.Tensor,
    keys: np.ndarray,
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    names, strengths = drawn
    rows = np.flatnonzero(names == name)
    assert len(rows) >= 8
    mirrored = uniforms(keys, 1, 0, 1)[:, 0] < 0.5
    out = Transform(PLAIN, AugmentSpec(trivial=True, flip=flip))(pixels, keys, 1)
    compared = 0
    for row in rows:
        image = Image.fromarray(pixels[row].numpy())
        if flip and mirrored[row]:
            image = ImageOps.mirror(image)
        expected = np.asarray(warp_with_pillow(image, name, strengths[row]), float)
        # Beyond the picture Pillow fills with black and we reflect; its margin is left out too.
        white = Image.new("L", (SIDE - 4, SIDE - 4), 255)
        inside = ImageOps.expand(white, 2)
        inside = np.asarray(warp_with_pillow(inside, name, strengths[row])) == 255
        difference = np.abs(to_levels(out[row]) - expected)[inside]
        compared += inside.sum()
        assert difference.max(initial=0) <= 2.0
    assert compared > 0.3 * len(rows) * SIDE**2


def test_what_comes_into_view_is_a_reflection() -> None:
    pixels, keys = torch.full((COUNT, 16, 16, 3), 200, dtype=torch.uint8), np.arange(COUNT)
    uniform = uniforms(keys.astype(np.uint64), len(Draws._fields), 0, 1)
    chosen = trivial.choose(uniform[:, Draws._fields.index("operation")])
    geometric = chosen < len(trivial.GEOMETRY)
    out = Transform(PLAIN, AugmentSpec(trivial=True))(pixels, keys.astype(np.uint64), 1)[geometric]
    torch.testing.assert_close(out, torch.full_like(out, 200 / 255))


def test_all_geometry_is_one_warp(pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = F.grid_sample

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(args)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "grid_sample", counted)
    monkeypatch.setattr(F, "interpolate", lambda *args, **kwargs: pytest.fail("resized apart"))
    spec = AugmentSpec(trivial=True, flip=True, rotate=10, zoom=0.1, shift=0.1)
    out = Transform(Preprocess(96, (0.0,) * 3, (1.0,) * 3, "bicubic"), spec)(
        pixels[:20], np.arange(20, dtype=np.uint64), 1
    )
    assert out.shape == (20, 3, 96, 96)
    assert len(calls) == 1


def test_recoloured_pixels_stay_pixels() -> None:
    # A kernel that overshoots, and all operations at their strongest.
    x = torch.rand(28, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    out = trivial.recolour(x, np.tile(np.arange(14), 2), torch.tensor([0.0, 0.99]).repeat(14))
    assert out.min() == 0
    assert out.max() == 1


def test_operations_are_equally_likely_and_strengths_independent_of_them() -> None:
    uniform = uniforms(np.arange(28_000, dtype=np.uint64), len(Draws._fields), 5, 1)
    chosen = trivial.choose(uniform[:, Draws._fields.index("operation")])
    strengths = uniform[:, Draws._fields.index("strength")]
    counts = np.bincount(chosen, minlength=14)
    assert len(counts) == 14
    assert ((counts - 2000) ** 2 / 2000).sum() < 34.5  # chi-square, 13 degrees of freedom, 0.1 %
    means = np.bincount(chosen, strengths) / counts
    assert np.abs(means - 0.5).max() < 0.026  # 4 standard deviations
    assert trivial.choose(np.array([0.0, 1.0])).tolist() == [0, 13]


def test_an_image_s_operation_changes_from_view_to_view() -> None:
    keys = np.arange(2000, dtype=np.uint64)
    column = Draws._fields.index("operation")
    first, second = (
        trivial.choose(uniforms(keys, len(Draws._fields), 0, view)[:, column]) for view in (0, 1)
    )
    assert abs((first == second).mean() - 1 / 14) < 0.025  # 4 standard deviations
