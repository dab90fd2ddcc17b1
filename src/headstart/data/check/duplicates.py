"""Duplicates: which images of one split have a duplicate in another, by a shipped list or a search.

The lists name images by their content, because the files of CIFAR-100 come in more than one order.
The images of cifar10-mini are CIFAR-10's, so it uses the list of CIFAR-10.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.check.confirmation import confirm
from headstart.data.check.pairs import Pairs, find_pairs
from headstart.data.images import ImageSet
from headstart.data.samples import draw_grid
from headstart.data.sources import mini
from headstart.data.sources.cifar import CIFARS
from headstart.data.sources.download import Progress
from headstart.data.splits import Splits
from headstart.data.strata import label_text
from headstart.files import cache_root, write_json
from headstart_predict.cards import Card, Shown

COLUMNS = ("first", "second", "kind", "mirrored", "correlation", "cosine")
BY_SEARCH, BY_BYTES = "a search of the pictures", "a search for byte-identical images alone"
# The most images of a split that are compared, and the most images of all splits together. At these
# limits a search takes half a minute on one core and one to two gigabytes of memory.
SEARCHED, MOST_IMAGES = 5_000, 100_000
# Raise it when the same images would give other pairs: remembered results are then searched again.
SEARCH_VERSION = 1
_LISTED = {name: name for name in CIFARS} | {mini.NAME: "cifar10"}


@dataclass(frozen=True)
class Duplicate:
    """Two images of one shot, named by their ids, or in a list by `content_name`.

    kind: exact or near. correlation: of the detail of both images, at most 1. cosine: of a
    network's features for both images; None without a network.
    """

    first: str
    second: str
    kind: str
    mirrored: bool
    correlation: float
    cosine: float | None = None


@dataclass(frozen=True, repr=False)
class Duplicates(Shown):
    """Duplicates between the splits of one data set, and within each split.

    images: number of images by split. pairs: duplicates by the two splits, such as "test/train";
    `first` of a pair is in the first of them. source: the list, or the kind of search.
    """

    images: dict[str, int]
    pairs: dict[str, tuple[Duplicate, ...]]
    source: str

    @property
    def count(self) -> int:
        """Number of pairs."""
        return sum(map(len, self.pairs.values()))

    def affected(self, between: str) -> int:
        """Number of images of the first split that have a duplicate in the second."""
        first, second = between.split("/")
        ids = {pair.first for pair in self.pairs[between]}
        if first == second:
            ids |= {pair.second for pair in self.pairs[between]}
        return len(ids)

    def _card(self) -> Card:
        rows = []
        for between, pairs in self.pairs.items():
            first, second = between.split("/")
            where = f"{first} in {second}" if first != second else f"within {first}"
            rows.append([where, f"{self.affected(between):,}", f"{len(pairs):,}"])
        header = ("duplicates", "images", "pairs")
        return Card(f"Duplicates: {self.count:,} pairs, by {self.source}", (), header, rows)

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "source": self.source,
            "images": self.images,
            "between": [
                {
                    "splits": between,
                    "images": self.affected(between),
                    "pairs": [asdict(pair) for pair in pairs],
                }
                for between, pairs in self.pairs.items()
            ],
        }


@dataclass(frozen=True, eq=False)
class SplitDuplicates:
    """The images of one split that have a duplicate in an earlier split.

    duplicated: bool (n,). searched: bool (n,), the images whose pictures were compared; of the
    others only the bytes were. None is searched where there are too many images. source: the list,
    or the kind of search. exact: number of duplicated images that are the very same picture.
    example: ids of one pair, an exact one if there is any.
    """

    duplicated: np.ndarray
    searched: np.ndarray
    source: str
    exact: int = 0
    example: tuple[str, str] | None = None

    @property
    def kept(self) -> np.ndarray:
        """bool (n,): the searched images without a duplicate.

        Where none was searched: the images without a byte-identical duplicate, or no image if
        nothing is duplicated.
        """
        known = self.searched if self.searched.any() else self.duplicated.any()
        return np.asarray(known & ~self.duplicated)


def list_name(name: str) -> str:
    """The file, among the assets, of a data set's duplicates."""
    return f"duplicates_{name}.csv"


def list_source(source: str) -> str | None:
    """The shipped list of a source, in words; None for a source without one."""
    return f"the shipped list {list_name(_LISTED[source])}" if source in _LISTED else None


