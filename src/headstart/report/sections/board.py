"""The leaderboard: a line for each configuration, its runs below it, and the runs that failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from headstart.comparison.records import Row
from headstart.report.contenders import (
    Contender,
    file_mb,
    latency_ms,
    metrics_of,
    slow_ms,
    throughput,
    training_seconds,
)
from headstart.report.drawing import plots
from headstart.rundir.records import Cost, Metrics
from headstart.text import formats


@dataclass(frozen=True)
class Line:
    """A run's row, and its metrics where its directory is at hand."""

    row: Row
    metrics: Metrics | None


@dataclass(frozen=True)
class Column:
    """A numeric column of the leaderboard: what to sort by, what to print, where it is defined."""

    label: str
    term: str  # its entry in the definitions
    value: Callable[[Line], float | None]
    text: Callable[[float | None], str]
    rising: bool = False  # whether less is better, so that the first click sorts upwards


def _ece(line: Line) -> float | None:
    """Of the probabilities that are served, with their temperature."""
    return line.metrics.test.calibrated.ece if line.metrics else None


def _cost(read: Callable[[Cost], float | None]) -> Callable[[Line], float | None]:
    return lambda line: read(line.row.cost) if line.row.cost else None


# Beside accuracy where classes are unequal, or where something else chooses.
BALANCE = (
    Column(
        "Balanced accuracy", "balanced", lambda line: line.row.balanced_accuracy, formats.percent
    ),
    Column("Macro F1", "f1", lambda line: line.row.macro_f1, formats.decimal),
)
COLUMNS = (
    Column("Val accuracy", "val", lambda line: line.row.val_accuracy, formats.percent),
    Column("Top-5", "top5", lambda line: line.row.top5, formats.percent),
    Column("Log loss", "loss", lambda line: line.row.loss, formats.decimal, rising=True),
    Column("ECE", "ece", _ece, formats.percent, rising=True),
    Column("Training", "training", _cost(training_seconds), formats.duration, rising=True),
    Column("Latency, ms", "latency", _cost(latency_ms), formats.decimal, rising=True),
    Column("Images/s", "throughput", _cost(throughput), formats.count),
    Column("Param.", "parameters", _cost(lambda cost: cost.parameters), formats.metric, True),
    Column("MACs", "macs", _cost(lambda cost: cost.macs), formats.metric, rising=True),
    Column("Model file", "size", _cost(file_mb), formats.megabytes, rising=True),
    Column("Serving memory", "serving", _cost(lambda cost: cost.serving_rss_mb),
           formats.megabytes, rising=True),
    Column("Memory", "memory", _cost(lambda cost: cost.peak_rss_mb), formats.megabytes, True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """What a column shows, and the number to sort by; None where that is not known or infinite."""

    sort: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a configuration. anchor: the id of its section. bar: its accuracy as a drawing."""

    row: Row
    anchor: str | None
    bar: Markup
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A configuration. anchor, p_value: of its only run. members: its runs, if it has several."""

    rank: int
    contender: Contender
    seeds: int
    anchor: str | None
    backbone: str | None
    weights: str | None
    p_value: float | None
    bar: Markup
    cells: list[Cell]
    members: list[Member]


@dataclass(frozen=True, slots=True)
class Failed:
    """A run without a result. anchor: the id of its section."""

    row: Row
    anchor: str | None


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard, best first. `cells` of its lines are in the order of `columns`."""

    lines: list[Ranked]
    failed: list[Failed]
    columns: list[Column]
    tested: bool  # whether runs have p-values
    grouped: bool  # whether configurations are in groups
    seeded: bool  # whether one has several runs


def describe_board(
    contenders: Sequence[Contender],
    failed: Sequence[Row],
    anchors: Mapping[str, str],
    *,
    balance: bool = False,
    many: bool = False,
) -> Board:
    """Lines for the template; `anchors` has the id of each run's section by the run's label.

    balance: whether balanced accuracy and macro F1 stand beside accuracy. many: whether images may
    have several labels; macro F1 then stands beside mAP.
    """
    scored = [_lines(contender) for contender in contenders]
    columns = _columns([line for each in scored for line in each], balance, many)
    extent = _extent(contenders)
    reference = next((c.accuracy for c in contenders if c.chosen), None)
    lines = []
    for rank, (contender, own) in enumerate(zip(contenders, scored, strict=True), start=1):
        rows = contender.rows
        members = [_member(line, anchors, columns, extent, reference) for line in own]
        lines.append(
            Ranked(
                rank=rank,
                contender=contender,
                seeds=len(rows),
                anchor=members[0].anchor if len(members) == 1 else None,
                backbone=rows[0].backbone,
                weights=rows[0].weights,
                p_value=rows[0].p_value if len(rows) == 1 else None,
                bar=plots.whisker(contender.accuracy, contender.interval, extent, reference),
                cells=[_cell(column, own, contender.balanced) for column in columns],
                members=members if len(members) > 1 else [],
            )
        )
    return Board(
        lines=lines,
        failed=[Failed(row, anchors.get(row.run)) for row in failed],
        columns=columns,
        tested=any(row.p_value is not None for c in contenders for row in c.rows),
        grouped=any(c.group is not None for c in contenders),
        seeded=any(len(c.rows) > 1 for c in contenders),
    )


def _lines(contender: Contender) -> list[Line]:
    runs = contender.by_row
    return [
        Line(row, metrics_of(runs[row.run]) if row.run in runs else None) for row in contender.rows
    ]


def _columns(lines: Sequence[Line], balance: bool, many: bool) -> list[Column]:
    """The columns of which some run knows the value; memory in serving goes before the run's."""
    possible: tuple[Column, ...] = (*BALANCE, *COLUMNS) if balance else COLUMNS
    if many:
        possible = (BALANCE[1], replace(COLUMNS[0], label="Val mAP"), *COLUMNS[1:])
    known = [c for c in possible if any(c.value(line) is not None for line in lines)]
    serving = any(column.term == "serving" for column in known)
    return [column for column in known if not (serving and column.term == "memory")]


def _extent(contenders: Sequence[Contender]) -> tuple[float, float]:
    bounds = [edge for c in contenders for edge in c.interval]
    bounds += [edge for c in contenders for row in c.rows for edge in row.interval or ()]
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.01, high + 0.01)


def _member(
    line: Line,
    anchors: Mapping[str, str],
    columns: Sequence[Column],
    extent: tuple[float, float],
    reference: float | None,
) -> Member:
    row = line.row
    return Member(
        row=row,
        anchor=anchors.get(row.run),
        bar=plots.whisker(row.accuracy or 0.0, row.interval or (0.0, 0.0), extent, reference),
        cells=[_cell(column, [line], _balanced(row)) for column in columns],
    )


def _balanced(row: Row) -> tuple[float, tuple[float, float]] | None:
    value, bounds = row.balanced_accuracy, row.balanced_interval
    return None if value is None or bounds is None else (value, bounds)


def _cell(
    column: Column,
    lines: Sequence[Line],
    balanced: tuple[float, tuple[float, float]] | None,
) -> Cell:
    """The mean over the runs, and what to sort by; balanced accuracy comes with its interval."""
    values = [v for line in lines if (v := column.value(line)) is not None]
    value = sum(values) / len(values) if values else None
    text = column.text(value)
    if column.term == "balanced" and balanced:
        value, text = balanced[0], f"{formats.percent(balanced[0])} {formats.interval(balanced[1])}"
    if column.term == "latency" and value is not None:
        tails = [tail for line in lines if (tail := _cost(slow_ms)(line)) is not None]
        text = f"{value:.1f}"
        if len(tails) == len(values):
            text = f"{value:.1f} / {sum(tails) / len(tails):.1f}"
    if column.term in ("latency", "throughput") and any(
        line.row.cost and line.row.cost.busy for line in lines
    ):
        text = f"~{text}"
    known = value is not None and math.isfinite(value)
    return Cell(value if known else None, text)
