"""Folding: a convolution and the frozen batch norm after it, computed as one convolution.

A frozen batch norm is y * s + t with constants s and t, so conv(x, w) * s + t = conv(x, w * s) + t.
The kernel is scaled in every step, which takes hardly any time. Gradients reach the same weights
through the product. Feature maps are read and written once less in each direction.

On a CPU, some operations whose gradients are slow in torch are replaced here too: 1x1 convolutions,
ReLU6, global pooling, and some depthwise convolutions in bfloat16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from headstart.models.backbones import Backbone
from headstart.models.freezing import FreezePlan

# Largest error, as a share of the largest feature. Convolutions on CUDA round to TF32.
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2, "mps": 1e-3}


@contextlib.contextmanager
def folded_norms(backbone: Backbone, plan: FreezePlan, size: int) -> Iterator[int]:
    """Within the block, frozen batch norms are folded into their convolutions; yields their number.

    Parameters, buffers and their names do not change. If the folded network computes other features
    than the plain one, nothing is folded.
    """
    model = backbone.model
    like = next(model.parameters())
    # Its own generator, so that the decision does not depend on earlier random numbers.
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, 3, size, size, generator=generator).to(like)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    # New forward functions of instances; classes, parameters and names do not change.
    own: dict[nn.Module, Callable[..., torch.Tensor]] = {}
    try:
        with torch.no_grad():
            pairs, expected = _find_pairs(backbone, plan, example)
            for conv, norm in pairs:
                own[conv], own[norm] = _fold(conv, norm)
            own |= {module: _pool_rows for module in model.modules() if _pools(module)}
            _set_forward(own)
            if pairs:
                error = (backbone(example) - expected).abs().max()
                if error > TOLERANCE[like.device.type] * expected.abs().max():
                    _restore_forward(own)
                    pairs = []
    finally:
        for module, training in modes.items():
            module.training = training
    try:
        yield len(pairs)
    finally:
        _restore_forward(own)


def _find_pairs(
    backbone: Backbone, plan: FreezePlan, example: torch.Tensor
) -> tuple[list[tuple[nn.Conv2d, nn.Module]], torch.Tensor]:
    """Convolutions whose output goes directly into a frozen batch norm; and the plain features."""
    made_by: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []
    hooks = []

    def after_conv(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = (module, output)  # kept alive, so that its id stays unique

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
    convolve: Callable[..., torch.Tensor]
    if type(module) is nn.Conv2d:
        convolve = _pointwise if _is_pointwise(module) else module._conv_forward
    elif isinstance(module, nn.Conv2d) and type(module).__name__ == "Conv2dSame":
        from timm.layers.conv2d_same import conv2d_same

        geometry: Any = (module.stride, module.padding, module.dilation, module.groups)

        def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = conv2d_same(x, weight, bias, *geometry)
            return output
    else:
        return None
    return _in_float32(convolve) if _slow_in_bfloat16(module) else convolve


def _is_pointwise(conv: nn.Conv2d) -> bool:
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.groups)
    return geometry == ((1, 1), (1, 1), (0, 0), 1)


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 1x1 convolution. On a CPU its gradients are matrix products."""
    if x.device.type != "cpu":
        return F.conv2d(x, weight, bias)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    output: torch.Tensor = _Pointwise.apply(x, weight, bias)
    return output


class _Pointwise(torch.autograd.Function):
    """conv2d with a kernel of (out, in, 1, 1), from channels-last (n, in, height, width).

    oneDNN's gradients, which torch uses, reorder their operands first. With matrix products, a
    backward pass of MobileNetV2 from `blocks.4.1` took 26.5 instead of 29.5 ms in bfloat16, and the
    same time in float32 (64 images of 96 pixels, two cores of an AMD EPYC with AVX512_BF16).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, bias)

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        x, kernel = ctx.saved_tensors
        n, out, height, width = gradients[0].shape
        to_x, to_kernel, to_bias = ctx.needs_input_grad
        g = _rows(gradients[0])
        by_x = by_kernel = by_bias = None
        if to_x:
            by_x = (g @ kernel.view(out, -1)).view(n, height, width, -1).permute(0, 3, 1, 2)
        if to_kernel:
            by_kernel = (g.t() @ _rows(x)).view_as(kernel)
        if to_bias:
            by_bias = g.sum(dim=0)
        return by_x, by_kernel, by_bias


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """(n, channels, height, width) as (n * height * width, channels): a view, if channels-last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _pool_rows(x: torch.Tensor) -> torch.Tensor:
    """Global average pooling with gradients in channels-last format.

    torch gives them in planes, which slows the operations before it: 24.8 instead of 26.5 ms in the
    pass above.
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1)[:, :, None, None]


def _pools(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _slow_in_bfloat16(conv: nn.Conv2d) -> bool:
    """Depthwise with a stride, or with five rows or more: a CPU has no fast kernel for its bfloat16
    gradients. A 3x3 one of stride 2 took 49 ms instead of 0.14; the convolutions around it took 0.6
    (576 channels, 64 images of 6x6 pixels, two cores of an AMD EPYC with AVX512_BF16)."""
    return conv.groups > 1 and (conv.stride != (1, 1) or conv.kernel_size[0] > 3)


def _in_float32(convolve: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def outside_autocast(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return convolve(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return convolve(x.float(), weight, bias)

    return outside_autocast


class _ClampInPlace(torch.autograd.Function):
    """ReLU6 in place, for an input that nothing else needs.

    torch's in-place ReLU6 keeps a copy of its input for the gradient. The output is enough: where
    it is neither 0 nor 6, the gradient passes.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        gradient: torch.Tensor = torch.ops.aten.hardtanh_backward(gradients[0], y, 0, 6)
        return gradient


def _fold(
    conv: nn.Conv2d, norm: nn.Module
) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """The new forward functions of the convolution, with the norm's scale and shift, and of the
    norm. A norm of timm may also have dropout and an activation, which remain."""
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
        if isinstance(act, nn.ReLU6) and x.requires_grad:
            clamped: torch.Tensor = _ClampInPlace.apply(x)
            return clamped
        return act(x) if act is not None else x

    return forward, rest


def _set_forward(own: dict[nn.Module, Callable[..., torch.Tensor]]) -> None:
    for module, forward in own.items():
        module.__dict__["forward"] = forward


def _restore_forward(own: dict[nn.Module, Callable[..., torch.Tensor]]) -> None:
    for module in own:
        module.__dict__.pop("forward", None)
