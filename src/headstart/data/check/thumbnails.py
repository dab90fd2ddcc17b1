"""Thumbnails of image sets. For a folder, those that its scan has stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from headstart.data.images import ImageSet
from headstart.data.sources.folder import PhotoFiles
from headstart.data.sources.scan import recall_thumbnails, remember_thumbnails
from headstart_predict.decode import THUMBNAIL_SIDE
from headstart_predict.framing import CROP

_BLOCK = 1024


def thumbnails(images: ImageSet) -> np.ndarray:
    """uint8 (n, 32, 32, 3), whatever the side of the set.

    Raises DataError where a photo has to be read again and cannot be.
    """
    store = images.store
    if not isinstance(store, PhotoFiles):
        return squares(images, np.arange(len(images)), THUMBNAIL_SIDE)
    known = recall_thumbnails(store.root)
    unknown = [row for row, digest in enumerate(images.digests) if digest not in known]
    if unknown:
        read = squares(images, np.array(unknown), THUMBNAIL_SIDE)
        known |= {images.digests[row]: square for row, square in zip(unknown, read, strict=True)}
        remember_thumbnails(store.root, known)
    return np.stack([known[digest] for digest in images.digests])


def squares(images: ImageSet, rows: np.ndarray, side: int) -> np.ndarray:
    """uint8 (len(rows), side, side, 3): images of the set, resized to `side`."""
    if isinstance(images.store, PhotoFiles):
        # By the centre square whatever the recipe says: thumbnails are kept for all recipes, and
        # groups of duplicates, which splits depend on, must not change with the framing.
        return replace(images.store, side=side, framing=CROP).read(images.rows[rows])
    pictures = np.empty((len(rows), side, side, 3), np.uint8)
    for start in range(0, len(rows), _BLOCK):
        pixels = images.read(rows[start : start + _BLOCK])
        if images.side != side:
            pixels = np.stack([np.asarray(Image.fromarray(p).resize((side, side))) for p in pixels])
        pictures[start : start + _BLOCK] = pixels
    return pictures


def native_sides(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """int64 (len(rows),): pixels along the shorter side of each image as it is stored."""
    if isinstance(images.store, PhotoFiles):
        return np.array(
            [images.store.short_sides[row] for row in images.rows[rows].tolist()], np.int64
        )
    return np.full(len(rows), images.side, np.int64)
