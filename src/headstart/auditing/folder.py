"""The labelled pictures of a folder as one set, of all splits together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from headstart.auditing.records import Pair, Picture
from headstart.data.check.confirmation import confirm
from headstart.data.check.duplicates import MOST_IMAGES
from headstart.data.check.pairs import find_pairs
from headstart.data.images import ImageSet, build_image_set
from headstart.data.loading import open_source
from headstart.data.sources.download import Progress
from headstart.data.sources.folder import PhotoFiles
from headstart.data.sources.manifest import SEPARATOR
from headstart.data.sources.places import is_manifest, photos_path, photos_root
from headstart.data.splits import Source
from headstart.errors import DataError
from headstart.specs import DataSpec

LEAST_SIDE = 96  # pixels; networks that were trained at 224 tell little below
MOST_COMPARED = min(30_000, MOST_IMAGES)  # pictures up to which all are compared: a minute


def folder_of(source: str) -> Path:
    """The folder that the pictures' paths begin at. Raises DataError where a folder is none."""
    path = photos_path(source)
    if not is_manifest(source) and not path.is_dir():
        raise DataError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    return photos_root(source)


def open_pictures(
    name: str, side: int, progress: Progress | None
) -> tuple[Source, ImageSet, list[Picture]]:
    """The photos of this name as a source, and all that can be read, in the order of their paths.

    side: pixels a side at which they are read. Raises DataError as `open_source`, and of a table
    that gives photos several labels.
    """
    source = open_source(DataSpec(source=name, size=side), progress=progress)
    if is_manifest(name):
        _require_one_label(name, source.class_names)
    sets = {"train": source.train, "val": source.val, "test": source.test}
    there = {split: images for split, images in sets.items() if images is not None}
    images, splits = join(there)
    pictures = [
        Picture(path, source.class_names[label], split if len(there) > 1 else "")
        for path, label, split in zip(images.ids.tolist(), images.labels, splits, strict=True)
    ]
    return source, images, pictures


def _require_one_label(name: str, class_names: Sequence[str]) -> None:
    if several := next((each for each in class_names if SEPARATOR in each), None):
        raise DataError(
            f"{name}: {several}: an audit takes photos with one label each; where {SEPARATOR} is a "
            "part of a class's name, name the class otherwise"
        )


def join(sets: dict[str, ImageSet]) -> tuple[ImageSet, list[str]]:
    """Sets of photos of one folder as one set, and the split of each of its rows."""
    rows = sorted(
        (str(images.ids[i]), split, i) for split, images in sets.items() for i in range(len(images))
    )
    stores: dict[str, PhotoFiles] = {}
    for split, images in sets.items():
        assert isinstance(images.store, PhotoFiles)  # as of all photos
        stores[split] = images.store
    first = next(iter(stores.values()))
    store = replace(
        first,
        paths=tuple(path for path, _, _ in rows),
        content=tuple(sets[split].digests[i] for _, split, i in rows),
        short_sides=tuple(
            stores[split].short_sides[int(sets[split].rows[i])] for _, split, i in rows
        ),
    )
    labels = np.array([sets[split].labels[i] for _, split, i in rows])
    return build_image_set(store, store.paths, labels), [split for _, split, _ in rows]


def useful_side(images: ImageSet) -> int:
    """Pixels a side, a multiple of 32: about three times the usual short side of the pictures."""
    assert isinstance(images.store, PhotoFiles)  # as of all photos
    middle = float(np.median(images.store.short_sides))
    return max(LEAST_SIDE, 32 * -int(-3 * middle // 32))


def at_side(images: ImageSet, side: int) -> ImageSet:
    """The same pictures, read at another side."""
    assert isinstance(images.store, PhotoFiles)  # as of all photos
    return replace(images, store=replace(images.store, side=side))


def find_same(images: ImageSet, pictures: Sequence[Picture]) -> tuple[list[Pair], np.ndarray]:
    """Pairs of one shot, what matters most first; and int64 (n,), a number for each group of
    pictures that are the same.

    A picture must not vouch for its own copy. But those that are only alike are no group: their
    labels are evidence. Without them, recall of planted wrong labels fell from 0.94 to 0.51 on
    photos of one material, where most pictures are like some other.

    More than MOST_COMPARED pictures are compared byte for byte only.
    """
    if len(images) > MOST_COMPARED:
        rows = _identical(images)
        found = [_pair(pictures, a, b, "exact", False, 1.0) for a, b in rows]
    else:
        pairs = find_pairs(images, images)
        pairs = pairs.pick(confirm(pairs, images, images))
        rows = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
        found = [
            _pair(pictures, a, b, "exact" if exact else "near", bool(mirrored), float(correlation))
            for (a, b), exact, mirrored, correlation in zip(
                rows, pairs.exact, pairs.mirrored, pairs.correlation, strict=True
            )
        ]
    same = [row for row, pair in zip(rows, found, strict=True) if pair.kind == "exact"]
    order = sorted(found, key=lambda p: (not p.across, not p.contradicting, p.kind, -p.correlation))
    return order, _components(same, len(images))


def _components(rows: list[tuple[int, int]], count: int) -> np.ndarray:
    """int64 (count,): a number for each group that pairs of rows join."""
    first, second = np.array(rows, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _identical(images: ImageSet) -> list[tuple[int, int]]:
    firsts: dict[bytes, int] = {}
    rows = ((firsts.setdefault(digest, row), row) for row, digest in enumerate(images.digests))
    return [(first, row) for first, row in rows if first != row]


def _pair(
    pictures: Sequence[Picture], a: int, b: int, kind: str, mirrored: bool, correlation: float
) -> Pair:
    one, two = pictures[a], pictures[b]
    return Pair(
        one.path, two.path, kind, (one.label, two.label), (one.split, two.split),
        one.label != two.label, one.split != two.split, mirrored, round(min(correlation, 1.0), 4),
    )  # fmt: skip
