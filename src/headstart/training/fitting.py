"""Fits one phase: the loop's inputs, its log, its progress and its checkpoints."""

from __future__ import annotations

import time

import torch

from headstart.features.feeds import Feed, batch_bounds
from headstart.machine.profiling import section
from headstart.machine.runtime import named_seed
from headstart.models.classifier import Classifier, compiling_pays
from headstart.models.folding import folded_norms
from headstart.models.freezing import set_training
from headstart.plan.plan import PhasePlan, Plan
from headstart.rundir.history import Epoch, Outcome, Restart
from headstart.training.checkpoints import load_checkpoint, save_checkpoint
from headstart.training.heads import balancing_weights, set_head
from headstart.training.journal import Journal
from headstart.training.loop import FitInputs, FitState, consider, fit
from headstart.training.optimisation import create_optimizer
from headstart.training.phase_feeds import PhaseFeeds
from headstart.training.solver import Solution
from headstart.views.mixing import Mixer


def fit_phase(
    plan: Plan,
    feeds: PhaseFeeds,
    model: Classifier,
    state: FitState,
    journal: Journal,
    start: Solution | None,
) -> Outcome:
    """Fit one phase from `state` on.

    start: the head that training starts from, given to the model after what the phase before left
    has been judged.
    """
    phase = feeds.phase
    inputs = make_inputs(plan, phase, (feeds.train(), feeds.plain("val")))
    set_training(model.backbone, phase.freeze)
    optimizer = create_optimizer(model, phase)
    if state.begun:
        state = load_checkpoint(journal.checkpoint, model, optimizer)
    _warn_of_idle_cutmix(plan, phase, model, journal)
    if phase.number and not state.begun:
        consider(model, inputs, state)
        if start:
            set_head(model, start)
    steps = phase.epochs * len(batch_bounds(len(inputs.train.keys), inputs.batch_size))
    if compiling_pays(plan.runtime, steps):
        model.compile_trained(inputs.batch_size, journal.reporter.warn)
    with folded_norms(model.backbone, phase.freeze, plan.size):
        state = _fit(phase, model, inputs, state, optimizer, journal)
    return Outcome(
        phase=phase.number,
        improved=phase.number == 0 or state.best_epoch is not None,
        val_loss=state.best_val_loss,
        val_accuracy=state.best_val_accuracy,
        # Of the attempt that the log keeps, if it is that one's.
        best_epoch=state.best_epoch if state.best_attempt == state.restarts else None,
        l2=None,
        start_l2=None,
    )


def make_inputs(plan: Plan, phase: PhasePlan, feeds: tuple[Feed, Feed]) -> FitInputs:
    recipe, (train, val) = plan.recipe, feeds
    seed = named_seed(recipe.seed, "phase", phase.number)
    augment = recipe.data.augment
    return FitInputs(
        phase=phase,
        train=train,
        val=val,
        batch_size=recipe.batch_size,
        seed=seed,
        l2=recipe.head.l2 or 0.0,
        runtime=plan.runtime,
        select_by=recipe.select_by,
        balanced=recipe.balance != "none",
        mixer=Mixer(augment.mixup, augment.cutmix, named_seed(seed, "mix")),
        class_weights=balancing_weights(plan),
    )


def _fit(
    phase: PhasePlan,
    model: Classifier,
    inputs: FitInputs,
    state: FitState,
    optimizer: torch.optim.Optimizer,
    journal: Journal,
) -> FitState:
    """The loop, with its progress shown, and its epochs, restarts and checkpoints kept."""
    number, images, reporter = phase.number, len(inputs.train.keys), journal.reporter
    done = state.epoch * images + state.step * inputs.batch_size
    label = f"phase {number + 1}: {phase.spec.train}"
    with reporter.track(label, phase.epochs * images, "images") as advance:
        advance(done)
        taken = [float(done)]

        outcomes = journal.outcomes(number)
        many = inputs.train.labels.ndim == 2

        def on_step(images: int) -> None:
            taken[0] += images
            advance(images)

        def on_epoch(epoch: Epoch) -> None:
            journal.run.append_log(epoch)
            reporter.say(_epoch_line(epoch, phase.epochs, images, many))

        def on_checkpoint() -> None:
            with section("checkpoints"):
                save_checkpoint(journal.checkpoint, model, number, state, optimizer, outcomes)
                journal.run.update_manifest(spent_s=time.perf_counter() - journal.started)

        def on_restart(begun: FitState) -> None:
            rate = phase.lr * begun.lr_scale
            journal.run.append_log(Restart(number, rate, begun.seconds))
            advance(-round(taken[0]))
            begun.seconds, taken[0] = 0.0, 0.0
            journal.warn(
                f"phase {number + 1} got worse than its start, or its loss was no number: it "
                f"starts again with phases.{number}.lr = {rate:.2g}"
            )

        return fit(
            model,
            inputs,
            state,
            optimizer,
            on_step=on_step,
            on_epoch=on_epoch,
            on_checkpoint=on_checkpoint,
            on_restart=on_restart,
        )


def _epoch_line(done: Epoch, epochs: int, images: int, many: bool) -> str:
    if many:
        return (
            f"  epoch {done.epoch + 1:>3}/{epochs}  train loss {done.train_loss:.4f}  "
            f"val loss {done.val_loss:.4f} mAP {done.val_accuracy:.1%}  "
            f"{images / done.seconds:,.0f} images/s"
        )
    return (
        f"  epoch {done.epoch + 1:>3}/{epochs}  "
        f"train loss {done.train_loss:.4f} acc {done.train_accuracy:.1%}  "
        f"val loss {done.val_loss:.4f} acc {done.val_accuracy:.1%}  "
        f"{images / done.seconds:,.0f} images/s"
    )


def _warn_of_idle_cutmix(plan: Plan, phase: PhasePlan, model: Classifier, journal: Journal) -> None:
    if not plan.recipe.data.augment.cutmix:
        return
    if len(model.backbone.shapes(plan.size)[phase.freeze.boundary]) != 3:
        journal.warn(
            f"phase {phase.number + 1} begins at {phase.freeze.boundary_name}, where an image has "
            "no height and width: CutMix does nothing here; mixup would"
        )
