"""Configurations: runs that differ by their seed alone, and what their answers say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.errors import RunError
from headstart.evaluation.statistics import Estimate, estimate
from headstart.rundir import Run

NAMED = 4  # configurations that a sentence names


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs of one recipe but for seed and name. correct: bool (seeds, images), a row a run."""

    name: str
    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    correct: np.ndarray
    estimate: Estimate

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.recipe.seed for run in self.runs)

    @property
    def val_accuracy(self) -> float:
        return float(np.mean([run.metrics["val"]["accuracy"] for run in self.runs]))

    @property
    def wall_s(self) -> float | None:
        """Seconds of a run, a mean; None where a run does not know."""
        return _mean([run.cost.get("wall_s") for run in self.runs])

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
            "val_accuracy": self.val_accuracy,
            "wall_s": self.wall_s,
            "latency_ms": self.latency_ms,
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


def gather(runs: Sequence[Run], labels: Sequence[str]) -> list[Configuration]:
    """Finished runs as configurations, the most accurate on test first.

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
        correct = np.stack([answers[k].correct for k in numbers])
        own = tuple(runs[k] for k in numbers)
        found.append(
            Configuration(name, own, tuple(labels[k] for k in numbers), correct, estimate(correct))
        )
    return sorted(found, key=lambda c: (-c.estimate.accuracy, -c.val_accuracy, c.name))


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
