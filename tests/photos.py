"""Folders of photos made of real images, and their splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data import Splits, load_data
from headstart.specs import DataSpec


def real_pixels() -> np.ndarray:
    """64 real images of airplanes and cats, 32 of each: uint8 (64, 32, 32, 3)."""
    train = load_data(DataSpec(source="cifar10-mini")).train
    return train.read(np.concatenate([np.flatnonzero(train.labels == c)[:32] for c in (0, 3)]))


def fill(folder: Path, pixels: np.ndarray, form: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03}.{form}")


def load(root: Path, size: int = 32, **settings: object) -> Splits:
    return load_data(DataSpec(source=f"folder:{root}", size=size, **settings))  # type: ignore[arg-type]
