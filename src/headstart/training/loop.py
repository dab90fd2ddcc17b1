"""The one loop. Head-only or full, cached or not, CPU or GPU: the same `fit`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from headstart.errors import RunError
from headstart.evaluation.calibration import log_loss
from headstart.evaluation.many_labels import predictions_of
from headstart.evaluation.metrics import selection_key
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.values import image_values, swap_p_value
from headstart.features.feeds import Batch, Feed, batch_bounds, batches, epoch_order
from headstart.machine.profiling import section
from headstart.machine.runtime import Runtime, named_seed, seeded
from headstart.models.classifier import Classifier
from headstart.models.freezing import set_training
from headstart.models.heads import l2_penalty
from headstart.plan.plan import PhasePlan
from headstart.rundir.history import Epoch
from headstart.specs import PhaseSpec
from headstart.training.optimisation import WeightAverage, learning_rate
from headstart.training.targets import MANY, ONE
from headstart.views.mixing import Mixer

CHECKPOINT_S = 60.0  # between checkpoints at most: what a kill can cost
CHECKPOINT_SHARE = 0.02  # of the time, what checkpoints after short epochs may take
# Attempts at lower rates, each at this share of the one before, and how sure it must be (p) that an
# attempt has lost what an earlier phase had learnt; a loss of so much is not waited for.
RESTARTS, RESTART_SHARE, LOST_P, COLLAPSE = 3, 1 / 3, 0.05, 0.3


@dataclass
class FitState:
    """Where a phase stands; what a checkpoint holds.

    epoch: epochs done. step, loss_sum, hits: of the epoch under way. lr_scale, stale: the plateau
    schedule's factor, and for how many epochs the validation loss has not fallen below
    lowest_val_loss. best: parameters and buffers of the best model so far by validation, of epoch
    best_epoch, or, where that is None, of the phase's start; best_key is its
    `metrics.selection_key`. average: the moving average of the weights, where the phase keeps one.
    start: what training began with, for another attempt at a lower rate. values: of each validation
    image by the model that an earlier phase left, as `values.image_values` has them. lost: whether
    every epoch of this attempt has been worse than that beyond chance. change: of the mean value in
    the last epoch. restarts: attempts before
    this one. best_attempt: how many came before that of best_epoch. seconds: of this one's epochs.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    hits: float = 0.0
    best_epoch: int | None = None
    best_key: tuple[float, float] = (-math.inf, -math.inf)
    best_val_accuracy: float = -math.inf
    best_val_loss: float = math.inf
    lowest_val_loss: float = math.inf
    stale: int = 0
    lr_scale: float = 1.0
    values: tuple[float, ...] = ()
    lost: bool = True
    change: float = 0.0
    restarts: int = 0
    best_attempt: int = 0
    seconds: float = 0.0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    start: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        return bool(self.epoch or self.step)


@dataclass(frozen=True)
class FitInputs:
    """What a phase needs besides the model: its plan, its feeds, and the recipe's settings."""

    phase: PhasePlan
    train: Feed
    val: Feed
    batch_size: int
    seed: int
    l2: float
    runtime: Runtime
    mixer: Mixer = field(default_factory=lambda: Mixer(0.0, 0.0, 0))
    class_weights: torch.Tensor | None = None  # float32 (classes,)
    select_by: str = "accuracy"  # what validation chooses by: metrics.selection_value
    balanced: bool = False  # whether the recipe balances its classes


class _Checkpoints:
    """When the next one is due: a minute after the last, or after an epoch where that is cheap."""

    def __init__(self, on_checkpoint: Callable[[], None]) -> None:
        self._on_checkpoint, self._last, self._took = on_checkpoint, time.monotonic(), 0.0

    def due(self, *, after_epoch: bool = False) -> bool:
        wait = min(CHECKPOINT_S, self._took / CHECKPOINT_SHARE) if after_epoch else CHECKPOINT_S
        return time.monotonic() - self._last >= wait

    def write(self) -> None:
        started = time.monotonic()
        self._on_checkpoint()
        self._last = time.monotonic()
        self._took = self._last - started


