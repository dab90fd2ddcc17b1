"""cifar10-mini: 2,500 real CIFAR-10 images inside the package, for a first run without a network.

Its images keep CIFAR-10's own ids. They are the ones that `train_limit = 2000`, `test_limit = 500`
and split_seed 0 take from the full set. So a run on it has the same data and the same fingerprint
as that run on the full set.
"""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from importlib import resources

import numpy as np
from PIL import Image

from headstart.data.images import ImageSet, PlanarPixels, build_image_set
from headstart.data.sources.cifar import CIFAR10, SIDE
from headstart.data.splits import Source
from headstart.errors import DataError

NAME = "cifar10-mini"
ASSET = "cifar10_mini.npz"
COUNTS = {"train": 2000, "test": 500}


def open_mini() -> Source:
    """Read the embedded sample (7.7 MB of memory)."""
    return Source(
        name=NAME,
        class_names=CIFAR10.class_names,
        train=_read_split("train"),
        val=None,
        test=_read_split("test"),
        sizes=np.full((sum(COUNTS.values()), 2), SIDE),
    )


@lru_cache(maxsize=len(COUNTS))  # the runs of a study share them
def decode_sheet(content: bytes) -> np.ndarray:
    """uint8 (n, 3072), channel after channel, from a WebP sheet of tiles, row by row; read-only."""
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
        sheet = np.asarray(image.convert("RGB"))
    down, across = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    tiles = sheet.reshape(down, SIDE, across, SIDE, 3).transpose(0, 2, 4, 1, 3)
    planes = np.ascontiguousarray(tiles).reshape(down * across, -1)
    planes.flags.writeable = False
    return planes


def _read_split(split: str) -> ImageSet:
    asset = resources.files("headstart") / "assets" / ASSET
    try:
        with asset.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            sheet, labels, numbers = (
                arrays[f"{split}_{part}"] for part in ("sheet", "labels", "numbers")
            )
        planes = decode_sheet(sheet.tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{ASSET}: the sample inside the package is damaged: install headstart again ({error})"
        ) from error
    ids = [f"{split}/{number}" for number in numbers.tolist()]
    return build_image_set(PlanarPixels(planes, SIDE), ids, labels)
