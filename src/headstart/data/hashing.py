"""Hashes that decide order, splits and augmentation: the same on every machine.

A change of a constant here changes every split and every view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_ids(ids: Iterable[str]) -> np.ndarray:
    """uint64 (n,): BLAKE2b of each id."""
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def scramble(z: np.ndarray) -> np.ndarray:
    """uint64 in, well-mixed uint64 out: the finaliser of SplitMix64 (Steele et al. 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def hash_keys(keys: np.ndarray, *numbers: int) -> np.ndarray:
    """uint64 (n,): a hash of each key and the numbers."""
    mixed = np.asarray(keys, np.uint64)
    for number in numbers:
        salt = scramble(np.array([number & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN)
        mixed = scramble((mixed ^ salt) + _GOLDEN)
    return mixed


def uniforms(keys: np.ndarray, count: int, *numbers: int) -> np.ndarray:
    """float64 (n, count) in [0, 1): a function of each key and the numbers alone."""
    base = hash_keys(keys, *numbers)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN  # wraps, as SplitMix64 does
    return scramble(base[:, None] + steps).astype(np.float64) / 2.0**64
