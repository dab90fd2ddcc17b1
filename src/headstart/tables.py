"""What the command line prints: tables as text, and the shapes that --json promises."""

from __future__ import annotations

import csv
import io
import os
import shlex
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.shown import grid, interval, percent

if TYPE_CHECKING:
    from headstart.comparison.explain import Entry, Explanation, Step
    from headstart.comparison.leaderboard import Comparison, Row
    from headstart.data import Description, SourceInfo
    from headstart.data.leakage import Leakage
    from headstart.deployment.predictor import Answer
    from headstart.models.catalogue import BackboneInfo
    from headstart.rundir import Run

NONE = "-"


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """A line each, as progress on stderr words it."""
    return [f"warning: {line}" for line in warnings]


def run_as_dict(run: Run) -> dict[str, Any]:
    """The shape of `headstart run --json`."""
    from headstart import tables_classes

    kept = ("accuracy", "interval", "n", "loss", "top5")
    weights = run.manifest["weights"]
    return {
        "run": str(run.path),
        "name": run.name,
        **{
            split: {
                **{key: run.metrics[split][key] for key in kept},
                **tables_classes.scores_as_dict(run.metrics[split]),
            }
            for split in ("test", "val")
        },
        "cost": run.cost,
        "warnings": run.warnings,
        "backbone": {
            "name": run.recipe.backbone.name,
            "weights": {key: weights[key] for key in ("provider", "name", "sha256")},
        },
        **({"profile": run.profile} if run.profile else {}),
    }


def run(run: Run) -> str:
    """A finished run in a few lines."""
    from headstart import tables_classes

    test, val, cost = run.metrics["test"], run.metrics["val"], run.cost
    weights = run.manifest["weights"]
    lines = [
        f"{run.name}: {run.recipe.backbone.name}, {weights['provider']} weights "
        f"({weights['source']})",
        f"test accuracy  {percent(test['accuracy'])} {interval(test['interval'])}  "
        f"n = {test['n']:,}, log loss {test['loss']:.3f}"
        + ("" if test["top5"] is None else f", top-5 {percent(test['top5'])}"),
        *tables_classes.class_lines(run),
        f"val accuracy   {percent(val['accuracy'])} {interval(val['interval'])}  n = {val['n']:,}",
        *_time(cost),
        _serving(cost),
        *warning_lines(run.warnings),
        f"report         {run.path / 'report' / 'report.html'}",
        f"predict with   {_command()} predict {run.path} IMAGE...",
    ]
    return "\n".join(lines)


def _time(cost: Mapping[str, Any]) -> list[str]:
    """A line of the seconds that a run took, as far as they are known, and of those it spared."""
    named = (("frozen passes", "extract_s"), ("training", "train_s"))
    parts = [f"{name} {cost[key]:.1f} s" for name, key in named if key in cost]
    whole = [f"{cost['wall_s']:.1f} s"] if "wall_s" in cost else []
    said = ": ".join(part for part in (*whole, ", ".join(parts)) if part)
    spared = cost.get("spared_s") or 0.0
    cached = f"; {spared:.1f} s of frozen passes were in the cache" if spared else ""
    return [f"time           {said}{cached}"] if said else []


def _serving(cost: Mapping[str, Any]) -> str:
    """What the model costs to serve, on this machine's CPU."""
    one, many = cost.get("latency_ms"), cost.get("throughput")
    if "not_measured" in cost or not one or not many:
        why = cost.get("not_measured", "headstart compare RUN measures it")
        return f"to serve       not measured: {why}"
    size, memory = cost.get("file_mb", cost.get("size_mb")), cost.get("serving_rss_mb")
    weighs = [f"{size:.1f} MB on disk"] if size is not None else []
    weighs += [f"{memory:,.0f} MB of memory"] if memory is not None else []
    busy = (cost.get("measured") or {}).get("busy")
    return (
        f"to serve       {one['median']:.1f} ms an image (95 % within {one['p95']:.1f}), "
        f"{many['images_per_s']:,.0f} images/s by {many['batch']}"
        f"{'; ' if weighs else ''}{', '.join(weighs)}"
        f"{f' (this machine was too busy to time it: {busy})' if busy else ''}"
    )


