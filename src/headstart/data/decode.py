"""Decodes one image file of any common format into a square of RGB pixels."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from headstart.errors import DataError

# An explicit list, because some of Pillow's other readers start programs (EPS runs Ghostscript). An
# image that a stranger sends to a server must not start a program.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")

# Phones write HEIC. It is listed so that such photos are reported, not ignored.
_HEIC = frozenset({".heic", ".heif"})
IMAGE_SUFFIXES = _HEIC | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".avif"),
}

_BLANK = 2  # of 255 levels: pixels of one colour differ by so much after JPEG's rounding
# Pixels a side. So small that a JPEG is decoded at an eighth, although every byte is read.
THUMBNAIL_SIDE = 32

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(DataError):
    """A file that is no image, or a damaged one. `reason` is the part after its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both are needed to pickle it between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: not an image that can be read: {self.reason}"


def decode_image(source: Path | bytes | Image.Image, side: int) -> np.ndarray:
    """uint8 (side, side, 3), RGB: the centre square, resized with antialiased bicubic.

    source: a file, its content, or an image that Pillow has opened, which stays as it is.

    EXIF rotation is applied. Transparent pixels are blended with white. Grey, palette, CMYK and
    16-bit images become RGB. An animation gives its first frame. Raises UnreadableImageError (a
    DataError) for anything else, such as truncated files and decompression bombs.
    """
    if isinstance(source, Image.Image):
        with _readable("the image"):
            return _render(source.copy(), side)
    with _opened(source) as image:
        return _render(image, side)


class Inspected(NamedTuple):
    """An image's upright size in pixels, whether its centre square has one colour, and its
    thumbnail: decode_image at THUMBNAIL_SIDE."""

    width: int
    height: int
    blank: bool
    thumbnail: np.ndarray


def inspect_image(content: bytes) -> Inspected:
    """Decode a whole image and describe it.

    Raises UnreadableImageError exactly where decode_image would.
    """
    with _opened(content) as image:
        width, height = image.size
        thumbnail = _render(image, THUMBNAIL_SIDE)
        blank = bool(np.ptp(thumbnail.reshape(-1, 3).astype(int), axis=0).max() <= _BLANK)
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return Inspected(width, height, blank, thumbnail)


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    name = "the image" if isinstance(source, bytes) else str(source)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with _readable(name):
        try:
            with Image.open(stream, formats=_formats()) as image:
                yield image
        except UnidentifiedImageError as error:
            raise UnreadableImageError(name, _unidentified(source)) from error


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds of errors on damaged bytes
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(name, " ".join(str(reason).split())) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _unidentified(source: Path | bytes) -> str:
    start = source[:12] if isinstance(source, bytes) else _first_bytes(source)
    if not start:
        return "the file is empty"
    if start[4:8] == b"ftyp":
        return "HEIC and similar formats are not supported: save it as JPEG or PNG"
    return "not in a supported image format, or its header is damaged"


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def _render(image: Image.Image, side: int) -> np.ndarray:
    # Decoding a JPEG at a half, a quarter or an eighth takes far less time. At least twice the side
    # is decoded, so that the bicubic filter below decides the pixels.
    image.draft(None, (2 * side, 2 * side))
    image.load()  # before the orientation is read: Pillow rotates TIFFs while loading
    turn = _TURNS.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    # Crop first, then resize: a strip of 10000 x 1 pixels must not grow to 10000 pixels a side.
    short = min(upright.size)
    left, top = (upright.width - short) // 2, (upright.height - short) // 2
    square = _rgb(upright.crop((left, top, left + short, top + short)))
    if short != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.array(square)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the EXIF block is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range: save it as 8 or 16 bit")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixels have no agreed range: save it as 8 or 16 bit")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
