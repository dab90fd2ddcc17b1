"""Labels in the names of files, and classes that a split lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.data.sources.named import find_named
from headstart.errors import DataError, RecipeError
from headstart.recipe import load_recipe
from headstart.specs import DataSpec
from tests.conftest import Outcome
from tests.photos import load
from tests.unit.test_data_layout import fill, photo, root

assert root  # fixtures
pytestmark = pytest.mark.usefixtures("own_cache")

PATTERN = r"(?P<label>.+)_\d+"


def flat(folder: Path, names: dict[str, int]) -> None:
    for name, count in names.items():
        for i in range(count):
            photo(folder / f"{name}_{i}.png")


def test_the_class_is_in_the_name(root: Path) -> None:
    flat(root, {"cat": 10, "big_dog": 10})
    photo(root / "deep" / "cat_10.png")
    splits = load(root, label_from=PATTERN)
    assert splits.class_names == ("big_dog", "cat") and splits.notes == ()
    for images in (splits.train, splits.val, splits.test):
        assert all(("cat" in n) == bool(c) for n, c in zip(images.ids, images.labels, strict=True))
    assert "deep/cat_10.png" in find_named(root, PATTERN).files["train"]["cat"]


def test_what_does_not_match_is_left_out_with_a_note(root: Path) -> None:
    flat(root, {"cat": 8, "dog": 8})
    photo(root / "cover.png")
    photo(root / "cat_x.png")
    (root / "readme.txt").write_text("text")
    splits = load(root, label_from=PATTERN)
    assert splits.notes == (
        "2 of 18 images are left out, because their names do not match data.label_from, such as "
        "cat_x.png",
        "1 file is no image and is left out: photos 1 .txt",
    )


def test_the_whole_stem_must_match(root: Path) -> None:
    flat(root, {"cat": 8, "dog": 8})
    with pytest.raises(DataError, match=r"none of 16 images has a name that .* such as cat_0$"):
        find_named(root, "(?P<label>cat|dog)")


def test_folders_called_like_splits_are_splits(root: Path) -> None:
    for split in ("train", "test"):
        flat(root / split, {"9": 6, "10": 6})
    flat(root / "more", {"9": 2})
    splits = load(root, label_from=PATTERN)
    assert splits.class_names == ("9", "10") and len(splits.test) == 12
    assert splits.notes == ("more: neither train, val nor test: ignored",)


@pytest.mark.parametrize(
    ("names", "message"),
    [({}, "holds no images to train on"), ({"cat": 4}, "a single class, cat: at least two")],
)
def test_mistakes_of_a_folder(names: dict[str, int], message: str, root: Path) -> None:
    root.mkdir()
    flat(root, names)
    with pytest.raises(DataError, match=message) as caught:
        load(root, label_from=PATTERN)
    assert "\n" not in str(caught.value)


def test_only_a_test_folder_is_refused(root: Path) -> None:
    flat(root / "test", {"cat": 4, "dog": 4})
    with pytest.raises(DataError, match="holds test but no train folder"):
        find_named(root, PATTERN)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("label_from=(cat|dog)", "takes a regular expression with a group label"),
        ("label_from=(?P<label>", "takes a regular expression: "),
        ("group=(?P<label>x)", "or a regular expression with a group group"),
        ("group=duplicate", "did you mean duplicates"),
    ],
)
def test_a_bad_pattern_is_refused_with_the_recipe(setting: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("folder-probe", [f"data.{setting}"])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_photos_are_for_photos() -> None:
    from headstart.data import load_data

    for setting in ({"label_from": PATTERN}, {"group": "auto"}):
        with pytest.raises(DataError, match="is for photos of your own, not for cifar10-mini"):
            load_data(DataSpec(source="cifar10-mini", **setting))  # type: ignore[arg-type]


def test_val_and_test_may_lack_classes_and_train_may_not(root: Path) -> None:
    for split, names in (("train", "abc"), ("val", "ab"), ("test", "a")):
        for name in names:
            fill(root / split / name, 6)
    splits = load(root)
    assert splits.class_names == ("a", "b", "c")
    assert np.bincount(splits.val.labels, minlength=3).tolist() == [6, 6, 0]
    assert "val has no image of c: its scores say nothing about that" in splits.notes
    assert (
        "test has no image of 2 classes (b, c): its scores say nothing about that" in splits.notes
    )
    fill(root / "val" / "d", 2)
    with pytest.raises(DataError, match="train and val differ in classes: train lacks d: add"):
        load(root)


def test_the_verbs_of_data_take_the_expression_and_the_groups(
    root: Path, headstart: Callable[..., Outcome]
) -> None:
    flat(root, {"cat": 10, "dog": 10})
    describe = ("data", "describe", f"folder:{root}", "--label-from", PATTERN)
    outcome = headstart(*describe, "--group", r"(?P<group>\w+\d)", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["class_names"] == ["cat", "dog"]
    out = root.parent / "samples.png"
    assert headstart("data", "samples", *describe[2:], "--out", out).code == 0
    assert out.is_file()
    assert headstart("data", "duplicates", *describe[2:]).code == 0
    wrong = headstart("data", "describe", f"folder:{root}", "--label-from", "(.+)_")
    assert wrong.code == 2
    assert wrong.err.startswith("error: --label-from: ") and wrong.err.count("\n") == 1
