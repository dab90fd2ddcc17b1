"""Backbone names: aliases, timm's own names, tags, and errors that name the nearest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from headstart.errors import WeightsError
from headstart.models.names import ALIASES, OUTSIDE_TIMM, canonical_name


@pytest.mark.parametrize(
    ("given", "timm_name"),
    [
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("MobileNetV2", "mobilenetv2_100"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("VGG16", "vgg16"),
        ("vgg16", "vgg16"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("DenseNet 121", "densenet121"),
        ("ConvNeXtTiny", "convnext_tiny"),
        ("ViT-B/16", "vit_base_patch16_224"),
        ("vit_b_16", "vit_base_patch16_224"),
        ("dinov2_vits14", "vit_small_patch14_dinov2"),
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2"),
        ("inception_v3", "inception_v3"),
        ("Xception", "legacy_xception"),
        ("squeezenet1_1", "squeezenet1_1"),
        ("small_cnn", "small_cnn"),
    ],
)
def test_known_names_in_any_spelling(given: str, timm_name: str) -> None:
    assert canonical_name(given) == timm_name


def test_known_names_need_no_torch() -> None:
    code = (
        "import sys; from headstart.models.names import canonical_name; "
        "assert canonical_name('ResNet50') == 'resnet50'; "
        "from headstart.models import registry; registry.REGISTRY['vgg16'].identity; "
        "assert not {'torch', 'timm'} & set(sys.modules), 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_alias_stands_for_a_network_with_weights() -> None:
    import timm

    pretrained = {name.partition(".")[0] for name in timm.list_pretrained()}
    assert len(ALIASES) > 80
    assert {*ALIASES.values()} - pretrained == OUTSIDE_TIMM


def test_no_alias_shadows_a_timm_name() -> None:
    import timm

    names = timm.list_models()
    assert len(names) > 500
    assert [name for name in names if canonical_name(name) != name] == []


def test_tags_are_checked() -> None:
    assert canonical_name("ResNet50.tv_in1k") == "resnet50.tv_in1k"
    with pytest.raises(WeightsError, match=r"resnet50 has no tag 'tv_in1'; did you mean tv_in1k"):
        canonical_name("resnet50.tv_in1")
    with pytest.raises(WeightsError, match="small_cnn has no tags"):
        canonical_name("small_cnn.x")


def test_timm_names_outside_the_tables_in_any_case() -> None:
    assert canonical_name("ResNet152D") == "resnet152d"


@pytest.mark.parametrize("given", ["resnet5o", "resnet5o.a1_in1k"])
def test_an_unknown_name_gets_the_nearest(given: str) -> None:
    with pytest.raises(WeightsError, match=r"no backbone 'resnet5o.*did you mean resnet50"):
        canonical_name(given)
