"""Framing: how pictures that are not square become squares, pixel by pixel, and how fit chooses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.comparison.framing import FramingChoice, read_framing, write_framing
from headstart.data import decode_image
from headstart.data.check import thumbnails
from headstart.data.check.oddities import odd_images
from headstart.data.sources.scan import scan
from headstart.errors import RunError
from headstart.features.cache import BoundaryCache
from headstart.features.room import INDEX, entries_root
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import create_backbone
from headstart.photos import _choose_framing, _Compare
from headstart.recipe import Recipe, load_recipe
from headstart.selection.drafting import Photos
from headstart.selection.evidence import EvidenceSource
from headstart.selection.framing import choose_framing, decide
from headstart.selection.shortlist import Shortlist
from headstart.specs import BackboneSpec
from headstart.views.transforms import Transform
from headstart_predict import squares
from headstart_predict.framing import CROP, FRAMINGS, PAD, PADDING, SQUASH, Framing, place
from tests.conftest import Outcome
from tests.e2e.test_damaged_files import records, texts
from tests.photos import load
from tests.recipes import recipe_text, write_recipe
from tests.unit.test_data_decode import INVERSE

WHOLE: tuple[Framing, ...] = (PAD, SQUASH)
SIZES = [(96, 64), (63, 97), (7, 5), (1, 1), (64, 64), (700, 1), (1, 700), (20, 301)]
SIDE = 32


def picture(width: int, height: int) -> Image.Image:
    """Soft shapes with nothing symmetric about them."""
    small = np.random.default_rng(0).integers(40, 210, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def shrunk(image: Image.Image, across: int, down: int) -> np.ndarray:
    """The definition: antialiased bicubic along the long side, and then along the short one."""
    tall = image.height > image.width
    first = (image.width, down) if tall else (across, image.height)
    between = image.resize(first, Image.Resampling.BICUBIC)
    return np.asarray(between.resize((across, down), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", SIZES)
def test_pad_holds_the_whole_picture_in_the_middle_of_one_colour(size: tuple[int, int]) -> None:
    width, height = size
    across, down = (max(1, int(SIDE * n / max(size) + 0.5)) for n in size)
    small = shrunk(picture(width, height), across, down)
    decoded = decode_image(encode(picture(width, height)), SIDE, PAD)
    left, top = (SIDE - across) // 2, (SIDE - down) // 2
    inside = decoded[top : top + down, left : left + across]
    np.testing.assert_array_equal(inside, small)
    outside = np.ones((SIDE, SIDE), bool)
    outside[top : top + down, left : left + across] = False
    assert (decoded[outside] == PADDING).all()
    assert outside.sum() == SIDE**2 - across * down


@pytest.mark.parametrize("size", SIZES)
def test_squash_is_the_whole_picture_on_the_square(size: tuple[int, int]) -> None:
    decoded = decode_image(encode(picture(*size)), SIDE, SQUASH)
    np.testing.assert_array_equal(decoded, shrunk(picture(*size), SIDE, SIDE))


def test_a_square_picture_is_the_same_by_each() -> None:
    first, *others = (decode_image(encode(picture(50, 50)), SIDE, name) for name in FRAMINGS)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("framing", WHOLE)
def test_pictures_are_turned_upright_first(framing: Framing, form: str) -> None:
    upright = picture(51, 30)
    expected = decode_image(encode(upright), SIDE, framing)
    for orientation, inverse in INVERSE.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(inverse(np.asarray(upright))))
        found = decode_image(encode(stored, form, exif=exif), SIDE, framing)
        np.testing.assert_array_equal(found, expected, err_msg=str(orientation))


@pytest.mark.parametrize("framing", WHOLE)
def test_alpha_grey_depth_palette_and_inks_become_rgb_within_the_picture(framing: Framing) -> None:
    plain = picture(61, 40)
    grey = plain.convert("L")
    expected = decode_image(encode(grey.convert("RGB")), SIDE, framing)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for image in (grey, deep):
        np.testing.assert_array_equal(decode_image(encode(image), SIDE, framing), expected)
    palette = plain.quantize(16)
    expected = decode_image(encode(palette.convert("RGB")), SIDE, framing)
    np.testing.assert_array_equal(decode_image(encode(palette), SIDE, framing), expected)
    inks = plain.convert("CMYK")
    expected = decode_image(encode(inks.convert("RGB")), SIDE, framing)
    np.testing.assert_array_equal(decode_image(encode(inks, "TIFF"), SIDE, framing), expected)
    clear = plain.convert("RGBA")
    clear.putalpha(0)
    decoded = decode_image(encode(clear), SIDE, framing)
    (across, down) = place(61, 40, SIDE, framing).size
    assert (decoded == 255).all(axis=2).sum() == across * down  # white, and padding is not


def test_colours_are_converted_and_padding_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart_predict import decode
    from headstart_predict.colours import Recolour

    def black(image: Image.Image) -> Image.Image:
        return Image.new("RGB", image.size)

    monkeypatch.setattr(decode, "recolouring", lambda image: Recolour("RGB", black))
    decoded = decode_image(encode(picture(60, 30)), SIDE, PAD)
    assert (decoded[8:24] == 0).all()
    assert (decoded[:8] == PADDING).all() and (decoded[24:] == PADDING).all()


@pytest.mark.parametrize("framing", FRAMINGS)
def test_bands_change_no_pixel(framing: Framing, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [(90, 61), (20, 301), (61, 90)]
    whole = [decode_image(encode(picture(*size)), SIDE, framing) for size in stored]
    monkeypatch.setattr(squares, "_BAND", 333)
    for size, expected in zip(stored, whole, strict=True):
        np.testing.assert_array_equal(decode_image(encode(picture(*size)), SIDE, framing), expected)


def test_a_strip_takes_no_memory_of_a_square(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, resize = [0], Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *given: object) -> Image.Image:
        # Pillow's first step is along the rows.
        largest[0] = max(largest[0], size[0] * image.height)
        return resize(image, size, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    for size in ((1, 200_000), (200_000, 1)):
        content = encode(Image.new("L", size, 90))
        for framing in FRAMINGS:
            assert decode_image(content, 256, framing).shape == (256, 256, 3)
    assert largest[0] <= 200_000


@pytest.mark.parametrize(
    ("framing", "size", "scale"),
    [
        (CROP, (1600, 400), 4),
        (SQUASH, (1600, 400), 4),  # its short side, too, fills the square
        (PAD, (1600, 400), 8),
        (PAD, (400, 1600), 8),
        (PAD, (400, 300), 4),
        (CROP, (400, 300), 2),
        (PAD, (1600, 3), 2),  # a strip keeps a pixel
        (PAD, (90, 60), 1),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_the_framing_allows(
    framing: Framing, size: tuple[int, int], scale: int
) -> None:
    with Image.open(io.BytesIO(encode(picture(*size), "JPEG", quality=95))) as image:
        squares.draft(image, 50, framing)
        assert image.size == tuple(-(-n // scale) for n in size)


@pytest.mark.parametrize("framing", WHOLE)
def test_a_jpeg_that_is_decoded_smaller_looks_the_same(framing: Framing) -> None:
    image = picture(1203, 411)
    exact = decode_image(encode(image), SIDE, framing).astype(int)
    smaller = decode_image(encode(image, "JPEG", quality=95), SIDE, framing)
    assert np.abs(smaller - exact).max() <= 12
    assert np.abs(smaller - exact).mean() < 2


COLOURS = {"blue": (40, 60, 200), "red": (200, 60, 40), "green": (40, 200, 60)}


def plant(root: Path, each: int = 30) -> Path:
    """Wide noise with a patch of the class's colour at one of its ends."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(60, 190, (40, 120, 3), np.uint8)
            left = 0 if number % 2 else 80
            pixels[:, left : left + 40] = colour
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "photos")


