"""Repeated folds: what a linear head on frozen features reaches, with every image tested.

A test split of fifty images says little. With folds each labelled image is predicted by a head that
was fitted to the other folds (cross-validation, Stone 1974), and the folds are drawn anew a few
times. All heads read the features of one frozen pass. The penalty is that of the run.

The heads of the folds are fitted to fewer images than the run's, so the accuracy is a little lower
than the run's would be.
"""

from __future__ import annotations

import numpy as np
import torch

from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import repeated_interval
from headstart.features.feeds import CachedFeed
from headstart.machine.profiling import section
from headstart.machine.runtime import full_float32, named_seed
from headstart.rundir.records import RepeatedFolds
from headstart.training.folds import assign_folds
from headstart.training.journal import Journal
from headstart.training.solver import Table, solve_path
from headstart.training.trainer import Trained

L2 = 0.1  # where the run's head was not solved


def measure_folds(trained: Trained, test: Predictions, journal: Journal) -> RepeatedFolds | None:
    """The scores; None where the recipe trains more than a head, or nothing is cached."""
    plan = trained.plan
    if len(plan.phases) > 1 or plan.phases[0].spec.train != "head":
        return None
    feeds = trained.feeds(0)
    parts = [feeds.train(), feeds.plain("val"), feeds.plain("test")]
    if not all(isinstance(part, CachedFeed) for part in parts):
        return None
    cached = [part for part in parts if isinstance(part, CachedFeed)]
    device = plan.runtime.float64_device
    rows = [torch.from_numpy(part.array[:, 0].copy()) for part in cached]
    labels = np.concatenate([part.labels for part in cached])
    pool = Table(torch.cat(rows).to(device), torch.from_numpy(labels).to(device))
    keys = np.concatenate([part.keys for part in cached])
    splits = (plan.splits.train, plan.splits.val, plan.splits.test)
    groups = None
    if any(images.groups is not None for images in splits):
        alone = (images.keys if images.groups is None else images.groups for images in splits)
        groups = np.concatenate(list(alone))
    done = journal.run.history.done.get(0)
    l2 = done.l2 if done is not None and done.l2 is not None else L2
    evaluation, seed = plan.recipe.evaluation, plan.recipe.data.split_seed
    with section("repeated folds"):
        return repeated_folds(
            pool, keys, plan.classes, evaluation.folds, evaluation.fold_repeats, l2, seed, groups
        )


def repeated_folds(
    pool: Table,
    keys: np.ndarray,
    classes: int,
    folds: int,
    repeats: int,
    l2: float,
    seed: int,
    groups: np.ndarray | None = None,
) -> RepeatedFolds:
    """keys: uint64 (n,), a hash of each image's id, which decides its folds. groups: as in
    `assign_folds`."""
    labels = pool.labels.cpu().numpy()
    made = []
    for repeat in range(repeats):
        drawn = named_seed(seed, "repeated folds", repeat)
        logits = _held_out(pool, assign_folds(labels, keys, drawn, groups, folds), classes, l2)
        made.append(Predictions(labels.astype(str), labels, logits))
    scores = [score(each) for each in made]
    right = np.mean([each.correct for each in made], axis=0)
    low, high = repeated_interval(right, folds)
    accuracies = [each.accuracy for each in scores]
    return RepeatedFolds(
        folds=folds,
        repeats=repeats,
        n=len(labels),
        accuracy=float(right.mean()),
        low=low,
        high=high,
        least=min(accuracies),
        most=max(accuracies),
        balanced_accuracy=float(np.mean([each.macro_recall for each in scores])),
        macro_f1=float(np.mean([each.macro_f1 for each in scores])),
        l2=l2,
    )


def _held_out(pool: Table, folds: np.ndarray, classes: int, l2: float) -> np.ndarray:
    """float32 (n, classes): logits of each image by the head of the other folds."""
    logits = torch.zeros(len(folds), classes)
    with full_float32():
        for fold in np.unique(folds):
            held = torch.from_numpy(folds == fold).to(pool.labels.device)
            rest = Table(pool.features[~held], pool.labels[~held])
            part = Table(pool.features[held], pool.labels[held])
            (solution,) = solve_path(rest, part, classes, l2_path=[l2], refine=False)
            logits[held.cpu()] = torch.addmm(solution.bias, part.features, solution.weight.T).cpu()
    return logits.numpy()
