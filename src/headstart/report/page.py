"""The report: one self-contained HTML page, made from run directories alone."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from headstart.recipe import Recipe
from headstart.report import formats, plots
from headstart.report.changes import describe_changes
from headstart.report.details import (
    class_names,
    describe_run,
    manifest_of,
    optional,
    samples,
    share_pictures,
)
from headstart.rundir import Run, write_atomically

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A numeric column of the leaderboard: what to sort by, what to print, where it is defined."""

    label: str
    term: str  # id of its entry in the glossary
    value: Callable[[Row], float | None]
    text: Callable[[float | None], str]
    rising: bool = False  # whether less is better, so that the first click sorts upwards


_NO_RESULT: Row = dict.fromkeys(
    (
        "status",
        "error",
        "backbone",
        "weights",
        "accuracy",
        "interval",
        "n",
        "p_value",
        "within_noise",
    )
)


def _cost(key: str) -> Callable[[Row], float | None]:
    return lambda row: (row.get("cost") or {}).get(key)


def training_seconds(row: Row) -> float | None:
    """Seconds of computing features and training; without those, of the whole run."""
    cost = row.get("cost") or {}
    spent = [cost[key] for key in ("extract_s", "train_s") if cost.get(key) is not None]
    return sum(spent) if spent else cost.get("wall_s")


def latency_ms(row: Row) -> float | None:
    return ((row.get("cost") or {}).get("latency_ms") or {}).get("median")


COLUMNS = (
    Column("Top-5", "top5", lambda row: row.get("top5"), formats.percent),
    Column("Log loss", "loss", lambda row: row.get("loss"), formats.decimal, rising=True),
    Column("Val acc.", "val", lambda row: row.get("val_accuracy"), formats.percent),
    Column("Training", "training", training_seconds, formats.duration, rising=True),
    Column("Images/s", "rate", _cost("images_per_s"), formats.count),
    Column("Latency, ms", "latency", latency_ms, formats.decimal, rising=True),
    Column("Param.", "parameters", _cost("parameters"), formats.metric, rising=True),
    Column("MACs", "macs", _cost("macs"), formats.metric, rising=True),
    Column("Size", "size", _cost("size_mb"), formats.megabytes, rising=True),
    Column("Memory", "memory", _cost("peak_rss_mb"), formats.megabytes, rising=True),
)


