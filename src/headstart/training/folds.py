"""Cross-validation of a linear head where images are few: its penalty and held-out predictions.

A validation split of 25 images, a tenth of 250, decides little. With folds every image is held out
once, from a head that was fitted to the others (cross-validation, Stone 1974). So all images choose
the penalty and fit the temperature, and the final head can be fitted to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headstart.data.hashing import hash_keys
from headstart.training.solver import (
    L2_PATH,
    PenaltyScore,
    Solution,
    Table,
    criterion,
    solve_path,
)
from headstart.training.targets import targets_of

FOLDS = 5
# Above these, a validation split is large enough to choose on, and folds would take too long.
MOST_IMAGES, MOST_LOGITS = 10_000, 1_000_000


@dataclass(frozen=True)
class CrossFit:
    """The penalty that folds choose. logits: float32 (n, k), each image by the head of the other
    folds at l2. scores: for each penalty that was solved in every fold, the strongest first; means
    over the images, and the sum of passes over the folds."""

    l2: float
    scores: tuple[PenaltyScore, ...]
    logits: torch.Tensor


def folds_pay(images: int, classes: int) -> bool:
    return images <= MOST_IMAGES and images * classes <= MOST_LOGITS


def assign_folds(
    labels: np.ndarray,
    keys: np.ndarray,
    seed: int,
    groups: np.ndarray | None = None,
    count: int = FOLDS,
) -> np.ndarray:
    """int64 (n,): each image's fold, below `count`. Labels are strata; classes are spread evenly;
    key and seed decide the order.

    labels: int64 (n,); keys: uint64 (n,); groups: uint64 (n,), or None. Images of one group are in
    one fold, because a head that has seen one photo of a burst says little about the next. The
    images of a class with a single group are spread as if they were alone: a head that has not seen
    a class would say nothing about it.
    """
    if groups is not None:
        return _assign_groups(labels, keys, seed, groups, count)
    folds = np.empty(len(labels), np.int64)
    order = np.lexsort((hash_keys(keys, seed), labels))
    folds[order] = np.arange(len(labels)) % count
    return folds


def _assign_groups(
    labels: np.ndarray, keys: np.ndarray, seed: int, groups: np.ndarray, count: int
) -> np.ndarray:
    """The largest groups come first. Each goes to the fold that then has the smallest shares of its
    classes, or, of two such folds, the fewest images."""
    lone = [c for c in np.unique(labels) if len(np.unique(groups[labels == c])) == 1]
    groups = np.where(np.isin(labels, lone), keys, groups)
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    classes = int(labels.max()) + 1
    pairs, counts = np.unique(members * classes + labels, return_counts=True)
    of_group, of_class = np.divmod(pairs, classes)
    bounds = np.searchsorted(of_group, np.arange(len(names) + 1))
    total = np.bincount(labels, minlength=classes)
    held, images = np.zeros((count, classes)), np.zeros(count, np.int64)
    folds = np.empty(len(names), np.int64)
    for group in np.lexsort((hash_keys(names, seed), -sizes)).tolist():
        rows = slice(bounds[group], bounds[group + 1])
        own, share = of_class[rows], counts[rows] / total[of_class[rows]]
        costs = (held[:, own] * share).sum(axis=1)
        fold = int(np.lexsort((np.arange(count), images, costs))[0])
        held[fold, own] += share
        images[fold] += sizes[group]
        folds[group] = fold
    return folds[members]


def cross_fit(
    pool: Table,
    folds: np.ndarray,
    num_classes: int,
    *,
    l2_path: Sequence[float] = L2_PATH,
    class_weights: torch.Tensor | None = None,
    on_solution: Callable[[Solution], None] = lambda solution: None,
) -> CrossFit:
    """For each fold, solve a path of penalties on the other folds; choose by the held-out loss.

    folds: int64 (n,), from `assign_folds`. class_weights: as in `solve_path`.
    """
    targets = targets_of(pool.labels)
    losses: dict[float, torch.Tensor] = {}
    capped: dict[float, torch.Tensor] = {}
    logits: dict[float, torch.Tensor] = {}
    solved: dict[float, list[Solution]] = {}
    numbers = np.unique(folds)
    for fold in numbers:
        held = torch.from_numpy(folds == fold).to(pool.labels.device)
        rest = Table(pool.features[~held], pool.labels[~held])
        part = Table(pool.features[held], pool.labels[held])
        for solution in solve_path(
            rest,
            part,
            num_classes,
            l2_path=l2_path,
            class_weights=class_weights,
            on_solution=on_solution,
            refine=False,
        ):
            l2 = solution.l2
            if l2 not in logits:
                logits[l2] = pool.features.new_zeros(len(folds), num_classes)
                losses[l2] = pool.features.new_zeros(len(folds))
                capped[l2] = pool.features.new_zeros(len(folds))
            logits[l2][held] = torch.addmm(solution.bias, part.features, solution.weight.T)
            losses[l2][held] = targets.losses(logits[l2][held], part.labels)
            capped[l2][held] = targets.capped(logits[l2][held], part.labels)
            solved.setdefault(l2, []).append(solution)
    common = sorted((l2 for l2 in solved if len(solved[l2]) == len(numbers)), reverse=True)
    scores = tuple(
        PenaltyScore(
            l2=l2,
            iterations=sum(solution.iterations for solution in solved[l2]),
            train_loss=float(np.mean([solution.train_loss for solution in solved[l2]])),
            train_accuracy=float(np.mean([solution.train_accuracy for solution in solved[l2]])),
            val_loss=float(losses[l2].mean()),
            val_accuracy=float(targets.right(logits[l2], pool.labels).float().mean()),
            criterion=criterion(capped[l2], pool.labels, class_weights),
        )
        for l2 in common
    )
    best = min(scores, key=lambda score: score.criterion)
    return CrossFit(best.l2, scores, logits[best.l2])
