"""Which change bought what: runs side by side, and each step's change on the same test images.

A step is attributed only where the two runs differ in one group of settings; where several
changed at once, no arithmetic on two results separates their effects, and that is said instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from headstart.comparison.choice import TITLES, Metric, shared_metric
from headstart.comparison.leaderboard import label_runs, split_finished
from headstart.comparison.mistakes import Finding, Sibling, find_departures, siblings
from headstart.comparison.protocol import require_same_test
from headstart.comparison.records import Comparison
from headstart.comparison.settings import Change, Settings, changes, differing, settings_of
from headstart.errors import RunError
from headstart.evaluation.classes import scores_are_unequal
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import LEVEL, paired_change
from headstart.evaluation.values import image_values, value_difference
from headstart.files import Json, to_json
from headstart.rundir.run import Run, list_runs, open_runs
from headstart.text.formats import p_value
from headstart_predict.cards import Card, Shown, percent

# A change in these says nothing about how images or training should be handled.
_PLAIN_CHOICES = frozenset({"backbone", "seed"})


@dataclass(frozen=True)
class Entry:
    """One run: what it reached, what it cost, and what its settings get wrong."""

    run: str
    path: str
    backbone: str
    weights: str
    accuracy: float
    interval: tuple[float, float]
    n: int
    seconds: float  # of frozen passes and training, with an empty cache
    trained_parameters: int
    findings: tuple[Finding, ...]
    balanced_accuracy: float
    balanced_interval: tuple[float, float]


@dataclass(frozen=True)
class Beside:
    """A step in another metric than accuracy, on the same images: fractions, or nats of a loss's
    negative. decides: whether a recipe names it, so that it says whether the step is a gain."""

    metric: str  # as `choice.TITLES` calls it
    change: float
    interval: tuple[float, float]
    p_value: float  # of the permutation test
    decides: bool

    @property
    def told(self) -> str:
        """ "+4.7 points [+1.2, +8.2] of balanced accuracy, p = 0.01"; a lower loss is a gain."""
        low, high = self.interval
        if self.metric == TITLES["loss"]:
            said = f"{-self.change:+.3f} nats [{-high:+.3f}, {-low:+.3f}]"
        else:
            said = f"{100 * self.change:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        return f"{said} of {self.metric}, {p_value(self.p_value)}"


@dataclass(frozen=True)
class Step:
    """From one run to another: what changed in the recipe, and in accuracy (fractions).

    beside: the same in the metric that the recipes name, or, where classes are unequal, in balanced
    accuracy.
    """

    DERIVED: ClassVar = ("groups", "attributed", "cause")

    first: str
    second: str
    changes: tuple[Change, ...]
    n: int
    gained: int  # test images that only the second gets right
    lost: int
    change: float
    interval: tuple[float, float]
    p_value: float
    beside: Beside | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(change.group for change in self.changes))

    @property
    def attributed(self) -> bool:
        """Whether one group of settings explains the step."""
        return len(self.groups) == 1

    @property
    def significant(self) -> bool:
        return self.decisive.p_value < LEVEL

    @property
    def decisive(self) -> Step | Beside:
        """What says whether the step is a gain: its change in accuracy, or in the metric named."""
        return self.beside if self.beside and self.beside.decides else self

    @property
    def cause(self) -> str:
        """What the step is due to, as a phrase."""
        if not self.changes:
            return "the same settings: only chance and the machine differ"
        told = ", ".join(change.told for change in self.changes)
        if len(self.changes) == 1:
            return told
        if self.attributed:
            return f"{self.groups[0]} as a whole: {told}"
        *most, last = self.groups
        return (
            f"{', '.join(most)} and {last} changed at once, so the change cannot be assigned to "
            f"one of them: {told}"
        )


@dataclass(frozen=True, repr=False)
class Explanation(Shown):
    """What `explain` answers. `settings`: the differing ones by key, a value for each entry."""

    DERIVED: ClassVar = ("ladder",)

    entries: tuple[Entry, ...]
    settings: dict[str, list[str]]
    steps: tuple[Step, ...]
    siblings: tuple[Sibling, ...] = ()
    skipped: tuple[str, ...] = ()  # runs of a study that did not finish

    @property
    def ladder(self) -> bool:
        """Whether each run differs from the one before it in one group of settings."""
        order = [entry.run for entry in self.entries]
        links = [(step.first, step.second) for step in self.steps if step.attributed]
        return len(order) > 1 and links == list(pairwise(order))

    @property
    def telling(self) -> tuple[Step, ...]:
        """The steps worth a picture: attributed to more than the choice of backbone or seed.

        Of two runs alone, the step between them whatever it is.
        """
        if len(self.entries) == 2:
            return self.steps
        return tuple(s for s in self.steps if s.attributed and s.groups[0] not in _PLAIN_CHOICES)

    def _card(self) -> Card:
        rows = [
            [step.first, step.second, f"{100 * step.change:+.1f} points", step.cause]
            for step in self.steps
        ]
        runs = ", ".join(f"{entry.run} {percent(entry.accuracy)}" for entry in self.entries)
        found = [(f.key, f"{f.has}, should be {f.wants}") for e in self.entries for f in e.findings]
        facts = [("test accuracy", runs), *(found if len(self.entries) == 1 else ())]
        header = ("from", "to", "change", "cause")
        return Card(f"Explanation of {len(self.entries)} runs", facts, header, rows)

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values."""
        return dict(to_json(self))


