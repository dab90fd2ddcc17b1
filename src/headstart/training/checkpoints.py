"""Checkpoints: one safetensors file; its header holds the state of training.

Tensors and state are in one file that is replaced atomically. So a kill at any moment leaves either
the previous checkpoint or the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from headstart.errors import RunError
from headstart.models.classifier import Classifier, first_difference
from headstart.models.tensor_files import read_header, read_tensors, write_tensors
from headstart.training.loop import FitState

FORMAT = 4
Outcomes: TypeAlias = "Sequence[Sequence[int | float | None]]"


def save_checkpoint(
    path: Path,
    model: Classifier,
    phase: int,
    state: FitState,
    optimizer: torch.optim.Optimizer | None = None,
    outcomes: Outcomes = (),
) -> None:
    """Save the state of training in `phase`, between two epochs or two steps.

    outcomes: of the phases before, as `Journal.outcomes` gives them.
    Without an optimizer the phase has not begun, and only the model matters.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.changed_state().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    tensors |= {f"start.{name}": tensor for name, tensor in state.start.items()}
    if optimizer is not None:
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    scalars = asdict(replace(state, best={}, average={}, start={}))
    header = {"format": FORMAT, "phase": phase, "lowest": model.lowest, "state": scalars}
    header["outcomes"] = outcomes
    write_tensors(path, tensors, header)


def read_progress(path: Path) -> tuple[int, Outcomes | None]:
    """The phase of the checkpoint, and the outcomes of those before; None of an earlier version's.

    Raises RunError on a damaged header. Damage to the values is left to `load_checkpoint`.
    """
    header = _of_our_format(path, read_header(path))
    phase, outcomes = header.get("phase"), header.get("outcomes")
    if not isinstance(phase, int):
        raise RunError(f"{path}: damaged: its content is not what was written")
    return phase, outcomes


def load_checkpoint(
    path: Path, model: Classifier, optimizer: torch.optim.Optimizer | None = None
) -> FitState:
    """Restore model and optimizer from the checkpoint; returns the state of the phase.

    Raises RunError where names or shapes of the tensors do not fit the model.
    """
    header, tensors = read_tensors(path)
    _of_our_format(path, header)
    model.lowest = min(model.lowest, int(header["lowest"]))
    own = model.changing_tensors()
    floating = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    parts = {name: _part(tensors, f"{name}.") for name in ("model", "best", "average", "start")}
    for name, part in parts.items():
        wanted = floating if name == "average" else own
        # Before its first epoch a phase has no best model; few phases keep an average.
        problem = first_difference(wanted, part) if part or name == "model" else None
        if problem:
            raise RunError(f"{path}: {name}: {problem}")
    model.restore(parts.pop("model"))
    values = _part(tensors, "optimizer.")
    if optimizer is not None and values:
        _restore_optimizer(path, optimizer, values)
    lists = {name: tuple(header["state"][name]) for name in ("best_key", "values")}
    return FitState(**{**header["state"], **lists, **parts})


def _restore_optimizer(
    path: Path, optimizer: torch.optim.Optimizer, values: dict[str, torch.Tensor]
) -> None:
    """Load tensors into the optimizer's state by number and name. Its groups stay."""
    own = optimizer.state_dict()
    own["state"] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in values.items():
        index, _, key = name.partition(".")
        if int(index) >= len(parameters):
            raise RunError(f"{path}: optimizer: {name} has no parameter in the model")
        like = parameters[int(index)]
        if tensor.shape == like.shape:  # fused steps need the parameter's memory format
            tensor = torch.empty_like(like).copy_(tensor)
        elif tensor.dim():  # the number of steps is a scalar
            shapes = f"{tuple(tensor.shape)}, its parameter's is {tuple(like.shape)}"
            raise RunError(f"{path}: optimizer: {name} has shape {shapes}")
        own["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(own)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _of_our_format(path: Path, header: dict[str, Any] | None) -> dict[str, Any]:
    if header is None:
        raise RunError(f"{path}: not a checkpoint that can be read")
    if (found := header.get("format")) != FORMAT:
        raise RunError(f"{path}: checkpoint format {found}; this version reads {FORMAT}")
    return header
