"""Solved linear heads: in their phase, as the start of the next phase, and for the final model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from headstart.evaluation.calibration import log_loss
from headstart.evaluation.many_labels import predictions_of
from headstart.evaluation.metrics import selection_key
from headstart.evaluation.predictions import Predictions
from headstart.features.feeds import CachedFeed
from headstart.machine.runtime import named_seed
from headstart.models.classifier import Classifier
from headstart.plan.plan import Plan
from headstart.rundir.history import Outcome, Refit, Solve, StartingHead
from headstart.training.folds import FOLDS
from headstart.training.journal import Journal
from headstart.training.loop import predict
from headstart.training.optimisation import class_weights
from headstart.training.phase_feeds import PhaseFeeds
from headstart.training.solver import L2_PATH, MAX_PASSES, PenaltyScore, Solution
from headstart.training.solving import HeadProblem, starting_penalty

_OF_A_PENALTY = [f.name for f in fields(PenaltyScore) if f.name != "criterion"]


class Linear(NamedTuple):
    """weight: float32 (k, d), bias: float32 (k,)."""

    weight: torch.Tensor
    bias: torch.Tensor


def set_head(model: Classifier, solution: Solution | Linear) -> Linear:
    """Set the weights of a linear head; returns the previous ones."""
    linear = model.head[-1]  # type: ignore[index]  # it is a Sequential
    assert isinstance(linear, nn.Linear)
    before = Linear(linear.weight.detach().clone(), linear.bias.detach().clone())
    with torch.no_grad():
        linear.weight.copy_(solution.weight)
        linear.bias.copy_(solution.bias)
    return before


def balancing_weights(plan: Plan) -> torch.Tensor | None:
    """float32 (classes,) on the device, or None where classes are not balanced."""
    if plan.recipe.balance == "none":
        return None
    weights = class_weights(plan.splits.train.labels, plan.classes)
    return weights.to(plan.runtime.device)


def head_problem(plan: Plan, feeds: PhaseFeeds) -> HeadProblem:
    """The head problem of a phase whose head is solved."""
    train, val = feeds.train(), feeds.plain("val")
    assert isinstance(train, CachedFeed) and isinstance(val, CachedFeed)
    groups = [images.groups for images in (plan.splits.train, plan.splits.val)]
    known = [each for each in groups if each is not None]
    return HeadProblem(
        train,
        val,
        classes=plan.classes,
        class_weights=balancing_weights(plan),
        seed=named_seed(plan.recipe.data.split_seed, "folds"),
        val_cut=plan.splits.val_cut,
        groups=np.concatenate(known) if len(known) == len(groups) else None,
    )


def solve_phase(
    plan: Plan, feeds: PhaseFeeds, model: Classifier, journal: Journal
) -> tuple[Outcome, torch.Tensor | None]:
    """Solve the head of one phase, and keep it if it is better on validation than the head before.

    Returns the outcome, and logits by folds as `HeadProblem.solve` does.
    """
    number, l2 = feeds.phase.number, plan.recipe.head.l2
    problem, path = head_problem(plan, feeds), _l2_path(plan)
    label = f"phase {number + 1}: solving the head"
    steps = FOLDS * len(path) + 1 if problem.by_folds and l2 is None else len(path)
    with journal.reporter.track(label, steps, "penalties") as advance:
        best, tried, logits = problem.solve(path, lambda: advance(1))
    for record in tried:
        values = {name: getattr(record, name) for name in _OF_A_PENALTY}
        journal.run.append_log(Solve(phase=number, **values))
    if best.cut_off:
        journal.warn(
            f"phase {number + 1}: the head was still improving after {MAX_PASSES} passes over "
            f"the features: a head.l2 above {best.l2:g} needs fewer"
        )
    before = _validated(plan, feeds, model) if number else None
    kept = set_head(model, best)
    after = _validated(plan, feeds, model)
    improved = before is None or _key(plan, after) > _key(plan, before)
    if before is not None and not improved:
        set_head(model, kept)
        after = before
    outcome = Outcome(
        phase=number,
        improved=improved,
        val_loss=log_loss(after),
        val_accuracy=after.headline,
        best_epoch=None,
        l2=best.l2,
        # A penalty in the recipe is also that of the starting head.
        start_l2=starting_penalty(tried, best.l2) if l2 is None else l2,
    )
    return outcome, logits


def starting_head(
    plan: Plan, feeds: PhaseFeeds, l2: float, number: int, journal: Journal
) -> Solution:
    """A flatter head than the solved one, from which phase `number` starts.

    feeds: of the phase that was solved.
    """
    started = time.perf_counter()
    solution = head_problem(plan, feeds).solve_at(l2)
    seconds = time.perf_counter() - started
    journal.run.append_log(StartingHead(number, solution.l2, seconds))
    return solution


def fit_to_all(
    plan: Plan,
    feeds: PhaseFeeds,
    model: Classifier,
    l2: float,
    logits: torch.Tensor | None,
    journal: Journal,
) -> Predictions | None:
    """Fit a solved head to train and validation together, if no later phase was better.

    Returns held-out predictions: by heads that were not fitted to these images; None where nothing
    is fitted. logits: by folds, if they are known.
    """
    started = time.perf_counter()
    problem, splits = head_problem(plan, feeds), plan.splits
    if problem.views > 1:
        return None  # a validation image would weigh as little as one view of a training image
    held_out = replace(_validated(plan, feeds, model), ids=splits.val.ids)
    if logits is None:  # the run was interrupted: compute them again
        logits = problem.held_out(_l2_path(plan))
    solution = problem.fit_to_all(l2)
    if logits is not None:
        ids = np.concatenate([splits.train.ids, splits.val.ids])
        held_out = predictions_of(ids, problem.labels, logits.cpu().numpy())
    set_head(model, solution)
    images = len(problem.labels)
    how = f"by {FOLDS} folds" if problem.by_folds else f"on {len(held_out):,} held-out images"
    seconds = time.perf_counter() - started
    journal.run.append_log(Refit(feeds.phase.number, images, l2, seconds))
    journal.reporter.say(
        f"the head fitted to all {images:,} training and validation images; "
        f"{how} its {plan.recipe.headline} is {held_out.headline:.1%}"
    )
    return held_out


def _l2_path(plan: Plan) -> Sequence[float]:
    """The penalties from which a solved head chooses."""
    l2 = plan.recipe.head.l2
    return L2_PATH if l2 is None else (l2,)


def _validated(plan: Plan, feeds: PhaseFeeds, model: Classifier) -> Predictions:
    return predict(model, feeds.plain("val"), plan.splits.val.ids, plan.runtime)


def _key(plan: Plan, made: Predictions) -> tuple[float, float]:
    balanced = plan.recipe.balance != "none"
    return selection_key(made, plan.recipe.select_by, balanced=balanced)
