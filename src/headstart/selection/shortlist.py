"""The backbones that are worth a look for a data set: those whose weights can be had here.

Published accuracy and arithmetic are the prior. A backbone is left out where another one is better
on ImageNet at half of its arithmetic or less, and where a single pass over the images would take
too much of the time. ImageNet's order is a weak guide to drawings, scans and textures, so cheap
backbones stay even if their published accuracy is low.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headstart.errors import WeightsError
from headstart.models.catalogue import BackboneInfo, describe_backbones
from headstart.models.hub import describe_hub_weights, hub_answers
from headstart.models.weights import describe_providers

# Small to large. Networks of the registry first; the others need the hub, or are stored already.
OFFERED = (
    "squeezenet1_1",
    "mobilenetv2_100",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "vgg16",
    "mobilenetv3_large_100",
    "resnet50",
    "efficientnet_b2",
    "tf_efficientnetv2_s",
    "convnext_tiny",
    "vit_small_patch14_dinov2",
    "convnext_base",
    "vit_base_patch14_dinov2",
)
# Multiply-accumulates a second of a frozen pass in float32, as a guess before anything is timed: a
# core, and a GPU. A pass may take so large a share of the time.
CORE_RATE, GPU_RATE, PASS_SHARE = 1.5e10, 5e12, 0.2
MOST = 6  # backbones; more would leave each too little of the time


@dataclass(frozen=True)
class Shortlist:
    """The backbones to look at, by published accuracy, and a line for each that is left out."""

    chosen: tuple[BackboneInfo, ...]
    left_out: tuple[str, ...]


def make_shortlist(
    images: int,
    seconds: float,
    *,
    rate: float,
    offered: Sequence[str],
    say: Callable[[str], None] = lambda line: None,
) -> Shortlist:
    """The backbones for so many images and seconds. rate: multiply-accumulates a second.

    Raises WeightsError where no weights can be had.
    """
    reachable = [name for name in offered if _can_be_had(name)]
    if not reachable:
        raise WeightsError(
            "no pretrained weights can be reached: allow the hub or a package index, or put "
            'weights into a recipe with weights = "file:PATH"'
        )
    left_out = []
    if others := [name for name in offered if name not in reachable]:
        left_out.append(f"{', '.join(others)}: their weights cannot be reached")
    infos = describe_backbones(reachable, say=say)
    affordable = []
    for info in infos:
        needed = images * info.macs / rate
        if needed > PASS_SHARE * seconds and info.macs > min(i.macs for i in infos):
            left_out.append(f"{info.name}: one pass over the images takes about {needed:.0f} s")
        else:
            affordable.append(info)
    chosen = []
    for info in affordable:
        if better := _dominated_by(info, affordable):
            left_out.append(
                f"{info.name}: {better.name} is better on ImageNet at half the arithmetic"
            )
        else:
            chosen.append(info)
    chosen.sort(key=lambda info: -(info.imagenet_top1 or 0.0))
    left_out += [f"{info.name}: {MOST} others are better on ImageNet" for info in chosen[MOST:]]
    return Shortlist(tuple(chosen[:MOST]), tuple(left_out))


def _can_be_had(name: str) -> bool:
    hub = describe_hub_weights(name)
    ways = describe_providers(name, hub).split(", ")
    return "stored" in ways or "registry" in ways or ("hub" in ways and hub_answers())


def _dominated_by(info: BackboneInfo, others: Sequence[BackboneInfo]) -> BackboneInfo | None:
    for other in others:
        if other.macs <= info.macs / 2 and (other.imagenet_top1 or 0) > (info.imagenet_top1 or 0):
            return other
    return None
