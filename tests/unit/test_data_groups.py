"""Groups: images that belong together are in one part of a split, and in one fold."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from headstart.data import groups as grouping
from headstart.data.hashing import hash_ids
from headstart.data.holding import hold_groups
from headstart.data.splits import Splits
from headstart.errors import DataError
from headstart.training.folds import FOLDS, assign_folds, cross_fit
from headstart.training.solver import Table
from tests.photos import load, real_pixels
from tests.unit.test_data_layout import fill, photo, root
from tests.unit.test_data_manifest import load as load_manifest
from tests.unit.test_data_manifest import write

assert root  # fixtures
pytestmark = pytest.mark.usefixtures("own_cache")


def group_keys(names: list[str]) -> np.ndarray:
    return hash_ids(names)


def parts(splits: Splits) -> dict[str, str]:
    sets = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {str(image): part for part, images in sets.items() for image in images.ids}


def assert_together(splits: Splits, bursts: list[list[str]]) -> None:
    where = parts(splits)
    assert all(len({where[image] for image in burst}) == 1 for burst in bursts)


# The choice of groups.


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_whole_groups_are_held_out_and_shares_are_met(fraction: float) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 200)
    groups = group_keys([f"{label} {rng.integers(60)}" for label in labels])
    held = hold_groups(labels, groups, fraction, 0)
    assert not set(groups[held]) & set(groups[~held])
    shares = np.bincount(labels, held) / 200
    assert np.abs(shares - fraction).max() < 0.03


def test_groups_of_several_classes_are_shared_out_too() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 600)
    groups = group_keys([str(n) for n in rng.integers(0, 50, 600)])
    held = hold_groups(labels, groups, 0.2, 3)
    assert not set(groups[held]) & set(groups[~held])
    assert np.abs(np.bincount(labels, held) / np.bincount(labels) - 0.2).max() < 0.06


def test_alone_each_image_is_a_group_and_shares_are_exact() -> None:
    labels = np.repeat([0, 1], [70, 10])
    held = hold_groups(labels, group_keys([str(i) for i in range(80)]), 0.1, 0)
    assert np.bincount(labels, held).tolist() == [7, 1]


def test_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    labels = np.repeat([0, 1], 50)
    groups = group_keys([str(i // 3) for i in range(100)])
    held = hold_groups(labels, groups, 0.2, 0)
    order = np.random.default_rng(0).permutation(100)
    assert (hold_groups(labels[order], groups[order], 0.2, 0) == held[order]).all()
    assert (hold_groups(labels, groups, 0.2, 1) != held).any()


def test_a_new_group_moves_few_others() -> None:
    labels = np.repeat(np.arange(4), 100)
    groups = group_keys([str(i // 4) for i in range(400)])
    held = set(groups[hold_groups(labels, groups, 0.2, 0)])
    moved = []
    for new in range(20):
        more = np.append(groups, group_keys([f"new {new}"] * 4))
        again = hold_groups(np.append(labels, [new % 4] * 4), more, 0.2, 0)
        moved.append(len(held ^ set(more[again]) - set(more[-4:])))
    assert max(moved) <= 2


def test_no_class_is_held_out_whole_and_each_has_some_if_it_can() -> None:
    labels = np.repeat([0, 1, 2, 3], [3, 2, 6, 40])
    names = ["a", "b", "c", "d", "d", *"eeefff", *(f"g{i}" for i in range(40))]
    for seed in range(20):
        held = hold_groups(labels, group_keys(names), 0.1, seed)
        counts = np.bincount(labels, held, 4)
        assert counts[0] == 1 and counts[1] == 0 and counts[2] == 3
        assert (counts < np.bincount(labels)).all()


def test_one_group_cannot_be_split() -> None:
    labels = np.repeat([0, 1], 5)
    with pytest.raises(DataError, match=r"leave no image to hold out.*more finely"):
        hold_groups(labels, group_keys(["a"] * 5 + ["b"] * 5), 0.2, 0)


# What groups images.


def patients(root: Path, count: int = 6, photos: int = 4) -> list[list[str]]:
    """Two classes, each with folders of photos."""
    bursts = []
    for name, i in itertools.product("ab", range(count)):
        folder = root / name / f"{name}{i}"
        fill(folder, photos)
        bursts.append([f"{name}/{name}{i}/{k:03}.png" for k in range(photos)])
    return bursts


def test_without_the_setting_groups_are_none(root: Path) -> None:
    patients(root)
    splits = load(root)
    assert splits.train.groups is splits.val.groups is splits.test.groups is None


def test_folders_and_expressions(root: Path) -> None:
    bursts = patients(root)
    fill(root / "a", 3)
    for how in ("folder", r"/(?P<group>\w\d+)/"):
        splits = load(root, group=how)
        assert_together(splits, bursts)
        (note,) = [note for note in splits.notes if "kept together" in note]
        assert "15 groups of 51 images; 48 images are in groups of more than one" in note
        assert splits.fingerprint != load(root).fingerprint
        assert load(root, group=how).fingerprint == splits.fingerprint


def test_a_manifest_has_a_column_and_auto_takes_it(root: Path) -> None:
    fill(root / "x", 24)
    rows = [("path", "label", "group")]
    rows += [(f"x/{i:03}.png", str(i % 2), "" if i > 20 else f"g{i // 3}") for i in range(24)]
    table = write(root / "t.csv", rows)
    bursts = [[f"x/{3 * k + j:03}.png" for j in range(3)] for k in range(7)]
    for how in ("column", "auto"):
        splits = load_manifest(table, group=how)
        assert_together(splits, bursts)
        assert any("by the column group: 10 groups of 24 images" in n for n in splits.notes)
    assert load_manifest(table).train.groups is None


def test_the_groups_count_even_where_the_splits_are_the_same(root: Path) -> None:
    """Folds depend on them, and folds decide the weights."""
    fill(root / "x", 20)
    prints = set()
    for sizes in (1, 2):
        rows = [("path", "label", "split", "group")]
        rows += [
            (f"x/{i:03}.png", str(i % 2), "test" if i > 15 else "val" if i > 11 else "train",
             str(i // sizes)) for i in range(20)
        ]  # fmt: skip
        prints.add(load_manifest(write(root / "t.csv", rows), group="column").fingerprint)
    assert len(prints) == 2


def test_own_splits_that_tear_groups_are_noted(root: Path) -> None:
    for split in ("train", "test"):
        patients(root / split, 3)
    notes = load(root, group="folder").notes
    assert (
        "6 groups are in train and in test, such as a0: splits of your own stay as they are, and "
        "scores look better than they are"
    ) in notes


def dated(path: Path, seconds: int | None) -> None:
    photo(path)
    with Image.open(path) as image:
        exif = Image.Exif()
        if seconds is not None:
            hour, rest = divmod(seconds, 3600)
            text = f"2024:05:01 {hour:02}:{rest // 60:02}:{rest % 60:02}"
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = text
        image.save(path, exif=exif)


def test_bursts_by_their_times(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        for burst, k in itertools.product(range(6), range(3)):  # each photo 60 s after the last
            dated(root / name / f"{burst}{k}.jpg", 600 * burst + 60 * k)
        dated(root / name / "none.jpg", None)
    bursts = [[f"{n}/{b}{k}.jpg" for k in range(3)] for n in "ab" for b in range(6)]
    splits = load(root, group="time")
    assert_together(splits, bursts)
    assert any("14 groups of 38 images; 36 images are in groups" in n for n in splits.notes)
    read: list[Path] = []
    monkeypatch.setattr(grouping, "taken_at", lambda path: read.append(path))
    assert load(root, group="time").fingerprint == splits.fingerprint and not read


def test_near_duplicates(root: Path) -> None:
    pixels = real_pixels()
    bursts = []
    for name, first in (("a", 0), ("b", 32)):
        (root / name).mkdir(parents=True)
        for i in (0, 1, 2, 3, 5, 6, 7):  # 4 is a plane in an empty sky, too little to compare
            image = Image.fromarray(pixels[first + i]).resize((96, 96), Image.Resampling.BICUBIC)
            image.save(root / name / f"{i}.png")
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / name / f"{i}m.png")
            image.point(lambda v: v * 0.9).save(root / name / f"{i}d.png")
            bursts.append([f"{name}/{i}.png", f"{name}/{i}m.png", f"{name}/{i}d.png"])
    for how in ("duplicates", "auto"):
        splits = load(root, group=how)
        assert_together(splits, bursts)
        assert any("by near-duplicates: 14 groups of 42 images" in n for n in splits.notes)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("column", "needs a table with a column group"),
        ("folder", "no class folder holds folders"),
        ("time", "no photo says when it was taken"),
        (r"(?P<group>zz)", "finds a group in no path, such as a/000.png"),
    ],
)
def test_where_nothing_tells_the_groups(how: str, message: str, root: Path) -> None:
    fill(root / "a", 5)
    fill(root / "b", 5)
    with pytest.raises(DataError, match=message) as caught:
        load(root, group=how)
    assert "\n" not in str(caught.value)


# Folds.


def test_folds_keep_groups_together_and_spread_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    groups = group_keys([f"{label} {rng.integers(30)}" for label in labels])
    keys = hash_ids(map(str, range(300)))
    folds = assign_folds(labels, keys, 0, groups)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 6
    order = rng.permutation(300)
    again = assign_folds(labels[order], keys[order], 0, groups[order])
    assert (again == folds[order]).all()


def test_a_class_of_one_group_is_in_every_fold() -> None:
    labels = np.repeat([0, 1], [20, 10])
    groups = group_keys([str(i // 2) for i in range(20)] + ["one"] * 10)
    folds = assign_folds(labels, hash_ids(map(str, range(30))), 0, groups)
    assert np.bincount(folds[labels == 1], minlength=FOLDS).tolist() == [2] * FOLDS


def bursts_of(n: int, size: int, classes: int, seed: int = 0) -> tuple[Table, np.ndarray]:
    """Features that say nothing of the class, but are nearly the same within a burst."""
    generator = torch.Generator().manual_seed(seed)
    shots = torch.randn(n, 32, generator=generator)
    features = shots.repeat_interleave(size, 0)
    features = features + 0.05 * torch.randn(n * size, 32, generator=generator)
    labels = (torch.arange(n) % classes).repeat_interleave(size)
    return Table(features, labels), group_keys([str(i // size) for i in range(n * size)])


def test_bursts_inflate_scores_unless_they_stay_together() -> None:
    pool, groups = bursts_of(80, 5, 4)
    labels, keys = pool.labels.numpy(), hash_ids(map(str, range(400)))
    accuracy = {}
    for kind, given in (("torn", None), ("together", groups)):
        folds = assign_folds(labels, keys, 0, given)
        crossed = cross_fit(pool, folds, 4, l2_path=[1e-2])
        accuracy[kind] = float((crossed.logits.argmax(dim=1) == pool.labels).float().mean())
    assert accuracy["torn"] > 0.7
    assert 0.1 < accuracy["together"] < 0.4  # a quarter is chance
