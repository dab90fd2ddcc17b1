"""Splits: train, validation (used for every choice) and test (opened once at the end).

Everything follows from one order: within its class, each image has a rank, by a hash of
(split_seed, image id). A limit takes the lowest ranks. Held-out images are spread evenly over the
ranks. So the train and validation images of a smaller limit are subsets of those of a larger one,
and adding an image to a folder moves few others. The seed of the run does not matter.

Images that have groups are held out by whole groups, in an order of the groups (`holding.py`).
Where an image may have several labels its class is its rarest label (`strata.py`), and a limit
takes the lowest ranks of all images together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.data.holding import hold_groups, hold_ranks, mixed_keys
from headstart.data.images import ImageSet
from headstart.data.strata import class_counts
from headstart.errors import DataError
from headstart.specs import DataSpec
from headstart.text.formats import some
from headstart_predict.cards import Card, Shown


@dataclass(frozen=True)
class BadImage:
    """A file that is left out: its path below the folder, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Source:
    """A data source before it is split.

    val, test: None where the source has no such split. sizes: int64 (k, 2), width and height of the
    stored images.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    val: ImageSet | None
    test: ImageSet | None
    sizes: np.ndarray
    quarantined: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Splits(Shown):
    """Train, validation and test images of one recipe.

    fingerprint: of the pixels, ids, labels and class names of the three splits, and nothing else.
    Two runs with equal fingerprints have the same train, validation and test images; groups count
    too. val_cut:
    whether validation was split off train; False where the source has a validation split.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    quarantined: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()
    val_cut: bool = True

    def _card(self) -> Card:
        sets = {"train": self.train, "val": self.val, "test": self.test}
        facts = [(name, f"{len(images):,} images") for name, images in sets.items()]
        return Card(f"Splits of {self.source}: {len(self.class_names)} classes", facts)


def make_splits(source: Source, spec: DataSpec) -> Splits:
    """Split a source as `spec` says. Raises DataError where a class has too few images."""
    pool, test, seed = source.train, source.test, spec.split_seed
    names = source.class_names
    to_split = 1 if source.val is not None else 2  # images a class needs to train and to choose
    many = pool.labels.ndim == 2
    if test is None:
        _require(pool, names, to_split + 1, "to train, to choose and to test on")
        held = _held_out(pool, spec.test_fraction, seed)
        pool, test = pool.pick(~held), pool.pick(held)
    if spec.test_limit is not None:
        test = take_share(test, spec.test_limit, names, seed, "test_limit", least=1)
    if spec.train_limit is not None:
        pool = take_share(pool, spec.train_limit, names, seed, "train_limit", least=to_split)
    _require(pool, names, to_split, "to train and to choose on")
    if source.val is None:
        held = _held_out(pool, spec.val_fraction, seed)
        train, val = pool.pick(~held), pool.pick(held)
    else:
        train, val = pool, source.val
    if many:
        _require_both(train, names)
    identity = [names, train.fingerprint, val.fingerprint, test.fingerprint]
    if pool.groups is not None:  # folds of train and validation depend on them
        identity += [_digest(each.groups) for each in (train, val) if each.groups is not None]
    return Splits(
        train=train,
        val=val,
        test=test,
        class_names=names,
        source=source.name,
        fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        quarantined=source.quarantined,
        notes=(*source.notes, *_lacking(source, names, val, test, many)),
        val_cut=source.val is None,
    )


def _lacking(
    source: Source, names: tuple[str, ...], val: ImageSet, test: ImageSet, many: bool
) -> Iterator[str]:
    """A note for each split that was cut by groups, or by one of several labels, and lacks
    classes."""
    if source.train.groups is None and not many:
        return
    for split, given, images in (("val", source.val, val), ("test", source.test, test)):
        there = class_counts(images.labels, len(names)) > 0
        if given is None and not there.all():
            yield lacking(split, [name for name, has in zip(names, there, strict=True) if not has])


def lacking(split: str, missing: Collection[str]) -> str:
    """A note about classes without an image in val or test."""
    many = f"{len(missing)} classes ({some(missing)})" if len(missing) > 1 else some(missing)
    return f"{split} has no image of {many}: its scores say nothing about that"


