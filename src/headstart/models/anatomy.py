"""Counts a network's operations, parameters and depth, without weights, memory or arithmetic.

The network runs once on the meta device, under a dispatch mode that sees every primitive operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from headstart.models.backbones import build_on_meta
from headstart.models.classifier import Classifier

_ops = torch.ops.aten
_WEIGHTED = frozenset(
    {_ops.convolution, _ops._convolution, _ops.linear, _ops.addmm, _ops.mm, _ops.bmm, _ops.baddbmm}
)


@dataclass(frozen=True)
class Anatomy:
    """depth: weighted layers on the longest path from the input. macs: of one image."""

    depth: int
    macs: int


def examine(model: nn.Module, size: int) -> Anatomy:
    """Depth and multiply-accumulates of a model on the meta device, for one image."""
    mode = _Examination(model)
    with torch.no_grad(), mode:
        output = model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return Anatomy(mode.depth_of(output), mode.macs)


class _Examination(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch: no types
    """Gives every tensor a depth: that of its deepest input, plus one for a weighted layer.

    A weighted layer multiplies by a parameter, or by a tensor computed from parameters alone, such
    as a transposed or standardised kernel. Products of activations in attention do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch: no types
        self.macs = 0
        self._depths: dict[int, int] = {}
        own = [*model.parameters(), *model.buffers()]
        self._from_weights = {id(tensor) for tensor in own}
        # Tensors are identified by id, so they must stay alive. On the meta device they are empty.
        self._kept: list[Any] = [own]

    def depth_of(self, value: Any) -> int:
        return max((self._depths.get(id(tensor), 0) for tensor in _tensors(value)), default=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        operation = func.overloadpacket
        if operation in flop_registry:
            self.macs += flop_registry[operation](*args, **kwargs, out_val=output) // 2
        inputs, outputs = _tensors((args, kwargs)), _tensors(output)
        weights = [tensor for tensor in inputs if id(tensor) in self._from_weights]
        depth = self.depth_of(inputs)
        if operation in _WEIGHTED and weights and len(weights) < len(inputs):
            depth += 1
        for tensor in outputs:
            self._depths[id(tensor)] = depth
            if inputs and len(weights) == len(inputs):
                self._from_weights.add(id(tensor))
        self._kept.append(outputs)
        return output


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@dataclass(frozen=True)
class ModelCost:
    """macs: of one image; size_mb: of the parameters and buffers in float32."""

    parameters: int
    macs: int
    size_mb: float


def model_cost(model: Classifier, size: int) -> ModelCost:
    """The cost of a model for inputs of `size` pixels a side."""
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for b in model.buffers())
    head = sum(m.weight.numel() for m in model.head.modules() if isinstance(m, nn.Linear))
    return ModelCost(
        parameters=parameters,
        macs=backbone_macs(model.backbone.name, size) + head,
        size_mb=(parameters + buffers) * 4 / 1e6,
    )


@cache
def backbone_macs(name: str, size: int) -> int:
    """Multiply-accumulates of one image of `size` pixels a side, counted without weights."""
    return examine(build_on_meta(name, size=size), size).macs