def probe(root: Path, backbone: BackboneSpec, **data: object) -> Recipe:
    table = {"source": f"folder:{root}", **data}
    text = recipe_text(
        "probe", {"train": "head"}, backbone=backbone, train=None, test=None, data=table
    )
    return load_recipe(write_recipe(root.parent, text))


def test_held_out_answers_choose(planted: Path, small_backbone: BackboneSpec, cache: Path) -> None:
    recipe = probe(planted, small_backbone)
    source = EvidenceSource(recipe, "cpu", None, Reporter())
    found = choose_framing(source, recipe, 0.67, 10_000)
    assert found is not None
    assert found.chosen in WHOLE
    assert found.scores[CROP] < 0.6 and found.scores[found.chosen] > 0.9
    assert found.images == 66 and found.p_value < 1e-4
    # Another call remembers all, and so decides the same and is charged the same.
    source = EvidenceSource(recipe, "cpu", None, Reporter())
    assert choose_framing(source, recipe, 0.67, 10_000) == found
    write_framing(found, cache)
    assert read_framing(cache) == found
    assert read_framing(planted) is None
    for part in (f"{found.chosen}:", "67%", "66 held-out training images", "crop", "squash"):
        assert part in found.text
    assert choose_framing(source, recipe, 0.67, 3 * 66 - 1) is None


def test_nearly_square_photos_cost_no_pass(tmp_path: Path) -> None:
    nothing = Shortlist((), ())  # with no backbone that could be asked
    compare = _Compare(tmp_path, 10, None, None, "cpu", None, Reporter())
    drafted = Photos({"source": "folder:photos"}, (30, 30), 20)
    assert _choose_framing("study", drafted, 0.09, nothing, compare) is None
    named = Photos({"source": "cifar10"}, (30, 30), 20)
    assert _choose_framing("study", named, 0.9, nothing, compare) is None


def hits(n: int, wrong: int) -> np.ndarray:
    return np.arange(n) >= wrong


