"""Label efficiency: what a linear head on frozen features reaches with few labelled images.

The features are those that the head phase has cached, so no image passes the backbone again. The
curve is about the pretrained backbone, before any later phase changes it. The images of a draw are
nested: the 5 images of a class contain the 1 image.

One fixed penalty serves every size. A penalty chosen on validation would use more labels than the
point has, and make the curve look too good. On three backbones and three data sets no other of four
penalties, from 0.03 to 1, was 0.3 points better on average at 1, 5 or 25 images a class.
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
# Limits of time. A point has DRAWS draws, fewer where they would hold more than DRAWN_IMAGES images
# together, and at least one. A point of more than MOST_IMAGES images is left out.
DRAWS, DRAWN_IMAGES, MOST_IMAGES = 5, 2_000, 10_000


@dataclass(frozen=True)
class OwnHead:
    """The run's own linear head. predictions: on the evaluated images. images: number of images it
    was fitted to. chosen: how its penalty was chosen, such as "chosen by folds"."""

    predictions: Predictions
    images: int
    chosen: str


def few_labels(trained: Trained, split: Split) -> LabelEfficiency | None:
    """The curve on the features of the first phase. Call it before a later phase changes the model.

    None where the first phase trains more than the head, or nothing is cached.
    """
    plan, phase = trained.plan, trained.plan.phases[0]
    if phase.spec.train != "head":
        return None
    feeds = trained.feeds(0)
    train, evaluated = feeds.train(), feeds.plain(split)
    if not (isinstance(train, CachedFeed) and isinstance(evaluated, CachedFeed)):
        return None
    own_head = None
    if phase.solved:
        ids = getattr(plan.splits, split).ids
        made = predict(trained.model, evaluated, ids, plan.runtime)
        problem = head_problem(plan, feeds)
        # After training the head has also been fitted to validation.
        fitted = train.labels if trained.held_out is None else problem.labels
        own_head = OwnHead(made, len(fitted), problem.describe_choice(plan.recipe.head.l2))
    with section("label efficiency"):
        return label_efficiency(train, evaluated, split, seed=plan.recipe.seed, own_head=own_head)


def label_efficiency(
    train: CachedFeed, evaluated: CachedFeed, split: Split, *, seed: int, own_head: OwnHead | None
) -> LabelEfficiency:
    """The curve: accuracy on `evaluated` by the number of labelled images of each class.

    train: features (n, views, d); only the first view is used. A size that some class has too few
    images for is left out, and so are larger ones. own_head: the last point; None where the run's
    head was not solved.
    """
    rows = [_nested(train, named_seed(seed, "label efficiency", d)) for d in range(DRAWS)]
    held = min(map(len, rows[0]))
    table = _table(evaluated, np.arange(len(evaluated.labels)))
    points = []
    for size in PER_CLASS:
        images = size * len(rows[0])
        if size > held or images > MOST_IMAGES:
            break
        draws = min(DRAWS, max(1, DRAWN_IMAGES // images))
        scores = [
            _solved(_table(train, np.concatenate([own[:size] for own in drawn])), table)
            for drawn in rows[:draws]
        ]
        points.append(_point(size, images, scores))
    l2_from = f"fixed at {L2:g} for the draws"
    if own_head is not None:
        points.append(_point(None, own_head.images, [_scores(own_head.predictions)]))
        l2_from += f", {own_head.chosen} for all images"
    return LabelEfficiency(
        split=split,
        n=len(evaluated.labels),
        l2_from=l2_from,
        points=tuple(points),
        note="linear heads on the frozen features of this backbone, not the fine-tuned model; "
        "low and high are the least and the most of the draws",
    )


def _point(
    per_class: int | None, images: int, scores: Sequence[tuple[float, float]]
) -> EfficiencyPoint:
    """scores: accuracy and balanced accuracy of each draw. per_class: None for all images."""
    right = [accuracy for accuracy, _ in scores]
    return EfficiencyPoint(
        per_class=per_class,
        images=images,
        draws=len(scores),
        accuracy=float(np.mean(right)),
        low=min(right),
        high=max(right),
        balanced_accuracy=float(np.mean([balanced for _, balanced in scores])),
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


def _solved(train: Table, evaluated: Table) -> tuple[float, float]:
    """Accuracy and balanced accuracy on `evaluated`."""
    classes = int(max(train.labels.max(), evaluated.labels.max())) + 1
    with full_float32():
        (solution,) = solve_path(train, evaluated, classes, l2_path=[L2])
        logits = (evaluated.features @ solution.weight.T + solution.bias).cpu().numpy()
    labels = evaluated.labels.cpu().numpy()
    return _scores(Predictions(labels.astype(str), labels, logits))
