"""Groups: images that belong together, such as a burst, so that they stay in one part of a split.

Two photos of one burst in train and in test make a score look better than it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags

from headstart.data.check.confirmation import confirm
from headstart.data.check.duplicates import MOST_IMAGES, SEARCH_VERSION
from headstart.data.check.pairs import find_pairs
from headstart.data.hashing import hash_ids
from headstart.data.images import ImageSet, map_threads
from headstart.data.sources.download import Progress
from headstart.data.sources.layout import Layout
from headstart.data.splits import Source
from headstart.errors import DataError
from headstart.files import cache_root, recall, remember
from headstart_predict.decode import UnreadableImageError, open_file, open_image

BURST_S = 60  # two photos of a class that follow within so many seconds are of one burst
VERSION = 1  # raise it when the same images would be grouped otherwise


@dataclass(frozen=True)
class _Grouping:
    """names: the group of each image; empty for an image that is alone. by: what they follow, in
    words."""

    names: list[str]
    by: str


def with_groups(
    source: Source, layout: Layout, root: Path, how: str, progress: Progress | None = None
) -> Source:
    """The source with the groups of its training images, and a note about them.

    how: as `data.group`. Only images that are to be split have groups. Where the source has splits
    of its own, these stay as they are, and a note says how many groups they tear. Raises DataError
    where nothing tells the groups.
    """
    where = source.name
    if how == "auto":
        how = "duplicates" if layout.groups is None else "column"
    if how == "duplicates":
        grouping = _by_duplicates(source.train, progress)
    elif how == "time":
        grouping = _by_time(where, source.train, root, progress)
    else:
        grouping = _Grouping(*_named(where, layout, how, source.train, "train"))
    ids = _ids(source.train, grouping.names)
    images, notes = replace(source.train, groups=ids), [_count(grouping.by, ids)]
    if how not in ("duplicates", "time"):
        for split, held in (("val", source.val), ("test", source.test)):
            if held is not None:
                names, _ = _named(where, layout, how, held, split, required=False)
                notes += _torn(set(grouping.names), set(names), split)
    return replace(source, train=images, notes=(*source.notes, *notes))


def _ids(images: ImageSet, names: Sequence[str]) -> np.ndarray:
    """uint64 (n,): a hash of each image's group; of the image itself where it is alone."""
    pairs = zip(names, images.ids.tolist(), strict=True)
    return hash_ids(f"group\0{name}" if name else f"image\0{image}" for name, image in pairs)


def _named(
    where: str, layout: Layout, how: str, images: ImageSet, split: str, required: bool = True
) -> tuple[list[str], str]:
    """The groups that names tell: a table's column, folders, or an expression on the path."""
    ids = images.ids.tolist()
    if how == "column":
        if layout.groups is None:
            raise DataError(
                f'{where}: data.group = "column" needs a table with a column group (manifest:PATH)'
            )
        names, by = [layout.groups.get(image, "") for image in ids], "the column group"
    elif how == "folder":
        depth = layout.depths.get(split, 0)
        names = ["/".join(PurePosixPath(image).parts[depth:-1]) for image in ids]
        by = "their folders"
    else:
        found = [re.search(how, image) for image in ids]
        names, by = [(said["group"] or "") if said else "" for said in found], "their paths"
    if required and not any(names):
        what = {
            "column": "the column group is empty",
            "folder": 'no class folder holds folders, which data.group = "folder" keeps together',
        }.get(how, f"data.group = {how!r} finds a group in no path, such as {ids[0]}")
        raise DataError(f"{where}: {what}")
    return names, by


def _by_duplicates(images: ImageSet, progress: Progress | None) -> _Grouping:
    """Near-duplicates, of duplicates too, are one group. About ten seconds per thousand images; the
    result is remembered."""

    def find() -> list[str]:
        if progress is not None:
            progress("looking for near-duplicates, to keep them together", 0, None)
        pairs = [np.array(pair) for pair in _same_bytes(images)]
        if len(images) <= MOST_IMAGES:
            near = find_pairs(images, images)
            near = near.pick(confirm(near, images, images))
            pairs += list(np.stack([near.first, near.second], axis=1))
        return _joined(images, pairs)

    by = "near-duplicates"
    if len(images) > MOST_IMAGES:
        by = f"identical files alone, because more than {MOST_IMAGES:,} images are not compared"
    return _Grouping(_remembered(images, f"duplicates {SEARCH_VERSION}", find), by)


