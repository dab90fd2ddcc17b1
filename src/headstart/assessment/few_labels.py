"""Label efficiency: what a linear head on frozen features reaches with few labelled images.

The features are those that a run's head phase has cached, so no image passes the backbone again:
the curve is of this backbone as it came, not of what a later phase makes of it. The images of a
draw are nested: the 5 of a class contain the 1.

One fixed penalty serves every size. Chosen on validation it would take more labels than the point
has, and flatter the curve. On three backbones and three data sets no other of four penalties, from
0.03 to 1, was 0.3 points better on average at 1, 5 or 25 images a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headstart.data.hashing import hash_keys
from headstart.evaluation.metrics import selection_value
from headstart.evaluation.predictions import Predictions
from headstart.features.feeds import CachedFeed
from headstart.machine.profiling import section
from headstart.machine.runtime import full_float32, named_seed
from headstart.rundir.records import EfficiencyPoint, LabelEfficiency, Split
from headstart.training.heads import head_problem
from headstart.training.loop import predict
from headstart.training.solver import Table, solve_path
from headstart.training.trainer import Trained

PER_CLASS = (1, 5, 25, 100)
L2 = 0.1
# Time: a point has five draws, or as many as stay within so many images, and at least one; a point
# of more than the most images costs more than it says.
DRAWS, DRAWN_IMAGES, MOST_IMAGES = 5, 2_000, 10_000


@dataclass(frozen=True)
class Whole:
    """The run's own linear head: what it says of the images judged, how many images it was fitted
    to, and how its penalty was chosen, such as "chosen by folds"."""

    told: Predictions
    images: int
    chosen: str


def few_labels(trained: Trained, split: Split) -> LabelEfficiency | None:
    """The curve on the features of the first phase, while the model stands as that phase left it.

    None where the first phase trains more than the head, or nothing is cached.
    """
    plan, phase = trained.plan, trained.plan.phases[0]
    if phase.spec.train != "head":
        return None
    feeds = trained.feeds(0)
    train, judged = feeds.train(), feeds.plain(split)
    if not (isinstance(train, CachedFeed) and isinstance(judged, CachedFeed)):
        return None
    whole = None
    if phase.solved:
        ids = getattr(plan.splits, split).ids
        made = predict(trained.model, judged, ids, plan.runtime)
        problem = head_problem(plan, feeds)
        # Once it is handed over, the head has been fitted to validation too.
        fitted = train.labels if trained.held_out is None else problem.labels
        whole = Whole(made, len(fitted), problem.told_choice(plan.recipe.head.l2))
    with section("label efficiency"):
        return label_efficiency(train, judged, split, seed=plan.recipe.seed, whole=whole)


def label_efficiency(
    train: CachedFeed, judged: CachedFeed, split: Split, *, seed: int, whole: Whole | None
) -> LabelEfficiency:
    """The curve: accuracy on `judged`, by labelled images of each class.

    train: features (n, views, d), of which the first view counts; classes that have too few images
    for a size leave it out. whole: the run's own head, if it was solved; it is the last point.
    """
    rows = [_nested(train, named_seed(seed, "label efficiency", d)) for d in range(DRAWS)]
    held = min(map(len, rows[0]))
    judge = _table(judged, np.arange(len(judged.labels)))
    points = []
    for size in PER_CLASS:
        images = size * len(rows[0])
        if size > held or images > MOST_IMAGES:
            break
        draws = min(DRAWS, max(1, DRAWN_IMAGES // images))
        found = [
            _solved(_table(train, np.concatenate([own[:size] for own in drawn])), judge)
            for drawn in rows[:draws]
        ]
        points.append(_point(size, images, found))
    l2_from = f"fixed at {L2:g} for the draws"
    if whole is not None:
        points.append(_point(None, whole.images, [_scores(whole.told)]))
        l2_from += f", {whole.chosen} for all images"
    return LabelEfficiency(
        split=split,
        n=len(judged.labels),
        l2_from=l2_from,
        points=tuple(points),
        note="linear heads on the frozen features of this backbone, not the fine-tuned model; "
        "low and high are the least and the most of the draws",
    )


def _point(
    per_class: int | None, images: int, found: Sequence[tuple[float, float]]
) -> EfficiencyPoint:
    """found: accuracy and balanced accuracy of each draw. per_class is None for all images."""
    right = [accuracy for accuracy, _ in found]
    return EfficiencyPoint(
        per_class=per_class,
        images=images,
        draws=len(found),
        accuracy=float(np.mean(right)),
        low=min(right),
        high=max(right),
        balanced_accuracy=float(np.mean([balanced for _, balanced in found])),
    )


def _scores(made: Predictions) -> tuple[float, float]:
    """Accuracy and balanced accuracy."""
    return selection_value(made, "accuracy"), selection_value(made, "balanced_accuracy")


def _nested(feed: CachedFeed, seed: int) -> list[np.ndarray]:
    """Rows of each class that occurs, int64, in an order drawn for each image by its key."""
    order = np.argsort(hash_keys(feed.keys, seed), kind="stable")
    labels = feed.labels[order]
    return [order[labels == label] for label in np.unique(labels)]


def _table(feed: CachedFeed, rows: np.ndarray) -> Table:
    """Some rows' first view, on the device."""
    x, y = torch.from_numpy(feed.array[rows, 0]), torch.from_numpy(feed.labels[rows])
    feed.release()  # a row's page comes into memory with its neighbours
    device = feed.runtime.float64_device
    return Table(x.to(device), y.to(device))


def _solved(train: Table, judge: Table) -> tuple[float, float]:
    """Accuracy and balanced accuracy on `judge`."""
    classes = int(max(train.labels.max(), judge.labels.max())) + 1
    with full_float32():
        (solution,) = solve_path(train, judge, classes, l2_path=[L2])
        logits = (judge.features @ solution.weight.T + solution.bias).cpu().numpy()
    labels = judge.labels.cpu().numpy()
    return _scores(Predictions(labels.astype(str), labels, logits))
