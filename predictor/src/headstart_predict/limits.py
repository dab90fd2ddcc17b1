"""Limits on what one picture may cost in time and memory, checked before it is decoded.

A file of a few bytes can declare a canvas of gigabytes, and a small one can hold work for minutes.
How depends on the format. The limits leave room for every camera's pictures: on two cores of an
AMD EPYC the dearest ones that pass take two to three seconds of one core and 450 MB.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from headstart_predict.errors import DataError

PIXELS = 75_000_000
VARIABLE = "HEADSTART_MAX_PIXELS"
FILE_BYTES = 2**29

# The share of the limit that a format may have. A JPEG is decoded at a reduced size, row by row.
# The decoders of WebP, AVIF and HEIC hold four or five copies of the picture.
_SHARES = {"JPEG": 4.0, "MPO": 4.0, "WEBP": 1 / 3, "AVIF": 1 / 3, "HEIF": 2 / 3}
# Slow decoders: the share of the limit, and bytes of the file. Two are Python code of Pillow.
_SLOW = {"ppm": (1 / 4, FILE_BYTES), "bmp_rle": (1 / 32, 2**21), "ppm_plain": (1 / 64, 2**23)}
_WHOLE_IN_MEMORY = {
    "WEBP": 2**27,
    "AVIF": 2**27,
    "HEIF": 2**27,
}  # bytes of a file that is read at once

_SCANS = 500  # of a JPEG; encoders write ten to twenty
_SCANNED = 20  # scans of as many pixels as the limit allows
_MARKERS = 20_000  # before the first scan of a JPEG, with bytes that fill gaps
_EXIF_BLOCKS, _PHOTOSHOP_PARTS = 100, 50_000
_CHUNKS = 2**16  # of a PNG: 200 MB in pieces of 4 kB are fewer
_GIF_BLOCKS = 100_000  # before the first picture
_PPM_HEADER, _PPM_COMMENTS = 2**16, 1000
_TIFF_VALUES = 200_000  # of one field, such as the places of strips
_METADATA_BYTES = 2**26


def max_pixels() -> int:
    """The most pixels of a picture: $HEADSTART_MAX_PIXELS, or 75 million.

    A JPEG may have four times as many, a PNG three quarters, a HEIC two thirds, a WebP or AVIF a
    third.
    """
    text = os.environ.get(VARIABLE) or str(PIXELS)
    try:
        pixels = int(float(text))
    except (ValueError, OverflowError):
        pixels = 0
    if pixels < 1:
        raise DataError(f"{VARIABLE}={text}: not a number of pixels: write one such as 150000000")
    return pixels


def check_bytes(count: int) -> None:
    """Raises ValueError for a file that is too long for a picture."""
    if count > FILE_BYTES:
        raise ValueError(f"{count / 1e6:,.0f} MB are more than the {FILE_BYTES / 1e6:,.0f} allowed")


def check_file(file: BinaryIO, form: str) -> None:
    """Raises ValueError where a file would cost too much even to open. form: Pillow's name."""
    most = _WHOLE_IN_MEMORY.get(form, FILE_BYTES)
    if file.seek(0, io.SEEK_END) > most:
        raise ValueError(f"more than {most / 1e6:,.0f} MB of {form}")
    checks = {
        "JPEG": _check_jpeg,
        "PNG": _check_png,
        "GIF": _check_gif,
        "WEBP": _check_webp,
        "PPM": _check_ppm,
        "TIFF": _check_tiff,
    }
    if form in checks:
        file.seek(0)
        checks[form](file)


def check_opened(image: Image.Image, file: BinaryIO) -> None:
    """Raises ValueError where a picture that Pillow has opened would cost too much to decode."""
    _check_pixels(*image.size, image.format or "", _SHARES.get(image.format or "", 1.0))
    tiles = getattr(image, "tile", None) or []
    name = tiles[0][0] if tiles else ""
    if name in _SLOW:
        share, most = _SLOW[name]
        _check_pixels(*image.size, f"{image.format} of this kind", share)
        place = file.tell()
        size = file.seek(0, io.SEEK_END)
        file.seek(place)
        if size > most:
            raise ValueError(f"more than {most / 1e6:.0f} MB of {image.format} of this kind")


def _check_pixels(width: int, height: int, what: str, share: float = 1.0) -> None:
    most = int(max_pixels() * share)
    if width * height > most:
        raise ValueError(
            f"{width} x {height} pixels are too many ({what}: {most / 1e6:,.3g} million): make it "
            f"smaller, or raise {VARIABLE}"
        )


def _check_jpeg(file: BinaryIO) -> None:
    frame, metadata, exif, parts, scan = b"", 0, 0, 0, b""
    sequential = False
    for marker, length in _jpeg_markers(file):
        metadata += length
        if marker == 0xDA:
            scan = file.read(1)
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, sequential = file.read(length), marker in (0xC0, 0xC1)
        elif marker == 0xE1:
            exif += file.read(4) == b"Exif"
        elif marker == 0xED:
            parts += file.read(length).count(b"8BIM")
        if exif > _EXIF_BLOCKS or parts > _PHOTOSHOP_PARTS or metadata > _METADATA_BYTES:
            raise ValueError("too much metadata")
    if len(frame) < 6 or not scan:
        return  # damaged: Pillow says so
    height, width, count = struct.unpack(">xHHB", frame[:6])
    if sequential and scan[0] == count:  # one scan, decoded row by row
        _check_pixels(width, height, "JPEG", _SHARES["JPEG"])
        return
    # All coefficients are held in memory, and each scan passes over them.
    what = "JPEG in several scans" if sequential else "progressive JPEG"
    _check_pixels(width, height, what)
    sampling = [(b >> 4, b & 15) for b in frame[7::3][:count]]
    full = max((h for h, _ in sampling), default=1) * max((v for _, v in sampling), default=1)
    held = sum(h * v for h, v in sampling) / max(full, 1)
    _check_pixels(width, height, what, 3 / max(held, 1e-9))
    scans = _count(file, b"\xff\xda") + 1
    if scans > _SCANS or scans * width * height > _SCANNED * max_pixels():
        raise ValueError(f"{scans:,} scans of {width} x {height} pixels are too many for a JPEG")


