"""Carries out the phases of a plan, one after the other.

A phase gets its rows from the boundary cache or from pixels. Its head is solved, or its stages are
fitted. A freeze audit ends it. The result is the model of all phases that is best on validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from headstart.data import ImageSet
from headstart.errors import RunError
from headstart.evaluation.predictions import Predictions
from headstart.machine.profiling import section
from headstart.machine.progress import Reporter
from headstart.models.classifier import Classifier
from headstart.models.freezing import FreezeAudit
from headstart.plan.plan import Plan
from headstart.rundir.history import PhaseBegun, PhaseDone
from headstart.rundir.records import Split
from headstart.rundir.run import Run
from headstart.training.checkpoints import load_checkpoint, read_progress, save_checkpoint
from headstart.training.fitting import fit_phase
from headstart.training.heads import fit_to_all, solve_phase, starting_head
from headstart.training.journal import Journal
from headstart.training.loop import FitState, predict
from headstart.training.phase_feeds import PhaseFeeds
from headstart.training.solver import Solution


@dataclass
class Trained:
    """A trained model and its feeds. held_out: only where a solved head was fitted to validation
    too; predictions by heads that were not: of train and validation by folds, or of validation by
    the head fitted to train alone."""

    plan: Plan
    model: Classifier
    feeds: Callable[[int], PhaseFeeds]  # sets the model up for a phase
    held_out: Predictions | None = None

    def predict(self, split: Split) -> Predictions:
        """Predictions on a whole split. "val" gives `held_out` where there is one."""
        if split == "val" and self.held_out is not None:
            return self.held_out
        images: ImageSet = getattr(self.plan.splits, split)
        feed = self.feeds(-1).plain(split)
        return predict(self.model, feed, images.ids, self.plan.runtime)

    def predict_once(self, images: ImageSet, label: str) -> Predictions:
        """Predictions on images that are needed only once: the cache does not keep them."""
        feed = self.feeds(-1).once(images, label)
        return predict(self.model, feed, images.ids, self.plan.runtime)


@dataclass
class Entrance:
    """Sets a model up for a phase. Keeps the feeds, because a prefix takes seconds to compile."""

    plan: Plan
    model: Classifier
    run: Run
    reporter: Reporter
    _feeds: PhaseFeeds | None = None

    def __call__(self, number: int) -> PhaseFeeds:
        """The feeds of a phase, -1 for the last, whose rows the model then takes."""
        phase = self.plan.phases[number]
        self.plan.runtime.adopt(self.model)
        # A phase that was resumed after its last epoch is still in training mode: a moving norm
        # would learn from the next prediction or frozen pass.
        self.model.eval()
        if self._feeds is None or self._feeds.phase is not phase:
            backbone = self.model.backbone
            self._feeds = PhaseFeeds(self.plan, phase, backbone, self.run, self.reporter)
        self.model.enter(self._feeds.start, phase.freeze.boundary)
        return self._feeds


def train(
    plan: Plan,
    model: Classifier,
    journal: Journal,
    *,
    on_phase: Callable[[int, Trained], None] = lambda number, trained: None,
) -> Trained:
    """Carry out every phase that is not done yet, from the last checkpoint if there is one.

    `on_phase` is called after each phase with its number and the model as it stands.
    """
    trainer = _Trainer(plan, model, journal, Entrance(plan, model, journal.run, journal.reporter))
    first, state, phases = 0, FitState(), len(plan.phases)
    if journal.checkpoint.exists():
        first, outcomes = read_progress(journal.checkpoint)
        # Without the optimizer, which its phase loads. The model is needed now: it decides what is
        # cached.
        state = load_checkpoint(journal.checkpoint, model)
        if outcomes not in (None, journal.outcomes(first)):
            raise RunError(
                f"{journal.run.path / 'log.jsonl'}: damaged: its phases are not those that the "
                "checkpoint goes on from: remove this run and run its recipe again"
            )
        where = f"in phase {first + 1} of {phases}" if first < phases else "after the last phase"
        journal.reporter.say(f"resuming {where}")
    trained = Trained(plan, model, trainer.enter)
    for number in range(first, phases):
        trainer.carry_out(number, state if number == first else FitState())
        on_phase(number, trained)
        done = journal.outcomes(number + 1)
        save_checkpoint(journal.checkpoint, model, number + 1, FitState(), outcomes=done)
    trained.held_out = trainer.hand_over()
    return trained


@dataclass
class _Trainer:
    plan: Plan
    model: Classifier
    journal: Journal
    enter: Entrance
    logits: dict[int, torch.Tensor | None] = field(default_factory=dict)  # by folds, by phase

    def carry_out(self, number: int, state: FitState) -> None:
        """Carry out one phase from `state` on."""
        phase, journal = self.plan.phases[number], self.journal
        started = time.perf_counter()
        start = None if state.begun else self._starting_head(number)
        feeds = self.enter(number)
        if not state.begun:
            self._log_begin(feeds)
        with section("audit"):
            audit = FreezeAudit(self.model.backbone, phase.freeze)
        feeds.train(), feeds.plain("val")
        extracted = time.perf_counter() - started
        if phase.solved:
            done, self.logits[number] = solve_phase(self.plan, feeds, self.model, journal)
        else:
            done = fit_phase(self.plan, feeds, self.model, state, journal, start)
        with section("audit"):
            audit.verify()
        seconds = time.perf_counter() - started - extracted
        journal.run.append_log(PhaseDone(**asdict(done), seconds=seconds))
        journal.reporter.say(
            f"phase {number + 1} ({phase.spec.train}, {phase.spec.optimizer}): validation "
            f"{self.plan.recipe.headline} {done.val_accuracy:.1%} in {seconds:.1f} s"
        )
        if not done.improved:
            journal.warn(
                f"phase {number + 1} did not improve validation, also not at lower rates if they "
                "were tried: the model is still that of the phase before; leave the phase out, or "
                f"lower phases.{number}.lr"
            )

    def hand_over(self) -> Predictions | None:
        """Fit the solved head to validation too, if no later phase was better. Returns held-out
        predictions, or None."""
        kept = self._kept_phase(len(self.plan.phases))
        if kept is None or kept.l2 is None:
            return None
        feeds, logits = self.enter(kept.phase), self.logits.get(kept.phase)
        return fit_to_all(self.plan, feeds, self.model, kept.l2, logits, self.journal)

    def _log_begin(self, feeds: PhaseFeeds) -> None:
        phase = feeds.phase
        self.journal.run.append_log(
            PhaseBegun(
                phase=phase.number,
                train=phase.spec.train,
                optimizer=phase.spec.optimizer,
                boundary=phase.freeze.boundary_name,
                cached=feeds.start > 0,
                epochs=phase.spec.epochs,
                trainable_parameters=phase.trainable + phase.head,
            )
        )

    def _starting_head(self, number: int) -> Solution | None:
        """A flatter head to train from, if the head of the model was solved; else None."""
        before = self._kept_phase(number)
        if before is None or self.plan.phases[number].solved:
            return None
        if before.l2 is None or before.start_l2 is None or before.start_l2 == before.l2:
            return None
        feeds = self.enter(before.phase)
        return starting_head(self.plan, feeds, before.start_l2, number, self.journal)

    def _kept_phase(self, below: int) -> PhaseDone | None:
        """The last phase before `below` whose model was kept; None if there is none."""
        done = self.journal.run.history.done
        kept = [n for n, event in done.items() if n < below and event.improved]
        return done[max(kept)] if kept else None
