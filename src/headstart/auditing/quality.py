"""Pictures of poor quality: blurred, dark, of one colour, tiny, enlarged, or of an odd shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.auditing.facts import Facts
from headstart.auditing.records import Flaw, Picture
from headstart.data.check.oddities import ENLARGED, STRETCHED, TINY

BLURRED = 0.75  # of `blur_of`
APART = 4.0  # robust deviations from the folder's usual blur
DARK = 40.0  # of 255: the 95th percentile of luminance
BLANK = 2.0  # of 255: the range of each channel


def find_flaws(pictures: Sequence[Picture], facts: Sequence[Facts], side: int) -> list[Flaw]:
    """The flaws, by kind, the worst first. side: pixels a side that the network sees.

    value: blurred, `blur_of`; dark, the 95th percentile of luminance; blank, the range of a
    channel; tiny and enlarged, pixels of the shorter side; odd_shape, the longer side divided by
    the shorter.
    """
    blurred = blurred_rows(np.array([f.blur for f in facts]))
    flaws = []
    for row, (picture, fact) in enumerate(zip(pictures, facts, strict=True)):
        for kind, value in _flaws_of(fact, bool(blurred[row]), side).items():
            flaws.append(Flaw(picture.path, picture.label, kind, round(value, 4)))
    worst = {"blurred": -1, "odd_shape": -1}
    return sorted(flaws, key=lambda flaw: (flaw.kind, worst.get(flaw.kind, 1) * flaw.value))


def blurred_rows(blur: np.ndarray) -> np.ndarray:
    """bool (n,): pictures that are blurred, and more so than is usual in this folder.

    blur: float (n,). Many folders are soft as a whole, such as enlarged or smooth pictures; then
    being soft says nothing. Deviations are robust: 1.4826 times the median distance from the
    median.
    """
    if not len(blur):
        return np.zeros(0, bool)
    middle = np.median(blur)
    spread = max(1.4826 * float(np.median(np.abs(blur - middle))), 0.01)
    return np.asarray((blur >= BLURRED) & (blur > middle + APART * spread))


def _flaws_of(fact: Facts, blurred: bool, side: int) -> dict[str, float]:
    short, long = sorted((fact.width, fact.height))
    found: dict[str, float] = {}
    if fact.spread <= BLANK:
        found["blank"] = fact.spread
    elif fact.bright < DARK:
        found["dark"] = fact.bright
    elif blurred:
        found["blurred"] = fact.blur
    if short < TINY:
        found["tiny"] = short
    elif short * ENLARGED < side:
        found["enlarged"] = short
    if long > STRETCHED * short:
        found["odd_shape"] = long / short
    return found
