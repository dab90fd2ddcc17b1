"""Segmentation masks beside their images: they are no photos of a class and are left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from headstart.data.sources.layout import MASK_WORDS, Layout, is_mask_folder
from headstart.errors import DataError
from headstart_predict.decode import UnreadableImageError, decode_image

# "benign (1)_mask.png" and "benign (1)_mask_1.png" beside "benign (1).png".
_NAMED = re.compile(rf"(.+?)[\s_.-]+(?:{MASK_WORDS})(?:[\s_.-]?\d+)?", re.IGNORECASE)
_UNREADABLE = frozenset((".heic", ".heif"))  # often beside a JPEG of the same photo
_DRAWN = frozenset((".png", ".bmp", ".gif", ".tif", ".tiff"))  # formats that keep a mask's values
_LOOKED_AT = 8  # number of pairs that are read
_SIDE = 64  # pixels a side at which a pair is compared
_VALUES = 0.9  # share of a mask's pixels that have one of its _FEW most frequent values
_FEW = 4
_ALLOWED = 0.05  # share of the images: fewer pairs of one name give a note, more are refused


def without_masks(root: Path, layout: Layout) -> Layout:
    """The layout without the masks beside its images, and with a note about them.

    A mask is recognised by its name ("x_mask.png" beside "x.png"), or by its few colours where
    "x.png" is beside "x.jpg". Raises DataError where many images have the same name as another and
    are not clearly masks.
    """
    of_classes = [paths for classes in layout.files.values() for paths in classes.values()]
    named = {mask: image for paths in of_classes for mask, image in _named_masks(paths).items()}
    notes = []
    if named:
        mask, image = min(named.items())
        notes.append(f"{len(named)} masks left out, such as {mask} beside {image}")
    layout = _without(layout, set(named))
    pairs = _same_stem(layout.paths)
    if pairs:
        drawn = [second for _, second in pairs]
        example = f"{pairs[0][0]} and {pairs[0][1]}"
        if all(_looks_drawn(root, *pair) for pair in _spread(pairs)):
            notes.append(
                f"{len(pairs)} masks left out, such as {drawn[0]} beside {pairs[0][0]}: images "
                "of a few flat values"
            )
            layout = _without(layout, set(drawn))
        elif len(pairs) > max(1, _ALLOWED * len(layout.paths)):
            raise DataError(
                f"{root}: {len(pairs)} images share the name of another, such as {example}: image "
                "and mask, or one photo twice: move one of each pair out of the folder"
            )
        else:
            count = (
                "1 pair of images has" if len(pairs) == 1 else f"{len(pairs)} pairs of images have"
            )
            notes.append(
                f"{count} one name, such as {example}: both are used; move one out where it is a "
                "mask or the same photo"
            )
    return replace(layout, notes=(*layout.notes, *notes))


def _named_masks(paths: Sequence[str]) -> dict[str, str]:
    """The masks of a class that are named so, or in a folder named so, each with its image."""
    photos = [path for path in paths if not is_mask_folder(PurePosixPath(path).parent.name)]
    beside = {_place(path): path for path in photos}
    above = {(str(PurePosixPath(path).parent.parent), _stem(path)): path for path in photos}
    masks = {}
    for path in paths:
        parent, stem = PurePosixPath(path).parent, PurePosixPath(path).stem
        said = _NAMED.fullmatch(stem)
        if is_mask_folder(parent.name):  # "masks/x.png" beside "images/x.png"
            image = above.get((str(parent.parent), said[1] if said else stem))
        else:
            image = beside.get((str(parent), said[1])) if said else None
        if image:
            masks[path] = image
    return masks


def _same_stem(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs in one folder whose names differ only in the suffix; a mask format comes second."""
    by_place: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in paths:
        if PurePosixPath(path).suffix.casefold() not in _UNREADABLE:
            by_place[_place(path)].append(path)
    pairs = []
    for given in by_place.values():
        given.sort(key=lambda path: PurePosixPath(path).suffix.casefold() in _DRAWN)
        pairs += [(given[0], other) for other in given[1:]]
    return sorted(pairs)


def _place(path: str) -> tuple[str, str]:
    return str(PurePosixPath(path).parent), _stem(path)


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _spread(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    rows = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _LOOKED_AT)).astype(int))
    return [pairs[row] for row in rows.tolist()]


def _looks_drawn(root: Path, image: str, mask: str) -> bool:
    """Whether the second image has few values and the first has many."""
    if PurePosixPath(mask).suffix.casefold() not in _DRAWN:
        return False
    try:
        shares = [_few_values(decode_image(root / path, _SIDE)) for path in (image, mask)]
    except UnreadableImageError:
        return False
    return shares[0] < _VALUES <= shares[1]


def _few_values(pixels: np.ndarray) -> float:
    """The share of the pixels, uint8 (side, side, 3), that have one of the _FEW most frequent
    colours. It is below 1 for a mask too: resizing blurs its edges."""
    codes = pixels.reshape(-1, 3).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    counts = np.sort(np.unique(codes, return_counts=True)[1])[::-1]
    return float(counts[:_FEW].sum() / len(codes))


def _without(layout: Layout, masks: set[str]) -> Layout:
    files = {
        split: {
            name: [path for path in paths if path not in masks] for name, paths in classes.items()
        }
        for split, classes in layout.files.items()
    }
    return replace(layout, files=files)
