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
        stages = self.backbone.stages()
        if self.start < self.boundary:
            with torch.no_grad():
                for stage in stages[self.start : self.boundary]:
                    x = stage.forward(x)
        for stage in stages[self.boundary :]:
            x = stage.forward(x)
        # The head is small and was solved or trained to more digits than bfloat16 has.
        with torch.autocast(x.device.type, enabled=False):
            logits: torch.Tensor = self.head(x.float())
        return logits

    def changed_state(self) -> dict[str, torch.Tensor]:
        """Copies of everything above the lowest boundary so far: what training may have changed."""
        above = self.backbone.stages()[self.lowest :]
        return {
            name: tensor.detach().clone()
            for name, tensor in self.state_dict().items()
            if name.startswith("head.")
            or any(stage.holds(name.removeprefix("backbone.model.")) for stage in above)
        }
