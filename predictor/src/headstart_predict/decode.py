"""Decodes one image file of any common format into a square of RGB pixels."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile

from headstart_predict.colours import recolouring
from headstart_predict.errors import DataError
from headstart_predict.framing import CROP, SQUASH, Framing
from headstart_predict.limits import check_bytes, check_file, check_opened
from headstart_predict.quiet import quiet
from headstart_predict.squares import draft, padded, shrunk

# An explicit list, because some of Pillow's other readers start programs (EPS runs Ghostscript). An
# image that a stranger sends to a server must not start a program.
# HEIF is there where pillow-heif is installed.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")
_HEAD_BYTES = 64  # enough for the brands of AVIF and HEIC

_BLANK = 2  # of 255 levels: pixels of one colour differ by so much after JPEG's rounding
FULL = 65535  # the largest value of 16 bits
_USED = 8  # FULL divided by a picture's largest value: where it is more, all is nearly black
# Pixels a side. So small that a JPEG is decoded at an eighth, although every byte is read.
THUMBNAIL_SIDE = 32

# Larger ones take turns, so that eight threads do not need eight times the memory.
_LARGE, _turns = 2**24, threading.Semaphore(2)

# What the machine lacks is no fault of the picture.
_SHORTAGES = {
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or close other programs",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOMEM: "not enough memory to read it: close other programs, then repeat the command",
    errno.EIO: "the disk fails to read it: check the disk, or read a copy from elsewhere",
}


class UnreadableImageError(DataError):
    """A file that is no image, or a damaged one. `reason` is the part after its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both are needed to pickle it between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: not an image that can be read: {self.reason}"


def decode_image(
    source: Path | bytes | Image.Image,
    side: int,
    framing: Framing = CROP,
    on_dark: Callable[[int], None] = lambda peak: None,
) -> np.ndarray:
    """uint8 (side, side, 3), RGB: a square of the picture, resized with antialiased bicubic.

    source: a file, its content, or an image that Pillow has opened, which stays as it is. framing:
    how it becomes a square (`framing.py`). on_dark: called with the largest value of a picture with
    16 or 32 bits a channel that is nearly black.

    EXIF rotation is applied, and an ICC profile that is not sRGB. Transparent pixels are blended
    with white. Grey, palette, CMYK and 16-bit images become RGB. An animation gives its first
    frame. Raises UnreadableImageError (a DataError) for anything else, such as truncated files and
    decompression bombs.
    """
    if isinstance(source, Image.Image):
        with quiet(), _readable("the image"):
            return _rendered(source.copy(), side, framing, on_dark)
    if isinstance(source, bytes):
        with _opened(io.BytesIO(source), "the image") as image:
            return _rendered(image, side, framing, on_dark)
    with open_file(source) as file, _opened(file, str(source)) as image:
        return _rendered(image, side, framing, on_dark)


def is_dark(peak: int) -> bool:
    """Whether a largest value of 16 bits leaves most of the range unused, as 12-bit values do."""
    return 0 < peak * _USED <= FULL


def describe_dark(peaks: Mapping[str, int]) -> str:
    """One line about pictures that are nearly black, by name, with their largest values."""
    peak = max(peaks.values())
    many = f"{len(peaks):,} images with 16 or 32 bits reach"
    if len(peaks) == 1:
        many = "1 image reaches"
    return (
        f"{many} at most {peak:,} of {FULL:,}, such as {min(peaks)}: that is nearly black: scale "
        f"the values to the full range (multiply by {FULL // max(peak, 1)}), or save 8 bits"
    )


class Inspected(NamedTuple):
    """An image's upright size in pixels, whether its centre square and all of it have one colour,
    the largest value (of 65,535) of a picture with 16 or 32 bits a channel, 0 for others, its
    thumbnail (decode_image at THUMBNAIL_SIDE), and whether its ICC profile changes its colours."""

    width: int
    height: int
    blank: bool
    empty: bool
    peak: int
    thumbnail: np.ndarray
    recoloured: bool


def inspect_image(content: bytes | BinaryIO, name: str = "the image") -> Inspected:
    """Decode a whole image and describe it.

    Raises UnreadableImageError exactly where decode_image would.
    """
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    with _opened(stream, name) as image:
        width, height = image.size
        deep = _is_deep(image)
        thumbnail = _render(image, THUMBNAIL_SIDE, CROP)
        blank = _of_one_colour(thumbnail)
        empty = blank and _of_one_colour(_render(image, THUMBNAIL_SIDE, SQUASH))
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        peak = _peak(image) if deep else 0
        recoloured = recolouring(image) is not None
        return Inspected(width, height, blank, empty, peak, thumbnail, recoloured)


def _of_one_colour(pixels: np.ndarray) -> bool:
    return bool(np.ptp(pixels.reshape(-1, 3).astype(int), axis=0).max() <= _BLANK)


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """A file that may be an image. Raises UnreadableImageError where there is none, or where it is
    no regular file: to open a named pipe would wait for ever."""
    with _readable(str(path)):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableImageError(str(path), "not a regular file")
        if not found.st_size:
            raise UnreadableImageError(str(path), "the file is empty")
        check_bytes(found.st_size)
        with path.open("rb") as file:
            yield file


