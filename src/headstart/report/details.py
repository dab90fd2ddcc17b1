"""One run as the page shows it: training, confusion, classes, pictures, costs, recipe, identity.

Each part is made from the file that holds it and left out where that file is missing, so that a
failed or interrupted run still shows everything it got to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headstart.captions import captions
from headstart.report import formats, pictures
from headstart.report.calibration import reliability_panel
from headstart.report.confusion import describe_confusion
from headstart.report.contenders import manifest_of, optional
from headstart.report.featuremap import describe_map
from headstart.report.phases import describe_phases, figures
from headstart.report.pictures import class_names
from headstart.report.robustness import heat_table
from headstart.rundir import Run

LABEL = 18  # characters of a class's name beside a matrix


def describe_run(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template needs to draw one run's section."""
    manifest = manifest_of(run)
    metrics = optional(lambda: run.metrics, {})
    scores = metrics.get("test") or {}
    confusion = np.asarray(scores.get("confusion", []), dtype=np.int64)
    names = class_names(run, classes=len(confusion))
    log = run.kept_log
    return {
        "phases": describe_phases(run),
        "figures": figures(log),
        "fitted": any(event["event"] == "epoch" for event in log),
        "scores": _scores(scores, metrics),
        "classes": _class_rows(scores.get("per_class", []), names),
        "captions": dict(zip(names, captions(names, pictures.CAPTION), strict=True)),
        "labels": dict(zip(names, captions(names, LABEL), strict=True)),
        "cut": any(len(name) > LABEL for name in names),
        **describe_confusion(confusion, names),
        "answers": pictures.answers(run, names),
        "mistakes": pictures.mistakes(run, names),
        "wrong": pictures.wrong_answers(run, names),
        "uncertain": pictures.uncertain(run, names),
        "pair_pictures": pictures.confused_pairs(run, names, confusion),
        "saliency": pictures.saliency(run, names),
        "map": describe_map(run.feature_map, names),
        "reliability": reliability_panel(run, str(row["run"])),
        "robustness": heat_table(metrics.get("robustness") or {}),
        "costs": _costs(optional(lambda: run.cost, {})),
        "recipe": _recipe_text(run),
        "identity": _identity(manifest, run),
        "profile": optional(lambda: run.profile, {}),
        "n": scores.get("n"),
        "row": row,
    }


Fact = tuple[str, str, str]  # label, text, the term that defines it


def _scores(scores: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Fact]:
    """The run's averages over test, those that it has, and its temperature."""
    served = scores.get("calibrated") or scores.get("calibration") or {}
    shown = (
        ("Macro F1", scores.get("macro_f1"), formats.decimal, "f1"),
        ("Macro precision", scores.get("macro_precision"), formats.decimal, "f1"),
        ("Balanced accuracy", scores.get("macro_recall"), _balanced(scores), "balanced"),
        ("Always one class", scores.get("majority"), formats.percent, "majority"),
        ("Log loss, as served", served.get("loss"), formats.decimal, "loss"),
        ("Brier score, as served", served.get("brier"), formats.decimal, "brier"),
        ("Calibration error, as served", served.get("ece"), formats.percent, "ece"),
        ("Temperature", metrics.get("temperature"), _temperature(metrics), "temperature"),
    )
    return [(label, text(value), term) for label, value, text, term in shown if value is not None]


def _temperature(metrics: Mapping[str, Any]) -> Callable[[float | None], str]:
    """With the reason where none was fitted."""
    note = metrics.get("temperature_note")
    return lambda value: f"1: {note}" if note else formats.decimal(value)


def _balanced(scores: Mapping[str, Any]) -> Callable[[float | None], str]:
    """With its interval where the run has one."""
    bounds = formats.interval(scores.get("balanced_interval"))
    return lambda value: f"{formats.percent(value)} {bounds}".strip()


