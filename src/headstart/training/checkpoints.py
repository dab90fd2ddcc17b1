"""Checkpoints: one safetensors file whose header says where training stands.

Tensors and state travel in one file, replaced atomically, so that a kill at any moment leaves
either the previous checkpoint or the next one, never half of both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headstart.errors import RunError
from headstart.rundir import atomic_path
from headstart.training.classifier import Classifier
from headstart.training.loop import FitState

FORMAT = 3


def save_checkpoint(
    path: Path,
    model: Classifier,
    phase: int,
    state: FitState,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Save training as it stands in `phase`, between two epochs or two steps.

    Without an optimizer, the phase has not begun and only the model counts.
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
    with atomic_path(path) as partial:
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, metadata={"headstart": json.dumps(header)})


def read_phase(path: Path) -> int:
    """The phase that the checkpoint stands in. Raises RunError on a damaged file."""
    return int(_read(path, tensors=False)[0]["phase"])


def load_checkpoint(
    path: Path, model: Classifier, optimizer: torch.optim.Optimizer | None = None
) -> FitState:
    """Put model and optimizer back to where the checkpoint stands; returns the phase's state."""
    header, tensors = _read(path)
    model.lowest = min(model.lowest, int(header["lowest"]))
    model.load_state_dict(_part(tensors, "model."), strict=False)
    values = _part(tensors, "optimizer.")
    if optimizer is not None and values:
        # Loading into the optimizer's own state keeps its groups and checks their sizes.
        own = optimizer.state_dict()
        own["state"] = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for name, tensor in values.items():
            index, _, key = name.partition(".")
            like = parameters[int(index)]
            if tensor.shape == like.shape:  # fused steps take it to lie in memory as its parameter
                tensor = torch.empty_like(like).copy_(tensor)
            own["state"].setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(own)
    parts = {name: _part(tensors, f"{name}.") for name in ("best", "average", "start")}
    lists = {name: tuple(header["state"][name]) for name in ("best_key", "values")}
    return FitState(**{**header["state"], **lists, **parts})


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["headstart"])
            names = file.keys() if tensors else ()
            found = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: not a checkpoint that can be read: {error}") from error
    if header["format"] != FORMAT:
        raise RunError(f"{path}: checkpoint format {header['format']}; this version reads {FORMAT}")
    return header, found
