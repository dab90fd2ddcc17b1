"""A run in a few lines, at a prompt and in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart_predict.cards import Card, interval, percent

if TYPE_CHECKING:
    from headstart.rundir.run import Run


def run_card(run: Run) -> Card:
    facts = [("directory", str(run.path)), ("backbone", run.recipe.backbone.name)]
    if run.finished:
        facts += _many_scores(run) if run.recipe.many_labels else _scores(run)
        facts += [
            ("time", f"{run.cost.wall_s:.1f} s"),
            ("report", str(run.path / "report" / "report.html")),
        ]
    if warned := run.warnings:
        facts.append(("warnings", f"{len(warned)}: {warned[0]}"))
    return Card(f"Run {run.name}: {run.status}", facts)


def _scores(run: Run) -> list[tuple[str, str]]:
    test, val = run.metrics.test, run.metrics.val
    shown = f"{percent(test.accuracy)} {interval(test.interval)}, n = {test.n:,}"
    balanced = f"{percent(test.macro_recall)} {interval(test.balanced_interval)}"
    return [
        ("test accuracy", shown),
        ("balanced", balanced),
        ("val accuracy", f"{percent(val.accuracy)}, n = {val.n:,}"),
    ]


def _many_scores(run: Run) -> list[tuple[str, str]]:
    test, val = run.many_metrics.test, run.many_metrics.val
    return [
        ("test mAP", f"{percent(test.mean_ap)} {interval(test.interval)}, n = {test.n:,}"),
        ("micro F1", f"{test.micro_f1:.3f}"),
        ("val mAP", f"{percent(val.mean_ap)}, n = {val.n:,}"),
    ]
