"""decode_image: every kind of file that people have, and every way in which one is damaged."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import UnreadableImageError, decode_image, load_data
from headstart.errors import DataError
from headstart.specs import DataSpec
from headstart_predict.decode import inspect_image


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real image, 96 x 64, with nothing symmetric about it."""
    pixels = load_data(DataSpec(source="cifar10-mini")).test.read(np.array([3, 57, 101]))
    return Image.fromarray(np.concatenate(list(pixels), axis=1)).resize((96, 64))


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_centre_square_without_resizing_is_exact(photo: Image.Image) -> None:
    expected = np.asarray(photo)[:, 16:80]
    decoded = decode_image(encode(photo), 64)
    assert decoded.dtype == np.uint8 and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("side", [8, 31, 64, 100])
def test_resizing_is_antialiased_bicubic_of_the_centre_square(
    photo: Image.Image, side: int
) -> None:
    square = photo.crop((16, 0, 80, 64))
    expected = square.resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_image(encode(photo), side), np.asarray(expected))


def test_path_and_bytes_agree(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(photo, "JPEG"))
    np.testing.assert_array_equal(decode_image(path, 24), decode_image(path.read_bytes(), 24))
    with Image.open(path) as opened:
        size = opened.size
        np.testing.assert_array_equal(decode_image(opened, 24), decode_image(path, 24))
        assert opened.size == size


def test_floating_point_grey_is_black_at_0_and_white_at_1(photo: Image.Image) -> None:
    grey = photo.convert("L")
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    assert np.array_equal(decode_image(encode(floats, "TIFF"), 32), decode_image(encode(grey), 32))


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "RGB"])
def test_path_and_bytes_agree_on_a_turned_tiff(
    photo: Image.Image, mode: str, tmp_path: Path
) -> None:
    # Pillow maps such a file into memory when it is given the name, and mixes up its rows.
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.tif"
    path.write_bytes(encode(deep if mode == "I;16" else photo.convert(mode), "TIFF", exif=exif))
    np.testing.assert_array_equal(decode_image(path, 24), decode_image(path.read_bytes(), 24))


INVERSE = {  # how a camera that writes this orientation has stored the upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", INVERSE)
def test_exif_orientation_is_undone(photo: Image.Image, orientation: int, form: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(INVERSE[orientation](np.asarray(photo))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    content = encode(stored, form, exif=exif, **options)
    np.testing.assert_array_equal(decode_image(content, 32), decode_image(encode(photo), 32))
    assert inspect_image(content)[:2] == photo.size


def test_a_damaged_exif_block_does_not_cost_the_picture(photo: Image.Image) -> None:
    content = encode(photo, "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    np.testing.assert_array_equal(
        decode_image(content, 32), decode_image(encode(photo, "JPEG"), 32)
    )


def test_transparency_lies_over_white(photo: Image.Image) -> None:
    see_through = photo.convert("RGBA")
    see_through.putalpha(0)
    assert (decode_image(encode(see_through), 32) == 255).all()
    see_through.putalpha(128)
    half = decode_image(encode(see_through), 64).astype(int)
    expected = (np.asarray(photo)[:, 16:80].astype(int) * 128 + 255 * 127) // 255
    assert np.abs(half - expected).max() <= 1


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (10, 10), 1)
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.paste(0, (0, 0, 5, 10))
    decoded = decode_image(encode(image, transparency=0), 10)
    assert decoded[0, 0].tolist() == [255, 255, 255] and decoded[0, 9].tolist() == [200, 100, 50]


def test_grey_becomes_three_equal_channels(photo: Image.Image) -> None:
    decoded = decode_image(encode(photo.convert("L")), 64)
    np.testing.assert_array_equal(
        decoded, np.asarray(photo.convert("L"))[:, 16:80, None] * [1, 1, 1]
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(photo: Image.Image, form: str) -> None:
    grey = np.asarray(photo.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(decode_image(encode(deep, form), 64)[..., 0], grey[:, 16:80])


@pytest.mark.parametrize("mode", ["1", "LA", "P", "CMYK", "YCbCr"])
def test_other_modes_come_out_close_to_the_picture(photo: Image.Image, mode: str) -> None:
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    decoded = decode_image(encode(photo.convert(mode), form), 64)
    reference = photo.convert("L").convert("RGB") if mode in ("1", "LA") else photo
    error = np.abs(decoded.astype(int) - np.asarray(reference)[:, 16:80]).mean()
    assert error < (90 if mode == "1" else 20)


def test_cmyk_jpeg(photo: Image.Image) -> None:
    decoded = decode_image(encode(photo.convert("CMYK"), "JPEG", quality=95), 64)
    assert np.abs(decoded.astype(int) - np.asarray(photo)[:, 16:80]).mean() < 15


def test_animation_gives_its_first_frame(photo: Image.Image) -> None:
    other = Image.new("RGB", photo.size, "red")
    content = encode(photo, "WEBP", lossless=True, save_all=True, append_images=[other])
    np.testing.assert_array_equal(decode_image(content, 64), np.asarray(photo)[:, 16:80])


def test_large_jpegs_decode_at_a_reduced_scale_and_look_the_same(photo: Image.Image) -> None:
    large = photo.resize((1536, 1024), Image.Resampling.BICUBIC)
    content = encode(large, "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as image:
        full = image.convert("RGB").crop((256, 0, 1280, 1024))
    exact = np.asarray(full.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    decoded = decode_image(content, 64)
    assert not np.array_equal(decoded, exact)  # or the reduced scale is not in use
    assert np.abs(decoded - exact).mean() < 2


def test_a_thin_strip_is_cropped_before_it_is_enlarged() -> None:
    # Resized first, this would be 20 million pixels wide: a decompression bomb of our own making.
    strip = Image.new("RGB", (80_000, 1), "green")
    assert decode_image(encode(strip), 256).shape == (256, 256, 3)


def failing_files(photo: Image.Image) -> dict[str, tuple[bytes, str]]:
    jpeg, png = encode(photo, "JPEG", quality=95), encode(photo)
    return {
        "empty": (b"", "empty"),
        "text": (b"hello, I am a text file\n" * 20, "not in a supported image format"),
        "cut jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut png": (png[: len(png) // 2], ""),
        "cut header": (png[:20], ""),
        "heic": (b"\0\0\0\x18ftypheic" + b"\0" * 64, "HEIC"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", ""),
        "float": (encode(Image.new("F", (8, 8), 1.5), "TIFF"), "floating-point"),
        "no number": (encode(Image.new("F", (8, 8), float("nan")), "TIFF"), "floating-point"),
        "deep": (encode(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "32-bit"),
    }


def test_damaged_files_raise_one_line(photo: Image.Image, tmp_path: Path) -> None:
    cases = failing_files(photo)
    assert len(cases) == 10
    for name, (content, reason) in cases.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            decode_image(path, 32)
        message = str(caught.value)
        assert message.startswith(f"{path}: not an image that can be read: "), name
        assert reason in message and "\n" not in message and "0x" not in message, message
        with pytest.raises(UnreadableImageError):
            inspect_image(content)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        decode_image(tmp_path / "none.png", 32)


def test_the_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.jpg", "cut")))
    assert str(error) == "a.jpg: not an image that can be read: cut" and error.reason == "cut"


def test_every_value_at_every_opacity_is_blended_with_white() -> None:
    value, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    clear = Image.fromarray(np.stack([value, value[::-1], 255 - value, alpha], axis=-1))
    white = Image.new("RGBA", clear.size, "white")
    expected = np.asarray(Image.alpha_composite(white, clear).convert("RGB"))
    assert np.array_equal(decode_image(clear, 256), expected)