def profile(run: Run) -> str:
    """Where a run's time went, the longest section first."""
    rows = [
        (s["name"], f"{s['seconds']:.1f}", percent(s["share"]), f"{s['entries']:,}")
        for s in run.profile["sections"]
    ]
    return grid(("where the time went", "seconds", "share", "entries"), rows, "lrrr")


def comparison_as_dict(comparison: Comparison) -> dict[str, Any]:
    """The shape of `headstart compare --json`: comparison.json, with each run as `run --json`."""
    from headstart.rundir import open_run

    runs, failed = [], []
    for row in comparison.rows:
        if row.path is None:
            failed.append({"name": row.run, "error": row.error})
            continue
        opened = open_run(_path(comparison, row))
        runs.append(
            {**run_as_dict(opened), "within_noise": row.within_noise, "p_value": row.p_value}
        )
    return {
        **comparison.to_dict(),
        "runs": runs,
        "best_run": str(_path(comparison, comparison.best_row)),
        "failed": failed,
        "report": str(comparison.report),
    }


def comparison(comparison: Comparison) -> str:
    """The leaderboard by configuration, the verdict, and where report and chosen model are."""
    from headstart import tables_classes
    from headstart.comparison.choice import Metric

    several = any(c["sd"] is not None for c in comparison.configurations)
    repeats = ["sd", "seeds"] if several else []
    header = ["", "group", "configuration", "test accuracy", "95 % interval", *repeats]
    header[5:5] = tables_classes.balance_header(comparison)
    header += [tables_classes.val_header(comparison), "train s", "ms/image"]
    rows = [_configuration_row(c, comparison, several) for c in comparison.configurations]
    failed = [row for row in comparison.rows if row.accuracy is None]
    rows += [["x", NONE, row.run, *[NONE] * (len(header) - 3)] for row in failed]
    best = comparison.best_row
    path = _path(comparison, best)
    width = min(shutil.get_terminal_size().columns, 100)
    top = "best" if comparison.select_by == "loss" else "highest"
    legend = f"* validation's choice   group 1: the {top} and what test cannot tell from it"
    busy = any(c["busy"] for c in comparison.configurations)
    lines = [
        grid(header, rows, "lrl".ljust(len(header), "r")),
        "",
        legend + ("   x failed" if failed else ""),
        "train s: frozen passes and training, with an empty cache"
        + ("   ~ timed on a busy machine" if busy else ""),
        *(f"failed: {row.run}: {row.error}" for row in failed),
        "",
        textwrap.fill(comparison.verdict, width, break_on_hyphens=False, break_long_words=False),
    ]
    if comparison.detectable is not None:
        size = Metric(comparison.select_by).size(comparison.detectable)
        lines.append(f"On these test images a difference of {size} would be shown with 80 % power.")
    if comparison.limits:
        lines.append(comparison.limits["text"])
    lines += [
        *warning_lines(comparison.warnings),
        "",
        f"report      {comparison.report}",
        f"chosen      {path}",
        f"use it      {_command()} predict {path} IMAGE...",
    ]
    if comparison.selection:
        from headstart import tables_selection

        lines[:0] = [tables_selection.selection(comparison.selection), ""]
    return "\n".join(lines)


def _configuration_row(c: Mapping[str, Any], comparison: Comparison, several: bool) -> list[str]:
    from headstart import tables_classes

    sd = NONE if c["sd"] is None else f"{100 * c['sd']:.2f}"
    return [
        "*" if comparison.best in c["runs"] else "",
        str(c["group"]),
        c["name"] + "".join(f" [{mark}]" for mark in c["marks"]),
        percent(c["accuracy"]),
        interval(c["interval"]),
        *tables_classes.balance_cells(comparison, c),
        *([sd, str(len(c["seeds"]))] if several else []),
        tables_classes.val_cell(comparison, c),
        _or_none(c["alone_s"], ".1f"),
        ("~" if c["busy"] else "") + _or_none(c["latency_ms"], ".1f"),
    ]


