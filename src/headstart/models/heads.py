"""Heads: the layers on top of a backbone's pooled features."""

from __future__ import annotations

import torch
from torch import nn

from headstart.specs import HeadSpec


def create_head(spec: HeadSpec, *, num_features: int, num_classes: int) -> nn.Sequential:
    """A linear head, or an MLP, from features (n, num_features) to logits (n, num_classes).

    Dropout comes before every linear layer; batch norm and ReLU come after every hidden one.
    Weights are drawn from torch's current generator: He-normal for hidden layers, small for the
    last, so that training starts from nearly uniform predictions.
    """
    layers: list[nn.Module] = []
    width = num_features
    for hidden in spec.hidden:
        if spec.dropout:
            layers.append(nn.Dropout(spec.dropout))
        linear = nn.Linear(width, hidden)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if spec.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU())
        width = hidden
    if spec.dropout:
        layers.append(nn.Dropout(spec.dropout))
    last = nn.Linear(width, num_classes)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    layers.append(last)
    return nn.Sequential(*layers)


def l2_penalty(head: nn.Module) -> torch.Tensor:
    """Sum of squares of the head's weight matrices, without biases and batch norm."""
    weights = [m.weight for m in head.modules() if isinstance(m, nn.Linear)]
    return torch.stack([weight.square().sum() for weight in weights]).sum()
