"""Unusual images (tiny, enlarged, very long, cut, blank, dark) and classes with very few images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from headstart.data.sources.scan import Scanned
from headstart.errors import DataError
from headstart_predict.decode import FULL, describe_dark, is_dark
from headstart_predict.framing import CROP, PAD, Framing

TINY = 8  # pixels of the shorter side
ENLARGED = 4  # times, to the size that is read
STRETCHED = 4  # the longer side to the shorter
FEW = 5  # images of a class
CUT = 0.35  # mean share of the pictures outside their centre squares; of 3:2 photos it is a third


# What becomes of a very long picture.
_LONG = {
    "crop": "all but the middle is cut off",
    "pad": "on a padded square little is left of its width",
    "squash": "on the square it is stretched as much",
}


def odd_images(scanned: Mapping[str, Scanned], side: int, framing: Framing = CROP) -> list[str]:
    """One line for each kind of unusual image, with their number and an example.

    side: pixels a side at which images are read. framing: how they become squares.
    """
    good = {path: entry for path, entry in scanned.items() if not entry.reason}
    short = {path: min(entry.width, entry.height) for path, entry in good.items()}
    tiny = [path for path in good if short[path] < TINY]
    shown = {
        path: max(entry.width, entry.height) if framing == PAD else short[path]
        for path, entry in good.items()
    }
    low = [path for path in good if short[path] >= TINY and shown[path] * ENLARGED < side]
    long = [
        path
        for path, entry in good.items()
        if max(entry.width, entry.height) > STRETCHED * short[path]
    ]
    blank = [
        path for path, entry in good.items() if (entry.blank if framing == CROP else entry.empty)
    ]
    kinds = (
        (tiny, f"less than {TINY} pixels on a side", True),
        (low, f"enlarged more than {ENLARGED} times, to {side} pixels a side", True),
        (long, f"more than {STRETCHED} times as long as wide: {_LONG[framing]}", True),
        (blank, "of one colour: nothing can be learnt from that", False),
    )
    lines = [_line(paths, good, what, sized) for paths, what, sized in kinds if paths]
    return [*lines, *(_cut_away(good) if framing == CROP else [])]


def _cut_away(good: Mapping[str, Scanned]) -> list[str]:
    """A line where much of the images is outside the centre square, which alone is seen."""
    lost = {
        path: 1 - min(entry.width, entry.height) / max(entry.width, entry.height)
        for path, entry in good.items()
    }
    mean = sum(lost.values()) / max(len(lost), 1)
    if mean <= CUT:
        return []
    example = min(lost, key=lambda path: (abs(lost[path] - mean), path))
    size = f"{good[example].width} x {good[example].height}"
    return [
        f"only the centre square of an image is used: on average {mean:.0%} of the picture is cut "
        f"off, such as of {example} ({size}); where what matters is elsewhere, set data.framing = "
        '"pad" or "squash", or cut the images to it'
    ]


def require_range(root: Path, scanned: Mapping[str, Scanned]) -> None:
    """Raises DataError where the 16- and 32-bit images of a folder use a small part of the range,
    as 12-bit values do: all would be nearly black."""
    deep = {path: entry.peak for path, entry in scanned.items() if entry.peak and not entry.reason}
    peak = max(deep.values(), default=FULL)
    if not is_dark(peak):
        return
    raise DataError(f"{root}: {describe_dark(deep)}")


def _line(paths: list[str], good: Mapping[str, Scanned], what: str, sized: bool) -> str:
    first = good[paths[0]]
    size = f" ({first.width} x {first.height})" if sized else ""
    are = "is" if len(paths) == 1 else "are"
    return f"{len(paths):,} of {len(good):,} images {are} {what}, such as {paths[0]}{size}"


def small_classes(counts: Iterable[tuple[str, int]]) -> list[str]:
    """A line where classes have very few training images. counts: (class, images)."""
    small = sorted((n, name) for name, n in counts if n <= FEW)
    if not small:
        return []
    n, name = small[0]
    held = "class has" if len(small) == 1 else "classes have"
    return [
        f"{len(small)} {held} {FEW} images or fewer, such as {name} ({n}): the scores of such a "
        "class are mostly chance"
    ]
