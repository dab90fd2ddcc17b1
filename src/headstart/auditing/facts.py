"""Facts about each photo that need no network: its metadata, and simple measures of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from headstart.data.images import ImageSet, map_threads
from headstart.data.sources.download import Progress
from headstart_predict.decode import decode_image, open_image

# Pixels a side at which blur and light are measured: about what a network sees. A smaller picture
# is measured as it is.
SIDE = 224

# What a suffix promises, by Pillow's name of the format; other suffixes promise nothing.
_PROMISED = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".avif": "AVIF",
}

# The quantisation of luminance that the JPEG standard proposes (ITU-T T.81, table K.1), in sorted
# order: encoders scale it by quality.
_STANDARD = np.sort(np.array(
    [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
     14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
     92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99]
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """width, height: upright, in pixels. bytes: of the file. format: Pillow's name; JPEG for MPO.
    quality: of a JPEG's quantisation, 1 to 100; 0 for other formats. camera, software: of EXIF, ""
    where it says none. red, green, blue: means, 0..255. bright: the 95th percentile of
    luminance, 0..255. spread: the largest range of a channel. blur: `blur_of`, 0..1."""

    width: int
    height: int
    bytes: int
    format: str
    quality: int
    camera: str
    software: str
    red: float
    green: float
    blue: float
    bright: float
    spread: float
    blur: float


def read_facts(images: ImageSet, progress: Progress | None = None) -> list[Facts]:
    """The facts of each photo, in order. Decodes each once, in a few threads.

    Raises DataError where a photo has been removed or damaged since it was scanned.
    """
    found: list[Facts] = []
    for facts in map_threads(lambda row: describe(images.as_file(row)), range(len(images))):
        found.append(facts)
        if progress is not None:
            progress("measuring photos", len(found), len(images))
    return found


def describe(content: bytes) -> Facts:
    """The facts of one photo. Raises UnreadableImageError."""
    with open_image(content) as image:
        width, height = image.size
        form = "JPEG" if image.format == "MPO" else image.format or ""
        tables = getattr(image, "quantization", None) or {}
        camera, software, orientation = _exif(image)
    if orientation >= 5:
        width, height = height, width
    pixels = decode_image(content, min(SIDE, width, height)).astype(np.float32)
    red, green, blue = pixels.mean(axis=(0, 1)).tolist()
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return Facts(
        width, height, len(content), form, jpeg_quality(list(tables.values())), camera, software,
        red, green, blue,
        bright=float(np.percentile(grey, 95)),
        spread=float(np.ptp(pixels.reshape(-1, 3), axis=0).max()),
        blur=blur_of(grey),
    )  # fmt: skip


def wrong_suffix(path: str, form: str) -> str | None:
    """Why a file's suffix is not that of its format; None where it is, or promises nothing."""
    suffix = f".{path.rpartition('.')[2].lower()}" if "." in path.rpartition("/")[2] else ""
    promised = _PROMISED.get(suffix)
    if promised in (None, form):
        return None
    return f"its name ends with {suffix}, but inside it is {form}"


def jpeg_quality(tables: list[list[int]]) -> int:
    """The quality, 1 to 100, at which libjpeg would scale the standard table to the first table of
    a JPEG (jpeg_quality_scaling, solved for the quality); 0 of no table.

    The median over the entries, because libjpeg limits each to 1..255.
    """
    if not tables or len(tables[0]) != len(_STANDARD):
        return 0
    scale = 100 * float(np.median(np.sort(tables[0]) / _STANDARD))
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return int(np.clip(round(quality), 1, 100))


def blur_of(grey: np.ndarray) -> float:
    """How blurred a picture is, 0 (sharp) to 1: float32 (h, w), luminance.

    What a blur of nine pixels takes from the differences between neighbours, in the worse of the
    two directions (Crete et al. 2007, "The blur effect"). A picture without any difference is 0.
    """
    shares = []
    for picture in (grey, grey.T):
        if picture.shape[0] < 3:
            return 0.0
        padded = np.pad(picture, ((4, 4), (0, 0)), mode="edge")
        sums = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
        smooth = (sums[9:] - sums[:-9]) / 9
        sharp = np.abs(np.diff(picture, axis=0))
        lost = np.maximum(sharp - np.abs(np.diff(smooth, axis=0)), 0)
        whole = float(sharp.sum())
        shares.append(1 - float(lost.sum()) / whole if whole > 1e-6 * picture.size else 0.0)
    return max(shares)


def _exif(image: Image.Image) -> tuple[str, str, int]:
    """Camera, software and orientation; nothing of a damaged block."""
    try:
        exif = image.getexif()
        maker, model = (str(exif.get(tag, "")) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
        software = str(exif.get(ExifTags.Base.Software, ""))
        orientation = int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block raises many kinds; the pixels are still good
        return "", "", 1
    camera = " ".join(f"{maker} {model}".replace("\0", " ").split())
    turned = orientation if image.format != "TIFF" else 1
    return camera, " ".join(software.replace("\0", " ").split()), turned
