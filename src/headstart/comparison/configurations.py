"""Configurations: runs that differ by their seed alone, and what their answers say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.comparison.choice import Choice, Metric
from headstart.errors import RunError
from headstart.evaluation.statistics import Estimate, estimate
from headstart.evaluation.values import estimate_value, image_values
from headstart.rundir import Run

NAMED = 4  # configurations that a sentence names


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs of one recipe but for seed and name. correct: bool (seeds, images), a row a run.

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
        return float(np.mean([run.metrics["test"]["macro_f1"] for run in self.runs]))

    @property
    def wall_s(self) -> float | None:
        """Seconds that a run really took, a mean; None where a run does not know."""
        return _mean([run.cost.get("wall_s") for run in self.runs])

    @property
    def alone_s(self) -> float | None:
        """Seconds of frozen passes and training with an empty cache, a mean; None where a run does
        not know."""
        return _mean([run.cost.get("alone_s") for run in self.runs])

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds an image, a mean of the runs' medians; None where a run does not know."""
        return _mean([(run.cost.get("latency_ms") or {}).get("median") for run in self.runs])

    @property
    def budget(self) -> Budget:
        budgets = [budget_of(run) for run in self.runs]
        return max(budgets, key=lambda budget: (budget.epochs, budget.penalties))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "name": self.name,
            "runs": list(self.labels),
            "seeds": list(self.seeds),
            "backbone": self.runs[0].recipe.backbone.name,
            "accuracy": self.estimate.accuracy,
            "interval": list(self.estimate.interval),
            "sd": self.estimate.sd,
            "value": self.value[0],
            "value_interval": list(self.value[1]),
            "balanced_accuracy": self.balanced[0],
            "balanced_interval": list(self.balanced[1]),
            "macro_f1": self.macro_f1,
            "val_accuracy": self.val_accuracy,
            "val_value": self.val_value,
            "val_loss": self.val_loss,
            "wall_s": self.wall_s,
            "alone_s": self.alone_s,
            "latency_ms": self.latency_ms,
            "busy": any((run.cost.get("measured") or {}).get("busy") for run in self.runs),
            "budget": {"penalties": self.budget.penalties, "epochs": self.budget.epochs},
            "marks": list(self.runs[0].manifest["marks"]),
        }


@dataclass(frozen=True)
class Budget:
    """How many settings validation chose among in a run."""

    penalties: int  # that solved heads tried: the path ends once validation has turned
    epochs: int  # that fitted phases were allowed

    @property
    def kind(self) -> tuple[bool, int]:
        """What was offered: equal for runs that had the same chances."""
        return self.penalties > 1, self.epochs


def budget_of(run: Run) -> Budget:
    tried = {(e["phase"], e["l2"]) for e in run.log if e["event"] == "solve"}
    epochs = sum(p.epochs or 0 for p in run.recipe.phases if p.optimizer != "lbfgs")
    return Budget(len(tried), epochs)


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
        parts = [image_values(each, metric.name, balanced=metric.balanced) for each in made]
        found.append(
            Configuration(
                name=name,
                runs=tuple(runs[k] for k in numbers),
                labels=tuple(labels[k] for k in numbers),
                correct=correct,
                estimate=accuracy,
                values=correct if plain else np.stack(parts),
                strata=None if metric.name in ("accuracy", "loss") else made[0].labels,
                value=(accuracy.accuracy, accuracy.interval)
                if plain
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
    made = run.manifest["weights"].get("sha256"), run.manifest["data"].get("fingerprint")
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


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