def write_report(
    runs: Sequence[Run],
    out: Path,
    comparison: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> Path:
    """Write the report of some runs and return its path: `out`, or out/report.html for a folder.

    The page needs no network and no other file. Equal runs give equal bytes. Runs that failed or
    did not finish are shown with what they left. Without a comparison the rows come from the runs
    themselves, and "within noise" means that two intervals overlap.
    """
    path = out if out.suffix in (".html", ".htm") else out / "report.html"
    write_atomically(path, render(runs, comparison, title))
    return path


def render(
    runs: Sequence[Run], comparison: Mapping[str, Any] | None = None, title: str | None = None
) -> str:
    """The page as text."""
    compared = comparison if comparison is not None else compare_rows(runs)
    rows = [{**_NO_RESULT, **row} for row in compared["rows"]]
    finished = [row for row in rows if row.get("accuracy") is not None]
    named = [row for row in finished if row["run"] == compared.get("best")]
    best = next(iter(named or finished), None)
    matched = _match(rows, runs)
    sections = [{**describe_run(run, row), "id": f"run-{k}"} for k, row, run in matched]
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    name = compared.get("name") or (rows[0]["run"] if len(rows) == 1 else "")
    context = {
        "title": title or (f"{name}: results" if name else "Which backbone wins?"),
        "facts": _facts(runs),
        "protocol": dict(compared.get("protocol") or {}),
        "quarantined": _quarantined(runs),
        "mixed": len(_distinct(runs, "data", "fingerprint")) > 1,
        "answer": answer(finished, best),
        "board": _leaderboard(rows, finished, best),
        "linked": {number for number, _, _ in matched},
        "columns": COLUMNS,
        "tested": any(row.get("p_value") is not None for row in rows),
        "panels": cost_panels(finished, best),
        "changes": describe_changes([run for run in runs if (run.path / "metrics.json").exists()]),
        "samples": next((found for run in runs if (found := samples(run))), []),
        "sections": sections,
        "pictures": share_pictures(sections),
        "versions": sorted(_distinct(runs, "versions", "headstart")),
        "style": Markup(style),
        "script": Markup(script),
        "script_digest": digest,
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_asset),
    )  # fmt: skip
    environment.filters.update(
        percent=formats.percent, interval=formats.interval, decimal=formats.decimal,
        count=formats.count, duration=formats.duration, p_value=formats.p_value,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(context)


def compare_rows(runs: Sequence[Run]) -> dict[str, Any]:
    """A comparison made from the runs alone: the most accurate on test first, without p-values."""
    rows = [_row(run) for run in runs]
    rows.sort(key=lambda row: math.inf if row["accuracy"] is None else -row["accuracy"])
    if not rows or rows[0]["accuracy"] is None:
        return {"name": None, "best": None, "rows": rows, "protocol": {}}
    best = rows[0]
    for row in rows[1:]:
        if row["accuracy"] is not None:
            row["within_noise"] = row["interval"][1] >= best["interval"][0]
    return {"name": None, "best": best["run"], "rows": rows, "protocol": {}}


def _row(run: Run) -> dict[str, Any]:
    manifest = manifest_of(run)
    metrics = optional(lambda: run.metrics, {})
    test = metrics.get("test") or {}
    recipe = _recipe(run)
    cost = optional(lambda: run.cost, {})
    status = manifest.get("status", "unknown")
    if status == "running" and cost:
        status = "finished"  # a run writes its report just before it says so of itself
    return {
        "run": recipe.name if recipe else run.path.name,
        "path": run.path.name,
        "status": status,
        "error": manifest.get("error"),
        "backbone": recipe.backbone.name if recipe else "",
        "weights": (manifest.get("weights") or {}).get("provider", ""),
        **{key: test.get(key) for key in ("accuracy", "interval", "n", "top5", "loss")},
        "val_accuracy": (metrics.get("val") or {}).get("accuracy"),
        "p_value": None,
        "within_noise": False,
        "marks": list(manifest.get("marks", [])),
        "cost": cost,
    }


def _recipe(run: Run) -> Recipe | None:
    recipe: Recipe | None = optional(lambda: run.recipe, None)
    return recipe


def _match(rows: Sequence[Row], runs: Sequence[Run]) -> list[tuple[int, Row, Run]]:
    """Each row's number and run. Two runs of one name are told apart by their folder."""
    left = list(runs)
    matched = []
    for number, row in enumerate(rows, start=1):
        # Where runs share a name, their rows carry the fingerprint behind it.
        named = [run for run in left if str(row["run"]).startswith(_name(run))]
        folder = Path(row.get("path") or "").name
        exact = [run for run in named if run.path.name == folder]
        same = [run for run in named if _name(run) == row["run"]]
        for run in (exact or same)[:1]:
            left.remove(run)
            matched.append((number, row, run))
    return matched


def _name(run: Run) -> str:
    return str(optional(lambda: run.name, run.path.name))


def answer(finished: Sequence[Row], best: Row | None) -> dict[str, Any] | None:
    """What the page's first sentences say, or None where nothing finished."""
    if best is None:
        return None
    others = [row for row in finished if row is not best]
    near = [row for row in others if row.get("within_noise")]
    higher = [row["run"] for row in others if row["accuracy"] > best["accuracy"]]
    timed = [row for row in (best, *near) if latency_ms(row)]
    quickest = min(timed, key=lambda row: latency_ms(row) or 0.0) if timed else best
    quicker = None
    if quickest is not best and latency_ms(best) is not None:
        quicker = {
            "run": quickest["run"],
            "latency": formats.decimal(latency_ms(quickest), 1),
            "best_latency": formats.decimal(latency_ms(best), 1),
        }
    return {
        "best": best,
        "alone": not others,
        "near": [row["run"] for row in near],
        "clear": len(others) - len(near),
        "higher": formats.join_words(higher),
        "quicker": quicker,
    }


def cost_panels(finished: Sequence[Row], best: Row | None) -> list[dict[str, Any]]:
    """Accuracy against latency, parameters and training time, where two runs or more know them."""
    spent = [s for row in finished if (s := training_seconds(row))]
    unit, per = ("min", 60) if spent and max(spent) >= 600 else ("s", 1)
    costs: tuple[tuple[str, str, Callable[[Row], float | None], float], ...] = (
        ("Latency", "CPU latency of one image, ms", latency_ms, 1),
        ("Parameters", "parameters, millions", _cost("parameters"), 1e6),
        ("Training time", f"training time, {unit}", training_seconds, per),
    )
    panels = []
    for name, x_label, value, scale in costs:
        points = [
            plots.Point(
                label=row["run"],
                x=cost / scale,
                y=100 * row["accuracy"],
                low=100 * row["interval"][0],
                high=100 * row["interval"][1],
                kind="best" if row is best else "near" if row.get("within_noise") else "other",
                tip=f"{row['run']}: {formats.percent(row['accuracy'])} "
                f"{formats.interval(row['interval'])}, {x_label}: {cost / scale:.4g}",
            )
            for row in finished
            if (cost := value(row)) and cost > 0
        ]
        if len(points) > 1:
            panels.append({"title": name, "svg": plots.cost_panel(points, x_label=x_label)})
    return panels


def _leaderboard(
    rows: Sequence[Row], finished: Sequence[Row], best: Row | None
) -> list[dict[str, Any]]:
    bounds = [edge for row in finished for edge in row["interval"]]
    extent = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    if extent[0] == extent[1]:
        extent = (extent[0] - 0.01, extent[1] + 0.01)
    board = []
    for number, row in enumerate(rows, start=1):
        shown: dict[str, Any] = {
            "row": row,
            "id": f"run-{number}",
            "best": row is best,
            "done": row.get("accuracy") is not None,
        }
        if shown["done"]:
            reference = best["accuracy"] if best is not None else None
            shown["bar"] = plots.whisker(row["accuracy"], row["interval"], extent, reference)
            shown["cells"] = [_cell(column, row) for column in COLUMNS]
        board.append(shown)
    return board


def _cell(column: Column, row: Row) -> dict[str, Any]:
    value = column.value(row)
    text = column.text(value)
    if column.term == "latency" and value is not None:
        p95 = row["cost"]["latency_ms"].get("p95")
        text = f"{value:.1f} / {p95:.1f}" if p95 is not None else f"{value:.1f}"
    known = value is not None and math.isfinite(value)
    return {"sort": value if known else "", "text": text}


def _facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The header's facts; where runs differ, every value they have."""
    images, machines = [], []
    for run in runs:
        manifest = manifest_of(run)
        counts = (manifest.get("data") or {}).get("counts") or {}
        images.append(" / ".join(f"{n:,} {split}" for split, n in counts.items()))
        machine = manifest.get("machine") or {}
        cores = f"{machine['cores']} cores" if machine.get("cores") else ""
        parts = (machine.get("cpu"), cores, machine.get("device"))
        machines.append(", ".join(str(part) for part in parts if part))
    classes = sorted({len(names) for run in runs if (names := class_names(run))})
    seeds = sorted({recipe.seed for recipe in map(_recipe, runs) if recipe})
    dates = sorted({str(date)[:10] for date in _distinct(runs, "created")})
    facts = [
        ("Data", sorted(_distinct(runs, "data", "source"))),
        ("Classes", [f"{n:,}" for n in classes]),
        ("Images", _unique(images)),
        ("Seeds", [", ".join(str(seed) for seed in seeds)] if seeds else []),
        ("Machine", _unique(machines)),
        ("Date", [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else []),
    ]
    return [(label, values) for label, values in facts if values]


def _quarantined(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Images that were left out, each once."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        data = manifest_of(run).get("data") or {}
        found.update({str(bad["path"]): bad for bad in data.get("quarantined") or []})
    return [found[path] for path in sorted(found)]


def _distinct(runs: Sequence[Run], *keys: str) -> set[Any]:
    """The values that the manifests hold under a path of keys."""
    values = set()
    for run in runs:
        node: Any = manifest_of(run)
        for key in keys:
            node = (node or {}).get(key)
        if node is not None:
            values.add(node)
    return values


def _unique(texts: Sequence[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def _asset(name: str) -> str:
    return resources.files("headstart.report").joinpath(name).read_text(encoding="utf-8")
