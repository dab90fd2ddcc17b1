"""What accuracy alone would hide: unequal classes, and the two kinds of mistakes of two classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.comparison.choice import TITLES
from headstart.comparison.records import Classes, Comparison
from headstart.evaluation.two_classes import TwoClasses, two_class_curves
from headstart.report.contenders import Contender, recipe_of
from headstart.report.drawing.series import Band, draw, key
from headstart.report.drawing.svg import (
    BOTTOM,
    LEFT,
    SMALL_RIGHT,
    SMALL_VIEW,
    TOP,
    Figure,
    Scale,
    element,
    frame,
    in_percent,
    panel,
)
from headstart.report.sections.thresholds import CutRow, describe_thresholds
from headstart.rundir.run import Run
from headstart.text import formats

MOST = 10  # curves in one plot; every configuration is in the table


@dataclass(frozen=True, slots=True)
class Balance:
    """What goes beside accuracy everywhere. chosen_by: the metric that the comparison goes by, None
    for accuracy."""

    classes: Classes
    chosen_by: str | None


def describe_balance(compared: Comparison, contenders: Sequence[Contender]) -> Balance | None:
    """None where classes are alike and accuracy chooses."""
    if compared.classes is None:
        return None
    name = compared.select_by
    if not compared.judged:
        run = next((run for c in contenders for run in c.runs), None)
        recipe = recipe_of(run) if run else None
        name = recipe.chooses_by if recipe else name
    if not compared.classes.unequal and name == "accuracy":
        return None
    return Balance(compared.classes, None if name == "accuracy" else TITLES[name])


@dataclass(frozen=True, slots=True)
class TwoClassRow:
    """A configuration's means over `runs` runs. key: of its curves. first: of its first run, whose
    intervals are shown where it has no other."""

    name: str
    key: Markup
    sensitivity: float
    specificity: float
    roc_area: float
    pr_area: float
    runs: int
    first: TwoClasses


@dataclass(frozen=True, slots=True)
class TwoClassSection:
    """positive, other: the names of the classes. prevalence: the share of the positive one.
    cuts: thresholds of the first configuration's first run, `cuts_of`."""

    positive: str
    other: str
    prevalence: float
    rows: list[TwoClassRow]
    figures: list[Figure]
    cuts: list[CutRow]
    cuts_of: str


def describe_two_classes(contenders: Sequence[Contender]) -> TwoClassSection | None:
    """ROC and precision-recall curves of each configuration's first run, and all numbers in a
    table; None where there are not two classes."""
    known = [(c, two) for c in contenders if (two := c.first(lambda m: m.test.two_classes))]
    if not known:
        return None
    names = known[0][0].runs[0].class_names
    positive = known[0][1].positive
    rows = [_row(c, style, two) for style, (c, two) in enumerate(known)]
    curves = [_curves(c, style, positive) for style, (c, _) in enumerate(known[:MOST])]
    prevalence = known[0][1].prevalence
    tradeoff = _precision_recall([pr for _, pr in curves], prevalence)
    return TwoClassSection(
        positive=names[positive],
        other=names[1 - positive],
        prevalence=prevalence,
        rows=rows,
        figures=[
            Figure("ROC", _roc([roc for roc, _ in curves]), "roc"),
            Figure("Precision and recall", tradeoff, "pr"),
        ],
        cuts=describe_thresholds(known[0][0].runs[0], positive),
        cuts_of=known[0][0].name,
    )


def _row(contender: Contender, style: int, first: TwoClasses) -> TwoClassRow:
    known = [two for metrics in contender.metrics if (two := metrics.test.two_classes)]

    def mean(value: Callable[[TwoClasses], float]) -> float:
        return sum(value(two) for two in known) / len(known)

    return TwoClassRow(
        name=contender.name,
        key=key(style),
        sensitivity=mean(lambda two: two.sensitivity.value),
        specificity=mean(lambda two: two.specificity.value),
        roc_area=mean(lambda two: two.roc_area),
        pr_area=mean(lambda two: two.pr_area),
        runs=len(known),
        first=first,
    )


def _curves(contender: Contender, style: int, positive: int) -> tuple[Band, Band]:
    run: Run = contender.runs[0]
    curves = two_class_curves(run.predictions("test"), positive)
    made = []
    for name in ("roc", "pr"):
        points = [(100 * x, 100 * y) for x, y in curves[name]]
        made.append(Band(contender.name, style, points, ()))
    return made[0], made[1]


def _roc(bands: Sequence[Band]) -> Markup:
    x, y = Scale(0, 100, LEFT, SMALL_RIGHT), Scale(0, 100, BOTTOM, TOP)
    marks = frame(x, y, x_label="100 % minus specificity", y_format=in_percent,
                  x_format=in_percent, x_ticks=[0, 50, 100], right=SMALL_RIGHT)  # fmt: skip
    marks.append(element("line", class_="diagonal", x1=x(0), y1=y(0), x2=x(100), y2=y(100)))
    return _drawn(marks, bands, x, y, "Sensitivity against 100 % minus specificity")


def _precision_recall(bands: Sequence[Band], prevalence: float) -> Markup:
    x, y = Scale(0, 100, LEFT, SMALL_RIGHT), Scale(0, 100, BOTTOM, TOP)
    marks = frame(x, y, x_label="recall (sensitivity)", y_format=in_percent,
                  x_format=in_percent, x_ticks=[0, 50, 100], right=SMALL_RIGHT)  # fmt: skip
    level = y(100 * prevalence)
    marks.append(element("line", class_="diagonal", x1=x(0), y1=level, x2=x(100), y2=level))
    return _drawn(marks, bands, x, y, "Precision against recall")


def _drawn(marks: list[Markup], bands: Sequence[Band], x: Scale, y: Scale, label: str) -> Markup:
    """Lines with a single marker each: hundreds of points would hide the curve."""
    for band in reversed(bands):
        line = Band(band.name, band.style, band.points, ())
        middle = line.points[len(line.points) // 2]
        marks += [mark for mark in draw(line, x, y) if "polyline" in mark]
        marks += draw(Band(band.name, band.style, [middle], [band.name]), x, y)
    names = formats.join_words([band.name for band in bands])
    return panel(marks, f"{label}: {names}", SMALL_VIEW)
