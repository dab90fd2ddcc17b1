"""The best run that is quick and small enough, and what a budgeted choice gave away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from headstart.comparison.cheapest import BUSY, find_quickest, latency_of
from headstart.comparison.configurations import name_some
from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import Comparison, Limits, Row
from headstart.rundir.run import Run


def best_within(
    comparison: Comparison,
    runs: Sequence[Run],
    root: Path,
    max_ms: float | None,
    max_mb: float | None,
) -> Limits:
    """Validation's best among the runs that take at most `max_ms` for an image (the median on this
    machine's CPU) and at most `max_mb` on disk.

    best is None where none fits. What was not measured of a run fits no limit.
    uncertain: the runs on either side of `max_ms` that noise does not tell from it, which is said.
    """
    rows = {str(row.path): row for row in comparison.rows if row.path is not None}
    ms = float("inf") if max_ms is None else max_ms
    mb = float("inf") if max_mb is None else max_mb
    fitting = [
        run
        for run in runs
        for row in (rows[os.path.relpath(run.path, root)],)
        if (max_ms is None or ((taken := _ms(row)) is not None and taken <= ms))
        and (max_mb is None or ((size := _mb(row)) is not None and size <= mb))
    ]
    given = ((max_ms, "ms"), (max_mb, "MB"))
    asked = " and ".join(f"{limit:g} {unit}" for limit, unit in given if limit is not None)
    if fitting:
        chosen = rows[build_comparison(comparison.name, fitting, [], root).best_row.path or ""]
        best, text = chosen.run, f"best within {asked}: {chosen.run} ({_costs(chosen)})"
    else:
        best, text = None, f"no finished run is within {asked}: {_nearest(list(rows.values()))}"
    uncertain = [] if max_ms is None else _uncertain(comparison.rows, max_ms)
    if uncertain:
        text += f"; noise does not tell {name_some(uncertain)} from {max_ms:g} ms"
    if max_ms is not None and any(row.cost and row.cost.busy for row in rows.values()):
        text += f"; {BUSY}: measure again on a quiet one"
    return Limits(max_ms, max_mb, best, tuple(uncertain), text)


def _uncertain(rows: Sequence[Row], max_ms: float) -> list[str]:
    """The runs whose latency may lie on the other side of the limit."""
    timed = [(row.run, latency_of([row.cost])) for row in rows if row.cost]
    return [run for run, latency in timed if latency and latency.low <= max_ms < latency.high]


def _ms(row: Row) -> float | None:
    return row.cost.latency_ms.median if row.cost and row.cost.latency_ms else None


def _mb(row: Row) -> float | None:
    return row.cost.file_mb if row.cost else None


def _costs(row: Row) -> str:
    taken, size = _ms(row), _mb(row)
    return (
        f"{'not timed' if taken is None else f'{taken:.1f} ms'}, "
        f"{'size not known' if size is None else f'{size:.1f} MB'}"
    )


def _nearest(rows: Sequence[Row]) -> str:
    """What the quickest and the smallest run take."""
    parts = []
    if timed := [row for row in rows if _ms(row) is not None]:
        quickest = min(timed, key=lambda row: _ms(row) or 0.0)
        level, untimed = find_quickest([(row.run, [row.cost]) for row in timed if row.cost])
        sure = untimed is None and len(level) == 1
        said = "the quickest is" if sure else "the least time was taken by"
        parts.append(f"{said} {quickest.run} ({_costs(quickest)})")
    if weighed := [row for row in rows if _mb(row) is not None]:
        smallest = min(weighed, key=lambda row: _mb(row) or 0.0)
        parts.append(f"the smallest is {smallest.run} ({_costs(smallest)})")
    return ", ".join(parts) or "nothing was measured of them"
