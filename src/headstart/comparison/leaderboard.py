"""The leaderboard: finished runs on the same test images, and what test can tell of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart.comparison.choice import choose, shared_metric, tie_sentence
from headstart.comparison.configurations import Configuration, gather
from headstart.comparison.protocol import describe_protocol, gather_warnings, require_same_test
from headstart.comparison.verdict import Pair, judge
from headstart.evaluation.classes import majority_class, scores_are_unequal
from headstart.rundir import Run
from headstart.shown import Card, Shown, interval, percent


@dataclass(frozen=True, repr=False)
class Row(Shown):
    """One run of a comparison; the scores are None where it did not finish."""

    run: str
    status: str
    path: str | None = None
    error: str | None = None
    backbone: str | None = None
    weights: str | None = None
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    top5: float | None = None
    loss: float | None = None
    val_accuracy: float | None = None  # on the validation images that all runs hold
    val_value: float | None = None  # on the same, of the metric that the comparison goes by
    balanced_accuracy: float | None = None
    balanced_interval: tuple[float, float] | None = None
    macro_f1: float | None = None
    p_value: float | None = None  # its configuration against the best run's, corrected
    within_noise: bool = False  # whether its configuration cannot be told from the best run's
    marks: list[str] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)

    def _card(self) -> Card:
        if self.accuracy is None or self.interval is None:
            return Card(f"Row {self.run}: {self.status}: {self.error}")
        shown = f"{percent(self.accuracy)} {interval(self.interval)}, n = {self.n:,}"
        facts = [("test accuracy", shown)]
        if self.balanced_accuracy is not None:
            facts.append(("balanced", percent(self.balanced_accuracy)))
        if self.val_accuracy is not None:
            facts.append(("val accuracy", percent(self.val_accuracy)))
        return Card(f"Row {self.run}: {self.backbone}", facts)


@dataclass(frozen=True)
class Failure:
    """A run of a study that did not finish, and why."""

    run: str
    backbone: str
    reason: str


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What `compare` answers: rows by the metric on test, the run that validation chose, and what
    test says of the configurations (runs that differ by seed alone)."""

    name: str
    best: str
    rows: tuple[Row, ...]
    protocol: dict[str, str]
    order: tuple[str, ...] = ()  # the finished runs' paths in the order given: the study's
    configurations: tuple[dict[str, Any], ...] = ()  # best first, each with its group
    pairs: tuple[Pair, ...] = ()
    winner: str | None = None  # a configuration told apart from every other one
    verdict: str = ""
    select_by: str = "accuracy"  # the metric that rows, pairs and validation's choice go by
    classes: dict[str, Any] = field(default_factory=dict)  # whether unequal, and the majority's
    tie: str = ""  # how a tie on validation was broken
    detectable: float | None = None  # the difference that would be shown with 80 % power
    cheapest: dict[str, Any] | None = None  # of the chosen and what test cannot tell from it
    selection: dict[str, Any] | None = None  # with a budget: rounds, who was dropped and why
    limits: dict[str, Any] | None = None  # the best that is quick and small enough
    warnings: tuple[str, ...] = ()  # of the runs, each once
    path: Path | None = None
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the paths of this machine."""
        asked = {"selection": self.selection, "limits": self.limits}
        return {
            "name": self.name,
            "best": self.best,
            "winner": self.winner,
            "verdict": self.verdict,
            "select_by": self.select_by,
            "classes": self.classes,
            "tie": self.tie,
            "detectable": self.detectable,
            "cheapest": self.cheapest,
            "rows": [asdict(row) for row in self.rows],
            "configurations": list(self.configurations),
            "pairs": [asdict(pair) for pair in self.pairs],
            "protocol": self.protocol,
            "warnings": list(self.warnings),
            "order": list(self.order),
            **{key: value for key, value in asked.items() if value is not None},
        }

    def _card(self) -> Card:
        facts = [("chosen", f"{self.best} (by validation)"), ("verdict", self.verdict)]
        facts += [("report", str(self.report))] if self.report else []
        rows = [
            [
                str(c["group"]),
                c["name"],
                percent(c["accuracy"]),
                interval(c["interval"]),
                percent(c["val_accuracy"]),
            ]
            for c in self.configurations
        ]
        rows += [["-", row.run, "failed", "-", "-"] for row in self.rows if row.accuracy is None]
        header = ("group", "configuration", "test accuracy", "95 % interval", "val")
        return Card(f"Comparison {self.name}: {len(self.rows)} runs", facts, header, rows)

    @property
    def best_row(self) -> Row:
        return next(row for row in self.rows if row.run == self.best)


def split_finished(runs: Sequence[Run]) -> tuple[list[Run], list[Failure]]:
    """The finished runs, and why each of the others is none."""
    failures = [
        Failure(run.name, run.recipe.backbone.name, run.manifest.get("error") or run.status)
        for run in runs
        if not run.finished
    ]
    return [run for run in runs if run.finished], failures


def build_comparison(
    name: str, runs: Sequence[Run], failures: Sequence[Failure], root: Path
) -> Comparison:
    """Compare finished runs by their saved predictions; paths are given relative to `root`.

    The best run is the one validation prefers (`choice.choose`), because test is opened once and
    chooses nothing. It and the order of the rows, on test, go by the metric that the recipes name.
    Whether test tells it from the others is `verdict.judge`'s to say. Raises RunError where the
    runs were tested on different images.
    """
    require_same_test(runs)
    labels = label_runs(runs)
    metric = shared_metric(runs)
    choice = choose(runs, metric)
    chosen = labels[choice.number]
    configurations = gather(runs, labels, metric, choice)
    verdict = judge(configurations, chosen, metric)
    noise = _noise(configurations, verdict.pairs, chosen)
    places = {label: place for place, c in enumerate(configurations) for label in c.labels}
    rows = [
        _row(run, label, root, noise[label], accuracy, value)
        for run, label, accuracy, (value, _) in zip(
            runs, labels, choice.accuracies, choice.keys, strict=True
        )
    ]
    plain = metric.name == "accuracy"  # else by configuration: each is of one value
    rows.sort(key=lambda r: (0 if plain else places[r.run], -(r.accuracy or 0), r.run))
    classes = describe_classes(runs[0])
    tie = tie_sentence(choice, runs, labels, metric)
    best = next(c for c in configurations if chosen in c.labels)
    balance = balance_sentence(classes, best) if classes["unequal"] or not plain else ""
    missing = tell_apart([failure.run for failure in failures], labels)
    failed = [
        Row(name, status="failed", error=failure.reason, backbone=failure.backbone)
        for name, failure in zip(missing, failures, strict=True)
    ]
    return Comparison(
        name=name,
        best=chosen,
        rows=(*rows, *failed),
        protocol=describe_protocol(configurations, verdict.detectable, metric, choice),
        order=tuple(os.path.relpath(run.path, root) for run in runs),
        configurations=tuple(
            {**configuration.to_dict(), "group": group}
            for configuration, group in zip(configurations, verdict.groups, strict=True)
        ),
        pairs=verdict.pairs,
        winner=verdict.winner,
        verdict=" ".join(part for part in (verdict.sentence, tie, balance) if part),
        select_by=metric.name,
        classes=classes,
        tie=tie,
        detectable=verdict.detectable,
        cheapest=verdict.cheapest.to_dict() if verdict.cheapest else None,
        warnings=gather_warnings(runs, labels),
    )


def describe_classes(run: Run) -> dict[str, Any]:
    """Whether the test images' classes are unequal, and what always answering the most frequent of
    them would reach."""
    test = run.metrics["test"]
    number = majority_class(test)
    return {
        "unequal": scores_are_unequal(test),
        "majority": test["per_class"][number]["n"] / test["n"],
        "majority_class": run.class_names[number],
    }


def balance_sentence(classes: Mapping[str, Any], best: Configuration) -> str:
    """What accuracy hides where classes are unequal."""
    value, (low, high) = best.balanced
    return (
        f"Always answering {classes['majority_class']} would be right on "
        f"{100 * classes['majority']:.1f} % of the test images; the balanced accuracy of "
        f"{best.name} is {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"its macro F1 {best.macro_f1:.3f}."
    )


def _noise(
    configurations: Sequence[Configuration], pairs: Sequence[Pair], chosen: str
) -> dict[str, tuple[float, bool]]:
    """For each run, its configuration against the chosen run's: corrected p, not told apart."""
    best = next(c.name for c in configurations if chosen in c.labels)
    against = {best: (1.0, True)}
    for pair in pairs:
        if best in (pair.first, pair.second):
            other = pair.second if pair.first == best else pair.first
            against[other] = (pair.p_adjusted, not pair.told_apart)
    return {label: against[c.name] for c in configurations for label in c.labels}


