"""Which images are held out: evenly from each class, or whole groups of them."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np

from headstart.data.hashing import scramble
from headstart.errors import DataError


def mixed_keys(keys: np.ndarray, seed: int) -> np.ndarray:
    """uint64 (n,): the order of images, or of groups, for a seed of the splits."""
    salt = hashlib.blake2b(f"split {seed}".encode(), digest_size=8).digest()
    return scramble(keys ^ np.frombuffer(salt, dtype="<u8").astype(np.uint64))


def hold_ranks(ranks: np.ndarray, fraction: float) -> np.ndarray:
    """bool (n,): the images to hold out. An image's rank alone decides.

    Of the first n images of a class, q(n) = clip(round(n * fraction), 1, n - 1) are held out. q
    grows by at most one a step, so rank r is held out where q(r + 1) > q(r).
    """
    share = _exact(fraction)

    def q(n: np.ndarray) -> np.ndarray:
        rounded = (2 * n * share.numerator + share.denominator) // (2 * share.denominator)
        return np.where(n <= 1, n, np.clip(rounded, 1, np.maximum(n - 1, 1)))

    return np.asarray(q(ranks + 1) > q(ranks))


def hold_groups(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool (n,): the images to hold out, whole groups of them.

    labels: int64 (n,); groups: uint64 (n,). Groups come in an order that seed and group decide.
    Each is held out if that brings the held-out shares of its classes, together, closer to
    `fraction`. So later groups are held out only where earlier ones have left room, and a new group
    moves few others. A class without a held-out image then gets its best group. No class is held
    out whole: one whose images are all in one group is not held out at all.

    Raises DataError where nothing can be held out.
    """
    names, members = np.unique(groups, return_inverse=True)
    classes = int(labels.max()) + 1
    # The classes of each group and the number of its images there: a run of these three arrays.
    pairs, counts = np.unique(members * classes + labels, return_counts=True)
    of_group, of_class = np.divmod(pairs, classes)
    bounds = np.searchsorted(of_group, np.arange(len(names) + 1))
    total = np.bincount(labels, minlength=classes)
    target, held = total * float(_exact(fraction)), np.zeros(classes)
    taken = np.zeros(len(names), bool)

    def parts(group: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(bounds[group], bounds[group + 1])
        return of_class[rows], counts[rows]

    def change(group: int) -> float:
        """Of the squared distance between shares and fraction; infinite where a class is lost."""
        own, n = parts(group)
        if (held[own] + n >= total[own]).any():
            return np.inf
        return float((n * (n + 2 * (held[own] - target[own])) / total[own] ** 2).sum())

    def take(group: int) -> None:
        own, n = parts(group)
        held[own] += n
        taken[group] = True

    order = np.argsort(mixed_keys(names, seed), kind="stable").tolist()
    for group in order:
        if change(group) < 0:
            take(group)
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    for label in np.flatnonzero((held == 0) & (total > 1)).tolist():
        own = of_group[of_class == label]
        changes = {int(group): change(int(group)) for group in own[np.argsort(place[own])]}
        best = min(changes, key=changes.__getitem__)
        if held[label] == 0 and changes[best] < np.inf:
            take(best)
    if not taken.any():
        raise DataError(
            "the groups leave no image to hold out: each class has all its images in one group, or "
            "shares its groups with such a class: group the images more finely (data.group)"
        )
    return np.asarray(taken[members])


def _exact(fraction: float) -> Fraction:
    return Fraction(repr(fraction)).limit_denominator(10**6)  # 0.1 * 70 is 7, not 7.000000000001
