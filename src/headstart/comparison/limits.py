"""The best run that is quick and small enough, and what a budgeted choice gave away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.comparison.cheapest import BUSY, find_quickest, latency_of
from headstart.comparison.choice import shared_metric
from headstart.comparison.configurations import name_some
from headstart.comparison.leaderboard import Comparison, Row, build_comparison
from headstart.comparison.selection import Candidate, Selection
from headstart.evaluation.statistics import paired_change
from headstart.evaluation.values import image_values, value_difference
from headstart.rundir import Run, open_run


def best_within(
    comparison: Comparison,
    runs: Sequence[Run],
    root: Path,
    max_ms: float | None,
    max_mb: float | None,
) -> dict[str, Any]:
    """Validation's best among the runs that take at most `max_ms` for an image (the median on this
    machine's CPU) and at most `max_mb` on disk: the "limits" of comparison.json.

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
    if max_ms is not None and any(
        (row.cost.get("measured") or {}).get("busy") for row in rows.values()
    ):
        text += f"; {BUSY}: measure again on a quiet one"
    return {
        "max_ms": max_ms,
        "max_mb": max_mb,
        "best": best,
        "uncertain": uncertain,
        "text": text,
    }


def _uncertain(rows: Sequence[Row], max_ms: float) -> list[str]:
    """The runs whose latency may lie on the other side of the limit."""
    timed = [(row.run, latency_of([row.cost])) for row in rows]
    return [run for run, latency in timed if latency and latency.low <= max_ms < latency.high]


def regrets(
    selection: Selection, candidates: Sequence[Candidate], best: str, root: Path
) -> dict[str, dict[str, Any]]:
    """The regret of the budgeted choice and of the one that published accuracies would make.

    Empty unless every candidate's run is finished here, whichever command carried it out.
    """
    every = {}
    for candidate in candidates:
        path = root / candidate.name
        found = open_run(path) if (path / "manifest.json").exists() else None
        if not (found and found.finished):
            return {}
        if found.manifest["fingerprint"] != candidate.fingerprint:
            return {}
        every[candidate.name] = found
    runs = list(every.values())
    chosen = {"choice": every[best], "baseline": every[selection.order[0]]}
    return {what: regret(run, runs, root) for what, run in chosen.items()}


def regret(chosen: Run, every: Sequence[Run], root: Path) -> dict[str, Any]:
    """What was given away by `chosen`, where all runs of its study are finished.

    value: the test accuracy, or balanced accuracy or macro F1 where the runs choose by it, of the
    run that the full comparison chooses minus the chosen one's.
    """
    full = build_comparison("full", every, [], root)
    best = next(r for r in every if os.path.relpath(r.path, root) == full.best_row.path)
    if best.path == chosen.path:
        text = "none: the same run as the full comparison's best"
        return {"value": 0.0, "interval": [0.0, 0.0], "best": full.best, "text": text}
    first, second = chosen.predictions("test"), best.predictions("test")
    metric = shared_metric(every)
    if metric.name not in ("accuracy", "loss"):
        tables = [image_values(each, metric.name)[None] for each in (first, second)]
        found = value_difference(tables[0], tables[1], first.labels)
        bounds = f"[{100 * found.interval[0]:+.1f}, {100 * found.interval[1]:+.1f}]"
        text = (
            f"{100 * found.change:+.1f} points {bounds} of {metric.title} on test, paired, "
            f"n = {len(first):,}: the full comparison's best is {full.best}"
        )
        return {"value": found.change, "interval": list(found.interval), "best": full.best,
                "text": text}  # fmt: skip
    change = paired_change(first, second)
    low, high = (100 * bound for bound in change.interval)
    text = (
        f"{100 * change.change:+.1f} points [{low:+.1f}, {high:+.1f}] of test accuracy, paired, "
        f"n = {change.n:,}: the full comparison's best is {full.best}"
    )
    interval = list(change.interval)
    return {"value": change.change, "interval": interval, "best": full.best, "text": text}


def _ms(row: Row) -> float | None:
    latency = row.cost.get("latency_ms") if "measured" in row.cost else None
    return (latency or {}).get("median")


def _mb(row: Row) -> float | None:
    size = row.cost.get("file_mb") or row.cost.get("size_mb")
    return None if size is None else float(size)


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
        level, untimed = find_quickest([(row.run, [row.cost]) for row in timed])
        sure = untimed is None and len(level) == 1
        said = "the quickest is" if sure else "the least time was taken by"
        parts.append(f"{said} {quickest.run} ({_costs(quickest)})")
    if weighed := [row for row in rows if _mb(row) is not None]:
        smallest = min(weighed, key=lambda row: _mb(row) or 0.0)
        parts.append(f"the smallest is {smallest.run} ({_costs(smallest)})")
    return ", ".join(parts) or "nothing was measured of them"
