"""Common corruptions: what noise, blur, compression and light do to the images of a set.

Five of the corruptions of Hendrycks and Dietterich ("Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019) at their five severities. Every constant is
theirs. Images of up to SMALL_SIDE pixels take those of CIFAR-10-C (create_c/make_cifar_c.py of
their repository), larger ones those of ImageNet-C (imagenet_c/corruptions.py). Their pictures have
32 and 224 pixels a side. Only the blur is measured in pixels, so it is scaled to the image's side.

A corrupted set is an ImageSet like any other. Its pixels depend on the seed, the image's key, the
corruption and the severity, never on the batch. The noise of an image has the same pattern at all
severities.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from headstart.data.hashing import hash_keys
from headstart.data.images import ImageSet, encode_png, map_threads
from headstart_predict.framing import Framing

SMALL_SIDE = 64

# Raise it when the same corruption would give other pixels.
_VERSION = 1
_THREAD_BYTES = 2**21  # of float32, in each thread at a time: about the cache of one core


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    unit: what the constant means, for a table. small, large: its constant at each severity, for
    images of up to SMALL_SIDE pixels and for larger ones. apply: takes pixels uint8 (n, P, P, 3),
    the constant, and a seed for each image, uint64 (n,); returns pixels of the same shape.
    """

    name: str
    unit: str
    small: tuple[float, ...]
    large: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.ndarray], np.ndarray]

    def constant(self, severity: int, side: int) -> float:
        return (self.small if side <= SMALL_SIDE else self.large)[severity - 1]

    def setting(self, severity: int, side: int) -> str:
        """The constant as text, such as "sigma 0.08"."""
        return f"{self.unit} {self.constant(severity, side):g}"


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """A store whose rows are those of an image set, corrupted when they are read."""

    images: ImageSet
    corruption: Corruption
    severity: int
    seed: int
    slow_to_read = False  # read only once

    @property
    def side(self) -> int:
        return self.images.side

    @property
    def framing(self) -> Framing:
        return self.images.store.framing

    def read(self, rows: np.ndarray) -> np.ndarray:
        pixels = self.images.read(rows)
        seeds = hash_keys(self.images.keys[rows], self.seed, *self.corruption.name.encode())
        constant = self.corruption.constant(self.severity, self.side)
        step = max(1, _THREAD_BYTES // (4 * self.images.image_bytes))
        starts = range(0, len(rows), step)
        corrupted = map_threads(
            lambda i: self.corruption.apply(pixels[i : i + step], constant, seeds[i : i + step]),
            starts,
        )
        return np.concatenate([pixels[:0], *corrupted])

    def as_file(self, row: int) -> bytes:
        return encode_png(self.read(np.array([row]))[0])

    def digests(self, rows: np.ndarray) -> list[bytes]:
        name = f"{self.corruption.name} {self.severity} {self.seed} {_VERSION} {self.side}"
        return [
            hashlib.sha256(
                name.encode() + self.images.digests[row] + self.images.keys[row]
            ).digest()
            for row in rows.tolist()
        ]


def corrupt(images: ImageSet, corruption: Corruption, severity: int, seed: int) -> ImageSet:
    """The same images, ids and labels, corrupted at a severity of 1 to 5."""
    return ImageSet(
        images.ids,
        images.labels,
        images.keys,
        np.arange(len(images)),
        CorruptedImages(images, corruption, severity, seed),
    )


def _noise(pixels: np.ndarray, sigma: float, seeds: np.ndarray) -> np.ndarray:
    noise = np.empty(pixels.shape, np.float32)
    for image, seed in zip(noise, seeds.tolist(), strict=True):
        np.random.Generator(np.random.PCG64(seed)).standard_normal(dtype=np.float32, out=image)
    return _levels(pixels + noise * np.float32(255 * sigma))


def _blur(pixels: np.ndarray, sigma: float, seeds: np.ndarray) -> np.ndarray:
    side = pixels.shape[1]
    sigma = sigma * side / (32 if side <= SMALL_SIDE else 224)
    x = pixels.astype(np.float32)
    return _levels(gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest"))


def _jpeg(pixels: np.ndarray, quality: float, seeds: np.ndarray) -> np.ndarray:
    corrupted = np.empty_like(pixels)
    for i, picture in enumerate(pixels):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=int(quality))
        with Image.open(stream, formats=("JPEG",)) as image:
            corrupted[i] = np.asarray(image)
    return corrupted


def _brightness(pixels: np.ndarray, added: float, seeds: np.ndarray) -> np.ndarray:
    """Raise the value of HSV. Hue and saturation are ratios and do not change."""
    x = pixels.astype(np.float32)
    value = x.max(axis=3, keepdims=True)
    raised = np.minimum(value + np.float32(255 * added), 255)
    return _levels(np.where(value > 0, x * (raised / np.maximum(value, 1)), raised))


def _contrast(pixels: np.ndarray, kept: float, seeds: np.ndarray) -> np.ndarray:
    x = pixels.astype(np.float32)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return _levels((x - mean) * np.float32(kept) + mean)


def _levels(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(x.clip(0, 255)), np.uint8)


CORRUPTIONS = (
    Corruption(
        "gaussian noise",
        "sigma",
        (0.04, 0.06, 0.08, 0.09, 0.1),
        (0.08, 0.12, 0.18, 0.26, 0.38),
        _noise,
    ),
    Corruption("gaussian blur", "sigma", (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6), _blur),
    Corruption("jpeg", "quality", (80, 65, 58, 50, 40), (25, 18, 15, 10, 7), _jpeg),
    Corruption(
        "brightness", "added", (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), _brightness
    ),
    Corruption(
        "contrast", "kept", (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), _contrast
    ),
)