def fit(
    model: Classifier,
    inputs: FitInputs,
    state: FitState,
    optimizer: torch.optim.Optimizer,
    *,
    on_step: Callable[[int], None] = lambda images: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_checkpoint: Callable[[], None] = lambda: None,
    on_restart: Callable[[FitState], None] = lambda state: None,
) -> FitState:
    """Train one phase from `state` on, and leave the model at its best by validation.

    Best is by `inputs.select_by`, the lower loss on a tie. The model that `consider` was given is a
    candidate too. The rate is too high where the loss is no number, or where every epoch so far is
    worse than that candidate beyond chance and either half of them are over or COLLAPSE of the
    metric is lost. Training then starts again at a third of the rate, RESTARTS times at most.

    `on_epoch` takes each epoch. `on_checkpoint` is called every minute and after short
    epochs, when all can be saved; `on_restart` with the state that an attempt begins with. Raises
    RunError where the loss is no number at the last rate either, with no model validated before.
    """
    phase = inputs.phase
    average = _average(model, phase.spec, state)
    checkpoints = _Checkpoints(on_checkpoint)
    state.start = state.start or model.changed_state()
    while not _over(state, phase):
        if _too_fast(state, phase):
            _start_again(model, inputs, state, optimizer)
            average = _average(model, phase.spec, state)
            on_restart(state)
        started = time.perf_counter()
        set_training(model.backbone, phase.freeze)
        model.head.train()
        rate = _train_epoch(model, inputs, state, optimizer, average, on_step, checkpoints)
        if not math.isfinite(state.loss_sum):
            continue
        with average.applied() if average else contextlib.nullcontext():
            val_loss, val_accuracy = _validate(model, inputs, state, state.epoch)
        if not math.isfinite(val_loss):
            state.loss_sum = math.nan  # what was trained is no model
            continue
        done = Epoch(
            phase=phase.number,
            epoch=state.epoch,
            train_loss=state.loss_sum / len(inputs.train.keys),
            train_accuracy=state.hits / len(inputs.train.keys),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            lr=rate,
            seconds=time.perf_counter() - started,
        )
        _follow_plateau(state, phase.spec, val_loss)
        state.seconds += done.seconds
        state.epoch, state.step, state.loss_sum, state.hits = state.epoch + 1, 0, 0.0, 0.0
        on_epoch(done)
        if checkpoints.due(after_epoch=True):
            checkpoints.write()
    model.restore(state.best)
    return state


def _average(model: Classifier, phase: PhaseSpec, state: FitState) -> WeightAverage | None:
    """The moving average that the phase keeps, as the state has it, or begun from the weights."""
    average = WeightAverage(model, phase.ema, state.average) if phase.ema else None
    state.average = average.tensors if average else {}
    return average


