"""The model in training: the stages from some boundary on, and the head."""

from __future__ import annotations

import torch
from torch import nn

from headstart.models.backbones import Backbone


class Classifier(nn.Module):
    """Backbone and head, entered at stage `start` (0 for pixels), frozen below `boundary`."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        # Nothing is trained before the first phase says where it enters.
        self.start = 0
        self.boundary = self.lowest = len(backbone.stages())

    def enter(self, start: int, boundary: int) -> None:
        """Take inputs at stage `start`; keep no gradients below stage `boundary`."""
        self.start, self.boundary = start, boundary
        self.lowest = min(self.lowest, boundary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.above(self.below(x))

    def below(self, x: torch.Tensor) -> torch.Tensor:
        """From the input to the boundary, through what is frozen; nothing if it was cached."""
        if self.start < self.boundary:
            with torch.no_grad():
                for stage in self.backbone.stages()[self.start : self.boundary]:
                    x = stage.forward(x)
        return x

    def above(self, x: torch.Tensor) -> torch.Tensor:
        """From the boundary to logits (n, classes)."""
        for stage in self.backbone.stages()[self.boundary :]:
            x = stage.forward(x)
        # The head is small and was solved or trained to more digits than bfloat16 has.
        with torch.autocast(x.device.type, enabled=False):
            logits: torch.Tensor = self.head(x.float())
        return logits

    def changing_tensors(self) -> dict[str, torch.Tensor]:
        """Everything above the lowest boundary so far, by name: what training may have changed."""
        above = self.backbone.stages()[self.lowest :]
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith("head.")
            or any(stage.holds(name.removeprefix("backbone.model.")) for stage in above)
        }

    def changed_state(self) -> dict[str, torch.Tensor]:
        """Copies of `changing_tensors`."""
        return {name: t.detach().clone() for name, t in self.changing_tensors().items()}
