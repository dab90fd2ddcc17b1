"""Leakage: which images of one split have a duplicate in another, from a shipped list or found.

The lists name images by their content: files of CIFAR-100 are about in more than one order, and
cifar10-mini, whose images are CIFAR-10's, needs no list of its own.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import mini
from headstart.data.cifar import CIFARS
from headstart.data.duplicates import Pairs, find_duplicates
from headstart.data.images import ImageSet
from headstart.data.samples import draw_grid
from headstart.data.splits import Splits
from headstart.shown import Card, Shown

COLUMNS = ("first", "second", "kind", "mirrored", "correlation", "cosine")
_LISTED = {name: name for name in CIFARS} | {mini.NAME: "cifar10"}


@dataclass(frozen=True)
class Duplicate:
    """Two images of one shot, by their ids, or in a list by `content_name`. kind: exact or near.

    correlation: of their detail, at most 1; cosine: of a network's features, None where it was not
    asked.
    """

    first: str
    second: str
    kind: str
    mirrored: bool
    correlation: float
    cosine: float | None = None


@dataclass(frozen=True, repr=False)
class Leakage(Shown):
    """Duplicates between the splits of one data set.

    images: split to its number of images; pairs: "test/train" and so on to the duplicates between
    the two, first of the first; source: where they are known from.
    """

    images: dict[str, int]
    pairs: dict[str, tuple[Duplicate, ...]]
    source: str

    @property
    def found(self) -> int:
        """Pairs in all."""
        return sum(map(len, self.pairs.values()))

    def leaking(self, between: str) -> int:
        """Images of the first of the two splits that have a duplicate in the second."""
        first, second = between.split("/")
        found = {pair.first for pair in self.pairs[between]}
        if first == second:
            found |= {pair.second for pair in self.pairs[between]}
        return len(found)

    def _card(self) -> Card:
        rows = []
        for between, pairs in self.pairs.items():
            first, second = between.split("/")
            where = f"{first} in {second}" if first != second else f"within {first}"
            rows.append([where, f"{self.leaking(between):,}", f"{len(pairs):,}"])
        header = ("duplicates", "images", "pairs")
        return Card(f"Leakage: {self.found:,} pairs, by {self.source}", (), header, rows)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "source": self.source,
            "images": self.images,
            "between": [
                {
                    "splits": between,
                    "images": self.leaking(between),
                    "pairs": [asdict(pair) for pair in pairs],
                }
                for between, pairs in self.pairs.items()
            ],
        }


def list_name(name: str) -> str:
    """The file, among the assets, of a data set's duplicates."""
    return f"duplicates_{name}.csv"


def list_source(source: str) -> str:
    """Who says which images are duplicates, for a source with a shipped list."""
    return f"the shipped list {list_name(_LISTED[source])}"


@cache
def known_duplicates(source: str) -> tuple[Duplicate, ...] | None:
    """The shipped list of a source with a name; None where it has none.

    First those of test and train, then those within test, each the surest pairs first.
    """
    if source not in _LISTED:
        return None
    asset = resources.files("headstart") / "assets" / list_name(_LISTED[source])
    with asset.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Duplicate(
            row["first"],
            row["second"],
            row["kind"],
            row["mirrored"] == "1",
            float(row["correlation"]),
            float(row["cosine"]),
        )
        for row in rows
    )


def duplicates_in_training(splits: Splits) -> np.ndarray | None:
    """bool (n,): the test images with a known duplicate in train or validation, as split here.

    None where the data has no shipped list.
    """
    known = known_duplicates(splits.source)
    if known is None:
        return None
    learnt = {content_name(d) for images in (splits.train, splits.val) for d in images.digests}
    leaking = {a for pair in known for a, b in _both_ways(pair) if b in learnt}
    return np.array([content_name(digest) in leaking for digest in splits.test.digests], bool)


def find_leakage(splits: Splits) -> Leakage:
    """Duplicates between and within the splits: from the shipped list, or else searched for.

    The search takes about three seconds a thousand images, and memory for a thumbnail of each.
    """
    sets = {"test": splits.test, "val": splits.val, "train": splits.train}
    known = known_duplicates(splits.source)
    if known is not None:
        told = {
            f"test/{split}": _listed(known, splits.test, sets[split])
            for split in ("train", "val", "test")
        }
        return Leakage(_counts(sets), told, list_source(splits.source))
    between = ("test/train", "test/val", "val/train", "test/test", "val/val", "train/train")
    found = {}
    for name in between:
        first, second = (sets[split] for split in name.split("/"))
        found[name] = _named(find_duplicates(first, second), first, second)
    return Leakage(_counts(sets), found, "a search of thumbnails")


def content_name(digest: bytes) -> str:
    """What a list calls the image of this SHA-256: its first 16 hex digits."""
    return digest.hex()[:16]


def _both_ways(pair: Duplicate) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair.first, pair.second), (pair.second, pair.first)


def _listed(known: Sequence[Duplicate], first: ImageSet, second: ImageSet) -> tuple[Duplicate, ...]:
    """The listed pairs of an image of `first` and one of `second`, by their ids, each once."""
    firsts, seconds = _ids_by_content(first), _ids_by_content(second)
    found: dict[frozenset[str], Duplicate] = {}
    for pair in known:
        for mine, theirs in _both_ways(pair):
            for one, other in itertools.product(firsts.get(mine, ()), seconds.get(theirs, ())):
                if one != other:
                    told = replace(pair, first=one, second=other)
                    found.setdefault(frozenset((one, other)), told)
    return tuple(found.values())


def _ids_by_content(images: ImageSet) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for image, digest in zip(images.ids.tolist(), images.digests, strict=True):
        ids.setdefault(content_name(digest), []).append(image)
    return ids


def _counts(sets: dict[str, ImageSet]) -> dict[str, int]:
    return {split: len(images) for split, images in sets.items()}


def _named(pairs: Pairs, first: ImageSet, second: ImageSet) -> tuple[Duplicate, ...]:
    firsts: Sequence[str] = first.ids[pairs.first].tolist()
    seconds: Sequence[str] = second.ids[pairs.second].tolist()
    return tuple(
        Duplicate(
            one,
            other,
            "exact" if pairs.exact[i] else "near",
            bool(pairs.mirrored[i]),
            float(pairs.correlation[i]),
        )
        for i, (one, other) in enumerate(zip(firsts, seconds, strict=True))
    )


def pair_grid(leakage: Leakage, splits: Splits, out: Path, *, most: int = 24) -> Path:
    """Draw pairs side by side to a PNG at `out`, evenly from the surest to the least sure.

    They are those between the first two splits that have any, with no image twice. Raises
    ValueError where there are none.
    """
    pairs: list[Duplicate] = []
    drawn: set[str] = set()
    for pair in next((found for found in leakage.pairs.values() if found), ()):
        if not drawn & {pair.first, pair.second}:
            drawn |= {pair.first, pair.second}
            pairs.append(pair)
    if not pairs:
        raise ValueError("no pair to draw")
    rows = {
        image: (images, row)
        for images in (splits.train, splits.val, splits.test)
        for row, image in enumerate(images.ids.tolist())
    }
    chosen = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)
    pixels, titles = [], []
    for pair in (pairs[i] for i in chosen):
        for image in (pair.first, pair.second):
            images, row = rows[image]
            pixels.append(images.read(np.array([row]))[0])
            name = splits.class_names[images.labels[row]]
            titles.append(f"{name} {image.rpartition('/')[2]}")
    return draw_grid(np.stack(pixels), titles, out, cols=min(8, len(pixels)))