def _same_bytes(images: ImageSet) -> list[tuple[int, int]]:
    first: dict[bytes, int] = {}
    return [(first.setdefault(d, row), row) for row, d in enumerate(images.digests)]


def _by_time(where: str, images: ImageSet, root: Path, progress: Progress | None) -> _Grouping:
    """Photos of one class that follow one another within BURST_S are one group."""

    def find() -> list[str]:
        paths = [root / image for image in images.ids.tolist()]
        taken: list[datetime | None] = []
        for moment in map_threads(taken_at, paths):
            taken.append(moment)
            if progress is not None:
                progress("reading times", len(taken), len(paths))
        # Photos of a burst may have several labels, and not all the same.
        labels = images.labels if images.labels.ndim == 1 else np.zeros(len(images), np.int64)
        timed = [row for row, moment in enumerate(taken) if moment is not None]
        if not timed:
            raise DataError(
                f'{where}: data.group = "time": no photo says when it was taken (EXIF '
                "DateTimeOriginal)"
            )
        timed.sort(key=lambda row: (labels[row], taken[row], images.ids[row]))
        pairs = [
            np.array([one, two])
            for one, two in pairwise(timed)
            if labels[one] == labels[two] and _seconds(taken[one], taken[two]) <= BURST_S
        ]
        return _joined(images, pairs)

    return _Grouping(_remembered(images, f"time {BURST_S}", find), "the times they were taken")


def taken_at(path: Path) -> datetime | None:
    """When a photo was taken, by the clock of its camera (EXIF DateTimeOriginal). None where it
    does not say, or cannot be read. Decodes no pixels."""
    try:
        with open_file(path) as file, open_image(file) as image:
            said = image.getexif().get_ifd(ExifTags.IFD.Exif)
            text = str(said.get(ExifTags.Base.DateTimeOriginal, "")).strip("\0 ")
            return datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
    except UnreadableImageError:  # which a text that is no time becomes too
        return None


def _seconds(first: datetime | None, second: datetime | None) -> float:
    return (second - first).total_seconds() if first and second else float("inf")


def _joined(images: ImageSet, pairs: Sequence[np.ndarray]) -> list[str]:
    """By image, the name of its group: the first id in it. Images of a pair are in one group."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(images)
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    _, groups = connected_components(coo_matrix((np.ones(len(first)), (first, second)), (n, n)))
    ids = images.ids.tolist()
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    names = [""] * n
    for rows in members.values():
        if len(rows) > 1:
            name = min(ids[row] for row in rows)
            for row in rows:
                names[row] = name
    return names


def _remembered(images: ImageSet, what: str, find: Callable[[], list[str]]) -> list[str]:
    """The groups of these images, found before or now: a folder is opened several times by one
    command."""
    key = hashlib.sha256(f"{VERSION} {what}\n{images.fingerprint}".encode()).hexdigest()
    memory = cache_root() / "groups" / f"{key[:32]}.json"
    known = recall(memory)
    if isinstance(known, list) and len(known) == len(images):
        return list(map(str, known))
    names = find()
    remember(memory, names)
    return names


def _count(by: str, ids: np.ndarray) -> str:
    _, sizes = np.unique(ids, return_counts=True)
    return (
        f"images are kept together by {by}: {len(sizes):,} groups of {len(ids):,} images; "
        f"{int(sizes[sizes > 1].sum()):,} images are in groups of more than one"
    )


def _torn(train: set[str], held: set[str], split: str) -> list[str]:
    both = sorted((train & held) - {""})
    if not both:
        return []
    many = f"{len(both):,} groups are" if len(both) > 1 else "1 group is"
    return [
        f"{many} in train and in {split}, such as {both[0]}: splits of your own stay as they are, "
        "and scores look better than they are"
    ]