def label_runs(runs: Sequence[Run]) -> list[str]:
    """The runs' names; runs that share one are told apart by their fingerprints."""
    names = [run.name for run in runs]
    full = [f"{run.name}-{run.manifest['fingerprint']}" for run in runs]
    return tell_apart(
        [
            name
            if names.count(name) == 1
            else long
            if full.count(long) == 1
            else f"{long}-{number}"
            for number, (name, long) in enumerate(zip(names, full, strict=True), start=1)
        ]
    )


def tell_apart(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names, a number behind each that came before: everything is found by its name."""
    found = list(taken)
    for name in names:
        label, number = name, 2
        while label in found:
            label, number = f"{name} ({number})", number + 1
        found.append(label)
    return found[len(taken) :]


def _row(
    run: Run,
    label: str,
    root: Path,
    noise: tuple[float, bool],
    val_accuracy: float,
    val_value: float,
) -> Row:
    test = run.metrics["test"]
    return Row(
        run=label,
        path=os.path.relpath(run.path, root),
        status=run.status,
        backbone=run.recipe.backbone.name,
        weights=run.manifest["weights"]["provider"],
        accuracy=test["accuracy"],
        interval=tuple(test["interval"]),
        n=test["n"],
        top5=test["top5"] if len(test["per_class"]) > 5 else None,
        loss=test["loss"],
        val_accuracy=val_accuracy,
        val_value=val_value,
        balanced_accuracy=test["macro_recall"],
        balanced_interval=tuple(test["balanced_interval"]),
        macro_f1=test["macro_f1"],
        p_value=noise[0],
        within_noise=noise[1],
        marks=run.manifest["marks"],
        cost=run.cost,
    )