def explain(*runs: Run | Comparison | str | Path) -> Explanation:
    """Say which change of the recipe bought what, or what a single run should do otherwise.

    runs: finished runs in the order of the story, opened or as directories, or one study: its
    directory, or the comparison that it gave. Runs of a study that did not finish are left out and
    named. Raises RunError where a run did not finish or two saw different test images.
    """
    opened, skipped, study = [], [], False
    for given in runs:
        if isinstance(given, Run):
            opened.append(given)
            continue
        path = given.path if isinstance(given, Comparison) else Path(given)
        if path is None:
            raise RunError("the comparison was not written anywhere: give its runs")
        study = study or bool(list_runs(path))
        opened += open_runs([path])
    if study:  # a study goes past those that failed
        opened, failures = split_finished(opened)
        skipped = [f"{failure.run}: {failure.reason}" for failure in failures]
    return explain_runs(opened, skipped)


def explain_runs(runs: Sequence[Run], skipped: Sequence[str] = ()) -> Explanation:
    """Explain finished runs in the order given; the order tells which change came first.

    Each run but the first is compared with the earlier one nearest to it in settings, which in a
    ladder is the one before it. A single run is set beside what its weights expect. Raises
    RunError where there is no run, one did not finish, or two saw different test images.
    """
    if not runs:
        raise RunError("no finished run to explain")
    for run in runs:
        if not run.finished:
            raise RunError(f"{run.path}: the run is {run.status}: explain takes finished runs")
    if many := next((run for run in runs if run.recipe.many_labels), None):
        raise RunError(
            f"{many.path}: explain takes runs of images with one label, and its images may have "
            "several"
        )
    require_same_test(runs)
    labels = label_runs(runs)
    settings = [settings_of(run) for run in runs]
    entries = tuple(_entry(run, label) for run, label in zip(runs, labels, strict=True))
    beside = _metric_beside(runs)
    steps = tuple(
        _step(runs, labels, (_nearest(settings, number), number), settings, beside)
        for number in range(1, len(runs))
    )
    rights = siblings(runs[0]) if len(runs) == 1 else ()
    return Explanation(entries, differing(settings), steps, rights, tuple(skipped))


def _entry(run: Run, label: str) -> Entry:
    test, cost, weights = run.metrics.test, run.cost, run.provenance.weights
    return Entry(
        run=label,
        path=str(run.path),
        backbone=run.recipe.backbone.name,
        weights=" ".join(part for part in (weights.provider, weights.tag) if part),
        accuracy=test.accuracy,
        interval=test.interval,
        n=test.n,
        seconds=cost.alone_s,
        trained_parameters=cost.trainable_parameters,
        findings=find_departures(run),
        balanced_accuracy=test.macro_recall,
        balanced_interval=test.balanced_interval,
    )


def _metric_beside(runs: Sequence[Run]) -> tuple[Metric, bool] | None:
    """What steps are measured in beside accuracy, and whether it decides."""
    metric = shared_metric(runs)
    if metric.name != "accuracy":
        return metric, True
    unequal = scores_are_unequal(runs[0].metrics.test)
    return (Metric("balanced_accuracy"), False) if unequal else None


def _nearest(settings: Sequence[Settings], number: int) -> int:
    """The earlier run to compare with: fewest groups differ, then settings, then the latest.

    Another seed is never the nearest where another run differs in one group too: what a seed does
    is noise, and the ladder of each seed should stay whole.
    """

    def distance(other: int) -> tuple[int, bool, int, int]:
        found = changes(settings[other], settings[number])
        groups = {change.group for change in found}
        return len(groups), groups == {"seed"}, len(found), -other

    return min(range(number), key=distance)


def _step(
    runs: Sequence[Run],
    labels: Sequence[str],
    places: tuple[int, int],
    settings: Sequence[Settings],
    beside: tuple[Metric, bool] | None,
) -> Step:
    before, after = places
    first, second = (runs[k].predictions("test") for k in (before, after))
    paired = paired_change(first, second)
    return Step(
        first=labels[before],
        second=labels[after],
        changes=changes(settings[before], settings[after]),
        n=paired.n,
        gained=paired.gained,
        lost=paired.lost,
        change=paired.change,
        interval=paired.interval,
        p_value=paired.p_value,
        beside=_beside(first, second, *beside) if beside else None,
    )


def _beside(first: Predictions, second: Predictions, metric: Metric, decides: bool) -> Beside:
    tables = [
        image_values(each, metric.name, balanced=metric.balanced)[None] for each in (first, second)
    ]
    strata = None if metric.name == "loss" else first.labels
    found = value_difference(tables[0], tables[1], strata)
    return Beside(metric.title, found.change, found.interval, found.p_value, decides)