def _costs(cost: Mapping[str, Any]) -> list[Fact]:
    """What the run and its model cost, those parts that were measured."""
    latency, speed = cost.get("latency_ms") or {}, cost.get("throughput") or {}
    busy = (cost.get("measured") or {}).get("busy")
    facts: list[tuple[str, float | None, str, str]] = [
        ("Whole run", cost.get("wall_s"), formats.duration(cost.get("wall_s")), "training"),
        (
            "Frozen passes",
            cost.get("extract_s"),
            formats.duration(cost.get("extract_s")),
            "training",
        ),
        (
            "Frozen passes found in the cache",
            spared := cost.get("spared_s") or None,
            formats.duration(spared),
            "training",
        ),
        ("Training", cost.get("train_s"), formats.duration(cost.get("train_s")), "training"),
        ("Frozen passes, images/s", rate := cost.get("images_per_s"), formats.count(rate), "rate"),
        ("Latency, median / 95th", latency.get("median"), _latency(latency), "latency"),
        ("Too busy to time it", 1.0 if busy else None, str(busy), "latency"),
        (
            f"Throughput at batch {speed.get('batch')}",
            speed.get("images_per_s"),
            f"{formats.count(speed.get('images_per_s'))} images/s",
            "throughput",
        ),
        ("MACs", cost.get("macs"), formats.metric(cost.get("macs")), "macs"),
        (
            "Parameters",
            cost.get("parameters"),
            formats.metric(cost.get("parameters")),
            "parameters",
        ),
        (
            "Model file",
            size := cost.get("file_mb", cost.get("size_mb")),
            formats.megabytes(size),
            "size",
        ),
        ("Memory of the run", run := cost.get("peak_rss_mb"), formats.megabytes(run), "memory"),
        ("Memory in serving", use := cost.get("serving_rss_mb"), formats.megabytes(use), "serving"),
    ]
    return [(label, text, term) for label, value, text, term in facts if value is not None]


def _latency(latency: Mapping[str, Any]) -> str:
    if latency.get("median") is None:
        return formats.MISSING
    tail = f" / {latency['p95']:.1f}" if latency.get("p95") is not None else ""
    known = latency.get("low") is not None
    spread = f" [{latency['low']:.1f}, {latency['high']:.1f}]" if known else ""
    return f"{latency['median']:.1f}{spread}{tail}\u202fms"


def _class_rows(per_class: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Any]:
    return [{"name": name, **row} for name, row in zip(names, per_class, strict=False)]


def _recipe_text(run: Run) -> str:
    path = run.path / "recipe.toml"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _identity(manifest: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """What it takes to tell this run from any other, and to do it again."""
    weights = manifest.get("weights") or {}
    data = manifest.get("data") or {}
    pre = manifest.get("preprocess") or {}
    cost = optional(lambda: run.cost, {})
    versions = manifest.get("versions") or {}
    named = [weights.get(key) for key in ("provider", "name", "tag")]
    shown = {
        "Run fingerprint": manifest.get("fingerprint"),
        "Weights": " / ".join(str(part) for part in named if part),
        "Weights SHA-256": weights.get("sha256"),
        "Weights licence": weights.get("licence"),
        "Weights source": weights.get("source"),
        "Data": data.get("source"),
        "Data fingerprint": data.get("fingerprint"),
        "Preprocessing": _preprocessing(pre),
        "Threads": cost.get("threads"),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": manifest.get("commit"),
        "Created": manifest.get("created"),
    }
    return [(label, str(value)) for label, value in shown.items() if value not in (None, "")]


def _preprocessing(pre: Mapping[str, Any]) -> str:
    parts = [f"{pre['size']} pixels"] if "size" in pre else []
    parts += [str(pre["interpolation"])] if pre.get("interpolation") else []
    for key in ("mean", "std"):
        if key in pre:
            values = pre[key] if isinstance(pre[key], Sequence) else [pre[key]]
            parts.append(f"{key} {', '.join(f'{v:.4g}' for v in values)}")
    return "; ".join(parts)
