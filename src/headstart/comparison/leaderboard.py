"""The leaderboard: finished runs on the same test images, and what test can tell of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.comparison.choice import choose, shared_metric, tie_sentence
from headstart.comparison.configurations import Configuration, gather
from headstart.comparison.protocol import describe_protocol, gather_warnings, require_same_test
from headstart.comparison.records import Classes, Comparison, Pair, Row
from headstart.comparison.verdict import judge
from headstart.evaluation.classes import majority_class, scores_are_unequal
from headstart.evaluation.many_scores import ManyScores
from headstart.rundir.records import Split, SplitScores
from headstart.rundir.run import Run


@dataclass(frozen=True)
class Failure:
    """A run of a study that did not finish, and why."""

    run: str
    backbone: str
    reason: str


def split_finished(runs: Sequence[Run]) -> tuple[list[Run], list[Failure]]:
    """The finished runs, and why each of the others is none."""
    failures = [
        Failure(run.name, run.recipe.backbone.name, run.manifest.error or run.status)
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
    balance = balance_sentence(classes, best) if classes and (classes.unequal or not plain) else ""
    missing = tell_apart([failure.run for failure in failures], labels)
    failed = [
        Row.without_result(name, "failed", failure.reason, failure.backbone)
        for name, failure in zip(missing, failures, strict=True)
    ]
    return Comparison(
        name=name,
        best=chosen,
        rows=(*rows, *failed),
        protocol=describe_protocol(configurations, verdict.detectable, metric, choice),
        order=tuple(os.path.relpath(run.path, root) for run in runs),
        configurations=tuple(
            configuration.stand(group)
            for configuration, group in zip(configurations, verdict.groups, strict=True)
        ),
        pairs=verdict.pairs,
        winner=verdict.winner,
        verdict=" ".join(part for part in (verdict.sentence, tie, balance) if part),
        select_by=metric.name,
        classes=classes,
        tie=tie,
        detectable=verdict.detectable,
        cheapest=verdict.cheapest,
        warnings=gather_warnings(runs, labels),
        selection=None,
        limits=None,
    )


def describe_classes(run: Run) -> Classes | None:
    """None where images may have several labels: no one of them is the answer."""
    if run.recipe.many_labels:
        return None
    test = run.metrics.test
    number = majority_class(test)
    return Classes(
        unequal=scores_are_unequal(test),
        majority=test.per_class[number].n / test.n,
        majority_class=run.class_names[number],
    )


def balance_sentence(classes: Classes, best: Configuration) -> str:
    """What accuracy hides where classes are unequal."""
    value, (low, high) = best.balanced
    return (
        f"Always answering {classes.majority_class} would be right on "
        f"{100 * classes.majority:.1f} % of the test images; the balanced accuracy of "
        f"{best.name} is {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"its macro F1 {best.macro_f1:.3f}."
    )


def _noise(
    configurations: Sequence[Configuration], pairs: Sequence[Pair], chosen: str
) -> dict[str, tuple[float, bool]]:
    """For each run, its configuration against the chosen run's: corrected p, not significant."""
    best = next(c.name for c in configurations if chosen in c.labels)
    against = {best: (1.0, True)}
    for pair in pairs:
        if best in (pair.first, pair.second):
            other = pair.second if pair.first == best else pair.first
            against[other] = (pair.p_adjusted, not pair.told_apart)
    return {label: against[c.name] for c in configurations for label in c.labels}


def label_runs(runs: Sequence[Run]) -> list[str]:
    """The runs' names; runs that share one get their fingerprints too."""
    names = [run.name for run in runs]
    full = [f"{run.name}-{run.manifest.fingerprint}" for run in runs]
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


@dataclass(frozen=True, slots=True)
class Headline:
    """What a table says of a run's scores on one split, whichever labels its images have.
    accuracy: mAP where they may have several."""

    n: int
    accuracy: float
    interval: tuple[float, float]
    top5: float | None
    loss: float
    balanced_accuracy: float
    balanced_interval: tuple[float, float]
    macro_f1: float


def headline_scores(run: Run, split: Split) -> Headline:
    """Raises RunError where the run has no scores."""
    if run.recipe.many_labels:
        many: ManyScores = getattr(run.many_metrics, split)
        return Headline(
            n=many.n,
            accuracy=many.mean_ap,
            interval=many.interval,
            top5=None,
            loss=many.loss,
            balanced_accuracy=many.balanced_accuracy,
            balanced_interval=many.balanced_interval,
            macro_f1=many.macro_f1,
        )
    one: SplitScores = getattr(run.metrics, split)
    return Headline(
        n=one.n,
        accuracy=one.accuracy,
        interval=one.interval,
        top5=one.top5,
        loss=one.loss,
        balanced_accuracy=one.macro_recall,
        balanced_interval=one.balanced_interval,
        macro_f1=one.macro_f1,
    )


def _row(
    run: Run,
    label: str,
    root: Path,
    noise: tuple[float, bool],
    val_accuracy: float,
    val_value: float,
) -> Row:
    test = headline_scores(run, "test")
    return Row(
        run=label,
        path=os.path.relpath(run.path, root),
        status=run.status,
        error=None,
        backbone=run.recipe.backbone.name,
        weights=run.provenance.weights.provider,
        accuracy=test.accuracy,
        interval=test.interval,
        n=test.n,
        top5=test.top5,
        loss=test.loss,
        val_accuracy=val_accuracy,
        val_value=val_value,
        balanced_accuracy=test.balanced_accuracy,
        balanced_interval=test.balanced_interval,
        macro_f1=test.macro_f1,
        p_value=noise[0],
        within_noise=noise[1],
        marks=run.provenance.marks,
        cost=run.cost,
    )
