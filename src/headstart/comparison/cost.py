"""What a model costs: parameters, operations, bytes, and milliseconds on this machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.data.transforms import Transform
from headstart.models.anatomy import examine
from headstart.models.backbones import build_architecture
from headstart.runtime import Runtime
from headstart.training.classifier import Classifier

WARM_UP, REPEATS = 5, 30


def model_cost(model: Classifier, size: int) -> dict[str, Any]:
    """Parameters, multiply-accumulates for one image at `size` pixels, and float32 megabytes."""
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for b in model.buffers())
    with torch.device("meta"):
        trunk = build_architecture(model.backbone.name, size=size)
    head = sum(m.weight.numel() for m in model.head.modules() if isinstance(m, nn.Linear))
    return {
        "parameters": parameters,
        "macs": examine(trunk, size).macs + head,
        "size_mb": (parameters + buffers) * 4 / 1e6,
    }


def latency(
    model: Classifier, transform: Transform, side: int, runtime: Runtime
) -> dict[str, float]:
    """Milliseconds from one image's stored pixels to its logits: median and 95th percentile.

    Batch 1, through torch, after a warm-up; resize and scaling are part of it, decoding is not.
    """
    model.eval()
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, side, side, 3), np.uint8))
    keys = np.zeros(1, np.uint64)
    milliseconds = []
    with torch.inference_mode(), runtime.autocast():
        for _ in range(WARM_UP + REPEATS):
            started = time.perf_counter()
            model(transform(runtime.place(pixels), keys)).float().cpu()
            milliseconds.append(1e3 * (time.perf_counter() - started))
    measured = milliseconds[WARM_UP:]
    return {
        "median": float(np.median(measured)),
        "p95": float(np.percentile(measured, 95)),
        "n": REPEATS,
    }
