"""What a model costs: parameters, operations, bytes; and, served, milliseconds and memory here."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.deployment.predictor import BATCH, Predictor, load_predictor
from headstart.evaluation.predictions import Predictions
from headstart.models.anatomy import examine
from headstart.models.backbones import build_architecture
from headstart.rundir import Run
from headstart.runtime import create_runtime, machine, peak_memory_mb, reset_peak_memory
from headstart.training.classifier import Classifier

# Calls until about that many seconds are spent, within these bounds: what is measured of a run
# takes a second, and a slow model still has a 95th percentile.
MEASURED_S, WARM_UP, FEWEST, MOST = 0.4, 3, 10, 100
WARM_UP_S = 2.5  # of the process, before its first run
SMALLEST_BATCH = 4


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


def warm_up(run: Run) -> None:
    """Answer for a while: the first two seconds of a process were seen to take half as long again
    an image, and the first run measured in it would be charged with them."""
    predictor, side = load_predictor(run, device="cpu"), int(run.manifest["preprocess"]["side"])
    until = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < until:
        _milliseconds(predictor, side, 1)


def serving_cost(run: Run, device: str = "auto") -> dict[str, Any]:
    """What a finished run costs its user, by the predictor that is handed over.

    latency_ms, throughput: on the CPU, from stored pixels to probabilities; decoding is not part
    of it. serving_rss_mb: the largest resident set while it is loaded and answers. On CUDA, `cuda`
    holds the same two as measured there, and megabytes of the device. For a process that has
    nothing else to do.
    """
    gc.collect()
    reset_peak_memory()
    side = int(run.manifest["preprocess"]["side"])
    speed = _speed(load_predictor(run, device="cpu"), side)
    measured = {
        **speed,
        "serving_rss_mb": peak_memory_mb(),
        "measured": {
            "process": "its own, after the runs",
            "warm_up": WARM_UP,
            "threads": torch.get_num_threads(),
            "cpu": machine()["cpu"],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    chosen = create_runtime(device).device
    if chosen.type == "cuda":
        torch.cuda.reset_peak_memory_stats(chosen)
        on_device = _speed(load_predictor(run, device=device), side)
        peak = torch.cuda.max_memory_allocated(chosen) / 1e6
        measured["cuda"] = {**on_device, "name": machine()["gpu"], "memory_mb": peak}
    return measured


def _speed(predictor: Predictor, side: int) -> dict[str, Any]:
    """Latency of one image, and images/s of a batch that takes no more than MEASURED_S."""
    one = _milliseconds(predictor, side, 1)
    median = float(np.median(one))
    batch = BATCH
    while batch > SMALLEST_BATCH and batch * median > 1e3 * MEASURED_S:
        batch //= 2
    many = _milliseconds(predictor, side, batch, fewest=2, warm_up=1)
    return {
        "latency_ms": {"median": median, "p95": float(np.percentile(one, 95)), "n": len(one)},
        "throughput": {
            "images_per_s": 1e3 * batch / float(np.median(many)),
            "batch": batch,
            "n": len(many),
        },
    }


def _milliseconds(
    predictor: Predictor, side: int, batch: int, *, fewest: int = FEWEST, warm_up: int = WARM_UP
) -> list[float]:
    """Of each call with `batch` random images, once warm; float32 logits are back by its end."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    ids, labels = np.arange(batch).astype(str), np.zeros(batch, np.int64)
    taken: list[float] = []
    while len(taken) < warm_up + MOST:
        started = time.perf_counter()
        _ = Predictions(ids, labels, predictor.logits(pixels)).probabilities
        taken.append(1e3 * (time.perf_counter() - started))
        measured = taken[warm_up:]
        if len(measured) >= fewest and sum(measured) > 1e3 * MEASURED_S:
            break
    return taken[warm_up:]
