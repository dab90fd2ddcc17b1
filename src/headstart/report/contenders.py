"""Contenders: what the page compares. A configuration with its runs, one for each seed.

A comparison brings them ready made. Without one, as for runs that were never compared, each run
stands for itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from headstart.comparison.cheapest import Priced
from headstart.comparison.leaderboard import describe_classes, headline_scores, tell_apart
from headstart.comparison.records import Budget, Comparison, Row, Standing
from headstart.errors import HeadstartError
from headstart.recipe import Recipe
from headstart.rundir.records import Cost, Manifest, Metrics, Provenance
from headstart.rundir.run import Run

T = TypeVar("T")
Matched = tuple[int, Row, Run]  # a row's number, from 1, the row, and its run


@dataclass(frozen=True)
class Contender:
    """A configuration: its mean over seeds, and the runs behind it. Accuracies are fractions, and
    mAPs where images may have several labels.

    drawn: what plots against cost show, with its interval: the metric that the comparison goes by
    where that is a share, else accuracy. val_key: what validation chooses by, higher is better.
    """

    name: str
    rows: tuple[Row, ...]
    by_row: dict[str, Run]  # by the label of their row, those whose directories are at hand
    accuracy: float
    interval: tuple[float, float]
    val_accuracy: float | None
    drawn: tuple[float, tuple[float, float]]
    val_key: tuple[float, float]
    balanced: tuple[float, tuple[float, float]]  # balanced accuracy
    macro_f1: float
    sd: float | None  # of the accuracy, over seeds; None of one
    group: int | None  # 1: the highest on test and all not significantly lower
    chosen: bool  # validation's choice is one of its runs
    winner: bool  # it stands out beyond chance
    marks: tuple[str, ...]

    @property
    def kind(self) -> Literal["best", "near", "other"]:
        """best, near (not significantly lower) or other: how it is drawn."""
        return "best" if self.chosen else "near" if self.near else "other"

    @property
    def near(self) -> bool:
        return any(row.within_noise for row in self.rows)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those whose directories are at hand."""
        return tuple(self.by_row.values())

    @property
    def costs(self) -> list[Cost]:
        """Of the runs that have one."""
        return [row.cost for row in self.rows if row.cost]

    @property
    def busy(self) -> bool:
        """Whether its times were taken on a machine that was too busy to compare them."""
        return any(cost.busy for cost in self.costs)

    @property
    def metrics(self) -> list[Metrics]:
        """Of the runs that have theirs."""
        return [metrics for run in self.runs if (metrics := metrics_of(run))]

    def first(self, read: Callable[[Metrics], T | None]) -> T | None:
        """What the first run has that has it."""
        return next((found for each in self.metrics if (found := read(each)) is not None), None)

    def mean(self, read: Callable[[Cost], float | None]) -> float | None:
        """The mean of a cost over the runs that know it."""
        return mean([read(cost) for cost in self.costs])


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def optional(read: Callable[[], T]) -> T | None:
    """What `read` gives, or None where the run has not got that far, or its file is damaged."""
    try:
        return read()
    except HeadstartError:
        return None


def manifest_of(run: Run) -> Manifest | None:
    return optional(lambda: run.manifest)


def provenance_of(run: Run) -> Provenance | None:
    manifest = manifest_of(run)
    return manifest.provenance if manifest else None


def metrics_of(run: Run) -> Metrics | None:
    return optional(lambda: run.metrics)


def recipe_of(run: Run) -> Recipe | None:
    return optional(lambda: run.recipe)


def training_seconds(cost: Cost) -> float:
    """Of computing features and training, as they are with an empty cache."""
    return cost.alone_s


def latency_ms(cost: Cost) -> float | None:
    """Milliseconds for one image, the median; None where that was not measured."""
    return cost.latency_ms.median if cost.latency_ms else None


def slow_ms(cost: Cost) -> float | None:
    """As `latency_ms`, of the slowest in twenty calls."""
    return cost.latency_ms.p95 if cost.latency_ms else None


def throughput(cost: Cost) -> float | None:
    return cost.throughput.images_per_s if cost.throughput else None


def file_mb(cost: Cost) -> float:
    return cost.file_mb


def price(contender: Contender) -> Priced:
    """What `find_cheapest` compares: the configuration's name, and the costs of its runs."""
    return contender.name, contender.costs


def find_contenders(compared: Comparison, matched: Sequence[Matched]) -> list[Contender]:
    """The finished configurations of a comparison, in its order: best first."""
    runs = {row.run: run for _, row, run in matched}
    rows = {row.run: row for row in compared.rows if row.accuracy is not None}
    shared = compared.select_by in ("balanced_accuracy", "macro_f1", "mean_ap")
    return [
        Contender(
            name=each.name,
            rows=tuple(rows[label] for label in each.runs if label in rows),
            by_row={label: runs[label] for label in each.runs if label in runs},
            accuracy=each.accuracy,
            interval=each.interval,
            val_accuracy=each.val_accuracy,
            drawn=(each.value, each.value_interval) if shared else (each.accuracy, each.interval),
            val_key=(each.val_value, -each.val_loss),
            balanced=(each.balanced_accuracy, each.balanced_interval),
            macro_f1=each.macro_f1,
            sd=each.sd,
            group=each.group,
            chosen=compared.best in each.runs,
            winner=compared.winner == each.name,
            marks=each.marks,
        )
        for each in compared.configurations
        if any(label in rows for label in each.runs)
    ]


