"""What a head is fitted to: one label an image, or several, told by the shape of the labels.

With one label an image's loss is the cross-entropy of its class. With several it is the sum of the
binary cross-entropies of all classes, so that a linear head is one logistic regression a class,
with the same penalty for all. Either is minus the logarithm of the probability of the image's whole
truth, so the losses, the rates and the penalties mean the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

# The most that an image's loss, in nats, counts in the choice of a penalty, and of several labels
# the loss of each. Without this cap a single image could decide where images are few: below 1e-4 a
# probability is just wrong.
LOSS_CAP = float(-np.log(1e-4))


class Targets(Protocol):
    """One of the two kinds."""

    def losses(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(n,): the loss of each image, nats."""

    def capped(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(n,): the losses as they count in the choice of a penalty."""

    def right(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(n,): whether each answer is right; of several labels, the share of them."""


class OneLabel:
    """y: int64 (n,)."""

    def losses(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, y, reduction="none")

    def capped(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.losses(logits, y).clamp_max(LOSS_CAP)

    def right(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return logits.argmax(dim=1) == y


class ManyLabels:
    """y: bool (n, classes)."""

    def losses(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self._each(logits, y).sum(dim=1)

    def capped(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self._each(logits, y).clamp_max(LOSS_CAP).sum(dim=1)

    def right(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((logits > 0) == y).float().mean(dim=1)

    def _each(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(n, classes)."""
        target = y.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


ONE, MANY = OneLabel(), ManyLabels()


def targets_of(labels: torch.Tensor) -> Targets:
    """The kind of some labels: int64 (n,) or bool (n, classes)."""
    return ONE if labels.dim() == 1 else MANY
