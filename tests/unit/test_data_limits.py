"""Pictures that would cost minutes or gigabytes are refused at once; large real ones are read."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from headstart.data import UnreadableImageError, decode_image
from headstart.errors import DataError
from headstart_predict import squares
from headstart_predict.decode import inspect_image
from headstart_predict.limits import VARIABLE
from tests.unit.test_data_decode import INVERSE, encode, photo

assert photo  # a fixture

# Mutated pictures, from a fixed seed. More of them: HEADSTART_TEST_MUTATIONS=100000.
MUTATIONS = int(os.environ.get("HEADSTART_TEST_MUTATIONS", "300"))


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind))


def png_of(
    width: int, height: int, between: bytes = b"", *, depth: int = 8, colour: int = 0
) -> bytes:
    header = kind = b"IHDR"
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(kind + header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + kind + header + crc + between


def progressive(scans: int, side: int = 64) -> bytes:
    content = encode(Image.new("RGB", (side, side), "red"), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + b"\xff\xd9"


def jpeg_sized(width: int, height: int, **options: object) -> bytes:
    """A small JPEG whose header says that it is large."""
    content = bytearray(encode(Image.new("RGB", (16, 16), "red"), "JPEG", **options))
    frame = next(content.find(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in content)
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def sequential_in_scans(scans: int) -> bytes:
    content = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    start = content.index(b"\xff\xda")
    one = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0) + b"\0"
    return bytes(content[:start]) + one * scans + b"\xff\xd9"


def bmp(width: int, height: int, body: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(1024) + body


def webp_of(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size


def gif_of(width: int, height: int, between: bytes = b"") -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + between + frame + b";"


def tiff_of(*fields: tuple[int, int, int, int]) -> bytes:
    packed = b"".join(struct.pack("<HHII", *field) for field in sorted(fields))
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + packed + bytes(64)


SIZE = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1))
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "png canvas": (lambda: png_of(2**31 - 1, 2**31 - 1), "too many"),
    "png of 62 million": (lambda: png_of(7880, 7880), r"too many \(PNG: 61.5 million"),
    "png of 16 bits": (lambda: png_of(7600, 7600, depth=16), "PNG with alpha or 16 bits: 56.2"),
    "png with alpha": (lambda: png_of(7600, 7600, colour=6), "PNG with alpha or 16 bits: 56.2"),
    "png chunks": (lambda: png_of(8, 8, chunk(b"teSt") * 70_000), "chunks are too many"),
    "png metadata": (lambda: png_of(8, 8, chunk(b"teSt", bytes(2**20)) * 65), "metadata"),
    "webp of 34 bytes": (lambda: webp_of(16383, 16383) + bytes(4), "too many"),
    "gif of 43 bytes": (lambda: gif_of(65535, 65535), "too many"),
    "gif blocks": (lambda: gif_of(8, 8, b"!\xfe\x01a\0" * 60_000), "blocks before its first"),
    "gif filling": (lambda: gif_of(8, 8, bytes(200_000)), "blocks before its first"),
    "jpeg scans": (lambda: progressive(20_000), "scans of 64 x 64"),
    "jpeg scans of one channel": (lambda: sequential_in_scans(600), "601|600 scans"),
    "jpeg canvas": (lambda: jpeg_sized(65535, 65535), "too many .JPEG: 300 million"),
    "progressive canvas": (lambda: jpeg_sized(10_000, 10_000, progressive=True), "progressive"),
    "jpeg comments": (
        lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 30_000 + progressive(10)[2:],
        "more than 20,000 parts",
    ),
    "jpeg filling": (lambda: b"\xff\xd8" + b"\xff" * 60_000 + progressive(10)[2:], "20,000 parts"),
    "ppm comments": (lambda: b"P6\n" + b"#x\n" * 100_000 + b"4 4\n255\n" + bytes(48), "header is"),
    "ppm spaces": (lambda: b"P6\n" + b" " * 100_000 + b"4 4\n255\n" + bytes(48), "header is"),
    "plain ppm canvas": (lambda: b"P3\n9000 8000\n255\n1 1 1", "PPM of this kind"),
    "plain ppm comments": (lambda: b"P3\n9 9\n255\n" + b"1\n#\n" * 5000, "1,000 comments"),
    "bmp canvas": (lambda: bmp(65535, 65535, b""), "too many"),
    "packed bmp canvas": (lambda: bmp(2**22, 1, b"\0\0" * 64), "BMP of this kind"),
    "packed bmp of nothing": (lambda: bmp(64, 64, b"\0\2\0\0" * 2**20), "MB of BMP"),
    "tiff canvas": (
        lambda: tiff_of(
            *((256, 4, 1, 2**20), (257, 4, 1, 2**20)), *SIZE[2:], (273, 4, 1, 8), (279, 4, 1, 8)
        ),
        "too many .TIFF",
    ),
    "tiff strips": (lambda: tiff_of(*SIZE, (273, 4, 2**25, 0)), "more than 200,000 values"),
    "tiff tile": (lambda: tiff_of(*SIZE, (322, 4, 1, 2**20), (323, 4, 1, 2**20)), "tile"),
    "tiff fields": (lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40), "fields"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_picture_is_refused_at_once(case: str) -> None:
    make, reason = HOSTILE[case]
    content = make()
    began = time.thread_time()
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        inspect_image(content)
    assert time.thread_time() - began < 0.5
    assert "\n" not in str(caught.value) and "bomb" not in str(caught.value)
    with pytest.raises(UnreadableImageError):
        decode_image(content, 32)


def test_there_are_hostile_pictures_of_every_format() -> None:
    assert len(HOSTILE) >= 24
    kinds = {case.split()[0] for case in HOSTILE}
    assert {"png", "webp", "gif", "jpeg", "ppm", "bmp", "tiff"} <= kinds


def test_a_jpeg_of_two_hundred_megapixels_is_read() -> None:
    # Grey and of one colour, so that it is small; its size is that of a phone's.
    content = encode(Image.new("L", (16320, 12240), 90), "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = inspect_image(content)
    assert (found.width, found.height) == (16320, 12240)
    assert np.abs(decode_image(content, 224).astype(int) - 90).max() <= 1


def test_the_variable_allows_more_and_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("1", (300, 300)))
    assert decode_image(content, 16).shape == (16, 16, 3)
    monkeypatch.setenv(VARIABLE, "10000")
    with pytest.raises(UnreadableImageError, match=f"300 x 300 .*0.0082 million.*{VARIABLE}"):
        decode_image(content, 16)
    monkeypatch.setenv(VARIABLE, "3e8")
    large = encode(Image.new("1", (14_000, 14_000)), "TIFF", compression="group4")
    assert decode_image(large, 16).shape == (16, 16, 3)
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(DataError, match=f"{VARIABLE}=many: not a number of pixels"):
        decode_image(content, 16)


def test_pillow_says_nothing_in_any_thread(photo: Image.Image) -> None:
    damaged = encode(
        photo, "JPEG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\1\1\x0f\0\2\0\0\xff\xff\0\0\0\0"
    )
    large = encode(Image.new("1", (9_900, 9_900)))  # between Pillow's warning and its error
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        several = [threading.Thread(target=decode_image, args=(damaged, 32)) for _ in range(8)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        with pytest.raises(UnreadableImageError, match="too many"):
            decode_image(large, 32)
    assert heard == [] and warnings.filters == before


@pytest.mark.parametrize("orientation", INVERSE)
@pytest.mark.parametrize("size", [(91, 64), (64, 91), (77, 77)])
def test_bands_give_the_same_pixels(
    photo: Image.Image,
    size: tuple[int, int],
    orientation: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("RGB", "RGBA", "L", "P", "I;16"):
        image = photo.resize(size).convert("L" if mode == "I;16" else mode)
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(size))
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 201)
        content = encode(image, "PNG", exif=exif)
        whole = decode_image(content, 24)
        monkeypatch.setattr(squares, "_BAND", 500)
        np.testing.assert_array_equal(decode_image(content, 24), whole)
        monkeypatch.undo()
        np.testing.assert_array_equal(whole, as_before(content, 24))


def as_before(content: bytes, side: int) -> np.ndarray:
    """The definition: turned upright, cut to the centre square, converted, then resized."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        turn = squares._TURNS.get(image.getexif().get(0x0112, 1))
        upright = image if turn is None else image.transpose(turn)
        short = min(upright.size)
        left, top = (upright.width - short) // 2, (upright.height - short) // 2
        square = squares._rgb(upright.crop((left, top, left + short, top + short)))
        return np.array(square.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("most", [1, 100, 254, 256, 4095, 65534])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_ppm_of_any_range_is_read_as_pillow_reads_it(kind: str, most: int) -> None:
    rng = np.random.default_rng(most)
    values = rng.integers(0, most + 1, (40, 40, 3 if kind == "P6" else 1))
    pixels = values.astype(">u2" if most > 255 else "u1").tobytes()
    content = f"{kind}\n# a comment\n40 40\n{most}\n".encode() + pixels
    np.testing.assert_array_equal(decode_image(content, 16), as_before(content, 16))
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode_image(content[:-9], 16)


def test_a_long_strip_is_decoded_at_a_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("L", (4000, 300), 90), "JPEG")
    monkeypatch.setenv(VARIABLE, "400000")
    assert decode_image(content, 200).shape == (200, 200, 3)