def _jpeg_markers(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Each marker that has content, with its length; the file is at its content."""
    file.seek(2)
    for _ in range(_MARKERS):
        byte = file.read(1)
        if not byte:
            return
        if byte != b"\xff":  # what fills a gap
            continue
        kind = file.read(1)
        if kind == b"\xff":
            file.seek(-1, io.SEEK_CUR)
        elif kind and kind[0] > 1 and not 0xD0 <= kind[0] <= 0xD9:
            length, start = max(int.from_bytes(file.read(2), "big") - 2, 0), file.tell()
            yield kind[0], length
            file.seek(start + length)
    raise ValueError(f"more than {_MARKERS:,} parts before its first pixel")


def _count(file: BinaryIO, needle: bytes) -> int:
    """How often one or two bytes occur in the rest of a file."""
    found, last = 0, b""
    while block := file.read(2**20):
        found += (last + block).count(needle)
        last = block[len(block) + 1 - len(needle) :]
    return found


def _check_png(file: BinaryIO) -> None:
    file.seek(8)
    metadata = 0
    for _ in range(_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4], "big")
        after = file.tell() + length + 4
        if head[4:] == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", file.read(10).ljust(10, b"\0"))
            heavy = depth == 16 or colour in (4, 6)
            what, share = ("PNG with alpha or 16 bits", 0.75) if heavy else ("PNG", 0.82)
            _check_pixels(width, height, what, share)
        metadata += length * (head[4:] not in (b"IDAT", b"fdAT"))
        if metadata > _METADATA_BYTES:
            raise ValueError("too much metadata")
        file.seek(after)
    raise ValueError(f"more than {_CHUNKS:,} chunks are too many for a PNG")


def _check_gif(file: BinaryIO) -> None:
    head = file.read(13)
    if len(head) < 13:
        return
    width, height, flags = struct.unpack("<HHB", head[6:11])
    _check_pixels(width, height, "GIF")
    if flags & 128:
        file.seek(3 << (flags & 7) + 1, io.SEEK_CUR)
    inside = False  # an extension: blocks that each begin with their length, the last one empty
    for _ in range(_GIF_BLOCKS):
        byte = file.read(1)
        if not byte or (not inside and byte in (b",", b";")):
            return
        if inside:
            file.seek(byte[0], io.SEEK_CUR)
            inside = byte[0] > 0
        elif byte == b"!":
            file.read(1)
            inside = True
    raise ValueError(f"more than {_GIF_BLOCKS:,} blocks before its first picture")


def _check_webp(file: BinaryIO) -> None:
    """The decoder makes its canvas when the file is opened."""
    head = file.read(30)
    kind, body = head[12:16], head[20:]
    width = height = 0
    if kind == b"VP8X" and len(body) >= 10:
        width = int.from_bytes(body[4:7], "little") + 1
        height = int.from_bytes(body[7:10], "little") + 1
    elif kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(body) >= 10:
        width, height = (n & 0x3FFF for n in struct.unpack("<HH", body[6:10]))
    _check_pixels(width, height, "WEBP", _SHARES["WEBP"])


def _check_ppm(file: BinaryIO) -> None:
    """Pillow reads its header byte by byte."""
    head = file.read(_PPM_HEADER)
    if len(head) == _PPM_HEADER and len(re.sub(rb"#[^\r\n]*[\r\n]", b" ", head).split()) < 4:
        raise ValueError(f"its header is longer than {_PPM_HEADER:,} bytes")
    plain = head[:2] in (b"P1", b"P2", b"P3")
    if plain and head.count(b"#") + _count(file, b"#") > _PPM_COMMENTS:
        raise ValueError(f"more than {_PPM_COMMENTS:,} comments")


def _check_tiff(file: BinaryIO) -> None:
    head = file.read(16)
    if len(head) < 16:
        return
    order, large = "<" if head[:2] == b"II" else ">", head[2] == 43
    place, count_type = (head[8:16], "u8") if large else (head[4:8], "u4")
    file.seek(min(int.from_bytes(place, "little" if order == "<" else "big"), FILE_BYTES))
    entries = int.from_bytes(file.read(8 if large else 2), "little" if order == "<" else "big")
    if entries > 2**16:
        raise ValueError(f"{entries:,} fields are too many for a TIFF")
    kind = np.dtype(
        [
            ("tag", f"{order}u2"),
            ("type", f"{order}u2"),
            ("count", f"{order}{count_type}"),
            ("value", f"V{8 if large else 4}"),
        ]
    )
    content = file.read(entries * kind.itemsize)
    fields = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)
    numbers = fields[~np.isin(fields["type"], (1, 2, 6, 7))]  # not text or bytes
    if (numbers["count"] > _TIFF_VALUES).any():
        raise ValueError(f"a field with more than {_TIFF_VALUES:,} values")
    side = {}
    for field in fields[np.isin(fields["tag"], (322, 323))]:
        small = field["type"] == 3
        side[int(field["tag"])] = int(
            np.frombuffer(field["value"].tobytes(), f"{order}u{2 if small else 4}")[0]
        )
    _check_pixels(side.get(322, 0), side.get(323, 0), "a tile of a TIFF", 1 / 2)
