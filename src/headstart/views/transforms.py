"""Transforms pixels into a backbone's input: warp, colour, scaling; on the device, in batches.

A view of an image is a pure function of (seed, image key, view number). Geometric augmentation and
the resize are one warp, so a pixel is interpolated only once. Mixup and CutMix take two images and
are part of the training loop.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from headstart.data.hashing import uniforms
from headstart.machine.runtime import full_float32, to_device
from headstart.models.identity import Preprocess
from headstart.specs import AugmentSpec, DataSpec
from headstart.views import colour, trivial

NO_AUGMENT = AugmentSpec()

# Fields that every cache key of an augmented view names. Other fields are named only where they are
# set, so that a new field changes no existing key.
_FIRST_FIELDS = ("flip", "rotate", "zoom", "shift", "brightness", "contrast")

# Rectangles of random erasing: share of the area, and height by width.
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)

# Source side up to which rows and columns are warped separately. On a CPU this is three to five
# times as fast as gathering bicubic taps from 32 pixels, but not from 224: it reads whole rows.
SMALL_SIDE = 64


class Draws(NamedTuple):
    """The random numbers of n views: float32 (n,) each, uniform in [0, 1].

    Append new fields at the end: the position of a field decides its numbers.
    """

    flip: torch.Tensor
    rotate: torch.Tensor
    zoom: torch.Tensor
    right: torch.Tensor
    down: torch.Tensor
    contrast: torch.Tensor
    brightness: torch.Tensor
    saturation: torch.Tensor
    operation: torch.Tensor
    strength: torch.Tensor
    erase: torch.Tensor
    erased_area: torch.Tensor
    erased_aspect: torch.Tensor
    erased_top: torch.Tensor
    erased_left: torch.Tensor


@dataclass(frozen=True)
class Transform:
    """Pixels to input. With `augment`, view v of an image depends on (seed, key, v); view 0 is the
    plain image. A head that is trained on augmented views alone is worse on plain images.

    via: sizes to which pixels are resized first, one after the other; normally none.
    """

    preprocess: Preprocess
    augment: AugmentSpec = NO_AUGMENT
    seed: int = 0
    via: tuple[int, ...] = ()

    @property
    def plain(self) -> Transform:
        """The same without augmentation, for validation, test and prediction."""
        return Transform(self.preprocess, via=self.via)

    def describe(self) -> dict[str, Any]:
        """Everything that changes the output's bytes, for cache keys."""
        described: dict[str, Any] = {"preprocess": asdict(self.preprocess)}
        if self.via:
            described["via"] = self.via
        if self.augment.active:
            fields = self.augment.model_dump(exclude={"mixup", "cutmix"})
            named = {key: fields[key] for key in fields if key in _FIRST_FIELDS or fields[key]}
            described |= {"augment": named, "seed": self.seed, "view 0": "plain"}
        return described

    def __call__(
        self, pixels: torch.Tensor, keys: np.ndarray, views: np.ndarray | int = 0
    ) -> torch.Tensor:
        """uint8 (n, side, side, 3) and uint64 (n,) to float32 (n, 3, size, size).

        The memory format of the output is not fixed: a caller that needs one asks for it.

        The order is warp, TrivialAugment, contrast, brightness, saturation, scaling, erasing.
        """
        # Without autocast, which would round: the output must not depend on the caller.
        with torch.autocast(pixels.device.type, enabled=False), full_float32():
            x = pixels.permute(0, 3, 1, 2).float().div_(255)
            for size in self.via:
                x = self._resize(x, size)
            numbers = np.broadcast_to(views, len(keys))
            plain = np.flatnonzero(numbers == 0) if self.augment.active else np.arange(len(keys))
            if len(plain) == len(keys):
                return self._scale(self._resize(x))
            if len(plain) == 0:
                return self._augmented(x, keys, numbers)
            changed = np.flatnonzero(numbers)
            one, other = (to_device(rows, x.device) for rows in (plain, changed))
            size = self.preprocess.size
            out = x.new_empty(len(keys), 3, size, size)
            out[one] = self._scale(self._resize(x[one]))
            out[other] = self._augmented(x[other], keys[changed], numbers[changed])
            return out

    def _augmented(self, x: torch.Tensor, keys: np.ndarray, views: np.ndarray) -> torch.Tensor:
        uniform = _draw(keys, views, self.seed)
        draws = Draws(*to_device(uniform.astype(np.float32), x.device).unbind(dim=1))
        if self.augment.trivial:
            # From the copy on the host, so that grouping images does not wait for the device.
            operations = trivial.choose(uniform[:, Draws._fields.index("operation")])
            x = trivial.recolour(self._warp(x, draws, operations), operations, draws.strength)
        else:
            x = self._warp(x, draws)
        x = self._scale(self._jitter(x, draws))
        if self.augment.erasing:
            erased = erased_pixels(draws, self.augment.erasing, x.shape[-1])
            # Zero is the mean colour that preprocessing subtracts; with normalize = "unit" it is
            # black.
            x = x.masked_fill_(erased[:, None], 0)
        return x

    def _scale(self, x: torch.Tensor) -> torch.Tensor:
        mean = _constant(self.preprocess.mean, x.device).view(1, 3, 1, 1)
        std = _constant(self.preprocess.std, x.device).view(1, 3, 1, 1)
        # Bicubic kernels overshoot; the weights were trained on values within 0..1 only.
        return x.clamp_(0, 1).sub_(mean).div_(std)

    def _resize(
        self, x: torch.Tensor, size: int | None = None, *, rows_only: bool = False
    ) -> torch.Tensor:
        """Squares of `size` pixels a side; with `rows_only` the columns stay."""
        size, side = size or self.preprocess.size, x.shape[-2]
        if side == size:
            return x
        kernel = self.preprocess.interpolation
        if side <= min(SMALL_SIDE, size):
            one, none = torch.ones(1, device=x.device), torch.zeros(1, device=x.device)
            rows = _resampling(one, none, side, size, kernel, reflect=False)[0]
            return rows @ (x if rows_only else x.contiguous() @ rows.T)
        return F.interpolate(
            x,
            size=(size, x.shape[-1] if rows_only else size),
            mode=kernel,
            align_corners=False,
            antialias=side > size,
        )

    def resize_matrix(self, side: int) -> torch.Tensor:
        """float32 (size, side): R, for which R @ x @ R.T is the plain view's resize of a square."""
        x = torch.eye(side)[None, None]
        for size in (*self.via, self.preprocess.size):
            x = self._resize(x, size, rows_only=True)
        return x[0, 0]

    def _warp(
        self, x: torch.Tensor, draws: Draws, operations: np.ndarray | None = None
    ) -> torch.Tensor:
        """All geometry in one warp from source to output, with `operations` of trivial.py."""
        spec, size = self.augment, self.preprocess.size
        if not (spec.flip or spec.rotate or spec.zoom or spec.shift or spec.trivial):
            return self._resize(x)
        if x.shape[-1] > size:  # a warp takes single pixels; shrinking has to average
            x = self._resize(x)
        affine = self._affine(draws)
        if operations is None and not spec.rotate and x.shape[-1] <= SMALL_SIDE:
            return separable_warp(x, affine, size, self.preprocess.interpolation)
        if operations is not None:
            affine = affine @ trivial.affine(operations, draws.strength, size)
        return F.grid_sample(
            x,
            F.affine_grid(affine, [len(x), 3, size, size], False),
            mode=self.preprocess.interpolation,
            padding_mode="reflection",
            align_corners=False,
        )

    def _affine(self, draws: Draws) -> torch.Tensor:
        """float32 (n, 2, 3): output coordinates to source coordinates, both in [-1, 1]."""
        spec = self.augment
        angle = math.radians(spec.rotate) * _spread(draws.rotate)
        inverse_scale = 1 / (1 + spec.zoom * _spread(draws.zoom))
        cosine, sine = angle.cos() * inverse_scale, angle.sin() * inverse_scale
        mirror = torch.where(draws.flip < 0.5, -1.0, 1.0) if spec.flip else torch.ones_like(angle)
        # A shift by a fraction of the side is twice that in coordinates that span [-1, 1].
        right, down = 2 * spec.shift * _spread(draws.right), 2 * spec.shift * _spread(draws.down)
        rows = (cosine * mirror, -sine, right, sine * mirror, cosine, down)
        return torch.stack(rows, dim=1).view(-1, 2, 3)

    def _jitter(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Contrast around the mean of all channels, brightness, saturation around grey."""
        spec = self.augment
        if spec.contrast:
            mean = x.mean(dim=(1, 2, 3), keepdim=True)
            x = (x - mean) * (1 + spec.contrast * _spread(draws.contrast)).view(-1, 1, 1, 1) + mean
        if spec.brightness:
            x = colour.brightness(x, 1 + spec.brightness * _spread(draws.brightness))
        if spec.saturation:
            x = colour.saturation(x, 1 + spec.saturation * _spread(draws.saturation))
        return x


def recipe_transform(data: DataSpec, wants: Preprocess, seed: int = 0) -> Transform:
    """The transform of a recipe. wants: the preprocessing of its weights."""
    preprocess = replace(wants, size=data.size or wants.size)
    if data.normalize == "unit":
        preprocess = replace(preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Transform(preprocess, data.augment.per_image, seed, data.resize_via)


def separable_warp(
    x: torch.Tensor, affine: torch.Tensor, size: int, interpolation: str
) -> torch.Tensor:
    """The result of grid_sample for warps without rotation, by two small products for each image.

    x: float32 (n, c, side, side). affine: float32 (n, 2, 3), off-diagonal entries zero. A warp then
    takes the same time with every kernel. On two cores of an Intel Xeon, batches of 32 images, from
    32 pixels to 96 it took 1.1 ms where gathering bicubic taps took 3.7; to 160, 2.0 and 11.1.
    """
    side = x.shape[-1]
    # Not affine[:, (0, 1), (0, 1)]: on CUDA the host would wait for a copy of these indices.
    scale, shift = affine[:, :, :2].diagonal(dim1=1, dim2=2), affine[:, :, 2]
    both = _resampling(scale.flatten(), shift.flatten(), side, size, interpolation)
    across, down = both.view(-1, 2, size, side).unbind(dim=1)
    # In planes: products of channels-last images make a copy and are several times as slow.
    return down[:, None] @ (x.contiguous() @ across[:, None].mT)


def _resampling(
    scale: torch.Tensor,
    shift: torch.Tensor,
    side: int,
    size: int,
    interpolation: str,
    *,
    reflect: bool = True,
) -> torch.Tensor:
    """float32 (n, size, side): each output row as weights of input rows.

    Output coordinate v in [-1, 1] is read at input coordinate scale * v + shift, both (n,). Beyond
    the edges rows are reflected, or the last row is repeated if `reflect` is False.
    """
    centres = (2 * torch.arange(size, device=scale.device) + 1) / size - 1
    place = ((scale[:, None] * centres + shift[:, None] + 1) * side - 1) / 2
    first = place.floor()
    t = place - first
    weights = torch.zeros(len(scale), size, side, device=scale.device)
    for offset, weight in _kernel(t, interpolation):
        at = first.long() + offset
        if reflect:
            at = at % (2 * side)
            at = torch.where(at < side, at, 2 * side - 1 - at)
        at = at.clamp(0, side - 1)
        weights.scatter_add_(2, at[..., None], weight[..., None])
    return weights


def _kernel(t: torch.Tensor, interpolation: str) -> list[tuple[int, torch.Tensor]]:
    """Offsets and weights of the taps for a place t in [0, 1) after a pixel: bilinear, or bicubic
    as in torch (Keys 1981, with a = -0.75)."""
    if interpolation == "bilinear":
        return [(0, 1 - t), (1, t)]
    if interpolation != "bicubic":
        raise ValueError(f"no interpolation called {interpolation}: bilinear or bicubic")
    a = -0.75

    def near(d: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: torch.Tensor) -> torch.Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [(-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]


def erased_pixels(draws: Draws, probability: float, size: int) -> torch.Tensor:
    """bool (n, size, size): the pixels that random erasing (Zhong et al. 2020) erases.

    The logarithm of the aspect is uniform, so tall rectangles are as likely as wide ones. The paper
    draws again until a rectangle fits. Here the aspect is limited instead: the rectangle then spans
    the image and its area stays as drawn. Sides are rounded to whole pixels.
    """
    area = _between(*ERASED_AREA, draws.erased_area)
    low, high = (math.log(aspect) for aspect in ERASED_ASPECT)
    aspect = _between(low, high, draws.erased_aspect).exp().clamp(min=area, max=1 / area)
    at = torch.arange(size, device=area.device)

    def span(length: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """bool (n, size): an interval of that length (a fraction), anywhere inside."""
        pixels = (length * size).round().clamp(1, size)
        first = (place * (size - pixels + 1)).floor().clamp(max=size - pixels)[:, None]
        return (at >= first) & (at < first + pixels[:, None])

    rows = span((area * aspect).sqrt(), draws.erased_top)
    columns = span((area / aspect).sqrt(), draws.erased_left)
    return (draws.erase < probability)[:, None, None] & rows[:, :, None] & columns[:, None, :]


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32 (len(values),), made once for each device: making it waits for a copy."""
    with torch.inference_mode(False):  # the tensor is used after the caller's block
        return torch.tensor(values, device=device)


def _between(low: float, high: float, uniform: torch.Tensor) -> torch.Tensor:
    return low + (high - low) * uniform


def _spread(uniform: torch.Tensor) -> torch.Tensor:
    """Uniform in [-1, 1]."""
    return uniform.mul(2).sub(1)


def _draw(keys: np.ndarray, views: np.ndarray | int, seed: int) -> np.ndarray:
    """float64 (n, 15) in [0, 1]: the columns of Draws."""
    numbers = np.broadcast_to(np.asarray(views, np.int64), keys.shape)
    out = np.empty((len(keys), len(Draws._fields)))
    for view in np.unique(numbers):
        chosen = numbers == view
        out[chosen] = uniforms(keys[chosen], out.shape[1], seed, int(view))
    return out
