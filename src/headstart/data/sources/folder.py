"""Photos in files: scans those of a layout, and opens them as image sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data.check.oddities import odd_images, require_range, small_classes
from headstart.data.images import ImageSet, build_image_set, map_threads
from headstart.data.sources.download import Progress
from headstart.data.sources.layout import Layout
from headstart.data.sources.scan import Scanned, scan, scan_notes
from headstart.data.splits import BadImage, Source
from headstart.data.strata import class_counts
from headstart.errors import DataError
from headstart_predict.decode import decode_image, open_file
from headstart_predict.framing import CROP, Framing


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """A store over image files, decoded in a few threads when read."""

    root: Path
    paths: tuple[str, ...]
    content: tuple[bytes, ...]  # the digest of each picture
    side: int
    short_sides: tuple[int, ...]  # pixels, as stored
    framing: Framing = CROP
    slow_to_read = True  # 2 ms for a JPEG of 224 pixels, 11 for one of 12 megapixels

    def read(self, rows: np.ndarray) -> np.ndarray:
        squares = np.empty((len(rows), self.side, self.side, 3), dtype=np.uint8)
        files = [self.root / self.paths[row] for row in rows.tolist()]
        decoded = map_threads(lambda f: decode_image(f, self.side, self.framing), files)
        for i, square in enumerate(decoded):
            squares[i] = square
        return squares

    def digests(self, rows: np.ndarray) -> list[bytes]:
        return [self.content[row] for row in rows.tolist()]

    def as_file(self, row: int) -> bytes:
        with open_file(self.root / self.paths[row]) as file:
            return file.read()


def open_photos(
    where: Path,
    root: Path,
    layout: Layout,
    side: int,
    framing: Framing = CROP,
    progress: Progress | None = None,
) -> Source:
    """Scan and open the photos of a layout below `root`. Photos that cannot be read are left out.

    where: the folder or the table that messages name. side, framing: of the squares. Raises
    DataError where a class has no image left, and where 16-bit images are nearly black.
    """
    scanned = scan(root, layout.paths, progress)
    require_range(where, scanned)
    unread = [(path, entry.reason) for path, entry in scanned.items() if entry.reason]
    good = _readable(where, layout, scanned)
    sets = _image_sets(root, layout, good, scanned, side, framing)
    counts = class_counts(sets["train"].labels, len(layout.class_names)).tolist()
    held = list(zip(layout.class_names, counts, strict=True))
    return Source(
        name=str(where),
        class_names=layout.class_names,
        train=sets["train"],
        val=sets.get("val"),
        test=sets.get("test"),
        sizes=np.array([(e.width, e.height) for e in scanned.values() if not e.reason]),
        quarantined=tuple(BadImage(_shown(p), why) for p, why in (*unread, *layout.left_out)),
        notes=(
            *layout.notes,
            *scan_notes(root),
            *odd_images(scanned, side, framing),
            *small_classes(held),
        ),
    )


def _readable(
    where: Path, layout: Layout, scanned: dict[str, Scanned]
) -> dict[str, list[tuple[str, int]]]:
    """By split, the path and label of each image that can be read; the label is 0 where an image
    may have several."""
    good: dict[str, list[tuple[str, int]]] = {}
    if layout.of_many is not None:
        return {
            split: [(path, 0) for path in classes[""] if not scanned[path].reason]
            for split, classes in layout.files.items()
        }
    for split, classes in layout.files.items():
        good[split] = []
        for label, name in enumerate(layout.class_names):
            paths = [path for path in classes[name] if not scanned[path].reason]
            if classes[name] and not paths:
                first = classes[name][0]
                raise DataError(
                    f"{where}: class {name}: none of its {len(classes[name])} images in {split} "
                    f"can be read; the first: {first}: {scanned[first].reason}"
                )
            good[split] += [(path, label) for path in paths]
    return good


def _image_sets(
    root: Path,
    layout: Layout,
    good: dict[str, list[tuple[str, int]]],
    scanned: dict[str, Scanned],
    side: int,
    framing: Framing,
) -> dict[str, ImageSet]:
    """One set a split, its rows in the order of their paths."""
    sets = {}
    for split, rows in good.items():
        paths = tuple(path for path, _ in sorted(rows))
        content = tuple(scanned[path].digest for path in paths)
        # Absolute, so that the set works after a change of the working directory.
        short = tuple(min(scanned[path].width, scanned[path].height) for path in paths)
        store = PhotoFiles(root.absolute(), paths, content, side, short, framing)
        labels = np.array([label for _, label in sorted(rows)])
        if layout.of_many is not None:
            labels = _sets_of_labels(layout.of_many, paths, len(layout.class_names))
        sets[split] = build_image_set(store, paths, labels)
    return sets


def _sets_of_labels(
    of_many: Mapping[str, tuple[int, ...]], paths: Sequence[str], classes: int
) -> np.ndarray:
    """bool (n, classes): which labels each photo has."""
    labels = np.zeros((len(paths), classes), bool)
    for row, path in enumerate(paths):
        labels[row, list(of_many[path])] = True
    return labels


def _shown(path: str) -> str:
    """A path that can be printed and saved, also if its name is not valid UTF-8."""
    return path.encode(errors="replace").decode()
