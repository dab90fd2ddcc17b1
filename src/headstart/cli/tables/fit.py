"""The output of `fit`: ten lines, and the shape of its --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart.cli.tables.classes import class_lines
from headstart.cli.tables.common import own_command, warning_lines
from headstart.cli.tables.run import fold_lines, score_lines, split_scores
from headstart.files import to_json
from headstart.text.durations import format_seconds
from headstart_predict.cards import interval, percent

if TYPE_CHECKING:
    from headstart.photos import Fitted
    from headstart.rundir.records import SplitScores
    from headstart.rundir.run import Run

SHOWN = 3  # warnings


def fit_to_json(fitted: Fitted) -> dict[str, Any]:
    """The shape of `headstart fit --json`."""
    return {
        **split_scores(fitted.run),
        "run": str(fitted.run.path),
        "bundle": str(fitted.bundle),
        "report": str(fitted.report),
        "recipe": str(fitted.recipe),
        "study": str(fitted.study),
        "why": fitted.why,
        "framing": to_json(fitted.framing),
        "warnings": fitted.warnings,
        "runs": [row.run for row in fitted.comparison.rows],
        "not_tried": list(fitted.left_out),
        "seconds": fitted.seconds,
    }


def format_fit(fitted: Fitted) -> str:
    """How good and how sure, what to worry about, where it is, and what to type next."""
    run = fitted.run
    held = ", ".join(f"{n:,} {split}" for split, n in fitted.description.images.items())
    command, warnings, source = own_command(), fitted.warnings, fitted.description.source
    more = len(warnings) - SHOWN
    audited = _audited(source, warnings) and not run.recipe.many_labels
    lines = [
        f"images         {held}; {len(fitted.description.class_names)} classes",
        f"chosen         {run.name}, {fitted.why}",
        *([f"framing        {fitted.framing.text}"] if fitted.framing else []),
        f"time           {format_seconds(fitted.seconds)}",
        *_scores(run),
        *warning_lines(warnings[:SHOWN]),
        *([f"warning: {more} more, in the report"] if more > 0 else []),
        f"report         {fitted.report}",
        f"model          {fitted.bundle}",
        *([f"look at them   {command} data audit {source}"] if audited else []),
        f"again          {command} compare {fitted.study}",
        f"use it         {command} predict {fitted.bundle} IMAGE...",
        f"one page       {command} export {run.path} --format html",
    ]
    return "\n".join(lines)


def _audited(source: str, warnings: list[str]) -> bool:
    """Whether an audit may show more of what is warned about: it is for photos of the user."""
    from headstart.data.sources.places import is_photos

    return bool(warnings) and is_photos(source)


def _scores(run: Run) -> list[str]:
    if run.recipe.many_labels:
        return score_lines(run)
    test, val = run.metrics.test, run.metrics.val
    return [
        f"test           {_accuracy(test)}",
        *class_lines(run),
        f"validation     {_accuracy(val)}",
        *fold_lines(run),
    ]


def _accuracy(scores: SplitScores) -> str:
    return f"accuracy {percent(scores.accuracy)} {interval(scores.interval)}, n = {scores.n:,}"
