"""Leakage: which images of one split have a duplicate in another, from a shipped list or found.

The lists name images by their content: files of CIFAR-100 are about in more than one order, and
cifar10-mini, whose images are CIFAR-10's, needs no list of its own.
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
from headstart.data.check.pairs import Pairs, find_duplicates
from headstart.data.images import ImageSet
from headstart.data.samples import draw_grid
from headstart.data.sources import mini
from headstart.data.sources.cifar import CIFARS
from headstart.data.sources.download import Progress
from headstart.data.splits import Splits
from headstart.files import cache_root, write_json
from headstart.text.cards import Card, Shown

COLUMNS = ("first", "second", "kind", "mirrored", "correlation", "cosine")
BY_SEARCH, BY_BYTES = "a search of the pictures", "a search for byte-identical images alone"
# Images of a split that are compared with the others, and images in all of which thumbnails are
# compared: half a minute of one core, and a gigabyte or two of memory.
SEARCHED, MOST_IMAGES = 5_000, 100_000
# Raised when the same images would give other pairs: what is remembered is then searched again.
SEARCH_VERSION = 1
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

    def to_json(self) -> dict[str, Any]:
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


@dataclass(frozen=True, eq=False)
class Overlap:
    """Which images of one split have a duplicate in the splits that are looked at before it.

    leaking: bool (n,); searched: bool (n,), those that were compared and not byte for byte alone,
    none where there are too many; source: who says so; exact:
    how many of the leaking are the very same picture; example: ids of a pair, an exact one first.
    """

    leaking: np.ndarray
    searched: np.ndarray
    source: str
    exact: int = 0
    example: tuple[str, str] | None = None

    @property
    def kept(self) -> np.ndarray:
        """bool (n,): the searched images that do not leak. Where none was searched, all that are
        byte for byte no duplicates, if there are such duplicates."""
        known = self.searched if self.searched.any() else self.leaking.any()
        return np.asarray(known & ~self.leaking)


def list_name(name: str) -> str:
    """The file, among the assets, of a data set's duplicates."""
    return f"duplicates_{name}.csv"


def list_source(source: str) -> str | None:
    """Who says which images are duplicates, for a source with a shipped list; None for others."""
    return f"the shipped list {list_name(_LISTED[source])}" if source in _LISTED else None


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


def find_overlap(splits: Splits, split: str, progress: Progress | None = None) -> Overlap:
    """Which images of test (or val) have a duplicate in train or validation (or in train).

    From the shipped list, which knows nothing of val, or else from a search, which is remembered
    by what the images hold. It takes seconds for thousands of images: of more than SEARCHED, a
    random sample is compared, and the others byte for byte, as all are of more than MOST_IMAGES.
    """
    images = splits.test if split == "test" else splits.val
    others = (splits.train, splits.val) if split == "test" else (splits.train,)
    known = known_duplicates(splits.source)
    if known is None:
        return _searched(images, others, progress)
    learnt = {content_name(d) for other in others for d in other.digests}
    leaking = {a for pair in known for a, b in _both_ways(pair) if b in learnt}
    rows = [split == "test" and content_name(d) in leaking for d in images.digests]
    everything = np.ones(len(images), bool)
    return Overlap(np.array(rows, bool), everything, str(list_source(splits.source)))


def _searched(images: ImageSet, others: Sequence[ImageSet], progress: Progress | None) -> Overlap:
    sample = np.sort(np.argsort(images.keys, kind="stable")[:SEARCHED])
    if len(images) + sum(map(len, others)) > MOST_IMAGES:
        sample = sample[:0]
    memory = _memory(images, others, len(sample))
    found = _recall(memory)
    if found is None:
        if progress is not None:
            progress("looking for duplicates between the splits", 0, None)
        found = [pair for other in others for pair in _surest(images, sample, other)]
        with contextlib.suppress(OSError):  # remembering only saves time
            write_json(memory, found)
    leaking, searched = np.zeros((2, len(images)), bool)
    leaking[[row for row, _, _ in found]] = True
    if len(sample):
        searched[sample] = True
        searched |= leaking
    first = min(found, key=lambda pair: not pair[2], default=None)
    return Overlap(
        leaking,
        searched,
        BY_SEARCH if len(sample) else BY_BYTES,
        len({row for row, _, exact in found if exact}),
        (str(images.ids[first[0]]), first[1]) if first else None,
    )


def _surest(images: ImageSet, sample: np.ndarray, other: ImageSet) -> list[tuple[int, str, bool]]:
    """For each image with a duplicate in `other`: its row, the other's id, whether it is exact.

    All are looked at byte for byte, those of `sample` closely: each one's pairs, the surest first,
    up to one that holds.
    """
    ids = dict(zip(other.digests, other.ids.tolist(), strict=True))
    found = {row: (row, ids[d], True) for row, d in enumerate(images.digests) if d in ids}
    sample = np.array([row for row in sample.tolist() if row not in found], np.int64)
    if not len(sample):
        return list(found.values())
    queries = images.pick(sample)
    pairs = find_duplicates(queries, other)
    while len(pairs):
        _, heads = np.unique(pairs.first, return_index=True)
        tried = pairs.pick(heads)
        held = tried.pick(confirm(tried, queries, other))
        for one, two, exact in zip(held.first, held.second, held.exact, strict=True):
            row = int(sample[one])
            found[row] = (row, str(other.ids[two]), bool(exact))
        left = ~np.isin(pairs.first, held.first)
        left[heads] = False
        pairs = pairs.pick(left)
    return list(found.values())


def _memory(images: ImageSet, others: Sequence[ImageSet], compared: int) -> Path:
    """Where a search is remembered: by what the images hold, how they are named and its version."""
    key = hashlib.sha256(f"{SEARCH_VERSION} {compared}\n".encode())
    for each in (images, *others):
        key.update(each.fingerprint.encode())
    return cache_root() / "duplicates" / f"{key.hexdigest()[:32]}.json"


def find_leakage(splits: Splits) -> Leakage:
    """Duplicates between and within the splits: from the shipped list, or else searched for.

    The search takes some ten seconds a thousand images, and memory for a thumbnail of each.
    """
    sets = {"test": splits.test, "val": splits.val, "train": splits.train}
    known = known_duplicates(splits.source)
    if known is not None:
        told = {
            f"test/{split}": _listed(known, splits.test, sets[split])
            for split in ("train", "val", "test")
        }
        return Leakage(_counts(sets), told, str(list_source(splits.source)))
    between = ("test/train", "test/val", "val/train", "test/test", "val/val", "train/train")
    found = {}
    for name in between:
        first, second = (sets[split] for split in name.split("/"))
        pairs = find_duplicates(first, second)
        found[name] = _named(pairs.pick(confirm(pairs, first, second)), first, second)
    return Leakage(_counts(sets), found, BY_SEARCH)


def _recall(memory: Path) -> list[tuple[int, str, bool]] | None:
    try:
        return [(row, name, exact) for row, name, exact in json.loads(memory.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


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
