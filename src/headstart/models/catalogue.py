"""The backbone catalogue: costs, depth and sources of weights of each network.

A network is built once on the meta device. The result is remembered in the cache folder for the
installed versions, so a second listing needs neither timm nor torch.
"""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from headstart.errors import RunError, WeightsError, did_you_mean
from headstart.files import cache_root, read_json, remember
from headstart.models.hub import HubWeights, describe_hub_weights
from headstart.models.names import OUTSIDE_TIMM, canonical_name
from headstart.models.weights import describe_providers, preprocess_of

FORMAT = 1  # raise it when a number is computed in another way

# The networks that "*" lists: well-known ones, small to large within a family.
CURATED = (
    "small_cnn",
    "squeezenet1_1",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "tf_efficientnetv2_s",
    "resnet18",
    "resnet50",
    "resnet101",
    "regnety_032",
    "densenet121",
    "densenet169",
    "vgg16",
    "vgg19",
    "convnext_tiny",
    "convnext_base",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_dinov2",
)


@dataclass(frozen=True)
class BackboneInfo:
    """One line of the catalogue. Sizes and costs are of the backbone without its classifier."""

    name: str  # as a recipe takes it
    tag: str  # of timm's weights for that name; "" where timm has none
    parameters: int
    macs: int  # multiply-accumulates of one image at size_px
    size_px: int
    depth: int  # weighted layers on the longest way through the classifier: 50 for resnet50
    file_mb: float  # float32 weights, in millions of bytes
    imagenet_top1: float | None  # percent, of those weights, where timm publishes it
    imagenet_size_px: int | None  # the size it was measured at
    providers: str  # where weights can come from, or "random only"


@dataclass(frozen=True, slots=True)
class _Measured:
    """The part of a backbone's line that depends only on the installed versions."""

    name: str
    size_px: int
    parameters: int
    macs: int
    depth: int
    hub: HubWeights | None


def list_backbones(
    pattern: str = "*", *, say: Callable[[str], None] = lambda line: None
) -> list[BackboneInfo]:
    """The curated backbones, or all that match a pattern: "resnet*", "resnet50.*" (tags).

    A name or an alias without wildcards lists that one. A VGG is listed as its convolutional trunk,
    which is the backbone. say: called with a line before a long measurement. Raises
    WeightsError, with the nearest names, where nothing matches.
    """
    return describe_backbones(_matching(pattern), say=say)


def describe_backbones(
    names: Sequence[str], *, say: Callable[[str], None] = lambda line: None
) -> list[BackboneInfo]:
    """The backbones of these names, as `list_backbones` has them."""
    remembered = _read_catalogue()
    missing = [name for name in names if name not in remembered]
    if missing:
        say(f"measuring {len(missing)} backbones; the results are remembered")
        remembered |= {name: _measure(name) for name in missing}
        remember(_catalogue_path(), remembered)
    return [_complete(remembered[name]) for name in names]


def _matching(pattern: str) -> list[str]:
    if pattern == "*":
        return list(CURATED)
    if not any(sign in pattern for sign in "*?["):
        return [canonical_name(pattern)]
    import timm

    known = timm.list_pretrained() if "." in pattern else timm.list_models()
    known = [*sorted(OUTSIDE_TIMM), *known]
    names = [name for name in known if fnmatch.fnmatchcase(name, pattern.lower())]
    if not names:
        near = did_you_mean(pattern.strip("*?"), known)
        raise WeightsError(f"no backbone matches {pattern!r}{near}")
    return names


def _measure(name: str) -> _Measured:
    import torch

    from headstart.models.anatomy import examine
    from headstart.models.backbones import build_on_meta

    size_px = preprocess_of(name).size
    trunk = build_on_meta(name)
    with torch.device("meta"):
        classifier = _with_classifier(name)
    return _Measured(
        name=name,
        size_px=size_px,
        parameters=sum(parameter.numel() for parameter in trunk.parameters()),
        macs=examine(trunk, size_px).macs,
        depth=examine(classifier, size_px).depth,
        hub=describe_hub_weights(name),
    )


def _with_classifier(name: str) -> Any:
    """The whole network as it was trained; with a linear classifier where it has none."""
    from torch import nn

    from headstart.models.backbones import build_architecture

    if name == "squeezenet1_1":
        from torchvision.models import squeezenet1_1

        return squeezenet1_1()
    if name == "small_cnn":
        trunk = build_architecture(name)
        width: Any = trunk.num_features
        return nn.Sequential(trunk, nn.Linear(int(width), 10))
    import timm

    return timm.create_model(name, num_classes=1000)


def _complete(measured: _Measured) -> BackboneInfo:
    """Add what may change between two listings: published scores, and stored weights."""
    name, hub = measured.name, measured.hub
    tag = hub.tag if hub else ""
    base = name.partition(".")[0]
    top1, imagenet_size = _imagenet_top1().get(f"{base}.{tag}", (None, None))
    return BackboneInfo(
        name=name,
        tag=tag,
        parameters=measured.parameters,
        macs=measured.macs,
        size_px=measured.size_px,
        depth=measured.depth,
        file_mb=round(4 * measured.parameters / 1e6, 1),
        imagenet_top1=top1,
        imagenet_size_px=imagenet_size,
        providers=describe_providers(name, hub),
    )


def imagenet_top1(name: str) -> float | None:
    """Published ImageNet top-1 accuracy of a backbone's weights in percent; None where unknown.

    A name without a tag means timm's default weights.
    """
    base, _, tag = name.partition(".")
    hub = None if tag else describe_hub_weights(name)
    return _imagenet_top1().get(f"{base}.{tag or (hub.tag if hub else '')}", (None, None))[0]


@cache
def _imagenet_top1() -> dict[str, tuple[float, int]]:
    """By NAME.TAG, (top-1 in percent, image size), from the shipped table."""
    table = resources.files("headstart") / "assets" / "imagenet_top1.csv"
    lines: Iterable[str] = table.read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {row["model"]: (float(row["top1"]), int(row["img_size"])) for row in rows}


def _catalogue_path() -> Path:
    versions = "-".join(metadata.version(package) for package in ("headstart", "timm"))
    return cache_root() / "catalogue" / f"backbones-{FORMAT}-{versions}.json"


def _read_catalogue() -> dict[str, _Measured]:
    """The remembered backbones; {} where there are none, or the file is damaged."""
    try:
        return read_json(_catalogue_path(), dict[str, _Measured])
    except (OSError, RunError):
        return {}
