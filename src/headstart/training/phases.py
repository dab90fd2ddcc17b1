"""Phases: the recipe's list of what may change, carried out one after the other.

Each phase is planned (what trains, where the boundary lies), fed (from the boundary cache, or
from pixels where every epoch draws its own views), and either solved or fitted. A freeze audit
closes it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from headstart.data import ImageSet, Splits
from headstart.data.transforms import Transform
from headstart.evaluation.calibration import log_loss
from headstart.evaluation.metrics import selection_key
from headstart.evaluation.predictions import Predictions
from headstart.models.folding import folded_norms
from headstart.models.freezing import FreezeAudit, FreezePlan, plan_phase, set_training
from headstart.profiling import section
from headstart.progress import Reporter
from headstart.recipe import Recipe
from headstart.rundir import Run, Split
from headstart.runtime import Runtime, named_seed
from headstart.training.cache import footprint
from headstart.training.checkpoints import load_checkpoint, read_phase, save_checkpoint
from headstart.training.classifier import Classifier, compiling_pays
from headstart.training.efficiency import Whole, label_efficiency
from headstart.training.feeds import CachedFeed, Feed, batch_bounds
from headstart.training.folds import FOLDS, PenaltyScore
from headstart.training.loop import FitState, Job, consider, fit, predict
from headstart.training.mixing import Mixer
from headstart.training.optimisation import class_weights, create_optimizer
from headstart.training.phase_feeds import PhaseFeeds
from headstart.training.solver import L2_PATH, MAX_PASSES, Solution
from headstart.training.solving import HeadProblem, starting_penalty

_OF_A_PENALTY = [f.name for f in fields(PenaltyScore) if f.name != "criterion"]


class _Linear(NamedTuple):
    """weight: float32 (k, d), bias: float32 (k,)."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass
