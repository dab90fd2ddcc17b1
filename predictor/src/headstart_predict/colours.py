"""Colours: pictures in another colour space become sRGB, by the ICC profile in their file.

Phones save Display P3, cameras Adobe RGB, scanners and printers their own. Without conversion the
same thing has other colours by the device that took it, and a browser shows it in others.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from headstart_predict.quiet import quiet

# Raise it when a profile would give other pixels.
COLOURS_VERSION = 1

_MOST_BYTES = 2**22  # of a profile; those of printers have one to three million
# Levels of 255: profiles that move no colour by more are sRGB as somebody else has rounded it.
_SAME = 3
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the mode that a profile is for


class Recolour(NamedTuple):
    """A conversion to sRGB. mode: of the pictures that it takes: RGB, L or CMYK."""

    mode: str
    apply: Callable[[Image.Image], Image.Image]


def recolouring(image: Image.Image) -> Recolour | None:
    """How an opened picture becomes sRGB. None where it is sRGB, says nothing, or where its profile
    is damaged or for other pictures."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MOST_BYTES:
        return None
    found = _recolour(profile)
    if found is None or (found.mode == "CMYK") != (image.mode == "CMYK"):
        return None
    grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    return None if found.mode == "L" and not grey else found


@functools.lru_cache(maxsize=8)  # the photos of a folder share a few profiles
def _recolour(profile: bytes) -> Recolour | None:
    """About 10 ms. The conversion itself is done on small squares."""
    with quiet():
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _SPACES[source.profile.xcolor_space.strip()]
            target = ImageCms.createProfile("sRGB")
            transform = ImageCms.buildTransform(source, target, mode, "RGB")
            recolour = Recolour(mode, lambda image: _applied(transform, image))
            return None if _changes_nothing(recolour) else recolour
        # A stranger's bytes: the library's errors are of many kinds, and the pixels are still good.
        except Exception:
            return None


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    return ImageCms.applyTransform(image, transform) or image


def _changes_nothing(recolour: Recolour) -> bool:
    if recolour.mode == "CMYK":
        return False
    if recolour.mode == "L":
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        before = np.asarray(ramp.convert("RGB"))
    else:
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        before = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        ramp = Image.fromarray(before)
    after = np.asarray(recolour.apply(ramp)).astype(int)
    return bool(np.abs(after - before).max() <= _SAME)
