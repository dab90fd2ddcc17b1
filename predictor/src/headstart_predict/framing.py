"""How a picture that is not square becomes a square: cropped, padded or squashed.

crop takes the centre square; what is outside is lost. pad shrinks the whole picture and puts it
into the middle of a square of one colour; its details become smaller. squash shrinks each side by
itself; its shapes change. Pictures that are square are the same by each.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Framing = Literal["crop", "pad", "squash"]
FRAMINGS: tuple[Framing, ...] = get_args(Framing)
CROP, PAD, SQUASH = FRAMINGS

# What pad fills with: the mean colour of ImageNet. Scaled as pretrained weights want it, it is zero
# or nearly so, as what convolutions see beyond the edge of a picture. Black or white would be an
# edge with a strong contrast, and stretched edge pixels a pattern that no photo has.
PADDING = (124, 116, 104)

# What it does to a picture that is not square, for cards and reports.
SAID: dict[Framing, str] = {
    "crop": "cropped to its centre square",
    "pad": "padded to a square with the mean colour",
    "squash": "squashed to a square",
}

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Placed(NamedTuple):
    """box: the part of the upright picture that is used. size: width and height that it gets."""

    box: Box
    size: tuple[int, int]


def place(width: int, height: int, side: int, framing: Framing) -> Placed:
    """How a picture of this upright size becomes a square of `side` pixels.

    deployment/page/picture.js does the same in a browser.
    """
    if framing == SQUASH:
        return Placed((0, 0, width, height), (side, side))
    if framing == PAD:
        # Rounded half up, in whole numbers; a strip keeps a pixel.
        long = max(width, height)
        across, down = (max((2 * n * side + long) // (2 * long), 1) for n in (width, height))
        return Placed((0, 0, width, height), (across, down))
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    return Placed((left, top, left + short, top + short), (side, side))
