"""The model in training: the stages from some boundary on, and the head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from headstart.models.backbones import Backbone
from headstart.runtime import Runtime, full_float32

# Steps from which a phase is compiled on CUDA. Estimated, not measured: a forward and a backward
# pass of ResNet-50 take about a minute to compile, and a step that lasts some 50 ms becomes shorter
# by a fifth, which is won back after 6,000 of them.
COMPILE_STEPS = 6_000


class Classifier(nn.Module):
    """Backbone and head, entered at stage `start` (0 for pixels), frozen below `boundary`."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        # Nothing is trained before the first phase says where it enters.
        self.start = 0
        self.boundary = self.lowest = len(backbone.stages())
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._compiled_rows = 0

    def enter(self, start: int, boundary: int) -> None:
        """Take inputs at stage `start`; keep no gradients below stage `boundary`."""
        self.start, self.boundary, self._compiled = start, boundary, None
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
        compiled = self._compiled
        # One shape is compiled, that of all batches but an epoch's last, and not for evaluation.
        if compiled and len(x) == self._compiled_rows and torch.is_grad_enabled():
            x = compiled(x)
        else:
            x = self._trained(x)
        # The head is small and was solved or trained to more digits than bfloat16 or TF32 have.
        with torch.autocast(x.device.type, enabled=False), full_float32():
            logits: torch.Tensor = self.head(x.float())
        return logits

    def _trained(self, x: torch.Tensor) -> torch.Tensor:
        """From the boundary to the features (n, num_features)."""
        for stage in self.backbone.stages()[self.boundary :]:
            x = stage.forward(x)
        return x

    def compile_trained(self, rows: int, warn: Callable[[str], None]) -> None:
        """Compile the trained stages, until the next `enter`, for training on batches of `rows`.

        A function is compiled, not a module: parameters, names and checkpoints stay as they are.
        Compiling happens within the first step. Where it fails, `warn` is told why, once, and the
        phase goes on without it.
        """
        compiled = torch.compile(self._trained, dynamic=False)

        def attempt(x: torch.Tensor) -> torch.Tensor:
            try:
                features: torch.Tensor = compiled(x)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._compiled = None
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warn(f"torch.compile failed, going on without it: {reason}")
                return self._trained(x)
            return features

        self._compiled, self._compiled_rows = attempt, rows

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


def compiling_pays(runtime: Runtime, steps: int) -> bool:
    """Whether a phase of so many steps wins back the time that compiling it takes.

    On CUDA only: elsewhere nothing has been measured that would pay for a compiler.
    """
    return runtime.device.type == "cuda" and steps >= COMPILE_STEPS
