"""The one loop. Head-only or full, cached or not, CPU or GPU: the same `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from headstart.errors import RunError
from headstart.evaluation.predictions import Predictions
from headstart.models.freezing import FreezePlan, set_training
from headstart.models.heads import l2_penalty
from headstart.recipe import PhaseSpec
from headstart.runtime import Runtime, seeded
from headstart.training.classifier import Classifier
from headstart.training.feeds import Feed, batch_bounds, batches, epoch_order


@dataclass
class FitState:
    """Where a phase stands; what a checkpoint holds.

    epoch: epochs done. best: parameters and buffers of the best epoch so far by validation.
    """

    epoch: int = 0
    best_epoch: int | None = None
    best_val_accuracy: float = -math.inf
    best_val_loss: float = math.inf
    best: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a phase needs besides the model: one object, so that `fit` has few parameters."""

    phase: PhaseSpec
    number: int  # of the phase in its recipe, from 0
    plan: FreezePlan
    train: Feed
    val: Feed
    batch_size: int
    seed: int
    l2: float
    runtime: Runtime


def create_optimizer(model: Classifier, phase: PhaseSpec) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); vectors (biases, norms) are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": phase.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=phase.lr or 1e-3)


def learning_rate(phase: PhaseSpec, progress: float) -> float:
    """The rate at `progress` in [0, 1) of the phase: linear warm-up, then cosine or constant."""
    peak = phase.lr or 1e-3
    if progress < phase.warmup:
        return peak * progress / phase.warmup
    if phase.schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - phase.warmup) / (1 - phase.warmup)))


def fit(
    model: Classifier,
    job: Job,
    state: FitState,
    optimizer: torch.optim.Optimizer,
    *,
    on_step: Callable[[int], None] = lambda images: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
) -> FitState:
    """Train one phase from `state` on, and leave the model at its best epoch by validation.

    Best is the highest accuracy, the lower loss on a tie. `on_epoch` is called after each epoch
    with its record, when model, optimizer and state are fit to be checkpointed. Raises RunError
    where the loss stops being a number.
    """
    phase, epochs = job.phase, job.phase.epochs or 1
    steps = len(batch_bounds(len(job.train.keys), job.batch_size))
    while state.epoch < epochs and not _out_of_patience(state, phase):
        epoch, started = state.epoch, time.perf_counter()
        set_training(model.backbone, job.plan)
        model.head.train()
        order = epoch_order(job.train.keys, job.seed, epoch)
        # Sums stay on the device: reading them in every step would make the host wait for it.
        loss_sum = torch.zeros((), device=job.runtime.device)
        hits = torch.zeros((), device=job.runtime.device)
        rate = 0.0
        with seeded(job.seed, "fit", job.number, epoch):
            feed = batches(job.train, order, job.batch_size, epoch, job.runtime)
            for step, (x, y) in enumerate(feed):
                rate = learning_rate(phase, (epoch * steps + step + 0.5) / (epochs * steps))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with job.runtime.autocast():
                    logits = model(x).float()
                loss = F.cross_entropy(logits, y)
                penalised = loss + job.l2 / 2 * l2_penalty(model.head) if job.l2 else loss
                optimizer.zero_grad(set_to_none=True)
                penalised.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                loss_sum += loss.detach() * len(y)
                hits += (logits.argmax(dim=1) == y).sum()
                on_step(len(y))
        if not math.isfinite(float(loss_sum)):
            raise RunError(
                f"phase {job.number + 1} diverged in epoch {epoch + 1} (the loss is no number): "
                f"lower phases.{job.number}.lr, which is {phase.lr}"
            )
        val_loss, val_accuracy = evaluate(model, job.val, job.runtime)
        state.epoch = epoch + 1
        if (val_accuracy, -val_loss) > (state.best_val_accuracy, -state.best_val_loss):
            state.best_epoch, state.best = epoch, model.changed_state()
            state.best_val_accuracy, state.best_val_loss = val_accuracy, val_loss
        on_epoch(
            {
                "phase": job.number,
                "epoch": epoch,
                "train_loss": float(loss_sum) / len(order),
                "train_accuracy": float(hits) / len(order),
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "lr": rate,
                "seconds": time.perf_counter() - started,
            }
        )
    model.load_state_dict(state.best, strict=False)
    return state


def _out_of_patience(state: FitState, phase: PhaseSpec) -> bool:
    if phase.patience is None or state.best_epoch is None:
        return False
    return state.epoch - 1 - state.best_epoch >= phase.patience


def predict_logits(model: nn.Module, feed: Feed, runtime: Runtime) -> np.ndarray:
    """float32 (n, classes), in row order, in eval mode."""
    model.eval()
    rows = np.arange(len(feed.keys))
    with torch.inference_mode(), runtime.autocast():
        parts = [model(x).float().cpu() for x, _ in batches(feed, rows, 256, None, runtime)]
    return torch.cat(parts).numpy()


def evaluate(model: nn.Module, feed: Feed, runtime: Runtime) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on a split."""
    logits = torch.from_numpy(predict_logits(model, feed, runtime))
    labels = torch.tensor(feed.labels)
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return float(F.cross_entropy(logits, labels)), float(accuracy)


def predict(model: nn.Module, feed: Feed, ids: np.ndarray, runtime: Runtime) -> Predictions:
    """What the model says of every image of a split."""
    return Predictions(ids, feed.labels, predict_logits(model, feed, runtime))