def compare_rows(runs: Sequence[Run]) -> Comparison:
    """A comparison made from the runs alone: the most accurate on test first, without p-values."""
    names = tell_apart([_name(run) for run in runs])
    known = [_row(run, name) for run, name in zip(runs, names, strict=True)]
    order = sorted(range(len(known)), key=lambda k: _below(known[k]))
    rows = [known[k] for k in order]
    least = rows[0].interval[0] if rows and rows[0].interval else math.inf
    rows = [rows[0], *(_beside(row, least) for row in rows[1:])] if rows else []
    finished = [(row, runs[k]) for row, k in zip(rows, order, strict=True) if row.interval]
    first = next((run for _, run in finished), None)
    return Comparison(
        name="",
        best=rows[0].run if rows else "",
        winner=None,
        verdict="",
        select_by="mean_ap" if first and first.recipe.many_labels else "accuracy",
        classes=optional(lambda: describe_classes(first)) if first else None,
        tie="",
        detectable=None,
        cheapest=None,
        rows=tuple(rows),
        configurations=tuple(_alone(row, run) for row, run in finished),
        pairs=(),
        protocol={},
        warnings=(),
        order=tuple(row.path or "" for row, _ in finished),
        selection=None,
        limits=None,
    )


def _below(row: Row) -> float:
    return math.inf if row.accuracy is None else -row.accuracy


def _beside(row: Row, least: float) -> Row:
    """The row, within noise where its interval reaches `least`, the lower end of the best's."""
    return replace(row, within_noise=bool(row.interval and row.interval[1] >= least))


def _row(run: Run, name: str) -> Row:
    manifest, recipe = manifest_of(run), recipe_of(run)
    test = optional(lambda: headline_scores(run, "test"))
    val = optional(lambda: headline_scores(run, "val"))
    made, cost = provenance_of(run), optional(lambda: run.cost)
    status = str(manifest.status) if manifest else "unknown"
    if status == "running" and cost:
        status = "finished"  # a run writes its report just before it says so of itself
    row = Row.without_result(
        name,
        status,
        manifest.error if manifest else None,
        backbone=recipe.backbone.name if recipe else None,
        weights=made.weights.provider if made else None,
        path=str(run.path.absolute()),
        marks=made.marks if made else (),
    )
    if test is None or val is None:
        return replace(row, cost=cost)
    return replace(
        row,
        accuracy=test.accuracy,
        interval=test.interval,
        n=test.n,
        top5=test.top5,
        loss=test.loss,
        balanced_accuracy=test.balanced_accuracy,
        balanced_interval=test.balanced_interval,
        macro_f1=test.macro_f1,
        val_accuracy=val.accuracy,
        val_value=val.accuracy,
        cost=cost,
    )


def _alone(row: Row, run: Run) -> Standing:
    """A run as a configuration of its own, which nothing was tested against."""
    recipe, cost = recipe_of(run), row.cost
    test, val = headline_scores(run, "test"), headline_scores(run, "val")
    return Standing(
        name=row.run,
        runs=(row.run,),
        seeds=(recipe.seed,) if recipe else (),
        backbone=row.backbone or "",
        accuracy=test.accuracy,
        interval=test.interval,
        sd=None,
        value=test.accuracy,
        value_interval=test.interval,
        balanced_accuracy=test.balanced_accuracy,
        balanced_interval=test.balanced_interval,
        macro_f1=test.macro_f1,
        val_accuracy=val.accuracy,
        val_value=val.accuracy,
        val_loss=val.loss,
        wall_s=cost.wall_s if cost else math.nan,
        alone_s=cost.alone_s if cost else math.nan,
        latency_ms=latency_ms(cost) if cost else None,
        busy=bool(cost and cost.busy),
        budget=Budget(0, 0),
        marks=row.marks,
        group=None,
    )


def match_runs(rows: Sequence[Row], runs: Sequence[Run], root: Path | None = None) -> list[Matched]:
    """Each row's number and run, in the order of the rows, without rows whose run is not given.

    A row's path says which run it is: relative to `root`, the folder of the comparison, or, where
    that was moved or is not known, by as many folders as the row names. A row without a path is of
    a run without a result, and takes the next of its name.
    """
    left = list(range(len(runs)))
    places = [_plain(run.path) for run in runs]
    found: dict[int, int] = {}

    def take(row: int, fitting: Iterator[int]) -> None:
        if row not in found and (mine := next(fitting, None)) is not None:
            left.remove(mine)
            found[row] = mine

    if root is not None:
        for row, place in _placed(rows):
            given = _plain(root / place)
            take(row, (k for k in left if places[k] == given))
    # The longest first: "x" is also the end of "a/x".
    tails = {row: [part for part in place.parts if part != ".."] for row, place in _placed(rows)}
    for row, tail in sorted(tails.items(), key=lambda each: -len(each[1])):
        take(row, (k for k in left if [*places[k].parts[-len(tail) :]] == tail))
    for row, given_row in enumerate(rows):
        if not given_row.path:
            take(row, (k for k in left if _is_failure(given_row, runs[k])))
    return [(row + 1, rows[row], runs[found[row]]) for row in sorted(found)]


def _plain(path: Path) -> Path:
    """From the root, by names alone, as a comparison writes its paths."""
    return Path(os.path.normpath(path.absolute()))


def _placed(rows: Sequence[Row]) -> list[tuple[int, Path]]:
    """The numbers of the rows that have a path, and that path."""
    return [
        (number, Path(os.path.normpath(row.path))) for number, row in enumerate(rows) if row.path
    ]


def _is_failure(row: Row, run: Run) -> bool:
    name = _name(run)
    named = row.run == name or row.run.startswith(f"{name} (")
    return named and optional(lambda: run.temperature) is None


def _name(run: Run) -> str:
    return optional(lambda: run.name) or run.path.name
