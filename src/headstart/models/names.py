"""Backbone names: timm's, and those of Keras and torchvision. Needs no torch.

timm takes seconds to import, so it is imported only for names outside the tables below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from headstart.errors import WeightsError, did_you_mean

# Known names to timm's. Case, '-', '_', '/' and spaces do not matter, so one spelling is enough:
# MobileNetV2 is also mobilenet_v2.
ALIASES: dict[str, str] = {
    # ResNet: Keras and torchvision use timm's names; they are listed for other spellings.
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "ResNet50V2": "resnetv2_50",
    "ResNet101V2": "resnetv2_101",
    "ResNeXt50_32x4d": "resnext50_32x4d",
    "ResNeXt101_32x8d": "resnext101_32x8d",
    "Wide_ResNet50_2": "wide_resnet50_2",
    "Wide_ResNet101_2": "wide_resnet101_2",
    "VGG11": "vgg11",
    "VGG13": "vgg13",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "VGG11_BN": "vgg11_bn",
    "VGG13_BN": "vgg13_bn",
    "VGG16_BN": "vgg16_bn",
    "VGG19_BN": "vgg19_bn",
    "MobileNet": "mobilenetv1_100",
    "MobileNetV1": "mobilenetv1_100",
    "MobileNetV2": "mobilenetv2_100",
    "MobileNetV3": "mobilenetv3_large_100",
    "MobileNetV3Large": "mobilenetv3_large_100",
    "MobileNetV3Small": "mobilenetv3_small_100",
    "MNASNet1_0": "mnasnet_100",
    "EfficientNetB0": "efficientnet_b0",
    "EfficientNetB1": "efficientnet_b1",
    "EfficientNetB2": "efficientnet_b2",
    "EfficientNetB3": "efficientnet_b3",
    "EfficientNetB4": "efficientnet_b4",
    "EfficientNetB5": "efficientnet_b5",
    # timm has weights of its own for B0 to B5, and Google's for the two larger ones.
    "EfficientNetB6": "tf_efficientnet_b6",
    "EfficientNetB7": "tf_efficientnet_b7",
    "EfficientNetLite0": "tf_efficientnet_lite0",
    "EfficientNetLite1": "tf_efficientnet_lite1",
    "EfficientNetLite2": "tf_efficientnet_lite2",
    "EfficientNetLite3": "tf_efficientnet_lite3",
    "EfficientNetLite4": "tf_efficientnet_lite4",
    "EfficientNetV2B0": "tf_efficientnetv2_b0",
    "EfficientNetV2B1": "tf_efficientnetv2_b1",
    "EfficientNetV2B2": "tf_efficientnetv2_b2",
    "EfficientNetV2B3": "tf_efficientnetv2_b3",
    "EfficientNetV2S": "tf_efficientnetv2_s",
    "EfficientNetV2M": "tf_efficientnetv2_m",
    "EfficientNetV2L": "tf_efficientnetv2_l",
    "EfficientNet_V2_S": "tf_efficientnetv2_s",
    "DenseNet121": "densenet121",
    "DenseNet161": "densenet161",
    "DenseNet169": "densenet169",
    "DenseNet201": "densenet201",
    "InceptionV3": "inception_v3",
    "InceptionV4": "inception_v4",
    "InceptionResNetV2": "inception_resnet_v2",
    "Xception": "legacy_xception",  # timm's copy of the Keras network
    "NASNet": "nasnetalarge",
    "NASNetLarge": "nasnetalarge",
    "ConvNeXtTiny": "convnext_tiny",
    "ConvNeXtSmall": "convnext_small",
    "ConvNeXtBase": "convnext_base",
    "ConvNeXtLarge": "convnext_large",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-B/32": "vit_base_patch32_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT Tiny": "vit_tiny_patch16_224",
    "ViT Small": "vit_small_patch16_224",
    "ViT Base": "vit_base_patch16_224",
    "DINOv2 Small": "vit_small_patch14_dinov2",
    "DINOv2 Base": "vit_base_patch14_dinov2",
    "DINOv2 Large": "vit_large_patch14_dinov2",
    "DINOv2 ViT-S/14": "vit_small_patch14_dinov2",
    "DINOv2 ViT-B/14": "vit_base_patch14_dinov2",
    "DINOv2 ViT-L/14": "vit_large_patch14_dinov2",
    "DeiT Small": "deit_small_patch16_224",
    "DeiT Base": "deit_base_patch16_224",
    "Swin_T": "swin_tiny_patch4_window7_224",
    "Swin_S": "swin_small_patch4_window7_224",
    "Swin_B": "swin_base_patch4_window7_224",
    "Swin Tiny": "swin_tiny_patch4_window7_224",
    "RegNet": "regnety_032",
    "RegNet_Y_1_6GF": "regnety_016",
    "RegNet_Y_3_2GF": "regnety_032",
    "RegNet_Y_8GF": "regnety_080",
    "RegNetY032": "regnety_032",
    "SqueezeNet": "squeezenet1_1",
    "SqueezeNet1_1": "squeezenet1_1",
    "small_cnn": "small_cnn",
}

# Networks that timm does not have: torchvision's SqueezeNet 1.1 and our own from-scratch baseline.
OUTSIDE_TIMM = frozenset({"squeezenet1_1", "small_cnn"})

# Names of timm networks that would match an alias of another network. A test finds them all.
_NOT_ALIASES = frozenset(
    {
        *(f"efficientnetv2_{size}" for size in "sml"),
        *(f"efficientnet_lite{number}" for number in range(5)),
        "efficientnet_b6",
        "efficientnet_b7",
    }
)


def canonical_name(name: str) -> str:
    """timm's name for a backbone, with its ".tag" where one was given.

    >>> canonical_name("MobileNetV2"), canonical_name("ViT-B/16")
    ('mobilenetv2_100', 'vit_base_patch16_224')

    A name with a tag, or outside the tables, is checked with timm. Raises WeightsError, with the
    nearest names, for an unknown one.
    """
    if name in _NOT_ALIASES:
        return name
    if (known := _known_names().get(_fold(name))) is not None:
        return known
    base, dot, tag = name.partition(".")
    architecture = _known_names().get(_fold(base)) if base not in _NOT_ALIASES else base
    if architecture in OUTSIDE_TIMM:
        raise WeightsError(f"{architecture} has no tags: leave out .{tag}")
    if architecture is None:
        architecture = _timm_names().get(_fold(base))
    if architecture is None:
        near = did_you_mean(base, [*ALIASES, *_timm_names().values()])
        raise WeightsError(f"no backbone {name!r}{near} (list them: headstart models)")
    if not dot:
        return architecture
    tags = _tags(architecture)
    if tag not in tags:
        near = did_you_mean(tag, tags) or f"; it has {', '.join(tags) or 'none'}"
        raise WeightsError(f"{architecture} has no tag {tag!r}{near}")
    return f"{architecture}.{tag}"


def _fold(name: str) -> str:
    return re.sub(r"[-_/ ]", "", name.casefold())


@cache
def _known_names() -> dict[str, str]:
    """timm's name by folded alias, and by the folded timm names that have an alias."""
    targets = {_fold(target): target for target in ALIASES.values()}
    return targets | {_fold(alias): target for alias, target in ALIASES.items()}


@cache
def _timm_names() -> dict[str, str]:
    import timm

    return _by_fold(timm.list_models())


def _by_fold(names: Iterable[str]) -> dict[str, str]:
    return {_fold(name): name for name in names}


def _tags(architecture: str) -> tuple[str, ...]:
    import timm

    # list_pretrained gives NAME.TAG, and a bare NAME for weights without a tag.
    pretrained = timm.list_pretrained(f"{architecture}.*")
    return tuple(str(name).partition(".")[2] for name in pretrained)