class Training:
    """One run's training: what is trained, on what, where its records go."""

    run: Run
    recipe: Recipe
    splits: Splits
    model: Classifier
    transform: Transform
    runtime: Runtime
    reporter: Reporter
    started: float  # time.perf_counter() less the seconds that earlier parts of the run took
    _feeds: PhaseFeeds | None = None
    _held_out: Predictions | None = None  # of images that the head has since been fitted to
    _logits: dict[int, torch.Tensor | None] = field(default_factory=dict)  # by folds, by phase

    @property
    def checkpoint(self) -> Path:
        return self.run.path / "checkpoints" / "last.safetensors"

    def train(self) -> None:
        """Carry out every phase that is not done yet, from the last checkpoint if there is one."""
        first, state = 0, FitState()
        phases = len(self.recipe.phases)
        if self.checkpoint.exists():
            first = read_phase(self.checkpoint)
            # Without the optimizer, which comes with its phase: what the model holds now decides
            # what is cached.
            state = load_checkpoint(self.checkpoint, self.model)
            where = (
                f"in phase {first + 1} of {phases}" if first < phases else "after the last phase"
            )
            self.reporter.say(f"resuming {where}")
        for number in range(first, phases):
            self._phase(number, state if number == first else FitState())
            save_checkpoint(self.checkpoint, self.model, number + 1, FitState())
        self._hand_over()

    def close(self) -> None:
        """Let go of compiled networks, maps and rows on the device: feeds know their training, and
        would wait with it for the collector of cycles."""
        self._feeds = None

    def predict(self, split: Split) -> Predictions:
        """Predictions on a whole split by the model as it stands, through the last boundary.

        Of a solved head that was fitted to validation too, those on "val" are from heads that were
        not: of train and validation by folds, or of validation by the head fitted to train alone.
        """
        if split == "val" and self._held_out is not None:
            return self._held_out
        images: ImageSet = getattr(self.splits, split)
        _, feeds = self._enter(len(self.recipe.phases) - 1)
        return predict(self.model, feeds.plain(split, images), images.ids, self.runtime)

    def label_efficiency(self) -> dict[str, Any] | None:
        """The curve of few labels on the features of the first phase, or None where it has none.

        On test where the head is the only phase, which opens it. Otherwise test never meets those
        features, and the curve is the one on validation that the log has since.
        """
        if len(self.recipe.phases) == 1:
            return self._label_efficiency("test")
        noted = [e for e in self.run.log if e["event"] == "label_efficiency"]
        return {k: v for k, v in noted[-1].items() if k != "event"} if noted else None

    def _label_efficiency(self, split: Split) -> dict[str, Any] | None:
        """On the features of the first phase, while the model stands as it left it."""
        if self.recipe.phases[0].train != "head" or not self.recipe.evaluation.label_efficiency:
            return None
        images: ImageSet = getattr(self.splits, split)
        _, feeds = self._enter(0)
        train, judged = feeds.train(), feeds.plain(split, images)
        if not (isinstance(train, CachedFeed) and isinstance(judged, CachedFeed)):
            return None
        whole = None
        if self.recipe.phases[0].optimizer == "lbfgs":
            told = predict(self.model, judged, images.ids, self.runtime)
            problem = self._head_problem(train, feeds.plain("val", self.splits.val))
            # Once it is handed over, the head has been fitted to validation too.
            fitted = train.labels if self._held_out is None else problem.labels
            whole = Whole(told, len(fitted), problem.told_choice(self.recipe.head.l2))
        with section("label efficiency"):
            return label_efficiency(train, judged, split, seed=self.recipe.seed, whole=whole)

    def predict_once(self, images: ImageSet, label: str) -> Predictions:
        """Predictions on images that will not be asked about again: no cache keeps them."""
        _, feeds = self._enter(len(self.recipe.phases) - 1)
        return predict(self.model, feeds.once(images, label), images.ids, self.runtime)

    def _enter(self, number: int) -> tuple[FreezePlan, PhaseFeeds]:
        """Set the model up for a phase. Its feeds are kept: a compiled prefix costs seconds."""
        phase = self.recipe.phases[number]
        plan = plan_phase(self.model.backbone, phase)
        self.runtime.adopt(self.model)
        # A phase that was resumed after its last epoch has not left training mode; a moving norm
        # would learn from whatever is measured or extracted next.
        self.model.eval()
        if self._feeds is None or self._feeds.number != number:
            self._feeds = PhaseFeeds(self, number, phase, plan)
        self.model.enter(self._feeds.start, plan.boundary)
        return plan, self._feeds

    def _phase(self, number: int, state: FitState) -> None:
        phase = self.recipe.phases[number]
        started = time.perf_counter()
        start = None if state.begun else self._starting_head(number)
        plan, feeds = self._enter(number)
        trainable = sum(
            p.numel()
            for n, p in self.model.backbone.model.named_parameters()
            if n in plan.trainable
        ) + sum(p.numel() for p in self.model.head.parameters())
        if not state.begun:
            self.run.append_log(
                {
                    "event": "phase",
                    "phase": number,
                    "train": phase.train,
                    "optimizer": phase.optimizer,
                    "boundary": plan.boundary_name,
                    "cached": feeds.start > 0,
                    "epochs": phase.epochs,
                    "trainable_parameters": trainable,
                }
            )
        with section("audit"):
            audit = FreezeAudit(self.model.backbone, plan)
        train, val = feeds.train(), feeds.plain("val", self.splits.val)
        extracted = time.perf_counter() - started
        if phase.optimizer == "lbfgs":
            done = self._solve(number, train, val)
        else:
            done = self._fit(number, plan, (train, val), state, start)
        with section("audit"):
            audit.verify()
        seconds = time.perf_counter() - started - extracted
        self.run.append_log({"event": "phase_done", "phase": number, "seconds": seconds, **done})
        self.reporter.say(
            f"phase {number + 1} ({phase.train}, {phase.optimizer}): validation accuracy "
            f"{done['val_accuracy']:.1%} in {seconds:.1f} s"
        )
        if not done["bettered"]:
            self._warn(
                f"phase {number + 1} did not improve validation, at lower rates either where they "
                "were tried: the model is still that of the phase before; leave the phase out, or "
                f"lower phases.{number}.lr"
            )
        if number == 0 and len(self.recipe.phases) > 1 and (curve := self._label_efficiency("val")):
            self.run.append_log({"event": "label_efficiency", **curve})

    def _fit(
        self,
        number: int,
        plan: FreezePlan,
        feeds: tuple[Feed, Feed],
        state: FitState,
        start: Solution | None,
    ) -> dict[str, Any]:
        """Fit a phase, from the head `start` where the one before it was solved."""
        phase, (train, val) = self.recipe.phases[number], feeds
        set_training(self.model.backbone, plan)
        optimizer = create_optimizer(self.model, phase)
        if state.begun:
            state = load_checkpoint(self.checkpoint, self.model, optimizer)
        seed = named_seed(self.recipe.seed, "phase", number)
        augment = self.recipe.data.augment
        job = Job(
            phase=phase,
            number=number,
            plan=plan,
            train=train,
            val=val,
            batch_size=self.recipe.batch_size,
            seed=seed,
            l2=self.recipe.head.l2 or 0.0,
            runtime=self.runtime,
            select_by=self.recipe.select_by,
            balanced=self.recipe.balance != "none",
            mixer=Mixer(augment.mixup, augment.cutmix, named_seed(seed, "mix")),
            class_weights=self._class_weights(),
        )
        self._warn_of_idle_cutmix(number, plan)
        if number and not state.begun:
            consider(self.model, job, state)
            if start:
                self._set_head(start)
        steps = (phase.epochs or 1) * len(batch_bounds(len(train.keys), job.batch_size))
        if compiling_pays(self.runtime, steps):
            self.model.compile_trained(job.batch_size, self.reporter.warn)
        total = (phase.epochs or 1) * len(train.keys)
        label = f"phase {number + 1}: {phase.train}"

        def on_checkpoint() -> None:
            with section("checkpoints"):
                save_checkpoint(self.checkpoint, self.model, number, state, optimizer)
                self.run.update_manifest(spent_s=time.perf_counter() - self.started)

        def on_epoch(record: dict[str, Any]) -> None:
            self.run.append_log({"event": "epoch", **record})
            self.reporter.say(
                f"  epoch {record['epoch'] + 1:>3}/{phase.epochs}  "
                f"train loss {record['train_loss']:.4f} acc {record['train_accuracy']:.1%}  "
                f"val loss {record['val_loss']:.4f} acc {record['val_accuracy']:.1%}  "
                f"{len(train.keys) / record['seconds']:,.0f} images/s"
            )

        size = self.transform.preprocess.size
        done = state.epoch * len(train.keys) + state.step * job.batch_size
        with (
            self.reporter.track(label, total, "images") as advance,
            folded_norms(self.model.backbone, plan, size),
        ):
            advance(done)
            taken = [float(done)]

            def on_step(images: int) -> None:
                taken[0] += images
                advance(images)

            def on_restart(begun: FitState) -> None:
                rate = (phase.lr or 0) * begun.lr_scale
                self.run.append_log(
                    {"event": "restart", "phase": number, "lr": rate, "seconds": begun.seconds}
                )
                advance(-round(taken[0]))
                begun.seconds, taken[0] = 0.0, 0.0
                self._warn(
                    f"phase {number + 1} got worse than its start, or its loss was no number: it "
                    f"starts again with phases.{number}.lr = {rate:.2g}"
                )

            state = fit(
                self.model,
                job,
                state,
                optimizer,
                on_step=on_step,
                on_epoch=on_epoch,
                on_checkpoint=on_checkpoint,
                on_restart=on_restart,
            )
        bettered = number == 0 or state.best_epoch is not None
        return {
            "bettered": bettered,
            "start_l2": None,
            # Of the attempt that the log keeps, if it is that one's.
            "best_epoch": state.best_epoch if state.best_attempt == state.restarts else None,
            "val_loss": state.best_val_loss,
            "val_accuracy": state.best_val_accuracy,
            "l2": None,
        }

    def _starting_head(self, number: int) -> Solution | None:
        """A flatter head than the one that the model was solved for, for a phase to train from."""
        before = self._kept_phase(number)
        if before is None or self.recipe.phases[number].optimizer == "lbfgs":
            return None
        if before["l2"] is None or before["start_l2"] == before["l2"]:
            return None
        _, feeds = self._enter(before["phase"])
        started = time.perf_counter()
        problem = self._head_problem(feeds.train(), feeds.plain("val", self.splits.val))
        solution = problem.solve_at(before["start_l2"])
        seconds = time.perf_counter() - started
        noted = {"event": "start", "phase": number, "l2": solution.l2, "seconds": seconds}
        self.run.append_log(noted)
        return solution

    def _kept_phase(self, below: int) -> dict[str, Any] | None:
        """The end of the last phase below a number that the model has anything from."""
        done = {e["phase"]: e for e in self.run.log if e["event"] == "phase_done"}
        kept = [n for n, event in done.items() if n < below and event["bettered"]]
        return done[max(kept)] if kept else None

    def _warn(self, line: str) -> None:
        """Say it, and keep it with the run."""
        self.reporter.warn(line)
        if line not in self.run.warnings:
            self.run.add_warning(line)

    def _warn_of_idle_cutmix(self, number: int, plan: FreezePlan) -> None:
        size = self.transform.preprocess.size
        shape = footprint(self.model.backbone, plan.boundary, size, 1).shape
        if self.recipe.data.augment.cutmix and len(shape) != 3:
            self._warn(
                f"phase {number + 1} begins at {plan.boundary_name}, where an image has no height "
                "and width: CutMix does nothing here; mixup would"
            )

    def _class_weights(self) -> torch.Tensor | None:
        if self.recipe.balance == "none":
            return None
        found = class_weights(self.splits.train.labels, len(self.splits.class_names))
        return found.to(self.runtime.device)

    def _solve(self, number: int, train: Feed, val: Feed) -> dict[str, Any]:
        problem = self._head_problem(train, val)
        l2 = self.recipe.head.l2
        path = self._l2_path()
        label = f"phase {number + 1}: solving the head"
        steps = FOLDS * len(path) + 1 if problem.by_folds and l2 is None else len(path)
        with self.reporter.track(label, steps, "penalties") as advance:
            best, tried, logits = problem.solve(path, lambda: advance(1))
        self._logits = {number: logits}
        for record in tried:
            values = {name: getattr(record, name) for name in _OF_A_PENALTY}
            self.run.append_log({"event": "solve", "phase": number, **values})
        if best.cut_off:
            self._warn(
                f"phase {number + 1}: the head was still improving after {MAX_PASSES} passes over "
                f"the features: a head.l2 above {best.l2:g} is solved sooner"
            )
        before = self._validated(val) if number else None
        kept = self._set_head(best)
        told = self._validated(val)
        bettered = before is None or self._key(told) > self._key(before)
        if before is not None and not bettered:
            self._set_head(kept)
            told = before
        return {
            "best_epoch": None,
            "val_loss": log_loss(told),
            "val_accuracy": float(told.correct.mean()),
            "l2": best.l2,
            # A penalty that the recipe names is the start's too.
            "start_l2": starting_penalty(tried, best.l2) if l2 is None else l2,
            "bettered": bettered,
        }

    def _hand_over(self) -> None:
        """Fit a solved head that no later phase has bettered to validation too.

        What validation says of the model is then told from heads that were not fitted to it.
        """
        kept = self._kept_phase(len(self.recipe.phases))
        if kept is None or (l2 := kept["l2"]) is None:
            return
        number = kept["phase"]
        _, feeds = self._enter(number)
        started = time.perf_counter()
        train, val = feeds.train(), feeds.plain("val", self.splits.val)
        problem = self._head_problem(train, val)
        if problem.views > 1:
            return  # each of validation would count as one view of a training image
        told = self._validated(val)
        logits = self._logits.get(number)
        if logits is None:  # as they were before the run was cut off
            logits = problem.held_out(self._l2_path())
        solution = problem.fit_to_all(l2)
        if logits is not None:
            ids = np.concatenate([self.splits.train.ids, self.splits.val.ids])
            told = Predictions(ids, problem.labels, logits.cpu().numpy())
        self._held_out = replace(told, ids=self.splits.val.ids) if logits is None else told
        self._set_head(solution)
        images = len(problem.labels)
        how = f"by {FOLDS} folds" if problem.by_folds else f"on {len(told):,} held-out images"
        seconds = time.perf_counter() - started
        self.run.append_log(
            {"event": "refit", "phase": number, "images": images, "l2": l2, "seconds": seconds}
        )
        self.reporter.say(
            f"the head fitted to all {images:,} training and validation images; "
            f"{how} its accuracy is {told.correct.mean():.1%}"
        )

    def _l2_path(self) -> Sequence[float]:
        """The penalties that a solved head has to choose from."""
        l2 = self.recipe.head.l2
        return L2_PATH if l2 is None else (l2,)

    def _head_problem(self, train: Feed, val: Feed) -> HeadProblem:
        assert isinstance(train, CachedFeed) and isinstance(val, CachedFeed)
        return HeadProblem(
            train,
            val,
            classes=len(self.splits.class_names),
            class_weights=self._class_weights(),
            seed=named_seed(self.recipe.data.split_seed, "folds"),
            val_cut=self.splits.val_cut,
        )

    def _set_head(self, solution: Solution | _Linear) -> _Linear:
        """Give the linear head these weights; returns those it had."""
        linear = self.model.head[-1]  # type: ignore[index]
        assert isinstance(linear, nn.Linear)
        before = _Linear(linear.weight.detach().clone(), linear.bias.detach().clone())
        with torch.no_grad():
            linear.weight.copy_(solution.weight)
            linear.bias.copy_(solution.bias)
        return before

    def _validated(self, val: Feed) -> Predictions:
        return predict(self.model, val, self.splits.val.ids, self.runtime)

    def _key(self, told: Predictions) -> tuple[float, float]:
        balanced = self.recipe.balance != "none"
        return selection_key(told, self.recipe.select_by, balanced=balanced)
