"""Pictures of every kind that a page in a browser is asked about."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def photo(width: int = 90, height: int = 60) -> Image.Image:
    """Soft shapes with noise on them, in the range that no decoder clips."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(60, 190, (6, 8, 3), np.uint8))
    soft = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = soft + rng.integers(-20, 20, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(photo(), "JPEG", exif=exif, quality=90)


def encoded(image: Image.Image, form: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def half_clear() -> bytes:
    image = photo()
    ramp = np.linspace(0, 255, image.width).astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return encoded(image, "PNG")


def deep() -> bytes:
    return encoded(Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257), "PNG")


PICTURES: dict[str, Callable[[], bytes]] = {
    **{f"turned-{k}.jpg": lambda k=k: turned(k) for k in range(1, 9)},
    "clear.png": half_clear,
    "grey.png": lambda: encoded(photo().convert("L"), "PNG"),
    "grey.jpg": lambda: encoded(photo().convert("L"), "JPEG"),
    "palette.png": lambda: encoded(photo().quantize(32), "PNG"),
    "cmyk.jpg": lambda: encoded(photo().convert("CMYK"), "JPEG"),
    "deep.png": deep,
    "same.png": lambda: encoded(photo(32, 32), "PNG"),
    "tiny.png": lambda: encoded(photo(7, 5), "PNG"),
    "strip.png": lambda: encoded(photo(20, 301), "PNG"),
    "line.png": lambda: encoded(photo(301, 1), "PNG"),
    "panorama.png": lambda: encoded(photo(1999, 101), "PNG"),
    "large.png": lambda: encoded(photo(1201, 803), "PNG"),
    "lossy.webp": lambda: encoded(photo(), "WEBP"),
    # Pillow decodes these at a half and at an eighth; a browser's pixels are rounded before that.
    "half.jpg": lambda: encoded(photo(201, 151), "JPEG", quality=90),
    "panorama.jpg": lambda: encoded(photo(1999, 101), "JPEG", quality=90),
    "eighth.jpg": lambda: encoded(photo(1201, 803), "JPEG", quality=90),
}
