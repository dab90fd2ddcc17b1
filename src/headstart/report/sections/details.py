"""One run as the page shows it: training, confusion, classes, pictures, costs, recipe, identity.

Each part is made from the file that holds it and left out where that file is missing, so that a
failed or interrupted run still shows everything it got to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.comparison.records import Row
from headstart.evaluation.metrics import ClassScores
from headstart.report.contenders import manifest_of, metrics_of, optional
from headstart.report.sections import pictures
from headstart.report.sections.calibration import reliability_panel
from headstart.report.sections.confusion import describe_confusion
from headstart.report.sections.corruptions import heat_table
from headstart.report.sections.feature_map import describe_map
from headstart.report.sections.phases import describe_phases, figures
from headstart.report.sections.pictures import class_names
from headstart.rundir.history import History
from headstart.rundir.records import Cost, LatencyMs, Manifest, Metrics, Preprocess
from headstart.rundir.run import Run
from headstart.text import formats
from headstart.text.captions import captions

LABEL = 18  # characters of a class's name beside a matrix


def describe_run(run: Run, row: Row) -> dict[str, Any]:
    """Everything the template needs to draw one run's section."""
    manifest, metrics, cost = manifest_of(run), metrics_of(run), optional(lambda: run.cost)
    confusion = np.asarray(metrics.test.confusion if metrics else [], dtype=np.int64)
    names = class_names(run, classes=len(confusion))
    history = optional(lambda: run.history) or History(())
    return {
        "phases": describe_phases(history, cost),
        "figures": figures(history),
        "fitted": bool(history.epochs),
        "scores": _scores(metrics) if metrics else [],
        "classes": _class_rows(metrics.test.per_class, names) if metrics else [],
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
        "reliability": reliability_panel(run, row.run),
        "corruptions": heat_table(metrics.corruptions) if metrics and metrics.corruptions else None,
        "further": _further(metrics) if metrics else [],
        "costs": _costs(cost) if cost else [],
        "recipe": _recipe_text(run),
        "identity": _identity(manifest, cost) if manifest else [],
        "profile": optional(lambda: run.profile),
        "n": metrics.test.n if metrics else None,
        "row": row,
    }


Fact = tuple[str, str, str]  # label, text, the term that defines it


def _scores(metrics: Metrics) -> list[Fact]:
    """The run's averages over test, and its temperature with the reason where none was fitted."""
    test, served, note = metrics.test, metrics.test.calibrated, metrics.temperature_note
    balanced = f"{formats.percent(test.macro_recall)} {formats.interval(test.balanced_interval)}"
    temperature = f"1: {note}" if note else formats.decimal(metrics.temperature)
    return [
        ("Macro F1", formats.decimal(test.macro_f1), "f1"),
        ("Macro precision", formats.decimal(test.macro_precision), "f1"),
        ("Balanced accuracy", balanced, "balanced"),
        ("Always one class", formats.percent(test.majority), "majority"),
        ("Log loss, as served", formats.decimal(served.loss), "loss"),
        ("Brier score, as served", formats.decimal(served.brier), "brier"),
        ("Calibration error, as served", formats.percent(served.ece), "ece"),
        ("Temperature", temperature, "temperature"),
    ]


def _further(metrics: Metrics) -> list[tuple[str, list[tuple[str, str]]]]:
    """Assessments without a section of their own: their names, and what each found, as text."""
    return [
        (name, [(key, str(value)) for key, value in result.items()])
        if isinstance(result, dict)
        else (name, [("result", str(result))])
        for name, result in metrics.further.items()
    ]


def _costs(cost: Cost) -> list[Fact]:
    """What the run and its model cost, those parts that were measured."""
    latency, speed = cost.latency_ms, cost.throughput
    batches = f"{formats.count(speed.images_per_s)} images/s" if speed else None
    shown: tuple[tuple[str, str | None, str], ...] = (
        ("Whole run", formats.duration(cost.wall_s), "training"),
        ("Frozen passes", formats.duration(cost.extract_s), "training"),
        (
            "Frozen passes found in the cache",
            formats.duration(cost.spared_s) if cost.spared_s else None,
            "training",
        ),
        ("Training", formats.duration(cost.train_s), "training"),
        (
            "Frozen passes, images/s",
            formats.count(cost.images_per_s) if cost.images_per_s is not None else None,
            "rate",
        ),
        ("Latency, median / 95th", _latency(latency) if latency else None, "latency"),
        ("Too busy to time it", cost.busy, "latency"),
        (f"Throughput at batch {speed.batch if speed else 0}", batches, "throughput"),
        ("MACs", formats.metric(cost.macs), "macs"),
        ("Parameters", formats.metric(cost.parameters), "parameters"),
        ("Model file", formats.megabytes(cost.file_mb), "size"),
        ("Memory of the run", formats.megabytes(cost.peak_rss_mb), "memory"),
        (
            "Memory in serving",
            formats.megabytes(cost.serving_rss_mb) if cost.serving_rss_mb is not None else None,
            "serving",
        ),
    )
    return [(label, text, term) for label, text, term in shown if text is not None]


def _latency(latency: LatencyMs) -> str:
    known = latency.low is not None
    spread = f" [{latency.low:.1f}, {latency.high:.1f}]" if known else ""
    return f"{latency.median:.1f}{spread} / {latency.p95:.1f}\u202fms"


def _class_rows(per_class: Sequence[ClassScores], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "precision": row.precision, "recall": row.recall, "f1": row.f1, "n": row.n}
        for name, row in zip(names, per_class, strict=False)
    ]


def _recipe_text(run: Run) -> str:
    path = run.path / "recipe.toml"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _identity(manifest: Manifest, cost: Cost | None) -> list[tuple[str, str]]:
    """What it takes to tell this run from any other, and to do it again."""
    shown: dict[str, object] = {"Run fingerprint": manifest.fingerprint}
    if made := manifest.provenance:
        weights, versions = made.weights, made.versions
        named = (weights.provider, weights.name, weights.tag)
        shown |= {
            "Weights": " / ".join(part for part in named if part),
            "Weights SHA-256": weights.sha256,
            "Weights licence": weights.licence,
            "Weights source": weights.source,
            "Data": made.data.source,
            "Data fingerprint": made.data.fingerprint,
            "Preprocessing": _preprocessing(made.preprocess),
            "Threads": cost.threads if cost else None,
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "Commit": made.commit,
        }
    shown["Created"] = manifest.created
    return [(label, str(value)) for label, value in shown.items() if value not in (None, "")]


def _preprocessing(pre: Preprocess) -> str:
    parts = [f"{pre.size} pixels", pre.interpolation]
    for name, values in (("mean", pre.mean), ("std", pre.std)):
        parts.append(f"{name} {', '.join(f'{v:.4g}' for v in values)}")
    return "; ".join(parts)