def _train_epoch(
    model: Classifier,
    inputs: FitInputs,
    state: FitState,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    on_step: Callable[[int], None],
    checkpoints: _Checkpoints,
) -> float:
    """The steps of the epoch that are left; returns the last learning rate.

    Every step draws from a generator of its own, so that it does not matter where one resumes.
    """
    device, keys, spec = inputs.runtime.device, inputs.train.keys, inputs.phase.spec
    steps = len(batch_bounds(len(keys), inputs.batch_size))
    order = epoch_order(keys, inputs.seed, state.epoch)
    trained = [p for p in model.parameters() if p.requires_grad]
    targets = MANY if inputs.train.labels.ndim == 2 else ONE
    # Sums stay on the device: reading them in every step would make the host wait for it.
    loss_sum = torch.tensor(state.loss_sum, device=device)
    hits = torch.tensor(state.hits, device=device)
    rate = 0.0
    feed = batches(
        inputs.train,
        order,
        inputs.batch_size,
        state.epoch,
        inputs.runtime,
        first_step=state.step,
        successor=inputs.mixer.active,
    )
    with seeded(inputs.seed), contextlib.closing(feed):
        for batch in feed:
            number = state.epoch * steps + state.step
            torch.manual_seed(named_seed(inputs.seed, "fit", inputs.phase.number, number))
            progress = (number + 0.5) / (inputs.phase.epochs * steps)
            rate = state.lr_scale * learning_rate(inputs.phase, progress)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            logits, loss, penalised = _forward(model, inputs, batch, state.epoch)
            with section("backward"):
                optimizer.zero_grad(set_to_none=True)
                penalised.backward()  # type: ignore[no-untyped-call]
            with section("optimiser"):
                if spec.grad_clip:
                    nn.utils.clip_grad_norm_(trained, spec.grad_clip)
                optimizer.step()
                if average:
                    average.update(number)
            loss_sum += loss.detach() * len(logits)
            hits += targets.right(logits.detach(), batch.y[: len(logits)]).sum()
            state.step += 1
            on_step(len(logits))
            if checkpoints.due() and state.step < steps:
                state.loss_sum, state.hits = float(loss_sum), float(hits)
                checkpoints.write()
    state.loss_sum, state.hits = float(loss_sum), float(hits)
    return rate


