"""The square of a picture that Pillow has opened: turned upright, shrunk and padded.

`framing.py` says which part of the picture it takes, and how large it becomes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from headstart_predict.framing import PAD, PADDING, Box, Framing, place
from headstart_predict.limits import max_pixels

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(turn for code, turn in _TURNS.items() if code >= 5)

# A picture of more pixels than this is converted and resized in bands of about so many pixels. That
# gives the same result in less memory.
_BAND = 2**22


def draft(image: Image.Image, side: int, framing: Framing) -> None:
    """Have a JPEG decoded at a half, a quarter or an eighth, which takes far less time.

    At least twice the pixels that are kept are decoded along each side, so that the bicubic filter
    decides them; less only of a very large picture that does not have many more. What is kept of
    the short side decides, and with pad, where both shrink alike, of the long side.
    """
    wanted, (width, height) = 2 * side, image.size
    deciding = max(width, height) if framing == PAD else min(width, height)

    def scale() -> int:
        enough = min(deciding // wanted, width, height)  # a strip keeps a pixel
        return max(s for s in (8, 4, 2, 1) if s == 1 or enough >= s)

    while wanted > 1 and width * height > max_pixels() * scale() ** 2:
        wanted //= 2
    image.draft(None, (width // scale(), height // scale()))


def shrunk(
    image: Image.Image, orientation: int, side: int, framing: Framing, mode: str = "RGB"
) -> Image.Image:
    """The part of a loaded picture that goes onto the square, upright and resized, in RGB or in the
    image's own CMYK. orientation: of EXIF, 1 to 8."""
    turn = _TURNS.get(orientation)
    upright = image.size if turn not in _SIDEWAYS else image.size[::-1]
    box, size = place(*upright, side, framing)
    (left, top, right, bottom), (across, down) = box, size
    width, height = right - left, bottom - top

    def part(box: Box) -> Image.Image:
        piece = image.crop(_stored(turn, upright, box))
        piece = piece if turn is None else piece.transpose(turn)
        return piece if mode == "CMYK" else _rgb(piece)

    if (width, height) == size:
        return part(box)
    # The long side is shrunk first, and rounded, in bands of rows or of columns, so that a strip
    # does not grow before it shrinks. Pillow's own order depends on its version.
    tall = height > width
    long, short = (height, width) if tall else (width, height)
    narrow = Image.new(mode, (width, down) if tall else (across, height))
    step = max(1, _BAND // long)
    for first in range(0, short, step):
        last = min(first + step, short)
        if tall:
            band = part((left + first, top, left + last, bottom))
            narrow.paste(band.resize((last - first, down), Image.Resampling.BICUBIC), (first, 0))
        else:
            band = part((left, top + first, right, top + last))
            narrow.paste(band.resize((across, last - first), Image.Resampling.BICUBIC), (0, first))
    return narrow.resize(size, Image.Resampling.BICUBIC)


def padded(part: Image.Image, side: int) -> Image.Image:
    """An RGB picture in the middle of a square of `side` pixels that is filled with PADDING."""
    if part.size == (side, side):
        return part
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def _stored(turn: Image.Transpose | None, size: tuple[int, int], box: Box) -> Box:
    """Where a box of the upright picture, which has this size, is in the stored one."""
    (width, height), (left, top, right, bottom) = size, box
    if turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE):  # fmt: skip
        left, right = width - right, width - left
    if turn in (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE):  # fmt: skip
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if turn in _SIDEWAYS else (left, top, right, bottom)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        bright = np.asarray(image)
        if not (bright.min() >= 0 and bright.max() <= 1):  # also where some are no numbers
            raise ValueError("floating-point pixels are outside 0 to 1: save it as 8 or 16 bit")
        return Image.fromarray(np.rint(bright * 255).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixels have no agreed range: save it as 8 or 16 bit")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        blended = Image.new("RGB", image.size, "white")
        blended.paste(clear, (0, 0), clear)
        return blended
    return image if image.mode == "RGB" else image.convert("RGB")