@cache
def known_duplicates(source: str) -> tuple[Duplicate, ...] | None:
    """The shipped list of a source; None for a source without one.

    Pairs of test and train come first, then pairs within test; each part begins with the surest.
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


def find_split_duplicates(
    splits: Splits, split: str, progress: Progress | None = None
) -> SplitDuplicates:
    """The test images with a duplicate in train or val, or the val images with one in train.

    The answer comes from the shipped list, which covers test only. A source without a list is
    searched, and the result is remembered for these images. The search takes seconds for thousands
    of images. In a split of more than SEARCHED images a random sample is compared, and the rest
    byte for byte. With more than MOST_IMAGES images in all, everything is compared byte for byte.
    """
    images = splits.test if split == "test" else splits.val
    others = (splits.train, splits.val) if split == "test" else (splits.train,)
    known = known_duplicates(splits.source)
    if known is None:
        return _searched(images, others, progress)
    in_others = {content_name(d) for other in others for d in other.digests}
    named = {a for pair in known for a, b in _both_ways(pair) if b in in_others}
    duplicated = [split == "test" and content_name(d) in named for d in images.digests]
    everything = np.ones(len(images), bool)
    return SplitDuplicates(np.array(duplicated, bool), everything, str(list_source(splits.source)))


def _searched(
    images: ImageSet, others: Sequence[ImageSet], progress: Progress | None
) -> SplitDuplicates:
    sample = np.sort(np.argsort(images.keys, kind="stable")[:SEARCHED])
    if len(images) + sum(map(len, others)) > MOST_IMAGES:
        sample = sample[:0]
    memory = _memory(images, others, len(sample))
    pairs = _recall(memory)
    if pairs is None:
        if progress is not None:
            progress("looking for duplicates between the splits", 0, None)
        pairs = [pair for other in others for pair in _surest(images, sample, other)]
        with contextlib.suppress(OSError):  # remembering only saves time
            write_json(memory, pairs)
    duplicated, searched = np.zeros((2, len(images)), bool)
    duplicated[[row for row, _, _ in pairs]] = True
    if len(sample):
        searched[sample] = True
        searched |= duplicated
    first = min(pairs, key=lambda pair: not pair[2], default=None)
    return SplitDuplicates(
        duplicated,
        searched,
        BY_SEARCH if len(sample) else BY_BYTES,
        len({row for row, _, exact in pairs if exact}),
        (str(images.ids[first[0]]), first[1]) if first else None,
    )


def _surest(images: ImageSet, sample: np.ndarray, other: ImageSet) -> list[tuple[int, str, bool]]:
    """For each image with a duplicate in `other`: its row, the other's id, whether it is exact.

    Every image is compared byte for byte. Pictures are compared for the rows in `sample`: an
    image's pairs are confirmed from the surest down, until one holds.
    """
    ids = dict(zip(other.digests, other.ids.tolist(), strict=True))
    by_row = {row: (row, ids[d], True) for row, d in enumerate(images.digests) if d in ids}
    sample = np.array([row for row in sample.tolist() if row not in by_row], np.int64)
    if not len(sample):
        return list(by_row.values())
    queries = images.pick(sample)
    pairs = find_pairs(queries, other)
    while len(pairs):
        _, heads = np.unique(pairs.first, return_index=True)
        tried = pairs.pick(heads)
        held = tried.pick(confirm(tried, queries, other))
        for one, two, exact in zip(held.first, held.second, held.exact, strict=True):
            row = int(sample[one])
            by_row[row] = (row, str(other.ids[two]), bool(exact))
        left = ~np.isin(pairs.first, held.first)
        left[heads] = False
        pairs = pairs.pick(left)
    return list(by_row.values())


def _memory(images: ImageSet, others: Sequence[ImageSet], compared: int) -> Path:
    """Where a search is remembered. The name depends on the images' content and ids, on how many
    are compared, and on SEARCH_VERSION."""
    key = hashlib.sha256(f"{SEARCH_VERSION} {compared}\n".encode())
    for each in (images, *others):
        key.update(each.fingerprint.encode())
    return cache_root() / "duplicates" / f"{key.hexdigest()[:32]}.json"


def find_duplicates(splits: Splits) -> Duplicates:
    """Duplicates between and within the splits, by the shipped list or else by a search.

    The search takes about ten seconds per thousand images, and holds a thumbnail of each in memory.
    """
    sets = {"test": splits.test, "val": splits.val, "train": splits.train}
    known = known_duplicates(splits.source)
    if known is not None:
        listed = {
            f"test/{split}": _listed(known, splits.test, sets[split])
            for split in ("train", "val", "test")
        }
        return Duplicates(_counts(sets), listed, str(list_source(splits.source)))
    between = ("test/train", "test/val", "val/train", "test/test", "val/val", "train/train")
    confirmed = {}
    for name in between:
        first, second = (sets[split] for split in name.split("/"))
        pairs = find_pairs(first, second)
        confirmed[name] = _named(pairs.pick(confirm(pairs, first, second)), first, second)
    return Duplicates(_counts(sets), confirmed, BY_SEARCH)


def _recall(memory: Path) -> list[tuple[int, str, bool]] | None:
    try:
        return [(row, name, exact) for row, name, exact in json.loads(memory.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


def content_name(digest: bytes) -> str:
    """An image's name in a list: the first 16 hex digits of its SHA-256."""
    return digest.hex()[:16]


def _both_ways(pair: Duplicate) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair.first, pair.second), (pair.second, pair.first)


def _listed(known: Sequence[Duplicate], first: ImageSet, second: ImageSet) -> tuple[Duplicate, ...]:
    """The listed pairs between two splits, by the images' ids, each pair once."""
    firsts, seconds = _ids_by_content(first), _ids_by_content(second)
    by_ids: dict[frozenset[str], Duplicate] = {}
    for pair in known:
        for mine, theirs in _both_ways(pair):
            for one, other in itertools.product(firsts.get(mine, ()), seconds.get(theirs, ())):
                if one != other:
                    named = replace(pair, first=one, second=other)
                    by_ids.setdefault(frozenset((one, other)), named)
    return tuple(by_ids.values())


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


def pair_grid(duplicates: Duplicates, splits: Splits, out: Path, *, most: int = 24) -> Path:
    """Draw pairs side by side to a PNG at `out`, evenly from the surest to the least sure.

    The pairs are of the first two splits that have any; no image is drawn twice. Raises ValueError
    where there is no pair.
    """
    pairs: list[Duplicate] = []
    drawn: set[str] = set()
    for pair in next((between for between in duplicates.pairs.values() if between), ()):
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
            name = label_text(images.labels[row, ...], splits.class_names)
            titles.append(f"{name} {image.rpartition('/')[2]}")
    return draw_grid(np.stack(pixels), titles, out, cols=min(8, len(pixels)))