def explanation(explanation: Explanation) -> str:
    """Runs side by side, each step's change, and what is known to go wrong in them."""
    from headstart import tables_classes

    entries, single = explanation.entries, len(explanation.entries) == 1
    rows = [[key, *values] for key, values in explanation.settings.items()]
    rows += [
        ["test accuracy", *(percent(entry.accuracy) for entry in entries)],
        ["95 % interval", *(interval(entry.interval) for entry in entries)],
        *tables_classes.balanced_rows(explanation),
        ["seconds to train", *(_or_none(entry.seconds, ".1f") for entry in entries)],
        ["parameters trained", *(_or_none(entry.trained_parameters, ",") for entry in entries)],
    ]
    parts = [grid(["", *(entry.run for entry in entries)], rows)]
    if len(made := {(entry.backbone, entry.weights) for entry in entries}) == 1:
        ((backbone, weights),) = made
        parts.insert(0, f"{backbone}, weights: {weights}")
    if explanation.steps:
        ladder = "a ladder: one group of settings changes at a time"
        kind = ladder if explanation.ladder else "each from its nearest"
        head = f"Steps ({kind}; the same {entries[0].n:,} test images, paired):"
        parts.append("\n".join([head, *map(step_line, explanation.steps)]))
    if single:
        parts.append(_departures(explanation))
    elif wrong := _mistake_lines(entries):
        parts.append("\n".join(["Known to cost accuracy:", *wrong]))
    parts += [f"left out: {line}" for line in explanation.skipped]
    return "\n\n".join(parts)


def step_line(step: Step) -> str:
    """ "a -> b: +31.2 points [27.1, 35.2], p < 0.001 (data.normalize unit -> weights)"."""
    low, high = (100 * bound for bound in step.interval)
    said = f"{100 * step.change:+.1f} points [{low:+.1f}, {high:+.1f}]"
    doubt = "" if step.told_from_chance else ", not told from chance"
    if step.beside is None:
        return (
            f"{step.first} -> {step.second}: {said}, {p_text(step.p_value)}{doubt} ({step.cause})"
        )
    beside = step.beside.told
    first = f"{said} of accuracy, {p_text(step.p_value)}"
    parts = [beside + doubt, first] if step.beside.decides else [first + doubt, beside]
    return f"{step.first} -> {step.second}: {'; '.join(parts)} ({step.cause})"


def p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def _mistake_lines(entries: Sequence[Entry]) -> list[str]:
    """One line a mistake, with the runs that make it."""
    made: dict[str, list[str]] = {}
    for entry in entries:
        for finding in entry.findings:
            if finding.mistake:
                line = f"({finding.key} = {finding.has}): {finding.why}"
                made.setdefault(line, []).append(entry.run)
    return [f"{', '.join(runs)} {line}" for line, runs in made.items()]


def _departures(explanation: Explanation) -> str:
    """What one run departs from, and the commands that would put it right one by one."""
    entry, rights = explanation.entries[0], explanation.siblings
    if not entry.findings:
        return "It handles its images as its weights expect, and no known mistake shows in it."
    rows = [[finding.key, finding.has, finding.wants] for finding in entry.findings]
    lines = [grid(["departs from what is known to work", "has", "should be"], rows)]
    lines += [f"{finding.key}: {finding.why}." for finding in entry.findings]
    lines += ["", "Put right one by one, then explained side by side:"]
    lines += [right.command.replace("headstart", _command(), 1) for right in rights]
    paths = [entry.path, *(right.path for right in rights)]
    return "\n".join([*lines, f"{_command()} explain {shlex.join(paths)}"])


def answers(answers: Sequence[Answer]) -> str:
    rows = []
    for answer in answers:
        (_, first), *rest = list(answer.probabilities.items())
        second = f"{rest[0][0]} {percent(rest[0][1])}" if rest else ""
        rows.append([answer.image, answer.label, percent(first), second])
    return grid(["image", "class", "sure", "next"], rows, "llrl")


def answers_as_csv(answers: Sequence[Answer], class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "probability", *class_names])
    for answer in answers:
        own = [f"{answer.probabilities[name]:.6f}" for name in class_names]
        writer.writerow([answer.image, answer.label, f"{answer.probability:.6f}", *own])
    return text.getvalue()


def sources(sources: Sequence[SourceInfo]) -> str:
    rows = [
        [s.name, f"{s.images:,}", str(s.classes), f"{s.side}", str(s.path or "not here yet")]
        for s in sources
    ]
    table = grid(["name", "images", "classes", "pixels", "found"], rows, "lrrrl")
    hints = [
        "folder:PATH is a folder of class folders, or of train/, val/ and test/ with classes.",
        "Fetch one: headstart data fetch cifar10. Look at one: headstart data samples cifar10-mini",
    ]
    return "\n".join([table, "", *hints])