def open_image(content: bytes | BinaryIO) -> contextlib.AbstractContextManager[Image.Image]:
    """Within the block, the picture as Pillow opens it: its header, and no pixels decoded yet.

    Raises UnreadableImageError, as decode_image does.
    """
    return _opened(io.BytesIO(content) if isinstance(content, bytes) else content, "the image")


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    with quiet(), _readable(name):
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        form = next((f for f in _formats() if _accepts(f, head)), None)
        if form is None:
            raise UnreadableImageError(name, _unidentified(head))
        check_file(file, form)
        file.seek(0)
        try:
            # Not Image.open, whose limit would refuse the JPEGs of a phone.
            image = Image.OPEN[form][0](file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            raise UnreadableImageError(name, _unidentified(head)) from error
        with image:
            check_opened(image, file)
            _read_scaled(image, file)
            with _turns if _is_large(image) else contextlib.nullcontext():
                try:
                    yield image
                except OSError as error:
                    # libtiff says so of a damaged header too.
                    if "out of memory" in str(error) and form != "TIFF":
                        raise MemoryError from error
                    raise


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn any error into an UnreadableImageError, and a shortage of the machine into a DataError
    that says what is short."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name}: {_SHORTAGES[errno.ENOMEM]}") from error
    except Exception as error:  # Pillow's parsers raise many kinds of errors on damaged bytes
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            raise DataError(f"{name}: {_SHORTAGES[error.errno]}") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(name, " ".join(str(reason).split())) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def heif_version() -> str:
    """The version of pillow-heif; empty where it is not installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        return str(pillow_heif.__version__)
    return ""


def _accepts(form: str, head: bytes) -> bool:
    # Either may begin with a general brand; its list of compatible ones then tells.
    if form == "AVIF" and head[8:12] in (b"mif1", b"msf1") and b"avi" not in head[16:]:
        return False
    accept = Image.OPEN[form][1]
    return accept is not None and accept(head[:16]) is True


def _unidentified(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp":
        if _formats()[-1] != "HEIF" and head[8:11] in (b"hei", b"hev", b"mif", b"msf"):
            return "HEIC needs one more package: pip install pillow-heif; or save it as JPEG"
        return "this kind of HEIC or MPEG-4 is not supported: save it as JPEG or PNG"
    return "not in a supported image format, or its header is damaged"


def _read_scaled(image: Image.Image, file: BinaryIO) -> None:
    """Decode binary PGM or PPM whose largest value is not a full 8 or 16 bits: with the result of
    Pillow's decoder, which takes a second for a million values."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return
    if image.tile[0].codec_name != "ppm":
        return
    most = int(str(image.tile[0].args[1]))  # type: ignore[index]  # (raw mode, largest value)
    file.seek(image.tile[0].offset)
    kind, full = np.dtype(">u2" if most > 255 else "u1"), 65535 if image.mode == "I" else 255
    count = image.width * image.height * len(image.getbands())
    content = file.read(count * kind.itemsize)
    if len(content) < count * kind.itemsize:
        raise ValueError("image file is truncated")
    table = np.rint(np.arange(256**kind.itemsize) / most * full).clip(0, full)
    table = table.astype(np.int32 if image.mode == "I" else np.uint8)
    shape = (image.height, image.width, -1) if len(image.getbands()) > 1 else image.size[::-1]
    image.im = Image.fromarray(table[np.frombuffer(content, kind)].reshape(shape)).im
    image.tile = []  # nothing is left to load


def _is_large(image: Image.Image) -> bool:
    row_by_row = image.format in ("JPEG", "MPO") and "progressive" not in image.info
    return not row_by_row and image.width * image.height > _LARGE


def _render(image: Image.Image, side: int, framing: Framing) -> np.ndarray:
    draft(image, side, framing)
    image.load()  # before the orientation is read: Pillow rotates TIFFs while loading
    colours = recolouring(image)
    mode = "RGB" if colours is None or colours.mode == "L" else colours.mode
    part = shrunk(image, _orientation(image), side, framing, mode)
    if colours is not None:  # of the small picture, so that none takes long
        part = colours.apply(part.getchannel(0) if colours.mode == "L" else part)
    return np.array(padded(part, side))


def _rendered(
    image: Image.Image, side: int, framing: Framing, on_dark: Callable[[int], None]
) -> np.ndarray:
    deep = _is_deep(image)  # to load it forgets that
    pixels = _render(image, side, framing)
    if deep and is_dark(peak := _peak(image)):
        on_dark(peak)
    return pixels


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has 16 or 32 bits a channel."""
    raw = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    return image.mode.startswith("I") or (";16" in raw and image.mode != "CMYK")


def _peak(image: Image.Image) -> int:
    """The largest value of a loaded 16- or 32-bit image. Of colour Pillow keeps the upper eight
    bits; the lower ones are taken as set."""
    if image.mode.startswith("I;16") and image.mode != "I;16":
        return int(np.asarray(image).max())
    ranges = np.reshape(np.array(image.getextrema()), (-1, 2))  # least and most of each channel
    if image.mode.startswith("I"):
        return max(int(ranges[0, 1]), 0)
    colours = ranges[: 1 if image.mode == "LA" else 3]
    return 256 * int(colours[:, 1].max()) + 255


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the EXIF block is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block raises many kinds; the pixels are still good
        return 1
