"""The regret of a choice under a budget, known when every run of its study is finished."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from headstart.comparison.choice import shared_metric
from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import Regret
from headstart.evaluation.statistics import paired_change
from headstart.evaluation.values import image_values, value_difference
from headstart.rundir.run import Run, open_run
from headstart.selection.candidates import Candidate, Selection


def regrets(
    selection: Selection, candidates: Sequence[Candidate], best: str, root: Path
) -> dict[str, Regret]:
    """The regret of the budgeted choice and of the one that published accuracies would make.

    Empty unless every candidate's run in `root` is finished, by this command or another.
    """
    every = {}
    for candidate in candidates:
        path = root / candidate.name
        run = open_run(path) if (path / "manifest.json").exists() else None
        if not (run and run.finished):
            return {}
        if run.manifest.fingerprint != candidate.fingerprint:
            return {}
        every[candidate.name] = run
    runs = list(every.values())
    chosen = {"choice": every[best], "baseline": every[selection.order[0]]}
    return {what: regret(run, runs, root) for what, run in chosen.items()}


def regret(chosen: Run, every: Sequence[Run], root: Path) -> Regret:
    """The regret of `chosen`; all runs of its study must be finished.

    It is the test score of the run that the full comparison chooses, minus that of `chosen`. The
    score is accuracy, or balanced accuracy or macro F1 if the runs choose by it.
    """
    full = build_comparison("full", every, [], root)
    best = next(r for r in every if os.path.relpath(r.path, root) == full.best_row.path)
    if best.path == chosen.path:
        text = "none: the same run as the full comparison's best"
        return Regret(0.0, (0.0, 0.0), full.best, text)
    first, second = chosen.predictions("test"), best.predictions("test")
    metric = shared_metric(every)
    if metric.name not in ("accuracy", "loss"):
        tables = [image_values(each, metric.name)[None] for each in (first, second)]
        strata = None if metric.name == "mean_ap" else first.labels
        gap = value_difference(tables[0], tables[1], strata)
        bounds = f"[{100 * gap.interval[0]:+.1f}, {100 * gap.interval[1]:+.1f}]"
        text = (
            f"{100 * gap.change:+.1f} points {bounds} of {metric.title} on test, paired, "
            f"n = {len(first):,}: the full comparison's best is {full.best}"
        )
        return Regret(gap.change, gap.interval, full.best, text)
    change = paired_change(first, second)
    low, high = (100 * bound for bound in change.interval)
    text = (
        f"{100 * change.change:+.1f} points [{low:+.1f}, {high:+.1f}] of test accuracy, paired, "
        f"n = {change.n:,}: the full comparison's best is {full.best}"
    )
    return Regret(change.change, change.interval, full.best, text)
