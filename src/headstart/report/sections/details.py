"""One run as the page shows it: training, confusion, classes, pictures, costs, recipe, identity.

Each part is made from the file that holds it and left out where that file is missing, so that a
failed or interrupted run still shows everything it got to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from headstart.comparison.records import Row
from headstart.evaluation.metrics import ClassScores, confusion_matrix
from headstart.report.contenders import manifest_of, metrics_of, optional
from headstart.report.drawing.svg import Figure
from headstart.report.sections import pictures
from headstart.report.sections.calibration import reliability_panel
from headstart.report.sections.confusion import Confusion, describe_confusion
from headstart.report.sections.corruptions import HeatTable, heat_table
from headstart.report.sections.feature_map import FeatureMap, describe_map
from headstart.report.sections.many import ManySection, describe_many, many_metrics_of
from headstart.report.sections.phases import PhaseLine, describe_phases, figures
from headstart.report.sections.pictures import HeatMaps, PairTiles, Tile, WrongAnswers, class_names
from headstart.rundir.history import History
from headstart.rundir.records import Cost, LatencyMs, Manifest, Metrics, Preprocess, TimeProfile
from headstart.rundir.run import Run
from headstart.text import formats
from headstart.text.captions import captions

LABEL = 18  # characters of a class's name beside a matrix


Fact = tuple[str, str, str]  # label, text, the term that defines it


@dataclass(frozen=True, slots=True)
class RunSection:
    """Everything the template needs to draw one run's section, whose id is `id`.

    A part is None, or empty, where its file is missing.
    """

    id: str
    row: Row
    phases: list[PhaseLine]
    figures: list[Figure]
    fitted: bool  # whether there are curves over epochs
    scores: list[Fact]
    classes: list[tuple[str, ClassScores]]  # by name, in class order
    captions: dict[str, str]  # of classes under pictures, by name
    labels: dict[str, str]  # the same beside a matrix
    cut: bool  # whether a label is shorter than its name
    confusion: Confusion
    answers: list[Tile]
    mistakes: list[Tile]
    wrong: WrongAnswers
    uncertain: list[Tile]
    pair_pictures: list[PairTiles]
    saliency: HeatMaps | None
    map: FeatureMap | None
    many: ManySection | None  # None where images have one label
    reliability: Markup | None
    corruptions: HeatTable | None
    further: list[tuple[str, list[tuple[str, str]]]]
    costs: list[Fact]
    recipe: str
    identity: list[tuple[str, str]]  # label, text
    profile: TimeProfile | None
    n: int | None  # test images

    @property
    def tiles(self) -> Iterator[Tile]:
        """All that the section shows."""
        yield from self.answers
        yield from self.mistakes
        yield from self.uncertain
        for pair in self.pair_pictures:
            yield from pair.tiles
        if self.saliency:
            yield from self.saliency.tiles


def describe_run(run: Run, row: Row, anchor: str) -> RunSection:
    """anchor: the section's id."""
    manifest, metrics, cost = manifest_of(run), metrics_of(run), optional(lambda: run.cost)
    known = many_metrics_of(run)
    test = optional(lambda: run.predictions("test")) if metrics else None
    confusion = confusion_matrix(test) if test else np.zeros((0, 0), np.int64)
    classes = len(metrics.test.per_class) if metrics else 0
    names = class_names(run, classes=len(known.test.per_label) if known else classes)
    many = describe_many(run, names)
    history = optional(lambda: run.history) or History(())
    per_class = metrics.test.per_class if metrics else ()
    return RunSection(
        id=anchor,
        row=row,
        phases=describe_phases(history, cost),
        figures=figures(history, many=many is not None),
        fitted=bool(history.epochs),
        scores=_scores(metrics) if metrics else many.scores if many else [],
        classes=list(zip(names, per_class, strict=False)),
        captions=dict(zip(names, captions(names, pictures.CAPTION), strict=True)),
        labels=dict(zip(names, captions(names, LABEL), strict=True)),
        cut=any(len(name) > LABEL for name in names),
        confusion=describe_confusion(confusion, names),
        answers=pictures.answers(run, names),
        mistakes=pictures.mistakes(run, names),
        wrong=pictures.WrongAnswers([], 0) if many else pictures.wrong_answers(run, names),
        uncertain=pictures.uncertain(run, names),
        pair_pictures=pictures.confused_pairs(run, names, confusion),
        saliency=pictures.saliency(run, names),
        map=describe_map(run.feature_map, names),
        reliability=None if many else reliability_panel(run, row.run),
        many=many,
        corruptions=heat_table(metrics.corruptions) if metrics and metrics.corruptions else None,
        further=_further(metrics) if metrics else [],
        costs=_costs(cost) if cost else [],
        recipe=_recipe_text(run),
        identity=_identity(manifest, cost) if manifest else [],
        profile=optional(lambda: run.profile),
        n=metrics.test.n if metrics else many.n if many else None,
    )


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
        *_folds(metrics),
    ]


def _folds(metrics: Metrics) -> list[Fact]:
    """The accuracy over all labelled images, where they were predicted by folds."""
    if (found := metrics.folds) is None:
        return []
    bounds = formats.interval((found.low, found.high))
    shown = f"{formats.percent(found.accuracy)} {bounds}, n = {found.n:,}"
    return [(f"Frozen features, {found.repeats} x {found.folds} folds", shown, "folds")]


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


def _recipe_text(run: Run) -> str:
    path = run.path / "recipe.toml"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


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