def test_crop_stays_unless_another_is_better_beyond_chance() -> None:
    assert decide({CROP: hits(200, 20), PAD: hits(200, 16), SQUASH: hits(200, 18)})[0] == CROP
    assert decide({CROP: hits(200, 20), PAD: hits(200, 9), SQUASH: hits(200, 18)})[0] == PAD
    assert decide({CROP: hits(200, 20), PAD: hits(200, 9), SQUASH: hits(200, 5)})[0] == SQUASH
    assert decide({CROP: hits(200, 20), PAD: hits(200, 5), SQUASH: hits(200, 5)})[0] == PAD
    assert decide({CROP: hits(200, 5), PAD: hits(200, 40), SQUASH: hits(200, 40)})[0] == CROP
    # Five against none is p = 0.03: enough for one comparison, not for the better of two.
    chosen, p_value = decide({CROP: hits(99, 5), PAD: hits(99, 0), SQUASH: hits(99, 5)})
    assert chosen == CROP and p_value == pytest.approx(1 / 32)
    weighted = {CROP: 1.0 * hits(200, 60), PAD: 1.0 * hits(200, 5), SQUASH: 1.0 * hits(200, 60)}
    assert decide(weighted)[0] == PAD


def test_framing_is_part_of_the_cache_key(
    planted: Path, small_backbone: BackboneSpec, cache: Path
) -> None:
    backbone = create_backbone(small_backbone)
    sets = {name: load(planted, framing=name).test for name in FRAMINGS}
    assert len({images.fingerprint for images in sets.values()}) == 1
    made = {}
    for name, images in sets.items():
        store = BoundaryCache(
            backbone, 1, Transform(backbone.preprocess), create_runtime("cpu"), Reporter()
        )
        made[name] = store.rows(images, label="test")
    assert not any(rows.hit for rows in made.values())
    assert len({rows.entry for rows in made.values()}) == 3
    assert len({rows.array.tobytes() for rows in made.values()}) == 3
    keys = {
        name: json.loads((entries_root() / rows.entry / INDEX).read_text())["key"]
        for name, rows in made.items()
    }
    assert "framing" not in keys[CROP]  # so that entries of before are found
    assert (keys[PAD]["framing"], keys[SQUASH]["framing"]) == WHOLE


def test_what_a_check_says_is_about_what_the_framing_leaves(tmp_path: Path, cache: Path) -> None:
    wide = Image.new("RGB", (120, 40), (90, 90, 90))
    wide.paste((200, 60, 40), (0, 0, 30, 40))
    wide.save(tmp_path / "end.png")
    Image.new("RGB", (200, 20), (90, 90, 90)).save(tmp_path / "empty.png")
    scanned = scan(tmp_path, ["end.png", "empty.png"])
    cropped = " ".join(odd_images(scanned, 96))
    assert "2 of 2 images are of one colour" in cropped
    assert "all but the middle is cut off" in cropped and "data.framing" in cropped
    assert "enlarged" in cropped
    for framing in WHOLE:
        said = " ".join(odd_images(scanned, 96, framing))
        assert "1 of 2 images is of one colour" in said and "empty.png" in said
        assert "cut off" not in said
    assert "enlarged" not in " ".join(odd_images(scanned, 96, PAD))


def test_duplicates_and_splits_do_not_depend_on_it(planted: Path, cache: Path) -> None:
    crop, pad = load(planted), load(planted, framing=PAD)
    assert crop.fingerprint == pad.fingerprint
    assert not np.array_equal(crop.test.read(np.arange(3)), pad.test.read(np.arange(3)))
    # Not `thumbnails`, which the scan keeps.
    compared = [thumbnails.squares(each.test, np.arange(3), 48) for each in (crop, pad)]
    np.testing.assert_array_equal(*compared)


def test_the_default_changes_no_fingerprint(planted: Path, small_backbone: BackboneSpec) -> None:
    prints = {
        name: probe(planted, small_backbone, **data).fingerprint(
            images="i", weights="w", precision="float32"
        )
        for name, data in {
            "unsaid": {},
            **{name: {"framing": name} for name in FRAMINGS},
        }.items()
    }
    assert prints["unsaid"] == prints[CROP]
    assert len(set(prints.values())) == 3


def test_a_wrong_framing_is_one_line(
    planted: Path, tmp_path: Path, cache: Path, headstart: Callable[..., Outcome]
) -> None:
    path = write_recipe(tmp_path, recipe_text("tiny"))
    for override, said in (
        ("data.framing=letterbox", "'crop', 'pad' or 'squash'"),
        ("data.framing=pad", "for photos of your own, not for cifar10-mini"),
    ):
        outcome = headstart("check", path, "--set", override)
        assert outcome.code == 2
        assert said in outcome.err and "framing" in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1


def test_a_damaged_choice_is_one_line(tmp_path: Path) -> None:
    scores = {CROP: 0.1, PAD: 0.9, SQUASH: 0.8}
    write_framing(FramingChoice(PAD, 0.5, "tiny", 66, "accuracy", scores, 1e-5, 3.0), tmp_path)
    whole = (tmp_path / "framing.json").read_bytes()
    for content in (*texts(whole), *records(whole)):
        (tmp_path / "framing.json").write_bytes(content)
        try:
            found = read_framing(tmp_path)
        except RunError as error:
            assert "framing.json" in str(error) and "\n" not in str(error)
        else:
            assert found is not None and found.text
