"""Folding: the same function and gradients, with frozen batch norms inside convolutions."""

from __future__ import annotations

import pytest
import torch

from headstart.models.backbones import Backbone, build_architecture
from headstart.models.folding import folded_norms
from headstart.models.freezing import FreezeAudit, plan_phase, set_training
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.specs import PhaseSpec


def make(name: str) -> Backbone:
    torch.manual_seed(0)
    identity = WeightsIdentity("file", name, "", None, "", "")
    backbone = Backbone(
        build_architecture(name), identity, Preprocess(64, (0.5,) * 3, (0.5,) * 3, "bilinear")
    )
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh norms are nearly the identity
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return backbone


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("resnet18", 20),
        ("mobilenetv2_050", 52),
        ("tf_efficientnet_lite0", 49),
        ("densenet121", 59),
        ("vgg11_bn", 8),
        ("convnext_atto", 0),
    ],
)
def test_folding_changes_neither_outputs_nor_gradients(name: str, most: int) -> None:
    # In double precision: in single, rounding carries some activations over the kink of a ReLU.
    backbone = make(name).double()
    phase = PhaseSpec(train="all")
    plan = plan_phase(backbone, phase)
    set_training(backbone, plan)
    for module in backbone.modules():  # dropout and drop path would draw differently
        if not list(module.children()):
            module.eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def gradients() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        backbone.zero_grad()
        features = backbone(x)
        features.square().mean().backward()
        return features.detach(), {
            n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None
        }

    expected, plain = gradients()
    audit = FreezeAudit(backbone, plan)
    with folded_norms(backbone, plan, 64) as folded:
        assert folded == most
        got, inside = gradients()
    audit.verify()
    assert torch.allclose(got, expected, atol=1e-9 * float(expected.abs().max()))
    assert inside.keys() == plain.keys()
    scale = max(float(g.abs().max()) for g in plain.values())
    for parameter, gradient in plain.items():
        assert torch.allclose(inside[parameter], gradient, atol=1e-9 * scale), parameter
    assert not any("forward" in module.__dict__ for module in backbone.modules())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_within_a_step_stay_channels_last(precision: torch.dtype) -> None:
    backbone = make("mobilenetv2_050").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = plan_phase(backbone, PhaseSpec(train="from:blocks.4.1"))
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in plan.trainable)
    set_training(backbone, plan)
    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []

    def listen(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.register_hook(seen.append)

    def step() -> torch.Tensor:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            features = backbone(x)
        features.float().square().mean().backward()
        found = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
        backbone.zero_grad()
        return found

    expected = step()
    with folded_norms(backbone, plan, 64):
        for module in backbone.modules():
            if isinstance(module, torch.nn.Conv2d) and module.weight.requires_grad:
                module.register_forward_hook(listen)
        got = step()
    assert len(seen) == 19
    assert all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in seen)
    assert all(gradient.dtype in (precision, torch.float32) for gradient in seen)
    assert sum(gradient.dtype == precision for gradient in seen) >= 18
    # Rounding carries some activations over a kink of their ReLU6.
    alike = 0.999 if precision == torch.float32 else 0.95
    assert float(torch.cosine_similarity(got, expected, dim=0)) > alike


def test_norms_that_move_are_left_alone() -> None:
    backbone = make("resnet18")
    plan = plan_phase(backbone, PhaseSpec(train="last_stage", norm="train"))
    with folded_norms(backbone, plan, 64) as folded:
        assert folded == 15
        assert "forward" not in backbone.model.get_submodule("layer4.0.bn1").__dict__
        assert "forward" in backbone.model.get_submodule("layer1.0.bn1").__dict__


def test_a_fold_that_would_change_the_result_is_not_made() -> None:
    backbone = make("resnet18")
    plan = plan_phase(backbone, PhaseSpec(train="all"))
    stem = backbone.model.get_submodule("conv1")
    original = stem.forward
    # A convolution with a hook of its own computes more than its kernel says.
    stem.register_forward_hook(lambda module, inputs, output: output * 2 + 1)
    x = torch.randn(2, 3, 64, 64)
    expected = backbone.eval()(x).detach()
    with folded_norms(backbone, plan, 64) as folded:
        assert folded in (0, 19)  # without the stem, or not at all
        assert torch.allclose(backbone(x).detach(), expected, atol=1e-4 * float(expected.max()))
    assert stem.forward == original
