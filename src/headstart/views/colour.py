"""Colour operations on batches of pixels: Pillow's arithmetic, each image with its own strength.

x is float32 (n, 3, height, width) in 0..1; strengths are (n,). Every operation returns a new
tensor. Operations with a factor (1 changes nothing) may leave 0..1; the caller clamps once. Pillow
rounds to 8 bits after each operation; here only the operations on 8-bit levels do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# ITU-R BT.601, the weights of Pillow's conversion to grey.
_LUMA = (0.299, 0.587, 0.114)


def luma(x: torch.Tensor) -> torch.Tensor:
    """(n, 1, height, width): the grey of each pixel."""
    red, green, blue = (weight * x[:, i] for i, weight in enumerate(_LUMA))
    return (red + green + blue)[:, None]


def blend(base: torch.Tensor, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """From `base` (factor 0) through x (1) and beyond."""
    return base + (x - base) * factor.view(-1, 1, 1, 1)


def brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with black."""
    return x * factor.view(-1, 1, 1, 1)


def saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with each pixel's own grey."""
    return blend(luma(x), x, factor)


def contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean grey."""
    return blend(luma(x).mean(dim=(1, 2, 3), keepdim=True), x, factor)


def sharpness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image smoothed by 3x3 weights 1 around 5; the outermost pixels stay."""
    smooth = x.clone()
    around = F.avg_pool2d(x, 3, stride=1) * 9
    smooth[:, :, 1:-1, 1:-1] = (around + 4 * x[:, :, 1:-1, 1:-1]) / 13
    return blend(smooth, x, factor)


def posterize(x: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest `bits` (1 to 8) of each 8-bit level."""
    step = torch.exp2(8 - bits.to(x.dtype)).view(-1, 1, 1, 1)
    return (x * 255).round().div(step).floor() * step / 255


def solarize(x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert what is at or above the threshold, which lies in 0..1."""
    return torch.where(x < threshold.view(-1, 1, 1, 1), x, 1 - x)


def autocontrast(x: torch.Tensor) -> torch.Tensor:
    """Stretch each channel of each image to 0..1; a channel of one 8-bit level stays."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    # After interpolation a flat channel has a spread of 1e-7, which must not be stretched to 1.
    flat = high - low < 0.5 / 255
    return torch.where(flat, x, (x - low) / torch.where(flat, 1, high - low))


def equalize(x: torch.Tensor) -> torch.Tensor:
    """Change each channel's 8-bit levels so that their histogram is as flat as possible.

    One histogram and one table (n * 3, 256) serve all channels of all images. All numbers are
    integers, so the result does not depend on the batch or the device.
    """
    levels = (x * 255).round().long().flatten(2).flatten(0, 1)
    histogram = levels.new_zeros(len(levels), 256)
    histogram.scatter_add_(1, levels, torch.ones_like(levels))
    # Pillow's steps: the pixels below the highest level present, shared out over 255 of them.
    highest = levels.amax(dim=1, keepdim=True)
    step = (levels.shape[1] - histogram.gather(1, highest)) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    # With fewer than 255 pixels below the highest level, Pillow does not change the channel.
    table = torch.where(step > 0, table, torch.arange(256, device=x.device))
    return table.gather(1, levels).view(x.shape).to(x.dtype) / 255
