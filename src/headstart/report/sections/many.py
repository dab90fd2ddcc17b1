"""One run whose images may have several labels: its scores, each label, and mistaken pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.evaluation.many_scores import LabelScores, ManyScores
from headstart.report.contenders import optional, recipe_of
from headstart.rundir.records import ManyMetrics
from headstart.rundir.run import Run
from headstart.text import formats


@dataclass(frozen=True, slots=True)
class MistakenPair:
    """Of `of` images with the label `missing` and without `instead`, `count` are said to have the
    second and not the first."""

    missing: str
    instead: str
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class ManySection:
    """n: test images. scores: label, text, and the term that defines it."""

    n: int
    scores: list[tuple[str, str, str]]
    labels: list[tuple[str, LabelScores]]  # by name, in class order
    mistaken: list[MistakenPair]


def many_metrics_of(run: Run) -> ManyMetrics | None:
    """The scores of a run whose images may have several labels; None of another, and of one that
    has none yet."""
    recipe = recipe_of(run)
    return optional(lambda: run.many_metrics) if recipe and recipe.many_labels else None


def describe_many(run: Run, names: Sequence[str]) -> ManySection | None:
    """None of a run whose images have one label, or that has no scores."""
    if (metrics := many_metrics_of(run)) is None:
        return None
    test = metrics.test
    return ManySection(
        n=test.n,
        scores=_scores(test, metrics),
        labels=list(zip(names, test.per_label, strict=False)),
        mistaken=[
            MistakenPair(names[pair.missing], names[pair.instead], pair.images, pair.of)
            for pair in test.mistaken
        ],
    )


def _scores(test: ManyScores, metrics: ManyMetrics) -> list[tuple[str, str, str]]:
    def with_bounds(value: float, bounds: tuple[float, float]) -> str:
        return f"{formats.percent(value)} {formats.interval(bounds)}"

    note = metrics.temperature_note
    temperature = f"1: {note}" if note else formats.decimal(metrics.temperature)
    there, given = test.labels_an_image, test.given_an_image
    return [
        ("mAP", with_bounds(test.mean_ap, test.interval), "mean_ap"),
        ("Micro F1", with_bounds(test.micro_f1, test.micro_interval), "micro_f1"),
        ("Macro F1", formats.decimal(test.macro_f1), "f1"),
        ("Macro precision", formats.decimal(test.macro_precision), "f1"),
        ("Macro recall", formats.decimal(test.macro_recall), "f1"),
        ("All labels right", with_bounds(test.all_right, test.all_right_interval), "all_right"),
        ("Labels an image", f"{there:.2f}, answered {given:.2f}", "threshold"),
        ("Log loss, as served", formats.decimal(test.loss), "many_loss"),
        ("Brier score, as served", formats.decimal(test.brier), "many_loss"),
        ("Calibration error, as served", formats.percent(test.ece), "many_loss"),
        ("Temperature", temperature, "temperature"),
    ]
