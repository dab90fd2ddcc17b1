"""Freezing: what each phase trains, and an audit that notices what should not have moved."""

from __future__ import annotations

import pytest
import torch

from headstart.errors import RecipeError, RunError
from headstart.models.backbones import Backbone, build_architecture
from headstart.models.freezing import FreezeAudit, plan_phase, set_training
from headstart.models.heads import create_head, l2_penalty
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.specs import HeadSpec, PhaseSpec


def make(name: str, provider: str = "file") -> Backbone:
    torch.manual_seed(0)
    identity = WeightsIdentity(provider, name, "", None, "", "")
    preprocess = Preprocess(64, (0.5,) * 3, (0.5,) * 3, "bilinear")
    return Backbone(build_architecture(name), identity, preprocess)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet18", "layer4.0"),
        ("mobilenetv2_050", "blocks.6.0"),
        ("vgg11", "features.16"),
        ("densenet121", "features.denseblock4"),
        ("convnext_atto", "stages.3.downsample"),
        ("vit_tiny_patch16_224", "blocks.9"),
    ],
)
def test_last_stage_begins_where_the_architecture_says(name: str, first: str) -> None:
    backbone = make(name)
    plan = plan_phase(backbone, PhaseSpec(train="last_stage"))
    assert plan.boundary_name == first
    below = backbone.stages()[: plan.boundary]
    assert not any(stage.holds(p) for p in plan.trainable for stage in below)
    assert plan.trainable


def test_head_trains_nothing_and_all_trains_everything() -> None:
    backbone = make("resnet18")
    head = plan_phase(backbone, PhaseSpec(train="head"))
    assert (head.boundary, head.trainable) == (len(backbone.stages()), frozenset())
    parameters = {name for name, _ in backbone.model.named_parameters()}
    everything = plan_phase(backbone, PhaseSpec(train="all", norm="train"))
    assert everything.trainable == parameters
    frozen_norms = plan_phase(backbone, PhaseSpec(train="all"))
    assert not any("bn" in name for name in frozen_norms.trainable)
    assert frozen_norms.moving == frozenset()
    scratch = plan_phase(make("resnet18", "random"), PhaseSpec(train="from_scratch"))
    assert scratch.trainable == parameters


def test_unknown_families_say_what_works() -> None:
    backbone = make("repvgg_a0")
    with pytest.raises(RecipeError, match='use train = "head" or "all"'):
        plan_phase(backbone, PhaseSpec(train="last_stage"))


def test_last_layers_counts_layers_that_own_parameters() -> None:
    backbone = make("resnet18")
    # layer4.1 is conv1, bn1, conv2, bn2 in resnet18; norms count as layers and stay frozen.
    plan = plan_phase(backbone, PhaseSpec(train="last_layers:3"))
    assert plan.trainable == {"layer4.1.conv2.weight"}
    assert plan.boundary_name == "layer4.1"
    moving = plan_phase(backbone, PhaseSpec(train="last_layers:3", norm="train"))
    assert moving.trainable == {
        "layer4.1.bn1.weight",
        "layer4.1.bn1.bias",
        "layer4.1.conv2.weight",
        "layer4.1.bn2.weight",
        "layer4.1.bn2.bias",
    }
    assert moving.moving == {"layer4.1.bn1", "layer4.1.bn2"}
    layers = sum(1 for m in backbone.model.modules() if list(m.parameters(recurse=False)))
    every = plan_phase(backbone, PhaseSpec(train=f"last_layers:{layers}", norm="train"))
    assert every == plan_phase(backbone, PhaseSpec(train="all", norm="train"))
    with pytest.raises(RecipeError, match=f"has {layers} layers that own parameters"):
        plan_phase(backbone, PhaseSpec(train=f"last_layers:{layers + 1}"))
    with pytest.raises(RecipeError, match="no parameters of resnet18 but batch norms"):
        plan_phase(backbone, PhaseSpec(train="last_layers:1"))


