"""TrivialAugment Wide (Müller & Hutter 2021): one operation for each image, of uniform strength.

Operations and ranges are the paper's wide space. Differences from torchvision's version:
- Geometry is a matrix. It is combined with flip, rotation, zoom, shift and resize in one warp, so
  pixels are interpolated once (torchvision resamples again). Outside the picture is its reflection,
  not black.
- Colour operations act on the warped pixels, at the size of the backbone's input.
- Strengths are continuous instead of 31 bins (posterize keeps whole bits), and pixels are not
  rounded to 8 bits between operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from headstart.machine.runtime import to_device
from headstart.views import colour

SHEAR = 0.99  # pixels sideways for each pixel along
TRANSLATE = 32.0  # pixels of the output, whatever its size
ROTATE = 135.0  # degrees
FACTOR = 0.99  # brightness, saturation, contrast, sharpness: factors within 1 ± this
POSTERIZE = 7  # choices: 8 bits down to 2

GEOMETRY = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")

# (pixels, strengths in [0, 1)) to pixels, see colour.py.
COLOUR: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "brightness": lambda x, u: colour.brightness(x, _factor(u)),
    "saturation": lambda x, u: colour.saturation(x, _factor(u)),
    "contrast": lambda x, u: colour.contrast(x, _factor(u)),
    "sharpness": lambda x, u: colour.sharpness(x, _factor(u)),
    "posterize": lambda x, u: colour.posterize(x, 8 - (u * POSTERIZE).floor().clamp(max=6)),
    "solarize": lambda x, u: colour.solarize(x, u),
    "autocontrast": lambda x, u: colour.autocontrast(x),
    "equalize": lambda x, u: colour.equalize(x),
}
OPERATIONS = (*GEOMETRY, *COLOUR)


def choose(u: np.ndarray) -> np.ndarray:
    """int64 (n,): indices into OPERATIONS, each as likely as the others, from uniforms (n,)."""
    # A uniform of float64 can round up to 1.
    return np.minimum((u * len(OPERATIONS)).astype(np.int64), len(OPERATIONS) - 1)


def affine(operations: np.ndarray, strengths: torch.Tensor, size: int) -> torch.Tensor:
    """float32 (n, 3, 3): output coordinates to those before the operation, both in [-1, 1].

    strengths: (n,) in [0, 1); 0.5 changes nothing. Colour operations give the identity. Shears keep
    the top and the left edge in place, as in Pillow.
    """
    signed = strengths.mul(2).sub(1)
    chosen = to_device(operations, signed.device)

    def where(name: str) -> torch.Tensor:
        return torch.where(chosen == OPERATIONS.index(name), signed, 0)

    shear_x, shear_y = SHEAR * where("shear_x"), SHEAR * where("shear_y")
    # A pixel is 2 / size in coordinates that span [-1, 1].
    right = TRANSLATE * 2 / size * where("translate_x")
    down = TRANSLATE * 2 / size * where("translate_y")
    angle = math.radians(ROTATE) * where("rotate")
    zero = torch.zeros_like(angle)
    rows = (
        *(angle.cos(), shear_x - angle.sin(), shear_x + right),
        *(shear_y + angle.sin(), angle.cos(), shear_y + down),
        *(zero, zero, zero + 1),
    )
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def recolour(x: torch.Tensor, operations: np.ndarray, strengths: torch.Tensor) -> torch.Tensor:
    """Each image's colour operation, in place, on float32 (n, 3, height, width); out in 0..1."""
    x.clamp_(0, 1)  # the warp's bicubic kernel overshoots, and the operations need 0..1
    for name, operation in COLOUR.items():
        chosen = np.flatnonzero(operations == OPERATIONS.index(name))
        if len(chosen):
            rows = to_device(chosen, x.device)
            x[rows] = operation(x[rows], strengths[rows]).clamp_(0, 1)
    return x


def _factor(u: torch.Tensor) -> torch.Tensor:
    return 1 + FACTOR * (2 * u - 1)