def _forward(
    model: Classifier, inputs: FitInputs, batch: Batch, epoch: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a batch, their loss, and the loss with the head's penalty."""
    x, own = batch.x, None
    if model.start < model.boundary:
        with section("prefix"), inputs.runtime.autocast():
            x = model.below(x)
    with section("suffix forward"):
        with inputs.runtime.autocast():
            if inputs.mixer.active:
                x, own = inputs.mixer(x, batch.keys, epoch)
            logits = model.above(x)
        loss = cross_entropy_loss(inputs, logits, batch.y, own)
        penalised = loss + inputs.l2 / 2 * l2_penalty(model.head) if inputs.l2 else loss
    return logits, loss, penalised


def cross_entropy_loss(
    inputs: FitInputs, logits: torch.Tensor, y: torch.Tensor, own: torch.Tensor | None
) -> torch.Tensor:
    """Mean cross-entropy, smoothed, weighed by class, and shared with the partner's label; of
    several labels an image, which are neither smoothed nor mixed, the mean of their losses.

    own: each image's share of its mixture (n,); `y` then holds one label more than `logits`.
    """
    weights, smoothing = inputs.class_weights, inputs.phase.spec.label_smoothing
    if y.dim() == 2:
        return MANY.losses(logits, y).mean()
    if own is None:
        return F.cross_entropy(logits, y, weight=weights, label_smoothing=smoothing)
    shares = (own, y[:-1]), (1 - own, y[1:])
    total, norm = logits.new_zeros(()), logits.new_zeros(())
    for share, target in shares:
        each = F.cross_entropy(
            logits, target, weight=weights, label_smoothing=smoothing, reduction="none"
        )
        total = total + (share * each).sum()
        norm = norm + (share if weights is None else share * weights[target]).sum()
    return total / norm


def _over(state: FitState, phase: PhasePlan) -> bool:
    if not math.isfinite(state.loss_sum):
        return bool(state.best) and state.restarts == RESTARTS
    done = state.epoch >= phase.epochs or _out_of_patience(state, phase.spec)
    return done and not _too_fast(state, phase)


def _too_fast(state: FitState, phase: PhasePlan) -> bool:
    """Whether the attempt so far shows that the rate is too high, and a lower one may be tried."""
    if not math.isfinite(state.loss_sum):
        return True
    collapsed = state.epoch > 0 and state.change < -COLLAPSE
    late = state.epoch >= (phase.epochs + 1) // 2 or _out_of_patience(state, phase.spec)
    return (late or collapsed) and bool(state.values) and state.lost and state.restarts < RESTARTS


def _start_again(
    model: Classifier, inputs: FitInputs, state: FitState, optimizer: torch.optim.Optimizer
) -> None:
    """Back to the phase's start at a lower rate; the best model so far stays a candidate."""
    if state.restarts == RESTARTS:
        number = inputs.phase.number
        raise RunError(
            f"phase {number + 1} diverged in epoch {state.epoch + 1} (the loss is no number), "
            f"at {state.lr_scale:.2g} of its rate too: lower phases.{number}.lr, which is "
            f"{inputs.phase.lr}"
        )
    model.restore(state.start)
    optimizer.state.clear()
    state.average = {}
    state.epoch, state.step, state.loss_sum, state.hits = 0, 0, 0.0, 0.0
    state.lowest_val_loss, state.stale, state.lost, state.change = math.inf, 0, True, 0.0
    state.restarts += 1
    state.lr_scale = RESTART_SHARE**state.restarts


def consider(model: Classifier, inputs: FitInputs, state: FitState) -> None:
    """Make the model as it stands, which an earlier phase left, a candidate for the best one."""
    _validate(model, inputs, state, epoch=None)


def _validate(
    model: Classifier, inputs: FitInputs, state: FitState, epoch: int | None
) -> tuple[float, float]:
    """Loss and headline score of the model as it stands, which is kept if it is the best so far."""
    rows = np.arange(len(inputs.val.keys))
    predictions = predict(model, inputs.val, rows, inputs.runtime)
    loss, accuracy = log_loss(predictions), predictions.headline
    if not math.isfinite(loss):
        return loss, accuracy
    if epoch is None:
        state.values = tuple(_values(predictions, inputs).tolist())
    elif state.values and state.lost:
        change = _values(predictions, inputs) - np.array(state.values)
        state.change = float(change.mean())
        state.lost = state.change < 0 and swap_p_value(change) < LOST_P
    key = selection_key(predictions, inputs.select_by, balanced=inputs.balanced)
    if key > state.best_key:
        state.best_epoch, state.best_attempt = epoch, state.restarts
        state.best, state.best_key = model.changed_state(), key
        state.best_val_accuracy, state.best_val_loss = accuracy, loss
    return loss, accuracy


def _values(predictions: Predictions, inputs: FitInputs) -> np.ndarray:
    return image_values(predictions, inputs.select_by, balanced=inputs.balanced)


def _follow_plateau(state: FitState, phase: PhaseSpec, val_loss: float) -> None:
    """Lower the rate where the validation loss has not fallen for `plateau_patience` epochs."""
    if val_loss < state.lowest_val_loss:
        state.lowest_val_loss, state.stale = val_loss, 0
    else:
        state.stale += 1
    if phase.schedule == "plateau" and state.stale >= phase.plateau_patience:
        state.lr_scale, state.stale = state.lr_scale * phase.plateau_factor, 0


def _out_of_patience(state: FitState, phase: PhaseSpec) -> bool:
    if phase.patience is None:
        return False
    of_this = state.best_attempt == state.restarts
    best = state.best_epoch if of_this and state.best_epoch is not None else -1
    return state.epoch - 1 - best >= phase.patience


def predict_logits(model: nn.Module, feed: Feed, runtime: Runtime) -> np.ndarray:
    """float32 (n, classes), in row order, in eval mode."""
    model.eval()
    rows = np.arange(len(feed.keys))
    with (
        section("evaluation"),
        torch.inference_mode(),
        runtime.autocast(),
        contextlib.closing(batches(feed, rows, 256, None, runtime)) as taken,
    ):
        # Copied to the host at the end, in one: a copy awaits the batches before it.
        return torch.cat([model(batch.x).float() for batch in taken]).cpu().numpy()


def predict(model: nn.Module, feed: Feed, ids: np.ndarray, runtime: Runtime) -> Predictions:
    """What the model says of every image of a split."""
    return predictions_of(ids, feed.labels, predict_logits(model, feed, runtime))
