"""The leaderboard: a line for each configuration, its runs below it, and the runs that failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.report import formats, plots
from headstart.report.contenders import (
    Contender,
    Row,
    cost_of,
    latency_ms,
    throughput,
    timed_busy,
    training_seconds,
)


@dataclass(frozen=True)
class Column:
    """A numeric column of the leaderboard: what to sort by, what to print, where it is defined."""

    label: str
    term: str  # its entry in the definitions
    value: Callable[[Row], float | None]
    text: Callable[[float | None], str]
    rising: bool = False  # whether less is better, so that the first click sorts upwards


def _served(row: Row, key: str) -> float | None:
    """Of the probabilities that are served, with their temperature."""
    found: float | None = ((row.get("test") or {}).get("calibrated") or {}).get(key)
    return found


# Beside accuracy where classes are unequal, or where something else chooses.
BALANCE = (
    Column(
        "Balanced accuracy", "balanced", lambda row: row.get("balanced_accuracy"), formats.percent
    ),
    Column("Macro F1", "f1", lambda row: row.get("macro_f1"), formats.decimal),
)
COLUMNS = (
    Column("Val accuracy", "val", lambda row: row.get("val_accuracy"), formats.percent),
    Column("Top-5", "top5", lambda row: row.get("top5"), formats.percent),
    Column("Log loss", "loss", lambda row: row.get("loss"), formats.decimal, rising=True),
    Column("ECE", "ece", lambda row: _served(row, "ece"), formats.percent, rising=True),
    Column("Training", "training", training_seconds, formats.duration, rising=True),
    Column("Latency, ms", "latency", latency_ms, formats.decimal, rising=True),
    Column("Images/s", "throughput", throughput, formats.count),
    Column("Param.", "parameters", cost_of("parameters"), formats.metric, rising=True),
    Column("MACs", "macs", cost_of("macs"), formats.metric, rising=True),
    Column("Model file", "size", cost_of("file_mb", "size_mb"), formats.megabytes, rising=True),
    Column("Serving memory", "serving", cost_of("serving_rss_mb"), formats.megabytes, rising=True),
    Column("Memory", "memory", cost_of("peak_rss_mb"), formats.megabytes, rising=True),
)


def describe_board(
    contenders: Sequence[Contender],
    failed: Sequence[Row],
    anchors: Mapping[str, str],
    *,
    balance: bool = False,
) -> dict[str, Any]:
    """Lines for the template; `anchors` has the id of each run's section by the run's label.

    balance: whether balanced accuracy and macro F1 stand beside accuracy.
    """
    columns = _columns([row for c in contenders for row in c.rows], balance)
    extent = _extent(contenders)
    reference = next((c.accuracy for c in contenders if c.chosen), None)
    lines = []
    for rank, contender in enumerate(contenders, start=1):
        rows = contender.rows
        members = [_member(row, anchors, columns, extent, reference) for row in rows]
        lines.append(
            {
                "rank": rank,
                "contender": contender,
                "seeds": len(rows),
                "anchor": members[0]["anchor"] if len(members) == 1 else None,
                "backbone": rows[0].get("backbone"),
                "weights": rows[0].get("weights"),
                "p_value": rows[0].get("p_value") if len(rows) == 1 else None,
                "bar": plots.whisker(contender.accuracy, contender.interval, extent, reference),
                "cells": [_cell(column, rows, contender.balanced) for column in columns],
                "members": members if len(members) > 1 else [],
            }
        )
    missing = [{"row": row, "anchor": anchors.get(row["run"])} for row in failed]
    tested = any(row.get("p_value") is not None for c in contenders for row in c.rows)
    return {"lines": lines, "failed": missing, "columns": columns, "tested": tested,
            "grouped": any(c.group is not None for c in contenders),
            "seeded": any(len(c.rows) > 1 for c in contenders)}  # fmt: skip


def _columns(rows: Sequence[Row], balance: bool) -> list[Column]:
    """The columns of which some run knows the value; memory in serving goes before the run's."""
    possible = (*BALANCE, *COLUMNS) if balance else COLUMNS
    known = [c for c in possible if any(c.value(row) is not None for row in rows)]
    serving = any(column.term == "serving" for column in known)
    return [column for column in known if not (serving and column.term == "memory")]


def _extent(contenders: Sequence[Contender]) -> tuple[float, float]:
    bounds = [edge for c in contenders for edge in c.interval]
    bounds += [edge for c in contenders for row in c.rows for edge in row["interval"]]
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.01, high + 0.01)


def _member(
    row: Row,
    anchors: Mapping[str, str],
    columns: Sequence[Column],
    extent: tuple[float, float],
    reference: float | None,
) -> dict[str, Any]:
    return {
        "row": row,
        "anchor": anchors.get(row["run"]),
        "bar": plots.whisker(row["accuracy"], row["interval"], extent, reference),
        "cells": [_cell(column, [row], _balanced(row)) for column in columns],
    }


def _balanced(row: Row) -> tuple[float, tuple[float, float]] | None:
    value, bounds = row.get("balanced_accuracy"), row.get("balanced_interval")
    return (value, (bounds[0], bounds[1])) if value is not None and bounds else None


def _cell(
    column: Column,
    rows: Sequence[Row],
    balanced: tuple[float, tuple[float, float]] | None,
) -> dict[str, Any]:
    """The mean over the runs, and what to sort by; balanced accuracy comes with its interval."""
    values = [v for row in rows if (v := column.value(row)) is not None]
    value = sum(values) / len(values) if values else None
    text = column.text(value)
    if column.term == "balanced" and balanced:
        value, text = balanced[0], f"{formats.percent(balanced[0])} {formats.interval(balanced[1])}"
    if column.term == "latency" and value is not None:
        tails = [tail for row in rows if (tail := latency_ms(row, "p95")) is not None]
        text = f"{value:.1f}"
        if len(tails) == len(values):
            text = f"{value:.1f} / {sum(tails) / len(tails):.1f}"
    if column.term in ("latency", "throughput") and any(map(timed_busy, rows)):
        text = f"~{text}"
    known = value is not None and math.isfinite(value)
    return {"sort": value if known else "", "text": text}
