"""Which of several runs to take where validation does not tell them apart.

With sixty validation images the best of five runs is mostly the luckiest. Among runs that are not
significantly worse than it on the same images, two things decide. Between backbones it is published
ImageNet accuracy: evidence of many images, if about another task. Between runs of one backbone it
is whether the head was fitted to the validation images too, which they cannot show themselves. With
many validation images nothing is left to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from headstart.evaluation.many_labels import has_many
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.values import image_values
from headstart.models.catalogue import imagenet_top1
from headstart.rundir.run import Run
from headstart.selection.halving import LEVEL, chance


@dataclass(frozen=True)
class Preferred:
    """run: the one to take. over: validation's choice, if that is another one. images: on which
    they were compared. why: what decided then, as words."""

    run: Run
    over: str | None
    images: int
    why: str = ""


def prefer(best: Run, runs: Sequence[Run]) -> Preferred:
    """The run to take. best: validation's choice, one of `runs`, which all are finished."""
    made = {run.name: run.predictions("val") for run in runs}
    balanced = best.recipe.chooses_by in ("balanced_accuracy", "macro_f1")
    values = _values(made, balanced)
    alike = [
        run for run in runs if run is best or chance(values[best.name], values[run.name]) >= LEVEL
    ]
    tops = {run.name: imagenet_top1(run.recipe.backbone.name) or 0.0 for run in alike}
    highest = max(tops.values())
    backbone = best.recipe.backbone.name
    if tops[best.name] < highest:
        backbone = next(r.recipe.backbone.name for r in alike if tops[r.name] == highest)
    own = [run for run in alike if run.recipe.backbone.name == backbone]
    whole = [run for run in own if run.history.refit is not None] or own
    # They may hold more validation images with each other than with all.
    held = _values({run.name: made[run.name] for run in whole}, balanced)
    chosen = best if best in whole else max(whole, key=lambda run: float(held[run.name].mean()))
    over = best.name if chosen is not best else None
    why = "its head was fitted to validation, too"
    if backbone != best.recipe.backbone.name:
        why = "its backbone is the better one on ImageNet"
    return Preferred(chosen, over, len(values[best.name]), why if over else "")


def _values(made: Mapping[str, Predictions], balanced: bool) -> dict[str, np.ndarray]:
    """By run, on the images that all of them hold: bool hits, or, `balanced`, hits weighted so that
    classes count alike; of several labels an image, values whose mean is mAP."""
    shared = reduce(np.intersect1d, (each.ids for each in made.values()))
    return {name: _of(each, shared, balanced) for name, each in made.items()}


def _of(made: Predictions, ids: np.ndarray, balanced: bool) -> np.ndarray:
    order = np.argsort(made.ids)
    rows = order[np.searchsorted(made.ids[order], ids)]
    if has_many(made):
        return image_values(made.pick(rows), "mean_ap")
    hits, labels = made.correct[rows], made.labels[rows]
    if not balanced or not len(rows):
        return hits
    counts = np.bincount(labels)
    return np.asarray(hits * len(rows) / ((counts > 0).sum() * counts[labels]))
