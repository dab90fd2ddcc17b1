"""Contract: the composition of a backbone's stages is the backbone's own forward, bit for bit."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from headstart.models.backbones import Backbone, build_architecture
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.models.stages import split_stages

# The smallest member of each family that has the family's whole structure, and the size it takes.
FAMILIES = {
    "resnet18": 64,
    "resnet26": 64,
    "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64,
    "efficientnet_b0": 64,
    "tf_efficientnet_lite0": 64,
    "tf_efficientnetv2_b0": 64,
    "vgg11": 64,
    "vgg16_bn": 64,
    "densenet121": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "test_vit": 160,
    "vit_tiny_patch16_224": 64,
    "vit_small_patch14_reg4_dinov2": 56,
    "squeezenet1_1": 64,
    "small_cnn": 32,
    "swin_tiny_patch4_window7_224": 224,  # a family without an entry: two steps
}


@cache
def make(name: str) -> tuple[Backbone, torch.Tensor]:
    torch.manual_seed(0)
    size = FAMILIES[name]
    model = build_architecture(name, size=size).eval()
    identity = WeightsIdentity("random", name, "", None, "", "")
    backbone = Backbone(model, identity, Preprocess(size, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    return backbone.eval(), torch.randn(2, 3, size, size)


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_compose_to_forward(name: str) -> None:
    backbone, x = make(name)
    with torch.inference_mode():
        expected = backbone.model(x)
        assert torch.equal(backbone.features(x), expected)
        assert expected.shape == (2, backbone.num_features)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_belongs_to_one_stage(name: str) -> None:
    backbone, _ = make(name)
    stages = backbone.stages()
    for tensor in backbone.model.state_dict():
        assert sum(stage.holds(tensor) for stage in stages) == 1, tensor


def test_the_list_covers_the_promised_families() -> None:
    kinds = {type(make(name)[0].model).__name__ for name in FAMILIES}
    promised = {"ResNet", "EfficientNet", "VGG", "DenseNet", "ConvNeXt", "VisionTransformer"}
    assert promised <= kinds


def test_stage_names_are_unique_and_fine() -> None:
    names = [stage.name for stage in make("mobilenetv2_050")[0].stages()]
    assert len(names) == len(set(names)) == 20
    assert "blocks.4.1" in names
    assert len(split_stages(make("vit_tiny_patch16_224")[0].model)) == 14