@pytest.mark.parametrize(
    ("name", "module", "boundary", "below"),
    [
        ("mobilenetv2_100", "blocks.4.1", "blocks.4.1", "blocks.4.0.conv_pwl.weight"),
        ("mobilenetv2_100", "blocks.4", "blocks.4.0", "blocks.3.3.conv_pwl.weight"),
        ("resnet18", "layer3.1.conv2", "layer3.1", "layer3.1.conv1.weight"),
        ("resnet18", "stem", "stem", ""),
        ("densenet121", "features.denseblock4", "features.denseblock4", "features.conv0.weight"),
        ("vit_tiny_patch16_224", "quarter4", "blocks.9", "blocks.8.mlp.fc2.weight"),
        ("vit_tiny_patch16_224", "patch_embed", "patch_embed", ""),
    ],
)
def test_from_a_module_on(name: str, module: str, boundary: str, below: str) -> None:
    backbone = make(name)
    plan = plan_phase(backbone, PhaseSpec(train=f"from:{module}"))
    assert plan.boundary_name == boundary
    assert below not in plan.trainable
    last = [n for n, p in backbone.model.named_parameters() if p.dim() > 1][-1]
    assert last in plan.trainable
    if not below:
        assert plan == plan_phase(backbone, PhaseSpec(train="all"))


def test_from_the_pooling_reaches_nothing() -> None:
    with pytest.raises(RecipeError, match='no parameters of resnet18: use train = "head"'):
        plan_phase(make("resnet18"), PhaseSpec(train="from:pool"))


def test_from_an_unknown_module_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no module 'layer5' .* did you mean layer"):
        plan_phase(make("resnet18"), PhaseSpec(train="from:layer5"))


def test_convs_trains_convolutions_alone() -> None:
    backbone = make("resnet18")
    plan = plan_phase(backbone, PhaseSpec(train="convs"))
    kinds = {type(backbone.model.get_submodule(n.rpartition(".")[0])) for n in plan.trainable}
    assert kinds == {torch.nn.Conv2d}
    assert (plan.boundary, plan.moving) == (0, frozenset())
    assert len(plan.trainable) == 20
    with pytest.raises(RecipeError, match="convolutions hold"):
        plan_phase(make("vit_tiny_patch16_224"), PhaseSpec(train="convs"))


def step(backbone: Backbone) -> None:
    x = torch.randn(8, 3, 64, 64)
    trained = [p for p in backbone.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    backbone(x).square().mean().backward()
    optimizer.step()


def test_the_audit_passes_honest_training_and_catches_a_drifting_norm() -> None:
    backbone = make("mobilenetv2_050")
    plan = plan_phase(backbone, PhaseSpec(train="last_stage"))
    set_training(backbone, plan)
    audit = FreezeAudit(backbone, plan)
    before = backbone.prefix_hash(plan.boundary)
    step(backbone)
    audit.verify()
    assert backbone.prefix_hash(plan.boundary) == before
    # Plant the classic mistake: a frozen batch norm left in training mode.
    backbone.model.get_submodule("blocks.1.0.bn1").train()
    backbone(torch.randn(8, 3, 64, 64))
    with pytest.raises(RunError, match=r"freeze audit: .* blocks\.1\.0\.bn1"):
        audit.verify()


def test_heads() -> None:
    torch.manual_seed(0)
    linear = create_head(HeadSpec(), num_features=8, num_classes=3)
    assert [type(m).__name__ for m in linear] == ["Linear"]
    spec = HeadSpec(hidden=(16, 4), batch_norm=True, dropout=0.5)
    mlp = create_head(spec, num_features=8, num_classes=3)
    kinds = [type(m).__name__ for m in mlp]
    assert kinds == ["Dropout", "Linear", "BatchNorm1d", "ReLU"] * 2 + ["Dropout", "Linear"]
    assert mlp(torch.randn(5, 8)).shape == (5, 3)
    linears = [m for m in mlp if isinstance(m, torch.nn.Linear)]
    expected = sum(float(m.weight.detach().square().sum()) for m in linears)
    assert float(l2_penalty(mlp).detach()) == pytest.approx(expected, rel=1e-5)
