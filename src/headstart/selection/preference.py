"""Which of several runs to take where validation does not tell them apart.

With sixty validation images the best of five runs is mostly the luckiest. Among runs that are not
significantly worse than it on the same images, published ImageNet accuracy decides between
backbones: it is evidence of millions of images, if about another task. With many validation images
nothing is left to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from headstart.evaluation.predictions import Predictions
from headstart.models.catalogue import imagenet_top1
from headstart.rundir.run import Run
from headstart.selection.halving import LEVEL, chance


@dataclass(frozen=True)
class Preferred:
    """run: the one to take. over: validation's choice, if that is another one. images: on which
    they were compared."""

    run: Run
    over: str | None
    images: int


def prefer(best: Run, runs: Sequence[Run]) -> Preferred:
    """The run to take. best: validation's choice, one of `runs`, which all are finished.

    Runs of the best run's backbone are not judged anew: validation chose between them.
    """
    made = {run.name: run.predictions("val") for run in runs}
    shared = reduce(np.intersect1d, (each.ids for each in made.values()))
    balanced = best.recipe.chooses_by in ("balanced_accuracy", "macro_f1")
    values = {name: _values(each, shared, balanced) for name, each in made.items()}
    alike = [best, *(run for run in runs if _is_alike(run, best, values))]
    tops = {run.name: imagenet_top1(run.recipe.backbone.name) or 0.0 for run in alike}
    chosen = max(alike, key=lambda run: (tops[run.name], float(values[run.name].mean())))
    if tops[chosen.name] <= tops[best.name]:
        chosen = best
    over = best.name if chosen is not best else None
    return Preferred(chosen, over, len(shared))


def _is_alike(run: Run, best: Run, values: Mapping[str, np.ndarray]) -> bool:
    """Whether a run of another backbone is not significantly worse than the best (one-sided)."""
    if run.recipe.backbone.name == best.recipe.backbone.name:
        return False
    return chance(values[best.name], values[run.name]) >= LEVEL


def _values(made: Predictions, ids: np.ndarray, balanced: bool) -> np.ndarray:
    """On these images: bool hits, or, `balanced`, hits weighted so that classes count alike."""
    order = np.argsort(made.ids)
    rows = order[np.searchsorted(made.ids[order], ids)]
    hits, labels = made.correct[rows], made.labels[rows]
    if not balanced or not len(rows):
        return hits
    counts = np.bincount(labels)
    return np.asarray(hits * len(rows) / ((counts > 0).sum() * counts[labels]))
