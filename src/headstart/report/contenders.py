"""Contenders: what the page compares. A configuration with its runs, one for each seed.

A comparison brings them ready made. Without one, as for older runs, each run stands for itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headstart.comparison.cheapest import Priced
from headstart.comparison.leaderboard import tell_apart
from headstart.errors import HeadstartError
from headstart.recipe import Recipe
from headstart.rundir import Run

Row = Mapping[str, Any]

_NO_RESULT: Row = dict.fromkeys(
    (
        "status",
        "error",
        "backbone",
        "weights",
        "accuracy",
        "interval",
        "n",
        "p_value",
        "within_noise",
    )
)


@dataclass(frozen=True)
class Contender:
    """A configuration: its mean over seeds, and the runs behind it. Accuracies are fractions.

    drawn: what plots against cost show, with its interval: the metric that the comparison goes by
    where that is a share, else accuracy. val_key: what validation chooses by, higher is better.
    """

    name: str
    rows: tuple[Row, ...]
    runs: tuple[Run, ...]  # those whose directories are at hand
    accuracy: float
    interval: tuple[float, float]
    val_accuracy: float | None
    drawn: tuple[float, tuple[float, float]]
    val_key: tuple[float, float]
    balanced: tuple[float, tuple[float, float]] | None = None  # balanced accuracy
    macro_f1: float | None = None
    sd: float | None = None  # of the accuracy, over seeds
    group: int | None = None  # 1: the highest on test and all that cannot be told from it
    chosen: bool = False  # validation's choice is one of its runs
    winner: bool = False  # it stands out beyond chance
    marks: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> Literal["best", "near", "other"]:
        """best, near (cannot be told from it) or other: how it is drawn."""
        return "best" if self.chosen else "near" if self.near else "other"

    @property
    def near(self) -> bool:
        return any(row.get("within_noise") for row in self.rows)

    def metric(self, *keys: str) -> dict[str, Any]:
        """A block of the first run's metrics that has one, {} where none has."""
        for run in self.runs:
            node: Any = metrics_of(run)
            for key in keys:
                node = (node or {}).get(key)
            if node:
                return dict(node)
        return {}

    def mean(self, value: Callable[[Row], float | None]) -> float | None:
        """The mean of a number over the runs that know it."""
        known = [v for row in self.rows if (v := value(row)) is not None]
        return sum(known) / len(known) if known else None


def optional(read: Callable[[], Any], default: Any) -> Any:
    """What `read` gives, or `default` where the run has not got that far."""
    try:
        return read()
    except (HeadstartError, KeyError):
        return default


def manifest_of(run: Run) -> dict[str, Any]:
    return dict(optional(lambda: run.manifest, {}))


def metrics_of(run: Run) -> dict[str, Any]:
    return dict(optional(lambda: run.metrics, {}))


def recipe_of(run: Run) -> Recipe | None:
    recipe: Recipe | None = optional(lambda: run.recipe, None)
    return recipe


def training_seconds(row: Row) -> float | None:
    """Seconds of computing features and training, as they are with an empty cache; without those,
    of the whole run."""
    cost = row.get("cost") or {}
    if cost.get("alone_s") is not None:
        return float(cost["alone_s"])
    spent = [cost[key] for key in ("extract_s", "train_s") if cost.get(key) is not None]
    return sum(spent) if spent else cost.get("wall_s")


def latency_ms(row: Row, which: str = "median") -> float | None:
    """Milliseconds for one image, the median or "p95"; None where that was not measured."""
    return ((row.get("cost") or {}).get("latency_ms") or {}).get(which)


def timed_busy(row: Row) -> bool:
    """Whether its times were taken on a machine that was too busy to compare them."""
    return bool(((row.get("cost") or {}).get("measured") or {}).get("busy"))


def price(contender: Contender) -> Priced:
    """What `find_cheapest` compares: the configuration's name, and the costs of its runs."""
    return contender.name, [row.get("cost") or {} for row in contender.rows]


def throughput(row: Row) -> float | None:
    return ((row.get("cost") or {}).get("throughput") or {}).get("images_per_s")


def cost_of(*keys: str) -> Callable[[Row], float | None]:
    """The first of some entries of a row's costs that it has."""

    def value(row: Row) -> float | None:
        cost = row.get("cost") or {}
        return next((cost[key] for key in keys if cost.get(key) is not None), None)

    return value


def find_contenders(
    compared: Mapping[str, Any], matched: Sequence[tuple[int, Row, Run]]
) -> list[Contender]:
    """The finished configurations of a comparison, in its order: best first."""
    runs = {row["run"]: run for _, row, run in matched}
    rows = {
        row["run"]: {**row, "test": _test_scores(runs.get(row["run"]))}
        for row in full_rows(compared)
        if row.get("accuracy") is not None
    }
    given = compared.get("configurations") or [
        {"name": name, "runs": [name], **{key: row.get(key) for key in _SCORES}}
        for name, row in rows.items()
    ]
    shared = compared.get("select_by") in ("balanced_accuracy", "macro_f1")
    best = compared.get("best")
    if best not in rows and rows:
        best = next(iter(rows))
    return [
        Contender(
            name=each["name"],
            rows=tuple(rows[label] for label in each["runs"] if label in rows),
            runs=tuple(runs[label] for label in each["runs"] if label in runs),
            accuracy=each["accuracy"],
            interval=(each["interval"][0], each["interval"][1]),
            val_accuracy=each.get("val_accuracy"),
            drawn=_pair(
                each, "value" if shared else "accuracy", "value_interval" if shared else "interval"
            ),
            val_key=(
                each.get("val_value", each.get("val_accuracy")) or 0.0,
                -each.get("val_loss", 0.0),
            ),
            balanced=_pair(each, "balanced_accuracy", "balanced_interval")
            if each.get("balanced_interval")
            else None,
            macro_f1=each.get("macro_f1"),
            sd=each.get("sd"),
            group=each.get("group"),
            chosen=best in each["runs"],
            winner=compared.get("winner") == each["name"],
            marks=tuple(each.get("marks") or ()),
        )
        for each in given
        if any(label in rows for label in each["runs"])
    ]


