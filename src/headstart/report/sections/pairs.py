"""Paired tests between configurations, as a matrix: rows are the more accurate ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headstart.comparison.choice import TITLES
from headstart.comparison.records import Comparison, Pair
from headstart.report.contenders import Contender
from headstart.report.sections.tables import TableRow
from headstart.text import formats


@dataclass(frozen=True, slots=True)
class Difference:
    """The row minus the column, as text. p: corrected for all pairs. apart: more than chance."""

    change: str
    interval: str
    p: str
    apart: bool


@dataclass(frozen=True, slots=True)
class PairsSection:
    """The matrix, whose cells are in `unit`s of what `title` names: `apart` of its `count` pairs
    differ significantly, by `tests`."""

    columns: list[str]
    rows: list[TableRow[Difference | None]]
    apart: int
    count: int
    tests: list[str]
    title: str
    unit: str


def describe_pairs(compared: Comparison, contenders: Sequence[Contender]) -> PairsSection | None:
    """Each pair's difference in points, its interval and p-value; None without pairs.

    A cell is the row's accuracy, or other metric compared by, minus the column's. The last
    configuration has no row and the first no column, since the other half of the matrix would
    repeat this one.
    """
    known = {(pair.first, pair.second): pair for pair in compared.pairs}
    names = [c.name for c in contenders]
    if not known or len(names) < 2:
        return None
    metric = compared.select_by
    size = _nats if metric == "loss" else formats.points
    rows = [
        TableRow(
            name,
            [
                _cell(known, name, other, size) if j > i else None
                for j, other in enumerate(names)
                if j > 0
            ],
        )
        for i, name in enumerate(names[:-1])
    ]
    return PairsSection(
        columns=names[1:],
        rows=rows,
        apart=sum(pair.told_apart for pair in known.values()),
        count=len(known),
        tests=sorted({pair.test for pair in known.values()}),
        title="minus the log loss" if metric == "loss" else TITLES[metric],
        unit="nats" if metric == "loss" else "percentage points",
    )


def _nats(change: float) -> str:
    return f"{change:+.3f}".replace("-", "\u2212")


def _cell(
    known: Mapping[tuple[str, str], Pair],
    row: str,
    column: str,
    size: Callable[[float], str],
) -> Difference | None:
    if (column, row) in known:
        pair = known[column, row]
        change, (low, high) = pair.change, pair.interval
    elif (row, column) in known:
        pair = known[row, column]
        change = -pair.change
        high, low = (-bound for bound in pair.interval)
    else:
        return None
    return Difference(
        change=size(change),
        interval=f"[{size(low)}, {size(high)}]",
        p=formats.p_value(pair.p_adjusted),
        apart=pair.told_apart,
    )
