"""The model in training: the stages from some boundary on, and the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from headstart.errors import RunError
from headstart.machine.runtime import Runtime, full_float32
from headstart.models.backbones import Backbone
from headstart.models.stages import run_stages
from headstart.models.tensor_files import read_tensors

# A phase of at least so many steps is compiled on CUDA. This is an estimate, not a measurement: the
# forward and backward pass of ResNet-50 take about a minute to compile, and a step of 50 ms becomes
# a fifth shorter, so 6,000 steps save the minute.
COMPILE_STEPS = 6_000


class Classifier(nn.Module):
    """Backbone and head. Inputs enter at stage `start` (0 for pixels); stages below `boundary` are
    frozen. `lowest` is the lowest boundary so far: only stages from there on may have changed."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        # Before the first phase nothing is trained.
        self.start = 0
        self.boundary = self.lowest = len(backbone.stages())
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._compiled_rows = 0

    def enter(self, start: int, boundary: int) -> None:
        """From now on inputs enter at stage `start`, without gradients below stage `boundary`."""
        self.start, self.boundary, self._compiled = start, boundary, None
        self.lowest = min(self.lowest, boundary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.above(self.below(x))

    def below(self, x: torch.Tensor) -> torch.Tensor:
        """From the input to the boundary, through the frozen stages; none if they are cached."""
        if self.start < self.boundary:
            with torch.no_grad():
                x = run_stages(self.backbone.stages()[self.start : self.boundary], x)
        return x

    def above(self, x: torch.Tensor) -> torch.Tensor:
        """From the boundary to logits (n, classes)."""
        compiled = self._compiled
        # Only one shape is compiled, that of full training batches.
        if compiled and len(x) == self._compiled_rows and torch.is_grad_enabled():
            x = compiled(x)
        else:
            x = self._trained(x)
        # The head is small, and was solved or trained to more digits than bfloat16 or TF32 have.
        with torch.autocast(x.device.type, enabled=False), full_float32():
            logits: torch.Tensor = self.head(x.float())
        return logits

    def _trained(self, x: torch.Tensor) -> torch.Tensor:
        """From the boundary to the features (n, num_features)."""
        return run_stages(self.backbone.stages()[self.boundary :], x)

    def compile_trained(self, rows: int, warn: Callable[[str], None]) -> None:
        """Compile the trained stages, until the next `enter`, for training on batches of `rows`.

        A function is compiled, not a module, so parameters, names and checkpoints do not change. It
        is compiled in the first step. If that fails, `warn` is called once with the reason, and the
        phase continues without compilation.
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
        """All tensors that training may have changed, by name: those above the lowest boundary."""
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

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put a `changed_state` back. Raises RunError where it is not one of this model."""
        if (problem := first_difference(self.changing_tensors(), state)) is not None:
            raise RunError(f"weights do not fit the model: {problem}")
        self.load_state_dict(state, strict=False)  # names were compared above


def first_difference(
    own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> str | None:
    """The first difference in name, shape or dtype between given tensors and a model's; or None."""
    for name, tensor in given.items():
        if name not in own:
            return f"the model has no {name}"
        for what in ("shape", "dtype"):
            theirs, ours = (_plain(getattr(t, what)) for t in (tensor, own[name]))
            if theirs != ours:
                return f"{name} has {what} {theirs}, the model's has {ours}"
    missing = [name for name in own if name not in given]
    return f"{missing[0]} is missing" if missing else None


def _plain(value: torch.Size | torch.dtype) -> str:
    return str(tuple(value) if isinstance(value, torch.Size) else value)


def load_model(path: Path, model: Classifier) -> None:
    """Load the parameters and buffers of a run's file into a model.

    Raises RunError where the file is damaged, or its names or shapes differ from the model's.
    """
    try:
        _, state = read_tensors(path)
    except OSError as error:
        raise RunError(f"{path}: the run's model cannot be read: {error.strerror}") from error
    if (problem := first_difference(model.state_dict(), state)) is not None:
        raise RunError(f"{path}: not the model of this run's recipe: {problem}")
    model.load_state_dict(state)


def compiling_pays(runtime: Runtime, steps: int) -> bool:
    """Whether a phase of so many steps saves more time than compiling takes. On CUDA only: no gain
    was measured elsewhere."""
    return runtime.device.type == "cuda" and steps >= COMPILE_STEPS