def _pair(each: Mapping[str, Any], value: str, interval: str) -> tuple[float, tuple[float, float]]:
    return each[value], (each[interval][0], each[interval][1])


def _test_scores(run: Run | None) -> dict[str, Any]:
    """What the comparison leaves to the run: calibration, averages over classes."""
    metrics = metrics_of(run) if run else {}
    return dict(metrics.get("test") or {})


_BALANCE = ("balanced_accuracy", "balanced_interval", "macro_f1")
_SCORES = ("accuracy", "interval", "val_accuracy", "marks", *_BALANCE)


def full_rows(compared: Mapping[str, Any]) -> list[Row]:
    return [{**_NO_RESULT, **row} for row in compared["rows"]]


def compare_rows(runs: Sequence[Run]) -> dict[str, Any]:
    """A comparison made from the runs alone: the most accurate on test first, without p-values."""
    names = tell_apart([_name(run) for run in runs])
    rows = [_row(run, name) for run, name in zip(runs, names, strict=True)]
    rows.sort(key=lambda row: math.inf if row["accuracy"] is None else -row["accuracy"])
    if not rows or rows[0]["accuracy"] is None:
        return {"name": None, "best": None, "rows": rows, "protocol": {}}
    best = rows[0]
    for row in rows[1:]:
        if row["accuracy"] is not None:
            row["within_noise"] = row["interval"][1] >= best["interval"][0]
    return {"name": None, "best": best["run"], "rows": rows, "protocol": {}}


def _row(run: Run, name: str) -> dict[str, Any]:
    manifest = manifest_of(run)
    metrics = metrics_of(run)
    test = metrics.get("test") or {}
    recipe = recipe_of(run)
    cost = optional(lambda: run.cost, {})
    status = manifest.get("status", "unknown")
    if status == "running" and cost:
        status = "finished"  # a run writes its report just before it says so of itself
    return {
        "run": name,
        "path": str(run.path.absolute()),
        "status": status,
        "error": manifest.get("error"),
        "backbone": recipe.backbone.name if recipe else "",
        "weights": (manifest.get("weights") or {}).get("provider", ""),
        **{key: test.get(key) for key in ("accuracy", "interval", "n", "top5", "loss")},
        "balanced_accuracy": test.get("macro_recall"),
        "balanced_interval": test.get("balanced_interval"),
        "macro_f1": test.get("macro_f1"),
        "val_accuracy": (metrics.get("val") or {}).get("accuracy"),
        "p_value": None,
        "within_noise": False,
        "marks": list(manifest.get("marks", [])),
        "cost": cost,
    }


def match_runs(
    rows: Sequence[Row], runs: Sequence[Run], root: Path | None = None
) -> list[tuple[int, Row, Run]]:
    """Each row's number and run, in the order of the rows, without rows whose run is not given.

    A row's path says which run it is: relative to `root`, the folder of the comparison, or, where
    that was moved or is not known, by as many folders as the row names. A row without a path is of
    a run without a result, and takes the next of its name.
    """
    left = list(enumerate(runs))
    places = [_plain(run.path) for run in runs]
    found: dict[int, int] = {}

    def take(row: int, fits: Callable[[int], bool]) -> None:
        if row not in found and (mine := next((each for each in left if fits(each[0])), None)):
            left.remove(mine)
            found[row] = mine[0]

    if root is not None:
        for row, place in _placed(rows):
            given = _plain(root / place)
            take(row, lambda k, given=given: places[k] == given)  # type: ignore[misc]
    # The longest first: "x" is also the end of "a/x".
    tails = {row: [part for part in place.parts if part != ".."] for row, place in _placed(rows)}
    for row, tail in sorted(tails.items(), key=lambda each: -len(each[1])):
        take(row, lambda k, tail=tail: [*places[k].parts[-len(tail) :]] == tail)  # type: ignore[misc]
    for row, given_row in enumerate(rows):
        if not given_row.get("path"):
            take(row, lambda k, row=row: _is_failure(rows[row], runs[k]))  # type: ignore[misc]
    return [(row + 1, rows[row], runs[found[row]]) for row in sorted(found)]


def _plain(path: Path) -> Path:
    """From the root, by names alone, as a comparison writes its paths."""
    return Path(os.path.normpath(path.absolute()))


def _placed(rows: Sequence[Row]) -> list[tuple[int, Path]]:
    """The numbers of the rows that have a path, and that path."""
    return [
        (number, Path(os.path.normpath(row["path"])))
        for number, row in enumerate(rows)
        if row.get("path")
    ]


def _is_failure(row: Row, run: Run) -> bool:
    name = _name(run)
    named = row["run"] == name or str(row["run"]).startswith(f"{name} (")
    return named and not metrics_of(run).get("test")


def _name(run: Run) -> str:
    return str(optional(lambda: run.name, run.path.name))
