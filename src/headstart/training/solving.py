"""Solves the head of a phase on cached features: chooses its penalty, then fits it.

Where images are few, folds of train and validation together choose the penalty (`folds.py`);
otherwise the validation images do. A head that later phases train on is fitted to the training
images alone, because these phases are still evaluated on validation. The final head of a run is
fitted to all images.

The best head is a poor start for training its backbone. It is nearly sure of all training images.
So its weights are large, and its gradients are small and come from few images. At common rates the
features then change too much, and what they have learnt is lost within an epoch. A flatter head,
with some loss left, is a better start (Ren, Guo, Bae & Sutherland 2023, "How to prepare your task
head for finetuning").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headstart.data.strata import strata_of
from headstart.features.cache import as_tensor
from headstart.features.feeds import CachedFeed
from headstart.machine.profiling import section
from headstart.machine.runtime import full_float32
from headstart.training.folds import CrossFit, assign_folds, cross_fit, folds_pay
from headstart.training.solver import Joined, PenaltyScore, Solution, Table, solve_path

# The training loss of a starting head is at least so many times the best held-out loss.
START_LOSS = 1.5


@dataclass(frozen=True)
class HeadProblem:
    """A linear head to be solved. class_weights: float32 (classes,), or None.

    seed: of the folds. val_cut: whether validation was split off train. Only then may folds mix
    them: a validation split of a folder may be different on purpose. groups: uint64 (n,), of train
    and then of validation; images of one group are in one fold. None: each is alone.
    """

    train: CachedFeed
    val: CachedFeed
    classes: int
    class_weights: torch.Tensor | None
    seed: int
    val_cut: bool
    groups: np.ndarray | None = None

    @property
    def by_folds(self) -> bool:
        """Whether folds choose the penalty; not with several views of an image."""
        images = len(self.train.labels) + len(self.val.labels)
        return self.val_cut and self.views == 1 and folds_pay(images, self.classes)

    @property
    def views(self) -> int:
        """Views of each training image."""
        return int(self.train.array.shape[1])

    def describe_choice(self, l2: float | None) -> str:
        """How the penalty is chosen, in words. l2: the one in the recipe, if any."""
        if l2 is not None:
            return f"fixed at {l2:g}"
        return "chosen by folds" if self.by_folds else "chosen on validation"

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,) or bool (n, classes), of train and then of validation."""
        return np.concatenate([self.train.labels, self.val.labels])

    def solve(
        self, l2_path: Sequence[float], on_penalty: Callable[[], None]
    ) -> tuple[Solution, Sequence[PenaltyScore], torch.Tensor | None]:
        """The head for the training images at the chosen penalty; the scores of all penalties; and,
        with folds, logits as in `held_out`. `on_penalty` is called for each solution.
        """
        if self.by_folds and len(l2_path) > 1:
            crossed = self._cross_fit(l2_path, on_penalty)
            return self.solve_at(crossed.l2), crossed.scores, crossed.logits
        train, val = self._tables()
        with section("solve"), full_float32():
            tried = solve_path(
                train,
                val,
                self.classes,
                l2_path=l2_path,
                class_weights=self._class_weights(val),
                on_solution=lambda solution: on_penalty(),
            )
        return next(solution for solution in tried if solution.chosen), tried, None

    def held_out(self, l2_path: Sequence[float]) -> torch.Tensor | None:
        """With folds, logits float32 (n, classes) of train and then validation, each image by a
        head that was not fitted to it; without folds, None."""
        return self._cross_fit(l2_path, lambda: None).logits if self.by_folds else None

    def solve_at(self, l2: float) -> Solution:
        """The head for the training images at one penalty."""
        train, val = self._tables()
        return self._solve_at(train, val, l2)

    def fit_to_all(self, l2: float) -> Solution:
        """The head for train and validation together."""
        train, val = self._tables()
        return self._solve_at(Joined((train, val)), val, l2)

    def _solve_at(self, train: Table | Joined, val: Table, l2: float) -> Solution:
        with section("solve"), full_float32():
            (solution,) = solve_path(
                train, val, self.classes, l2_path=[l2], class_weights=self._class_weights(val)
            )
        return solution

    def _cross_fit(self, l2_path: Sequence[float], on_penalty: Callable[[], None]) -> CrossFit:
        train, val = self._tables()
        pool = Table(
            torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels])
        )
        keys = np.concatenate([self.train.keys, self.val.keys])
        with section("solve"), full_float32():
            return cross_fit(
                pool,
                assign_folds(strata_of(self.labels), keys, self.seed, self.groups),
                self.classes,
                l2_path=l2_path,
                class_weights=self._class_weights(val),
                on_solution=lambda solution: on_penalty(),
            )

    def _class_weights(self, table: Table) -> torch.Tensor | None:
        """The class weights on the device of the table."""
        weights = self.class_weights
        return None if weights is None else weights.to(table.labels.device)

    def _tables(self) -> tuple[Table, Table]:
        with section("cache read"):
            return _table(self.train), _table(self.val)


def starting_penalty(tried: Sequence[PenaltyScore], chosen: float) -> float:
    """The penalty of the starting head: the weakest one, from the chosen one up, whose training
    loss is at least START_LOSS times the chosen one's held-out loss; the strongest if none is."""
    best = next(record for record in tried if record.l2 == chosen)
    stronger = sorted(record.l2 for record in tried if record.l2 >= chosen)
    enough = {r.l2 for r in tried if r.train_loss >= START_LOSS * best.val_loss}
    return next((l2 for l2 in stronger if l2 in enough), stronger[-1])


def _table(feed: CachedFeed) -> Table:
    """All rows and views of a pooled feed: in their memory map, or copied to a CUDA device."""
    n, views = feed.array.shape[:2]
    x = as_tensor(feed.array).view(n * views, math.prod(feed.array.shape[2:]))
    y = torch.from_numpy(np.repeat(feed.labels, views, axis=0))
    device = feed.runtime.float64_device
    return Table(x.to(device), y.to(device), feed.release)
