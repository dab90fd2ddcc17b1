"""Configurations: runs that differ by their seed alone, and what their answers say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.comparison.choice import Choice, Metric
from headstart.comparison.records import Budget, Standing
from headstart.errors import RunError
from headstart.evaluation.statistics import Estimate, estimate
from headstart.evaluation.values import estimate_value, image_values
from headstart.rundir.run import Run

NAMED = 4  # configurations that a sentence names


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs of one recipe but for seed and name. correct: bool (seeds, images), a row a run.
    estimate: of accuracy, or of mAP where images may have several labels.

    values: float64 like it, each image's part in the metric that the comparison goes by (`correct`
    itself for accuracy); value: their mean, with its interval. strata: the images' classes, where
    that metric weighs these equally. balanced: balanced accuracy, alike. val_value, val_accuracy,
    val_loss: means over the runs, on the validation images that decide.
    """

    name: str
    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    correct: np.ndarray
    estimate: Estimate
    values: np.ndarray
    strata: np.ndarray | None
    value: tuple[float, tuple[float, float]]
    balanced: tuple[float, tuple[float, float]]
    val_value: float
    val_accuracy: float
    val_loss: float

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.recipe.seed for run in self.runs)

    @property
    def macro_f1(self) -> float:
        return float(np.mean([macro_f1_of(run) for run in self.runs]))

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds an image, a mean of the runs' medians; None where a run was not timed."""
        known = [timed.median for run in self.runs if (timed := run.cost.latency_ms)]
        return float(np.mean(known)) if len(known) == len(self.runs) else None

    @property
    def budget(self) -> Budget:
        budgets = [budget_of(run) for run in self.runs]
        return max(budgets, key=lambda budget: (budget.epochs, budget.penalties))

    def stand(self, group: int) -> Standing:
        """As the comparison tells it."""
        costs = [run.cost for run in self.runs]
        return Standing(
            name=self.name,
            runs=self.labels,
            seeds=self.seeds,
            backbone=self.runs[0].recipe.backbone.name,
            accuracy=self.estimate.accuracy,
            interval=self.estimate.interval,
            sd=self.estimate.sd,
            value=self.value[0],
            value_interval=self.value[1],
            balanced_accuracy=self.balanced[0],
            balanced_interval=self.balanced[1],
            macro_f1=self.macro_f1,
            val_accuracy=self.val_accuracy,
            val_value=self.val_value,
            val_loss=self.val_loss,
            wall_s=float(np.mean([cost.wall_s for cost in costs])),
            alone_s=float(np.mean([cost.alone_s for cost in costs])),
            latency_ms=self.latency_ms,
            busy=any(cost.busy for cost in costs),
            budget=self.budget,
            marks=self.runs[0].provenance.marks,
            group=group,
        )


def macro_f1_of(run: Run) -> float:
    return (run.many_metrics if run.recipe.many_labels else run.metrics).test.macro_f1


def budget_of(run: Run) -> Budget:
    epochs = sum(p.epochs or 0 for p in run.recipe.phases if p.optimizer != "lbfgs")
    return Budget(len(run.history.solves), epochs)


def gather(
    runs: Sequence[Run], labels: Sequence[str], metric: Metric, choice: Choice
) -> list[Configuration]:
    """Finished runs as configurations, the best on test first.

    Ties go to validation, then to the name. A seed that comes twice is a repetition and no second
    sample, so it opens a configuration of its own. Raises RunError where test answers are not
    about the same images in the same order.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for number, run in enumerate(runs):
        settings, copy = _settings(run), 0
        while any(
            runs[k].recipe.seed == run.recipe.seed for k in members.get((settings, copy), ())
        ):
            copy += 1
        members.setdefault((settings, copy), []).append(number)
    answers = [run.predictions("test") for run in runs]
    for run, given in zip(runs, answers, strict=True):
        if not np.array_equal(given.ids, answers[0].ids):
            raise RunError(
                f"{run.name} and {runs[0].name}: their test answers are not in one order"
            )
    names = _names(runs, labels, list(members.values()))
    found = []
    for name, numbers in zip(names, members.values(), strict=True):
        made = [answers[k] for k in numbers]
        correct = np.stack([each.correct for each in made])
        accuracy, plain = estimate(correct), metric.name == "accuracy"
        if metric.name == "mean_ap":
            scores = [each.headline for each in made]
            sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
            accuracy = Estimate(*estimate_value(made, "mean_ap"), sd)
        parts = [image_values(each, metric.name, balanced=metric.balanced) for each in made]
        found.append(
            Configuration(
                name=name,
                runs=tuple(runs[k] for k in numbers),
                labels=tuple(labels[k] for k in numbers),
                correct=correct,
                estimate=accuracy,
                values=correct if plain else np.stack(parts),
                strata=None if metric.name in ("accuracy", "loss", "mean_ap") else made[0].labels,
                value=(accuracy.accuracy, accuracy.interval)
                if plain or metric.name == "mean_ap"
                else estimate_value(made, metric.name, balanced=metric.balanced),
                balanced=estimate_value(made, "balanced_accuracy"),
                val_value=float(np.mean([choice.keys[k][0] for k in numbers])),
                val_accuracy=float(np.mean([choice.accuracies[k] for k in numbers])),
                val_loss=-float(np.mean([choice.keys[k][1] for k in numbers])),
            )
        )
    return sorted(found, key=lambda c: (-c.value[0], -c.val_value, c.name))


def name_some(names: Sequence[str]) -> str:
    """ "a, b and c"; of many, the first and how many more."""
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} others"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _settings(run: Run) -> str:
    """All that a run is made of but its seed: recipe, weights, images."""
    recipe = run.recipe.model_dump_json(exclude={"name", "seed", "evaluation"})
    made = run.provenance.weights.sha256, run.provenance.data.fingerprint
    return f"{recipe} {made}"


def _names(
    runs: Sequence[Run], labels: Sequence[str], members: Sequence[Sequence[int]]
) -> list[str]:
    """A name for each configuration, no two alike: a run's label, without its seed for several."""
    names = [
        labels[numbers[0]]
        if len(numbers) == 1
        else _shared_name([runs[k] for k in numbers])
        or f"{runs[numbers[0]].recipe.backbone.name}, {len(numbers)} seeds"
        for numbers in members
    ]
    return [
        name
        if names.count(name) == 1 or len(numbers) == 1
        else f"{name} ({labels[numbers[0]]}, ...)"
        for name, numbers in zip(names, members, strict=True)
    ]


def _shared_name(runs: Sequence[Run]) -> str | None:
    """What the names have in common, with or without their seeds: "a-0" and "a-1" give "a"."""
    left = []
    for run in runs:
        words = run.name.split("-")
        at = [k for k, word in enumerate(words) if word == str(run.recipe.seed)]
        left.append({run.name, *("-".join(words[:k] + words[k + 1 :]) for k in at)})
    common = set.intersection(*left) - {""}
    return min(common) if common else None
