"""Penultimate features, taken during a pass that predicts: they cost no pass of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from headstart.models.classifier import Classifier


@dataclass
class Features:
    """The inputs of the head's last layer for some rows of a pass."""

    rows: np.ndarray  # int64, ascending
    _parts: list[torch.Tensor] = field(default_factory=list)

    @property
    def array(self) -> np.ndarray:
        """float32 (len(rows), width)."""
        return torch.cat(self._parts).float().cpu().numpy()


@contextlib.contextmanager
def penultimate(model: Classifier, rows: np.ndarray) -> Iterator[Features]:
    """Collect the features of these rows. The block makes one pass over a split, in row order."""
    features = Features(np.sort(rows))
    passed = 0

    def take(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal passed
        (x,) = inputs
        first, last = np.searchsorted(features.rows, (passed, passed + len(x)))
        mine = torch.as_tensor(features.rows[first:last] - passed, device=x.device)
        features._parts.append(x.detach()[mine])
        passed += len(x)

    last_layer: torch.nn.Module = model.head[-1]  # type: ignore[index]  # it is a Sequential
    hook = last_layer.register_forward_pre_hook(take)
    try:
        yield features
    finally:
        hook.remove()
