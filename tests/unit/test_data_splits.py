"""Splits: stratified, nested, stable, and clear about what is lacking."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from headstart.data.images import ImageSet, PlanarPixels, build_image_set, hash_ids
from headstart.data.splits import Source, Splits, make_splits, torn_labels
from headstart.errors import DataError
from headstart.specs import DataSpec


def image_set(counts: list[int], prefix: str = "train", shade: int = 0) -> ImageSet:
    """Images of 2 x 2 pixels, classes interleaved, every image different."""
    labels = np.concatenate([np.full(n, c) for c, n in enumerate(counts)])
    labels = labels[np.argsort(hash_ids(f"{i}" for i in range(len(labels))))]
    planes = np.zeros((len(labels), 12), dtype=np.uint8)
    planes[:, 0], planes[:, 1], planes[:, 2] = shade, np.arange(len(labels)) // 256, labels
    planes[:, 3] = np.arange(len(labels)) % 256
    return build_image_set(
        PlanarPixels(planes, 2), [f"{prefix}/{i}" for i in range(len(labels))], labels
    )


def source(
    counts: list[int], *, val: list[int] | None = None, test: list[int] | None = None
) -> Source:
    return Source(
        name="toy",
        class_names=tuple("abcdefghij"[: len(counts)]),
        train=image_set(counts),
        val=None if val is None else image_set(val, "val", 1),
        test=None if test is None else image_set(test, "test", 2),
        sizes=np.full((sum(counts), 2), 2),
    )


def ids(images: ImageSet) -> set[str]:
    return set(images.ids.tolist())


def counts(images: ImageSet, classes: int) -> list[int]:
    return np.bincount(images.labels, minlength=classes).tolist()


def split(what: Source, **settings: object) -> Splits:
    return make_splits(what, DataSpec(source="toy", **settings))  # type: ignore[arg-type]


def test_validation_is_stratified_and_complete() -> None:
    splits = split(source([100, 50, 30], test=[10, 10, 10]))
    assert counts(splits.val, 3) == [10, 5, 3]
    assert counts(splits.train, 3) == [90, 45, 27]
    assert not ids(splits.train) & ids(splits.val)
    assert counts(splits.test, 3) == [10, 10, 10]


def test_rows_keep_the_order_of_the_source() -> None:
    splits = split(source([60, 60], test=[5, 5]), train_limit=50)
    for images in (splits.train, splits.val, splits.test):
        numbers = [int(i.split("/")[1]) for i in images.ids]
        assert numbers == sorted(numbers)


def test_smaller_limits_are_subsets_in_train_and_in_validation() -> None:
    what = source([200, 200, 200], test=[5, 5, 5])
    limits = [6, 7, 10, 30, 31, 100, 299, 300, 600]
    runs = [split(what, train_limit=limit, val_fraction=0.15) for limit in limits]
    for limit, run in zip(limits, runs, strict=True):
        assert len(run.train) + len(run.val) == limit
        sizes = np.add(counts(run.train, 3), counts(run.val, 3))
        assert sizes.max() - sizes.min() <= 1
    for small, large in itertools.pairwise(runs):
        assert ids(small.train) <= ids(large.train)
        assert ids(small.val) <= ids(large.val)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("images", [2, 3, 10, 70, 200])
def test_each_class_keeps_at_least_one_image_on_either_side(images: int, fraction: float) -> None:
    splits = split(source([images, images], test=[1, 1]), val_fraction=fraction)
    held = int(np.clip(int(images * fraction + 0.5 + 1e-9), 1, images - 1))
    assert counts(splits.val, 2) == [held, held]
    assert counts(splits.train, 2) == [images - held, images - held]


def test_the_split_seed_decides_and_nothing_else() -> None:
    what = source([100, 100], test=[5, 5])
    first, again = split(what), split(source([100, 100], test=[5, 5]))
    assert ids(first.val) == ids(again.val) and first.fingerprint == again.fingerprint
    other = split(what, split_seed=1)
    assert len(ids(first.val) & ids(other.val)) < 10
    assert other.fingerprint != first.fingerprint


def test_the_splits_of_today_are_those_of_tomorrow() -> None:
    """A changed hash would silently change every published number: this pins it."""
    splits = split(source([20, 20], test=[2, 2]))
    assert hash_ids(["train/0", "train/1"]).tolist() == [
        12410043653054524995,
        7566836123949646107,
    ]
    assert splits.val.ids.tolist() == ["train/9", "train/11", "train/21", "train/38"]


def test_images_added_to_one_class_move_none_of_another() -> None:
    # Ids carry the position in the source, so the added images come last.
    before, after = image_set([40, 40]), image_set([40, 40])
    planes = np.concatenate([after.read(np.arange(80)).reshape(80, -1), np.ones((20, 12))])
    more = build_image_set(
        PlanarPixels(planes.astype(np.uint8), 2),
        [f"train/{i}" for i in range(100)],
        np.concatenate([after.labels, np.ones(20, dtype=np.int64)]),
    )
    test = image_set([2, 2], "test", 2)
    sizes = np.full((1, 2), 2)
    old = split(Source("toy", ("a", "b"), before, None, test, sizes))
    new = split(Source("toy", ("a", "b"), more, None, test, sizes))
    assert set(old.val.ids[old.val.labels == 0]) == set(new.val.ids[new.val.labels == 0])


def test_own_validation_split_is_used_as_it_is() -> None:
    splits = split(source([20, 20], val=[3, 7], test=[5, 5]), val_fraction=0.5, train_limit=10)
    assert counts(splits.val, 2) == [3, 7] and counts(splits.train, 2) == [5, 5]


def test_carved_test_does_not_depend_on_the_train_limit() -> None:
    what = source([50, 30])
    whole = split(what)
    assert counts(whole.test, 2) == [10, 6] and counts(whole.val, 2) == [4, 2]
    limited = split(what, train_limit=20)
    assert ids(limited.test) == ids(whole.test)
    assert not ids(limited.test) & (ids(limited.train) | ids(limited.val))


def test_test_limit_is_balanced_and_nested() -> None:
    what = source([20, 20, 20], test=[30, 30, 30])
    small, large = split(what, test_limit=9), split(what, test_limit=40)
    assert counts(small.test, 3) == [3, 3, 3] and counts(large.test, 3) == [14, 13, 13]
    assert ids(small.test) <= ids(large.test)
    assert ids(small.train) == ids(large.train)


@pytest.mark.parametrize(
    ("what", "settings", "message"),
    [
        (source([9, 9], test=[1, 1]), {"train_limit": 3}, "each needs at least 2, so 4 or more"),
        (source([9, 9], val=[1, 1], test=[1, 1]), {"train_limit": 1}, "at least 1, so 2 or more"),
        (
            source([9, 5], test=[1, 1]),
            {"train_limit": 12},
            "6 images of each of 2 classes; b has 5",
        ),
        (source([9, 5], test=[1, 1]), {"train_limit": 12}, "use at most 10"),
        (source([9, 9], test=[4, 4]), {"test_limit": 9}, "test_limit = 9 needs 5 images"),
        (source([9, 9], test=[4, 4]), {"test_limit": 1}, "test_limit = 1 is too small"),
        (
            source([9, 1], test=[1, 1]),
            {},
            "class b has 1 image to split; each class needs at least 2",
        ),
        (source([9, 2]), {}, "class b has 2 images to split; each class needs at least 3"),
    ],
)
def test_too_few_images(what: Source, settings: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(what, **settings)


def test_the_fingerprint_sees_pixels_labels_names_and_ids() -> None:
    base = source([20, 20], test=[5, 5])
    train = base.train
    pixels = np.zeros((40, 12), dtype=np.uint8)
    variants = {
        "same": base,
        "names": Source("toy", ("a", "z"), train, None, base.test, base.sizes),
        "pixels": Source(
            "toy",
            ("a", "b"),
            build_image_set(PlanarPixels(pixels, 2), train.ids.tolist(), train.labels),
            None,
            base.test,
            base.sizes,
        ),
        "labels": Source(
            "toy",
            ("a", "b"),
            build_image_set(train.store, train.ids.tolist(), 1 - train.labels),  # type: ignore[arg-type]
            None,
            base.test,
            base.sizes,
        ),
        "ids": Source(
            "toy",
            ("a", "b"),
            build_image_set(train.store, [f"x{i}" for i in range(40)], train.labels),
            None,
            base.test,
            base.sizes,
        ),
    }
    prints = {split(variant).fingerprint for variant in variants.values()}
    assert len(prints) == len(variants)
    renamed = Source("other", ("a", "b"), train, None, base.test, base.sizes)
    assert split(renamed).fingerprint == split(base).fingerprint  # a name is no content


def test_image_sets_are_immutable_and_pick_in_order() -> None:
    images = image_set([5, 5])
    with pytest.raises(ValueError, match="read-only"):
        images.labels[0] = 1
    picked = images.pick(np.array([7, 2]))
    assert picked.ids.tolist() == ["train/7", "train/2"] and len(picked) == 2
    np.testing.assert_array_equal(picked.keys, images.keys[[7, 2]])
    np.testing.assert_array_equal(picked.read(np.array([1])), images.read(np.array([2])))
    assert picked.fingerprint != images.pick(np.array([2, 7])).fingerprint
    assert images.read(np.array([], dtype=np.int64)).shape == (0, 2, 2, 3)


def test_one_image_in_two_classes_is_noted() -> None:
    what = source([20, 20], test=[5, 5])
    assert torn_labels(split(what)) == ()
    blank = PlanarPixels(np.zeros((40, 12), dtype=np.uint8), 2)
    torn = build_image_set(blank, what.train.ids.tolist(), what.train.labels)
    (note,) = torn_labels(split(Source("toy", ("a", "b"), torn, None, what.test, what.sizes)))
    assert note == "1 image is in more than one class, byte for byte, such as in a and b"
