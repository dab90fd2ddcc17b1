"""Colours and formats: ICC profiles become sRGB; HEIC with its package; first frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from headstart.data import UnreadableImageError, decode_image
from headstart.data.sources import scan as scanning
from headstart_predict import decode, squares
from headstart_predict.colours import recolouring
from headstart_predict.decode import inspect_image
from tests.photos import fill, load, real_pixels
from tests.unit.test_data_decode import encode, photo
from tests.unit.test_data_layout import root

assert photo and root  # fixtures
pytestmark = pytest.mark.usefixtures("own_cache")

# Chromaticities and gammas of RGB spaces.
WIDE = {"red": (0.64, 0.33), "green": (0.21, 0.71), "blue": (0.15, 0.06), "gamma": 2.2}  # Adobe


def s15(value: float) -> bytes:
    return round(value * 65536).to_bytes(4, "big", signed=True)


def xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(s15, values))


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0\0\0\0\1" + round(gamma * 256).to_bytes(2, "big") + b"\0\0"


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 with these tags."""
    table, body = len(tags).to_bytes(4, "big"), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + (start + len(body)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        body += value
    head = bytearray(128)
    head[8:12], head[12:16], head[16:20], head[20:24] = b"\2\x10\0\0", b"mntr", space, b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = b"".join(map(s15, (0.9642, 1.0, 0.8249)))
    head[0:4] = (start + len(body)).to_bytes(4, "big")
    return bytes(head) + table + body


D50 = np.array([0.9642, 1.0, 0.8249])


def rgb_profile(red: tuple[float, float], green: tuple[float, float], blue: tuple[float, float],
                gamma: float) -> bytes:  # fmt: skip
    """Primaries by their xy, with the white of D50: enough to move colours."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    columns = columns * np.linalg.solve(columns, D50)
    tags = {b"wtpt": xyz(D50), b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + b"\0" * 78,
            b"cprt": b"text\0\0\0\0x\0"}  # fmt: skip
    for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
        tags |= {name + b"XYZ": xyz(column), name + b"TRC": curve(gamma)}
    return profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": curve(gamma),
                             b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + b"\0" * 78})  # fmt: skip


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_another_colour_space_becomes_srgb(form: str, photo: Image.Image) -> None:
    wide = rgb_profile(**WIDE)  # type: ignore[arg-type]
    content = encode(photo, form, icc_profile=wide)
    plain = decode_image(encode(photo, form), 64)
    expected = ImageCms.profileToProfile(
        Image.fromarray(plain), ImageCms.ImageCmsProfile(io.BytesIO(wide)),
        ImageCms.createProfile("sRGB"),
    )  # fmt: skip
    converted = decode_image(content, 64)
    assert np.abs(converted.astype(int) - plain).max() > 10
    np.testing.assert_array_equal(converted, np.asarray(expected))
    assert inspect_image(content).recoloured
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(decode_image(opened, 64), converted)


BAD = {
    "sRGB": srgb(),
    "none": b"",
    "no profile": b"x" * 500,
    "cut off": rgb_profile(**WIDE)[:200],  # type: ignore[arg-type]
    "too long": b"\0" * 2**22 + b"x",
}


@pytest.mark.parametrize("case", BAD)
def test_without_a_good_profile_nothing_changes(case: str, photo: Image.Image) -> None:
    content = encode(photo, "TIFF", icc_profile=BAD[case])
    np.testing.assert_array_equal(decode_image(content, 64), decode_image(encode(photo), 64))
    assert not inspect_image(content).recoloured


def cmyk_profile() -> bytes:
    """A printer whose cyan ink is red: a table of two values an ink."""
    table = bytearray()
    for c, m, y, k in np.ndindex(2, 2, 2, 2):  # the last ink is the fastest
        dark = m + y + 2 * k
        lightness, a, b = max(0, 255 - 80 * dark - 120 * c), 128 + 70 * c, 128 + 50 * c
        table += bytes((lightness, a, b))
    identity = b"".join(map(s15, np.eye(3).ravel()))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0\4\3\2\0" + identity + ramp * 4 + bytes(table) + ramp * 3
    made = profile(b"CMYK", {b"wtpt": xyz(D50), b"A2B0": lut,
                             b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + b"\0" * 78})  # fmt: skip
    return made[:12] + b"prtrCMYKLab " + made[24:]


def test_inks_are_converted_by_their_printer(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    inks = Image.new("CMYK", (48, 48), (255, 0, 0, 0))
    assert decode_image(encode(inks, "TIFF"), 16)[0, 0].tolist() == [0, 255, 255]
    content = encode(inks, "TIFF", icc_profile=cmyk_profile())
    red, green, blue = decode_image(content, 16)[0, 0].tolist()
    assert red > green + 80 and red > blue + 80
    content = encode(photo.convert("CMYK"), "TIFF", icc_profile=cmyk_profile())
    whole = decode_image(content, 24)
    monkeypatch.setattr(squares, "_BAND", 1000)
    np.testing.assert_array_equal(decode_image(content, 24), whole)


def test_a_profile_for_other_pictures_is_ignored(photo: Image.Image) -> None:
    for image, given in ((photo.convert("CMYK"), rgb_profile(**WIDE)), (photo, grey_profile(1.0))):
        content = encode(image, "TIFF", icc_profile=given)
        plain = decode_image(encode(image, "TIFF"), 64)
        np.testing.assert_array_equal(decode_image(content, 64), plain)


def test_grey_and_palette_pictures(photo: Image.Image) -> None:
    grey = photo.convert("L")
    lit = decode_image(encode(grey, "PNG", icc_profile=grey_profile(1.0)), 64)
    assert (lit[..., 0] == lit[..., 1]).all()
    assert lit.mean() > decode_image(encode(grey), 64).mean() + 20
    palette = photo.convert("P", palette=Image.Palette.ADAPTIVE)
    content = encode(palette, "PNG", icc_profile=rgb_profile(**WIDE))  # type: ignore[arg-type]
    assert inspect_image(content).recoloured


def test_the_colours_of_a_picture_in_bands_are_those_of_one_in_one_piece(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(photo, "PNG", icc_profile=rgb_profile(**WIDE))  # type: ignore[arg-type]
    whole = decode_image(content, 24)
    monkeypatch.setattr(squares, "_BAND", 1000)
    np.testing.assert_array_equal(decode_image(content, 24), whole)


def test_the_profiles_of_a_folder_are_prepared_once(photo: Image.Image) -> None:
    content = encode(photo, "PNG", icc_profile=rgb_profile(**WIDE))  # type: ignore[arg-type]
    with Image.open(io.BytesIO(content)) as first, Image.open(io.BytesIO(content)) as second:
        assert recolouring(first) is recolouring(second)


def test_only_the_converted_photos_count_as_others(root: Path) -> None:
    """Features of unconverted pixels are not taken for theirs; all other keys stay."""
    fill(root / "a", real_pixels()[:6])
    fill(root / "b", real_pixels()[32:38])
    plain = load(root)
    path = root / "a" / "000.png"
    with Image.open(path) as image:
        image.save(path, icc_profile=rgb_profile(**WIDE))  # type: ignore[arg-type]
    entry = scanning.scan(root, ["a/000.png", "a/001.png"])
    assert entry["a/000.png"].digest.hex() != entry["a/000.png"].sha256
    assert entry["a/001.png"].digest.hex() == entry["a/001.png"].sha256
    again = load(root)
    for before, after in ((plain.train, again.train), (plain.val, again.val)):
        if "a/000.png" not in before.ids:
            assert before.fingerprint == after.fingerprint
    assert scanning.recall_thumbnails(root).keys() >= {entry["a/000.png"].digest}


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation(form: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    content = encode(frames[0], form, save_all=True, append_images=frames[1:])
    seen = decode_image(content, 16).reshape(-1, 3).mean(axis=0)
    assert seen[0] > 240 and seen[1:].max() < 15


HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 64


def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_formats", lambda: ("JPEG", "AVIF"))
    for brand in (b"heic", b"mif1"):
        content = HEIC.replace(b"heic", brand)
        with pytest.raises(UnreadableImageError, match="pip install pillow-heif; or save it as J"):
            decode_image(content, 16)
    with pytest.raises(UnreadableImageError, match="this kind of HEIC or MPEG-4"):
        decode_image(HEIC.replace(b"heic", b"isom"), 16)


def test_heic_with_its_package(photo: Image.Image) -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(photo).save(buffer, quality=95)
    content = buffer.getvalue()
    seen = decode_image(content, 64).astype(int)
    assert np.abs(seen - np.asarray(photo)[:, 16:80]).mean() < 6
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(content[: len(content) // 2], 64)
    assert "\n" not in str(caught.value)