def description(description: Description) -> str:
    d = description
    rows = [
        [name, *(f"{d.counts[split][i]:,}" for split in ("train", "val", "test"))]
        for i, name in enumerate(d.class_names)
    ]
    rows.append(["total", *(f"{sum(d.counts[s]):,}" for s in ("train", "val", "test"))])
    w, h = d.median
    lines = [
        f"{d.source}: {len(d.class_names)} classes, balance {d.balance:.2f} (1 is balanced), "
        f"median image {w} x {h}",
        grid(["class", "train", "val", "test"], rows, "lrrr"),
        f"fingerprint {d.fingerprint}",
    ]
    return "\n".join(lines)


def faults(description: Description) -> list[str]:
    """What is wrong with a data set: its warnings, and each image that was left out."""
    lines = warning_lines(description.warnings)
    return [*lines, *(f"left out: {b.path}: {b.reason}" for b in description.quarantined[1:])]


def leakage(leakage: Leakage) -> str:
    """Duplicates between splits: images of the first that have one in the second."""
    rows = []
    for between, pairs in leakage.pairs.items():
        first, second = between.split("/")
        images, exact = leakage.leaking(between), sum(pair.kind == "exact" for pair in pairs)
        share = percent(images / max(leakage.images[first], 1))
        where = f"{first} in {second}" if first != second else f"within {first}"
        mirrored = sum(pair.mirrored for pair in pairs)
        rows.append((where, f"{images:,}", share, f"{len(pairs):,}", f"{exact:,}", f"{mirrored:,}"))
    lines = [
        grid(("duplicates", "images", "share", "pairs", "exact", "mirrored"), rows, "lrrrrr"),
        f"by {leakage.source}",
    ]
    for between in ("test/train", "test/val"):
        if pairs := leakage.pairs[between]:
            images, other = leakage.leaking(between), between.rpartition("/")[2]
            lines.append(
                f"{images:,} of {leakage.images['test']:,} test images have a duplicate in "
                f"{other}, such as {pairs[0].first} = {pairs[0].second}: "
                "test scores will look better than they are"
            )
    return "\n".join(lines)


def backbones(backbones: Sequence[BackboneInfo]) -> str:
    header = ["backbone", "M params", "G MACs", "at px", "depth", "MB", "ImageNet top-1", "weights"]
    rows = [
        [
            b.name,
            f"{b.parameters / 1e6:.2f}",
            f"{b.macs / 1e9:.2f}",
            str(b.size_px),
            str(b.depth),
            f"{b.file_mb:.0f}",
            NONE if b.imagenet_top1 is None else f"{b.imagenet_top1:.1f} %",
            b.providers,
        ]
        for b in backbones
    ]
    return grid(header, rows, "lrrrrrrl")


def recipes(shipped: Mapping[str, str]) -> str:
    rows = []
    for name, text in shipped.items():
        raw = tomllib.loads(text)
        kind = "study" if "grid" in raw or "variants" in raw else "recipe"
        first = text.partition("\n")[0]
        rows.append([name, kind, first.removeprefix("#").strip() if first[:1] == "#" else ""])
    return grid(["name", "kind", "what it does"], rows)


def cache_entries(entries: Sequence[tuple[Path, int]], root: Path, limit: int) -> str:
    rows = [[path.name, f"{size / 1e6:,.1f}"] for path, size in entries]
    total = sum(size for _, size in entries)
    summary = f"{root}: {total / 1e9:.2f} of {limit / 1e9:.0f} GB in {len(entries)} entries"
    return "\n".join([grid(["entry", "MB"], rows, "lr"), "", summary]) if rows else summary


def _command() -> str:
    """How to call this program from here: its name, or its path where that is not on PATH."""
    called = Path(sys.argv[0])
    if shutil.which("headstart") or called.name != "headstart":
        return "headstart"
    return os.path.relpath(called)


def _path(comparison: Comparison, row: Row) -> Path:
    return Path(os.path.normpath((comparison.path or Path()) / (row.path or "")))


def _or_none(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
