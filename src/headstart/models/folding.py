"""Folding: a convolution and the frozen batch norm behind it, computed as one convolution.

A frozen batch norm is y * s + t with constants s and t, so conv(x, w) * s + t = conv(x, w * s) + t.
The kernel is scaled in every step, which costs next to nothing; gradients reach the same weights
through the product, and the feature maps are read and written once less each way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from headstart.models.backbones import Backbone
from headstart.models.freezing import FreezePlan

# Of the largest feature; convolutions on CUDA round to TF32.
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}


@contextlib.contextmanager
def folded_norms(backbone: Backbone, plan: FreezePlan, size: int) -> Iterator[int]:
    """Within the block, frozen batch norms are part of their convolutions; yields how many.

    Parameters, buffers and their names stay as they are. Where the folded network does not
    compute what the plain one does, nothing is folded.
    """
    model = backbone.model
    like = next(model.parameters())
    # A generator of its own: whether to fold must not depend on what was drawn before.
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, 3, size, size, generator=generator).to(like)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            pairs, expected = _find_pairs(backbone, plan, example)
            for conv, norm in pairs:
                _fold(conv, norm)
            if pairs:
                error = (backbone(example) - expected).abs().max()
                if error > TOLERANCE[like.device.type] * expected.abs().max():
                    _unfold(pairs)
                    pairs = []
    finally:
        for module, training in modes.items():
            module.training = training
    try:
        yield len(pairs)
    finally:
        _unfold(pairs)


def _find_pairs(
    backbone: Backbone, plan: FreezePlan, example: torch.Tensor
) -> tuple[list[tuple[nn.Conv2d, nn.Module]], torch.Tensor]:
    """Convolutions whose output goes, as it is, into a batch norm that the plan keeps frozen."""
    made_by: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []
    hooks = []

    def after_conv(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = (module, output)  # kept, so that its id is not given to another

    def before_norm(module: nn.Module, inputs: Any) -> None:
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], module))

    for name, module in backbone.model.named_modules():
        if _convolve(module) is not None:
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and name not in plan.moving:
            trained = {f"{name}.weight", f"{name}.bias"} & plan.trainable
            if not trained and module.affine and module.track_running_stats:
                hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        expected = backbone(example)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs, expected


def _convolve(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """The module's convolution as a function of (input, weight, bias); None for other modules."""
    if type(module) is nn.Conv2d:
        return module._conv_forward
    if isinstance(module, nn.Conv2d) and type(module).__name__ == "Conv2dSame":
        from timm.layers.conv2d_same import conv2d_same

        geometry: Any = (module.stride, module.padding, module.dilation, module.groups)
        return lambda x, weight, bias: conv2d_same(x, weight, bias, *geometry)
    return None


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    convolve = _convolve(conv)
    assert convolve is not None and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias.detach() - norm.running_mean * scale

    def forward(x: torch.Tensor) -> torch.Tensor:
        bias = shift if conv.bias is None else shift + conv.bias * scale
        return convolve(x, conv.weight * scale.view(-1, 1, 1, 1), bias)

    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)

    def rest(x: torch.Tensor) -> torch.Tensor:
        x = drop(x) if drop is not None else x
        return act(x) if act is not None else x

    # On the instances: the class, the parameters and their names do not change.
    conv.__dict__["forward"] = forward
    norm.__dict__["forward"] = rest


def _unfold(pairs: list[tuple[nn.Conv2d, nn.Module]]) -> None:
    for pair in pairs:
        for module in pair:
            module.__dict__.pop("forward", None)
