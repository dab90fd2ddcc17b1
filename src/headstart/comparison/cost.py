"""What a model costs: parameters, operations, bytes; and, served, milliseconds and memory here."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.comparison.timing import batch_for, milliseconds, side_of
from headstart.deployment.predictor import Predictor, load_predictor
from headstart.models.anatomy import examine
from headstart.models.backbones import build_architecture
from headstart.rundir import Run
from headstart.runtime import create_runtime, machine, peak_memory_mb, reset_peak_memory
from headstart.training.classifier import Classifier

WARM_UP = 3  # calls before those that are timed
CALLS, CUDA_CALLS = 3, 50  # with single images; a tenth as many with a batch


def model_cost(model: Classifier, size: int) -> dict[str, Any]:
    """Parameters, multiply-accumulates for one image at `size` pixels, and float32 megabytes."""
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for b in model.buffers())
    head = sum(m.weight.numel() for m in model.head.modules() if isinstance(m, nn.Linear))
    return {
        "parameters": parameters,
        "macs": backbone_macs(model.backbone.name, size) + head,
        "size_mb": (parameters + buffers) * 4 / 1e6,
    }


def backbone_macs(name: str, size: int) -> int:
    """Multiply-accumulates of one image of `size` pixels a side, counted without weights."""
    with torch.device("meta"):
        trunk = build_architecture(name, size=size)
    return examine(trunk, size).macs


def serving_cost(run: Run, device: str = "auto") -> dict[str, Any]:
    """What a finished run costs its user, by the predictor that is handed over.

    serving_rss_mb: the largest resident set while it is loaded and answers. latency_ms, throughput:
    on the CPU, from stored pixels to probabilities; decoding is not part of it. They are a first
    look; `timing.time_in_turns` measures what can be compared. On CUDA, `cuda` holds the same two
    as measured there, and megabytes of the device. For a process that has nothing else to do.
    """
    gc.collect()
    reset_peak_memory()
    side = side_of(run)
    speed = _speed(load_predictor(run, device="cpu"), side)
    measured = {
        **speed,
        "serving_rss_mb": peak_memory_mb(),
        "measured": {
            "process": "its own, after the runs",
            "warm_up": WARM_UP,
            "precision": run.recipe.precision,
            "threads": torch.get_num_threads(),
            "cpu": machine()["cpu"],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    chosen = create_runtime(device).device
    if chosen.type == "cuda":
        torch.cuda.reset_peak_memory_stats(chosen)
        on_device = _speed(load_predictor(run, device=device), side, CUDA_CALLS)
        peak = torch.cuda.max_memory_allocated(chosen) / 1e6
        measured["cuda"] = {**on_device, "name": machine()["gpu"], "memory_mb": peak}
    return measured


def _speed(predictor: Predictor, side: int, calls: int = CALLS) -> dict[str, Any]:
    """Latency of one image, and images/s of a batch, from a few calls."""
    one = [milliseconds(predictor, side, 1) for _ in range(WARM_UP + calls)][WARM_UP:]
    batch = batch_for(float(np.median(one)))
    many = [milliseconds(predictor, side, batch) for _ in range(1 + calls // 10)]
    many = many[1:] or many
    return {
        "latency_ms": {
            "median": float(np.median(one)),
            "p95": float(np.percentile(one, 95)),
            "n": len(one),
        },
        "throughput": {
            "images_per_s": 1e3 * batch / float(np.median(many)),
            "batch": batch,
            "n": len(many),
        },
    }
