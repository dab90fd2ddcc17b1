"""Validation's choice between runs: by which metric, on which images, and what is a tie.

Runs choose their own epoch and penalty; here they are chosen between, with the same function. Runs
may hold predictions for more validation images than others do (a solved head also for training
images, each from a fold that did not see it), so the images that all of them hold decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np

from headstart.errors import RunError
from headstart.evaluation.metrics import selection_key
from headstart.evaluation.predictions import Predictions
from headstart.rundir.run import Run

TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mean_ap": "mAP",
    "loss": "log loss",
}
ENOUGH = 0.5  # of the run that holds the fewest images, the share that all must hold
SAME = 1e-9  # values nearer than this differ by rounding alone


@dataclass(frozen=True)
class Metric:
    """What a comparison goes by: one of TITLES. balanced: whether a loss is a mean over classes.

    Values are higher for better models: of a loss they are the negative. note: what to say where
    the runs' recipes do not name the same.
    """

    name: str = "accuracy"
    balanced: bool = False
    note: str = ""

    @property
    def title(self) -> str:
        return TITLES[self.name]

    def told(self, value: float) -> str:
        """ "84.2 %", or nats of a loss."""
        return f"{-value:.3f}" if self.name == "loss" else f"{100 * value:.1f} %"

    @property
    def highest(self) -> str:
        return "best" if self.name == "loss" else "highest"

    def size(self, change: float) -> str:
        """ "3.1 points", whatever the sign of the change; nats of a loss."""
        if self.name == "loss":
            return f"{abs(change):.3f} nats"
        return f"{abs(100 * change):.1f} points"

    def below(self, change: float) -> str:
        """ "3.1 points below"."""
        return f"{self.size(change)} {'behind' if self.name == 'loss' else 'below'}"


@dataclass(frozen=True)
class Choice:
    """number: of the run that validation prefers. keys: each run's value and negative loss on the n
    images; accuracies: on the same, or mAP where images may have several labels. tied: the runs of
    the highest value, if several."""

    number: int
    keys: tuple[tuple[float, float], ...]
    accuracies: tuple[float, ...]
    n: int
    tied: tuple[int, ...]
    shared: Literal["whole", "part", "nothing"]  # of the runs' validation images, with each other


def shared_metric(runs: Sequence[Run]) -> Metric:
    """What the runs' recipes choose by. Where they name different metrics, the first that is not
    accuracy: whoever names one has a reason not to go by accuracy. Raises RunError where some take
    one label an image and some several."""
    if len({run.recipe.many_labels for run in runs}) > 1:
        raise RunError("some of the runs are of images with one label and some of several")
    named: dict[str, list[str]] = {}
    for run in runs:
        named.setdefault(run.recipe.chooses_by, []).append(run.name)
    balanced = any(run.recipe.balance == "auto" for run in runs)
    name = next((name for name in named if name != "accuracy"), "accuracy")
    metric = Metric(name, balanced)
    if len(named) == 1:
        return metric
    parts = (f"{TITLES[each]} in {len(names)}" for each, names in named.items())
    note = f"the runs chose by different metrics ({', '.join(parts)}); they are compared by"
    return replace(metric, note=f"{note} {metric.title}")


def choose(runs: Sequence[Run], metric: Metric) -> Choice:
    """The run with the highest value on the validation images that all runs hold.

    Equal values go to the lower loss, equal losses to the run with fewer operations an image, then
    to the first. Where less than half of a run's images are common to all, each run is taken by
    its own.
    """
    held = [run.predictions("val") for run in runs]
    made = _common(held)
    shared: Literal["whole", "part", "nothing"] = "nothing"
    if all(set(each.ids) == set(made[0].ids) for each in made):
        shared = "whole" if all(len(each) == len(made[0]) for each in held) else "part"
    keys = [selection_key(each, metric.name, balanced=metric.balanced) for each in made]
    highest = max(value for value, _ in keys)
    tied = [k for k, (value, _) in enumerate(keys) if value >= highest - SAME]
    least = max(keys[k][1] for k in tied)
    level = [k for k in tied if keys[k][1] >= least - SAME]
    return Choice(
        number=min(level, key=lambda k: (_operations(runs[k]), k)),
        keys=tuple(keys),
        accuracies=tuple(each.headline for each in made),
        n=len(made[0]),
        tied=tuple(tied) if len(tied) > 1 else (),
        shared=shared,
    )


def tie_sentence(choice: Choice, runs: Sequence[Run], labels: Sequence[str], metric: Metric) -> str:
    """How a tie on validation was broken; nothing where there is none, as between values of
    different images."""
    others = [k for k in choice.tied if k != choice.number]
    if not others or choice.shared == "nothing":
        return ""
    own, loss = labels[choice.number], -choice.keys[choice.number][1]
    value = metric.told(choice.keys[choice.number][0])
    names = [labels[k] for k in choice.tied]
    known = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) <= 5 else f"{len(names)} runs"
    said = (
        f"Tie on validation: {known} have the same {metric.title}, {value} of {choice.n:,} images"
    )
    next_loss = min(-choice.keys[k][1] for k in others)
    if next_loss > loss + SAME:
        return f"{said}; {own} has the lowest log loss ({loss:.3f}, the next {next_loss:.3f})."
    rivals = [k for k in others if -choice.keys[k][1] <= loss + SAME]
    if all(_operations(runs[k]) > _operations(runs[choice.number]) for k in rivals):
        return f"{said} and the same log loss; {own} takes the fewest operations."
    same = ", the same log loss and as many operations"
    return f"{said}{same}; {own} comes first in the order given."


def _operations(run: Run) -> int:
    """Multiply-accumulates of an image: a cost that no clock's noise is in."""
    return run.cost.macs


def _common(made: Sequence[Predictions]) -> list[Predictions]:
    """Each run's predictions of the images that all of them hold, in one order; its own where these
    are too few."""
    shared = reduce(np.intersect1d, [each.ids for each in made])
    if len(shared) < ENOUGH * min(map(len, made)):
        return list(made)
    found = []
    for each in made:
        order = np.argsort(each.ids, kind="stable")
        rows = order[np.searchsorted(each.ids, shared, sorter=order)]
        found.append(each.pick(rows))
    return found