def _digest(groups: np.ndarray) -> str:
    return hashlib.sha256(groups.astype("<u8").tobytes()).hexdigest()


def torn_labels(splits: Splits) -> tuple[str, ...]:
    """A note if byte-identical images have different labels; () if there are none."""
    many = splits.train.labels.ndim == 2
    classes: dict[bytes, set[Any]] = {}
    for images in (splits.train, splits.val, splits.test):
        labels = map(tuple, images.labels.tolist()) if many else images.labels.tolist()
        for digest, label in zip(images.digests, labels, strict=True):
            classes.setdefault(digest, set()).add(label)
    torn = [sorted(labels) for labels in classes.values() if len(labels) > 1]
    if not torn:
        return ()
    are = "1 image is" if len(torn) == 1 else f"{len(torn):,} images are"
    if many:
        return (f"{are} there twice, byte for byte, with different labels",)
    example = " and ".join(splits.class_names[label] for label in torn[0])
    return (f"{are} in more than one class, byte for byte, such as in {example}",)


def ranks(images: ImageSet, seed: int) -> np.ndarray:
    """int64 (n,): each image's rank, from 0, within its class for this seed."""
    return class_ranks(images.strata, mixed_keys(images.keys, seed))


def class_ranks(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64 (n,): each row's rank, from 0, among the rows of its class in the order of `values`.

    The order of the rows breaks ties.
    """
    order = np.lexsort((values, labels))
    ordered = labels[order]
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return places


def _held_out(images: ImageSet, fraction: float, seed: int) -> np.ndarray:
    """bool (n,): the images to hold out."""
    if images.groups is None:
        return hold_ranks(ranks(images, seed), fraction)
    return hold_groups(images.strata, images.groups, fraction, seed)


def take_share(
    images: ImageSet, limit: int, names: tuple[str, ...], seed: int, key: str, *, least: int
) -> ImageSet:
    """`limit` images, the same number of each class that has any; a remainder goes to the first
    classes. Where images may have several labels, the images of the lowest keys."""
    if images.labels.ndim == 2:
        if limit > len(images):
            raise DataError(f"{key} = {limit}: there are {len(images)} images: leave it out")
        return images.pick(np.sort(np.argsort(mixed_keys(images.keys, seed))[:limit]))
    counts = np.bincount(images.labels, minlength=len(names))
    there = np.flatnonzero(counts)  # a test split may lack classes
    classes = len(there)
    share, rest = divmod(limit, classes)
    if share < least:
        raise DataError(
            f"{key} = {limit} is too small for {classes} classes: each needs at least {least}, "
            f"so {least * classes} or more"
        )
    wanted = np.zeros(len(names), np.int64)
    wanted[there] = share + (np.arange(classes) < rest)
    if (short := np.flatnonzero(counts < wanted)).size:
        worst = int(short[np.argmin(counts[short])])
        raise DataError(
            f"{key} = {limit} needs {wanted[worst]} images of each of {classes} classes; "
            f"{names[worst]} has {counts[worst]}: use at most {counts[there].min() * classes}, "
            "or leave it out to take all"
        )
    return images.pick(ranks(images, seed) < wanted[images.labels])


def _require(images: ImageSet, names: tuple[str, ...], least: int, purpose: str) -> None:
    counts = class_counts(images.labels, len(names)).tolist()
    for label, name in enumerate(names):
        if counts[label] < least:
            raise DataError(
                f"class {name} has {counts[label]} image{'s' * (counts[label] != 1)} to split; "
                f"each class needs at least {least}, {purpose}"
            )


def _require_both(train: ImageSet, names: tuple[str, ...]) -> None:
    """Raises DataError for a label that all training images have, or none: it cannot be learnt."""
    counts = class_counts(train.labels, len(names)).tolist()
    for name, count in zip(names, counts, strict=True):
        if count in (0, len(train)):
            which = "no training image has" if count == 0 else "every training image has"
            raise DataError(
                f"{which} the label {name}, so that nothing can be learnt of it: leave the label "
                "out of the table, or add images"
            )