def test_mutated_pictures_neither_crash_nor_hang(photo: Image.Image) -> None:
    small = photo.resize((48, 32))
    options: list[tuple[str, str, dict[str, object]]] = [
        ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}),
        ("RGBA", "PNG", {}), ("P", "PNG", {}), ("L", "GIF", {}), ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True}), ("RGB", "BMP", {}), ("RGB", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("L", "TIFF", {"compression": "jpeg"}),
        ("RGB", "PPM", {}), ("RGB", "AVIF", {"speed": 10}),
    ]  # fmt: skip
    wholes = [encode(small.convert(mode), form, **more) for mode, form, more in options]
    for whole in wholes:
        assert decode_image(whole, 32).shape == (32, 32, 3)
    rng, refused = np.random.default_rng(20), 0
    for number in range(MUTATIONS):
        content = bytearray(wholes[number % len(wholes)])
        early = rng.random() < 0.5  # headers decide more than pixels do
        for _ in range(rng.integers(1, 9)):
            place = int(rng.integers(0, min(len(content), 200) if early else len(content)))
            content[place] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        if rng.random() < 0.2:
            del content[int(rng.integers(len(content))) :]
        began = time.thread_time()
        try:
            pixels = decode_image(bytes(content), 32)
            assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        except UnreadableImageError as error:
            refused += 1
            assert "\n" not in str(error)
        assert time.thread_time() - began < 3
    assert MUTATIONS * 0.1 < refused < MUTATIONS


def test_a_lack_of_memory_is_no_fault_of_the_picture(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def load(self: ImageFile.ImageFile) -> None:
            raise error

        return load

    path = tmp_path / "a.png"
    path.write_bytes(encode(photo))
    for error in (MemoryError(), OSError("out of memory error when reading image file")):
        monkeypatch.setattr(ImageFile.ImageFile, "load", fail(error))
        with pytest.raises(DataError, match=r"a\.png: not enough memory") as caught:
            decode_image(path, 32)
        assert not isinstance(caught.value, UnreadableImageError)
