"""The output of `run`: a finished run as text, its profile, and the shape of its --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart.cli.tables.classes import class_lines, scores_to_json
from headstart.cli.tables.common import own_command, warning_lines
from headstart_predict.cards import grid, interval, percent

if TYPE_CHECKING:
    from headstart.rundir.records import Cost
    from headstart.rundir.run import Run


def run_to_json(run: Run) -> dict[str, Any]:
    """The shape of `headstart run --json`."""
    from headstart.files import to_json

    weights, profile = run.provenance.weights, run.profile
    return {
        "run": str(run.path),
        "name": run.name,
        **split_scores(run),
        "cost": to_json(run.cost),
        "warnings": run.warnings,
        "backbone": {
            "name": run.recipe.backbone.name,
            "weights": {key: getattr(weights, key) for key in ("provider", "name", "sha256")},
        },
        **({"profile": to_json(profile)} if profile else {}),
    }


def split_scores(run: Run) -> dict[str, Any]:
    """The scores of both splits for --json."""
    from headstart.files import to_json

    if run.recipe.many_labels:
        return {"test": run.many_metrics.test.to_json(), "val": run.many_metrics.val.to_json()}
    return {
        "test": scores_to_json(run.metrics.test),
        "val": scores_to_json(run.metrics.val),
        **({"folds": to_json(run.metrics.folds)} if run.metrics.folds else {}),
    }


def score_lines(run: Run) -> list[str]:
    """A run's scores on test and validation, a line each."""
    if run.recipe.many_labels:
        return _many_lines(run)
    test, val = run.metrics.test, run.metrics.val
    return [
        f"test accuracy  {percent(test.accuracy)} {interval(test.interval)}  "
        f"n = {test.n:,}, log loss {test.loss:.3f}"
        + ("" if test.top5 is None else f", top-5 {percent(test.top5)}"),
        *class_lines(run),
        f"val accuracy   {percent(val.accuracy)} {interval(val.interval)}  n = {val.n:,}",
        *fold_lines(run),
    ]


def _many_lines(run: Run) -> list[str]:
    test, val = run.many_metrics.test, run.many_metrics.val
    known = [(row.ap, name) for name, row in zip(run.class_names, test.per_label, strict=True)
             if row.ap is not None]  # fmt: skip
    least = ", ".join(f"{name} ({percent(ap)})" for ap, name in sorted(known)[:3])
    return [
        f"test mAP       {percent(test.mean_ap)} {interval(test.interval)}  "
        f"n = {test.n:,}, log loss {test.loss:.3f}",
        f"labels         micro F1 {test.micro_f1:.3f}, macro F1 {test.macro_f1:.3f}; all labels "
        f"right {percent(test.all_right)} {interval(test.all_right_interval)}",
        f"least AP       {least}",
        f"val mAP        {percent(val.mean_ap)} {interval(val.interval)}  n = {val.n:,}",
    ]


def format_run(run: Run) -> str:
    """A finished run in a few lines."""
    cost = run.cost
    weights = run.provenance.weights
    lines = [
        f"{run.name}: {run.recipe.backbone.name}, {weights.provider} weights ({weights.source})",
        *score_lines(run),
        _time(cost),
        _serving(cost),
        *warning_lines(run.warnings),
        f"report         {run.path / 'report' / 'report.html'}",
        f"predict with   {own_command()} predict {run.path} IMAGE...",
    ]
    return "\n".join(lines)


def fold_lines(run: Run) -> list[str]:
    """The line about all labelled images, where they were predicted by folds."""
    if (found := run.metrics.folds) is None:
        return []
    return [
        f"all images     {percent(found.accuracy)} {interval((found.low, found.high))}  "
        f"n = {found.n:,}, heads on frozen features, {found.repeats} x {found.folds} folds"
    ]


def _time(cost: Cost) -> str:
    """The seconds of a run, and those that the cache saved."""
    spared = cost.spared_s
    cached = f"; {spared:.1f} s of frozen passes were in the cache" if spared else ""
    return (
        f"time           {cost.wall_s:.1f} s: frozen passes {cost.extract_s:.1f} s, "
        f"training {cost.train_s:.1f} s{cached}"
    )


def _serving(cost: Cost) -> str:
    """The cost of serving the model on this machine's CPU."""
    one, many = cost.latency_ms, cost.throughput
    if cost.not_measured or not one or not many:
        why = cost.not_measured or "headstart compare RUN measures it"
        return f"to serve       not measured: {why}"
    memory = cost.serving_rss_mb
    weighs = [f"{cost.file_mb:.1f} MB on disk"]
    weighs += [f"{memory:,.0f} MB of memory"] if memory is not None else []
    return (
        f"to serve       {one.median:.1f} ms an image (95 % within {one.p95:.1f}), "
        f"{many.images_per_s:,.0f} images/s by {many.batch}; {', '.join(weighs)}"
        f"{f' (this machine was too busy to time it: {cost.busy})' if cost.busy else ''}"
    )


def format_profile(run: Run) -> str:
    """A run's time by section, the longest first."""
    rows = [
        (s.name, f"{s.seconds:.1f}", percent(s.share), f"{s.entries:,}")
        for s in (run.profile.sections if run.profile else ())
    ]
    return grid(("where the time went", "seconds", "share", "entries"), rows, "lrrr")
